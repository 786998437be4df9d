"""Lossless transcoding of a stored object: uncompressed where its syntax is refused, compressed where it is wanted."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import numpy as np
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node.errors import DerivationError, UnsupportedPixels
from dicom_node.header_encoding import element_header, encode_elements, swap_bytes
from dicom_node.part10 import (
    OFFSET_TABLES,
    PIXEL_DATA,
    UNREADABLE,
    Part10File,
    PixelDataElement,
    detached_view,
    open_part10,
    readable,
)
from dicom_node.pixel_encoding import ENCODABLE, MAX_VALUE_BYTES, can_hold, encapsulate
from dicom_node.pixels import Cells, PixelSpec, cell_bytes, iter_decoded, iter_frames, read_spec

TARGETS: Final = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
SIGNED_BY: Final = (Tag(0x4FFE, 0x0001), Tag(0xFFFA, 0xFFFA))
"""MAC Parameters Sequence and Digital Signatures Sequence (PS3.3 C.12.1.1.3)."""
SEQUENCE_DELIMITER: Final = Tag(0xFFFE, 0xE0DD)
_UNDEFINED: Final = 0xFFFFFFFF
MAX_READS: Final = 1_000_000
"""More than for denoising: an enhanced multi-frame object has hundreds of thousands of elements."""

_CHUNK: Final = 1 << 20
_DECODED_COLOURS: Final = {"YBR_FULL_422": "YBR_FULL", "YBR_PARTIAL_422": "YBR_FULL", "YBR_PARTIAL_420": "YBR_FULL"}
"""Decoders give every pixel its own colour difference samples."""


@dataclass(frozen=True, kw_only=True)
class _DecodedPixels:
    """Pixel data to be written: its length, the frames, and the attributes that decoding changed."""

    length: int
    frames: Iterator[bytes]
    changes: dict[str, str | int]


@contextmanager
def to_uncompressed(path: Path, transfer_syntax_uid: str, *, folder: Path | None = None) -> Iterator[Path]:
    """Give a temporary file that holds the data set of `path` in another transfer syntax, alone, with no file meta.

    Parameters
    ----------
    path
        A Part 10 file.
    transfer_syntax_uid
        Explicit or Implicit VR Little Endian.
    folder
        For the temporary file; default: the system's.

    Raises
    ------
    UnsupportedPixels
        If the file can't be parsed or its pixel data can't be decoded.
    DerivationError
        If the target syntax can't hold it.

    Notes
    -----
    Values are exact: text and private elements keep their bytes, pixels are those that the decoder gives, and
    attributes that tell of lossy compression stay. Memory is bounded by one frame and the attributes.
    """
    with _scratch_file(folder) as (file, name):
        write_uncompressed(path, transfer_syntax_uid, file, folder=folder)
        file.flush()
        yield name


@contextmanager
def to_compressed(
    path: Path, transfer_syntax_uid: str, *, folder: Path | None = None, limit_s: float = math.inf
) -> Iterator[Path]:
    """Give a temporary file that holds the data set of `path` compressed without loss, alone, with no file meta.

    Parameters
    ----------
    path
        A Part 10 file whose pixel data is not compressed.
    transfer_syntax_uid
        One of `ENCODABLE`: RLE Lossless, JPEG Lossless, JPEG-LS Lossless or JPEG 2000 Lossless.
    folder
        For the temporary file; default: the system's.
    limit_s
        Time after which no further frame is begun, in seconds.

    Raises
    ------
    UnsupportedPixels
        If it is no uncompressed grey image of up to 16 bits, the syntax can't hold every bit of its cells, or the time
        is up.
    DerivationError
        If attributes can't be encoded in explicit VR.

    Notes
    -----
    Each frame is decoded again and compared before the next one. Nothing but the encoding changes: attributes keep
    their bytes, and those that tell of lossy compression stay. Memory is bounded by one frame and the attributes.
    """
    with _scratch_file(folder) as (file, name):
        write_compressed(path, transfer_syntax_uid, file, folder=folder, limit_s=limit_s)
        file.flush()
        yield name


@contextmanager
def _scratch_file(folder: Path | None) -> Iterator[tuple[BinaryIO, Path]]:
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".dataset") as file:
        yield cast(BinaryIO, file.file), Path(file.name)


def write_uncompressed(path: Path, transfer_syntax_uid: str, target: BinaryIO, *, folder: Path | None = None) -> None:
    """Write the data set of `path` to `target` in Explicit or Implicit VR Little Endian; see `to_uncompressed`."""
    if transfer_syntax_uid not in TARGETS:
        raise DerivationError(f"{transfer_syntax_uid} is not an uncompressed little endian transfer syntax")
    implicit = transfer_syntax_uid == ImplicitVRLittleEndian
    with open_part10(path, folder=folder, max_reads=MAX_READS) as part10:
        header = detached_view(part10.header)
        decoded = None
        if part10.pixel_data is not None and part10.pixel_data.encapsulated:
            decoded = _decode(part10)
            _apply(header, decoded.changes)
        with _around_pixels(header, target, implicit=implicit):
            if decoded is None:
                _copy_bulk(part10, target, implicit=implicit)
            else:
                _write_decoded(decoded, part10, target, implicit=implicit)


def write_compressed(
    path: Path,
    transfer_syntax_uid: str,
    target: BinaryIO,
    *,
    folder: Path | None = None,
    limit_s: float = math.inf,
) -> None:
    """Write the data set of `path` to `target`, which is seekable, compressed; see `to_compressed`."""
    syntax = UID(transfer_syntax_uid)
    if syntax not in ENCODABLE:
        raise DerivationError(f"{syntax.name} is not a lossless transfer syntax that is written here")
    with open_part10(path, folder=folder) as part10:
        spec = check_compressible(part10, syntax)
        with _around_pixels(detached_view(part10.header), target, implicit=False):
            target.write(element_header(PIXEL_DATA, "OB", _UNDEFINED, implicit=False))
            if not encapsulate(_cells(part10, spec, limit_s), spec, syntax, target):
                raise UnsupportedPixels(f"{syntax.name} can't hold its pixel cells exactly")
            target.write(element_header(SEQUENCE_DELIMITER, "", 0, implicit=True))


def _cells(part10: Part10File, spec: PixelSpec, limit_s: float) -> Iterator[Cells]:
    end = time.monotonic() + limit_s
    for frame in iter_frames(part10, spec):
        if time.monotonic() > end:
            raise UnsupportedPixels(f"compressing it takes longer than {limit_s:g} s")
        yield frame.cells


def check_compressible(part10: Part10File, syntax: str) -> PixelSpec:
    """Return what the attributes say of the pixels; UnsupportedPixels says why they are to stay as they are."""
    if part10.pixel_data is None:
        raise UnsupportedPixels("there is no Pixel Data")
    if part10.pixel_data.encapsulated:
        raise UnsupportedPixels("its pixel data is compressed already")
    if any(tag in part10.header for tag in SIGNED_BY):
        raise UnsupportedPixels("it is signed, and a signature holds for one transfer syntax alone")
    spec = read_spec(part10.header)
    needed = spec.frame_bytes * spec.frames
    if part10.pixel_data.length != needed + needed % 2:
        raise UnsupportedPixels(f"Pixel Data holds {part10.pixel_data.length} bytes, the attributes ask for {needed}")
    if not can_hold(syntax, spec):
        raise UnsupportedPixels(f"{UID(syntax).name} has no place for bits of its pixel cells beside the stored ones")
    return spec


@contextmanager
def _around_pixels(header: Dataset, target: BinaryIO, *, implicit: bool) -> Iterator[None]:
    """Write the elements before pixel data, then those behind it; the block writes pixel data itself."""
    with readable("the data set"):
        target.write(encode_elements(_part(header, lambda tag: tag < PIXEL_DATA), implicit=implicit))
    yield
    with readable("the data set"):
        target.write(encode_elements(_part(header, lambda tag: tag > PIXEL_DATA), implicit=implicit))


def _part(header: Dataset, belongs: Any) -> Dataset:
    return Dataset({tag: header.get_item(tag, keep_deferred=True) for tag in header.keys() if belongs(tag)})  # noqa: SIM118


def _decode(part10: Part10File) -> _DecodedPixels:
    """Prepare decoding; grey values of up to 16 bits the way they are denoised, everything else as pydicom gives it."""
    try:
        spec = read_spec(part10.header)
    except UnsupportedPixels:
        return _decode_any(part10)
    return _DecodedPixels(length=spec.frame_bytes * spec.frames, frames=_grey_frames(part10, spec), changes={})


def _grey_frames(part10: Part10File, spec: PixelSpec) -> Iterator[bytes]:
    for frame in iter_frames(part10, spec):
        yield cell_bytes(frame.cells)


def _decode_any(part10: Part10File) -> _DecodedPixels:
    ds = detached_view(part10.header)
    assert part10.pixel_data is not None
    with readable("Pixel Data"):
        samples = int(ds.SamplesPerPixel)
        options: dict[str, Any] = {
            "rows": int(ds.Rows),
            "columns": int(ds.Columns),
            "number_of_frames": int(ds.get("NumberOfFrames") or 1),
            "samples_per_pixel": samples,
            "photometric_interpretation": str(ds.PhotometricInterpretation),
            "bits_allocated": int(ds.BitsAllocated),
            "bits_stored": int(ds.BitsStored),
            "pixel_representation": int(ds.PixelRepresentation),
        }
        if samples > 1:
            options["planar_configuration"] = int(ds.get("PlanarConfiguration") or 0)
        if options["bits_allocated"] % 8:
            raise ValueError("bits in compressed pixel data are not supported")
        decoded = iter_decoded(part10.pixel_data, part10.transfer_syntax_uid, **options)
        first, properties = next(decoded)
    length = first.nbytes * options["number_of_frames"]
    colours = str(properties["photometric_interpretation"])
    changes: dict[str, str | int] = {"PhotometricInterpretation": _DECODED_COLOURS.get(colours, colours)}
    if samples > 1:
        # pydicom gives samples pixel by pixel, whatever the codestream holds.
        changes["PlanarConfiguration"] = 0
    return _DecodedPixels(length=length, frames=_any_frames(first, decoded), changes=changes)


def _any_frames(first: np.ndarray[Any, Any], rest: Iterator[tuple[np.ndarray[Any, Any], Any]]) -> Iterator[bytes]:
    yield _little_endian(first)
    while True:
        with readable("Pixel Data"):
            following = next(rest, None)
        if following is None:
            return
        yield _little_endian(following[0])


def _little_endian(frame: np.ndarray[Any, Any]) -> bytes:
    return frame.astype(frame.dtype.newbyteorder("<"), copy=False).tobytes()


def _apply(header: Dataset, changes: dict[str, str | int]) -> None:
    """Change attributes that decoding changed, as bytes like all others."""
    for keyword, value in changes.items():
        element = DataElement(keyword, "US" if isinstance(value, int) else "CS", value)
        encoded = value.to_bytes(2, "little") if isinstance(value, int) else _even(value.encode("ascii"), b" ")
        header[element.tag] = RawDataElement(element.tag, element.VR, len(encoded), encoded, 0, False, True)


def _write_decoded(decoded: _DecodedPixels, part10: Part10File, target: BinaryIO, *, implicit: bool) -> None:
    padding = decoded.length % 2
    if decoded.length + padding > MAX_VALUE_BYTES:
        raise DerivationError(f"{decoded.length} bytes of pixel data don't fit an uncompressed transfer syntax")
    allocated = detached_view(part10.header).get("BitsAllocated")
    vr = "OW" if implicit or allocated != 8 else "OB"
    target.write(element_header(PIXEL_DATA, vr, decoded.length + padding, implicit=implicit))
    written = 0
    for frame in decoded.frames:
        target.write(frame)
        written += len(frame)
    if written != decoded.length:
        raise UnsupportedPixels(f"Pixel Data decodes to {written} of {decoded.length} bytes")
    target.write(b"\0" * padding)


def _copy_bulk(part10: Part10File, target: BinaryIO, *, implicit: bool) -> None:
    big = part10.transfer_syntax_uid == ExplicitVRBigEndian
    for tag, element in sorted(part10.bulk.items()):
        if tag in OFFSET_TABLES:
            continue
        if element.encapsulated:
            raise DerivationError(f"{tag} has an undefined length")
        unit = _swap_unit(tag, element, part10.header) if big else 1
        vr = "OW" if implicit and tag == PIXEL_DATA else element.vr
        target.write(element_header(tag, vr, element.length, implicit=implicit))
        element.stream.seek(element.offset)
        remaining = element.length
        while remaining:
            chunk = element.stream.read(min(_CHUNK, remaining))
            if not chunk:
                raise UnsupportedPixels(f"{tag} is cut off")
            target.write(swap_bytes(chunk, unit))
            remaining -= len(chunk)


def _swap_unit(tag: BaseTag, element: PixelDataElement, header: Dataset) -> int:
    if tag != PIXEL_DATA:
        return {"OF": 4, "OD": 8}.get(element.vr, 1)
    try:
        allocated = int(detached_view(header).BitsAllocated)
    except UNREADABLE as error:
        raise UnsupportedPixels("Bits Allocated is missing") from error
    if element.vr == "OB":
        return 1
    # Words of OW hold two cells of 8 bits; wider cells are numbers of their own size.
    return max(2, allocated // 8)


def _even(value: bytes, padding: bytes) -> bytes:
    return value + padding * (len(value) % 2)
