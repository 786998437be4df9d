"""An image enhancer with a stand-in for the denoiser, and the stored instance that it is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from config.settings import DerivationSettings, RouteSettings
from dicom_node.enhancement import ImageEnhancer, LoadedModel, Times
from dicom_node.instance_store import InstanceStore, StoredObject
from dicom_node.ledger.arrivals import DerivedInstance, EnhancementRecord, StoredInstance
from model.denoiser import Denoiser, DenoiseResult
from model.domain import Domain
from tests.support.derived import MODEL_DIGEST

ROUTES = tuple(
    RouteSettings.model_validate({"name": name, "match": match, "destinations": ["pacs"]})
    for name, match in (
        ("frames", {"NumberOfFrames": {"min": 2}, "SeriesDescription": "x+y"}),
        ("sequence", {"DerivationCodeSequence": "x", "Rows": {"max": 1}}),
        ("rows", {"Rows": {"max": 1}}),
        ("modality", {"Modality": "NONE|OTHER"}),
        ("rest", {}),
    )
)
"""Routes that ask for all kinds of values."""


@dataclass(kw_only=True)
class StandInDenoiser:
    """Takes `step` off every value, and remembers the domain of each call and how many frames it was given."""

    step: float = 1.0
    name: str = "stand-in"
    digest: str = MODEL_DIGEST
    domains: list[Domain] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)

    def denoise(self, frames: NDArray[np.float32], *, domain: Domain, strength: float, **_: object) -> DenoiseResult:
        self.domains.append(domain)
        self.frames.append(len(frames))
        return DenoiseResult(
            frames=frames - np.float32(self.step),
            enhanced=True,
            strength=strength,
            noise_before=2.0,
            noise_after=1.0,
            reasons=(),
        )


def enhancer_with(store: InstanceStore, denoiser: StandInDenoiser) -> ImageEnhancer:
    """Return an enhancer of `store` whose denoiser is `denoiser`."""
    model = LoadedModel(denoiser=cast(Denoiser, denoiser))
    return ImageEnhancer(store=store, model=model, derivation=DerivationSettings(), node_name="node1")


def stored_instance(ds: Dataset, stored: StoredObject) -> StoredInstance:
    """Return what the ledger would say of `ds` in the store."""
    return StoredInstance(
        instance_id=1,
        arrival_id=1,
        sop_class_uid=ds.SOPClassUID,
        sop_instance_uid=ds.SOPInstanceUID,
        study_instance_uid=ds.StudyInstanceUID,
        series_instance_uid=ds.SeriesInstanceUID,
        transfer_syntax_uid=ds.file_meta.TransferSyntaxUID,
        key=stored.key,
        size=stored.size,
        dataset_offset=stored.dataset_offset,
        digest=stored.digest,
        calling_ae_title="A",
        called_ae_title="B",
        host="h",
    )


def enhance(
    ds: Dataset, folder: Path, denoiser: StandInDenoiser
) -> tuple[EnhancementRecord, DerivedInstance | None, Path | None]:
    """Store `ds` in `folder`, enhance it by its own SOP class, and return the derived object's path too."""
    return enhance_stored(ds, InstanceStore(folder).save(ds), folder, denoiser)


def enhance_stored(
    ds: Dataset, stored: StoredObject, folder: Path, denoiser: StandInDenoiser
) -> tuple[EnhancementRecord, DerivedInstance | None, Path | None]:
    """Enhance what the store in `folder` holds of `ds`, as `enhance` does."""
    store = InstanceStore(folder)
    route = RouteSettings(name="all", destinations=("pacs",), sop_classes=(ds.SOPClassUID,))
    record, derived = enhancer_with(store, denoiser).enhance(stored_instance(ds, stored), route, Times(series_at=0.0))
    return record, derived, None if derived is None else store.path(derived.key)
