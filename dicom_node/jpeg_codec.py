"""Decodes JPEG of 8, 12 and 16 bits and JPEG-LS, as plugins for pydicom that look at a stream before they trust it.

pydicom's own plugins refuse JPEG Extended with 12 bits; GDCM ends the process on many a damaged stream, and CharLS
never comes back from one that is cut off.
"""

from __future__ import annotations

from typing import Final, cast

import imagecodecs
import jpeg_ls
import numpy as np
from pydicom.pixels.decoders.base import DecodeRunner
from pydicom.uid import (
    UID,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

from dicom_node.codestreams import jpeg_frame_header

DECODER_DEPENDENCIES: Final[dict[UID, tuple[str, ...]]] = {
    **dict.fromkeys((JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1), ("imagecodecs",)),
    **dict.fromkeys((JPEGLSLossless, JPEGLSNearLossless), ("pyjpegls",)),
}
"""pydicom asks its plugins for this name."""

_END_OF_IMAGE: Final = b"\xff\xd9"
_START_OF_SCAN: Final = b"\xff\xda"

_MOST_SCANS: Final = 100
"""Encoders make one, or about ten where they are progressive; each goes over all pixels, however few bytes it has."""


def is_available(uid: str) -> bool:
    """Tell pydicom whether `uid` is decoded here."""
    return uid in DECODER_DEPENDENCIES


def decode_jpeg(src: bytes, runner: DecodeRunner) -> bytes:
    """Return the samples of one frame of JPEG, pixel by pixel, in the colours of the stream.

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
    precision = _checked_precision(src, runner)
    shape: tuple[int, ...] = (runner.rows, runner.columns)
    if runner.samples_per_pixel > 1:
        shape += (runner.samples_per_pixel,)
    target = np.empty(shape, dtype=np.uint8 if precision <= 8 else np.uint16)
    colours = "YCbCr" if runner.samples_per_pixel == 3 else None
    imagecodecs.jpeg8_decode(src, colorspace=colours, outcolorspace=colours, out=target)
    runner.set_option("bits_allocated", target.itemsize * 8)
    return target.tobytes()


def decode_jpeg_ls(src: bytes, runner: DecodeRunner) -> bytes:
    """Return the samples of one frame of JPEG-LS; parameters and errors as for `decode_jpeg`."""
    precision = _checked_precision(src, runner)
    samples, info = jpeg_ls.decode_pixel_data(src)
    if info["components"] > 1:
        # Interleave mode 0 is plane by plane.
        runner.set_option("planar_configuration", int(info["interleave_mode"] == 0))
    runner.set_option("bits_allocated", 8 if precision <= 8 else 16)
    return cast(bytes, samples)


def _checked_precision(src: bytes, runner: DecodeRunner) -> int:
    """Return the bits of a sample; `pixels.iter_decoded` has compared rows, columns and samples already."""
    header = jpeg_frame_header(src)
    if header.precision > runner.bits_allocated:
        raise ValueError(f"samples of {header.precision} bits don't fit the {runner.bits_allocated} bits allocated")
    # libjpeg fills the rest of a frame that is cut off with grey, and says nothing. Entropy coded bytes never look like
    # an end marker (ISO/IEC 10918-1 B.1.1.5, 14495-1 A.1); whatever pads the fragment may follow it.
    if src.find(_END_OF_IMAGE, header.position) < 0:
        raise ValueError("the stream is cut off")
    scans = src.count(_START_OF_SCAN, header.position)
    if scans > _MOST_SCANS:
        raise ValueError(f"the stream has {scans} scans")
    return header.precision
