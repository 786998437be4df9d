"""Encodes a frame in JPEG Lossless, Process 14, Selection Value 1 (PS3.5 8.2.1) by GDCM, as pydicom has no encoder."""

from __future__ import annotations

from typing import Any

import gdcm
from numpy.typing import NDArray


def encode_jpeg_lossless(pixels: NDArray[Any], *, bits_stored: int) -> bytes:
    """Return `pixels` as a codestream that is valid in both transfer syntaxes of Process 14.

    Parameters
    ----------
    pixels
        Stored values, shape ``(rows, columns)``, of 8 or 16 bits allocated, signed or not.
    bits_stored
        Of them.

    Raises
    ------
    ValueError
        If GDCM can't encode them, as of 8 bits an odd number of pixels. Where fewer than 8 of 8 bits are stored it
        would end the process, so it is not asked.
    """
    bits_allocated = pixels.itemsize * 8
    if bits_allocated == 8 and bits_stored != 8:
        raise ValueError(f"JPEG Lossless of {bits_stored} in 8 bits is not written here")
    rows, columns = pixels.shape
    # The image belongs to the writer, which therefore has to stay until the end.
    writer = gdcm.ImageWriter()
    image = writer.GetImage()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.ExplicitVRLittleEndian))
    is_signed = int(pixels.dtype.kind == "i")
    image.SetPixelFormat(gdcm.PixelFormat(1, bits_allocated, bits_stored, bits_stored - 1, is_signed))
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetByteStringValue(pixels.astype(pixels.dtype.newbyteorder("<"), copy=False).tobytes())
    image.SetDataElement(element)
    converter = gdcm.ImageChangeTransferSyntax()
    converter.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    converter.SetInput(image)
    if not converter.Change():
        raise ValueError("GDCM can't encode it as JPEG Lossless")
    fragments = converter.GetOutput().GetDataElement().GetSequenceOfFragments()
    if fragments is None or fragments.GetNumberOfFragments() != 1:
        raise ValueError("GDCM gave no single fragment of JPEG Lossless")
    buffer: str = fragments.GetFragment(0).GetByteValue().GetBuffer()
    return buffer.encode("utf-8", "surrogateescape")
