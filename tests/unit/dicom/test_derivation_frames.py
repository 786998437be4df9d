"""Enhanced multi-frame objects: each frame says that it is derived, all else in its groups keeps its bytes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    BreastTomosynthesisImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    EnhancedXAImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from dicom_node.derivation import (
    enabled_sop_class_uids,
    find_differences,
    is_enhanceable,
    unexpected_differences,
)
from dicom_node.derivation.frames import FRAME_TYPE_MACROS
from dicom_node.functional_groups import PER_FRAME, SHARED
from dicom_node.ledger.arrivals import EnhancementDecision
from dicom_node.part10 import open_part10
from dicom_node.pixels import read_spec
from model.domain import Domain
from tests.support.derived import context, derive_file
from tests.support.enhancing import StandInDenoiser, enhance
from tests.support.objects import (
    code,
    enhanced_xa_dataset,
    enhanced_xrf_dataset,
    pixel_data_properties,
    save,
    set_transfer_syntax,
    xa_dataset,
)

CINE = np.random.default_rng(21).integers(100, 1000, (3, 24, 20)).astype(np.uint16)
KINDS: dict[str, Callable[..., Dataset]] = {"XA": enhanced_xa_dataset, "RF": enhanced_xrf_dataset}


def derived_from(tmp_path: Path, source: Dataset, **circumstances: Any) -> Dataset:
    """Return what is derived from `source`, written and read again."""
    path = save(source, tmp_path / "source.dcm")
    return pydicom.dcmread(derive_file(path, tmp_path / "derived.dcm", context(**circumstances)))


def enhanced_ct_dataset() -> Dataset:
    """Return a little more than the functional groups of an Enhanced CT image, the frames of two kinds."""
    ds = xa_dataset(CINE, SOPClassUID=EnhancedCTImageStorage, Modality="CT", PixelIntensityRelationship=None)
    ds.ImageType = ["MIXED", "PRIMARY", "VOLUME", "NONE"]
    groups = []
    for first in ("ORIGINAL", "DERIVED", "ORIGINAL"):
        group, frame_type = Dataset(), Dataset()
        frame_type.FrameType = [first, "PRIMARY", "VOLUME", "NONE"]
        frame_type.PixelPresentation, frame_type.VolumetricProperties = "MONOCHROME", "VOLUME"
        frame_type.VolumeBasedCalculationTechnique = "NONE"
        group.CTImageFrameTypeSequence = Sequence([frame_type])
        groups.append(group)
    ds.SharedFunctionalGroupsSequence = Sequence([Dataset()])
    ds.PerFrameFunctionalGroupsSequence = Sequence(groups)
    return ds


def frame_types(ds: Dataset) -> list[list[str]]:
    groups = [*ds[SHARED].value, *ds[PER_FRAME].value]
    return [list(item.FrameType) for group in groups for macro in FRAME_TYPE_MACROS for item in group.get(macro, ())]


# -- what the frames say ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("per_frame", "groups"), [(False, 1), (True, 3)])
def test_image_type_and_every_frame_type_are_derived_with_four_values(
    tmp_path: Path, kind: str, per_frame: bool, groups: int
) -> None:
    derived = derived_from(tmp_path, KINDS[kind](CINE, per_frame_properties=per_frame))
    assert list(derived.ImageType) == ["DERIVED", "PRIMARY", "ANGIO", "NONE"]
    assert frame_types(derived) == [["DERIVED", "PRIMARY", "ANGIO", "NONE"]] * groups


def test_frames_of_two_kinds_are_no_longer_mixed(tmp_path: Path) -> None:
    derived = derived_from(tmp_path, enhanced_ct_dataset())
    assert list(derived.ImageType) == ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
    assert frame_types(derived) == [["DERIVED", "PRIMARY", "VOLUME", "NONE"]] * 3
    for group in derived[PER_FRAME].value:
        (frame_type,) = group.CTImageFrameTypeSequence
        assert (frame_type.PixelPresentation, frame_type.VolumetricProperties) == ("MONOCHROME", "VOLUME")
        assert frame_type.VolumeBasedCalculationTechnique == "NONE"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("NONE", ["DENOISED"]),
        ("DIGITAL_SUBTR", ["DIGITAL_SUBTR", "DENOISED"]),
        (["HIGH_PASS_FILTER", "FRAME_AVG"], ["HIGH_PASS_FILTER", "FRAME_AVG", "DENOISED"]),
    ],
)
def test_image_processing_applied_names_denoising(tmp_path: Path, before: Any, after: list[str]) -> None:
    source = enhanced_xa_dataset(CINE)
    source[SHARED].value[0].FramePixelDataPropertiesSequence[0].ImageProcessingApplied = before
    (item,) = derived_from(tmp_path, source)[SHARED].value[0].FramePixelDataPropertiesSequence
    applied = item.ImageProcessingApplied
    assert ([applied] if isinstance(applied, str) else list(applied)) == after


# -- what they were derived from ----------------------------------------------------------------------


def test_the_derivation_is_shared_by_the_frames(tmp_path: Path) -> None:
    source = enhanced_xa_dataset(CINE)
    derived = derived_from(tmp_path, source)
    (item,) = derived[SHARED].value[0].DerivationImageSequence
    assert item.DerivationDescription.startswith("Denoised by dicom-node 0.1.0 with model lite")
    assert [c.CodeValue for c in item.DerivationCodeSequence] == ["DENOISE"]
    (image,) = item.SourceImageSequence
    assert (image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID) == (source.SOPClassUID, source.SOPInstanceUID)
    assert image.SpatialLocationsPreserved == "YES"
    assert image.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    assert "ReferencedFrameNumber" not in image
    assert not any("DerivationImageSequence" in group for group in derived[PER_FRAME].value)
    # General Image is no module of these classes.
    assert not {"DerivationDescription", "DerivationCodeSequence", "SourceImageSequence"} & set(derived.dir())


def earlier_derivation(uid: str) -> Dataset:
    item, image = Dataset(), Dataset()
    item.DerivationCodeSequence = Sequence([code("113062", "DCM", "Pixel by pixel subtraction")])
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = EnhancedXAImageStorage, uid
    image.PurposeOfReferenceCodeSequence = Sequence([code("121322", "DCM", "Source image")])
    item.SourceImageSequence = Sequence([image])
    return item


def test_an_earlier_shared_derivation_stays_before_ours(tmp_path: Path) -> None:
    source = enhanced_xa_dataset(CINE)
    source[SHARED].value[0].DerivationImageSequence = Sequence([earlier_derivation("1.2.9")])
    earlier, ours = derived_from(tmp_path, source)[SHARED].value[0].DerivationImageSequence
    assert earlier == earlier_derivation("1.2.9")
    assert ours.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID


def test_where_frames_have_derivations_each_names_the_frame_that_it_comes_from(tmp_path: Path) -> None:
    source = enhanced_xa_dataset(CINE)
    for number, group in enumerate(source[PER_FRAME].value):
        group.DerivationImageSequence = Sequence([earlier_derivation(f"1.2.{number}")])
    derived = derived_from(tmp_path, source)
    assert "DerivationImageSequence" not in derived[SHARED].value[0]
    for number, group in enumerate(derived[PER_FRAME].value):
        earlier, ours = group.DerivationImageSequence
        assert earlier == earlier_derivation(f"1.2.{number}")
        (image,) = ours.SourceImageSequence
        assert (image.ReferencedSOPInstanceUID, image.ReferencedFrameNumber) == (source.SOPInstanceUID, number + 1)


def test_a_shared_derivation_beside_those_of_some_frames_goes_to_the_others(tmp_path: Path) -> None:
    source = enhanced_xa_dataset(CINE)
    source[SHARED].value[0].DerivationImageSequence = Sequence([earlier_derivation("1.2.99")])
    source[PER_FRAME].value[1].DerivationImageSequence = Sequence([earlier_derivation("1.2.1")])
    derived = derived_from(tmp_path, source)
    assert "DerivationImageSequence" not in derived[SHARED].value[0]
    first = [group.DerivationImageSequence[0] for group in derived[PER_FRAME].value]
    assert first == [earlier_derivation("1.2.99"), earlier_derivation("1.2.1"), earlier_derivation("1.2.99")]
    assert [len(group.DerivationImageSequence) for group in derived[PER_FRAME].value] == [2, 2, 2]


def test_without_a_shared_group_the_frames_say_it_themselves(tmp_path: Path) -> None:
    source = enhanced_xa_dataset(CINE, per_frame_properties=True, SharedFunctionalGroupsSequence=Sequence([]))
    derived = derived_from(tmp_path, source)
    numbers = [
        group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        for group in derived[PER_FRAME].value
    ]
    assert numbers == [1, 2, 3]


def evidence(ds: Dataset) -> list[tuple[str, str, str]]:
    return [
        (study.StudyInstanceUID, series.SeriesInstanceUID, image.ReferencedSOPInstanceUID)
        for study in ds.SourceImageEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for image in series.ReferencedSOPSequence
    ]


def test_the_source_is_listed_as_evidence_once_beside_earlier_ones(tmp_path: Path) -> None:
    source = enhanced_xa_dataset(CINE)
    study, series, uid = source.StudyInstanceUID, source.SeriesInstanceUID, source.SOPInstanceUID
    derived = derived_from(tmp_path, source)
    assert evidence(derived) == [(study, series, uid)]
    assert derived.SourceImageEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[
        0
    ].ReferencedSOPClassUID == (EnhancedXAImageStorage)
    for known in ((study, series, "1.2.3"), (study, "1.2.4", "1.2.5"), ("1.2.6", "1.2.7", "1.2.8")):
        listed = copy.deepcopy(derived.SourceImageEvidenceSequence)
        listed[0].StudyInstanceUID = known[0]
        listed[0].ReferencedSeriesSequence[0].SeriesInstanceUID = known[1]
        listed[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID = known[2]
        source.SourceImageEvidenceSequence = listed
        again = derived_from(tmp_path, source)
        assert evidence(again) == [known, (study, series, uid)]
        keys = [item.StudyInstanceUID for item in again.SourceImageEvidenceSequence]
        assert len(keys) == len(set(keys))


@pytest.mark.parametrize("equipment", ["standard", "preserve"])
def test_a_device_serial_number_is_always_there(tmp_path: Path, equipment: str) -> None:
    derived = derived_from(tmp_path, enhanced_xa_dataset(CINE), equipment=equipment)
    # Type 1 in Enhanced General Equipment, PS3.3 C.7.5.2.
    assert derived.DeviceSerialNumber == ("node1" if equipment == "standard" else "0001")


# -- what stays ---------------------------------------------------------------------------------------


def raw_values(ds: Dataset, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], bytes]]:
    """Yield path and bytes of every value in the functional groups, as they are in the file."""
    for tag in ds.keys():  # noqa: SIM118
        element = ds.get_item(tag, keep_deferred=True)
        if isinstance(element, RawDataElement) and element.VR not in ("SQ", None):
            yield (*path, str(tag)), element.value or b""
            continue
        if isinstance(element, RawDataElement) and ds[tag].VR != "SQ":
            yield (*path, str(tag)), element.value or b""
            continue
        for number, item in enumerate(ds[tag].value):
            yield from raw_values(item, (*path, f"{tag}[{number}]"))


def groups_of(path: Path) -> dict[tuple[str, ...], bytes]:
    with open_part10(path) as part10:
        groups = Dataset({Tag: part10.header.get_item(Tag) for Tag in (0x52009229, 0x52009230)})
        groups.set_original_encoding(*part10.header.original_encoding, part10.header.original_character_set)
        return dict(raw_values(groups))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
@pytest.mark.parametrize("per_frame", [False, True])
def test_all_else_in_the_functional_groups_keeps_its_very_bytes(tmp_path: Path, syntax: UID, per_frame: bool) -> None:
    source = enhanced_xa_dataset(CINE, per_frame_properties=per_frame)
    for group in source[PER_FRAME].value:
        block = group.private_block(0x0029, "PHANTOM WORKS", create=True)
        block.add_new(0x01, "UN", b"\x00\x01\xff\xfe")
        group.FrameContentSequence[0].add_new("FrameComments", "LT", "  spaces kept ")
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = EnhancedXAImageStorage, "1.2.3"
    source[SHARED].value[0].ReferencedImageSequence = Sequence([reference])
    path = save(set_transfer_syntax(source, UID(syntax)), tmp_path / "source.dcm")
    after_path = derive_file(path, tmp_path / "derived.dcm", context())
    before, after = groups_of(path), groups_of(after_path)
    assert b"080.0 " in before.values()
    changed = {key for key in before if after.get(key) != before[key]}
    assert {key[-1] for key in changed} == {"(0008,9007)", "(0028,9446)"}
    added = {key for key in after if key not in before}
    assert {key[1] for key in added} == {"(0008,9124)[0]"}
    with open_part10(path) as one, open_part10(after_path) as other:
        assert other.transfer_syntax_uid == syntax
        assert unexpected_differences(one.header, other.header) == ()


def test_differences_within_functional_groups_are_found_one_by_one(tmp_path: Path) -> None:
    source = enhanced_xa_dataset(CINE, per_frame_properties=True)
    derived = derived_from(tmp_path, source)
    source = pydicom.dcmread(tmp_path / "source.dcm")
    assert unexpected_differences(source, derived) == ()
    wrong: list[tuple[str, Callable[[Dataset], object]]] = [
        # A sequence that is not looked into differs as a whole.
        (f"{PER_FRAME}.FrameAcquisitionSequence", lambda g: setattr(g.FrameAcquisitionSequence[0], "KVP", "81")),
        (f"{PER_FRAME}.FrameVOILUTSequence", lambda g: g.pop("FrameVOILUTSequence")),
        (f"{PER_FRAME}.FrameComments", lambda g: setattr(g, "FrameComments", "new")),
        (
            f"{PER_FRAME}.FramePixelDataPropertiesSequence.PixelIntensityRelationship",
            lambda g: setattr(g.FramePixelDataPropertiesSequence[0], "PixelIntensityRelationship", "LOG"),
        ),
        (
            f"{PER_FRAME}.FramePixelDataPropertiesSequence",
            lambda g: g.FramePixelDataPropertiesSequence.append(Dataset()),
        ),
    ]
    for name, change in wrong:
        altered = copy.deepcopy(derived)
        change(altered[PER_FRAME].value[1])
        found = [
            str(difference).split(":")[0].split(" ", 1)[1] for difference in unexpected_differences(source, altered)
        ]
        assert found == [name]
    fewer = copy.deepcopy(derived)
    fewer[PER_FRAME].value.pop()
    assert [str(d).split(":")[0] for d in unexpected_differences(source, fewer)] == [f"(5200,9230) {PER_FRAME}"]
    assert any(difference.within for difference in find_differences(source, derived))


# -- what is enhanced, and how its values are read ----------------------------------------------------


def test_short_names_include_the_enhanced_classes_but_not_tomosynthesis() -> None:
    assert is_enhanceable(enhanced_xa_dataset(CINE), ("XA",)).enhance
    assert is_enhanceable(enhanced_xrf_dataset(CINE), ("RF",)).enhance
    assert is_enhanceable(enhanced_ct_dataset(), ("CT",)).enhance
    assert not is_enhanceable(enhanced_xa_dataset(CINE), ("RF", "DX", "CT")).enhance
    assert BreastTomosynthesisImageStorage not in enabled_sop_class_uids(("CR", "DX", "MG", "IO", "XA", "RF", "CT"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda ds: ds[PER_FRAME].value.pop(), "functional groups for 2 of 3 frames"),
        (lambda ds: ds.pop(PER_FRAME), "its frames have no functional groups"),
        (lambda ds: setattr(ds, "SOPClassUID", EnhancedMRImageStorage), "not supported for Enhanced MR"),
        (lambda ds: setattr(ds, "QualityControlImage", "YES"), "quality control"),
    ],
)
def test_what_is_passed_through(change: Callable[[Dataset], object], reason: str) -> None:
    ds = enhanced_xa_dataset(CINE)
    change(ds)
    decision = is_enhanceable(ds, ("XA", EnhancedMRImageStorage))
    assert not decision.enhance
    assert reason in decision.reason


@pytest.mark.parametrize("code_setting", ["private", "standard"])
@pytest.mark.parametrize("equipment", ["standard", "preserve"])
@pytest.mark.parametrize("make", [enhanced_xa_dataset, enhanced_xrf_dataset, lambda _: enhanced_ct_dataset()])
def test_what_was_denoised_is_not_denoised_again(
    tmp_path: Path, make: Callable[..., Dataset], equipment: str, code_setting: str
) -> None:
    derived = derived_from(tmp_path, make(CINE), equipment=equipment, derivation_code=code_setting)
    decision = is_enhanceable(derived, ("XA", "RF", "CT"))
    assert not decision.enhance
    assert "denoised" in decision.reason


@pytest.mark.parametrize("code_setting", ["private", "standard"])
def test_equipment_that_another_device_wrote_over_hides_nothing(tmp_path: Path, code_setting: str) -> None:
    derived = derived_from(tmp_path, enhanced_xa_dataset(CINE), derivation_code=code_setting)
    derived.Manufacturer = derived.ManufacturerModelName = "Other"
    assert not is_enhanceable(derived, ("XA",)).enhance


def test_the_intensity_relationship_of_each_frame_decides(tmp_path: Path) -> None:
    source = enhanced_xa_dataset(CINE, per_frame_properties=True)
    kinds = [("LIN", 1), ("LIN", -1), ("LOG", -1)]
    for group, (relationship, sign) in zip(source[PER_FRAME].value, kinds, strict=True):
        group.FramePixelDataPropertiesSequence = Sequence([pixel_data_properties(relationship=relationship, sign=sign)])
    denoiser = StandInDenoiser()
    record, _, path = enhance(source, tmp_path, denoiser)
    assert record.decision is EnhancementDecision.ENHANCED
    assert denoiser.domains == [Domain.LINEAR, Domain.LINEAR, Domain.LOG]
    assert path is not None
    # Where values fall as exposure rises, a value that loses exposure gains one.
    assert np.array_equal(pydicom.dcmread(path).pixel_array, CINE + np.array([-1, 1, -1])[:, None, None])


@pytest.mark.parametrize(
    ("relationship", "domain"), [("LIN", Domain.LINEAR), ("LOG", Domain.LOG), ("OTHER", Domain.DISPLAY)]
)
def test_a_shared_intensity_relationship_is_that_of_all_frames(
    tmp_path: Path, relationship: str, domain: Domain
) -> None:
    source = enhanced_xa_dataset(CINE)
    shared = source[SHARED].value[0]
    shared.FramePixelDataPropertiesSequence = Sequence([pixel_data_properties(relationship=relationship)])
    assert (read_spec(source).relationship, read_spec(source).frame_intensities) == (relationship, ())
    denoiser = StandInDenoiser()
    enhance(source, tmp_path, denoiser)
    assert denoiser.domains == [domain] * 3
