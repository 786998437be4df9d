"""Encodes a parsed data set in another VR encoding and byte order without converting its values.

Text stays the bytes that it is, whatever the character set says, and private values stay as they are; only numbers
change their byte order.
"""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Final

import numpy as np
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from dicom_node.errors import DerivationError
from dicom_node.part10 import PIXEL_DATA, detached_view

_UNDEFINED: Final = 0xFFFFFFFF
_UNIT: Final = {
    **dict.fromkeys(("US", "SS", "OW", "AT"), 2),
    **dict.fromkeys(("UL", "SL", "FL", "OF", "OL"), 4),
    **dict.fromkeys(("FD", "OD", "OV", "SV", "UV"), 8),
}
"""Bytes of the numbers that a VR holds (PS3.5 7.3)."""


def encode_elements(ds: Dataset, *, implicit: bool) -> bytes:
    """Return the elements of `ds` in implicit or explicit VR, little endian; group lengths (retired) are left out.

    Raises
    ------
    DerivationError
        If an element can't be encoded, such as a compressed icon.
    """
    out = BytesIO()
    signed = detached_view(ds).get("PixelRepresentation") == 1
    # Taken down before anything is accessed: pydicom converts Pixel Representation along with any sequence.
    elements: dict[BaseTag, DataElement | RawDataElement | None] = {
        tag: ds.get_item(tag, keep_deferred=True) for tag in sorted(ds.keys()) if tag.element != 0
    }
    for tag, as_read in elements.items():
        element = as_read
        if isinstance(element, RawDataElement) and _vr_of(element, signed=signed) == "SQ":
            # A sequence of defined length in implicit VR is parsed on access.
            element = ds[tag]
        if isinstance(element, DataElement) and element.VR == "US" and isinstance(element.value, int):
            value = element.value.to_bytes(2, "little")
            element = RawDataElement(tag, "US", len(value), value, 0, implicit, True)
        if isinstance(element, RawDataElement):
            _write_value(out, element, implicit=implicit, signed=signed)
        elif isinstance(element, DataElement) and element.VR == "SQ":
            _write_sequence(out, element, implicit=implicit)
        else:
            raise DerivationError(f"{tag} has a value that is not as it was read")
    return out.getvalue()


def element_header(tag: BaseTag, vr: str, length: int, *, implicit: bool) -> bytes:
    """Return what stands before a value of `length` bytes, little endian (PS3.5 7.1)."""
    head = struct.pack("<HH", tag.group, tag.element)
    if implicit:
        return head + struct.pack("<L", length)
    if vr not in EXPLICIT_VR_LENGTH_32 and length <= 0xFFFF:
        return head + vr.encode("ascii") + struct.pack("<H", length)
    # A short VR can't say lengths of 64 kB and more; UN stands in for it (PS3.5 6.2.2).
    return head + (vr if vr in EXPLICIT_VR_LENGTH_32 else "UN").encode("ascii") + struct.pack("<HL", 0, length)


def swap_bytes(value: bytes, unit: int) -> bytes:
    """Return `value` with the bytes of each number of `unit` bytes reversed."""
    return value if unit == 1 or len(value) % unit else np.frombuffer(value, dtype=f"u{unit}").byteswap().tobytes()


def _write_value(out: BytesIO, element: RawDataElement, *, implicit: bool, signed: bool) -> None:
    value = element.value or b""
    vr = _vr_of(element, signed=signed)
    if element.length == _UNDEFINED:
        if element.tag == PIXEL_DATA:
            raise DerivationError("an icon in it is compressed")
        # Fragments of a private element: kept as they are.
        out.write(element_header(element.tag, vr, _UNDEFINED, implicit=implicit))
        out.write(value + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0))
        return
    if not element.is_little_endian:
        value = swap_bytes(value, _UNIT.get(vr, 1))
    out.write(element_header(element.tag, vr, len(value), implicit=implicit) + value)


def _write_sequence(out: BytesIO, element: DataElement, *, implicit: bool) -> None:
    items = BytesIO()
    for item in element.value:
        content = encode_elements(item, implicit=implicit)
        items.write(struct.pack("<HHL", 0xFFFE, 0xE000, len(content)) + content)
    out.write(element_header(element.tag, "SQ", items.tell(), implicit=implicit) + items.getvalue())


def _vr_of(element: RawDataElement, *, signed: bool) -> str:
    """Return the VR: as it was sent, or for implicit VR from the data dictionary; UN where that knows nothing."""
    if element.VR is not None:
        return element.VR if len(element.VR) == 2 and element.VR.isalpha() else "UN"
    tag = element.tag
    if tag.is_private:
        # What a private element holds is known to its creator alone.
        return "LO" if tag.is_private_creator else "UN"
    if not dictionary_has_tag(tag) and not 0x5000 <= tag.group < 0x6100:
        return "UN"
    try:
        vr = dictionary_VR(tag)
    except KeyError:
        return "UN"
    if vr == "US or SS":
        return "SS" if signed else "US"
    return "OW" if "or" in vr else vr
