"""What a compressed frame says of itself, read from its own header before a codec believes it.

A codec makes room for the dimensions in the codestream, whatever the attributes say: a hundred bytes can ask for
gigabytes. Some end the process on dimensions that contradict each other.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

_JPEG: Final = frozenset(
    (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless)
)
_JPEG_2000: Final = frozenset((JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K))

_START_OF_FRAME: Final = frozenset((*range(0xC0, 0xD0), 0xF7)) - {0xC4, 0xC8, 0xCC}
"""SOF0 to SOF15 without DHT, JPG and DAC (ISO 10918-1 B.1.1.3), and SOF55 of JPEG-LS (ISO 14495-1 C.1.1)."""

_SIZE = struct.Struct(">4xHHIIIIIIIIH")
"""SOC and SIZ: Lsiz, Rsiz, size and offset of image and tiles, Csiz (ISO 15444-1 A.5.1)."""

_JP2_SIGNATURE: Final = b"\0\0\0\x0cjP  "
_MOST_TILES: Final = 65_535
_RLE_GAIN: Final = 64
"""Two bytes of RLE stand for 128 at most (PS3.5 G.3.1)."""


@dataclass(frozen=True, kw_only=True)
class FrameSize:
    """Dimensions that a codestream asks for."""

    rows: int
    columns: int
    components: int


@dataclass(frozen=True, kw_only=True)
class JpegFrameHeader:
    """Where the frame header of a JPEG or JPEG-LS stream begins, and what it says; ``precision``: bits of a sample."""

    position: int
    precision: int
    size: FrameSize


def require_same_size(
    frame: bytes, syntax: UID, *, rows: int, columns: int, samples_per_pixel: int, bits_allocated: int
) -> None:
    """Raise ValueError unless a compressed frame can be what the attributes say, by its own header.

    Parameters
    ----------
    frame
        One compressed frame, its fragments joined.
    """
    if syntax == RLELossless:
        # RLE has no header of its own; but it can't gain more than this.
        if len(frame) * _RLE_GAIN < rows * columns * samples_per_pixel * bits_allocated // 8:
            raise ValueError(f"a frame of {len(frame)} bytes has too few bytes for {rows} x {columns} pixels")
        return
    size = read_size(frame, syntax)
    if size is None:
        return
    if (size.rows, size.columns) != (rows, columns):
        raise ValueError(
            f"the codestream has {size.rows} x {size.columns} pixels, the attributes say {rows} x {columns}"
        )
    if size.components != samples_per_pixel:
        raise ValueError(f"the codestream has {size.components} components, the attributes say {samples_per_pixel}")


def read_size(frame: bytes, syntax: UID) -> FrameSize | None:
    """Return the dimensions in the header of a JPEG, JPEG-LS, JPEG 2000 or HTJ2K codestream; None for other syntaxes.

    Raises
    ------
    ValueError
        If there is no such header.
    """
    if syntax in _JPEG:
        return jpeg_frame_header(frame).size
    if syntax not in _JPEG_2000:
        return None
    try:
        return _read_image_size(frame, _find_codestream(frame))
    except (struct.error, IndexError) as error:
        raise ValueError("the header of the codestream is cut off") from error


def jpeg_frame_header(frame: bytes) -> JpegFrameHeader:
    """Walk over the marker segments of JPEG or JPEG-LS up to the frame header (ISO 10918-1 B.2.2).

    Raises
    ------
    ValueError
        If there is none.
    """
    try:
        return _walk_to_frame_header(frame)
    except (struct.error, IndexError) as error:
        raise ValueError("the header of the codestream is cut off") from error


def _walk_to_frame_header(frame: bytes) -> JpegFrameHeader:
    if frame[:2] != b"\xff\xd8":
        raise ValueError("the codestream does not begin with SOI")
    position = 2
    while True:
        if frame[position] != 0xFF:
            raise ValueError("there is no marker where one was due in the codestream")
        marker = frame[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker in _START_OF_FRAME:
            precision, rows, columns, components = struct.unpack_from(">BHHB", frame, position + 4)
            size = FrameSize(rows=rows, columns=columns, components=components)
            return JpegFrameHeader(position=position, precision=precision, size=size)
        if marker in (0xD9, 0xDA):
            raise ValueError("the codestream has no frame header")
        position += 2 + struct.unpack_from(">H", frame, position + 2)[0]


def _find_codestream(frame: bytes) -> int:
    """Return where the codestream begins: at once, or in a box of a JP2 file, which some senders store."""
    if not frame.startswith(_JP2_SIGNATURE):
        return 0
    position = 0
    while True:
        length, kind = struct.unpack_from(">I4s", frame, position)
        head = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", frame, position + 8)
            head = 16
        if kind == b"jp2c":
            return position + head
        if length < head:
            raise ValueError("there is no codestream in the JP2 file")
        position += length


def _read_image_size(frame: bytes, start: int) -> FrameSize:
    if frame[start : start + 4] != b"\xff\x4f\xff\x51":
        raise ValueError("the codestream does not begin with SOC and SIZ")
    _, _, x, y, x_offset, y_offset, tile_x, tile_y, tile_x_offset, tile_y_offset, components = _SIZE.unpack_from(
        frame, start
    )
    if x <= x_offset or y <= y_offset or not tile_x or not tile_y:
        raise ValueError("the codestream has no pixels")
    tiles = -(-(x - tile_x_offset) // tile_x) * -(-(y - tile_y_offset) // tile_y)
    if not 0 < tiles <= _MOST_TILES:
        raise ValueError(f"the codestream has {tiles} tiles")
    return FrameSize(rows=y - y_offset, columns=x - x_offset, components=components)
