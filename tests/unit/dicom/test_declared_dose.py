"""The dose of a header reaches the denoiser, and what contradicts the noise the recorded decision."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from config.settings import DerivationSettings, RouteSettings
from dicom_node.enhancement import ImageEnhancer, LoadedModel, Times, declared_dose
from dicom_node.instance_store import InstanceStore
from dicom_node.ledger.arrivals import EnhancementDecision
from model.denoiser import Denoiser
from model.exposure import DeclaredDose
from tests.support.enhancing import stored_instance
from tests.support.radiographs import radiograph


def test_every_dose_attribute_is_read() -> None:
    ds = Dataset()
    ds.ExposureIndex, ds.TargetExposureIndex, ds.DeviationIndex = "75", "300", "-6.0"
    ds.Exposure, ds.ExposureInuAs, ds.KVP, ds.CTDIvol = "4", "3600", "81.0", 2.5
    ds.ImagerPixelSpacing = ["0.15", "0.2"]
    found = declared_dose(ds)
    assert found == DeclaredDose(
        exposure_index=75.0,
        target_exposure_index=300.0,
        deviation_index=-6.0,
        exposure_mas=4.0,
        exposure_uas=3600.0,
        kvp=81.0,
        ctdi_vol_mgy=2.5,
        pixel_mm2=pytest.approx(0.03),
    )


def test_attributes_that_are_missing_or_empty_say_nothing() -> None:
    ds = Dataset()
    ds.KVP, ds.ExposureIndex = None, ""
    ds.ImagerPixelSpacing = ["0", "0.2"]
    assert declared_dose(ds) == DeclaredDose()


def test_a_dose_that_the_noise_contradicts_is_in_the_recorded_decision(tmp_path: Path) -> None:
    ds = radiograph(0, size=256)
    ds.ExposureIndex, ds.ImagerPixelSpacing = "40000", ["0.15", "0.15"]
    store = InstanceStore(tmp_path)
    saved = store.save(ds)
    instance = stored_instance(ds, saved)
    enhancer = ImageEnhancer(
        store=store,
        model=LoadedModel(denoiser=Denoiser.load("lite", device="cpu")),
        derivation=DerivationSettings(),
        node_name="node",
    )
    record, derived = enhancer.enhance(
        instance, RouteSettings(name="all", destinations=("pacs",), sop_classes=(ds.SOPClassUID,)), Times(series_at=0.0)
    )
    assert record.decision is EnhancementDecision.ENHANCED
    assert derived is not None
    assert "declared dose and noise disagree: more noise than declared" in (record.reason or "")
