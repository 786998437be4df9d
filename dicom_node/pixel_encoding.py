"""Encodes frames losslessly: those of a derived object in the syntax of its source, and any frame in a chosen one."""

from __future__ import annotations

import hashlib
import struct
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import numpy as np
from numpy.typing import NDArray
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from dicom_node.errors import DerivationError, UnsupportedPixels
from dicom_node.jpeg_lossless import encode_jpeg_lossless
from dicom_node.part10 import UNREADABLE, PixelDataElement
from dicom_node.pixels import Cells, PixelSpec, StoredFrame, cell_bytes, iter_decoded, stored_values

ENCODABLE: Final[dict[UID, str]] = {
    RLELossless: "pylibjpeg",
    JPEGLSLossless: "pyjpegls",
    JPEG2000Lossless: "pylibjpeg",
    JPEGLossless: "gdcm",
    JPEGLosslessSV1: "gdcm",
}
"""Compressed transfer syntaxes that we write, and the codec: each frame is decoded again and compared before it is
used. Left to choose, pydicom takes GDCM for RLE, which ends the process where rows x columns is odd."""

NATIVE: Final = frozenset((ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian))

MAX_DEFLATED_BYTES: Final = 64 * 2**20
"""Deflated data sets are written from memory, so larger ones become Explicit VR Little Endian."""

MAX_IN_MEMORY_BYTES: Final = 64 * 2**20
"""Pixel data beyond this is kept in a temporary file until the derived object is written."""

MAX_OFFSET: Final = 2**32 - 1
"""What an entry of the Basic Offset Table can say (PS3.5 A.4)."""

MAX_VALUE_BYTES: Final = 2**32 - 2
"""What a 32-bit length can say of native pixel data (PS3.5 8.1.1)."""


@dataclass(frozen=True, kw_only=True)
class EncodedPixels:
    """Pixel Data of a derived object.

    Attributes
    ----------
    value
        Bytes, or a file that is valid until the writer that made it is closed.
    smallest, largest
        Of the stored values that are image; None when all is padding.
    source_digest
        SHA-256, in hexadecimal, of the cells of the *source*, whatever their encoding: see `pixels.pixel_digest`.
    """

    transfer_syntax_uid: UID
    vr: str
    value: bytes | BinaryIO
    smallest: int | None
    largest: int | None
    source_digest: str


class FrameWriter:
    """Takes frames one by one and encodes them at the end; memory is bounded whatever their number.

    Made by `frame_writer`.
    """

    def __init__(self, spec: PixelSpec, *, folder: Path | None) -> None:
        self._spec = spec
        self._folder = folder
        self._files: list[BinaryIO] = []
        self._cells = self._spool()
        self._digest = hashlib.sha256()
        self._frames = 0
        self._smallest: int | None = None
        self._largest: int | None = None

    def add(self, source: StoredFrame, cells: Cells) -> None:
        """Append the frame `cells` that was made from `source`."""
        if cells.shape != source.cells.shape or cells.dtype != source.cells.dtype:
            raise DerivationError(f"frame {source.index} changed its form")
        self._digest.update(cell_bytes(source.cells))
        self._cells.write(cell_bytes(cells))
        self._frames += 1
        native = stored_values(cells, self._spec)[source.native]
        if native.size:
            low, high = int(native.min()), int(native.max())
            self._smallest = low if self._smallest is None else min(self._smallest, low)
            self._largest = high if self._largest is None else max(self._largest, high)

    def finish(self) -> EncodedPixels:
        """Return the pixel data of all frames.

        Raises
        ------
        DerivationError
            If frames are missing, or there is no encoding that holds that many bytes.
        """
        if self._frames != self._spec.frames:
            raise DerivationError(f"{self._frames} of {self._spec.frames} frames were denoised")
        syntax = output_syntax(self._spec)
        value: BinaryIO | None = None
        if syntax in ENCODABLE:
            value = self._spool()
            if not encapsulate(self._written_frames(), self._spec, syntax, value):
                syntax, value = ExplicitVRLittleEndian, None
        if value is None:
            value = self._native(syntax)
        value.seek(0)
        vr = "OB" if syntax in ENCODABLE else "OW" if syntax.is_implicit_VR else self._spec.pixel_vr
        return EncodedPixels(
            transfer_syntax_uid=syntax,
            vr=vr,
            value=value.getvalue() if isinstance(value, BytesIO) else value,
            smallest=self._smallest,
            largest=self._largest,
            source_digest=self._digest.hexdigest(),
        )

    def close(self) -> None:
        """Release temporary files; `EncodedPixels.value` is of no use afterwards."""
        for file in self._files:
            file.close()

    def _spool(self) -> BinaryIO:
        if self._spec.frame_bytes * self._spec.frames <= MAX_IN_MEMORY_BYTES:
            return BytesIO()
        # Kept open for the caller; `close` ends it.
        file = cast(BinaryIO, tempfile.TemporaryFile(dir=self._folder))  # noqa: SIM115
        self._files.append(file)
        return file

    def _written_frames(self) -> Iterator[Cells]:
        dtype = np.dtype(f"<u{self._spec.bits_allocated // 8}")
        self._cells.seek(0)
        for _ in range(self._frames):
            data = np.frombuffer(self._cells.read(self._spec.frame_bytes), dtype=dtype)
            yield cast(Cells, data.reshape(self._spec.rows, self._spec.columns).astype(dtype.newbyteorder("=")))

    def _native(self, syntax: UID) -> BinaryIO:
        length = self._spec.frame_bytes * self._frames
        if length > MAX_VALUE_BYTES:
            raise DerivationError(f"{length} bytes of pixel data don't fit an uncompressed transfer syntax")
        if syntax == ExplicitVRBigEndian and self._spec.bits_allocated == 16:
            swapped = self._spool()
            for cells in self._written_frames():
                swapped.write(cells.astype(">u2").tobytes())
            return swapped
        self._cells.seek(0, 2)
        if length % 2:
            self._cells.write(b"\0")
        return self._cells


@contextmanager
def frame_writer(spec: PixelSpec, *, folder: Path | None = None) -> Iterator[FrameWriter]:
    """Give a `FrameWriter`, and release its temporary files in `folder` (default: the system's) at the end."""
    writer = FrameWriter(spec, folder=folder)
    try:
        yield writer
    finally:
        writer.close()


def output_syntax(spec: PixelSpec) -> UID:
    """Return the transfer syntax of the derived object: the source's own where it is lossless and written here."""
    syntax = spec.transfer_syntax_uid
    if syntax in NATIVE or syntax == RLELossless:
        return syntax
    if syntax == DeflatedExplicitVRLittleEndian and spec.frame_bytes * spec.frames <= MAX_DEFLATED_BYTES:
        return syntax
    if syntax in ENCODABLE and can_hold(syntax, spec):
        return syntax
    return UID(ExplicitVRLittleEndian)


def can_hold(syntax: str, spec: PixelSpec) -> bool:
    """Tell whether a syntax of `ENCODABLE` keeps all that the cells mean; the values themselves are not looked at.

    RLE takes whole cells. The others take stored values, so bits above them and another High Bit would be lost.
    """
    return syntax == RLELossless or not (spec.embedded_overlays or spec.shift)


def encapsulate(frames: Iterable[Cells], spec: PixelSpec, syntax: UID, target: BinaryIO) -> bool:
    """Write offset table and items (PS3.5 A.4) of `frames` to `target`, from where it stands.

    Parameters
    ----------
    frames
        As many as `spec` says; taken one by one.
    spec
        Of the frames.
    syntax
        One of `ENCODABLE`.
    target
        Seekable; left at the end of the last item.

    Returns
    -------
    False where the codec can't hold a frame exactly, or the offsets don't fit; what was written is then of no use.
    """
    table = target.tell() + 8
    first_item = table + 4 * spec.frames
    target.write(struct.pack("<HHL", 0xFFFE, 0xE000, 4 * spec.frames) + bytes(4 * spec.frames))
    offsets = []
    for cells in frames:
        frame = encode_exactly(cells, spec, syntax)
        if frame is None:
            return False
        offsets.append(target.tell() - first_item)
        target.write(struct.pack("<HHL", 0xFFFE, 0xE000, len(frame)) + frame)
    if len(offsets) != spec.frames or offsets[-1] > MAX_OFFSET:
        return False
    target.seek(table)
    target.write(struct.pack(f"<{spec.frames}L", *offsets))
    target.seek(0, 2)
    return True


def encode_exactly(cells: Cells, spec: PixelSpec, syntax: UID) -> bytes | None:
    """Return `cells` compressed, of even length; None if what comes back when decoded is not the same."""
    # RLE takes whole cells, whatever their bits mean; the others take stored values.
    whole = syntax == RLELossless
    pixels = cells if whole else stored_values(cells, spec)
    options: dict[str, Any] = {
        "rows": spec.rows,
        "columns": spec.columns,
        "number_of_frames": 1,
        "samples_per_pixel": 1,
        "photometric_interpretation": spec.photometric,
        "bits_allocated": spec.bits_allocated,
        "bits_stored": spec.bits_allocated if whole else spec.bits_stored,
        "pixel_representation": int(spec.signed and not whole),
    }
    try:
        frame = _encode(np.ascontiguousarray(pixels), syntax, options)
        frame += b"\0" * (len(frame) % 2)
        wrapped = struct.pack("<HHLHHL", 0xFFFE, 0xE000, 0, 0xFFFE, 0xE000, len(frame)) + frame
        wrapped += struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
        element = PixelDataElement(stream=BytesIO(wrapped), offset=0, length=len(wrapped), encapsulated=True, vr="OB")
        decoded, _ = next(iter_decoded(element, syntax, **options))
    except (*UNREADABLE, UnsupportedPixels):
        return None
    if not np.array_equal(decoded.reshape(pixels.shape), pixels):
        return None
    if not whole and not np.array_equal(pixels.view(cells.dtype), cells):
        # Bits beside the stored ones would be lost.
        return None
    return frame


def _encode(pixels: NDArray[Any], syntax: UID, options: dict[str, Any]) -> bytes:
    if syntax in (JPEGLossless, JPEGLosslessSV1):
        return encode_jpeg_lossless(pixels, bits_stored=options["bits_stored"])
    return get_encoder(syntax).encode(pixels, encoding_plugin=ENCODABLE[syntax], pixel_keyword="PixelData", **options)
