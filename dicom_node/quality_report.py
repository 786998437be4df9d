"""What became of a series -> quality report, a DICOM SR after TID 1500: pure, the only module that knows highdicom.

PS3.3 A.35.2 (Enhanced SR), PS3.16 TID 1500, 1501, 300 and 4019. Every text of our own is ASCII, so it fits whatever
character set the source is in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from typing import Final

import pydicom
from highdicom.sr import (
    AlgorithmIdentification,
    CompositeContentItem,
    DeviceObserverIdentifyingAttributes,
    EnhancedSR,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurement,
    SourceImageForMeasurementGroup,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian

from dicom_node.derivation.equipment import identify_node
from dicom_node.derivation.terms import CODING_SCHEME_DESIGNATOR, PRODUCT, REPORT_TERMS, coding_scheme_item
from dicom_node.derivation.text import date_and_time, zone_of
from dicom_node.derivation.uids import device_uid, report_series_instance_uid, report_sop_instance_uid, tracking_uid
from dicom_node.header_encoding import encode_elements
from dicom_node.ledger.arrivals import DerivedInstance, EnhancementDecision, StoredInstance
from dicom_node.ledger.outcomes import ImageOutcome
from dicom_node.part10 import detached_view

SERIES_DESCRIPTION: Final = "Denoising report"

COPIED: Final = (
    "SpecificCharacterSet", "TimezoneOffsetFromUTC", "SyntheticData",
    # Patient, C.7.1.1
    "PatientName", "PatientID", "IssuerOfPatientID", "TypeOfPatientID", "IssuerOfPatientIDQualifiersSequence",
    "SourcePatientGroupIdentificationSequence", "GroupOfPatientsIdentificationSequence", "PatientBirthDate",
    "PatientBirthTime", "PatientBirthDateInAlternativeCalendar", "PatientDeathDateInAlternativeCalendar",
    "PatientAlternativeCalendar", "PatientSex", "OtherPatientIDs", "OtherPatientIDsSequence", "OtherPatientNames",
    "QualityControlSubject", "ReferencedPatientPhotoSequence", "EthnicGroup", "PatientComments",
    "PatientSpeciesDescription", "PatientSpeciesCodeSequence", "PatientBreedDescription", "PatientBreedCodeSequence",
    "BreedRegistrationSequence", "StrainDescription", "StrainNomenclature", "ResponsiblePerson",
    "ResponsiblePersonRole", "ResponsibleOrganization", "PatientIdentityRemoved", "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    # Clinical Trial Subject and Study, C.7.1.3 and C.7.2.3
    "ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName", "ClinicalTrialSiteID",
    "ClinicalTrialSiteName", "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID",
    "ClinicalTrialProtocolEthicsCommitteeName", "ClinicalTrialProtocolEthicsCommitteeApprovalNumber",
    "ClinicalTrialTimePointID", "ClinicalTrialTimePointDescription",
    # General Study, C.7.2.1
    "StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName",
    "ReferringPhysicianIdentificationSequence", "ConsultingPhysicianName", "StudyID", "AccessionNumber",
    "IssuerOfAccessionNumberSequence", "StudyDescription", "PhysiciansOfRecord", "NameOfPhysiciansReadingStudy",
    "RequestingServiceCodeSequence", "ReferencedStudySequence", "ProcedureCodeSequence",
    "ReasonForPerformedProcedureCodeSequence",
    # Patient Study, C.7.2.2
    "AdmittingDiagnosesDescription", "AdmittingDiagnosesCodeSequence", "PatientAge", "PatientSize", "PatientWeight",
    "PatientSizeCodeSequence", "MedicalAlerts", "Allergies", "SmokingStatus", "PregnancyStatus", "LastMenstrualDate",
    "PatientState", "Occupation", "AdditionalPatientHistory", "AdmissionID", "IssuerOfAdmissionIDSequence",
    "ServiceEpisodeID", "IssuerOfServiceEpisodeIDSequence", "ServiceEpisodeDescription", "PatientSexNeutered",
    # General Equipment, C.7.5.1: where it was made is where the image was made.
    "InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName",
)  # fmt: skip
"""Attributes that the report has from the source, as the very bytes that they are there."""

_TIMES: Final = (
    "InstanceCreationDate", "InstanceCreationTime", "ContentDate", "ContentTime", "SeriesDate", "SeriesTime",
)  # fmt: skip

RADIOGRAPHIC_IMAGING: Final = Code("363680008", "SCT", "Radiographic imaging")
STORED_VALUES: Final = Code("{stored_values}", "UCUM", "stored values")
COMMENT: Final = codes.DCM.Comment


@dataclass(frozen=True, kw_only=True)
class ReportContext:
    """The circumstances of one report.

    Attributes
    ----------
    node_name, node_version
        Station Name of the node, and the version of its software.
    model_name, model_digest
        Of the weights at hand; an image that other weights enhanced is told with their digest alone.
    strength
        Strength that the route asks for, 0 to 1.
    generation
        Of the arrival; the Instance Number of the report.
    series_number_offset
        Added to the Series Number of the source.
    now
        When the last image was decided, with its time zone: known from the ledger, so that a report that is made
        again after a crash is the same.
    series_time
        When the derived series was begun, with its time zone.
    """

    node_name: str
    node_version: str
    model_name: str
    model_digest: str
    strength: float
    generation: int
    series_number_offset: int
    now: datetime
    series_time: datetime


def private_code(value: str) -> Code:
    """Return one of our codes of quality reports."""
    return Code(value, CODING_SCHEME_DESIGNATOR, REPORT_TERMS[value])


def build_report(header: Dataset, outcomes: Sequence[ImageOutcome], context: ReportContext) -> Dataset:
    """Return the report on `outcomes`; the same arguments give the same object.

    Parameters
    ----------
    header
        Attributes of the first enhanced image's source; patient and study are taken from it. Left as it is.
    outcomes
        What became of each image of the arrival; at least one was enhanced.
    context
        Node, model, numbers and times.

    Returns
    -------
    An Enhanced SR document with file meta information, ready to be written.

    Raises
    ------
    ValueError
        If no image was enhanced.
    """
    enhanced = [outcome for outcome in outcomes if outcome.derived is not None]
    if not enhanced:
        raise ValueError("a report needs an image that was enhanced")
    before = detached_view(header)
    series_uid = report_series_instance_uid(
        source_series_instance_uid=enhanced[0].source.series_instance_uid,
        model_digest=enhanced[0].record.model_digest or "",
        strength=context.strength,
    )
    number = before.get("SeriesNumber")
    report: Dataset = EnhancedSR(
        evidence=_evidence(enhanced, outcomes),
        content=_content(outcomes, context)[0],
        series_instance_uid=series_uid,
        # Type 1 here, while the source's may be empty.
        series_number=max(0, int(number) if isinstance(number, int) else 0) + context.series_number_offset,
        sop_instance_uid=series_uid,
        instance_number=context.generation,
        is_complete=True,
        is_final=True,
        series_description=SERIES_DESCRIPTION,
    )
    _identify(report, before, context)
    _set_uid(report, series_uid)
    _date(report, before, context)
    return report


def _identify(report: Dataset, before: Dataset, context: ReportContext) -> None:
    # highdicom names itself as equipment there, with the time of the call.
    for keyword in ("SpecificCharacterSet", "ContributingEquipmentSequence"):
        report.pop(keyword, None)
    copied = _copied(before)
    for tag in copied.keys():  # noqa: SIM118
        report[tag] = copied.get_item(tag)
    # Has pydicom write the copied values as they are; otherwise it would decode them and encode them again.
    report.set_original_encoding(False, True, copied.original_character_set)
    identify_node(
        report,
        node_name=context.node_name,
        node_version=context.node_version,
        model_name=_ascii(context.model_name),
        model_digest=context.model_digest,
    )
    report.CodingSchemeIdentificationSequence = DicomSequence([coding_scheme_item()])


def _copied(before: Dataset) -> Dataset:
    """Return the source's own patient and study attributes in our transfer syntax, their values unconverted."""
    wanted = {Tag(keyword) for keyword in COPIED}
    part = Dataset({tag: before.get_item(tag, keep_deferred=True) for tag in before.keys() if tag in wanted})  # noqa: SIM118
    implicit, little = before.original_encoding
    part.set_original_encoding(implicit, little, before.original_character_set)
    return read_dataset(BytesIO(encode_elements(part, implicit=False)), False, True)


def _set_uid(report: Dataset, series_uid: str) -> None:
    """Name the report after its content: other content can't come under the same UID."""
    report.file_meta = _file_meta(report)
    for keyword in _TIMES:
        report.pop(keyword, None)
    encoded = BytesIO()
    pydicom.dcmwrite(encoded, report, enforce_file_format=True)
    uid = report_sop_instance_uid(
        report_series_instance_uid=series_uid, content_digest=hashlib.sha256(encoded.getbuffer()).hexdigest()
    )
    report.SOPInstanceUID = UID(uid)
    report.file_meta = _file_meta(report)


def _file_meta(report: Dataset) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = UID(str(report.SOPClassUID))
    meta.MediaStorageSOPInstanceUID = UID(str(report.SOPInstanceUID))
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return meta


def _date(report: Dataset, before: Dataset, context: ReportContext) -> None:
    zone = zone_of(before)
    date, time = date_and_time(context.now, zone)
    report.InstanceCreationDate, report.InstanceCreationTime = date, time
    report.ContentDate, report.ContentTime = date, time
    report.SeriesDate, report.SeriesTime = date_and_time(context.series_time, zone)


# -- evidence ---------------------------------------------------------------------------------------


def _evidence(enhanced: Sequence[ImageOutcome], outcomes: Sequence[ImageOutcome]) -> list[Dataset]:
    """Return stand-ins for all objects that the report refers to, first an image: highdicom has to know its class."""
    objects: list[StoredInstance | DerivedInstance] = [enhanced[0].source]
    for outcome in outcomes:
        objects += [outcome.source] if outcome.derived is None else [outcome.source, outcome.derived]
    return [_stand_in(found) for found in objects]


def _stand_in(found: StoredInstance | DerivedInstance) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = found.sop_class_uid, found.sop_instance_uid
    ds.StudyInstanceUID, ds.SeriesInstanceUID = found.study_instance_uid, found.series_instance_uid
    # Type 2, so empty where the source has none; what it has is copied over these.
    ds.PatientID = ds.PatientName = ds.PatientBirthDate = ds.PatientSex = ""
    ds.AccessionNumber = ds.StudyID = ds.StudyDate = ds.StudyTime = ds.ReferringPhysicianName = ""
    return ds


# -- content ----------------------------------------------------------------------------------------


def _content(outcomes: Sequence[ImageOutcome], context: ReportContext) -> MeasurementReport:
    observer = ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=device_uid(context.node_name),
            name=context.node_name,
            manufacturer_name=PRODUCT,
            model_name=f"{PRODUCT} {context.node_version}",
        ),
    )
    return MeasurementReport(
        observation_context=ObservationContext(observer_device_context=observer),
        procedure_reported=RADIOGRAPHIC_IMAGING,
        imaging_measurements=[_group(number, outcome, context) for number, outcome in enumerate(outcomes, 1)],
    )


def _group(number: int, outcome: ImageOutcome, context: ReportContext) -> MeasurementsAndQualitativeEvaluations:
    """Return what is told of one image (TID 1501)."""
    source, derived, record = outcome.source, outcome.derived, outcome.record
    is_enhanced = record.decision is EnhancementDecision.ENHANCED
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=tracking_uid(source.sop_instance_uid), identifier=f"Image {number}"),
        algorithm_id=_algorithm(record.model_digest, context) if is_enhanced else None,
        measurements=_measurements(outcome, context) if is_enhanced else None,
        qualitative_evaluations=[
            QualitativeEvaluation(
                name=private_code("DECISION"), value=private_code("ENHANCED" if is_enhanced else "PASSED_THROUGH")
            )
        ],
    )
    content = group[0].ContentSequence
    if record.reason:
        # TID 1501 is extensible; the findings of the guards are sentences.
        content.append(TextContentItem(COMMENT, _ascii(record.reason), RelationshipTypeValues.CONTAINS))
    content.append(_reference(source))
    if derived is not None:
        content.append(_reference(derived))
    return group


def _algorithm(model_digest: str | None, context: ReportContext) -> AlgorithmIdentification:
    known = model_digest == context.model_digest
    return AlgorithmIdentification(
        name=_ascii(context.model_name) if known else "weights of an earlier start",
        version=model_digest or "unknown",
        manufacturer=PRODUCT,
        family=codes.cid7162.ArtificialIntelligence,
        parameters=[f"strength {context.strength:.6g}", f"software {PRODUCT} {context.node_version}"],
    )


def _measurements(outcome: ImageOutcome, context: ReportContext) -> list[Measurement]:
    record = outcome.record
    found = [_ratio("STRENGTH_ASKED", context.strength)]
    if record.strength is not None:
        found.append(_ratio("STRENGTH_APPLIED", record.strength))
    before, after = record.noise_before, record.noise_after
    if before is None or after is None or outcome.derived is None:
        return found
    found += [_noise("NOISE_BEFORE", before, outcome.source), _noise("NOISE_AFTER", after, outcome.derived)]
    return [*found, _ratio("NOISE_RATIO", after / before)] if before > 0 else found


def _noise(name: str, value: float, measured: StoredInstance | DerivedInstance) -> Measurement:
    return Measurement(
        name=private_code(name),
        value=value,
        unit=STORED_VALUES,
        derivation=codes.SCT.StandardDeviation,
        referenced_images=[SourceImageForMeasurement(measured.sop_class_uid, measured.sop_instance_uid)],
    )


def _ratio(name: str, value: float) -> Measurement:
    return Measurement(name=private_code(name), value=value, unit=codes.UCUM.Ratio)


def _reference(found: StoredInstance | DerivedInstance) -> SourceImageForMeasurementGroup | CompositeContentItem:
    if "Image Storage" in UID(found.sop_class_uid).name:
        return SourceImageForMeasurementGroup(found.sop_class_uid, found.sop_instance_uid)
    # What came in the series and is no image, or of a class that nobody knows.
    return CompositeContentItem(
        codes.DCM.SourceOfMeasurement,
        found.sop_class_uid,
        found.sop_instance_uid,
        RelationshipTypeValues.CONTAINS,
    )


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode("ascii")
