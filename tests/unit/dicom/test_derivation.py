"""The derived object, one test for each line of the table of what changes, and one for all that does not."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless

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
    dx_dataset,
    private_dataset,
    save,
    set_transfer_syntax,
    sr_dataset,
    xa_dataset,
)

STORED = np.random.default_rng(11).integers(100, 4000, (24, 20)).astype(np.uint16)
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
