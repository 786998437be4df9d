"""Grey images of every format that the standard allows, and files of them in every transfer syntax."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import imagecodecs
import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tests.support.objects import new_uid, save


def grey_image(cells: NDArray[Any], **attributes: Any) -> Dataset:
    """Return the least that describes `cells`, shape (frames, rows, columns), as grey values."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(attributes.pop("syntax", ExplicitVRLittleEndian))
    allocated = cells.itemsize * 8
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.NumberOfFrames, ds.Rows, ds.Columns = cells.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = allocated, allocated, allocated - 1, 0
    ds.PixelData = cells.tobytes() + b"\0" * (cells.nbytes % 2)
    ds["PixelData"].VR = "OB" if allocated == 8 else "OW"
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


@st.composite
def images(draw: st.DrawFn) -> Dataset:
    """Every format: 8 and 16 bits allocated, any bits stored under any high bit, signed, padding, sign, overlays."""
    allocated = draw(st.sampled_from((8, 16)))
    stored = draw(st.integers(2, allocated))
    high_bit = draw(st.integers(stored - 1, allocated - 1))
    signed = draw(st.booleans())
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, 7)), draw(st.integers(1, 7)))
    seed = draw(st.integers(0, 2**32 - 1))
    cells = np.random.default_rng(seed).integers(0, 2**allocated, shape).astype(f"u{allocated // 8}")
    if draw(st.booleans()):
        cells[:] = cells.flat[0]
    ds = grey_image(cells, BitsStored=stored, HighBit=high_bit, PixelRepresentation=int(signed))
    ds.PhotometricInterpretation = draw(st.sampled_from(("MONOCHROME1", "MONOCHROME2")))
    ds.PixelIntensityRelationship = draw(st.sampled_from(("LIN", "LOG", "DISP", "")))
    ds.PixelIntensityRelationshipSign = draw(st.sampled_from((1, -1)))
    match draw(st.sampled_from(("none", "anywhere", "storable range"))):
        case "anywhere":
            low = -(2 ** (allocated - 1)) if signed else 0
            ds.PixelPaddingValue = draw(st.integers(low, low + 2**allocated - 1))
            if draw(st.booleans()):
                ds.PixelPaddingRangeLimit = draw(st.integers(low, low + 2**allocated - 1))
        case "storable range":
            # Some quarter of the values, so that pixels on either side come near it.
            low = -(2 ** (stored - 1)) if signed else 0
            first = draw(st.integers(low, low + 2**stored - 1 - 2**stored // 4))
            ds.PixelPaddingValue, ds.PixelPaddingRangeLimit = first, first + 2**stored // 4
    if draw(st.booleans()) and stored < allocated:
        ds.add_new(0x60000100, "US", allocated)
        ds.add_new(0x60000102, "US", 0 if high_bit >= stored else allocated - 1)
    return ds


@st.composite
def objects(draw: st.DrawFn) -> Dataset:
    """Return an image of every format with the attributes that tell viewers what to make of its values.

    Modality LUT or Rescale, window or VOI LUT, a separate overlay, FOR PROCESSING or FOR PRESENTATION, one to four
    frames; uncompressed.
    """
    ds = draw(images())
    for_presentation = draw(st.booleans())
    ds.SOPClassUID = (
        DigitalXRayImageStorageForPresentation if for_presentation else DigitalXRayImageStorageForProcessing
    )
    ds.PresentationIntentType = "FOR PRESENTATION" if for_presentation else "FOR PROCESSING"
    ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID = new_uid(), new_uid(), new_uid()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.Modality, ds.SeriesNumber, ds.PatientID = "DX", "7", "PHANTOM-1"
    match draw(st.sampled_from(("rescale", "lut", "neither"))):
        case "rescale":
            ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = "0.50", "-1024", "US"
        case "lut":
            ds.ModalityLUTSequence = Sequence([_table(draw)])
    match draw(st.sampled_from(("window", "lut", "neither"))):
        case "window":
            ds.WindowCenter, ds.WindowWidth = "0100", "2e2"
        case "lut":
            ds.VOILUTSequence = Sequence([_table(draw)])
    if draw(st.booleans()):
        _add_separate_overlay(ds)
    return ds


def _table(draw: st.DrawFn) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [4, 0, 16]
    item.LUTData = struct.pack("<4H", *draw(st.lists(st.integers(0, 65535), min_size=4, max_size=4)))
    item["LUTData"].VR = "OW"
    item.ModalityLUTType = "US"
    return item


def _add_separate_overlay(ds: Dataset) -> None:
    bits = ds.Rows * ds.Columns
    ds.add_new(0x60020010, "US", ds.Rows)
    ds.add_new(0x60020011, "US", ds.Columns)
    ds.add_new(0x60020040, "CS", "G")
    ds.add_new(0x60020050, "SS", [1, 1])
    ds.add_new(0x60020100, "US", 1)
    ds.add_new(0x60020102, "US", 0)
    ds.add_new(0x60023000, "OW", b"\xa5" * (2 * -(-bits // 16)))


def _rle(ds: Dataset, cells: NDArray[Any]) -> bytes:
    return RLELosslessEncoder.encode(
        cells,
        encoding_plugin="pydicom",
        rows=ds.Rows,
        columns=ds.Columns,
        number_of_frames=1,
        samples_per_pixel=1,
        photometric_interpretation="MONOCHROME2",
        bits_allocated=ds.BitsAllocated,
        bits_stored=ds.BitsAllocated,
        pixel_representation=0,
        pixel_keyword="PixelData",
    )


def _jpeg(predictor: int) -> Callable[[Dataset, NDArray[Any]], bytes]:
    def encode(ds: Dataset, cells: NDArray[Any]) -> bytes:
        values = _bits_of(ds, cells).astype(np.uint8 if ds.BitsStored <= 8 else np.uint16)
        encoded: bytes = imagecodecs.jpeg8_encode(
            values, lossless=True, predictor=predictor, bitspersample=ds.BitsStored
        )
        return encoded

    return encode


def _j2k(ds: Dataset, cells: NDArray[Any]) -> bytes:
    values = _bits_of(ds, cells)
    if ds.PixelRepresentation:
        # JPEG 2000 knows of a sign, the others of bits alone.
        unused = ds.BitsAllocated - ds.BitsStored
        values = (values << unused).view(f"i{values.itemsize}") >> unused
    encoded: bytes = imagecodecs.jpeg2k_encode(
        values, level=0, codecformat="j2k", reversible=True, bitspersample=ds.BitsStored
    )
    return encoded


def _bits_of(ds: Dataset, cells: NDArray[Any]) -> NDArray[Any]:
    return cells & cells.dtype.type((1 << ds.BitsStored) - 1)


ENCODERS: Final[dict[UID, Callable[[Dataset, NDArray[Any]], bytes]]] = {
    RLELossless: _rle,
    JPEGLossless: _jpeg(5),
    JPEGLosslessSV1: _jpeg(1),
    JPEGLSLossless: lambda ds, cells: imagecodecs.jpegls_encode(_bits_of(ds, cells)),
    JPEG2000Lossless: _j2k,
    HTJ2KLossless: lambda ds, cells: imagecodecs.htj2k_encode(_bits_of(ds, cells), reversible=True),
}
"""Encoders other than those of the node."""

UNCOMPRESSED: Final = (
    ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian,
)  # fmt: skip


def write_as(ds: Dataset, syntax: UID, path: Path) -> tuple[Path, NDArray[Any]]:
    """Write an uncompressed image in another transfer syntax; return where, and the cells that are in the file.

    Codecs but RLE hold stored values, not cells: for them High Bit becomes the highest stored bit, and bits beside
    the stored ones and overlays in them go.
    """
    dtype = np.dtype(f"<u{ds.BitsAllocated // 8}")
    shape = (ds.NumberOfFrames, ds.Rows, ds.Columns)
    cells = np.frombuffer(ds.PixelData, dtype)[: int(np.prod(shape))].reshape(shape)
    ds.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian and ds.BitsAllocated == 16:
        ds.PixelData = cells.astype(">u2").tobytes()
    if syntax in ENCODERS:
        if syntax != RLELossless:
            ds.HighBit = ds.BitsStored - 1
            for tag in (0x60000100, 0x60000102):
                ds.pop(tag, None)
            cells = _bits_of(ds, cells)
        ds.PixelData = encapsulate([ENCODERS[syntax](ds, frame) for frame in cells])
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
    return save(ds, path), cells
