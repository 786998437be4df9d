"""Which attributes may differ between a source and what is derived from it, as data, and the check of it.

Anything that differs and is not in this list is a bug.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from dicom_node.derivation.frames import FRAME_TYPE_MACROS, PIXEL_DATA_PROPERTIES
from dicom_node.functional_groups import PER_FRAME, SHARED
from dicom_node.part10 import detached_view


class Change(enum.Flag):
    """What may happen to an attribute."""

    ADDED = enum.auto()
    CHANGED = enum.auto()
    REMOVED = enum.auto()


@dataclass(frozen=True, kw_only=True)
class AllowedDifference:
    """An attribute that may differ, how, and why.

    Attributes
    ----------
    within
        Keywords of the sequences that lead to it, outermost first; empty for the top level. Everything else in these
        sequences, and the number of their items, must be the same.
    """

    tag: BaseTag
    change: Change
    why: str
    within: tuple[str, ...] = ()

    @property
    def keyword(self) -> str:
        """The attribute's keyword."""
        return keyword_for_tag(self.tag)


def _allow(keyword: str, change: Change, why: str, *within: str) -> AllowedDifference:
    for name in (keyword, *within):
        if tag_for_keyword(name) is None:
            raise ValueError(f"{name} is not an attribute")
    return AllowedDifference(tag=Tag(keyword), change=change, why=why, within=within)


def _allow_in_functional_groups(keyword: str, change: Change, why: str, *within: str) -> Iterable[AllowedDifference]:
    return (_allow(keyword, change, why, groups, *within) for groups in (SHARED, PER_FRAME))


_SET = Change.ADDED | Change.CHANGED
_RECOMPUTED = Change.CHANGED | Change.REMOVED
_ANY = Change.ADDED | Change.CHANGED | Change.REMOVED

ALLOWED_DIFFERENCES: Final = (
    _allow("SOPInstanceUID", Change.CHANGED, "a derived image is a new SOP instance"),
    _allow("SeriesInstanceUID", Change.CHANGED, "derived images form a series of their own"),
    _allow("SeriesNumber", Change.CHANGED, "source plus the configured offset"),
    _allow("SeriesDescription", _SET, "source text plus suffix"),
    _allow("SeriesDate", _SET, "the derived series began when it was processed"),
    _allow("SeriesTime", _SET, "the derived series began when it was processed"),
    _allow("InstanceCreationDate", _SET, "time of processing"),
    _allow("InstanceCreationTime", _SET, "time of processing"),
    _allow("InstanceCreatorUID", Change.REMOVED, "it names the device that created the source"),
    _allow("ContentDate", _SET, "time of processing"),
    _allow("ContentTime", _SET, "time of processing"),
    _allow("ImageType", _SET, "DERIVED as value 1, DENOISED after the values that the standard defines"),
    _allow(
        "DerivationDescription", _SET, "what was done: product and version, model, strength, noise before and after"
    ),
    _allow("DerivationCodeSequence", _SET, "what was done, coded"),
    _allow("CodingSchemeIdentificationSequence", _SET, "explains the private coding scheme, where its code is used"),
    _allow("SourceImageSequence", _SET, "what it was derived from"),
    _allow("SourceImageEvidenceSequence", _SET, "names the source image of functional groups"),
    *_allow_in_functional_groups("DerivationImageSequence", _ANY, "what was done, frame by frame or shared"),
    *(
        difference
        for macro in FRAME_TYPE_MACROS
        for difference in _allow_in_functional_groups("FrameType", _SET, "DERIVED as value 1", macro)
    ),
    *_allow_in_functional_groups(
        "ImageProcessingApplied", Change.CHANGED, "DENOISED after the other terms", PIXEL_DATA_PROPERTIES
    ),
    _allow("ContributingEquipmentSequence", _SET, "the equipment that is not in General Equipment"),
    _allow("Manufacturer", _SET, "equipment = standard: the node is the equipment"),
    _allow("ManufacturerModelName", _SET, "equipment = standard: the node is the equipment"),
    _allow("StationName", _SET, "equipment = standard: the node is the equipment"),
    _allow("SoftwareVersions", _SET, "equipment = standard: node, model and its SHA-256"),
    _allow(
        "DeviceSerialNumber",
        Change.REMOVED | Change.CHANGED,
        "equipment = standard: moved to Contributing Equipment; the node's own where the class asks for one",
    ),
    _allow("DeviceUID", Change.REMOVED, "equipment = standard: moved to Contributing Equipment"),
    _allow("UDISequence", Change.REMOVED, "equipment = standard: moved to Contributing Equipment"),
    _allow("DateOfLastCalibration", Change.REMOVED, "equipment = standard: moved to Contributing Equipment"),
    _allow("TimeOfLastCalibration", Change.REMOVED, "equipment = standard: moved to Contributing Equipment"),
    _allow("PixelData", Change.CHANGED, "denoised"),
    _allow("SmallestImagePixelValue", _RECOMPUTED, "recomputed if present; removed where all is padding"),
    _allow("LargestImagePixelValue", _RECOMPUTED, "recomputed if present; removed where all is padding"),
    _allow("SmallestPixelValueInSeries", Change.REMOVED, "of another series"),
    _allow("LargestPixelValueInSeries", Change.REMOVED, "of another series"),
    _allow("LossyImageCompression", _SET, "01 where the source's own encoding is lossy and it does not say so"),
    _allow("LossyImageCompressionMethod", Change.ADDED, "with Lossy Image Compression, only where missing"),
    _allow("IconImageSequence", Change.REMOVED, "shows the source"),
    _allow("DigitalSignaturesSequence", Change.REMOVED, "signs the source"),
    _allow("MACParametersSequence", Change.REMOVED, "belongs to the signatures"),
    _allow("SOPInstanceStatus", Change.REMOVED, "authorises the source"),
    _allow("SOPAuthorizationDateTime", Change.REMOVED, "authorises the source"),
    _allow("SOPAuthorizationComment", Change.REMOVED, "authorises the source"),
    _allow("AuthorizationEquipmentCertificationNumber", Change.REMOVED, "authorises the source"),
    _allow("ExtendedOffsetTable", Change.REMOVED, "points into the source's pixel data"),
    _allow("ExtendedOffsetTableLengths", Change.REMOVED, "points into the source's pixel data"),
)
"""Group lengths (gggg,0000), retired, may go as well."""


_OPENED: Final = frozenset(
    tuple(entry.within[:depth]) for entry in ALLOWED_DIFFERENCES for depth in range(1, len(entry.within) + 1)
)
"""Sequences, by their keywords from the outermost on, in which differences are looked for item by item."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """An attribute that differs between a source and what is derived from it.

    Attributes
    ----------
    within
        Keywords of the sequences that lead to it, outermost first.
    """

    tag: BaseTag
    change: Change
    source: str
    derived: str
    within: tuple[str, ...] = ()

    def __str__(self) -> str:
        name = ".".join((*self.within, keyword_for_tag(self.tag) or "private"))
        return f"{self.tag} {name}: {self.source or '-'} -> {self.derived or '-'}"


def find_differences(source: Dataset, derived: Dataset, *, within: tuple[str, ...] = ()) -> tuple[Difference, ...]:
    """Return every attribute that differs; nested ones as part of theirs, except where `ALLOWED_DIFFERENCES` looks in.

    Values that neither side converted are compared byte by byte.
    """
    found: list[Difference] = []
    for tag in sorted(set(source.keys()) | set(derived.keys())):
        if tag.element == 0:
            continue
        before, after = _element(source, tag), _element(derived, tag)
        if before is None:
            change = Change.ADDED
        elif after is None:
            change = Change.REMOVED
        elif _equal(before, after, source, derived):
            continue
        elif items := _items_to_open(source, derived, (*within, keyword_for_tag(tag))):
            for one, other in items:
                found.extend(find_differences(one, other, within=(*within, keyword_for_tag(tag))))
            continue
        else:
            change = Change.CHANGED
        excerpts = _excerpt(source, tag), _excerpt(derived, tag)
        found.append(Difference(tag=tag, change=change, source=excerpts[0], derived=excerpts[1], within=within))
    return tuple(found)


def unexpected_differences(source: Dataset, derived: Dataset) -> tuple[Difference, ...]:
    """Return the differences that `ALLOWED_DIFFERENCES` does not list."""
    allowed = {(entry.within, entry.tag): entry.change for entry in ALLOWED_DIFFERENCES}
    return tuple(
        d for d in find_differences(source, derived) if d.change not in allowed.get((d.within, d.tag), Change(0))
    )


def _items_to_open(source: Dataset, derived: Dataset, path: tuple[str, ...]) -> list[tuple[Dataset, Dataset]]:
    """Return the items, in pairs, of a sequence that is opened; none where their numbers differ."""
    if path not in _OPENED:
        return []
    one, other = (list(detached_view(ds)[path[-1]].value or ()) for ds in (source, derived))
    return list(zip(one, other, strict=True)) if len(one) == len(other) else []


def _element(ds: Dataset, tag: BaseTag) -> DataElement | RawDataElement | None:
    return ds.get_item(tag, keep_deferred=True) if tag in ds else None


def _equal(
    before: DataElement | RawDataElement, after: DataElement | RawDataElement, source: Dataset, derived: Dataset
) -> bool:
    if isinstance(before, RawDataElement) and isinstance(after, RawDataElement):
        return (before.VR, before.value or b"") == (after.VR, after.value or b"")
    return bool(source[before.tag] == derived[after.tag])


def _excerpt(ds: Dataset, tag: BaseTag) -> str:
    if tag not in ds:
        return ""
    if tag == Tag(0x7FE0, 0x0010):
        return "pixels"
    text = str(ds[tag].value).replace("\n", " ")
    return text if len(text) <= 80 else text[:77] + "..."
