"""Decodes JPEG of 8, 12 and 16 bits, lossy and lossless, with libjpeg-turbo, as a plugin for pydicom.

pydicom's own plugins refuse JPEG Extended with 12 bits, and GDCM ends the process on many a damaged stream.
"""

from __future__ import annotations

from typing import Final

import imagecodecs
import numpy as np
from pydicom.pixels.decoders.base import DecodeRunner
from pydicom.uid import UID, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1

SYNTAXES: Final = frozenset((JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1))
DECODER_DEPENDENCIES: Final[dict[UID, tuple[str, ...]]] = dict.fromkeys(SYNTAXES, ("imagecodecs",))
"""pydicom asks its plugins for this name."""

_START_OF_IMAGE, _END_OF_IMAGE = b"\xff\xd8", b"\xff\xd9"
_FRAME_HEADERS: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""SOF0 to SOF15; the others are DHT, JPG and DAC (ISO/IEC 10918-1 table B.1)."""


def is_available(uid: str) -> bool:
    """Tell pydicom whether `uid` is decoded here."""
    return uid in SYNTAXES


def decode_frame(src: bytes, runner: DecodeRunner) -> bytes:
    """Return the samples of one frame, pixel by pixel, in the colours of the stream.

    Parameters
    ----------
    src
        The stream, with or without padding at its end.
    runner
        What the attributes say; told how many bits the samples really have.

    Raises
    ------
    ValueError
        If the stream is cut off, can't be decoded, or isn't of the size or depth that the attributes say.
    """
    position = _frame_header(src)
    precision = src[position + 4]
    if precision > runner.bits_allocated:
        raise ValueError(f"samples of {precision} bits don't fit the {runner.bits_allocated} bits allocated")
    # libjpeg fills the rest of a frame that is cut off with grey, and says nothing. Entropy coded bytes never look like
    # an end marker (ISO/IEC 10918-1 B.1.1.5); whatever pads the fragment may follow it.
    if src.find(_END_OF_IMAGE, position) < 0:
        raise ValueError("the JPEG stream is cut off")
    shape: tuple[int, ...] = (runner.rows, runner.columns)
    if runner.samples_per_pixel > 1:
        shape += (runner.samples_per_pixel,)
    # Given the target, libjpeg refuses a stream of another size before it asks for memory.
    target = np.empty(shape, dtype=np.uint8 if precision <= 8 else np.uint16)
    colours = "YCbCr" if runner.samples_per_pixel == 3 else None
    imagecodecs.jpeg8_decode(src, colorspace=colours, outcolorspace=colours, out=target)
    runner.set_option("bits_allocated", target.itemsize * 8)
    return target.tobytes()


def _frame_header(src: bytes) -> int:
    """Return where the frame header's marker is (ISO/IEC 10918-1 B.2.2); bits of a sample follow four bytes on."""
    if not src.startswith(_START_OF_IMAGE):
        raise ValueError("it is not a JPEG stream")
    position = 2
    while position + 4 < len(src) and src[position] == 0xFF:
        marker = src[position + 1]
        if marker in _FRAME_HEADERS:
            return position
        # Any number of fill bytes may precede a marker.
        position += 1 if marker == 0xFF else 2 + int.from_bytes(src[position + 2 : position + 4], "big")
    raise ValueError("the JPEG stream has no frame header")
