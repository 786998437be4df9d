"""Decides which objects are enhanced; everything else is passed through untouched."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalIntraOralXRayImageStorageForPresentation,
    DigitalIntraOralXRayImageStorageForProcessing,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalMammographyXRayImageStorageForProcessing,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    EnhancedCTImageStorage,
    EnhancedXAImageStorage,
    EnhancedXRFImageStorage,
    XRayAngiographicImageStorage,
    XRayRadiofluoroscopicImageStorage,
)

from dicom_node.derivation.equipment import is_our_equipment
from dicom_node.derivation.frames import are_frames_denoised
from dicom_node.derivation.terms import IMAGE_TYPE_TERM, is_our_derivation_code
from dicom_node.errors import UnsupportedPixels
from dicom_node.functional_groups import has_functional_groups
from dicom_node.part10 import detached_view, readable
from dicom_node.pixels import read_spec

SOP_CLASSES: Final = {
    "CR": (ComputedRadiographyImageStorage,),
    "DX": (DigitalXRayImageStorageForPresentation, DigitalXRayImageStorageForProcessing),
    "MG": (DigitalMammographyXRayImageStorageForPresentation, DigitalMammographyXRayImageStorageForProcessing),
    "IO": (DigitalIntraOralXRayImageStorageForPresentation, DigitalIntraOralXRayImageStorageForProcessing),
    "XA": (XRayAngiographicImageStorage, EnhancedXAImageStorage),
    "RF": (XRayRadiofluoroscopicImageStorage, EnhancedXRFImageStorage),
    "CT": (CTImageStorage, EnhancedCTImageStorage),
}
"""The SOP classes behind the short names of the setting `sop_classes`; tomosynthesis is in none of them."""

WITH_FUNCTIONAL_GROUPS: Final = frozenset((EnhancedXAImageStorage, EnhancedXRFImageStorage, EnhancedCTImageStorage))
"""The classes whose functional groups are understood."""

DEFAULT_SOP_CLASSES: Final = ("CR", "DX", "IO", "XA", "RF")


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether an object is enhanced, and why (not), as a sentence for people."""

    enhance: bool
    reason: str


def enabled_sop_class_uids(names: Iterable[str]) -> frozenset[str]:
    """Return the SOP Class UIDs for short names (CR, DX, ...) and UIDs."""
    return frozenset(uid for name in names for uid in SOP_CLASSES.get(name, (name,)))


def is_enhanceable(header: Dataset, sop_classes: Iterable[str] = DEFAULT_SOP_CLASSES) -> Decision:
    """Decide from its attributes whether an object is enhanced; never raises for what a data set may hold.

    Parameters
    ----------
    header
        Attributes with `file_meta`; Pixel Data need not be there. Left as it is.
    sop_classes
        What the route enables: CR, DX, MG, IO, XA, RF, CT or SOP Class UIDs.
    """
    try:
        with readable("the data set"):
            return _decide(detached_view(header), enabled_sop_class_uids(sop_classes))
    except UnsupportedPixels as error:
        return Decision(enhance=False, reason=str(error))


def _decide(ds: Dataset, enabled: frozenset[str]) -> Decision:
    sop_class = UID(str(ds.get("SOPClassUID") or ""))
    reason = None
    if sop_class not in enabled:
        reason = f"{sop_class.name or 'an object without SOP class'} is not enabled for enhancement"
    elif sop_class in WITH_FUNCTIONAL_GROUPS and not has_functional_groups(ds):
        reason = f"it is of {sop_class.name} and its frames have no functional groups"
    elif sop_class not in WITH_FUNCTIONAL_GROUPS and has_functional_groups(ds):
        reason = f"its frames have functional groups, which is not supported for {sop_class.name}"
    elif str(ds.get("QualityControlImage") or "").strip() == "YES":
        reason = "it is a quality control image"
    elif is_derived_here(ds):
        reason = "it was denoised by a node already"
    elif not all(str(ds.get(keyword) or "").strip() for keyword in ("SOPInstanceUID", "SeriesInstanceUID")):
        reason = "SOP Instance UID or Series Instance UID is missing"
    if reason is not None:
        return Decision(enhance=False, reason=reason)
    spec = read_spec(ds)
    return Decision(enhance=True, reason=f"{sop_class.name}, {spec.bits_stored} bits, {spec.frames} frame(s)")


def is_derived_here(ds: Dataset) -> bool:
    """Tell whether an object says that it was denoised by this product, however it came back here."""
    image_type = ds.get("ImageType")
    if not isinstance(image_type, str) and image_type is not None and IMAGE_TYPE_TERM in list(image_type)[3:]:
        return True
    if any(is_our_derivation_code(item) for item in ds.get("DerivationCodeSequence") or ()):
        return True
    return are_frames_denoised(ds) or is_our_equipment(ds)
