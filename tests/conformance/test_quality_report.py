"""Quality reports: conformant, read alike by highdicom and DCMTK, the patient's attributes as the source has them."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pydicom
import pydicom.data
import pytest
from highdicom.sr import EnhancedSR
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node.derivation import is_enhanceable
from dicom_node.errors import UnsupportedPixels
from dicom_node.ledger.outcomes import ImageOutcome
from dicom_node.part10 import open_part10
from dicom_node.quality_report import COPIED
from dicom_node.transcoding import to_uncompressed
from tests.support.objects import code, save, set_transfer_syntax
from tests.support.quality_reports import (
    DERIVED_SERIES,
    MODEL_DIGEST,
    PAGE,
    SERIES,
    STUDY,
    context,
    dsrdump,
    enhanced,
    example_dump,
    numbers_of,
    page_with,
    passed_through,
    radiograph,
    report_on,
)
from tests.support.samples import SAMPLE_DATA

CLASSES = ("CR", "DX", "MG", "IO", "XA", "RF", "CT")
OUTCOMES = (
    enhanced(1),
    enhanced(2, strength=0.35, noise_before=1 / 3, noise_after=0.1, reason="strength lowered; grain is foreign"),
    enhanced(3, noise_before=None, noise_after=None),
    passed_through(4, "it is a quality control image"),
    passed_through(5, "Basic Text SR Storage is not enabled", sop_class_uid="1.2.840.10008.5.1.4.1.1.88.11"),
    passed_through(6, "a private class is not enabled", sop_class_uid="2.25.4711"),
)


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def real_sources() -> list[Path]:
    """Return one real image of each folder, SOP class, transfer syntax and character set."""
    found: dict[tuple[str, ...], Path] = {}
    for folder in (SAMPLE_DATA / "dicom", Path(pydicom.data.__file__).parent / "test_files"):
        for path in sorted(folder.rglob("*")):
            if not path.is_file() or path.suffix in (".csv", ".md"):
                continue
            try:
                with open_part10(path) as part10:
                    ds = part10.header
                    if not is_enhanceable(ds, CLASSES).enhance or not UID(str(ds.SOPInstanceUID)).is_valid:
                        continue
                    kind = (str(ds.SOPClassUID), str(part10.transfer_syntax_uid), str(ds.get("SpecificCharacterSet")))
            except UnsupportedPixels:
                continue
            found.setdefault((folder.name, *kind), path)
    return list(found.values())


def dcmtk_version() -> str:
    if shutil.which("dsrdump") is None:
        return "none"
    told = subprocess.run(["dsrdump", "--version"], capture_output=True, timeout=60, check=False, text=True).stdout
    return told.partition(" v")[2].partition(" ")[0]


DCMTK = dcmtk_version()


@pytest.fixture
def source_file(tmp_path: Path) -> Path:
    return save(radiograph(), tmp_path / "source.dcm")


def dciodvfy_errors(path: Path) -> list[str]:
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, timeout=60, check=False)
    lines = (done.stdout + done.stderr).decode("latin-1").splitlines()
    assert lines, "dciodvfy says nothing"
    return [line for line in lines if line.startswith("Error")]


def written(report: Dataset) -> bytes:
    with io.BytesIO() as file:
        pydicom.dcmwrite(file, report, enforce_file_format=True)
        return file.getvalue()


def read_again(report: Dataset) -> EnhancedSR:
    return EnhancedSR.from_dataset(pydicom.dcmread(io.BytesIO(written(report))))


def with_rich_patient(**attributes: Any) -> Dataset:
    """Return a source with sequences and numbers in its patient and study modules."""
    ds = radiograph(**attributes)
    issuer = Dataset()
    issuer.UniversalEntityID, issuer.UniversalEntityIDType = "1.2.3.4", "ISO"
    ds.IssuerOfPatientIDQualifiersSequence = [issuer]
    ds.ProcedureCodeSequence = [code("399208008", "SCT", "Plain chest X-ray")]
    ds.PatientSize, ds.PatientWeight, ds.PatientAge = "1.75", "80.50", "055Y"
    ds.StudyDescription = "Chest PA/LAT"
    return ds


# -- conformance ------------------------------------------------------------------------------------


@needs("dciodvfy")
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_dciodvfy_finds_no_error(tmp_path: Path, syntax: UID) -> None:
    source = save(set_transfer_syntax(with_rich_patient(), syntax), tmp_path / "source.dcm")
    report = save(report_on(source, OUTCOMES), tmp_path / "report.dcm")
    assert dciodvfy_errors(report) == []


@needs("dciodvfy")
def test_dciodvfy_finds_no_error_where_the_source_lacks_what_it_should_have(tmp_path: Path) -> None:
    lacking = dict.fromkeys(
        ["PatientID", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber", "ReferringPhysicianName"]
    )
    source = save(radiograph(**lacking, SeriesNumber="", SpecificCharacterSet=None), tmp_path / "source.dcm")
    report = report_on(source, [enhanced(1)])
    assert (report.PatientID, report.PatientBirthDate, report.SeriesNumber) == ("", "", 2000)
    assert dciodvfy_errors(save(report, tmp_path / "report.dcm")) == []


@needs("dciodvfy")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", real_sources(), ids=lambda path: path.name)
def test_reports_on_real_images_have_their_patient_and_no_error_of_their_own(tmp_path: Path, path: Path) -> None:
    report = report_on(path, [enhanced(1)])
    with open_part10(path) as part10:
        before = part10.header
        for keyword in COPIED:
            if keyword in before and before[keyword].VR != "SQ":
                assert report[keyword].value == before[keyword].value, keyword
    # What is wrong with the source's own values is wrong with the copy of them.
    found = set(dciodvfy_errors(save(report, tmp_path / "report.dcm"))) - set(dciodvfy_errors(path))
    assert found == set()


@needs("dsrdump")
def test_dcmtk_reads_every_part(source_file: Path, tmp_path: Path) -> None:
    text = dsrdump(save(report_on(source_file, OUTCOMES), tmp_path / "report.dcm"))
    assert text.startswith("Enhanced SR Document")
    assert text.count('CONTAINER:(125007,DCM,"Measurement Group")') == 6
    assert 'NUM:(NOISE_BEFORE,99DICOMNODE,"Noise before denoising")="39.75" ({stored_values},UCUM' in text
    assert 'TEXT:(121106,DCM,"Comment")="strength lowered; grain is foreign"' in text
    assert 'TEXT:(111003,DCM,"Algorithm Version")="' + MODEL_DIGEST in text
    assert f'COMPOSITE:(121112,DCM,"Source of Measurement")=(BasicTextSRStorage,"{SERIES}.5")' in text


@pytest.mark.skipif(DCMTK != "3.6.7", reason="the example was shown by DCMTK 3.6.7; others may word it differently")
def test_the_example_of_the_documentation_is_what_is_made() -> None:
    # python -m tests.support.quality_reports writes it anew.
    assert page_with(example_dump()) == PAGE.read_text(encoding="utf-8")


# -- content ----------------------------------------------------------------------------------------


def test_highdicom_reads_the_same_numbers_back(source_file: Path) -> None:
    first, second, third, *passed = numbers_of(read_again(report_on(source_file, OUTCOMES)))
    assert first == {
        "STRENGTH_ASKED": 0.7,
        "STRENGTH_APPLIED": 0.7,
        "NOISE_BEFORE": 39.75,
        "NOISE_AFTER": 12.3251953125,
        "NOISE_RATIO": 12.3251953125 / 39.75,
        "decision": "ENHANCED",
        "comment": None,
        "sources": [f"{SERIES}.1", "2.25.1"],
    }
    # To the last bit, which a decimal string of 16 characters would not hold.
    assert (second["NOISE_BEFORE"], second["NOISE_RATIO"]) == (1 / 3, 0.1 / (1 / 3))
    assert (second["STRENGTH_ASKED"], second["STRENGTH_APPLIED"]) == (0.7, 0.35)
    assert second["comment"] == "strength lowered; grain is foreign"
    assert not {"NOISE_BEFORE", "NOISE_AFTER", "NOISE_RATIO"} & third.keys()
    assert [told["decision"] for told in passed] == ["PASSED_THROUGH"] * 3
    assert [told["sources"] for told in passed] == [[f"{SERIES}.{number}"] for number in (4, 5, 6)]
    assert all(not told.keys() - {"decision", "comment", "sources"} for told in passed)


def test_a_destination_that_takes_implicit_vr_alone_gets_the_same_numbers(source_file: Path, tmp_path: Path) -> None:
    report = report_on(source_file, OUTCOMES)
    with to_uncompressed(save(report, tmp_path / "report.dcm"), ImplicitVRLittleEndian) as path:
        transcoded = read_dataset(io.BytesIO(path.read_bytes()), True, True)
    transcoded.file_meta = FileMetaDataset()
    transcoded.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    assert numbers_of(EnhancedSR.from_dataset(transcoded)) == numbers_of(read_again(report))


def test_noise_before_was_measured_on_the_source_and_noise_after_on_the_derived_image(source_file: Path) -> None:
    report = read_again(report_on(source_file, OUTCOMES))
    (group, *_) = report.content.get_image_measurement_groups()
    measured = {m.name.value: m for m in group.get_measurements()}
    assert [i.referenced_sop_instance_uid for i in measured["NOISE_BEFORE"].referenced_images] == [f"{SERIES}.1"]
    assert [i.referenced_sop_instance_uid for i in measured["NOISE_AFTER"].referenced_images] == ["2.25.1"]
    assert {measured[name].derivation.value for name in ("NOISE_BEFORE", "NOISE_AFTER")} == {"386136009"}


def test_every_object_is_evidence_in_its_own_series_and_study(source_file: Path) -> None:
    report = read_again(report_on(source_file, OUTCOMES))
    assert {(study, series, instance) for study, series, instance, _ in report.get_evidence(True)} == {
        *((STUDY, SERIES, f"{SERIES}.{number}") for number in range(1, 7)),
        *((STUDY, DERIVED_SERIES, f"2.25.{number}") for number in range(1, 4)),
    }


def test_images_of_other_weights_are_told_with_their_digest_alone(source_file: Path) -> None:
    outcomes = [enhanced(1), enhanced(2, model_digest="9" * 64)]
    report = read_again(report_on(source_file, outcomes))
    told = [texts(group) for group in report.content.get_image_measurement_groups()]
    assert [found["111001"] for found in told] == ["lite", "weights of an earlier start"]
    assert [found["111003"] for found in told] == [MODEL_DIGEST, "9" * 64]


def texts(group: Any) -> dict[str, str]:
    return {item.name.value: item.value for item in group[0].ContentSequence if item.ValueType == "TEXT"}


def test_noise_of_zero_has_no_ratio(source_file: Path) -> None:
    (told,) = numbers_of(read_again(report_on(source_file, [enhanced(1, noise_before=0.0, noise_after=0.0)])))
    assert (told["NOISE_BEFORE"], told["NOISE_AFTER"], "NOISE_RATIO" in told) == (0.0, 0.0, False)


def test_a_series_without_an_enhanced_image_has_no_report(source_file: Path) -> None:
    with pytest.raises(ValueError, match="enhanced"):
        report_on(source_file, [passed_through(1, "guard")])


# -- patient, study, equipment and time -------------------------------------------------------------


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("GB18030", "Wang^XiaoDong=\u738b^\u5c0f\u4e1c"),
        # The second byte of these characters is that of the backslash.
        ("GB18030", "Pang^Lang=\u8a85^\u6617"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce=\u3084\u307e\u3060^\u305f\u308d\u3046"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=\u6d2a^\u5409\u6d1e=\ud64d^\uae38\ub3d9"),
        ("ISO_IR 192", "Gr\u00fcn^J\u00f6rg"),
        ("ISO_IR 100", "Gr\u00fcn^J\u00f6rg"),
    ],
)
@needs("dsrdump")
def test_names_survive_in_the_source_s_own_character_set(tmp_path: Path, charset: str | list[str], name: str) -> None:
    source = save(with_rich_patient(SpecificCharacterSet=charset, patient_name=name), tmp_path / "source.dcm")
    outcomes = [enhanced(1, reason="quoted: \u738b \u00fc")]
    report = save(report_on(source, outcomes), tmp_path / "report.dcm")
    with open_part10(source) as before, open_part10(report) as after:
        for keyword in ("PatientName", "SpecificCharacterSet"):
            tag = pydicom.datadict.tag_for_keyword(keyword)
            assert tag is not None
            assert after.header.get_item(tag).value == before.header.get_item(tag).value
    again = pydicom.dcmread(report)
    assert again.PatientName == name
    assert again.SpecificCharacterSet == charset
    (told,) = numbers_of(EnhancedSR.from_dataset(again))
    assert told["comment"] == "quoted: ? ?"
    # DCMTK shows the bytes as they are; Debian's can't convert ISO 2022.
    shown = subprocess.run(["dsrdump", str(report)], capture_output=True, timeout=60, check=True).stdout
    with open_part10(source) as part10:
        assert part10.header.get_item("PatientName").value.rstrip() in shown


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("charset", ["GB18030", None, ["", "ISO 2022 IR 87"]])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_text_that_can_t_be_decoded_keeps_its_bytes(
    tmp_path: Path, syntax: UID, charset: str | list[str] | None
) -> None:
    whole, broken = b"Wang^Xiaodong ", b"Wang^\xff\xff\x81odong "
    source = radiograph(SpecificCharacterSet=charset, patient_name=whole.decode())
    path = save(set_transfer_syntax(source, syntax), tmp_path / "source.dcm")
    path.write_bytes(path.read_bytes().replace(whole, broken))
    report = save(report_on(path, OUTCOMES), tmp_path / "report.dcm")
    with open_part10(report) as part10:
        assert part10.header.get_item("PatientName").value == broken


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_patient_and_study_are_the_source_s_whatever_its_transfer_syntax(tmp_path: Path, syntax: UID) -> None:
    source = with_rich_patient()
    path = save(set_transfer_syntax(source, syntax), tmp_path / "source.dcm")
    report = pydicom.dcmread(io.BytesIO(written(report_on(path, OUTCOMES))))
    kept = [keyword for keyword in COPIED if keyword in source]
    assert len(kept) >= 17
    for keyword in kept:
        assert report[keyword].value == source[keyword].value, keyword
    assert report.Modality == "SR"
    assert "BodyPartExamined" not in report
    assert "DeviceSerialNumber" not in report


def test_the_report_has_the_node_as_its_equipment_and_numbers_of_its_own(source_file: Path) -> None:
    report = report_on(source_file, OUTCOMES, context(generation=3))
    assert (report.Manufacturer, report.StationName) == ("dicom-node", "node1")
    assert list(report.SoftwareVersions) == ["dicom-node 0.1.0", "lite", MODEL_DIGEST]
    assert "ContributingEquipmentSequence" not in report
    assert [item.CodingSchemeDesignator for item in report.CodingSchemeIdentificationSequence] == ["99DICOMNODE"]
    assert (report.SeriesNumber, report.InstanceNumber) == (2001, 3)


def test_a_name_of_weights_beyond_ascii_fits_every_character_set(source_file: Path) -> None:
    report = report_on(source_file, OUTCOMES, context(model_name="l\u00e9ger"))
    assert report.SoftwareVersions[1] == "l?ger"
    assert texts(read_again(report).content.get_image_measurement_groups()[0])["111001"] == "l?ger"


def test_times_are_in_the_zone_of_the_source(tmp_path: Path) -> None:
    path = save(radiograph(TimezoneOffsetFromUTC="-0930"), tmp_path / "source.dcm")
    report = report_on(path, OUTCOMES)
    assert report.TimezoneOffsetFromUTC == "-0930"
    assert (report.ContentDate, report.ContentTime) == ("20260505", "213809.123456")
    assert (report.SeriesDate, report.SeriesTime) == ("20260505", "213000.000000")


# -- UIDs -------------------------------------------------------------------------------------------


def test_the_same_facts_give_the_same_bytes(source_file: Path) -> None:
    assert written(report_on(source_file, OUTCOMES)) == written(report_on(source_file, OUTCOMES))


def test_the_series_uid_is_what_it_was_in_earlier_versions(source_file: Path) -> None:
    # Another value would put late reports into another series after an update.
    report = report_on(source_file, OUTCOMES)
    assert report.SeriesInstanceUID == "2.25.263352478352837783604391396853498173822"


def test_times_are_no_part_of_the_uid(source_file: Path) -> None:
    one, other = context(), context(now=context().series_time)
    assert (
        report_on(source_file, OUTCOMES, one).SOPInstanceUID == report_on(source_file, OUTCOMES, other).SOPInstanceUID
    )


def changed_outcome(**changes: Any) -> list[ImageOutcome]:
    return [enhanced(1, **changes), *OUTCOMES[1:]]


@pytest.mark.parametrize(
    ("outcomes", "circumstances", "attributes"),
    [
        ([*OUTCOMES, enhanced(7)], {}, {}),
        (OUTCOMES[:-1], {}, {}),
        (changed_outcome(noise_after=12.325195312500002), {}, {}),
        (changed_outcome(noise_before=39.750000000000007), {}, {}),
        (changed_outcome(strength=0.69), {}, {}),
        (changed_outcome(reason="another"), {}, {}),
        ([OUTCOMES[0], passed_through(2, "guard"), *OUTCOMES[2:]], {}, {}),
        (OUTCOMES, {"generation": 2}, {}),
        (OUTCOMES, {"node_version": "0.1.1"}, {}),
        (OUTCOMES, {"model_name": "other"}, {}),
        (OUTCOMES, {"series_number_offset": 3000}, {}),
        (OUTCOMES, {}, {"patient_name": "Other^Name"}),
        (OUTCOMES, {}, {"AccessionNumber": "A4712"}),
    ],
)
def test_other_content_is_another_instance_of_the_same_series(
    tmp_path: Path, outcomes: list[ImageOutcome], circumstances: dict[str, Any], attributes: dict[str, Any]
) -> None:
    usual = report_on(save(radiograph(), tmp_path / "usual.dcm"), OUTCOMES)
    other = report_on(save(radiograph(**attributes), tmp_path / "other.dcm"), outcomes, context(**circumstances))
    assert other.SOPInstanceUID != usual.SOPInstanceUID
    assert other.SeriesInstanceUID == usual.SeriesInstanceUID
    assert other.file_meta.MediaStorageSOPInstanceUID == other.SOPInstanceUID


@pytest.mark.parametrize("strength", [0.4, 0.9])
def test_another_strength_is_another_series_as_for_the_images(source_file: Path, strength: float) -> None:
    usual, other = report_on(source_file, OUTCOMES), report_on(source_file, OUTCOMES, context(strength=strength))
    assert other.SeriesInstanceUID != usual.SeriesInstanceUID
