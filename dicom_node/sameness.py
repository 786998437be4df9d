"""Whether two stored objects are the same image, encoded in two ways; where that is not sure, they are not."""

from __future__ import annotations

import logging
from pathlib import Path

from dicom_node.errors import DerivationError, UnsupportedPixels
from dicom_node.header_encoding import encode_elements
from dicom_node.part10 import OFFSET_TABLES, PIXEL_DATA, UNREADABLE, Part10File, detached_view, open_part10
from dicom_node.pixels import pixel_digest, read_spec

log = logging.getLogger(__name__)


def are_same(one: Path, other: Path, *, folder: Path) -> bool:
    """Return whether two Part 10 files have the same attributes and, decoded, the same pixels.

    A modality that negotiates another transfer syntax when it sends a study again sends other bytes of the same
    image; so does one whose toolkit writes the lengths of sequences or the VRs of private attributes otherwise. What
    can't be read, or is not sure, counts as different: the object is then a revision, which is never wrong, only more
    to store.

    Parameters
    ----------
    folder
        For temporary files of deflated objects.
    """
    try:
        with open_part10(one, folder=folder) as first, open_part10(other, folder=folder) as second:
            return _attributes(first) == _attributes(second) and _pixels(first) == _pixels(second)
    except (UnsupportedPixels, DerivationError, OSError, *UNREADABLE) as error:
        log.info("Two objects can't be compared", extra={"reason": type(error).__name__})
        return False


def _attributes(part10: Part10File) -> bytes:
    kept = detached_view(part10.header)
    for tag in (*OFFSET_TABLES, PIXEL_DATA):
        # They belong to the encoding.
        kept.pop(tag, None)
    return encode_elements(kept, implicit=True)


def _pixels(part10: Part10File) -> str | None:
    return None if part10.pixel_data is None else pixel_digest(part10, read_spec(part10.header))
