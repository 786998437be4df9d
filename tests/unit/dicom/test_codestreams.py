"""A compressed frame's own header is read as the codecs read it, and believed before they are called."""

from __future__ import annotations

import struct
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless

from dicom_node.codestreams import FrameSize, read_size, require_same_size
from dicom_node.errors import UnsupportedPixels
from dicom_node.part10 import PixelDataElement
from dicom_node.pixels import iter_decoded, iter_frames, read_spec
from tests.support.hostile import JPEG, JPEG_2000, JPEG_LS, codestream, item, resized, sof
from tests.support.objects import dx_dataset

SIZE_64 = FrameSize(rows=64, columns=64, components=1)


@pytest.mark.parametrize("syntax", [JPEG_LS, JPEG_2000, JPEG])
def test_the_size_is_that_of_the_codestream(syntax: str) -> None:
    assert read_size(codestream(syntax), UID(syntax)) == SIZE_64
    found = read_size(resized(syntax, 60_000, 50_000), UID(syntax))
    assert found == FrameSize(rows=60_000, columns=50_000, components=1)


def test_segments_and_fill_bytes_before_the_frame_header_are_passed_over() -> None:
    # The first SOF3 lies inside of a comment, as a thumbnail's does.
    comment = b"\xff\xfe" + struct.pack(">H", 17) + sof(0xC3, 9, 9) + b"xx"
    frame = b"\xff\xd8" + comment + b"\xff\xff\xff" + sof(0xC0, 480, 640)[1:]
    assert read_size(frame, JPEGBaseline8Bit) == FrameSize(rows=480, columns=640, components=1)


def test_a_jp2_file_is_looked_into() -> None:
    frame = codestream(JPEG_2000)
    signature = struct.pack(">I4s", 12, b"jP  ") + b"\r\n\x87\n"
    short = signature + struct.pack(">I4s", 20, b"ftyp") + bytes(12) + struct.pack(">I4s", 0, b"jp2c") + frame
    long = signature + struct.pack(">I4sQ", 1, b"jp2c", 16 + len(frame)) + frame
    assert [read_size(jp2, UID(JPEG_2000)) for jp2 in (short, long)] == [SIZE_64, SIZE_64]


def test_an_offset_of_the_image_counts() -> None:
    frame = bytearray(codestream(JPEG_2000))
    struct.pack_into(">II", frame, frame.index(b"\xff\x51") + 14, 24, 14)
    assert read_size(bytes(frame), UID(JPEG_2000)) == FrameSize(rows=50, columns=40, components=1)


@pytest.mark.parametrize(
    ("syntax", "frame"),
    [
        (JPEG, b""),
        (JPEG, b"\xff\xd8"),
        (JPEG, b"\xff\xd8\xff\xd9"),
        (JPEG, b"\xff\xd8abc"),
        (JPEG, b"\xff\xd8\xff\xfe\0\0" + bytes(20)),
        (JPEG_LS, codestream(JPEG_LS)[:8]),
        (JPEG_2000, codestream(JPEG_2000)[:20]),
        (JPEG_2000, bytes(100)),
        (JPEG_2000, b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40)),
        (JPEG_2000, resized(JPEG_2000, 0, 64)),
    ],
)
def test_what_has_no_header_is_no_codestream(syntax: str, frame: bytes) -> None:
    with pytest.raises(ValueError, match=r"codestream|JP2"):
        read_size(frame, UID(syntax))


@pytest.mark.parametrize(
    ("rows", "columns", "samples", "reason"),
    [(64, 65, 1, "64 x 64 pixels, the attributes say 64 x 65"), (64, 64, 3, "1 components, the attributes say 3")],
)
@pytest.mark.parametrize("syntax", [JPEG_LS, JPEG_2000, JPEG])
def test_other_attributes_than_the_codestream_are_refused(
    syntax: str, rows: int, columns: int, samples: int, reason: str
) -> None:
    size = {"rows": rows, "columns": columns, "samples_per_pixel": samples, "bits_allocated": 16}
    with pytest.raises(ValueError, match=reason):
        require_same_size(codestream(syntax), UID(syntax), **size)
    require_same_size(codestream(syntax), UID(syntax), rows=64, columns=64, samples_per_pixel=1, bits_allocated=16)


def test_rle_gains_no_more_than_64() -> None:
    size = {"rows": 100, "columns": 64, "samples_per_pixel": 1, "bits_allocated": 16}
    require_same_size(bytes(200), RLELossless, **size)
    with pytest.raises(ValueError, match="199 bytes has too few bytes for 100 x 64 pixels"):
        require_same_size(bytes(199), RLELossless, **size)


def test_other_syntaxes_have_no_header() -> None:
    assert read_size(b"anything", ExplicitVRLittleEndian) is None


@settings(max_examples=300)
@given(
    syntax=st.sampled_from((JPEG_LS, JPEG_2000, JPEG)),
    damage=st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 400),
)
def test_any_bytes_have_a_size_or_none(syntax: str, damage: list[tuple[int, int]], cut: int) -> None:
    frame = bytearray(codestream(syntax)[:cut])
    for at, value in damage:
        if at < len(frame):
            frame[at] = value
    try:
        size = read_size(bytes(frame), UID(syntax))
    except ValueError:
        return
    assert size is not None
    assert size.rows >= 0


def test_an_offset_table_that_runs_backwards_leads_to_no_more_than_a_frame() -> None:
    frame = codestream(RLELossless)
    items = b"".join(item(value) for value in (struct.pack("<LL", 100, 0), frame, frame, bytes(8 << 20)))
    element = PixelDataElement(stream=BytesIO(items), offset=0, length=len(items), encapsulated=True, vr="OB")
    options = {"rows": 64, "columns": 64, "samples_per_pixel": 1, "bits_allocated": 16, "number_of_frames": 2}
    with pytest.raises(ValueError, match="take more than"):
        next(iter_decoded(element, RLELossless, **options))


def test_a_fragment_is_read_only_where_a_frame_can_be_that_long() -> None:
    items = b"".join(item(value) for value in (b"", bytes(2 << 20)))
    element = PixelDataElement(stream=BytesIO(items), offset=0, length=len(items), encapsulated=True, vr="OB")
    options = {"rows": 64, "columns": 64, "samples_per_pixel": 1, "bits_allocated": 16, "number_of_frames": 1}
    with pytest.raises(ValueError, match="take more than"):
        next(iter_decoded(element, RLELossless, **options))


def test_frames_of_too_many_pixels_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicom_node.pixels.MAX_FRAME_PIXELS", 64 * 64 - 1)
    ds = dx_dataset(np.zeros((64, 64), dtype=np.uint16))
    with pytest.raises(UnsupportedPixels, match="64 x 64 pixels have more than the 4095"):
        next(iter_frames(ds, read_spec(ds)))
