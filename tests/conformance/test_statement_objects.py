"""What the conformance statement says of objects, against objects that are derived and transcoded."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.datadict import dictionary_description, keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended, get_frame
from pydicom.sequence import Sequence
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    BasicTextSRStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedXAImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from config.settings import DerivationSettings, RouteSettings, Settings
from dicom_node.conformance import render_statement
from dicom_node.derivation import find_differences, is_enhanceable
from dicom_node.derivation.differences import Change
from dicom_node.derivation.eligibility import WITH_FUNCTIONAL_GROUPS
from dicom_node.errors import UnsupportedPixels
from dicom_node.part10 import open_part10
from dicom_node.pixels import iter_frames, read_spec
from dicom_node.transcoding import to_uncompressed
from tests.support.derived import context, derive_file
from tests.support.objects import (
    code,
    cr_dataset,
    dx_dataset,
    enhanced_xa_dataset,
    new_uid,
    save,
    set_transfer_syntax,
    xa_dataset,
)
from tests.support.peers import find_program
from tests.support.quality_reports import enhanced, passed_through, radiograph, report_on
from tests.support.statement import Row, plain, tables

FOUND = tables(render_statement(Settings()))
SYNTAXES = {row["Transfer syntax"]: UID(plain(row["UID"])) for row in FOUND["Transfer syntaxes"]}
NAMES = {uid: name for name, uid in SYNTAXES.items()}

pytestmark = pytest.mark.filterwarnings("ignore")


def image() -> Dataset:
    """Return a radiograph of 8 bits, which every transfer syntax can hold."""
    rows, columns = np.mgrid[0:40, 0:48]
    return cr_dataset((60 + 2 * rows + columns).astype(np.uint8), bits_stored=8)


# ---------------------------------------------------------------------- transfer syntaxes


def _by_pydicom(folder: Path, syntax: UID) -> Path:
    return save(set_transfer_syntax(image(), syntax), folder / "source.dcm")


def _by_dcmtk(*program: str) -> Callable[[Path, UID], Path]:
    def convert(folder: Path, syntax: UID) -> Path:
        found = find_program(program[0])
        if found is None:
            pytest.skip(f"{program[0]} is not installed (Debian package dcmtk)")
        native, target = save(image(), folder / "native.dcm"), folder / "source.dcm"
        subprocess.run([found, *program[1:], str(native), str(target)], check=True, capture_output=True)
        # What a compressor adds (lossy ratio, new UID for a lossy image) is no matter here.
        return target

    return convert


def _by_pydicom_with_loss(folder: Path, syntax: UID) -> Path:
    ds = image()
    ds.compress(syntax, encoding_plugin="pylibjpeg", j2k_cr=[2], generate_instance_uid=False)
    return save(ds, folder / "source.dcm")


def _by_imagecodecs(folder: Path, syntax: UID) -> Path:
    imagecodecs = pytest.importorskip("imagecodecs", reason="imagecodecs, which encodes HTJ2K, is not installed")
    ds = image()
    frame = imagecodecs.htj2k_encode(ds.pixel_array, reversible=syntax != HTJ2K)
    ds.PixelData = encapsulate([frame])
    ds["PixelData"].is_undefined_length = True
    ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = syntax
    return save(ds, folder / "source.dcm")


MAKERS: dict[UID, Callable[[Path, UID], Path]] = {
    ImplicitVRLittleEndian: _by_pydicom,
    ExplicitVRLittleEndian: _by_pydicom,
    DeflatedExplicitVRLittleEndian: _by_pydicom,
    ExplicitVRBigEndian: _by_pydicom,
    RLELossless: _by_pydicom,
    JPEGBaseline8Bit: _by_dcmtk("dcmcjpeg", "+eb", "+un"),
    JPEGExtended12Bit: _by_dcmtk("dcmcjpeg", "+ee", "+un"),
    JPEGLossless: _by_dcmtk("dcmcjpeg", "+el"),
    JPEGLosslessSV1: _by_dcmtk("dcmcjpeg", "+e1"),
    JPEGLSLossless: _by_pydicom,
    JPEGLSNearLossless: _by_dcmtk("dcmcjpls", "+en", "+un"),
    JPEG2000Lossless: _by_pydicom,
    JPEG2000: _by_pydicom_with_loss,
    HTJ2KLossless: _by_imagecodecs,
    HTJ2KLosslessRPCL: _by_imagecodecs,
    HTJ2K: _by_imagecodecs,
}
DERIVED_AS = {row["Source"]: row["Derived object"] for row in FOUND["Transfer syntax of a derived object"]}
TRANSCODED = {
    row["Transfer syntax of the object"]: row
    for row in FOUND["Transcoding for a destination that refuses the transfer syntax of an object"]
}


def test_every_listed_transfer_syntax_can_be_made_here() -> None:
    assert set(MAKERS) == set(SYNTAXES.values())


@pytest.mark.parametrize("name", SYNTAXES)
def test_derived_objects_are_in_the_listed_transfer_syntax(tmp_path: Path, name: str) -> None:
    source = MAKERS[SYNTAXES[name]](tmp_path, SYNTAXES[name])
    assert dcmread(source, stop_before_pixels=True).file_meta.TransferSyntaxUID == SYNTAXES[name]
    derived = dcmread(derive_file(source, tmp_path / "derived.dcm", context()), stop_before_pixels=True)
    assert NAMES[derived.file_meta.TransferSyntaxUID] == DERIVED_AS[name]
    (row,) = (row for row in FOUND["Transfer syntaxes"] if row["Transfer syntax"] == name)
    assert (row["Enhanced"], row["Derived as"]) == ("yes", DERIVED_AS[name])


@pytest.mark.parametrize("target", ["Explicit VR Little Endian", "Implicit VR Little Endian"])
@pytest.mark.parametrize("name", SYNTAXES)
def test_objects_are_transcoded_where_the_statement_says_so(tmp_path: Path, name: str, target: str) -> None:
    cell = TRANSCODED[name][f"To {target}"]
    assert cell == ("as it is" if name == target else "SUPPORTED")
    source = MAKERS[SYNTAXES[name]](tmp_path, SYNTAXES[name])
    with open_part10(source) as part10:
        expected = [frame.values for frame in iter_frames(part10, read_spec(part10.header))]
    with to_uncompressed(source, SYNTAXES[target]) as path:
        sent = dcmread(path, force=True)
    sent.file_meta.TransferSyntaxUID = SYNTAXES[target]
    assert sent.SOPInstanceUID == dcmread(source, stop_before_pixels=True).SOPInstanceUID
    assert np.array_equal(sent.pixel_array, expected[0])


def test_jpeg_extended_of_12_bits_is_passed_through_if_the_statement_says_so(tmp_path: Path) -> None:
    program = find_program("dcmcjpeg")
    if program is None:
        pytest.skip("dcmcjpeg is not installed (Debian package dcmtk)")
    native = save(cr_dataset(np.full((16, 16), 4000, np.uint16)), tmp_path / "native.dcm")
    source = tmp_path / "source.dcm"
    subprocess.run([program, "+ee", "+un", str(native), str(source)], check=True, capture_output=True)
    with open_part10(source) as part10:
        spec = read_spec(part10.header)
        assert (spec.transfer_syntax_uid, spec.bits_stored) == (JPEGExtended12Bit, 12)
        try:
            is_read = len(list(iter_frames(part10, spec))) == 1
        except UnsupportedPixels:
            is_read = False
    assert is_read is ("JPEG Extended of 12 bits is passed through" not in render_statement(Settings()))


# ---------------------------------------------------------------------- SOP classes


def _of_class(uid: UID) -> Dataset:
    ds = image()
    ds.SOPClassUID = uid
    if uid in WITH_FUNCTIONAL_GROUPS:
        ds.SharedFunctionalGroupsSequence = Sequence([Dataset()])
        ds.PerFrameFunctionalGroupsSequence = Sequence([Dataset()])
    return ds


@pytest.mark.parametrize("row", FOUND["SOP classes that can be enhanced"], ids=lambda row: row["SOP class"])
def test_listed_classes_are_enhanced_when_their_setting_names_them(row: Row) -> None:
    ds = _of_class(UID(plain(row["UID"])))
    assert is_enhanceable(ds, [plain(row["In `sop_classes`"])]).enhance
    assert is_enhanceable(ds).enhance is (row["Default"] == "yes")


@pytest.mark.parametrize("uid", [SecondaryCaptureImageStorage, EnhancedXAImageStorage, BasicTextSRStorage])
def test_classes_that_a_route_names_by_uid_are_listed_as_what_becomes_of_them(uid: UID) -> None:
    route = RouteSettings(name="r", sop_classes=(uid,), destinations=("pacs",))
    rows = tables(render_statement(Settings(routes=(route,))))["SOP classes that can be enhanced"]
    (row,) = (row for row in rows if plain(row["UID"]) == uid)
    ds = _of_class(uid)
    assert (row["Process"] == "yes") is is_enhanceable(ds, [uid]).enhance
    assert (row["Create"] == "S") is is_enhanceable(ds, [uid]).enhance
    assert plain(row["Routes"]) == "r"


NOT_ENHANCED = {
    "SOP classes that no route enables, and everything that is no image.": {"SOPClassUID": CTImageStorage},
    "Pixels that are not grey values of 8 or 16 bits allocated": {"PhotometricInterpretation": "PALETTE COLOR"},
    "Quality control images, by Quality Control Image (0028,0300) of YES.": {"QualityControlImage": "YES"},
    "Images that were denoised by this product before.": {"ImageType": ["DERIVED", "PRIMARY", "", "DENOISED"]},
    "Images without SOP Instance UID or Series Instance UID.": {"SeriesInstanceUID": ""},
}


@pytest.mark.parametrize("bullet", NOT_ENHANCED)
def test_images_that_are_listed_as_not_enhanced_are_not(bullet: str) -> None:
    assert f"- {bullet}" in render_statement(Settings())
    ds = image()
    assert is_enhanceable(ds).enhance
    for keyword, value in NOT_ENHANCED[bullet].items():
        setattr(ds, keyword, value)
    assert not is_enhanceable(ds).enhance


def test_no_other_storage_class_is_enhanced_by_default() -> None:
    listed = {plain(row["UID"]) for row in FOUND["SOP classes that can be enhanced"]}
    others = {plain(row["UID"]) for row in FOUND["Storage SOP classes that DICOM defines"]} - listed
    assert len(others) > 150
    ds = image()
    for uid in others:
        ds.SOPClassUID = uid
        assert not is_enhanceable(ds, ("CR", "DX", "MG", "IO", "XA", "RF", "CT")).enhance, uid


# ---------------------------------------------------------------------- attributes

RULES = {plain(row["Tag"]): row for row in FOUND["Attributes in which a derived object may differ from its source"]}
WORDS = {Change.ADDED: "added", Change.CHANGED: "changed", Change.REMOVED: "removed"}


def _rich(source: Dataset) -> Dataset:
    """Give a source everything that a derived object does not take over."""
    source.InstanceCreatorUID = source.DeviceUID = new_uid()
    source.InstanceCreationDate, source.InstanceCreationTime = "20260101", "120000"
    source.DerivationDescription = "cropped"
    source.DateOfLastCalibration, source.TimeOfLastCalibration = "20260101", "120000"
    source.SmallestImagePixelValue, source.LargestImagePixelValue = 7, 200
    source.SmallestPixelValueInSeries, source.LargestPixelValueInSeries = 0, 255
    source.SOPInstanceStatus, source.SOPAuthorizationDateTime = "AO", "20260101120000"
    source.SOPAuthorizationComment, source.AuthorizationEquipmentCertificationNumber = "signed", "1"
    for keyword in (
        "CodingSchemeIdentificationSequence",
        "ContributingEquipmentSequence",
        "DerivationCodeSequence",
        "DigitalSignaturesSequence",
        "IconImageSequence",
        "MACParametersSequence",
        "SourceImageSequence",
        "UDISequence",
    ):
        setattr(source, keyword, Sequence([Dataset()]))
    return source


def _poor(source: Dataset) -> Dataset:
    """Take from a source everything that it need not have."""
    for keyword in (
        "ContentDate",
        "ContentTime",
        "ImageType",
        "LossyImageCompression",
        "Manufacturer",
        "ManufacturerModelName",
        "SeriesDate",
        "SeriesDescription",
        "SeriesTime",
        "SoftwareVersions",
        "StationName",
    ):
        source.pop(keyword, None)
    return source


def _padded() -> Dataset:
    """Return an image that is padding all over, so that it has no smallest value."""
    source = cr_dataset(np.zeros((16, 16), np.uint16), PixelPaddingValue=0)
    source.SmallestImagePixelValue = source.LargestImagePixelValue = 0
    return source


def _with_offset_tables() -> Dataset:
    source = set_transfer_syntax(image(), RLELossless)
    frame = get_frame(source.PixelData, 0, number_of_frames=1)
    source.PixelData, source.ExtendedOffsetTable, source.ExtendedOffsetTableLengths = encapsulate_extended([frame])
    source["PixelData"].is_undefined_length = True
    return source


def _as_jpeg(folder: Path, source: Dataset, lossy: str | None) -> Path:
    """Return `source` in a lossy transfer syntax, with this of Lossy Image Compression."""
    made = dcmread(MAKERS[JPEGBaseline8Bit](folder, JPEGBaseline8Bit))
    source.PixelData, source.file_meta.TransferSyntaxUID = made.PixelData, JPEGBaseline8Bit
    source["PixelData"].is_undefined_length = True
    source.pop("LossyImageCompressionMethod", None)
    source.pop("LossyImageCompression", None)
    if lossy is not None:
        source.LossyImageCompression = lossy
    return save(source, folder / f"jpeg-{lossy}.dcm")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    if shutil.which("dcmcjpeg") is None:
        pytest.skip("dcmcjpeg is not installed (Debian package dcmtk)")
    folder = tmp_path_factory.mktemp("sources")
    made = {
        "rich": _rich(image()),
        "poor": _poor(image()),
        "padded": _padded(),
        "offsets": _with_offset_tables(),
        "dx": dx_dataset(np.full((16, 16), 1000, np.uint16)),
        "xa": xa_dataset(np.full((2, 16, 16), 500, np.uint16)),
        "shared": enhanced_xa_dataset(np.full((2, 16, 16), 500, np.uint16)),
        "per-frame": enhanced_xa_dataset(np.full((2, 16, 16), 500, np.uint16), per_frame_properties=True),
        "derived-before": _derived_frames(),
    }
    paths = [save(ds, folder / f"{name}.dcm") for name, ds in made.items()]
    return [*paths, _as_jpeg(folder, image(), None), _as_jpeg(folder, image(), "00")]


def _derived_frames() -> Dataset:
    """Return an image whose frames and evidence tell of another one that it was made from."""
    ds = enhanced_xa_dataset(np.full((2, 16, 16), 500, np.uint16), per_frame_properties=True)
    made_by, evidence = Dataset(), Dataset()
    made_by.DerivationDescription = "Subtracted"
    made_by.DerivationCodeSequence = Sequence([code("113062", "DCM", "Pixel by pixel subtraction")])
    made_by.SourceImageSequence = Sequence([])
    for group in ds.PerFrameFunctionalGroupsSequence:
        group.DerivationImageSequence = Sequence([made_by])
    evidence.StudyInstanceUID, evidence.ReferencedSeriesSequence = new_uid(), Sequence([])
    ds.SourceImageEvidenceSequence = Sequence([evidence])
    return ds


Place = tuple[str, ...]


def _differences(sources: list[Path], folder: Path) -> Iterator[tuple[Place, str, Change]]:
    for equipment in ("standard", "preserve"):
        for source in sources:
            derived = derive_file(source, folder / f"{equipment}-{source.name}", context(equipment=equipment))
            with open_part10(source) as before, open_part10(derived) as after:
                for difference in find_differences(before.header, after.header):
                    tag = difference.tag
                    yield difference.within, f"({tag.group:04X},{tag.element:04X})", difference.change
            yield from _bulk_differences(dcmread(source), dcmread(derived))


def _bulk_differences(before: Dataset, after: Dataset) -> Iterator[tuple[Place, str, Change]]:
    """Compare what is no part of the headers above."""
    for keyword in ("PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in before and before.get(keyword) != after.get(keyword):
            tag = before[keyword].tag
            change = Change.CHANGED if keyword in after else Change.REMOVED
            yield (), f"({tag.group:04X},{tag.element:04X})", change


def test_the_listed_differences_are_those_that_happen_no_more_and_no_less(sources: list[Path], tmp_path: Path) -> None:
    found: dict[str, set[str]] = {}
    found_within: dict[tuple[str, str], set[str]] = {}
    for within, tag, change in _differences(sources, tmp_path):
        if within:
            place = " > ".join(dictionary_description(name) for name in within)
            found_within.setdefault((place, tag), set()).add(WORDS[change])
        else:
            found.setdefault(tag, set()).add(WORDS[change])
    listed = {tag: set(row["May be"].split(", ")) for tag, row in RULES.items()}
    assert {tag: (keyword_for_tag(tag[1:5] + tag[6:10]), *sorted(words)) for tag, words in found.items()} == {
        tag: (keyword_for_tag(tag[1:5] + tag[6:10]), *sorted(words)) for tag, words in listed.items()
    }
    within_groups = {
        (row["In"], plain(row["Tag"])): set(row["May be"].split(", "))
        for row in FOUND["The same within the functional groups of multi-frame images"]
    }
    assert all(words <= within_groups[key] for key, words in found_within.items()), found_within
    # Those of CT have a test of their own, tests/unit/dicom/test_derivation_frames.py.
    assert {key for key in within_groups if "CT Image Frame Type" not in key[0]} == set(found_within)


def test_no_private_attribute_is_added(sources: list[Path], tmp_path: Path) -> None:
    for source in sources:
        derived = dcmread(derive_file(source, tmp_path / source.name, context()))
        assert [element.tag for element in derived if element.tag.is_private] == []


def test_the_class_of_a_derived_object_is_that_of_its_source(sources: list[Path], tmp_path: Path) -> None:
    for source in sources:
        before, after = dcmread(source), dcmread(derive_file(source, tmp_path / source.name, context()))
        assert before.SOPClassUID == after.SOPClassUID != CTImageStorage
        assert after.SOPInstanceUID.startswith("2.25.")
        assert after.SeriesInstanceUID.startswith("2.25.")
        assert before.StudyInstanceUID == after.StudyInstanceUID


# ---------------------------------------------------------------------- codes


def _codes(ds: Dataset) -> Iterator[tuple[str, str, str]]:
    for element in ds:
        if element.VR == "SQ":
            for item in element.value:
                if "CodeValue" in item:
                    yield item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning
                yield from _codes(item)


@pytest.mark.parametrize("derivation_code", ["private", "standard"])
def test_the_listed_codes_are_those_that_derived_objects_add(tmp_path: Path, derivation_code: str) -> None:
    found: set[tuple[str, str, str]] = set()
    derived_before = image()
    derived_before.ImageType = ["DERIVED", "PRIMARY"]
    for number, ds in enumerate((image(), derived_before)):
        source = save(ds, tmp_path / f"{number}.dcm")
        for equipment in ("standard", "preserve"):
            made = derive_file(
                source, tmp_path / "derived.dcm", context(equipment=equipment, derivation_code=derivation_code)
            )
            found |= set(_codes(dcmread(made))) - set(_codes(ds))
    derivation = DerivationSettings.model_validate({"derivation_code": derivation_code})
    rows = tables(render_statement(Settings(derivation=derivation)))["Codes in derived objects"]
    assert found == {(plain(row["Code"]), plain(row["Scheme"]), row["Meaning"]) for row in rows}
    assert len(rows) == (5 if derivation_code == "private" else 4)


@pytest.mark.parametrize(
    ("value_1", "equipment", "device"),
    [
        ("ORIGINAL", "standard", "for the device of an original image"),
        ("DERIVED", "standard", "for the device of an image that was derived already"),
        ("ORIGINAL", "preserve", "for the node"),
        ("DERIVED", "preserve", "for the node"),
    ],
)
def test_contributing_equipment_has_the_listed_purpose(
    tmp_path: Path, value_1: str, equipment: str, device: str
) -> None:
    ds = image()
    ds.ImageType = [value_1, "PRIMARY"]
    made = derive_file(save(ds, tmp_path / "s.dcm"), tmp_path / "d.dcm", context(equipment=equipment))
    (contributor,) = dcmread(made).ContributingEquipmentSequence
    (purpose,) = contributor.PurposeOfReferenceCodeSequence
    (row,) = (row for row in FOUND["Codes in derived objects"] if plain(row["Code"]) == purpose.CodeValue)
    assert device in row["Used in"]


def test_the_private_scheme_is_explained_as_in_derived_objects(tmp_path: Path) -> None:
    derived = dcmread(derive_file(save(image(), tmp_path / "s.dcm"), tmp_path / "d.dcm", context()))
    (scheme,), (denoising,) = derived.CodingSchemeIdentificationSequence, derived.DerivationCodeSequence
    listed = FOUND["The private coding scheme, and the extension of the context group"]
    assert {row["Parameter"].split(" (")[0]: plain(row["Value"]) for row in listed} == {
        "Coding Scheme Designator": scheme.CodingSchemeDesignator,
        "Coding Scheme UID": scheme.CodingSchemeUID,
        "Coding Scheme Name": scheme.CodingSchemeName,
        "Context Group Extension Flag": denoising.ContextGroupExtensionFlag,
        "Context Group Local Version": denoising.ContextGroupLocalVersion,
        "Context Group Extension Creator UID": denoising.ContextGroupExtensionCreatorUID,
    }


def test_a_quality_report_is_of_the_class_and_has_the_private_codes_that_are_listed(tmp_path: Path) -> None:
    listed = tables(render_statement(Settings()))
    outcomes = (enhanced(1), passed_through(2, "it is a quality control image"))
    report = report_on(save(radiograph(), tmp_path / "source.dcm"), outcomes)
    facts = {row["Parameter"]: row["Value"] for row in listed["The quality report"]}
    assert f"(`{report.SOPClassUID}`)" in facts["SOP class"]
    assert [item.TemplateIdentifier for item in report.ContentTemplateSequence] == ["1500"]
    own = {
        (item.CodeValue, item.CodeMeaning)
        for item in _items(report)
        if item.get("CodingSchemeDesignator") == plain(facts["Coding scheme of the private codes"])
        and "CodeValue" in item
    }
    assert own == {(plain(row["Code"]), row["Meaning"]) for row in listed["Private codes of the quality report"]}


def _items(ds: Dataset) -> Iterator[Dataset]:
    for element in ds:
        if element.VR == "SQ":
            for item in element.value:
                yield item
                yield from _items(item)
