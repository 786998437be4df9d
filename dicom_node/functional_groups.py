"""Which functional group holds for which frame of an enhanced multi-frame object (PS3.3 C.7.6.16)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pydicom.dataset import Dataset

from dicom_node.errors import UnsupportedPixels

SHARED: Final = "SharedFunctionalGroupsSequence"
PER_FRAME: Final = "PerFrameFunctionalGroupsSequence"


def has_functional_groups(ds: Dataset) -> bool:
    """Tell whether attributes of the frames of `ds` are in functional groups."""
    return PER_FRAME in ds


def frame_macros(ds: Dataset, keyword: str, frames: int) -> Iterator[Dataset]:
    """Yield, frame by frame, the first item of the functional group macro `keyword`; an empty one where there is none.

    A macro is in the groups of the frame itself or, once, in the shared group.

    Raises
    ------
    UnsupportedPixels
        If there are not as many groups as `frames`.
    """
    groups = list(ds.get(PER_FRAME) or ())
    if len(groups) != frames:
        raise UnsupportedPixels(f"there are functional groups for {len(groups)} of {frames} frames")
    shared = next(iter(ds.get(SHARED) or ()), Dataset())
    for group in groups:
        yield next(iter(group.get(keyword) or shared.get(keyword) or ()), Dataset())
