"""Finds the frames among the fragments of encapsulated pixel data, and reads one at a time (PS3.5 A.4)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import BinaryIO, Final, cast

from pydicom.encaps import generate_fragments, parse_basic_offsets, parse_fragments

from dicom_node.metered import MeteredStream
from dicom_node.part10 import MAX_ITEMS_OF_PIXELS, PixelDataElement

_ITEM_HEADER_BYTES: Final = 8
_END_OF_IMAGE: Final = b"\xff\xd9"
"""EOI of JPEG and JPEG-LS, EOC of JPEG 2000."""

_END_BYTES: Final = 10
"""Where it is looked for: padding may follow it."""


def iter_compressed_frames(element: PixelDataElement, *, frames: int, frame_bytes: int) -> Iterator[bytes]:
    """Yield the frames, their fragments joined; the places of all are looked up once.

    Parameters
    ----------
    element
        Encapsulated pixel data; its stream may be used for other things between two frames.
    frames
        Number of Frames (0028,0008).
    frame_bytes
        Of one uncompressed frame: an offset table that lies must not lead to more than a frame can have.

    Raises
    ------
    ValueError
        If there are fewer frames, or one of them is longer than a frame can be.
    """
    # pydicom's `get_frame` walks over all fragments again for each frame, and reads them where they are more than the
    # frames: 4000 frames took 14 s.
    starts = _frame_starts(element, frames)
    for index in range(frames):
        yield _read(element, starts, index, frame_bytes)


def read_compressed_frame(element: PixelDataElement, index: int, *, frames: int, frame_bytes: int) -> bytes:
    """Return one frame, from 0, its fragments joined; the others are not read, but for their places.

    Raises
    ------
    ValueError
        As `iter_compressed_frames`.
    """
    return _read(element, _frame_starts(element, frames), index, frame_bytes)


def _read(element: PixelDataElement, starts: list[int], index: int, frame_bytes: int) -> bytes:
    # Compression may fail and make a frame longer, but never this much.
    metered = _metered(element.stream, 2 * frame_bytes + (1 << 20))
    element.stream.seek(starts[index])
    if index + 1 < len(starts):
        return b"".join(generate_fragments(metered.read(starts[index + 1] - starts[index])))
    return b"".join(generate_fragments(metered))


def _frame_starts(element: PixelDataElement, frames: int) -> list[int]:
    """Return where the first item of each frame begins, and of what follows the last where that can be told."""
    starts = _find_starts(element, frames)
    if len(starts) < frames:
        raise ValueError(f"Pixel Data holds {len(starts)} of {frames} frames")
    return starts


def _find_starts(element: PixelDataElement, frames: int) -> list[int]:
    # Of each item its header, its end, and its entry in the offset table.
    metered = _metered(element.stream, 32 * MAX_ITEMS_OF_PIXELS)
    element.stream.seek(element.offset)
    offsets = parse_basic_offsets(metered)
    first = element.stream.tell()
    if offsets:
        return [first + offset for offset in offsets]
    number, fragments = parse_fragments(metered)
    if frames == 1:
        # However many there are.
        return fragments[:1]
    if number <= frames:
        return fragments
    return _starts_by_end_marker(metered, fragments)


def _starts_by_end_marker(metered: BinaryIO, fragments: list[int]) -> list[int]:
    """Return the fragments that follow one in which an image ends: nothing else tells several of a frame apart."""
    starts = fragments[:1]
    for this, following in pairwise(fragments):
        end = max(this + _ITEM_HEADER_BYTES, following - _END_BYTES)
        metered.seek(end)
        if _END_OF_IMAGE in metered.read(following - end):
            starts.append(following)
    return starts


def _metered(stream: BinaryIO, max_bytes: int) -> BinaryIO:
    return cast(BinaryIO, MeteredStream(stream, max_bytes=max_bytes, max_reads=4 * MAX_ITEMS_OF_PIXELS))
