"""Makes complete DICOM objects from arrays: radiographs, cines in both forms, a report, a private class.

For tests and for the demonstration; `dciodvfy` finds no error in them. Names and numbers are made up.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalIntraOralXRayImageStorageForPresentation,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    EnhancedXAImageStorage,
    EnhancedXRFImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEGLSLossless,
    XRayAngiographicImageStorage,
    XRayRadiofluoroscopicImageStorage,
)

PRIVATE_SOP_CLASS_UID = "2.25.62349827364598237465982736459823745"
_DATE, _TIME = "20260314", "092653"


def new_uid() -> str:
    """Return a UID that nothing else has (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid4().int}"


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """Return a code item."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def quantise(exposure: NDArray[np.floating[Any]], bits_stored: int) -> NDArray[np.uint16]:
    """Round linear detector values to what `bits_stored` bits hold."""
    stored: NDArray[np.uint16] = np.clip(np.rint(exposure), 0, 2**bits_stored - 1).astype(np.uint16)
    return stored


def dx_dataset(
    stored: NDArray[Any],
    *,
    for_presentation: bool = False,
    bits_stored: int = 14,
    pixel_spacing_mm: float = 0.143,
    study_instance_uid: str | None = None,
    series_instance_uid: str | None = None,
    sop_instance_uid: str | None = None,
    instance_number: int = 1,
    patient_name: str = "Phantom^Low Dose",
    **attributes: Any,
) -> Dataset:
    """Return a Digital X-Ray image (PS3.3 A.26) with `stored` as its pixels.

    Parameters
    ----------
    stored
        Shape ``(rows, columns)``, unsigned stored values that fit `bits_stored`.
    for_presentation
        False: FOR PROCESSING, values proportional to exposure (``LIN``, sign 1). True: FOR PRESENTATION, values fall as
        exposure rises (``LOG``, sign -1, MONOCHROME2), with a window over all values.
    pixel_spacing_mm
        Size of a detector element, both ways.
    attributes
        Further attributes by keyword; None removes one.
    """
    sop_class = DigitalXRayImageStorageForPresentation if for_presentation else DigitalXRayImageStorageForProcessing
    ds = _radiograph(sop_class, "DX", stored, bits_stored, study_instance_uid, series_instance_uid, sop_instance_uid)
    ds.ImageType = ["ORIGINAL", "PRIMARY", ""]
    ds.PatientName = patient_name
    ds.InstanceNumber = str(instance_number)
    ds.PresentationIntentType = "FOR PRESENTATION" if for_presentation else "FOR PROCESSING"
    _dx_image(ds, stored, bits_stored, for_presentation=for_presentation)
    _dx_acquisition(ds, pixel_spacing_mm)
    return _with(ds, attributes)


def cr_dataset(stored: NDArray[Any], *, bits_stored: int = 12, **attributes: Any) -> Dataset:
    """Return a Computed Radiography image (PS3.3 A.2); parameters as for `dx_dataset`."""
    ds = _radiograph(ComputedRadiographyImageStorage, "CR", stored, bits_stored, None, None, None)
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.BodyPartExamined = "CHEST"
    ds.ViewPosition = "PA"
    ds.PixelSpacing = ["0.2", "0.2"]
    ds.KVP = "125"
    return _with(ds, attributes)


def xa_dataset(stored: NDArray[Any], *, bits_stored: int = 10, **attributes: Any) -> Dataset:
    """Return an X-Ray Angiographic image (PS3.3 A.14) of the shape ``(frames, rows, columns)``."""
    ds = _radiograph(XRayAngiographicImageStorage, "XA", stored, bits_stored, None, None, None)
    ds.BodyPartExamined = "HEART"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "SINGLE PLANE"]
    ds.NumberOfFrames = str(stored.shape[0])
    ds.FrameTime = "66.6"
    ds.FrameIncrementPointer = 0x00181063
    ds.PixelIntensityRelationship = "LIN"
    ds.KVP = "80"
    ds.RadiationSetting = "GR"
    ds.ExposureTime = "10"
    ds.XRayTubeCurrent = "100"
    ds.PositionerMotion = "STATIC"
    ds.PositionerPrimaryAngle = "0"
    ds.PositionerSecondaryAngle = "0"
    return _with(ds, attributes)


def mg_dataset(stored: NDArray[Any], **attributes: Any) -> Dataset:
    """Return a Digital Mammography X-Ray image for presentation (PS3.3 A.27); parameters as for `dx_dataset`."""
    view = code("399368009", "SCT", "medio-lateral oblique")
    view.ViewModifierCodeSequence = Sequence([])
    mammography = {
        "SOPClassUID": DigitalMammographyXRayImageStorageForPresentation,
        "Modality": "MG",
        "ImageLaterality": "L",
        "BodyPartExamined": "BREAST",
        "AnatomicRegionSequence": Sequence([code("76752008", "SCT", "Breast")]),
        "ViewPosition": "MLO",
        "ViewCodeSequence": Sequence([view]),
        "PatientOrientation": ["P", "F"],
        "PositionerType": "MAMMOGRAPHIC",
        "OrganExposed": "BREAST",
        "BreastImplantPresent": "NO",
    }
    return dx_dataset(stored, for_presentation=True, **{**mammography, **attributes})


def io_dataset(stored: NDArray[Any], **attributes: Any) -> Dataset:
    """Return a Digital Intra-Oral X-Ray image for presentation (PS3.3 A.28); parameters as for `dx_dataset`."""
    intra_oral = {
        "SOPClassUID": DigitalIntraOralXRayImageStorageForPresentation,
        "Modality": "IO",
        "ImageLaterality": "L",
        "BodyPartExamined": "JAW",
        "AnatomicRegionSequence": Sequence([code("661005", "SCT", "Jaw region")]),
        "PrimaryAnatomicStructureSequence": Sequence([code("245648009", "SCT", "Permanent tooth")]),
        "ViewPosition": None,
        "ViewCodeSequence": None,
    }
    return dx_dataset(stored, for_presentation=True, **{**intra_oral, **attributes})


def rf_dataset(stored: NDArray[Any], **attributes: Any) -> Dataset:
    """Return an X-Ray Radiofluoroscopic image (PS3.3 A.16); parameters as for `xa_dataset`."""
    positioner = dict.fromkeys(("PositionerMotion", "PositionerPrimaryAngle", "PositionerSecondaryAngle"))
    fluoroscopy = {"SOPClassUID": XRayRadiofluoroscopicImageStorage, "Modality": "RF", **positioner}
    return xa_dataset(stored, **{**fluoroscopy, **attributes})


def ct_dataset(stored: NDArray[Any], **attributes: Any) -> Dataset:
    """Return an axial CT image (PS3.3 A.3) of 12 bits, one slice of the shape ``(rows, columns)``."""
    ds = _radiograph(CTImageStorage, "CT", stored, 12, None, None, None)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", "HELIX"]
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "-1024", "1", "HU"
    ds.KVP, ds.AcquisitionNumber = "120", "1"
    ds.PatientPosition, ds.Laterality = "HFS", ""
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = new_uid(), ""
    ds.ImagePositionPatient, ds.ImageOrientationPatient = ["0", "0", "0"], ["1", "0", "0", "0", "1", "0"]
    ds.PixelSpacing, ds.SliceThickness = ["0.7", "0.7"], "1"
    return _with(ds, attributes)


def enhanced_xa_dataset(
    stored: NDArray[Any], *, bits_stored: int = 10, per_frame_properties: bool = False, **attributes: Any
) -> Dataset:
    """Return an Enhanced XA image (PS3.3 A.47) of the shape ``(frames, rows, columns)``.

    Parameters
    ----------
    per_frame_properties
        Each frame has its own XA/XRF Frame Pixel Data Properties and Frame VOI LUT; else they are shared.
    attributes
        As for `dx_dataset`, of the top level.
    """
    ds = _enhanced(EnhancedXAImageStorage, "XA", stored, bits_stored, per_frame_properties=per_frame_properties)
    ds.PositionerType = "CARM"
    ds.CArmPositionerTabletopRelationship = "NO"
    for number, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        position = Dataset()
        position.PositionerPrimaryAngle, position.PositionerSecondaryAngle = 0.5 * number, -10.0
        group.PositionerPositionSequence = Sequence([position])
    return _with(ds, attributes)


def enhanced_xrf_dataset(
    stored: NDArray[Any], *, bits_stored: int = 10, per_frame_properties: bool = False, **attributes: Any
) -> Dataset:
    """Return an Enhanced XRF image (PS3.3 A.48); parameters as for `enhanced_xa_dataset`."""
    ds = _enhanced(EnhancedXRFImageStorage, "RF", stored, bits_stored, per_frame_properties=per_frame_properties)
    ds.PositionerType = "COLUMN"
    position = Dataset()
    position.ColumnAngulationPatient = 12.0
    ds.SharedFunctionalGroupsSequence[0].PositionerPositionSequence = Sequence([position])
    return _with(ds, attributes)


def pixel_data_properties(
    *,
    relationship: str = "LIN",
    sign: int = 1,
    frame_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "ANGIO", "NONE"),
) -> Dataset:
    """Return the item of a functional group's XA/XRF Frame Pixel Data Properties (PS3.3 C.8.19.6.2)."""
    item = Dataset()
    item.FrameType = list(frame_type)
    item.PixelIntensityRelationship, item.PixelIntensityRelationshipSign = relationship, sign
    item.ImagerPixelSpacing = ["0.2", "0.2"]
    item.GeometricalProperties = "UNIFORM"
    item.ImageProcessingApplied = "NONE"
    return item


def sr_dataset(text: str = "No finding.", **attributes: Any) -> Dataset:
    """Return a Basic Text SR document (PS3.3 A.35.1) with one paragraph."""
    ds = _composite(BasicTextSRStorage, "SR", None, None, None)
    ds.ReferencedPerformedProcedureStepSequence = Sequence([])
    ds.PerformedProcedureCodeSequence = Sequence([])
    ds.CompletionFlag, ds.VerificationFlag = "COMPLETE", "UNVERIFIED"
    ds.ContentDate, ds.ContentTime = ds.StudyDate, ds.StudyTime
    ds.ValueType, ds.ContinuityOfContent = "CONTAINER", "SEPARATE"
    ds.ConceptNameCodeSequence = Sequence([code("18782-3", "LN", "Radiology Report")])
    paragraph = Dataset()
    paragraph.RelationshipType, paragraph.ValueType = "CONTAINS", "TEXT"
    paragraph.ConceptNameCodeSequence = Sequence([code("121071", "DCM", "Finding")])
    paragraph.TextValue = text
    ds.ContentSequence = Sequence([paragraph])
    return _with(ds, attributes)


def private_dataset(payload: bytes = b"\1\2\3\4", **attributes: Any) -> Dataset:
    """Return an object of a private SOP class with nothing but private data."""
    ds = _composite(UID(PRIVATE_SOP_CLASS_UID), "OT", None, None, None)
    ds.private_block(0x0099, "PHANTOM VENDOR", create=True).add_new(0x01, "OB", payload)
    return _with(ds, attributes)


def save(ds: Dataset, path: Path) -> Path:
    """Write `ds` as a Part 10 file and return `path`."""
    dcmwrite(path, ds, enforce_file_format=True)
    return path


def set_transfer_syntax(ds: Dataset, syntax: UID) -> Dataset:
    """Have `ds`, uncompressed and little endian, written in another transfer syntax; compresses where needed."""
    if syntax.is_encapsulated:
        # Named, since pydicom would take GDCM for RLE, which ends the process where rows x columns is odd.
        plugin = "pyjpegls" if syntax == JPEGLSLossless else "pylibjpeg"
        ds.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
    else:
        if syntax == ExplicitVRBigEndian and ds.BitsAllocated == 16:
            ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
        ds.file_meta.TransferSyntaxUID = syntax
    return ds


def _with(ds: Dataset, attributes: dict[str, Any]) -> Dataset:
    for keyword, value in attributes.items():
        if value is None:
            ds.pop(keyword, None)
        else:
            setattr(ds, keyword, value)
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


def _composite(sop_class: UID, modality: str, study: str | None, series: str | None, instance: str | None) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, UID(instance or new_uid())
    ds.StudyInstanceUID, ds.SeriesInstanceUID = UID(study or new_uid()), UID(series or new_uid())
    ds.Modality = modality
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = _DATE
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = _TIME
    ds.AccessionNumber, ds.StudyID, ds.SeriesNumber, ds.InstanceNumber = "A4711", "4711", "1", "1"
    ds.ReferringPhysicianName = ""
    ds.PatientName, ds.PatientID = "Phantom^Low Dose", "PHANTOM-1"
    ds.PatientBirthDate, ds.PatientSex = "19700101", "O"
    ds.Manufacturer, ds.ManufacturerModelName = "Phantom Works", "Imaginary DR"
    ds.StationName, ds.SoftwareVersions, ds.DeviceSerialNumber = "ROOM1", "1.0", "0001"
    ds.InstitutionName = "Imaginary Hospital"
    ds.SeriesDescription = "Chest PA low dose"
    return ds


def _radiograph(
    sop_class: UID,
    modality: str,
    stored: NDArray[Any],
    bits_stored: int,
    study: str | None,
    series: str | None,
    instance: str | None,
) -> Dataset:
    ds = _composite(sop_class, modality, study, series, instance)
    ds.AcquisitionDate, ds.AcquisitionTime = ds.StudyDate, ds.StudyTime
    ds.PatientOrientation = ["L", "F"]
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "00"
    allocated = 8 if bits_stored <= 8 else 16
    if stored.min() < 0 or stored.max() >= 2**bits_stored:
        raise ValueError(f"values from {stored.min()} to {stored.max()} don't fit {bits_stored} bits")
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = stored.shape[-2:]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = allocated, bits_stored, bits_stored - 1, 0
    cells = stored.astype(f"<u{allocated // 8}").tobytes()
    ds.PixelData = cells + b"\0" * (len(cells) % 2)
    ds["PixelData"].VR = "OB" if allocated == 8 else "OW"
    return ds


def _enhanced(
    sop_class: UID, modality: str, stored: NDArray[Any], bits_stored: int, *, per_frame_properties: bool
) -> Dataset:
    ds = _radiograph(sop_class, modality, stored, bits_stored, None, None, None)
    # What General Image has and the enhanced module has not.
    del ds.AcquisitionDate, ds.AcquisitionTime, ds.PatientOrientation
    ds.AcquisitionDateTime = _DATE + _TIME
    ds.ImageType = ["ORIGINAL", "PRIMARY", "ANGIO", "NONE"]
    ds.PlanesInAcquisition = ds.PlaneIdentification = "MONOPLANE"
    ds.ContentQualification = "PRODUCT"
    ds.PresentationLUTShape = "IDENTITY"
    ds.NumberOfFrames = str(stored.shape[0])
    ds.KVP, ds.RadiationSetting = "80", "GR"
    ds.XRayTubeCurrentInmA, ds.ExposureTimeInms = 100.0, 10.0
    ds.AveragePulseWidth, ds.AcquisitionDuration, ds.RadiationMode = "10", 2.0, "PULSED"
    ds.DistanceReceptorPlaneToDetectorHousing, ds.AcquiredImageAreaDoseProduct = None, None
    ds.AcquisitionContextSequence = Sequence([])
    ds.SharedFunctionalGroupsSequence = Sequence([_shared_group()])
    groups = [_frame_group(number) for number in range(1, stored.shape[0] + 1)]
    for group in groups if per_frame_properties else ds.SharedFunctionalGroupsSequence:
        group.FramePixelDataPropertiesSequence = Sequence([pixel_data_properties()])
        window = Dataset()
        window.WindowCenter, window.WindowWidth = "0512", "1024.0"
        group.FrameVOILUTSequence = Sequence([window])
    ds.PerFrameFunctionalGroupsSequence = Sequence(groups)
    return ds


def _shared_group() -> Dataset:
    group, anatomy, event, table, collimator = Dataset(), Dataset(), Dataset(), Dataset(), Dataset()
    anatomy.FrameLaterality = "U"
    anatomy.AnatomicRegionSequence = Sequence([code("80891009", "SCT", "Heart")])
    event.IrradiationEventUID = new_uid()
    table.TableTopVerticalPosition = table.TableTopLongitudinalPosition = table.TableTopLateralPosition = 0.0
    table.TableHorizontalRotationAngle = table.TableHeadTiltAngle = table.TableCradleTiltAngle = 0.0
    collimator.CollimatorShape, collimator.CenterOfCircularCollimator = "CIRCULAR", [33, 32]
    collimator.RadiusOfCircularCollimator = "30"
    group.TablePositionSequence = Sequence([table])
    group.CollimatorShapeSequence = Sequence([collimator])
    group.FrameAnatomySequence = Sequence([anatomy])
    group.IrradiationEventIdentificationSequence = Sequence([event])
    return group


def _frame_group(number: int) -> Dataset:
    group, content, acquisition = Dataset(), Dataset(), Dataset()
    content.FrameAcquisitionNumber = 1
    content.FrameReferenceDateTime = content.FrameAcquisitionDateTime = f"{_DATE}{_TIME}.{number:06d}"
    content.FrameAcquisitionDuration = 10.0
    acquisition.KVP, acquisition.XRayTubeCurrentInmA = "080.0", 100.0 + number
    group.FrameContentSequence = Sequence([content])
    group.FrameAcquisitionSequence = Sequence([acquisition])
    return group


def _dx_image(ds: Dataset, stored: NDArray[Any], bits_stored: int, *, for_presentation: bool) -> None:
    ds.PixelIntensityRelationship = "LOG" if for_presentation else "LIN"
    ds.PixelIntensityRelationshipSign = -1 if for_presentation else 1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
    ds.PresentationLUTShape = "IDENTITY"
    if not for_presentation:
        return
    low, high = int(stored.min()), int(stored.max())
    ds.WindowCenter, ds.WindowWidth = str((low + high + 1) // 2), str(max(2, high - low + 1))
    ds.WindowCenterWidthExplanation = "NORMAL"


def _dx_acquisition(ds: Dataset, pixel_spacing_mm: float) -> None:
    spacing = [f"{pixel_spacing_mm:.4g}"] * 2
    ds.ImageLaterality = "U"
    ds.AnatomicRegionSequence = Sequence([code("43799004", "SCT", "Chest")])
    ds.BodyPartExamined, ds.ViewPosition = "CHEST", "PA"
    ds.ImagerPixelSpacing = spacing
    ds.PositionerType = "NONE"
    ds.ViewCodeSequence = Sequence([code("399348003", "SCT", "postero-anterior")])
    ds.DetectorType = "SCINTILLATOR"
    ds.DetectorConditionsNominalFlag = "YES"
    ds.DetectorID = "PANEL-1"
    ds.FieldOfViewOrigin, ds.FieldOfViewRotation, ds.FieldOfViewHorizontalFlip = ["0", "0"], "0", "NO"
    ds.AcquisitionContextSequence = Sequence([])
    ds.KVP, ds.ExposureInuAs, ds.ExposureTime = "125", "400", "4"
    ds.ExposureIndex, ds.TargetExposureIndex, ds.DeviationIndex = "75", "300", "-6.0"
    ds.IrradiationEventUID = new_uid()
