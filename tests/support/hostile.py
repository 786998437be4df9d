"""Data sets that no modality should send, each with the answer that the node owes: made by code, nothing is a file.

Every case starts from a small radiograph that the node enhances, and changes one thing about its bytes. The elements
are encoded here from PS3.5 and share no code with the product.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from tests.support.network import BIG_ENDIAN, DEFLATED, EXPLICIT, IMPLICIT

DX = "1.2.840.10008.5.1.4.1.1.1.1"
UID = "1.2.826.0.1.3680043.10.1.7"
SIZE = 64
RLE, JPEG_2000, JPEG_LS, JPEG = RLELossless, JPEG2000Lossless, JPEGLSLossless, "1.2.840.10008.1.2.4.70"
UNDEFINED = 0xFFFFFFFF
ENHANCED = "enhanced"

STORED, MISMATCH, UNPARSABLE, NO_RESOURCES = 0x0000, 0xA900, 0xC000, 0xA700
MAX_OBJECT_MB, LARGE_OBJECT_MB = 200, 1200
"""Of the receivers that the objects are sent to; the second is for the object that is 1 GB long."""

_LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))


@dataclass(frozen=True, kw_only=True)
class HostileObject:
    """One data set and what is owed to it.

    Attributes
    ----------
    pieces
        Gives the encoded data set piece by piece, so that a long one is nowhere in memory.
    status
        Of the C-STORE response.
    reason
        Part of the Error Comment, and of the quarantine's reason where a copy is kept.
    outcome
        For a stored object: `ENHANCED`, or part of the reason for which the worker passes it through.
    """

    name: str
    group: str
    pieces: Callable[[], Iterator[bytes]]
    status: int
    reason: str = ""
    outcome: str = ""
    syntax: str = EXPLICIT
    sop_class: str = DX
    uid: str = UID
    max_object_mb: int = MAX_OBJECT_MB

    def __str__(self) -> str:
        return self.name


# ---------------------------------------------------------------------- encoding


def raw(tag: int, vr: bytes, value: bytes, *, length: int | None = None, syntax: str = EXPLICIT) -> bytes:
    """Encode one element as it is told: no padding, and any length in its header."""
    order = ">" if syntax == BIG_ENDIAN else "<"
    length = len(value) if length is None else length
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if syntax == IMPLICIT:
        return head + struct.pack("<I", length) + value
    if vr in _LONG:
        return head + vr + bytes(2) + struct.pack(order + "I", length) + value
    return head + vr + struct.pack(order + "H", length & 0xFFFF) + value


def item(value: bytes, *, length: int | None = None, tag: int = 0xFFFEE000) -> bytes:
    """Encode an item, or one of its delimiters, little endian."""
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value) if length is None else length) + value


END_OF_ITEM, END_OF_SEQUENCE = item(b"", tag=0xFFFEE00D), item(b"", tag=0xFFFEE0DD)


def us(value: int) -> bytes:
    """Encode one 16-bit number."""
    return struct.pack("<H", value)


def pixels() -> np.ndarray:
    """Return the stored values of the radiograph: a ramp with noise."""
    ramp = np.add.outer(np.arange(SIZE), np.arange(SIZE)) * 12 + 800
    return (ramp + np.random.default_rng(5).normal(0, 20, (SIZE, SIZE))).astype(np.uint16)


def image(syntax: str = EXPLICIT, **changes: bytes | None) -> dict[int, bytes]:
    """Return the elements of the radiograph by tag; `changes` give another value to some, or remove them."""
    values: dict[str, tuple[int, bytes, bytes]] = {
        "character_set": (0x00080005, b"CS", b"ISO_IR 100"),
        "image_type": (0x00080008, b"CS", b"ORIGINAL\\PRIMARY\\ "),
        "sop_class": (0x00080016, b"UI", DX.encode() + b"\0"),
        "instance": (0x00080018, b"UI", UID.encode()),
        "modality": (0x00080060, b"CS", b"DX"),
        "series_description": (0x0008103E, b"LO", b"thorax"),
        "name": (0x00100010, b"PN", b"Phantom^Test"),
        "patient_id": (0x00100020, b"LO", b"PHANTOM1"),
        "study": (0x0020000D, b"UI", b"1.2.826.0.1.3680043.10.1.1"),
        "series": (0x0020000E, b"UI", b"1.2.826.0.1.3680043.10.1.2"),
        "number": (0x00200013, b"IS", b"1 "),
        "samples": (0x00280002, b"US", us(1)),
        "photometric": (0x00280004, b"CS", b"MONOCHROME2 "),
        "rows": (0x00280010, b"US", us(SIZE)),
        "columns": (0x00280011, b"US", us(SIZE)),
        "allocated": (0x00280100, b"US", us(16)),
        "stored": (0x00280101, b"US", us(12)),
        "high_bit": (0x00280102, b"US", us(11)),
        "sign": (0x00280103, b"US", us(0)),
        "relationship": (0x00281040, b"CS", b"LIN "),
        "pixels": (0x7FE00010, b"OW", pixels().tobytes()),
    }
    found = {}
    for name, (tag, vr, value) in values.items():
        changed = changes.get(name, value)
        if changed is not None:
            changed = changed[::-1] if syntax == BIG_ENDIAN and vr == b"US" else changed
            found[tag] = raw(tag, vr, changed, syntax=syntax)
    if syntax == BIG_ENDIAN:
        found[0x7FE00010] = raw(0x7FE00010, b"OW", pixels().astype(">u2").tobytes(), syntax=syntax)
    return found


def whole(elements: dict[int, bytes], **more: bytes) -> bytes:
    """Join elements in the order of their tags; `more` are further ones by tag, as in ``x00091001``."""
    return b"".join(
        dict(sorted({**elements, **{int(tag[1:], 16): value for tag, value in more.items()}}.items())).values()
    )


def deflate(encoded: bytes) -> bytes:
    """Compress as Deflated Explicit VR Little Endian does (PS3.5 A.5)."""
    compressor = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return compressor.compress(encoded) + compressor.flush()


def zeros_deflated(head: bytes, megabytes: int) -> bytes:
    """Deflate `head` and `megabytes` of zeros, which takes a thousandth of that."""
    compressor = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    begin = compressor.compress(head) + compressor.flush(zlib.Z_FULL_FLUSH)
    # After a full flush a block refers to nothing before it, so that one can be repeated.
    block = compressor.compress(bytes(1 << 20)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return begin + block * megabytes + compressor.flush()


def encapsulated(*fragments: bytes, table: bytes = b"", end: bytes = END_OF_SEQUENCE) -> bytes:
    """Encode Pixel Data of undefined length (PS3.5 A.4)."""
    items = b"".join(item(fragment + b"\0" * (len(fragment) % 2)) for fragment in fragments)
    return raw(0x7FE00010, b"OB", item(table) + items + end, length=UNDEFINED)


@cache
def codestream(syntax: str) -> bytes:
    """Return the radiograph's frame compressed."""
    if syntax == JPEG:
        # SOI and SOF3 of the right size: the codec is to stumble over what follows.
        return (
            b"\xff\xd8" + sof(0xC3, SIZE, SIZE) + b"\xff\xda\x00\x08\x01\x01\x00\x01\x00\x00" + bytes(64) + b"\xff\xd9"
        )
    plugin = "pyjpegls" if syntax == JPEG_LS else "pylibjpeg"
    frame: bytes = get_encoder(syntax).encode(
        pixels(), encoding_plugin=plugin, rows=SIZE, columns=SIZE, number_of_frames=1, samples_per_pixel=1,
        photometric_interpretation="MONOCHROME2", bits_allocated=16, bits_stored=12 if syntax != RLE else 16,
        pixel_representation=0, pixel_keyword="PixelData",
    )  # fmt: skip
    return frame


def rle_frame(segment_bytes: int) -> bytes:
    """Encode a frame of two segments (PS3.5 G.5) that decode to `segment_bytes` bytes each, whatever is due."""
    runs, rest = divmod(segment_bytes, 128)
    segment = b"\x81\x05" * runs + (bytes((257 - rest, 5)) if rest > 1 else b"\0\5" * rest)
    segment += b"\0" * (len(segment) % 2)
    return struct.pack("<16L", 2, 64, 64 + len(segment), *(0,) * 13) + segment * 2


def sof(marker: int, rows: int, columns: int) -> bytes:
    """Encode a JPEG frame header of one component (ISO 10918-1 B.2.2)."""
    return struct.pack(">BBHBHHBBBB", 0xFF, marker, 11, 12, rows, columns, 1, 1, 0x11, 0)


def resized(syntax: str, rows: int, columns: int) -> bytes:
    """Return the compressed frame with other dimensions in the codestream's own header."""
    frame = bytearray(codestream(syntax))
    if syntax == JPEG_2000:
        at = frame.index(b"\xff\x51") + 6
        struct.pack_into(">II", frame, at, columns, rows)
        struct.pack_into(">II", frame, at + 16, columns, rows)
    else:
        at = frame.index(b"\xff\xf7" if syntax == JPEG_LS else b"\xff\xc3") + 5
        struct.pack_into(">HH", frame, at, rows, columns)
    return bytes(frame)


def compressed(frame_or_element: bytes, syntax: str, **changes: bytes | None) -> bytes:
    """Return the radiograph with compressed Pixel Data: a frame, or the whole element."""
    elements = image(**changes)
    is_element = frame_or_element.startswith(b"\xe0\x7f\x10\x00")
    elements[0x7FE00010] = frame_or_element if is_element else encapsulated(frame_or_element)
    return whole(elements)


def nested(
    depth: int, *, undefined: bool, innermost: bytes = b"", syntax: str = EXPLICIT, tag: int = 0x00081140
) -> bytes:
    """Return a sequence in a sequence in a sequence, of `depth` levels."""
    if undefined:
        begin = raw(tag, b"SQ", b"", length=UNDEFINED, syntax=syntax) + item(b"", length=UNDEFINED)
        return begin * depth + innermost + (END_OF_ITEM + END_OF_SEQUENCE) * depth
    heads, length = [], len(innermost)
    for _ in range(depth):
        heads.append(raw(tag, b"SQ", b"", length=length + 8, syntax=syntax) + item(b"", length=length))
        length += len(heads[-1])
    return b"".join(reversed(heads)) + innermost


# ---------------------------------------------------------------------- the corpus


def objects() -> tuple[HostileObject, ...]:
    """Return the whole corpus."""
    makers = (_lengths, _identifiers, _structure, _text, _deflated, _dimensions, _compressed, _large)
    found = tuple(case for make in makers for case in make())
    assert len({case.name for case in found}) == len(found), "two cases have one name"
    return found


def _case(name: str, group: str, encoded: bytes, status: int, reason: str = "", **facts: str) -> HostileObject:
    said = {"outcome" if status == STORED else "reason": reason}
    return HostileObject(name=name, group=group, pieces=lambda: iter((encoded,)), status=status, **{**said, **facts})


def _lengths() -> Iterator[HostileObject]:
    group = "lengths"
    for syntax, label in ((IMPLICIT, "implicit"), (EXPLICIT, "explicit"), (BIG_ENDIAN, "big endian")):
        good = whole(image(syntax))
        yield _case(f"the radiograph as it is, {label}", group, good, STORED, ENHANCED, syntax=syntax)
        starts, position = [], 0
        for encoded in image(syntax).values():
            starts.append((position, len(encoded)))
            position += len(encoded)
        at, size = starts[3]
        for cut, place in ((at + 3, "a tag"), (at + 6, "a length"), (at + size - 5, "an identifier")):
            yield _case(f"cut inside {place}, {label}", group, good[:cut], UNPARSABLE, "runs over", syntax=syntax)
        at, size = starts[-1]
        for cut, place in ((at + 5, "the header of"), (at + 40, "the value of"), (len(good) - 1, "the last byte of")):
            yield _case(f"cut in {place} Pixel Data, {label}", group, good[:cut], UNPARSABLE, "cut off", syntax=syntax)
        at, _ = starts[10]
        yield _case(f"ends between two elements, {label}", group, good[:at], STORED, "not an image", syntax=syntax)
        long = whole(image(syntax), x00091001=raw(0x00091001, b"OB", b"ab", length=0xFFFFFFFE, syntax=syntax))
        yield _case(
            f"4 GiB announced before the identifiers, {label}", group, long, UNPARSABLE, "runs over", syntax=syntax
        )
        long = whole(image(syntax), x00291001=raw(0x00291001, b"OB", b"ab", length=0xFFFFFFFE, syntax=syntax))
        yield _case(
            f"4 GiB announced after the identifiers, {label}", group, long, UNPARSABLE, "cut off", syntax=syntax
        )
        endless = whole(image(syntax), x00091001=raw(0x00091001, b"OB", b"ab", length=UNDEFINED, syntax=syntax))
        yield _case(
            f"undefined length of no sequence before the identifiers, {label}",
            group,
            endless,
            UNPARSABLE,
            "item was due",
            syntax=syntax,
        )
        endless = whole(image(syntax), x00291001=raw(0x00291001, b"OB", b"ab", length=UNDEFINED, syntax=syntax))
        yield _case(
            f"undefined length of no sequence after the identifiers, {label}",
            group,
            endless,
            STORED,
            "can't be read",
            syntax=syntax,
        )
    odd = whole(image(patient_id=b"odd"))
    yield _case("a value of odd length", group, odd, STORED, ENHANCED)
    yield _case(
        "Pixel Data of odd length",
        group,
        whole(image(pixels=pixels().tobytes()[:-1])),
        STORED,
        "the attributes ask for",
    )
    undefined = whole(image(), x7FE00010=raw(0x7FE00010, b"OW", pixels().tobytes(), length=UNDEFINED))
    yield _case("undefined length of native Pixel Data", group, undefined, STORED, "can't be read")
    lying = whole(
        image(),
        x00080000=raw(0x00080000, b"UL", struct.pack("<I", 0x7FFFFFFF)),
        x00280000=raw(0x00280000, b"UL", bytes(4)),
    )
    yield _case("group lengths that lie", group, lying, STORED, ENHANCED)
    yield _case("nothing at all", group, b"", MISMATCH, "SOP Class")
    yield _case("zeros", group, bytes(4096), UNPARSABLE, "")
    yield _case("no DICOM", group, b"GET / HTTP/1.1\r\n\r\n" * 60, UNPARSABLE, "")
    yield _case("a whole Part 10 file", group, bytes(128) + b"DICM" + whole(image()), UNPARSABLE, "")
    yield _case("trailing zeros", group, whole(image()) + bytes(7), STORED, ENHANCED)


def _identifiers() -> Iterator[HostileObject]:
    group = "identifiers"
    for name, label in (
        ("instance", "SOP Instance UID"),
        ("study", "Study Instance UID"),
        ("series", "Series Instance UID"),
        ("sop_class", "SOP Class UID"),
    ):
        yield _case(f"no {label}", group, whole(image(**{name: None})), MISMATCH, "")
        yield _case(f"empty {label}", group, whole(image(**{name: b""})), MISMATCH, "")
        yield _case(f"{label} of 66 bytes", group, whole(image(**{name: b"1." * 33})), UNPARSABLE, "is no UID")
        yield _case(f"{label} of 60000 bytes", group, whole(image(**{name: b"1." * 30_000})), UNPARSABLE, "bytes")
        yield _case(
            f"{label} with a control character", group, whole(image(**{name: b"1.2\x1b[2J.3"})), UNPARSABLE, "is no UID"
        )
        yield _case(f"{label} with a NUL inside", group, whole(image(**{name: b"1.2\x00.3"})), UNPARSABLE, "is no UID")
        yield _case(
            f"{label} that is not ASCII",
            group,
            whole(image(**{name: "1.2.é".encode() + b"\0"})),
            UNPARSABLE,
            "is no UID",
        )
        yield _case(f"two values of {label}", group, whole(image(**{name: b"1.2.3\\1.2"})), UNPARSABLE, "is no UID")
        again = image()
        tag = {"instance": 0x00080018, "study": 0x0020000D, "series": 0x0020000E, "sop_class": 0x00080016}[name]
        again[tag] += raw(tag, b"UI", b"1.2.3.99")
        yield _case(f"{label} twice and different", group, whole(again), UNPARSABLE, "twice")
    for name, uid in (
        ("dots and slashes", "../../etc/passwd"),
        ("an absolute path", "/etc/hostile.dcm"),
        ("a home folder", "~/x;rm -rf"),
    ):
        encoded = uid.encode() + b"\0" * (len(uid) % 2)
        yield _case(f"SOP Instance UID is {name}", group, whole(image(instance=encoded)), STORED, ENHANCED, uid=uid)
        yield _case(f"Series Instance UID is {name}", group, whole(image(series=encoded)), STORED, ENHANCED)
    yield _case(
        "leading zeros in a component", group, whole(image(instance=b"1.002.03")), STORED, ENHANCED, uid="1.002.03"
    )
    yield _case(
        "SOP Instance UID of the command differs", group, whole(image()), MISMATCH, "SOP Instance UID", uid="1.2.3"
    )
    yield _case(
        "SOP Class UID of the command differs",
        group,
        whole(image(sop_class=b"1.2.840.10008.5.1.4.1.1.2\0")),
        MISMATCH,
        "SOP Class UID",
    )
    yield _case("command's SOP Instance UID of 66 bytes", group, whole(image()), MISMATCH, "is no UID", uid="1." * 33)
    yield _case(
        "command's SOP Instance UID of 40000 bytes", group, whole(image()), MISMATCH, "is no UID", uid="1." * 20_000
    )
    yield _case(
        "command's SOP Instance UID with a control character",
        group,
        whole(image()),
        MISMATCH,
        "is no UID",
        uid="1.2\x1b[2J.3",
    )


def _structure() -> Iterator[HostileObject]:
    group = "structure"
    for depth in (20, 33, 900, 20_000):
        for undefined in (False, True):
            for place, tag in (("before the identifiers", "x00081140"), ("after them", "x00400555")):
                kind = "undefined" if undefined else "defined"
                name = f"{depth} nested sequences of {kind} length {place}"
                early = whole(image(), **{tag: nested(depth, undefined=undefined, tag=int(tag[1:], 16))})
                if undefined and depth > 32 and tag == "x00081140":
                    yield _case(name, group, early, UNPARSABLE, "nested too deep")
                else:
                    yield _case(
                        name, group, early, STORED, ENHANCED if not undefined or depth < 100 else "can't be read"
                    )
    signature = raw(0xFFFAFFFA, b"SQ", b"")
    for depth in (20_000,):
        deep = nested(depth, undefined=False, innermost=signature, tag=0x00400555)
        yield _case("a digital signature under 20000 sequences", group, whole(image(), x00400555=deep), STORED, "")
    for tag, label in (("x00089215", "Derivation Code Sequence"), ("x00082112", "Source Image Sequence")):
        deep = whole(image(), **{tag: nested(20_000, undefined=False, tag=int(tag[1:], 16))})
        yield _case(f"{label} of 20000 levels", group, deep, STORED, "")
    implicit = whole(image(IMPLICIT), x00400555=nested(20_000, undefined=False, syntax=IMPLICIT, tag=0x00400555))
    yield _case("20000 nested sequences of defined length, implicit", group, implicit, STORED, "", syntax=IMPLICIT)
    over = raw(0x00400555, b"SQ", item(raw(0x00080100, b"SH", b"ab"), length=5000))
    yield _case("an item longer than its sequence", group, whole(image(), x00400555=over), STORED, ENHANCED)
    over = raw(0x00089215, b"SQ", item(raw(0x00080100, b"SH", b"ab", length=5000)))
    yield _case(
        "an element longer than its item, in Derivation Code Sequence",
        group,
        whole(image(), x00089215=over),
        STORED,
        "",
    )
    over = raw(
        0x00400555, b"SQ", item(raw(0x00080100, b"SH", b"ab"), length=UNDEFINED) + END_OF_SEQUENCE, length=UNDEFINED
    )
    yield _case("an item without its delimiter", group, whole(image(), x00400555=over), UNPARSABLE, "cut off")
    no_items = raw(0x00400555, b"SQ", b"\1\2\3\4\5\6\7\10")
    yield _case("a sequence that holds no items", group, whole(image(), x00400555=no_items), STORED, ENHANCED)
    early = whole(image(), x00081140=raw(0x00081140, b"SQ", b"\1\2\3\4\5\6\7\10", length=UNDEFINED))
    yield _case("an endless sequence that holds no items", group, early, UNPARSABLE, "")
    unknown = whole(image(), x00091001=raw(0x00091001, b"ZZ", b"abcd"))
    yield _case("an unknown VR", group, unknown, STORED, "")
    wrong = whole(image(), x00280010=raw(0x00280010, b"DS", b"not!"))
    yield _case("Rows as decimal text", group, wrong, STORED, "Rows")
    wrong = whole(image(), x00280010=raw(0x00280010, b"US", us(64) * 3))
    yield _case("three values of Rows", group, wrong, STORED, "Rows is not one whole number")
    wrong = whole(image(), x00280010=raw(0x00280010, b"SQ", item(raw(0x00080100, b"SH", b"ab"))))
    yield _case("Rows as a sequence", group, wrong, STORED, "Rows")
    wrong = whole(image(), x00280010=raw(0x00280010, b"US", b"\1"))
    yield _case("Rows of one byte", group, wrong, STORED, "")
    lower = whole(image(), x00091001=raw(0x00091001, b"lo", b"abcd"))
    yield _case("a VR in small letters before the identifiers", group, lower, UNPARSABLE, "no value representation")
    lower = whole(image(), x00291001=raw(0x00291001, b"lo", b"abcd"))
    yield _case("a VR in small letters after the identifiers", group, lower, STORED, "")
    twice = image()
    twice[0x00280010] += raw(0x00280010, b"US", us(128))
    yield _case("Rows twice", group, whole(twice), STORED, "the attributes ask for")
    disorder = image()
    yield _case("elements from the last to the first", group, b"".join(reversed(disorder.values())), MISMATCH, "")
    late = {tag: encoded for tag, encoded in image().items() if tag != 0x00280010}
    yield _case("Rows after Pixel Data", group, b"".join(late.values()) + image()[0x00280010], STORED, "")
    for tag, name in (("x00020010", "Transfer Syntax UID"), ("x00020016", "Source Application Entity Title")):
        meta = whole(image(), **{tag: raw(int(tag[1:], 16), b"UI", DEFLATED.encode() + b"\0")})
        yield _case(
            f"{name} of the file meta information in the data set",
            group,
            meta,
            UNPARSABLE,
            "has no place in a data set",
        )
    field = whole(image(), x00000100=raw(0x00000100, b"US", us(1)))
    yield _case("a command element in the data set", group, field, UNPARSABLE, "has no place in a data set")
    strange = whole(image(), x0020000D=raw(0x0020000D, b"UH", b"1.2.826.0.1.3680043.10.1.1"))
    yield _case("Study Instance UID of an unknown VR", group, strange, STORED, "can't be written")
    late = whole({tag: at for tag, at in image().items() if tag < 0x7FE00010})
    late += raw(0x00000100, b"US", us(1)) + image()[0x7FE00010]
    yield _case("a command element before Pixel Data", group, late, STORED, "can't be written")
    other = whole(image(EXPLICIT))
    yield _case("explicit VR where implicit was agreed", group, other, UNPARSABLE, "", syntax=IMPLICIT)
    other = whole(image(IMPLICIT))
    yield _case("implicit VR where explicit was agreed", group, other, UNPARSABLE, "", syntax=EXPLICIT)
    other = whole(image(BIG_ENDIAN))
    yield _case("big endian where little endian was agreed", group, other, MISMATCH, "", syntax=EXPLICIT)
    creators = {0x00290010 + n: raw(0x00290010 + n, b"LO", bytes((n, 0, 255, 27)) * 20) for n in range(40)}
    yield _case("private creators of control characters", group, whole({**image(), **creators}), STORED, ENHANCED)
    orphan = whole(image(), x00291101=raw(0x00291101, b"UN", b"\xff" * 100))
    yield _case("a private element without creator", group, orphan, STORED, ENHANCED)


def _text() -> Iterator[HostileObject]:
    group = "text"
    for name, value in (
        ("unknown", b"ISO_IR 9999 "), ("garbage", b"\xff\xfe\x00\x01"), ("many", b"\\ISO 2022 IR 87" * 200),
        ("escape", b"\x1b$B\\\x1b(J"), ("a path", b"../../../etc"), ("control", b"\x00\x1b\x07\x7f"),
    ):  # fmt: skip
        value += b" " * (len(value) % 2)
        yield _case(f"Specific Character Set: {name}", group, whole(image(character_set=value)), STORED, "")
    for name, value in (
        ("control characters", b"\x00\x1b[2J\x07\r\n"),
        ("a path", b"../../etc/passwd"),
        ("no text", b"\xff\xfe\xfd" * 100),
        ("format characters", b"%s%n{0}${x}"),
    ):
        value += b" " * (len(value) % 2)
        yield _case(f"Series Description: {name}", group, whole(image(series_description=value)), STORED, ENHANCED)
        yield _case(f"Modality: {name}", group, whole(image(modality=value)), STORED, ENHANCED)
        yield _case(f"Image Type: {name}", group, whole(image(image_type=value)), STORED, ENHANCED)
    for name, value in (
        ("words", b"many"),
        ("10^400", b"1e400 "),
        ("negative", b"-1"),
        ("2^31", b"2147483648"),
        ("many values", b"1\\2\\3 "),
    ):
        frames = whole(image(), x00280008=raw(0x00280008, b"IS", value))
        yield _case(f"Number of Frames: {name}", group, frames, STORED, "")
        yield _case(f"Instance Number: {name}", group, whole(image(number=value)), STORED, ENHANCED)
        series = whole(image(), x00200011=raw(0x00200011, b"IS", value))
        yield _case(f"Series Number: {name}", group, series, STORED, "")
        slope = whole(image(), x00281053=raw(0x00281053, b"DS", value))
        yield _case(f"Rescale Slope: {name}", group, slope, STORED, "")
        yield _case(
            f"Exposure Index: {name}", group, whole(image(), x00181411=raw(0x00181411, b"DS", value)), STORED, ENHANCED
        )


def _deflated() -> Iterator[HostileObject]:
    group = "deflated"
    good = whole(image())
    packed = deflate(good)
    yield _case("the radiograph, deflated", group, packed, STORED, ENHANCED, syntax=DEFLATED)
    yield _case("deflated and padded", group, packed + b"\0", STORED, ENHANCED, syntax=DEFLATED)
    yield _case("not deflated", group, good, UNPARSABLE, "not deflated", syntax=DEFLATED)
    yield _case(
        "deflated stream cut in the middle", group, packed[: len(packed) // 2], UNPARSABLE, "cut off", syntax=DEFLATED
    )
    yield _case("deflated stream without its end", group, packed[:-3], UNPARSABLE, "cut off", syntax=DEFLATED)
    yield _case(
        "zlib header before the deflated stream",
        group,
        zlib.compress(good),
        UNPARSABLE,
        "not deflated",
        syntax=DEFLATED,
    )
    head = whole({**image(), 0x7FE00010: raw(0x7FE00010, b"OW", b"", length=2_000_000_000)})
    bomb = zeros_deflated(head, 1300)
    yield _case("1300 MB of zeros in 1.3 MB", group, bomb, NO_RESOURCES, "inflates beyond", syntax=DEFLATED)
    early = {tag: encoded for tag, encoded in image().items() if tag < 0x00090000}
    blob = b"".join(early.values()) + raw(0x00091001, b"OB", b"", length=1300 << 20)
    yield _case(
        "1300 MB of zeros before the identifiers",
        group,
        zeros_deflated(blob, 1300),
        NO_RESOURCES,
        "inflates beyond",
        syntax=DEFLATED,
    )
    head = whole({**image(), 0x7FE00010: raw(0x7FE00010, b"OW", b"", length=64 << 20)})
    damaged = bytearray(zeros_deflated(head, 64))
    damaged[-2000:] = b"\xff" * 2000
    yield _case(
        "deflated stream that turns to garbage after 60 MB", group, bytes(damaged), UNPARSABLE, "", syntax=DEFLATED
    )
    header = whole({**image(), 0x00291001: raw(0x00291001, b"OB", b"", length=160 << 20)})
    rest = zeros_deflated(header[: header.index(b"\x29\x00\x01\x10") + 12], 160)
    yield _case("a private value of 160 MB in 160 KB", group, rest, STORED, "take more than", syntax=DEFLATED)


def _dimensions() -> Iterator[HostileObject]:
    group = "dimensions"
    yield _case("more rows than Pixel Data holds", group, whole(image(rows=us(65))), STORED, "the attributes ask for")
    yield _case("fewer rows than Pixel Data holds", group, whole(image(rows=us(63))), STORED, ENHANCED)
    huge = whole(image(rows=us(65535), columns=us(65535)), x00280008=raw(0x00280008, b"IS", b"2147483647"))
    yield _case("65535 x 65535 pixels in 2147483647 frames", group, huge, STORED, "the attributes ask for")
    yield _case(
        "65535 x 65535 pixels", group, whole(image(rows=us(65535), columns=us(65535))), STORED, "the attributes ask for"
    )
    yield _case("no rows", group, whole(image(rows=us(0))), STORED, "there are no pixels")
    yield _case("one pixel", group, whole(image(rows=us(1), columns=us(1))), STORED, ENHANCED)
    yield _case("no Pixel Data", group, whole(image(pixels=None)), STORED, "there is no Pixel Data")
    yield _case("empty Pixel Data", group, whole(image(pixels=b"")), STORED, "the attributes ask for")
    for name, changes in (
        ("Bits Stored above Bits Allocated", {"stored": us(17)}), ("no Bits Stored", {"stored": us(0)}),
        ("High Bit above Bits Allocated", {"high_bit": us(16)}), ("High Bit below Bits Stored", {"high_bit": us(3)}),
        ("Bits Allocated of 65535", {"allocated": us(65535)}),
        ("Bits Allocated of 1", {"allocated": us(1), "stored": us(1)}),
        ("Samples per Pixel of 65535", {"samples": us(65535)}), ("no samples", {"samples": us(0)}),
    ):  # fmt: skip
        yield _case(name, group, whole(image(**changes)), STORED, "")
    padding = whole(image(), x00280120=raw(0x00280120, b"US", us(0)), x00280121=raw(0x00280121, b"US", us(65535)))
    yield _case("every value is padding", group, padding, STORED, "")
    yield _case("Pixel Representation of 65535", group, whole(image(sign=us(65535))), STORED, "")


def _compressed() -> Iterator[HostileObject]:
    group = "compressed"
    many = {"frames": raw(0x00280008, b"IS", b"2147483647 ")}
    for syntax, label in ((RLE, "RLE"), (JPEG_LS, "JPEG-LS"), (JPEG_2000, "JPEG 2000")):
        frame = codestream(syntax)
        yield _case(f"the radiograph in {label}", group, compressed(frame, syntax), STORED, ENHANCED, syntax=syntax)
        yield _case(
            f"{label} frame cut in half", group, compressed(frame[: len(frame) // 2], syntax), STORED, "", syntax=syntax
        )
        yield _case(f"empty {label} frame", group, compressed(b"", syntax), STORED, "", syntax=syntax)
        yield _case(
            f"{label} frame of noise",
            group,
            compressed(np.random.default_rng(9).bytes(5000), syntax),
            STORED,
            "can't be read",
            syntax=syntax,
        )
        table = encapsulated(frame, table=struct.pack("<I", 0x7FFFFFFF))
        yield _case(
            f"{label}, offset table points behind the end",
            group,
            compressed(table, syntax),
            STORED,
            "can't be read",
            syntax=syntax,
        )
        table = encapsulated(frame, table=struct.pack("<I", 3))
        yield _case(
            f"{label}, offset table points into an item",
            group,
            compressed(table, syntax),
            STORED,
            "can't be read",
            syntax=syntax,
        )
        table = encapsulated(frame, table=struct.pack("<II", 0, 0) * 50_000)
        yield _case(
            f"{label}, offset table of 100000 entries for one frame",
            group,
            compressed(table, syntax),
            STORED,
            "",
            syntax=syntax,
        )
        element = raw(
            0x7FE00010, b"OB", item(b"") + item(frame, length=len(frame) + 5000) + END_OF_SEQUENCE, length=UNDEFINED
        )
        yield _case(
            f"{label}, fragment longer than what follows",
            group,
            compressed(element, syntax),
            UNPARSABLE,
            "cut off",
            syntax=syntax,
        )
        yield _case(
            f"{label}, no delimiter",
            group,
            compressed(encapsulated(frame, end=b""), syntax),
            UNPARSABLE,
            "cut off",
            syntax=syntax,
        )
        element = raw(0x7FE00010, b"OB", frame)
        yield _case(
            f"{label}, Pixel Data of defined length",
            group,
            compressed(element, syntax),
            STORED,
            "the form of Pixel Data",
            syntax=syntax,
        )
        elements = {**image(), 0x7FE00010: encapsulated(frame), 0x00280008: many["frames"]}
        yield _case(f"{label}, 2147483647 frames in one fragment", group, whole(elements), STORED, "", syntax=syntax)
        huge = compressed(frame, syntax, rows=us(65535), columns=us(65535))
        yield _case(f"{label}, attributes say 65535 x 65535 pixels", group, huge, STORED, "more than", syntax=syntax)
        wide = compressed(frame, syntax, rows=us(8000), columns=us(16000))
        reason = "too few bytes" if syntax == RLE else "64 x 64"
        yield _case(f"{label}, attributes say 8000 x 16000 pixels", group, wide, STORED, reason, syntax=syntax)
    for syntax, label in ((JPEG_LS, "JPEG-LS"), (JPEG_2000, "JPEG 2000"), (JPEG, "JPEG")):
        large = compressed(resized(syntax, 60_000, 60_000), syntax)
        yield _case(f"{label} codestream of 60000 x 60000 pixels", group, large, STORED, "60000 x 60000", syntax=syntax)
        large = compressed(resized(syntax, 60_000, 60_000), syntax, rows=us(60_000), columns=us(60_000))
        yield _case(
            f"{label} codestream and attributes of 60000 x 60000 pixels",
            group,
            large,
            STORED,
            "more than",
            syntax=syntax,
        )
        small = compressed(resized(syntax, 32, 32), syntax)
        yield _case(f"{label} codestream of 32 x 32 pixels", group, small, STORED, "32 x 32", syntax=syntax)
    for extra, outcome in ((1, ENHANCED), (4096, "panicked")):
        yield _case(
            f"RLE segments {extra} bytes too long",
            group,
            compressed(rle_frame(SIZE * SIZE + extra), RLE),
            STORED,
            outcome,
            syntax=RLE,
        )
    yield _case("JPEG frame of zeros", group, compressed(codestream(JPEG), JPEG), STORED, "", syntax=JPEG)
    many_tiles = bytearray(codestream(JPEG_2000))
    struct.pack_into(">II", many_tiles, many_tiles.index(b"\xff\x51") + 22, 1, 1)
    yield _case(
        "JPEG 2000 codestream of one-pixel tiles",
        group,
        compressed(bytes(many_tiles), JPEG_2000),
        STORED,
        "",
        syntax=JPEG_2000,
    )
    components = bytearray(codestream(JPEG_2000))
    struct.pack_into(">H", components, components.index(b"\xff\x51") + 38, 16_384)
    yield _case(
        "JPEG 2000 codestream of 16384 components",
        group,
        compressed(bytes(components), JPEG_2000),
        STORED,
        "components",
        syntax=JPEG_2000,
    )


def _large() -> Iterator[HostileObject]:
    group = "large"
    many = b"".join(raw(0x00090000 + n % 65536, b"UN", b"") for n in range(500_000))
    yield _case(
        "500000 elements before the identifiers", group, whole(image(), x0008FFFF=many), UNPARSABLE, "too many elements"
    )
    many = b"".join(raw(0x0040_0000 + (n // 60_000 << 17) + n % 60_000 + 0x100, b"LO", b"") for n in range(500_000))
    yield _case(
        "500000 elements after the identifiers", group, whole(image(), x00400000=many), STORED, "take more than"
    )
    items = raw(0x00400555, b"SQ", item(b"") * 1_000_000 + END_OF_SEQUENCE, length=UNDEFINED)
    yield _case("a sequence of 1000000 empty items", group, whole(image(), x00400555=items), STORED, "take more than")
    items = raw(0x00089215, b"SQ", item(b"") * 1_000_000)
    yield _case(
        "Derivation Code Sequence of 1000000 empty items",
        group,
        whole(image(), x00089215=items),
        STORED,
        "sequences hold more than",
    )
    inner = item(raw(0x00080100, b"SH", b"") * 1_000_000)
    yield _case(
        "Derivation Code Sequence with an item of 1000000 elements",
        group,
        whole(image(), x00089215=raw(0x00089215, b"SQ", inner)),
        STORED,
        "sequences hold more than",
    )
    for megabytes, place, tag in ((1000, "before", 0x00091001), (190, "after", 0x00291001)):
        yield HostileObject(
            name=f"a text of {megabytes} MB {place} the identifiers",
            group=group,
            pieces=partial(_long_text, tag, megabytes),
            status=STORED,
            outcome="take more than",
            max_object_mb=MAX_OBJECT_MB if megabytes < MAX_OBJECT_MB else LARGE_OBJECT_MB,
        )
    yield HostileObject(
        name="Pixel Data of 300 MB where objects may have 200",
        group=group,
        pieces=_oversized,
        status=NO_RESOURCES,
        reason="longer than 200 MB",
    )


def _long_text(tag: int, megabytes: int) -> Iterator[bytes]:
    elements = image()
    yield b"".join(encoded for at, encoded in elements.items() if at < tag)
    yield raw(tag, b"UT", b"", length=megabytes * 1_000_000)
    piece = b"A" * 1_000_000
    for _ in range(megabytes):
        yield piece
    yield b"".join(encoded for at, encoded in elements.items() if at > tag)


def _oversized() -> Iterator[bytes]:
    elements = image()
    del elements[0x7FE00010]
    yield whole(elements) + raw(0x7FE00010, b"OW", b"", length=300_000_000)
    piece = bytes(1_000_000)
    for _ in range(300):
        yield piece
