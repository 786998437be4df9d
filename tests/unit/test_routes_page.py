"""The page on routes: its examples are valid as they stand, and each takes what the page says it is for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from config.doubts import doubts
from config.loading import load_settings
from config.settings import Settings
from dicom_node.routing import SenderFacts, match_route
from tests.support.objects import code, dx_dataset

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "routes.md").read_text()
SOURCES = '[[sources]]\nname = "all"\nae_titles = ["XRAY1"]\n'


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    file = tmp_path / "node.toml"
    file.write_text(SOURCES + "\n".join(re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)))
    return load_settings(file)


def requested(*texts: str) -> Sequence:
    items = [Dataset() for _ in texts]
    for item, text in zip(items, texts, strict=True):
        item.ScheduledProcedureStepDescription = text
    return Sequence(items)


def image(**attributes: Any) -> Dataset:
    """Return a radiograph of a body part that no example asks for."""
    plain = {
        "SeriesDescription": "Hand",
        "BodyPartExamined": "CHEST",
        "AnatomicRegionSequence": None,
        "PatientAge": None,
    }
    ds = dx_dataset(np.zeros((4, 4), np.uint16), **{**plain, **attributes})
    ds.private_block(0x0019, "OTHER", create=True).add_new(0x10, "LO", "LOW")
    return ds


def marked(mark: str, station: str) -> Dataset:
    ds = image(StationName=station)
    ds.private_block(0x0019, "ACME DR 2.0", create=True).add_new(0x10, "LO", mark)
    return ds


CHEST = Sequence([code("43799004", "SCT", "Chest")])


@pytest.mark.parametrize(
    ("ds", "calling", "route"),
    [
        (image(Modality="PX"), "XRAY1", "dental"),
        (image(SeriesDescription="Chest Low Dose PA"), "XRAY1", "low-dose-protocols"),
        (image(Modality="IO", SeriesDescription="low dose"), "XRAY1", "dental"),
        (image(PatientAge="017Y"), "XRAY1", "children"),
        (image(PatientAge="900D"), "XRAY1", "children"),
        (image(PatientAge="018Y"), "XRAY1", "fallback"),
        (image(StudyDate="20260314", StudyTime="231500", KVP="120"), "XRAY1", "trial-nights"),
        (image(StudyDate="20260314", StudyTime="195959", KVP="120"), "XRAY1", "fallback"),
        (image(StudyDate="20260701", StudyTime="231500", KVP="120"), "XRAY1", "fallback"),
        (image(StudyDate="20260314", StudyTime="231500", KVP="99"), "XRAY1", "fallback"),
        (image(Modality="XA", Manufacturer=None), "XRAY1", "no-stamp-of-the-vendor"),
        (image(Modality="XA", Manufacturer="Acme Inc."), "XRAY1", "fallback"),
        (image(Modality="XA", PatientID=""), "XRAY1", "fallback"),
        (image(BodyPartExamined="KNEE"), "XRAY1", "other-body-parts"),
        (image(BodyPartExamined=None), "XRAY1", "fallback"),
        (
            image(RequestAttributesSequence=requested("Hand", "CHEST two views"), AnatomicRegionSequence=CHEST),
            "XRAY1",
            "chest-requests",
        ),
        (image(RequestAttributesSequence=requested("Hand"), AnatomicRegionSequence=CHEST), "XRAY1", "fallback"),
        (marked("LOW", "ROOM2"), "XRAY1", "low-dose-mark"),
        (marked("HIGH", "ROOM2"), "XRAY1", "fallback"),
        (image(StationName="ROOM2"), "XRAY1", "fallback"),
        (image(), "MOBILE12", "portable-units"),
        (image(), "MOBILE", "fallback"),
    ],
)
def test_each_example_takes_what_it_is_for(settings: Settings, ds: Dataset, calling: str, route: str) -> None:
    taken, _ = match_route(settings.routes_in_order, ds, SenderFacts(calling_ae_title=calling))
    assert taken is not None
    assert taken.name == route


def test_the_examples_raise_no_doubt_and_the_list_above_has_all_of_them(settings: Settings) -> None:
    assert doubts(settings) == []
    (cases,) = (mark.args[1] for mark in test_each_example_takes_what_it_is_for.pytestmark)  # type: ignore[attr-defined]
    assert {case[2] for case in cases} == {route.name for route in settings.routes_in_order}


def test_readers_are_led_to_the_page() -> None:
    assert "(docs/routes.md)" in (REPOSITORY / "README.md").read_text()
