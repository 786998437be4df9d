"""Annex B: the Structured Reports that the node makes where a route asks for them."""

from __future__ import annotations

from pydicom.uid import EnhancedSRStorage

from config.settings import Settings
from dicom_node.conformance.markdown import Section, bullets, code, codes, facts, paragraph, table
from dicom_node.conformance.sop_classes import name_of
from dicom_node.derivation.terms import CODING_SCHEME_DESIGNATOR, REPORT_TERMS


def structured_reports(settings: Settings) -> Section:
    """Return the annex."""
    reporting = tuple(route.name for route in settings.routes if route.report)
    return Section(
        title="Structured Report content",
        body=(
            paragraph(
                "No Structured Report is read. Where `report` of a route says so, the node makes one document for each "
                "series of which at least one image was enhanced, and delivers it after the images."
            ),
            facts(
                "The quality report",
                {
                    "Routes of these settings that ask for it": codes(reporting),
                    "SOP class": f"{name_of(EnhancedSRStorage)} ({code(EnhancedSRStorage)})",
                    "Root template": "TID 1500, Measurement Report, with a TID 1501 group for each received image",
                    "Algorithm": "TID 4019: weights by name and SHA-256, strength, version of the node",
                    "Observer": "the node, as a device",
                    "Coding scheme of the private codes": code(CODING_SCHEME_DESIGNATOR),
                },
            ),
            table(
                "Private codes of the quality report",
                ("Code", "Meaning"),
                ((code(value), meaning) for value, meaning in REPORT_TERMS.items()),
            ),
            bullets(
                (
                    "SOP Instance UID and Series Instance UID are computed from the content, as those of derived "
                    "images are; a late image gives another instance in the same series.",
                    "Patient, study and their texts are those of the source, byte for byte.",
                    "A report that can't be made holds nothing up: the images go without it, and the audit says why.",
                )
            ),
        ),
    )
