"""Annexes A to D: what derived objects hold, attribute by attribute, and how their UIDs and pixels are made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pydicom.datadict import dictionary_description, dictionary_VR

from config.settings import Settings
from dicom_node.conformance.markdown import Section, bullets, code, facts, paragraph, see, table
from dicom_node.conformance.transfer_syntaxes import syntax_name, syntax_supports
from dicom_node.derivation.differences import ALLOWED_DIFFERENCES, AllowedDifference, Change
from dicom_node.derivation.uids import DERIVATION_REVISION
from dicom_node.negotiation import IMPLEMENTATION_CLASS_UID
from dicom_node.pixel_encoding import MAX_DEFLATED_BYTES

_CHANGES: Final = {Change.ADDED: "added", Change.CHANGED: "changed", Change.REMOVED: "removed"}


def information_objects(settings: Settings) -> Section:
    """Return the annex of information object definitions."""
    return Section(
        title="Information Object Definitions",
        parts=(
            Section(
                title="Received objects",
                body=(
                    paragraph("They are changed in no attribute, and forwarded with the bytes that they came with."),
                ),
            ),
            _derived(settings),
            Section(title="Images that are not enhanced", body=(_passed_through(),)),
            _uids(),
            _pixels(),
            Section(
                title="Private attributes",
                body=(paragraph("None are written. Those of a source stay as they are, in derived objects too."),),
            ),
            Section(
                title="Standard Extended, Specialized and Private SOP classes",
                body=(
                    paragraph(
                        "None are defined. A derived object is of the SOP class of its source; where the source holds "
                        "attributes beyond its IOD the derived object holds them too."
                    ),
                ),
            ),
        ),
    )


def other_annexes() -> tuple[Section, ...]:
    """Return the annexes that there is little to say in."""
    return (
        Section(title="Security details", body=("None: no profile for the security of objects is supported.",)),
        Section(
            title="Mapping of attributes",
            body=(
                paragraph(
                    "No attributes come from a worklist or from any system beside the source object. Which attributes "
                    "of a "
                    f"derived object are those of its source, and which are not: {see('Derived objects')}."
                ),
            ),
        ),
    )


def _derived(settings: Settings) -> Section:
    derivation = settings.derivation
    return Section(
        title="Derived objects",
        body=(
            paragraph(
                "A derived object has every attribute of its source, with the same bytes, apart from those in this "
                "table: patient, study, order, acquisition, frame of reference, geometry, rescaling, windowing, "
                "overlays and private attributes are the source's. Pixel padding and overlay bits are bit-exact. Group "
                "lengths (gggg,0000), which are retired, are left out, and so are digital signatures within sequences."
            ),
            table(
                "Attributes in which a derived object may differ from its source",
                ("Attribute", "Tag", "VR", "May be", "Rule"),
                (_difference_row(entry) for entry in ALLOWED_DIFFERENCES if not entry.within),
            ),
            table(
                "The same within the functional groups of multi-frame images",
                ("In", "Attribute", "Tag", "VR", "May be", "Rule"),
                ((_place(entry), *_difference_row(entry)) for entry in ALLOWED_DIFFERENCES if entry.within),
            ),
            facts(
                "What these settings make of it",
                {
                    "Equipment (`derivation.equipment`)": f"{code(derivation.equipment)}: "
                    f"{_equipment(derivation.equipment)}",
                    "Series Number": f"that of the source, plus {derivation.series_number_offset}; none where it has "
                    "none",
                    "Series Description": f"that of the source, cut to fit, with {code(derivation.description_suffix)}",
                    "Derivation Code": f"{code(derivation.derivation_code)} ({see('Code set usage')})",
                },
            ),
        ),
    )


def _equipment(mode: str) -> str:
    if mode == "standard":
        return "the node is the General Equipment, the device of the source is Contributing Equipment"
    return "the device of the source stays the General Equipment, the node is Contributing Equipment"


def _difference_row(entry: AllowedDifference) -> tuple[str, ...]:
    return (
        dictionary_description(entry.tag),
        code(f"({entry.tag.group:04X},{entry.tag.element:04X})"),
        dictionary_VR(entry.tag),
        ", ".join(_changes(entry.change)),
        entry.why,
    )


def _place(entry: AllowedDifference) -> str:
    return " > ".join(dictionary_description(name) for name in entry.within)


def _changes(change: Change) -> Iterator[str]:
    return (word for one, word in _CHANGES.items() if one in change)


def _passed_through() -> str:
    return bullets(
        (
            "SOP classes that no route enables, and everything that is no image.",
            "Pixels that are not grey values of 8 or 16 bits allocated, or in a transfer syntax that no codec reads.",
            "Quality control images, by Quality Control Image (0028,0300) of YES.",
            "Images that were denoised by this product before.",
            "Images without SOP Instance UID or Series Instance UID.",
            "Images with functional groups of other SOP classes than Enhanced XA, XRF and CT, and images of these "
            "without functional groups.",
            "Images that a guard of the denoiser refuses, or that are not ready by the deadline of the route.",
        )
    )


def _uids() -> Section:
    return Section(
        title="Construction of UIDs",
        body=(
            facts(
                "UIDs that the node makes",
                {
                    "Implementation Class UID": code(IMPLEMENTATION_CLASS_UID),
                    "SOP Instance UID of a derived object": f"{code('2.25.')} and a UUID of version 5 (PS3.5 B.2), "
                    "made "
                    "of the SOP Instance UID and the pixel values of the source, the weights of the network, the "
                    f"strength, and revision {DERIVATION_REVISION} of the derivation",
                    "Series Instance UID of a derived object": "likewise, of the Series Instance UID of the source",
                    "Study Instance UID, Frame of Reference UID and all others": "those of the source",
                },
            ),
            paragraph(
                "The same source, enhanced again by the same weights with the same strength, has the same UIDs: a "
                "destination never gets the same image under two UIDs."
            ),
        ),
    )


def _pixels() -> Section:
    rows = ((entry.name, syntax_name(entry.derived)) for entry in syntax_supports() if entry.decodable)
    return Section(
        title="Transfer syntaxes of derived objects",
        body=(
            table("Transfer syntax of a derived object", ("Source", "Derived object"), rows),
            bullets(
                (
                    "What the node encodes is without loss. Each compressed frame is decoded again and compared before "
                    f"it is used; where it is not the same the derived object is in {_fallback()}.",
                    f"Deflated sources of more than {MAX_DEFLATED_BYTES >> 20} MiB of pixels, and compressed ones "
                    "other "
                    f"than RLE with overlays in the pixel cells, become {_fallback()} too.",
                    "Lossy Image Compression (0028,2110) of the source stays; it is set to 01 where the source's own "
                    "transfer syntax is lossy and it does not say so.",
                )
            ),
        ),
    )


def _fallback() -> str:
    return syntax_name("1.2.840.10008.1.2.1")
