"""Which attributes may differ between a source and what is derived from it, as data, and the check of it.

Anything that differs and is not in this list is a bug.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag


class Change(enum.Flag):
    """What may happen to an attribute."""

    ADDED = enum.auto()
    CHANGED = enum.auto()
    REMOVED = enum.auto()


@dataclass(frozen=True, kw_only=True)
class AllowedDifference:
    """An attribute of the top level that may differ, how, and why."""

    tag: BaseTag
    change: Change
    why: str

    @property
    def keyword(self) -> str:
        """The attribute's keyword."""
        return keyword_for_tag(self.tag)


def _allow(keyword: str, change: Change, why: str) -> AllowedDifference:
    number = tag_for_keyword(keyword)
    if number is None:
        raise ValueError(f"{keyword} is not an attribute")
    return AllowedDifference(tag=Tag(number), change=change, why=why)


_SET = Change.ADDED | Change.CHANGED
_RECOMPUTED = Change.CHANGED | Change.REMOVED

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
    _allow("ContributingEquipmentSequence", _SET, "the equipment that is not in General Equipment"),
    _allow("Manufacturer", _SET, "equipment = standard: the node is the equipment"),
    _allow("ManufacturerModelName", _SET, "equipment = standard: the node is the equipment"),
    _allow("StationName", _SET, "equipment = standard: the node is the equipment"),
    _allow("SoftwareVersions", _SET, "equipment = standard: node, model and its SHA-256"),
    _allow("DeviceSerialNumber", Change.REMOVED, "equipment = standard: moved to Contributing Equipment"),
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


@dataclass(frozen=True, kw_only=True)
class Difference:
    """An attribute that differs between a source and what is derived from it."""

    tag: BaseTag
    change: Change
    source: str
    derived: str

    def __str__(self) -> str:
        name = keyword_for_tag(self.tag) or "private"
        return f"{self.tag} {name}: {self.source or '-'} -> {self.derived or '-'}"


def find_differences(source: Dataset, derived: Dataset) -> tuple[Difference, ...]:
    """Return every top-level attribute that differs, nested ones as part of theirs.

    Values that neither side converted are compared byte by byte.
    """
    found = []
    for tag in sorted(set(source.keys()) | set(derived.keys())):
        if tag.element == 0:
            continue
        before, after = _element(source, tag), _element(derived, tag)
        if before is None:
            change = Change.ADDED
        elif after is None:
            change = Change.REMOVED
        elif not _equal(before, after, source, derived):
            change = Change.CHANGED
        else:
            continue
        found.append(Difference(tag=tag, change=change, source=_excerpt(source, tag), derived=_excerpt(derived, tag)))
    return tuple(found)


def unexpected_differences(source: Dataset, derived: Dataset) -> tuple[Difference, ...]:
    """Return the differences that `ALLOWED_DIFFERENCES` does not list."""
    allowed = {entry.tag: entry.change for entry in ALLOWED_DIFFERENCES}
    return tuple(d for d in find_differences(source, derived) if d.change not in allowed.get(d.tag, Change(0)))


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
