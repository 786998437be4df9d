"""Frames are found among fragments once, whether or not an offset table says where they begin."""

from __future__ import annotations

import struct
from io import BytesIO
from itertools import accumulate, pairwise

import numpy as np
import pytest
from pydicom.uid import UID, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless

from dicom_node.compressed_frames import iter_compressed_frames
from dicom_node.part10 import PixelDataElement
from dicom_node.pixel_encoding import encode_exactly
from dicom_node.pixels import iter_frames, read_spec
from tests.support.hostile import item
from tests.support.objects import xa_dataset

DELIMITER = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)


class CountingStream(BytesIO):
    """Counts how often it is read."""

    reads = 0

    def read(self, count: int | None = -1) -> bytes:
        """Read, and count it."""
        self.reads += 1
        return super().read(count)


def pixel_data(fragments: list[bytes], table: bytes = b"") -> PixelDataElement:
    value = item(table) + b"".join(item(fragment) for fragment in fragments) + DELIMITER
    return PixelDataElement(stream=CountingStream(value), offset=0, length=len(value), encapsulated=True, vr="OB")


def cut(frame: bytes, pieces: int) -> list[bytes]:
    ends = [len(frame) * n // pieces // 2 * 2 for n in range(pieces + 1)]
    return [frame[begin:end] for begin, end in pairwise(ends)]


def frames_in(element: PixelDataElement, frames: int, frame_bytes: int = 1000) -> list[bytes]:
    return list(iter_compressed_frames(element, frames=frames, frame_bytes=frame_bytes))


JPEGS = [b"\xff\xd8" + bytes([number]) * (20 + 2 * number) + b"\xff\xd9" for number in range(5)]


@pytest.mark.parametrize("has_table", [True, False])
@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_every_frame_is_found(has_table: bool, pieces: int) -> None:
    fragments = [cut(frame, pieces) for frame in JPEGS]
    sizes = [sum(8 + len(fragment) for fragment in frame) for frame in fragments]
    table = struct.pack("<5L", *accumulate(sizes[:-1], initial=0)) if has_table else b""
    assert frames_in(pixel_data([f for frame in fragments for f in frame], table), 5) == JPEGS


def test_fragments_behind_the_last_frame_are_no_part_of_it() -> None:
    assert frames_in(pixel_data([*cut(JPEGS[0], 2), *cut(JPEGS[1], 2), b"beyond"]), 2) == JPEGS[:2]


def test_all_fragments_are_the_only_frame() -> None:
    assert frames_in(pixel_data([b"ab\xff\xd9", b"cd", b"ef"]), 1) == [b"ab\xff\xd9cdef"]


@pytest.mark.parametrize("table", [b"", struct.pack("<2L", 0, 32)])
def test_fewer_frames_than_announced_are_refused(table: bytes) -> None:
    with pytest.raises(ValueError, match="2 of 3 frames"):
        frames_in(pixel_data(JPEGS[:2], table), 3)


@pytest.mark.parametrize("has_table", [True, False])
def test_the_work_grows_with_the_number_of_frames_alone(has_table: bool) -> None:
    frames = [b"\xff\xd8ab\xff\xd9"] * 2000
    table = struct.pack("<2000L", *range(0, 14 * 2000, 14)) if has_table else b""
    element = pixel_data(frames, table)
    assert frames_in(element, 2000) == frames
    assert isinstance(element.stream, CountingStream)
    assert element.stream.reads < 10 * 2000


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEGLosslessSV1, JPEG2000Lossless], ids=lambda s: s.name)
def test_a_cine_in_fragments_without_offset_table_has_its_values(syntax: UID) -> None:
    # Noise hardly shrinks: what lies before the last frame is far longer than a frame may be.
    stored = np.random.default_rng(6).integers(0, 4096, (20, 256, 256), dtype=np.uint16)
    ds = xa_dataset(stored, bits_stored=12)
    ds.file_meta.TransferSyntaxUID = syntax
    spec = read_spec(ds)
    encoded = [encode_exactly(cells, spec, spec.transfer_syntax_uid) for cells in stored]
    fragments = [fragment for frame in encoded if frame is not None for fragment in cut(frame, 3)]
    ds.PixelData = pixel_data(fragments).stream.read()
    ds["PixelData"].VR = "OB"
    assert np.array_equal([frame.values for frame in iter_frames(ds, spec)], stored)
