"""Annexes E and F: the codes that derived objects carry, and the storage SOP classes that are accepted."""

from __future__ import annotations

from pydicom.dataset import Dataset

from config.settings import Settings
from dicom_node.conformance.markdown import Section, code, facts, paragraph, table
from dicom_node.conformance.sop_classes import name_of, storage_classes
from dicom_node.derivation.terms import (
    IMAGE_TYPE_TERM,
    PRODUCT,
    acquisition_equipment,
    coding_scheme_item,
    denoising_code,
    processing_equipment,
    smoothing_code,
    source_image_purpose,
)


def code_set_usage(settings: Settings) -> Section:
    """Return the annex of coded terminology."""
    is_private = settings.derivation.derivation_code == "private"
    return Section(
        title="Code set usage",
        body=(
            table(
                "Codes in derived objects",
                ("Code", "Scheme", "Meaning", "Context group", "Used in"),
                (
                    *(
                        (_code_row(denoising_code(), "extension of CID 7203", "Derivation Code Sequence"),)
                        if is_private
                        else ()
                    ),
                    _code_row(
                        smoothing_code(),
                        "CID 7203",
                        "Equivalent Code Sequence of the code above" if is_private else "Derivation Code Sequence",
                    ),
                    _code_row(source_image_purpose(), "CID 7202", "Source Image Sequence"),
                    _code_row(
                        acquisition_equipment(),
                        "CID 7005",
                        "Contributing Equipment Sequence, for the device of an original image",
                    ),
                    _code_row(
                        processing_equipment(),
                        "CID 7005",
                        "Contributing Equipment Sequence, for the device of an image that was derived already, and for "
                        "the node",
                    ),
                ),
            ),
            *(_private_codes() if is_private else ()),
            facts(
                "Terms that are no codes",
                {
                    "Image Type (0008,0008)": f"{code('DERIVED')} as value 1, and {code(IMAGE_TYPE_TERM)} after the "
                    "values "
                    "that the standard defines",
                    "Manufacturer and Manufacturer's Model Name of the node": code(PRODUCT),
                },
            ),
        ),
    )


def _code_row(item: Dataset, group: str, use: str) -> tuple[str, ...]:
    return code(item.CodeValue), code(item.CodingSchemeDesignator), str(item.CodeMeaning), group, use


def _private_codes() -> tuple[str, ...]:
    scheme, denoising = coding_scheme_item(), denoising_code()
    return (
        facts(
            "The private coding scheme, and the extension of the context group",
            {
                "Coding Scheme Designator (0008,0102)": code(scheme.CodingSchemeDesignator),
                "Coding Scheme UID (0008,010C)": code(scheme.CodingSchemeUID),
                "Coding Scheme Name (0008,0115)": code(scheme.CodingSchemeName),
                "Context Group Extension Flag (0008,010B)": code(denoising.ContextGroupExtensionFlag),
                "Context Group Local Version (0008,0107)": code(denoising.ContextGroupLocalVersion),
                "Context Group Extension Creator UID (0008,010D)": code(denoising.ContextGroupExtensionCreatorUID),
            },
        ),
        paragraph(
            "Coding Scheme Identification Sequence (0008,0110) of each derived object explains the scheme. With "
            '`derivation_code = "standard"` the code of the standard is written alone.'
        ),
    )


def accepted_storage_classes() -> Section:
    """Return the annex that lists every accepted storage SOP class that DICOM defines."""
    return Section(
        title="Storage SOP classes",
        body=(
            paragraph(
                "These are received, and sent where they came from a source. SOP classes that DICOM does not define "
                "are "
                "taken for storage too."
            ),
            table(
                "Storage SOP classes that DICOM defines",
                ("SOP class", "UID"),
                ((name_of(uid), code(uid)) for uid in storage_classes()),
            ),
        ),
    )
