"""Small valid objects on disk, and the delivery items for them, for tests of sending."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless

from config.settings import DicomDestinationSettings
from dicom_node.destinations.base import DeliveryItem, ItemOutcome, Outcome
from dicom_node.sending import read_item

DX = "1.2.840.10008.5.1.4.1.1.1.1"
CR = "1.2.840.10008.5.1.4.1.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
STUDY, SERIES = "1.2.826.0.1.3680043.10.1.1", "1.2.826.0.1.3680043.10.1.2"


def small_image(number: int, *, sop_class: str = DX, size: int = 64) -> Dataset:
    """Return an uncompressed image of `size` x `size` pixels whose UIDs and values follow from `number`."""
    ds = Dataset()
    ds.SOPClassUID = sop_class
    ds.SOPInstanceUID = f"1.2.826.0.1.3680043.10.1.3.{number}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = STUDY, SERIES
    ds.PatientName, ds.PatientID = "Phantom^Test", "T1"
    ds.Modality = "CT" if sop_class == CT else "DX"
    ds.InstanceNumber = number
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows = ds.Columns = size
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    values = np.random.default_rng(number).integers(0, 4096, (size, size), dtype=np.uint16)
    ds.PixelData = values.tobytes()
    ds["PixelData"].VR = "OW"
    block = ds.private_block(0x0011, "TESTS", create=True)
    block.add_new(0x01, "SH", "kept")
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


def write_image(
    folder: Path, number: int, *, sop_class: str = DX, syntax: str = ExplicitVRLittleEndian, size: int = 64
) -> Path:
    """Write `small_image` as a Part 10 file in a transfer syntax, RLE Lossless or an uncompressed one."""
    ds = small_image(number, sop_class=sop_class, size=size)
    if syntax == RLELossless:
        ds.compress(RLELossless, generate_instance_uid=False)
    else:
        ds.file_meta.TransferSyntaxUID = UID(syntax)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{number:05d}.dcm"
    ds.save_as(path, enforce_file_format=True)
    return path


def write_series(folder: Path, count: int, *, sop_class: str = DX, syntax: str = ExplicitVRLittleEndian) -> list[Path]:
    """Write `count` images numbered from 0."""
    return [write_image(folder, number, sop_class=sop_class, syntax=syntax) for number in range(count)]


def items_of(paths: list[Path]) -> list[DeliveryItem]:
    """Return the delivery items for files, with their place in the list as instance ID."""
    return [read_item(path, number) for number, path in enumerate(paths)]


def destination(port: int, **changes: object) -> DicomDestinationSettings:
    """Return the settings of a destination on the loopback interface with short time-outs."""
    settings: dict[str, object] = {
        "name": "pacs",
        "ae_title": "MOCKPACS",
        "host": "127.0.0.1",
        "port": port,
        "connect_timeout_s": 5,
        "acse_timeout_s": 5,
        "dimse_timeout_s": 20,
    }
    return DicomDestinationSettings.model_validate(settings | changes)


class Outcomes(list[ItemOutcome]):
    """Collects what a delivery reports."""

    def states(self) -> dict[int, Outcome]:
        """Return the outcome of each instance; AssertionError if one was reported twice."""
        found = {outcome.instance_id: outcome.outcome for outcome in self}
        assert len(found) == len(self), "an object has two outcomes"
        return found

    def reason(self, instance_id: int) -> str:
        """Return what was said about an instance."""
        return next(outcome.reason for outcome in self if outcome.instance_id == instance_id)
