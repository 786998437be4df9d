"""What would become of an object agrees with what the node does: enhancement, and the form that goes out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmwrite
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalMammographyXRayImageStorageForProcessing,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    XRayRadiofluoroscopicImageStorage,
)

from config.loading import parse_settings
from config.settings import Content, Settings
from dicom_node.derivation.eligibility import DEFAULT_SOP_CLASSES
from dicom_node.derivation.terms import IMAGE_TYPE_TERM
from dicom_node.forecast import UNROUTED, Forecast, foresee
from dicom_node.part10 import open_part10
from dicom_node.routing import PASSES_THROUGH, SenderFacts
from tests.support.items import write_image
from tests.support.objects import (
    cr_dataset,
    dx_dataset,
    private_dataset,
    save,
    set_transfer_syntax,
    sr_dataset,
    xa_dataset,
)

LE, IMPLICIT = ExplicitVRLittleEndian, ImplicitVRLittleEndian
GREY = np.full((40, 44), 1000, np.uint16)


def settings(*, route: dict[str, Any] | None = None, fallback: bool = False, **destination: Any) -> Settings:
    pacs = {"name": "pacs", "ae_title": "PACS", "host": "h", "port": 104}
    archive = {**pacs, "name": "archive", **destination}
    routes = [{"name": "r", "destinations": ["pacs", "archive"], **(route or {})}]
    raw: dict[str, Any] = {"destinations": [pacs, archive], "routes": routes}
    return parse_settings(raw | ({"fallback": {"destinations": ["archive"]}} if fallback else {}))


def forecast(ds: Dataset, folder: Path, wanted: Settings) -> Forecast:
    with open_part10(save(ds, folder / "object.dcm")) as part10:
        return foresee(wanted, part10, SenderFacts())


def of_class(sop_class: str, **attributes: Any) -> Dataset:
    return dx_dataset(GREY, SOPClassUID=sop_class, **attributes)


def test_the_default_of_the_settings_is_that_of_the_code_and_leaves_out_mg_and_ct() -> None:
    assert settings().routes[0].sop_classes == DEFAULT_SOP_CLASSES == ("CR", "DX", "IO", "XA", "RF")


@pytest.mark.parametrize(
    ("ds", "route", "report"),
    [
        (cr_dataset(GREY), {"report": True}, True),
        (cr_dataset(GREY), {}, False),
        # A report is made where an image was enhanced.
        (sr_dataset(), {"report": True}, False),
    ],
)
def test_a_quality_report_goes_along_where_the_route_asks_for_it(
    tmp_path: Path, ds: Dataset, route: dict[str, Any], report: bool
) -> None:
    assert forecast(ds, tmp_path, settings(route=route)).report is report


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: of_class(DigitalMammographyXRayImageStorageForPresentation), "is not enabled for enhancement"),
        (lambda: of_class(DigitalMammographyXRayImageStorageForProcessing), "is not enabled for enhancement"),
        (lambda: of_class(CTImageStorage), "CT Image Storage is not enabled for enhancement"),
        (sr_dataset, "Basic Text SR Storage is not enabled for enhancement"),
        (private_dataset, "is not enabled for enhancement"),
        (lambda: cr_dataset(GREY, QualityControlImage="YES"), "it is a quality control image"),
        (
            lambda: cr_dataset(GREY, ImageType=["DERIVED", "PRIMARY", "", IMAGE_TYPE_TERM]),
            "it was denoised by a node already",
        ),
        (
            lambda: cr_dataset(GREY, PerFrameFunctionalGroupsSequence=Sequence([Dataset()])),
            "its frames have functional groups, which is not supported",
        ),
        (lambda: cr_dataset(GREY, PhotometricInterpretation="PALETTE COLOR"), "pixels are not grey values"),
        (lambda: cr_dataset(GREY, BitsAllocated=32), "Bits Allocated is 32, not 8 or 16"),
    ],
)
def test_what_is_passed_through_by_default_says_why_and_the_original_goes(
    tmp_path: Path, make: Callable[[], Dataset], reason: str
) -> None:
    found = forecast(make(), tmp_path, settings())
    assert (found.route, found.enhanced, found.strength) == ("r", False, None)
    assert reason in found.reason
    assert [(s.destination, s.content) for s in found.shipments] == [
        ("pacs", Content.ORIGINAL),
        ("archive", Content.ORIGINAL),
    ]


@pytest.mark.parametrize(
    ("make", "enabled"),
    [
        (lambda: cr_dataset(GREY), ["CR"]),
        (lambda: dx_dataset(GREY), ["DX"]),
        (lambda: dx_dataset(GREY, for_presentation=True), ["DX"]),
        (lambda: xa_dataset(GREY[None]), ["XA"]),
        (lambda: xa_dataset(GREY[None], SOPClassUID=XRayRadiofluoroscopicImageStorage), ["RF"]),
        (lambda: of_class(DigitalMammographyXRayImageStorageForPresentation), ["MG"]),
        (lambda: of_class(CTImageStorage), ["CT"]),
        (lambda: cr_dataset(GREY), ["1.2.840.10008.5.1.4.1.1.1"]),
    ],
)
def test_each_route_enables_its_own_classes(tmp_path: Path, make: Callable[[], Dataset], enabled: list[str]) -> None:
    on, off = settings(route={"sop_classes": enabled}), settings(route={"sop_classes": ["IO"]})
    assert forecast(make(), tmp_path, on).enhanced
    assert not forecast(make(), tmp_path, off).enhanced


def test_a_route_that_passes_through_the_fallback_and_no_route_are_told_apart(tmp_path: Path) -> None:
    ds = cr_dataset(GREY)
    through = forecast(ds, tmp_path, settings(route={"enhance": False}))
    assert (through.route, through.enhanced, through.reason) == ("r", False, PASSES_THROUGH)
    other = {"match": {"Modality": "DX"}}
    rest = forecast(ds, tmp_path, settings(route=other, fallback=True))
    assert (rest.route, rest.enhanced, rest.reason) == ("fallback", False, PASSES_THROUGH)
    assert [(s.destination, s.content) for s in rest.shipments] == [("archive", Content.ORIGINAL)]
    kept = forecast(ds, tmp_path, settings(route=other))
    assert (kept.route, kept.enhanced, kept.reason, kept.shipments) == (None, False, UNROUTED, ())
    assert [trial.route for trial in rest.trials] == ["r", "fallback"]


@pytest.mark.parametrize(
    ("source", "compress", "originals", "original", "enhanced"),
    [
        (LE, "no", False, (LE, IMPLICIT), (LE, IMPLICIT)),
        (LE, "jpeg-ls", False, (LE, IMPLICIT), (JPEGLSLossless, LE, IMPLICIT)),
        (IMPLICIT, "jpeg-2000", True, (JPEG2000Lossless, IMPLICIT, LE), (JPEG2000Lossless, IMPLICIT, LE)),
        (RLELossless, "jpeg-ls", True, (RLELossless, LE, IMPLICIT), (RLELossless, LE, IMPLICIT)),
    ],
)
def test_transfer_syntaxes_are_those_that_a_delivery_offers(
    tmp_path: Path, source: Any, compress: str, originals: bool, original: Any, enhanced: Any
) -> None:
    wanted = settings(
        route={"send": ["original", "enhanced"], "strength": 0.5}, compress=compress, compress_originals=originals
    )
    found = forecast(set_transfer_syntax(cr_dataset(GREY), source), tmp_path, wanted)
    assert found.strength == 0.5
    at_archive = {s.content: s.transfer_syntaxes for s in found.shipments if s.destination == "archive"}
    assert at_archive == {Content.ORIGINAL: original, Content.ENHANCED: enhanced}


@pytest.mark.parametrize("compress", ["jpeg-ls", "rle"])
def test_what_has_no_pixels_or_bits_beside_the_stored_ones_is_not_offered_compressed(
    tmp_path: Path, compress: str
) -> None:
    wanted = settings(compress=compress, compress_originals=True)
    assert forecast(sr_dataset(), tmp_path, wanted).shipments[1].transfer_syntaxes == (LE, IMPLICIT)
    with_overlay = cr_dataset(GREY)
    with_overlay.add_new(0x60000100, "US", 16)
    (_, archive) = forecast(with_overlay, tmp_path, wanted).shipments
    assert archive.content is Content.ENHANCED
    assert archive.transfer_syntaxes == ((LE, IMPLICIT) if compress == "jpeg-ls" else (RLELossless, LE, IMPLICIT))


def test_an_object_without_file_meta_information_is_judged_like_any_other(tmp_path: Path) -> None:
    path, ds = tmp_path / "bare.dcm", cr_dataset(GREY)
    del ds.file_meta
    dcmwrite(path, ds, implicit_vr=True, little_endian=True)
    assert path.read_bytes()[:2] == b"\x08\0"
    with open_part10(path) as part10:
        found = foresee(settings(), part10, SenderFacts())
    assert found.enhanced
    assert found.shipments[0].transfer_syntaxes == (IMPLICIT, LE)


@pytest.mark.parametrize(("syntax", "offered"), [(IMPLICIT, (LE,)), (LE, (LE,)), (RLELossless, (RLELossless, LE))])
def test_a_dicomweb_destination_is_offered_what_web_services_allow(
    tmp_path: Path, syntax: str, offered: tuple[str, ...]
) -> None:
    web = {"name": "web", "kind": "dicomweb", "url": "https://h/dicom-web"}
    raw = {"destinations": [web], "routes": [{"name": "r", "enhance": False, "destinations": ["web"]}]}
    path = write_image(tmp_path, 1, syntax=syntax)
    with open_part10(path) as part10:
        forecast = foresee(parse_settings(raw), part10, SenderFacts(calling_ae_title="X"))
    assert [shipment.transfer_syntaxes for shipment in forecast.shipments] == [offered]
