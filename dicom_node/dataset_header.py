"""The identifying attributes of an encoded data set, and whether it is all there, found without decoding it.

Values are skipped over and the work is bounded, so a few microseconds tell whether what came over the network is the
object that its command announced, and a few more whether its last element ends where the data set does.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from dataclasses import dataclass, field
from typing import Final

from dicom_node.errors import UnparsableDataset

IMPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2"
EXPLICIT_VR_BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1.99"

_SOP_CLASS_UID = 0x0008_0016
_SOP_INSTANCE_UID = 0x0008_0018
_MODALITY = 0x0008_0060
_ACCESSION_NUMBER = 0x0008_0050
_PATIENT_ID = 0x0010_0020
_STUDY_INSTANCE_UID = 0x0020_000D
_SERIES_INSTANCE_UID = 0x0020_000E
_WANTED = frozenset((_SOP_CLASS_UID, _SOP_INSTANCE_UID, _MODALITY, _STUDY_INSTANCE_UID, _SERIES_INSTANCE_UID))

_SEARCHED = frozenset((_ACCESSION_NUMBER, _PATIENT_ID))
"""What studies are searched by: taken as it is, whatever it holds."""

_FIRST_GROUP = 0x0008
"""Groups before it are those of command sets, file meta information and DICOMDIR (PS3.5 7.1, PS3.10 7.1)."""

_ITEM = 0xFFFE_E000
_ITEM_DELIMITATION = 0xFFFE_E00D
_SEQUENCE_DELIMITATION = 0xFFFE_E0DD
_UNDEFINED = 0xFFFF_FFFF

# PS3.5 7.1.2: these have a 32 bit length after two reserved bytes; every other VR has a 16 bit length.
_LONG_VRS = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))

_MAX_ELEMENTS = 100_000
_MAX_DEPTH = 32
_MAX_IDENTIFIER_BYTES = 1024
_MAX_UID_CHARACTERS = 64
_MAX_INFLATED_BYTES = 1 << 22
_INFLATED_AT_ONCE = 1 << 16

Encoded = bytes | bytearray | memoryview | mmap.mmap


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetHeader:
    """What identifies a SOP instance; attributes that are absent or empty are empty texts.

    Those of the patient and the order are bytes in the character set of the object, and are never shown: they are there
    to be hashed.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    modality: str
    patient_id: bytes = field(default=b"", repr=False)
    accession_number: bytes = field(default=b"", repr=False)


class _NeedMore(Exception):
    """The elements go on behind the end of what is there."""


def scan_header(encoded: Encoded, transfer_syntax_uid: str, *, is_whole: bool) -> DatasetHeader | None:
    """Find the identifying attributes of a data set.

    Parameters
    ----------
    encoded
        The data set, or its first bytes.
    transfer_syntax_uid
        Its transfer syntax; every one but the four uncompressed or deflated ones is Explicit VR Little Endian outside
        of Pixel Data (PS3.5 A.4).
    is_whole
        Whether `encoded` reaches to the end of the data set.

    Returns
    -------
    The header; ``None`` if `encoded` is only a beginning and too short.

    Raises
    ------
    UnparsableDataset
        If the elements contradict the transfer syntax, run over the end, or are too many or too deep, or if an
        identifier is none or is there twice with different values.
    """
    if transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        encoded, is_whole = _inflate(encoded, is_whole)
    scanner = _Scanner(
        encoded,
        is_explicit=transfer_syntax_uid != IMPLICIT_VR_LITTLE_ENDIAN,
        byte_order=">" if transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN else "<",
    )
    try:
        found = scanner.find(is_whole)
    except _NeedMore:
        if is_whole:
            raise UnparsableDataset("an element runs over the end of the data set") from None
        return None
    return DatasetHeader(
        sop_class_uid=found.get(_SOP_CLASS_UID, ""),
        sop_instance_uid=found.get(_SOP_INSTANCE_UID, ""),
        study_instance_uid=found.get(_STUDY_INSTANCE_UID, ""),
        series_instance_uid=found.get(_SERIES_INSTANCE_UID, ""),
        modality=found.get(_MODALITY, ""),
        patient_id=scanner.searched.get(_PATIENT_ID, b""),
        accession_number=scanner.searched.get(_ACCESSION_NUMBER, b""),
    )


def require_whole(encoded: Encoded, transfer_syntax_uid: str) -> None:
    """Raise UnparsableDataset where an element announces more bytes than there are: the data set was cut off.

    Only proof counts. Elements that the standard forbids but readers cope with, what lies behind the last element, and
    data sets with more elements than are walked over here pass; so does a deflated data set, whose end `scan_header`
    checks.
    """
    if transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        return
    scanner = _Scanner(
        encoded,
        is_explicit=transfer_syntax_uid != IMPLICIT_VR_LITTLE_ENDIAN,
        byte_order=">" if transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN else "<",
    )
    scanner.require_whole()


def is_identifier(uid: str) -> bool:
    """Tell whether a text can be carried as a UID everywhere: one value of at most 64 printable characters (PS3.5 9.1).

    Other characters than digits and dots, and leading zeros, are common faults and harm nobody; an empty text is none.
    """
    return 0 < len(uid) <= _MAX_UID_CHARACTERS and uid.isascii() and uid.isprintable() and "\\" not in uid


def inflated_bytes(encoded: Encoded, *, most: int) -> int:
    """Inflate a data set to its end, keeping nothing, and return its length; one above `most` is not followed further.

    Raises
    ------
    UnparsableDataset
        If the deflated stream is broken or cut off.
    """
    inflater = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    length, position = 0, 0
    try:
        while length <= most and not inflater.eof:
            pending = inflater.unconsumed_tail
            if not pending:
                pending = bytes(encoded[position : position + _INFLATED_AT_ONCE])
                position += len(pending)
            inflated = inflater.decompress(pending, _MAX_INFLATED_BYTES)
            length += len(inflated)
            if not pending and not inflated:
                raise UnparsableDataset("the deflated data set is cut off")
    except zlib.error as error:
        raise UnparsableDataset("the data set is not deflated, or the deflated stream is broken") from error
    return length


def _inflate(encoded: Encoded, is_whole: bool) -> tuple[bytes, bool]:
    inflater = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(encoded, _MAX_INFLATED_BYTES)
    except zlib.error as error:
        raise UnparsableDataset("the data set is not deflated") from error
    if is_whole and not inflater.eof and len(inflated) < _MAX_INFLATED_BYTES:
        raise UnparsableDataset("the deflated data set is cut off")
    # Identifiers behind the first 4 MiB of a deflated data set are given up, as if the data set ended there.
    return inflated, is_whole


class _Scanner:
    """Walks over elements; positions are bytes from the beginning of the data set."""

    def __init__(self, encoded: Encoded, *, is_explicit: bool, byte_order: str) -> None:
        self._encoded = encoded
        self._size = len(encoded)
        self._is_explicit = is_explicit
        self._tag = struct.Struct(byte_order + "HH")
        self._tag_and_length = struct.Struct(byte_order + "HHI")
        self._short_length = struct.Struct(byte_order + "H")
        self._long_length = struct.Struct(byte_order + "I")
        self._elements_left = _MAX_ELEMENTS
        self.searched: dict[int, bytes] = {}

    def find(self, is_whole: bool) -> dict[int, str]:
        """Return the wanted elements at the top level; they end at a later tag or with the data set."""
        found: dict[int, str] = {}
        position = 0
        while position < self._size:
            tag, vr, length, value = self._element(position, self._is_explicit)
            if tag > _SERIES_INSTANCE_UID:
                return found
            if tag >> 16 < _FIRST_GROUP:
                # In the file they would follow the file meta information, and readers would take them for a part of it.
                raise UnparsableDataset(f"{_name(tag)} has no place in a data set")
            if length == _UNDEFINED:
                position = self._skip_items(value, self._is_explicit and vr != b"UN", 1)
                continue
            position = value + length
            if tag in _WANTED:
                identifier = self._identifier(tag, value, position)
                if found.setdefault(tag, identifier) != identifier:
                    # Readers differ in which of them they take.
                    raise UnparsableDataset(f"{_name(tag)} is there twice, with different values")
            elif tag in _SEARCHED and length <= _MAX_IDENTIFIER_BYTES:
                self.searched.setdefault(tag, bytes(self._encoded[value:position]).strip(b"\0 "))
        if position > self._size or not is_whole:
            raise _NeedMore
        return found

    def require_whole(self) -> None:
        """Walk over all elements at the top level; raise UnparsableDataset where one runs over the end."""
        position, tag = 0, 0
        try:
            while position < self._size:
                if self._size - position < 8 and not any(self._encoded[position : self._size]):
                    return
                before = tag
                tag, vr, length, value = self._element(position, self._is_explicit)
                if tag <= before:
                    return  # these are no elements any more, so their lengths prove nothing
                if length == _UNDEFINED:
                    position = self._skip_items(value, self._is_explicit and vr != b"UN", 1)
                else:
                    position = value + length
        except UnparsableDataset:
            return
        except _NeedMore:
            raise UnparsableDataset(f"the data set is cut off in or after {_name(tag)}") from None
        if position > self._size:
            missing = position - self._size
            raise UnparsableDataset(f"the data set is cut off: {_name(tag)} announces {missing} bytes more than came")

    def _identifier(self, tag: int, start: int, end: int) -> str:
        if end - start > _MAX_IDENTIFIER_BYTES:
            raise UnparsableDataset(f"{_name(tag)} has {end - start} bytes")
        if end > self._size:
            raise _NeedMore
        text = bytes(self._encoded[start:end]).strip(b"\0 ").decode("latin-1")
        if text and tag != _MODALITY and not is_identifier(text):
            raise UnparsableDataset(f"the value of {_name(tag)} is no UID")
        return text

    def _element(self, position: int, is_explicit: bool) -> tuple[int, bytes, int, int]:
        """Read an element's header: tag, VR (empty where none is encoded), length, position of the value."""
        self._elements_left -= 1
        if self._elements_left < 0:
            raise UnparsableDataset("too many elements")
        if position + 8 > self._size:
            raise _NeedMore
        group, element = self._tag.unpack_from(self._encoded, position)
        tag = group << 16 | element
        if not is_explicit or group == 0xFFFE:
            return tag, b"", self._tag_and_length.unpack_from(self._encoded, position)[2], position + 8
        vr = bytes(self._encoded[position + 4 : position + 6])
        if vr in _LONG_VRS:
            if position + 12 > self._size:
                raise _NeedMore
            return tag, vr, self._long_length.unpack_from(self._encoded, position + 8)[0], position + 12
        if not (vr.isalpha() and vr.isupper()):
            raise UnparsableDataset(f"{_name(tag)} has no value representation")
        return tag, vr, self._short_length.unpack_from(self._encoded, position + 6)[0], position + 8

    def _skip_items(self, position: int, is_explicit: bool, depth: int) -> int:
        """Return the position after a value of undefined length: items up to a Sequence Delimitation Item.

        The items of an undefined length UN value are Implicit VR Little Endian (PS3.5 6.2.2, note 2).
        """
        if depth > _MAX_DEPTH:
            raise UnparsableDataset("sequences are nested too deep")
        while True:
            tag, _, length, value = self._element(position, False)
            if tag == _SEQUENCE_DELIMITATION:
                return value
            if tag != _ITEM:
                raise UnparsableDataset(f"{_name(tag)} where an item was due")
            position = self._skip_item(value, is_explicit, depth) if length == _UNDEFINED else value + length

    def _skip_item(self, position: int, is_explicit: bool, depth: int) -> int:
        while True:
            tag, vr, length, value = self._element(position, is_explicit)
            if tag == _ITEM_DELIMITATION:
                return value
            if length == _UNDEFINED:
                position = self._skip_items(value, is_explicit and vr != b"UN", depth + 1)
            else:
                position = value + length


def _name(tag: int) -> str:
    return f"({tag >> 16:04x},{tag & 0xFFFF:04x})"
