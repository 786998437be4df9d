"""Chapter 3: for whom the statement is, what it does not promise, and its words."""

from __future__ import annotations

from dicom_node import __version__
from dicom_node.conformance.markdown import Section, bullets, paragraph, table
from dicom_node.derivation.terms import PRODUCT

TERMS = {
    "Arrival": "A series as it came, with what was stored of it until it counted as complete.",
    "Dead letter": "An object that a destination refused for good; it is kept with the reason until somebody decides.",
    "Delivery": "What of an arrival goes to one destination.",
    "Derived object": "The enhanced image: a new SOP instance, derived from the received one.",
    "Destination": "A storage SCP, named in the settings, that routes send to.",
    "Ledger": "The node's database of what it received, decided and sent.",
    "Passed through": "Forwarded bit for bit as it was received.",
    "Route": "An entry of the settings: which series it takes, whether they are enhanced, where they go.",
    "Source": "A sender that the settings allow to store.",
}
ABBREVIATIONS = {
    "AE": "Application Entity",
    "DIMSE": "DICOM Message Service Element",
    "IOD": "Information Object Definition",
    "PDU": "Protocol Data Unit",
    "SCP": "Service Class Provider",
    "SCU": "Service Class User",
    "SOP": "Service-Object Pair",
    "UID": "Unique Identifier",
    "VR": "Value Representation",
}


def introduction() -> Section:
    """Return the chapter."""
    return Section(
        title="Introduction",
        parts=(
            Section(
                title="Revision history",
                body=(
                    paragraph(
                        f"This statement describes version {__version__} and is made anew with each version. What "
                        "changed "
                        "between versions is told by the change log of the product."
                    ),
                ),
            ),
            Section(
                title="Audience",
                body=(
                    paragraph(
                        "Administrators of a PACS, service engineers of modalities, and integrators. Knowledge of "
                        "DICOM's services is assumed."
                    ),
                ),
            ),
            Section(
                title="Remarks",
                body=(
                    bullets(
                        (
                            "Comparing two conformance statements is a first step. It does not replace a test of the "
                            "equipment together: `dicom-node doctor` tries out each destination without storing "
                            "anything, `dicom-node send` plays a modality.",
                            "The node is software for research and integration. It is not a cleared medical device.",
                            "Tables are made from the tables that the program works by, and values from one settings "
                            "file. `dicom-node conformance -c FILE` makes the statement of another.",
                        )
                    ),
                ),
            ),
            Section(
                title="Terms and definitions",
                body=(table("Terms of this product", ("Term", "Meaning"), TERMS.items()),),
            ),
            Section(
                title="Abbreviations",
                body=(table("Abbreviations", ("Abbreviation", "Meaning"), ABBREVIATIONS.items()),),
            ),
            Section(
                title="References",
                body=(
                    paragraph(
                        f"DICOM Standard, PS3.2 to PS3.8, PS3.10, PS3.15 and PS3.16. {PRODUCT} names the clause of "
                        "the standard where its behaviour follows from one. The chapters are those of the template in "
                        "PS3.2 Annex N."
                    ),
                ),
            ),
        ),
    )
