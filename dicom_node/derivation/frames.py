"""How the functional groups of an enhanced multi-frame object say that its frames are derived.

PS3.3 C.7.6.16.2.6 (Derivation Image), C.8.16.1 (Image Type and Frame Type), C.8.19.6.2 (XA/XRF Frame Pixel Data).
"""

from __future__ import annotations

import copy
from typing import Final

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

from dicom_node.derivation.terms import IMAGE_TYPE_TERM, is_our_derivation_code
from dicom_node.functional_groups import PER_FRAME, SHARED

PIXEL_DATA_PROPERTIES: Final = "FramePixelDataPropertiesSequence"
FRAME_TYPE_MACROS: Final = (PIXEL_DATA_PROPERTIES, "CTImageFrameTypeSequence")
"""Macros with Frame Type (0008,9007), of XA and XRF and of CT."""

DERIVATION_MACRO: Final = "DerivationImageSequence"


def describe_frames(derived: Dataset, derivation: Dataset) -> None:
    """Have every frame of `derived` say that it is derived, and how.

    Parameters
    ----------
    derived
        Its functional groups are changed; what is not about derivation keeps its bytes.
    derivation
        An item of Derivation Image Sequence, true of the frames together.

    Notes
    -----
    A macro stands either in the shared group or in the groups of frames (C.7.6.16.1.1). Ours is shared unless the
    source has one for its frames; there, each frame names the frame that it comes from.
    """
    shared = next(iter(derived.get(SHARED) or ()), None)
    per_frame = list(derived[PER_FRAME].value)
    for group in (*((shared,) if shared is not None else ()), *per_frame):
        _state_frame_type(group)
    if shared is not None and not any(DERIVATION_MACRO in group for group in per_frame):
        _append(shared, DERIVATION_MACRO, derivation)
        return
    # What was shared moves to the frames, where the others are.
    earlier = list(shared.get(DERIVATION_MACRO) or ()) if shared is not None else []
    if shared is not None:
        shared.pop(DERIVATION_MACRO, None)
    for number, group in enumerate(per_frame, start=1):
        if DERIVATION_MACRO not in group and earlier:
            group.DerivationImageSequence = Sequence(copy.deepcopy(earlier))
        _append(group, DERIVATION_MACRO, _of_frame(derivation, number))


def refer_to_evidence(derived: Dataset, before: Dataset) -> None:
    """List the source in Source Image Evidence Sequence (0008,9154), study by study and series by series.

    Required where a functional group has a Source Image Sequence (C.7.6.16, C.8.19.2).
    """
    studies = copy.deepcopy(list(before.get("SourceImageEvidenceSequence") or ()))
    series = _item_of(studies, "StudyInstanceUID", str(before.get("StudyInstanceUID") or ""))
    listed = list(series.get("ReferencedSeriesSequence") or ())
    images = _item_of(listed, "SeriesInstanceUID", str(before.SeriesInstanceUID))
    series.ReferencedSeriesSequence = Sequence(listed)
    if all(item.ReferencedSOPInstanceUID != before.SOPInstanceUID for item in images.get("ReferencedSOPSequence", ())):
        reference = Dataset()
        reference.ReferencedSOPClassUID = str(before.SOPClassUID)
        reference.ReferencedSOPInstanceUID = str(before.SOPInstanceUID)
        _append(images, "ReferencedSOPSequence", reference)
    derived.SourceImageEvidenceSequence = Sequence(studies)


def are_frames_denoised(ds: Dataset) -> bool:
    """Tell whether a functional group says that this product denoised its frame."""
    for group in (*(ds.get(SHARED) or ()), *(ds.get(PER_FRAME) or ())):
        if any(
            IMAGE_TYPE_TERM in _values(item, "ImageProcessingApplied")
            for item in group.get(PIXEL_DATA_PROPERTIES) or ()
        ):
            return True
        for derivation in group.get(DERIVATION_MACRO) or ():
            if any(is_our_derivation_code(code) for code in derivation.get("DerivationCodeSequence") or ()):
                return True
    return False


def _state_frame_type(group: Dataset) -> None:
    for macro in FRAME_TYPE_MACROS:
        for item in group.get(macro) or ():
            kept = _values(item, "FrameType")
            # Value 4 is NONE for XA and XRF, and a term for contrast for CT: there is no room for ours (C.8.19.2.1.1).
            item.FrameType = ["DERIVED", *kept[1:]]
            if "ImageProcessingApplied" in item:
                applied = [term for term in _values(item, "ImageProcessingApplied") if term not in ("", "NONE")]
                item.ImageProcessingApplied = list(dict.fromkeys([*applied, IMAGE_TYPE_TERM]))


def _values(ds: Dataset, keyword: str) -> list[str]:
    value = ds.get(keyword)
    if isinstance(value, MultiValue):
        return [str(v) for v in value]
    return [str(value)] if value else []


def _append(ds: Dataset, keyword: str, item: Dataset) -> None:
    setattr(ds, keyword, Sequence([*(ds.get(keyword) or ()), item]))


def _of_frame(derivation: Dataset, number: int) -> Dataset:
    item = copy.deepcopy(derivation)
    for source in item.SourceImageSequence:
        source.ReferencedFrameNumber = number
    return item


def _item_of(items: list[Dataset], keyword: str, value: str) -> Dataset:
    """Return the item whose `keyword` is `value`; a new one, added to `items`, where there is none."""
    for item in items:
        if item.get(keyword) == value:
            return item
    item = Dataset()
    setattr(item, keyword, value)
    items.append(item)
    return item
