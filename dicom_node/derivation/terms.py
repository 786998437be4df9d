"""The terms and codes that derived objects carry: the standard's, and the few of our own."""

from __future__ import annotations

from typing import Final

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

PRODUCT: Final = "dicom-node"
"""Manufacturer and model name of the node as an equipment; pure ASCII, so it fits every character set."""

IMAGE_TYPE_TERM: Final = "DENOISED"
"""Our value of Image Type (0008,0008), after those that the standard gives a meaning to."""

CODING_SCHEME_DESIGNATOR: Final = "99DICOMNODE"
CODING_SCHEME_UID: Final = "2.25.134860467164204146157322416218066364926"
EXTENSION_CREATOR_UID: Final = "2.25.291473014377353118273936463318246853106"
EXTENSION_VERSION: Final = "20260101000000"
"""Context Group Local Version of our one-code extension of CID 7203."""

DENOISING_CODE_VALUE: Final = "DENOISE"

REPORT_TERMS: Final = {
    "NOISE_BEFORE": "Noise before denoising",
    "NOISE_AFTER": "Noise after denoising",
    "NOISE_RATIO": "Noise after denoising relative to before",
    "STRENGTH_ASKED": "Denoising strength asked for",
    "STRENGTH_APPLIED": "Denoising strength applied",
    "DECISION": "Denoising decision",
    "ENHANCED": "Denoised",
    "PASSED_THROUGH": "Passed through as received",
}
"""Meanings of the private codes of quality reports, by Code Value; the standard has no codes for these."""


def code_item(value: str, scheme: str, meaning: str) -> Dataset:
    """Return an item of the Code Sequence Macro (PS3.3 8.8)."""
    item = Dataset()
    item.CodeValue = value
    item.CodingSchemeDesignator = scheme
    item.CodeMeaning = meaning
    return item


def smoothing_code() -> Dataset:
    """Return (113087, DCM, "Smoothing"), the nearest code of CID 7203 Image Derivation."""
    return code_item("113087", "DCM", "Smoothing")


def denoising_code() -> Dataset:
    """Return our private code for denoising, as an extension of CID 7203 with Smoothing as its equivalent.

    Context Identifier stays out: it would demand the Context Group Version (PS3.3 Table 8.8-1), which changes with
    the standard while our extension does not.
    """
    item = code_item(DENOISING_CODE_VALUE, CODING_SCHEME_DESIGNATOR, "Denoising by a neural network")
    item.ContextGroupLocalVersion = EXTENSION_VERSION
    item.ContextGroupExtensionFlag = "Y"
    item.ContextGroupExtensionCreatorUID = EXTENSION_CREATOR_UID
    equivalent = smoothing_code()
    # Said outright, since validators look for the flag in the item around where it is absent.
    equivalent.ContextGroupExtensionFlag = "N"
    item.EquivalentCodeSequence = Sequence([equivalent])
    return item


def is_our_derivation_code(item: Dataset) -> bool:
    """Tell whether `item` is our private code."""
    return (item.get("CodeValue"), item.get("CodingSchemeDesignator")) == (
        DENOISING_CODE_VALUE,
        CODING_SCHEME_DESIGNATOR,
    )


def coding_scheme_item() -> Dataset:
    """Return the item of Coding Scheme Identification Sequence (0008,0110) that explains our designator."""
    item = Dataset()
    item.CodingSchemeDesignator = CODING_SCHEME_DESIGNATOR
    item.CodingSchemeUID = CODING_SCHEME_UID
    item.CodingSchemeName = "DICOM node private codes"
    return item


def source_image_purpose() -> Dataset:
    """Return the purpose of our reference to the source (CID 7202)."""
    return code_item("121322", "DCM", "Source image for image processing operation")


def acquisition_equipment() -> Dataset:
    """Return the purpose of Contributing Equipment that acquired (CID 7005)."""
    return code_item("109101", "DCM", "Acquisition Equipment")


def processing_equipment() -> Dataset:
    """Return the purpose of Contributing Equipment that processed (CID 7005)."""
    return code_item("109102", "DCM", "Processing Equipment")
