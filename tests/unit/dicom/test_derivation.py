"""The derived object, one test for each line of the table of what changes, and one for all that does not."""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
)

from config.settings import DerivationSettings
from dicom_node.derivation import (
    ALLOWED_DIFFERENCES,
    derive,
    derived_series_instance_uid,
    derived_sop_instance_uid,
    find_differences,
    is_enhanceable,
    unexpected_differences,
)
from dicom_node.errors import DerivationError
from dicom_node.part10 import open_part10
from dicom_node.pixel_encoding import frame_writer
from dicom_node.pixels import iter_frames, read_spec
from tests.support.derived import MODEL_DIGEST, context, derive_data_set, derive_file
from tests.support.objects import (
    code,
    cr_dataset,
    ct_dataset,
    dx_dataset,
    io_dataset,
    mg_dataset,
    private_dataset,
    rf_dataset,
    save,
    set_transfer_syntax,
    sr_dataset,
    xa_dataset,
)

STORED = np.random.default_rng(11).integers(100, 4000, (24, 20)).astype(np.uint16)
SERIES_DESCRIPTION = 0x0008103E
INSTITUTION_NAME = 0x00080080
TEXTS = ("PatientName", "StudyDescription", "SeriesDescription", "InstitutionName")
ENHANCED_XA = "1.2.840.10008.5.1.4.1.1.12.1.1"
CINE = np.random.default_rng(12).integers(100, 1000, (3, 24, 20)).astype(np.uint16)


def derived_from(tmp_path: Path, source: Dataset, **circumstances: Any) -> Dataset:
    """Return what is derived from `source`, written and read again."""
    path = save(source, tmp_path / "source.dcm")
    return pydicom.dcmread(derive_file(path, tmp_path / "derived.dcm", context(**circumstances)))


# -- identity -----------------------------------------------------------------------------------------


def test_uids_are_functions_of_the_input() -> None:
    arguments = {
        "source_sop_instance_uid": "1.2.3",
        "source_pixel_digest": "a" * 64,
        "model_digest": "b" * 64,
        "strength": 0.7,
    }
    uid = derived_sop_instance_uid(**arguments)
    # Written down, since another value would send the same image under a second UID after an update.
    assert uid == "2.25.240221868880826683608232373705133273494"
    assert UID(uid).is_valid
    assert uid == derived_sop_instance_uid(**arguments)
    others = {"source_sop_instance_uid": "1.2.4", "source_pixel_digest": "c", "model_digest": "d", "strength": 0.4}
    assert len({uid, *(derived_sop_instance_uid(**{**arguments, k: v}) for k, v in others.items())}) == 5


def test_images_of_a_series_share_the_derived_series_however_late(tmp_path: Path) -> None:
    first, late = dx_dataset(STORED, series_instance_uid="1.2.5"), dx_dataset(STORED + 1, series_instance_uid="1.2.5")
    one = derived_from(tmp_path, first, applied_strength=0.7)
    other = derived_from(tmp_path, late, applied_strength=0.4, now=datetime(2027, 1, 1, tzinfo=UTC))
    assert (
        one.SeriesInstanceUID
        == other.SeriesInstanceUID
        == derived_series_instance_uid(source_series_instance_uid="1.2.5", model_digest=MODEL_DIGEST, strength=0.7)
    )
    assert (one.SeriesDate, one.SeriesTime) == (other.SeriesDate, other.SeriesTime)
    assert one.SOPInstanceUID != other.SOPInstanceUID
    assert one.SeriesInstanceUID != first.SeriesInstanceUID


def test_the_same_input_gives_the_same_file(tmp_path: Path) -> None:
    path = save(dx_dataset(STORED), tmp_path / "source.dcm")
    files = [derive_file(path, tmp_path / f"{name}.dcm", context()).read_bytes() for name in "ab"]
    assert files[0] == files[1]


def test_file_meta_information_is_written_anew(tmp_path: Path) -> None:
    source = dx_dataset(STORED)
    source.file_meta.SourceApplicationEntityTitle = "MODALITY"
    source.file_meta.ImplementationVersionName = "VENDOR"
    path = save(source, tmp_path / "source.dcm")
    derived = derive_data_set(path, context())
    assert derived.file_meta.MediaStorageSOPInstanceUID == derived.SOPInstanceUID
    assert derived.file_meta.MediaStorageSOPClassUID == source.SOPClassUID
    assert "SourceApplicationEntityTitle" not in derived.file_meta
    assert "ImplementationVersionName" not in derived.file_meta


# -- description --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "before", "after"),
    [
        (dx_dataset, ["ORIGINAL", "PRIMARY", ""], ["DERIVED", "PRIMARY", "", "DENOISED"]),
        (dx_dataset, ["DERIVED", "SECONDARY"], ["DERIVED", "SECONDARY", "", "DENOISED"]),
        (dx_dataset, ["ORIGINAL", "PRIMARY", "", "RT"], ["DERIVED", "PRIMARY", "", "RT", "DENOISED"]),
        (dx_dataset, None, ["DERIVED", "PRIMARY", "", "DENOISED"]),
        (cr_dataset, "ORIGINAL PRIMARY", ["DERIVED", "PRIMARY", "", "DENOISED"]),
        (cr_dataset, "ORIGINAL", ["DERIVED", "PRIMARY", "", "DENOISED"]),
    ],
)
def test_image_type(tmp_path: Path, make: Any, before: Any, after: list[str]) -> None:
    assert list(derived_from(tmp_path, make(STORED, ImageType=before)).ImageType) == after


def test_image_type_keeps_the_third_value_of_xa(tmp_path: Path) -> None:
    assert list(derived_from(tmp_path, xa_dataset(CINE)).ImageType) == [
        "DERIVED",
        "PRIMARY",
        "SINGLE PLANE",
        "DENOISED",
    ]


@pytest.mark.parametrize(("before", "after"), [("7", 1007), ("-3", 997), ("2147483647", 2147483647), ("", None)])
def test_series_number(tmp_path: Path, before: str, after: int | None) -> None:
    assert derived_from(tmp_path, dx_dataset(STORED, SeriesNumber=before)).SeriesNumber == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Chest PA", "Chest PA (denoised)"),
        ("x" * 64, "x" * 53 + " (denoised)"),
        ("", "(denoised)"),
        (None, "(denoised)"),
    ],
)
def test_series_description_fits_its_vr(tmp_path: Path, before: str | None, after: str) -> None:
    assert derived_from(tmp_path, dx_dataset(STORED, SeriesDescription=before)).SeriesDescription == after


@pytest.mark.parametrize(
    ("charset", "description", "name"),
    [
        ("ISO_IR 192", "Röntgen 胸部正面", "山田^太郎"),
        ("GB18030", "胸部正位", "王^小东"),
        ("ISO_IR 100", "Röntgen Schädel", "Müller^Jörg"),
        (["", "ISO 2022 IR 87"], "胸部", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("ISO_IR 144", "Грудная клетка", "Иванов^Иван"),
    ],
)
def test_character_sets_are_untouched(tmp_path: Path, charset: Any, description: str, name: str) -> None:
    source = dx_dataset(STORED, SpecificCharacterSet=charset, InstitutionName=description)
    source.SeriesDescription, source.PatientName = description, name
    path = save(source, tmp_path / "source.dcm")
    derive_file(path, tmp_path / "derived.dcm", context())
    with open_part10(path) as before, open_part10(tmp_path / "derived.dcm") as after:
        for keyword in ("PatientName", "SpecificCharacterSet", "InstitutionName"):
            tag = pydicom.datadict.tag_for_keyword(keyword)
            assert tag is not None
            assert before.header.get_item(tag).value == after.header.get_item(tag).value
        assert after.header.SeriesDescription == f"{description} (denoised)"
        item = after.header.ContributingEquipmentSequence[0]
        assert item.InstitutionName == description


def test_text_that_its_character_set_can_t_say_is_replaced_by_the_suffix(tmp_path: Path) -> None:
    source = dx_dataset(STORED, SpecificCharacterSet="ISO_IR 192", SeriesDescription="Sch?del")
    path = save(source, tmp_path / "source.dcm")
    path.write_bytes(path.read_bytes().replace(b"Sch?del", b"Sch\xe4del"))
    derived = pydicom.dcmread(derive_file(path, tmp_path / "derived.dcm", context()))
    assert derived.SeriesDescription == "(denoised)"


def test_a_suffix_that_the_character_set_can_t_say_leaves_the_description_alone(tmp_path: Path) -> None:
    path = save(dx_dataset(STORED, SpecificCharacterSet="ISO_IR 100"), tmp_path / "source.dcm")
    settings = DerivationSettings(description_suffix=" 降噪")
    derived = pydicom.dcmread(derive_file(path, tmp_path / "derived.dcm", context(settings=settings)))
    assert derived.SeriesDescription == "Chest PA low dose"


def test_derivation_description_says_what_was_done(tmp_path: Path) -> None:
    derived = derived_from(tmp_path, dx_dataset(STORED))
    assert derived.DerivationDescription == (
        "Denoised by dicom-node 0.1.0 with model lite (SHA-256 0123456789ab), strength 0.70; "
        "estimated noise 12.34 before and 4.5 after in stored values."
    )
    lowered = derived_from(
        tmp_path, dx_dataset(STORED, DerivationDescription="Stitched"), applied_strength=0.4, noise_after=None
    )
    assert lowered.DerivationDescription.endswith(
        "strength 0.40 (lowered from 0.70); the noise could not be estimated. Source: Stitched"
    )
    long = derived_from(tmp_path, dx_dataset(STORED, DerivationDescription="x" * 1024))
    assert len(long.DerivationDescription) == 1024


def test_derivation_code_private(tmp_path: Path) -> None:
    earlier = Sequence([code("113040", "DCM", "Lossy Compression")])
    derived = derived_from(tmp_path, dx_dataset(STORED, DerivationCodeSequence=earlier))
    first, ours = derived.DerivationCodeSequence
    assert first.CodeValue == "113040"
    assert (ours.CodeValue, ours.CodingSchemeDesignator) == ("DENOISE", "99DICOMNODE")
    assert ours.ContextGroupExtensionFlag == "Y"
    assert UID(ours.ContextGroupExtensionCreatorUID).is_valid
    (equivalent,) = ours.EquivalentCodeSequence
    assert (equivalent.CodeValue, equivalent.CodingSchemeDesignator, equivalent.CodeMeaning) == (
        "113087",
        "DCM",
        "Smoothing",
    )
    (scheme,) = derived.CodingSchemeIdentificationSequence
    assert scheme.CodingSchemeDesignator == ours.CodingSchemeDesignator
    assert UID(scheme.CodingSchemeUID).is_valid


def test_derivation_code_standard(tmp_path: Path) -> None:
    derived = derived_from(tmp_path, dx_dataset(STORED), derivation_code="standard")
    (only,) = derived.DerivationCodeSequence
    assert (only.CodeValue, only.CodingSchemeDesignator) == ("113087", "DCM")
    assert "CodingSchemeIdentificationSequence" not in derived


def test_source_image(tmp_path: Path) -> None:
    grandparent = Dataset()
    grandparent.ReferencedSOPInstanceUID = "1.2.99"
    source = dx_dataset(STORED, SourceImageSequence=Sequence([grandparent]))
    item, earlier = derived_from(tmp_path, source).SourceImageSequence
    assert (item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) == (source.SOPClassUID, source.SOPInstanceUID)
    assert item.SpatialLocationsPreserved == "YES"
    (purpose,) = item.PurposeOfReferenceCodeSequence
    assert (purpose.CodeValue, purpose.CodingSchemeDesignator) == ("121322", "DCM")
    assert earlier.ReferencedSOPInstanceUID == "1.2.99"


# -- equipment ----------------------------------------------------------------------------------------


def test_equipment_standard(tmp_path: Path) -> None:
    derived = derived_from(tmp_path, dx_dataset(STORED, DateOfLastCalibration="20260101", GantryID="G1"))
    assert derived.Manufacturer == derived.ManufacturerModelName == "dicom-node"
    assert derived.StationName == "node1"
    assert list(derived.SoftwareVersions) == ["dicom-node 0.1.0", "lite", MODEL_DIGEST]
    assert "DeviceSerialNumber" not in derived
    assert "DateOfLastCalibration" not in derived
    assert derived.InstitutionName == "Imaginary Hospital"
    assert derived.GantryID == "G1"
    (device,) = derived.ContributingEquipmentSequence
    assert (device.Manufacturer, device.ManufacturerModelName) == ("Phantom Works", "Imaginary DR")
    assert (device.StationName, device.SoftwareVersions, device.DeviceSerialNumber) == ("ROOM1", "1.0", "0001")
    assert device.DateOfLastCalibration == "20260101"
    assert device.PurposeOfReferenceCodeSequence[0].CodeValue == "109101"


def test_equipment_that_derived_the_source_is_a_processor(tmp_path: Path) -> None:
    acquired = Dataset()
    acquired.Manufacturer = "Detector Works"
    acquired.PurposeOfReferenceCodeSequence = Sequence([code("109101", "DCM", "Acquisition Equipment")])
    source = dx_dataset(
        STORED, ImageType=["DERIVED", "PRIMARY", ""], ContributingEquipmentSequence=Sequence([acquired])
    )
    earlier, device = derived_from(tmp_path, source).ContributingEquipmentSequence
    assert (earlier.Manufacturer, earlier.PurposeOfReferenceCodeSequence[0].CodeValue) == ("Detector Works", "109101")
    assert (device.Manufacturer, device.PurposeOfReferenceCodeSequence[0].CodeValue) == ("Phantom Works", "109102")


def test_equipment_preserve(tmp_path: Path) -> None:
    source = dx_dataset(STORED, TimezoneOffsetFromUTC="+0200")
    derived = derived_from(tmp_path, source, equipment="preserve")
    for keyword in ("Manufacturer", "ManufacturerModelName", "StationName", "SoftwareVersions", "DeviceSerialNumber"):
        assert derived[keyword] == source[keyword]
    (node,) = derived.ContributingEquipmentSequence
    assert (node.Manufacturer, node.StationName) == ("dicom-node", "node1")
    assert list(node.SoftwareVersions) == ["dicom-node 0.1.0", "lite", MODEL_DIGEST]
    assert node.ContributionDateTime == "20260506090809.123456"
    assert node.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"


# -- time ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "date", "time", "series_time"),
    [
        (None, "20260506", "070809.123456", "070000.000000"),
        ("+0200", "20260506", "090809.123456", "090000.000000"),
        ("-0930", "20260505", "213809.123456", "213000.000000"),
        ("nonsense", "20260506", "070809.123456", "070000.000000"),
    ],
)
def test_times_are_those_of_processing_in_the_zone_of_the_object(
    tmp_path: Path, offset: str | None, date: str, time: str, series_time: str
) -> None:
    source = dx_dataset(STORED)
    if offset is not None:
        source.add_new("TimezoneOffsetFromUTC", "SH", offset)
    derived = derived_from(tmp_path, source)
    assert (derived.InstanceCreationDate, derived.InstanceCreationTime) == (date, time)
    assert (derived.ContentDate, derived.ContentTime) == (date, time)
    assert (derived.SeriesDate, derived.SeriesTime) == (date, series_time)
    assert (derived.AcquisitionDate, derived.AcquisitionTime) == (source.AcquisitionDate, source.AcquisitionTime)
    assert (derived.StudyDate, derived.StudyTime) == (source.StudyDate, source.StudyTime)


# -- pixels and what belongs to them ------------------------------------------------------------------


def test_smallest_and_largest_are_recomputed_and_series_extremes_removed(tmp_path: Path) -> None:
    source = dx_dataset(STORED)
    for keyword in ("SmallestImagePixelValue", "LargestImagePixelValue"):
        source.add_new(keyword, "US", 1)
    for keyword in ("SmallestPixelValueInSeries", "LargestPixelValueInSeries"):
        source.add_new(keyword, "US", 1)
    derived = derived_from(tmp_path, source)
    pixels = derived.pixel_array
    assert (derived.SmallestImagePixelValue, derived.LargestImagePixelValue) == (pixels.min(), pixels.max())
    assert "SmallestPixelValueInSeries" not in derived
    assert "LargestPixelValueInSeries" not in derived
    assert "SmallestImagePixelValue" not in derived_from(tmp_path, dx_dataset(STORED))


def test_what_shows_or_signs_the_source_is_removed(tmp_path: Path) -> None:
    icon, signature, item = Dataset(), Dataset(), Dataset()
    icon.Rows = 1
    signature.DigitalSignatureUID = "1.2.3"
    item.DigitalSignaturesSequence = Sequence([signature])
    item.ReferencedSOPInstanceUID = "1.2.4"
    source = dx_dataset(STORED, IconImageSequence=Sequence([icon]), ReferencedImageSequence=Sequence([item]))
    source.DigitalSignaturesSequence = Sequence([signature])
    source.MACParametersSequence = Sequence([Dataset()])
    source.SOPInstanceStatus = "AO"
    source.InstanceCreatorUID = "1.2.5"
    derived = derived_from(tmp_path, source)
    for keyword in (
        "IconImageSequence",
        "DigitalSignaturesSequence",
        "MACParametersSequence",
        "SOPInstanceStatus",
        "InstanceCreatorUID",
    ):
        assert keyword not in derived
    assert "DigitalSignaturesSequence" not in derived.ReferencedImageSequence[0]
    assert derived.ReferencedImageSequence[0].ReferencedSOPInstanceUID == "1.2.4"


@pytest.mark.parametrize("stated", [None, "00", "01"])
def test_lossy_compression_is_never_denied(tmp_path: Path, stated: str | None) -> None:
    ratio = {"LossyImageCompressionRatio": "7", "LossyImageCompressionMethod": "ISO_14495_1"} if stated == "01" else {}
    source = dx_dataset(STORED, LossyImageCompression=stated, **ratio)
    derived = derived_from(tmp_path, source)
    assert derived.get("LossyImageCompression") == stated
    assert derived.get("LossyImageCompressionMethod") == ratio.get("LossyImageCompressionMethod")


def test_synthetic_data_is_passed_on_and_never_claimed(tmp_path: Path) -> None:
    assert derived_from(tmp_path, dx_dataset(STORED, SyntheticData="YES")).SyntheticData == "YES"
    assert "SyntheticData" not in derived_from(tmp_path, dx_dataset(STORED))


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless]
)
def test_every_other_attribute_keeps_its_very_bytes(tmp_path: Path, syntax: UID) -> None:
    source = dx_dataset(STORED, RescaleSlope="1.000", WindowCenter="0100", WindowWidth="2e3", SeriesNumber=None)
    block = source.private_block(0x0029, "PHANTOM WORKS", create=True)
    block.add_new(0x01, "UN", b"\x00\x01\xff\xfe")
    block.add_new(0x02, "LO", "  spaces kept  ")
    # An empty element that pydicom knows with another VR.
    source.private_block(0x0009, "GEMS_IDEN_01", create=True).add_new(0x30, "UN", b"")
    source.add_new("ReferringPhysicianName", "PN", "")
    nested = Dataset()
    nested.private_block(0x0029, "PHANTOM WORKS", create=True).add_new(0x03, "FD", 0.1)
    source.RequestAttributesSequence = Sequence([nested])
    path = save(set_transfer_syntax(source, UID(syntax)), tmp_path / "source.dcm")
    derive_file(path, tmp_path / "derived.dcm", context())
    with open_part10(path) as before, open_part10(tmp_path / "derived.dcm") as after:
        assert after.transfer_syntax_uid == syntax
        assert unexpected_differences(before.header, after.header) == ()
        changed = {difference.tag for difference in find_differences(before.header, after.header)}
        for tag in before.header.keys() - changed:
            one, other = before.header.get_item(tag), after.header.get_item(tag)
            assert getattr(one, "value", None) == getattr(other, "value", None)
        for tag in (0x00281053, 0x00281050, 0x00291001, 0x00291002):
            assert before.header.get_item(tag).value == after.header.get_item(tag).value


def test_the_list_of_differences_finds_what_is_not_on_it() -> None:
    source = dx_dataset(STORED)
    changed = dx_dataset(STORED, PatientID="OTHER", KVP=None, PatientComments="new")
    found = {d.tag for d in unexpected_differences(source, changed)}
    assert {0x00100020, 0x00180060, 0x00104000} <= found
    entries = [(entry.within, entry.tag) for entry in ALLOWED_DIFFERENCES]
    assert len(entries) == len(set(entries))


def test_the_source_is_left_as_it_is(tmp_path: Path) -> None:
    path = save(dx_dataset(STORED), tmp_path / "source.dcm")
    with open_part10(path) as part10:
        header = part10.header
        before = {tag: header.get_item(tag, keep_deferred=True) for tag in header.keys()}  # noqa: SIM118
        spec = read_spec(header)
        with frame_writer(spec) as writer:
            for frame in iter_frames(part10, spec):
                writer.add(frame, frame.cells)
            derive(header, writer.finish(), context())
        assert set(header.keys()) == set(before)
        assert all(header.get_item(tag, keep_deferred=True) is element for tag, element in before.items())


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "SeriesInstanceUID"])
def test_a_source_without_uids_has_no_derived_object(tmp_path: Path, keyword: str) -> None:
    path = save(dx_dataset(STORED), tmp_path / "source.dcm")
    source = pydicom.dcmread(path)
    source[keyword].value = ""
    pydicom.dcmwrite(path, source)
    with pytest.raises(DerivationError, match=f"{keyword} is missing"):
        derive_data_set(path, context())


# -- every kind of image ------------------------------------------------------------------------------

KINDS: dict[str, tuple[Callable[..., Dataset], NDArray[np.uint16], list[str], list[str]]] = {
    "CR": (cr_dataset, STORED, ["ORIGINAL", "PRIMARY"], ["DERIVED", "PRIMARY", "", "DENOISED"]),
    "DX": (dx_dataset, STORED, ["ORIGINAL", "PRIMARY", ""], ["DERIVED", "PRIMARY", "", "DENOISED"]),
    "MG": (
        mg_dataset,
        STORED,
        ["ORIGINAL", "PRIMARY", "POST_CONTRAST"],
        ["DERIVED", "PRIMARY", "POST_CONTRAST", "DENOISED"],
    ),
    "IO": (io_dataset, STORED, ["ORIGINAL", "SECONDARY", ""], ["DERIVED", "SECONDARY", "", "DENOISED"]),
    "XA": (xa_dataset, CINE, ["ORIGINAL", "PRIMARY", "BIPLANE A"], ["DERIVED", "PRIMARY", "BIPLANE A", "DENOISED"]),
    "RF": (
        rf_dataset,
        CINE,
        ["ORIGINAL", "PRIMARY", "SINGLE PLANE", "ROAD MAP"],
        ["DERIVED", "PRIMARY", "SINGLE PLANE", "ROAD MAP", "DENOISED"],
    ),
    "CT": (
        ct_dataset,
        STORED,
        ["ORIGINAL", "PRIMARY", "AXIAL", "HELIX"],
        ["DERIVED", "PRIMARY", "AXIAL", "HELIX", "DENOISED"],
    ),
}


@pytest.mark.parametrize("equipment", ["standard", "preserve"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_is_derived_in_both_modes(tmp_path: Path, kind: str, equipment: str) -> None:
    make, stored, before, after = KINDS[kind]
    source = make(stored, ImageType=before, FrameOfReferenceUID="1.2.6", IrradiationEventUID="1.2.7")
    source.add_new("ContentLabel", "CS", "KEPT")
    path = save(source, tmp_path / "source.dcm")
    assert is_enhanceable(source, (kind,)).enhance
    derived = pydicom.dcmread(derive_file(path, tmp_path / "derived.dcm", context(equipment=equipment)))
    assert list(derived.ImageType) == after
    assert derived.Modality == kind
    for keyword in (
        "SOPClassUID",
        "StudyInstanceUID",
        "FrameOfReferenceUID",
        "IrradiationEventUID",
        "PresentationIntentType",
        "InstanceNumber",
        "AccessionNumber",
        "PatientID",
        "AcquisitionDate",
        "AcquisitionTime",
        "PhotometricInterpretation",
        "BitsStored",
        "RescaleSlope",
        "PresentationLUTShape",
        "ContentLabel",
    ):
        assert derived.get(keyword) == source.get(keyword), keyword
    purposes = [item.PurposeOfReferenceCodeSequence[0].CodeValue for item in derived.ContributingEquipmentSequence]
    assert (derived.Manufacturer, purposes) == (
        ("dicom-node", ["109101"]) if equipment == "standard" else ("Phantom Works", ["109102"])
    )
    with open_part10(path) as one, open_part10(tmp_path / "derived.dcm") as other:
        assert unexpected_differences(one.header, other.header) == ()


# -- text in its character set ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("charset", "description", "name"),
    [
        ("ISO_IR 192", "Thorax p.a. 胸部 🫁", "Kałużny^Żółć=山田^太郎=やまだ^たろう"),
        ("GB18030", "胸部正位片", "Wang^XiaoDong=王^小东"),
        ("GBK", "胸部正位片", "Wang^XiaoDong=王^小东"),
        ("ISO_IR 101", "Klatka piersiowa", "Kałużny^Żółć"),
        ("ISO_IR 126", "Ακτινογραφία θώρακα", "Διονυσιος"),
        ("ISO_IR 138", "צילום חזה", "שרון^דבורה"),
        ("ISO_IR 166", "ทรวงอก", "นามสกุล^ชื่อ"),
        ("ISO_IR 13", "ｷﾖｳﾌﾞ", "ﾔﾏﾀﾞ^ﾀﾛｳ"),
        (["", "ISO 2022 IR 149"], "흉부 PA", "Hong^Gildong=洪^吉洞=홍^길동"),
        (["ISO 2022 IR 13", "ISO 2022 IR 87"], "胸部 ｷﾖｳﾌﾞ", "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
        (["ISO 2022 IR 6", "ISO 2022 IR 100", "ISO 2022 IR 144"], "Schädel Череп", "Buc^Jérôme=Люкceмбypг"),
    ],
)
def test_text_keeps_its_bytes_and_the_suffix_follows_in_the_same_character_set(
    tmp_path: Path, charset: Any, description: str, name: str
) -> None:
    source = dx_dataset(STORED, SpecificCharacterSet=charset, StudyDescription=description, PatientName=name)
    source.SeriesDescription = description
    path = save(source, tmp_path / "source.dcm")
    derive_file(path, tmp_path / "derived.dcm", context())
    with open_part10(path) as before, open_part10(tmp_path / "derived.dcm") as after:
        for keyword in ("PatientName", "StudyDescription", "SpecificCharacterSet"):
            tag = tag_for_keyword(keyword)
            assert tag is not None
            assert before.header.get_item(tag).value == after.header.get_item(tag).value, keyword
        described = [part10.header.get_item(SERIES_DESCRIPTION).value.rstrip(b" ") for part10 in (before, after)]
        assert described[1].startswith(described[0])
        assert described[1][len(described[0]) :].endswith(b" (denoised)")
        assert after.header.SeriesDescription == f"{description} (denoised)"


@pytest.mark.parametrize("equipment", ["standard", "preserve"])
@pytest.mark.parametrize(
    ("charset", "text"),
    [
        ("\\ISO 2022 IR 58", b"\x1b$)A\xd0\xd8\xb2\xbf"),
        ("\\ISO 2022 IR 149", b"\x1b$)C\xc8\xe4\xba\xce PA"),
        ("\\ISO 2022 IR 87", b"\x1b$B6;It\x1b(B PA"),
        ("ISO_IR 13", b"\xb7\xd6\xb3\xcc\xde PA"),
        ("ISO 2022 IR 13\\ISO 2022 IR 87", b"\xb7\xd6\xb3\xcc\xde\x1b$B6;It\x1b(J"),
        ("GB18030", b"\xd0\xd8\xb2\xbf"),
        ("ISO_IR 192", "胸部 🫁".encode()),
    ],
)
def test_bytes_of_another_maker_stay_and_the_suffix_is_put_after_them(
    tmp_path: Path, charset: str, text: bytes, equipment: str
) -> None:
    """Texts as a modality may write them, which are not always those that pydicom would write."""
    source = dx_dataset(STORED, SpecificCharacterSet=charset.split("\\"))
    for keyword in TEXTS:
        source.add_new(keyword, "PN" if keyword == "PatientName" else "LO", "x" * (len(text) + len(text) % 2))
    path = save(source, tmp_path / "source.dcm")
    path.write_bytes(path.read_bytes().replace(b"x" * (len(text) + len(text) % 2), text + b" " * (len(text) % 2)))
    derive_file(path, tmp_path / "derived.dcm", context(equipment=equipment))
    with open_part10(path) as before, open_part10(tmp_path / "derived.dcm") as after:
        for keyword in TEXTS:
            tag = tag_for_keyword(keyword)
            assert tag is not None
            one, other = before.header.get_item(tag).value, after.header.get_item(tag).value
            assert one.rstrip(b" ") == text
            assert other.rstrip(b" ") == text + b" (denoised)" * (keyword == "SeriesDescription")
        if equipment == "standard":
            item = after.header.ContributingEquipmentSequence[0]
            assert item.get_item(INSTITUTION_NAME).value.rstrip(b" ") == text


@pytest.mark.parametrize(
    ("charset", "character"),
    [("ISO_IR 192", "胸"), ("GB18030", "胸"), (["", "ISO 2022 IR 87"], "胸"), ("ISO_IR 100", "ö")],
)
def test_long_text_is_cut_by_characters_and_stays_whole_in_bytes(tmp_path: Path, charset: Any, character: str) -> None:
    source = dx_dataset(STORED, SpecificCharacterSet=charset, SeriesDescription=character * 64)
    source.DerivationDescription = character * 1024
    derived = derived_from(tmp_path, source)
    # LO holds 64 characters and ST 1024, whatever they take in bytes (PS3.5 6.2).
    assert derived.SeriesDescription == character * 53 + " (denoised)"
    sentence, former = derived.DerivationDescription.split(" Source: ")
    assert sentence.endswith("in stored values.")
    assert former == character * (1024 - len(sentence) - len(" Source: "))


def test_names_of_node_and_model_are_cut_to_their_vr(tmp_path: Path) -> None:
    circumstances = {"node_name": "n" * 64, "model_name": "m" * 100, "node_version": "1." + "2" * 80}
    derived = derived_from(tmp_path, dx_dataset(STORED), **circumstances)
    assert derived.StationName == "n" * 16
    assert [len(value) for value in derived.SoftwareVersions] == [64, 64, 64]
    node = derived_from(tmp_path, dx_dataset(STORED), equipment="preserve", **circumstances)
    assert node.ContributingEquipmentSequence[0].StationName == "n" * 16


def test_text_of_a_character_set_that_nobody_knows_is_left_alone(tmp_path: Path) -> None:
    path = save(dx_dataset(STORED, SpecificCharacterSet="ISO_IR 100"), tmp_path / "source.dcm")
    path.write_bytes(path.read_bytes().replace(b"ISO_IR 100", b"ISO_IR 999").replace(b"Chest PA", b"Chest \xd6A"))
    derive_file(path, tmp_path / "derived.dcm", context())
    with open_part10(path) as before, open_part10(tmp_path / "derived.dcm") as after:
        assert unexpected_differences(before.header, after.header) == ()


# -- private attributes -------------------------------------------------------------------------------


@pytest.mark.parametrize("equipment", ["standard", "preserve"])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_private_attributes_are_in_the_file_as_they_were(tmp_path: Path, syntax: UID, equipment: str) -> None:
    source = dx_dataset(STORED)
    for group, creator in ((0x0029, "PHANTOM WORKS"), (0x0029, "OTHER WORKS"), (0x0051, "SIEMENS MR HEADER")):
        block = source.private_block(group, creator, create=True)
        block.add_new(0x01, "UN", b"\x00\x01\xff\xfe\x7f\x00")
        block.add_new(0x02, "LO", "  odd")
        block.add_new(0x03, "DS", "1.50000")
        block.add_new(0x04, "OB", bytes(range(256)))
        block.add_new(0x05, "LT", "")
    item, nested = Dataset(), Dataset()
    nested.private_block(0x0029, "PHANTOM WORKS", create=True).add_new(0x07, "UN", b"\xfe\xff\x00\xe0")
    item.private_block(0x0029, "PHANTOM WORKS", create=True).add_new(0x06, "FD", 0.1)
    item.RequestAttributesSequence = Sequence([nested])
    source.private_block(0x0029, "PHANTOM WORKS").add_new(0x08, "SQ", Sequence([item, Dataset()]))
    path = save(set_transfer_syntax(source, syntax), tmp_path / "source.dcm")
    derived = derive_file(path, tmp_path / "derived.dcm", context(equipment=equipment)).read_bytes()
    assert private_bytes(path.read_bytes(), syntax, 0x0029) in derived
    assert private_bytes(path.read_bytes(), syntax, 0x0051) in derived


ELEMENT = struct.pack("<HHI", 0x0029, 0x1002, 4) + b"\x01\x02\x03\x04"
UNDEFINED = 0xFFFFFFFF
OPEN_ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED) + ELEMENT + struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
END = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


@pytest.mark.parametrize("equipment", ["standard", "preserve"])
@pytest.mark.parametrize(
    ("syntax", "hidden"),
    [
        (
            ExplicitVRLittleEndian,
            struct.pack("<HH2sHII", 0x0029, 0x1001, b"UN", 0, 20, 0xE000FFFE) + struct.pack("<I", 12) + ELEMENT,
        ),
        (
            ExplicitVRLittleEndian,
            struct.pack("<HH2sHI", 0x0029, 0x1001, b"UN", 0, UNDEFINED) + OPEN_ITEM + END,
        ),
        (
            ExplicitVRLittleEndian,
            struct.pack("<HH2sHI", 0x0029, 0x1001, b"UN", 0, UNDEFINED) + OPEN_ITEM + OPEN_ITEM + END,
        ),
        (ImplicitVRLittleEndian, struct.pack("<HHI", 0x0029, 0x1001, UNDEFINED) + OPEN_ITEM + END),
        (
            ImplicitVRLittleEndian,
            struct.pack("<HHI", 0x0029, 0x1001, 20) + struct.pack("<HHI", 0xFFFE, 0xE000, 12) + ELEMENT,
        ),
    ],
    ids=["UN", "UN-undefined", "UN-two-items", "implicit-undefined", "implicit"],
)
def test_private_sequences_of_every_encoding_keep_their_bytes(
    tmp_path: Path, syntax: UID, hidden: bytes, equipment: str
) -> None:
    source = dx_dataset(STORED)
    source.private_block(0x0029, "PHANTOM WORKS", create=True).add_new(0x01, "LO", "REPLACE ME")
    path = save(set_transfer_syntax(source, syntax), tmp_path / "source.dcm")
    written = path.read_bytes()
    start = written.index(struct.pack("<HH", 0x0029, 0x1001))
    end = written.index(b"REPLACE ME") + 10
    path.write_bytes(written[:start] + hidden + written[end:])
    derived = derive_file(path, tmp_path / "derived.dcm", context(equipment=equipment))
    # The element that comes next is there too, so the sequence ends where it did.
    assert hidden + written[end : end + 8] in path.read_bytes()
    assert hidden + written[end : end + 8] in derived.read_bytes()
    assert pydicom.dcmread(derived).pixel_array.shape == STORED.shape


def private_bytes(file: bytes, syntax: UID, group: int) -> bytes:
    """Return the part of a file from the first private creator of a group to the next public group."""
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    start = file.index(struct.pack(f"{order}HH", group, 0x0010))
    following = {0x0029: (0x0040, 0x0555), 0x0051: (0x7FE0, 0x0010)}[group]
    end = file.index(struct.pack(f"{order}HH", *following), start)
    if group == 0x0029:
        end = min(end, file.index(struct.pack(f"{order}HH", 0x0040, 0x0555), start))
    return file[start:end]


# -- display, padding, overlays -----------------------------------------------------------------------


def test_what_belongs_to_the_display_is_untouched(tmp_path: Path) -> None:
    source = dx_dataset(
        STORED,
        for_presentation=True,
        PixelPaddingValue=0,
        PixelPaddingRangeLimit=7,
        ShutterShape="RECTANGULAR",
        ShutterLeftVerticalEdge=1,
        ShutterRightVerticalEdge=18,
        ShutterUpperHorizontalEdge=2,
        ShutterLowerHorizontalEdge=20,
        ShutterPresentationValue=0,
        VOILUTFunction="SIGMOID",
        WindowCenter=["0100.50", "2e3"],
        WindowWidth=["4.0", "10"],
    )
    table = Dataset()
    table.LUTDescriptor, table.LUTExplanation, table.LUTData = [4, 0, 16], "table", b"\x00\x00\x01\x00\x02\x00\x03\x00"
    source.VOILUTSequence = Sequence([table])
    source.add_new(0x60000010, "US", 24)
    source.add_new(0x60000011, "US", 20)
    source.add_new(0x60000040, "CS", "G")
    source.add_new(0x60000050, "SS", [1, 1])
    source.add_new(0x60000100, "US", 1)
    source.add_new(0x60000102, "US", 0)
    source.add_new(0x60003000, "OW", bytes(range(60)))
    path = save(source, tmp_path / "source.dcm")
    derive_file(path, tmp_path / "derived.dcm", context())
    with open_part10(path) as before, open_part10(tmp_path / "derived.dcm") as after:
        kept = [tag for tag in before.header.keys() if tag.group in (0x0018, 0x0028, 0x6000)]  # noqa: SIM118
        assert len(kept) > 40
        for tag in kept:
            if tag in (0x00181000, 0x00181020):
                continue
            assert before.header.get_item(tag).value == after.header.get_item(tag).value, tag


def test_smallest_and_largest_of_signed_pixels_are_signed(tmp_path: Path) -> None:
    source = ct_dataset(STORED, PixelRepresentation=1, RescaleIntercept="0")
    values = STORED.astype(np.int16) - 2048
    source.PixelData = (values & 0x0FFF).astype("<u2").tobytes()
    source.add_new("SmallestImagePixelValue", "SS", 0)
    source.add_new("LargestImagePixelValue", "SS", 0)
    derived = derived_from(tmp_path, source)
    assert derived["SmallestImagePixelValue"].VR == derived["LargestImagePixelValue"].VR == "SS"
    expected = (derived.pixel_array.astype(np.int16) << 4) >> 4
    assert (derived.SmallestImagePixelValue, derived.LargestImagePixelValue) == (expected.min(), expected.max())
    assert derived.SmallestImagePixelValue < 0


@pytest.mark.parametrize(
    ("stated", "method", "expected"),
    [
        (None, None, "ISO_10918_1"),
        ("00", None, "ISO_10918_1"),
        ("00", "ISO_15444_1", "ISO_15444_1"),
        ("01", "ISO_15444_1", "ISO_15444_1"),
    ],
)
def test_a_source_whose_encoding_is_lossy_is_said_to_be_lossy(
    tmp_path: Path, stated: str | None, method: str | None, expected: str
) -> None:
    smooth = np.linspace(20, 230, 24 * 20).reshape(24, 20).astype(np.uint8)
    source = cr_dataset(smooth, bits_stored=8, LossyImageCompression=stated, LossyImageCompressionMethod=method)
    jpeg = BytesIO()
    Image.fromarray(smooth).save(jpeg, "JPEG", quality=90)
    source.PixelData = encapsulate([jpeg.getvalue()])
    source["PixelData"].is_undefined_length = True
    source.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    derived = derived_from(tmp_path, source)
    assert derived.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert (derived.LossyImageCompression, derived.LossyImageCompressionMethod) == ("01", expected)


def test_an_extended_offset_table_goes_with_the_frames_that_it_points_to(tmp_path: Path) -> None:
    source = set_transfer_syntax(xa_dataset(CINE), RLELossless)
    frames = list(generate_frames(source.PixelData, number_of_frames=3))
    source.PixelData, source.ExtendedOffsetTable, source.ExtendedOffsetTableLengths = encapsulate_extended(frames)
    source["PixelData"].is_undefined_length = True
    derived = derived_from(tmp_path, source)
    assert derived.file_meta.TransferSyntaxUID == RLELossless
    assert "ExtendedOffsetTable" not in derived
    assert "ExtendedOffsetTableLengths" not in derived
    assert np.abs(derived.pixel_array.astype(int) - CINE).max() <= 2


def test_the_node_states_when_it_contributed_with_its_offset_where_the_object_has_none(tmp_path: Path) -> None:
    derived = derived_from(tmp_path, dx_dataset(STORED), equipment="preserve")
    assert derived.ContributingEquipmentSequence[0].ContributionDateTime == "20260506070809.123456+0000"


def test_a_contributor_stays_before_the_node_in_mode_preserve(tmp_path: Path) -> None:
    earlier = Dataset()
    earlier.Manufacturer = "Stitching Works"
    earlier.PurposeOfReferenceCodeSequence = Sequence([code("109102", "DCM", "Processing Equipment")])
    source = cr_dataset(STORED, ContributingEquipmentSequence=Sequence([earlier]), ImageType=["DERIVED", "PRIMARY"])
    first, node = derived_from(tmp_path, source, equipment="preserve").ContributingEquipmentSequence
    assert (first.Manufacturer, node.Manufacturer) == ("Stitching Works", "dicom-node")


# -- what is enhanced ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ds", "classes", "reason"),
    [
        (dx_dataset(STORED), ("DX",), ""),
        (dx_dataset(STORED, for_presentation=True), ("DX",), ""),
        (cr_dataset(STORED), ("CR", "DX"), ""),
        (xa_dataset(CINE), ("XA",), ""),
        (xa_dataset(CINE), ("1.2.840.10008.5.1.4.1.1.12.1",), ""),
        (xa_dataset(CINE), ("CR", "DX"), "not enabled"),
        (dx_dataset(STORED, QualityControlImage="YES"), ("DX",), "quality control"),
        (dx_dataset(STORED, QualityControlImage="NO"), ("DX",), ""),
        (dx_dataset(STORED, SOPClassUID="1.2.840.10008.5.1.4.1.1.1.2"), ("CR", "DX", "IO", "XA", "RF"), "not enabled"),
        (
            dx_dataset(STORED, SOPClassUID="1.2.840.10008.5.1.4.1.1.12.1.1"),
            ("1.2.840.10008.5.1.4.1.1.12.1.1",),
            "groups",
        ),
        (dx_dataset(STORED, PhotometricInterpretation="RGB", SamplesPerPixel=3), ("DX",), "not grey"),
        (dx_dataset(STORED, Rows=None), ("DX",), "Rows is missing"),
        (sr_dataset(), ("DX",), "not enabled"),
        (private_dataset(), ("DX",), "not enabled"),
        (Dataset(), ("DX",), "without SOP class"),
    ],
)
def test_what_is_enhanced(ds: Dataset, classes: tuple[str, ...], reason: str) -> None:
    decision = is_enhanceable(ds, classes)
    assert decision.enhance == (reason == "")
    assert reason in decision.reason


@pytest.mark.parametrize("code_setting", ["private", "standard"])
def test_what_was_denoised_is_not_denoised_again(tmp_path: Path, code_setting: str) -> None:
    derived = derived_from(tmp_path, dx_dataset(STORED), derivation_code=code_setting)
    decision = is_enhanceable(derived, ("DX",))
    assert not decision.enhance
    assert "denoised" in decision.reason


def test_a_revision_of_a_source_has_a_derived_uid_of_its_own_and_the_first_keeps_the_formula() -> None:
    arguments = {
        "source_sop_instance_uid": "1.2.3",
        "source_pixel_digest": "a" * 64,
        "model_digest": "b" * 64,
        "strength": 0.7,
    }
    uids = {derived_sop_instance_uid(**arguments, revision_digest=d) for d in ("", "c" * 64, "d" * 64)}  # type: ignore[arg-type]
    assert len(uids) == 3
    assert derived_sop_instance_uid(**arguments) in uids  # type: ignore[arg-type]
