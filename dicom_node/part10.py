"""Opens a stored Part 10 file: its attributes as they were received, and where its pixel data lies.

Attribute values stay the bytes that they are in the file until somebody asks for one, so that whatever is not
changed can be written back exactly; pixel data is located and never loaded.
"""

from __future__ import annotations

import re
import struct
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final, cast

from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import data_element_generator, read_dataset, read_preamble
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pydicom.valuerep import VR

from dicom_node.errors import UnsupportedPixels
from dicom_node.metered import MeteredStream

PIXEL_DATA: Final = Tag(0x7FE0, 0x0010)
OFFSET_TABLES: Final = (Tag(0x7FE0, 0x0001), Tag(0x7FE0, 0x0002), Tag(0x7FE0, 0x0003))

MAX_INFLATED_BYTES: Final = 2**31
"""A deflated data set that grows beyond this is refused: some thousand bytes can deflate to a full disk."""

MAX_HEADER_BYTES: Final = 2**27
"""What the values of all attributes but bulk data may take: they are held in memory."""

MAX_READS: Final = 200_000
"""Bounds elements and items, which take a few hundred bytes and some microseconds each however short they are; an
element takes two reads or three."""

MAX_ITEMS_OF_PIXELS: Final = 1_000_000
"""Fragments of encapsulated pixel data; a slide scanner makes some hundred thousand."""

UNREADABLE: Final = (
    ValueError, KeyError, IndexError, TypeError, AttributeError, NotImplementedError, EOFError, AssertionError,
    RecursionError, MemoryError, OverflowError, RuntimeError, ImportError, StopIteration, struct.error, zlib.error,
    BytesLengthException, InvalidDicomError,
)  # fmt: skip
"""What pydicom and its codec plugins raise on data sets that are broken; OSError is trouble of this machine."""

_LONG_VRS: Final = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
_QUOTED: Final = re.compile(r"b?'.*'|b?\".*\"")
_UNDEFINED: Final = 0xFFFFFFFF
_CHUNK: Final = 1 << 20


@dataclass(frozen=True, kw_only=True)
class PixelDataElement:
    """Where the value of Pixel Data (7FE0,0010), or of another element of its group, lies.

    Attributes
    ----------
    stream
        A seekable stream that holds the value; closed together with the file that it came from.
    offset, length
        First byte and number of bytes of the value; items and delimiter included when encapsulated.
    encapsulated
        True when the length was undefined, which only encapsulated pixel data has (PS3.5 A.4).
    vr
        ``OB`` or ``OW``; ``OW`` for implicit VR (PS3.5 A.1).
    """

    stream: BinaryIO
    offset: int
    length: int
    encapsulated: bool
    vr: str


@dataclass(frozen=True, kw_only=True)
class Part10File:
    """An open Part 10 file.

    Attributes
    ----------
    header
        Every attribute but those of group 7FE0, values unconverted, with `file_meta`, which names the transfer syntax.
    transfer_syntax_uid
        From the file meta information, or found out from the first bytes where that is missing.
    bulk
        Where the elements of group 7FE0 lie: Pixel Data, its float forms, offset tables.
    """

    header: Dataset
    transfer_syntax_uid: UID
    bulk: Mapping[BaseTag, PixelDataElement]

    @property
    def pixel_data(self) -> PixelDataElement | None:
        """Where Pixel Data lies; None when there is none."""
        return self.bulk.get(PIXEL_DATA)


@contextmanager
def open_part10(
    path: Path,
    *,
    folder: Path | None = None,
    max_inflated_bytes: int = MAX_INFLATED_BYTES,
    max_reads: int = MAX_READS,
) -> Iterator[Part10File]:
    """Open `path` for reading; memory stays bounded whatever is in it.

    Parameters
    ----------
    folder
        For a deflated data set while it is open; default: the system's folder for temporary files.
    max_inflated_bytes, max_reads
        What a deflated data set may grow to, and how many elements there may be, about half as many.

    Raises
    ------
    UnsupportedPixels
        If the data set is truncated or can't be parsed, or inflates beyond `max_inflated_bytes`.
    OSError
        If the file can't be read.
    """
    with path.open("rb") as file:
        with readable("the data set"):
            file_meta = _read_file_meta(file)
            syntax = UID(str(file_meta.get("TransferSyntaxUID", "")) or _guess_transfer_syntax(file))
            file_meta.TransferSyntaxUID = syntax
        if syntax != DeflatedExplicitVRLittleEndian:
            with readable("the data set"):
                part10 = _read_data_set(file, syntax, file_meta, max_reads)
            yield part10
            return
        with tempfile.TemporaryFile(dir=folder) as inflated:
            with readable("the data set"):
                _inflate(file, cast(BinaryIO, inflated), max_inflated_bytes)
                part10 = _read_data_set(cast(BinaryIO, inflated), syntax, file_meta, max_reads)
            yield part10


def read_beginning(path: Path) -> Dataset:
    """Return the attributes of a file up to where they can't be read, or become too many: enough to route it by.

    Raises
    ------
    OSError
        If the file can't be read.
    """
    elements: dict[BaseTag, RawDataElement | DataElement] = {}
    try:
        with path.open("rb") as file, readable("the data set"):
            file_meta = _read_file_meta(file)
            stream: BinaryIO = file
            if file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
                inflater = zlib.decompressobj(-zlib.MAX_WBITS)
                stream = BytesIO(inflater.decompress(file.read(_CHUNK), _CHUNK))
            syntax = UID(str(file_meta.get("TransferSyntaxUID", "")) or _guess_transfer_syntax(stream))
            little = syntax != ExplicitVRBigEndian
            for element in data_element_generator(
                cast(BinaryIO, MeteredStream(stream, max_bytes=MAX_HEADER_BYTES, max_reads=MAX_READS)),
                little and not _starts_explicit(stream),
                little,
                stop_when=lambda tag, _vr, _length: tag.group >= PIXEL_DATA.group,
            ):
                _require_few_nested([element], MAX_READS // 2)
                elements[element.tag] = _as_it_is(element)
    except UnsupportedPixels:
        pass  # what came before it is the answer
    return Dataset(elements)


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Turn whatever parsers and codecs raise on broken input into UnsupportedPixels, with a plain sentence."""
    try:
        yield
    except (*UNREADABLE, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            # pydicom raises bare OSErrors too; one with a number comes from the disk.
            raise
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        # pydicom quotes the values that it stumbles over, and values may be the patient's.
        reason = _QUOTED.sub("...", first_line)[:200]
        raise UnsupportedPixels(f"{what} can't be read: {reason}") from error


def detached_view(ds: Dataset) -> Dataset:
    """Return a data set with the same attributes, so that reading values leaves the unconverted ones of `ds` alone.

    pydicom replaces an element's bytes by its Python value on first access; a value that was only looked at would
    then be written anew, with other padding.
    """
    view = Dataset({tag: ds.get_item(tag, keep_deferred=True) for tag in ds.keys()})  # noqa: SIM118
    implicit, little = ds.original_encoding
    view.set_original_encoding(implicit, little, ds.original_character_set)
    if hasattr(ds, "file_meta"):
        view.file_meta = ds.file_meta
    return view


def _read_file_meta(file: BinaryIO) -> FileMetaDataset:
    # `force`: an object without preamble is read like any other.
    read_preamble(file, True)
    metered = cast(BinaryIO, MeteredStream(file, max_bytes=MAX_HEADER_BYTES, max_reads=MAX_READS))
    meta = read_dataset(metered, False, True, stop_when=lambda tag, _vr, _length: tag.group != 2)
    return FileMetaDataset(meta)


def _guess_transfer_syntax(file: BinaryIO) -> str:
    if not _starts_explicit(file):
        return str(ImplicitVRLittleEndian)
    start = file.tell()
    head = file.read(6)
    file.seek(start)
    # Group 0008 of a big endian data set reads as 0800 here.
    return str(ExplicitVRBigEndian if struct.unpack("<H", head[:2])[0] >= 0x0100 else ExplicitVRLittleEndian)


def _as_it_is(element: RawDataElement | DataElement) -> RawDataElement | DataElement:
    if not isinstance(element, RawDataElement) or element.length == _UNDEFINED:
        return element
    # None would be a value that pydicom left in the file, and fetches and converts when it writes.
    value = element.value or b""
    if len(value) != element.length:
        # pydicom takes a value that the end of the file cuts off for a shorter one.
        raise EOFError(f"element {element.tag} is cut off after {len(value)} of {element.length} bytes")
    return element._replace(value=value)


def _hidden_sequence(
    stream: BinaryIO, element: RawDataElement | DataElement, position: int, *, little: bool
) -> RawDataElement | None:
    """Return a private sequence of undefined length in VR UN as it stands in the stream, which is left where it is.

    pydicom makes it a sequence, with another VR and encoding (PS3.5 6.2.2); other elements give None.
    """
    if not isinstance(element, DataElement) or element.VR != "SQ" or not element.tag.is_private:
        return None
    end = stream.tell()
    stream.seek(position)
    content = stream.read(end - position)
    # Tag, VR, two reserved bytes and length before the items, a delimiter after them.
    if content[4:6] != b"UN":
        return None
    return RawDataElement(element.tag, "UN", _UNDEFINED, content[12:-8], position + 12, False, little)


def _starts_explicit(stream: BinaryIO) -> bool:
    start = stream.tell()
    head = stream.read(6)
    stream.seek(start)
    return len(head) < 6 or head[4:6].decode("latin-1") in VR.__members__


def _inflate(source: BinaryIO, target: BinaryIO, limit: int) -> None:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    written, pending = 0, source.read(_CHUNK)
    while pending and not inflater.eof:
        chunk = inflater.decompress(pending, _CHUNK)
        written += len(chunk)
        if written > limit:
            raise ValueError(f"it inflates beyond {limit} bytes")
        target.write(chunk)
        pending = inflater.unconsumed_tail or source.read(_CHUNK)
    target.write(inflater.flush())
    if not inflater.eof:
        raise EOFError("the deflated stream is cut off")
    target.seek(0)


def _read_data_set(stream: BinaryIO, syntax: UID, file_meta: FileMetaDataset, max_reads: int) -> Part10File:
    little = syntax != ExplicitVRBigEndian
    # Some senders name one VR encoding and use the other; the bytes decide.
    implicit = little and not _starts_explicit(stream)
    elements: dict[BaseTag, RawDataElement | DataElement] = {}
    bulk: dict[BaseTag, PixelDataElement] = {}
    metered = cast(BinaryIO, MeteredStream(stream, max_bytes=MAX_HEADER_BYTES, max_reads=max_reads))
    while True:
        # Within group 7FE0 the generator stops before each element without reading it.
        generator = data_element_generator(
            metered, implicit, little, stop_when=lambda tag, _vr, _length: tag.group == PIXEL_DATA.group
        )
        position = stream.tell()
        for element in generator:
            hidden = None if implicit else _hidden_sequence(stream, element, position, little=little)
            elements[element.tag] = hidden or _as_it_is(element)
            position = stream.tell()
        stream.seek(position)
        located = _locate_element(stream, implicit=implicit, little=little)
        if located is None:
            break
        bulk[located[0]] = located[1]
    _require_few_nested(elements.values(), max_reads // 2)
    # What pydicom itself takes for the character set of a data set that it read; where it finds another one at writing,
    # it converts every element.
    charset = Dataset(dict(elements)).get("SpecificCharacterSet")
    encoding = default_encoding if charset is None else convert_encodings(charset)
    header = Dataset(elements)
    header.set_original_encoding(implicit, little, encoding)
    header.file_meta = file_meta
    return Part10File(header=header, transfer_syntax_uid=syntax, bulk=bulk)


def _require_few_nested(elements: Iterable[RawDataElement | DataElement], most: int) -> None:
    """Bound the sequences of defined length, which are parsed as a whole as soon as somebody asks for one."""
    left = most
    for element in elements:
        if isinstance(element, RawDataElement) and element.value and (element.VR in (None, "SQ", "UN")):
            left -= _count_nested(element, left)
            if left < 0:
                raise ValueError(f"its sequences hold more than {most} elements")


def _count_nested(element: RawDataElement, most: int) -> int:
    """Count the items and elements within an unparsed sequence, `most` and one at most; 0 for what is none.

    Sequences within it are walked through like everything else: only their headers count.
    """
    order = "<" if element.is_little_endian else ">"
    head = struct.Struct(order + "HHL")
    long = struct.Struct(order + "L")
    value = element.value or b""
    item_tag = struct.pack(order + "HH", 0xFFFE, 0xE000)
    if not value.startswith(item_tag):
        return 0
    position, count = 0, 0
    while position + 8 <= len(value) and count <= most:
        group, _, length = head.unpack_from(value, position)
        vr = value[position + 4 : position + 6]
        position += 8
        count += 1
        if group == 0xFFFE:
            continue
        if not element.is_implicit_VR and vr.isalpha() and vr.isupper():
            if vr in _LONG_VRS and position + 4 <= len(value):
                (length,) = long.unpack_from(value, position)
                position += 4
            elif vr not in _LONG_VRS:
                length = length & 0xFFFF if order == ">" else length >> 16
        if value[position : position + 4] != item_tag:
            position += length
    return count


def _locate_element(stream: BinaryIO, *, implicit: bool, little: bool) -> tuple[BaseTag, PixelDataElement] | None:
    """Return tag and place of the element that starts here and leave the stream after it; None at the end."""
    order = "<" if little else ">"
    head = stream.read(8)
    if not head.strip(b"\0") and len(head) < 8:
        return None
    if len(head) < 8:
        raise EOFError("the last element is cut off")
    group, number = struct.unpack(order + "HH", head[:4])
    vr = "OW"
    if implicit:
        (length,) = struct.unpack(order + "L", head[4:])
    elif head[4:6] in _LONG_VRS:
        vr = head[4:6].decode("ascii")
        (length,) = struct.unpack(order + "L", stream.read(4))
    else:
        vr = head[4:6].decode("ascii")
        (length,) = struct.unpack(order + "H", head[6:])
    offset = stream.tell()
    encapsulated = length == _UNDEFINED
    if encapsulated:
        _skip_items(stream, order)
    else:
        stream.seek(length, 1)
    end = stream.tell()
    size = stream.seek(0, 2)
    if end > size:
        raise EOFError(f"element ({group:04X},{number:04X}) is cut off after {size - offset} of {length} bytes")
    stream.seek(end)
    element = PixelDataElement(stream=stream, offset=offset, length=end - offset, encapsulated=encapsulated, vr=vr)
    return Tag(group, number), element


def _skip_items(stream: BinaryIO, order: str) -> None:
    for _ in range(MAX_ITEMS_OF_PIXELS):
        head = stream.read(8)
        if len(head) < 8:
            raise EOFError("the items of Pixel Data are cut off")
        group, number, length = struct.unpack(order + "HHL", head)
        if (group, number) == (0xFFFE, 0xE0DD):
            return
        if (group, number) != (0xFFFE, 0xE000) or length == _UNDEFINED:
            raise ValueError(f"({group:04X},{number:04X}) stands in the place of an item of Pixel Data")
        stream.seek(length, 1)
    raise ValueError(f"Pixel Data has more than {MAX_ITEMS_OF_PIXELS} items")
