"""Synthetic radiographs as DICOM objects that the node enhances: smooth anatomy, quantum noise, known UIDs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

CR = "1.2.840.10008.5.1.4.1.1.1"
# For Processing: linear values, of whose noise the estimate is sure even in images as small as these.
DX = "1.2.840.10008.5.1.4.1.1.1.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
ROOT = "1.2.826.0.1.3680043.10.2"


def radiograph(
    number: int, *, series: int = 1, study: int | None = None, sop_class: str = DX, size: int = 192, seed: int = 0
) -> Dataset:
    """Return an image whose UIDs follow from `series` and `number`, and whose pixels also follow from `seed`."""
    study = series if study is None else study
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID = sop_class
    ds.SOPInstanceUID = f"{ROOT}.3.{series}.{number}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{ROOT}.1.{study}", f"{ROOT}.2.{series}"
    ds.ImageType = ["ORIGINAL", "PRIMARY", ""]
    ds.StudyDate, ds.StudyTime, ds.ContentDate, ds.ContentTime = "20260102", "101112", "20260102", "101113"
    ds.Modality = {CR: "CR", DX: "DX", CT: "CT"}[sop_class]
    ds.Manufacturer, ds.PatientName, ds.PatientID = "Tests", "Phantom^Test", "T1"
    ds.StudyID, ds.AccessionNumber, ds.SeriesNumber, ds.InstanceNumber = "1", "A1", series, number
    ds.SeriesDescription = "Chest PA"
    ds.BodyPartExamined = "CHEST"
    if sop_class == DX:
        ds.PresentationIntentType = "FOR PROCESSING"
        ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LIN", 1
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows = ds.Columns = size
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 14, 13, 0
    rng = np.random.default_rng([series, number, seed])
    y, x = np.mgrid[0:size, 0:size] / size
    quanta = 200 + 600 * np.exp(-(((x - 0.5) / 0.3) ** 2) - ((y - 0.5) / 0.4) ** 2) + 60 * np.sin(9 * x) * np.cos(7 * y)
    values = np.clip(np.rint(rng.poisson(quanta) * 8.0), 0, 2**14 - 1).astype("<u2")
    ds.PixelData = values.tobytes()
    ds["PixelData"].VR = "OW"
    block = ds.private_block(0x0011, "TESTS", create=True)
    block.add_new(0x01, "SH", "kept")
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


def write_radiographs(
    folder: Path,
    count: int,
    *,
    series: int = 1,
    study: int | None = None,
    first: int = 0,
    sop_class: str = DX,
    size: int = 192,
    seed: int = 0,
) -> list[Path]:
    """Write `count` images of one series, numbered from `first`, as Part 10 files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(first, first + count):
        path = folder / f"{series:03d}-{number:05d}-{seed}.dcm"
        ds = radiograph(number, series=series, study=study, sop_class=sop_class, size=size, seed=seed)
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths
