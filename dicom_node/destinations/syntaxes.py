"""In which transfer syntaxes a destination is offered an object, the best first; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from config.settings import DestinationSettings

FALLBACK_SYNTAXES: Final[tuple[str, ...]] = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
"""What an object is transcoded to where its own syntax is refused, best first. Explicit VR keeps private VRs."""

COMPRESSIONS: Final[Mapping[str, str]] = {
    "jpeg-ls": JPEGLSLossless,
    "jpeg-2000": JPEG2000Lossless,
    "jpeg-lossless": JPEGLosslessSV1,
    "rle": RLELossless,
}
"""What the setting `compress` of a destination stands for."""

NOT_IN_WEB_SERVICES: Final = frozenset((ImplicitVRLittleEndian, ExplicitVRBigEndian))
"""Not to be used in the payload of a web service (PS3.18 8.7.3.5); such objects go in Explicit VR Little Endian."""

UNCOMPRESSED: Final = frozenset(
    (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
)


def compressed_syntax(transfer_syntax_uid: str, *, is_derived: bool, settings: DestinationSettings) -> str | None:
    """Return the syntax that an object is compressed in for a destination; None where it goes as it is.

    Parameters
    ----------
    transfer_syntax_uid
        Of the object as it is stored; what is compressed already is left alone.
    is_derived
        Made by this node. An original is compressed only where the destination's settings say so.
    settings
        Of the destination.
    """
    if transfer_syntax_uid not in UNCOMPRESSED or not (is_derived or settings.compress_originals):
        return None
    return COMPRESSIONS.get(settings.compress)


def offered_syntaxes(transfer_syntax_uid: str, *, is_derived: bool, settings: DestinationSettings) -> tuple[str, ...]:
    """Return the syntaxes in which an object may go, in the order in which the first accepted one is taken."""
    compressed = compressed_syntax(transfer_syntax_uid, is_derived=is_derived, settings=settings)
    first = () if compressed is None else (compressed,)
    if settings.kind == "dicomweb":
        own = () if transfer_syntax_uid in NOT_IN_WEB_SERVICES else (transfer_syntax_uid,)
        return tuple(dict.fromkeys((*first, *own, ExplicitVRLittleEndian)))
    return tuple(dict.fromkeys((*first, transfer_syntax_uid, *FALLBACK_SYNTAXES)))
