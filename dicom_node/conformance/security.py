"""Chapter 8: what protects the node and what does not."""

from __future__ import annotations

from collections.abc import Iterator

from config.settings import DicomwebDestinationSettings, Settings
from dicom_node.conformance.markdown import Section, bullets, code, paragraph, table
from dicom_node.destinations.web_explanations import web_peer


def security(settings: Settings) -> Section:
    """Return the chapter."""
    return Section(
        title="Security",
        parts=(
            Section(
                title="Transport security",
                body=(
                    paragraph(
                        "There is no TLS for associations: neither as acceptor nor as initiator does the node support "
                        "any of the Secure Transport Connection Profiles of PS3.15 Annex B. Objects, and with them the "
                        "identity of patients, "
                        "cross the network in the clear. Run the node in a network that only trusted equipment can "
                        "reach, or put a TLS tunnel between the hosts."
                    ),
                ),
            ),
            Section(
                title="Association level security",
                body=(
                    bullets(
                        (
                            "A sender must call the right AE title, with an AE title and from an address that one and "
                            'the same source names; an address of "*" admits any. By default there is no source.',
                            "AE title and address are no proof of who a sender is: both can be forged on an open "
                            "network.",
                            "No user identity is negotiated, no password is asked for.",
                        )
                    ),
                ),
            ),
            Section(
                title="Network requirements",
                body=(table("TCP connections", ("From", "To", "Port", "For"), _connections(settings)),),
            ),
            Section(
                title="Security profiles",
                body=(
                    table(
                        "Profiles of PS3.15",
                        ("Profile", "Supported"),
                        (
                            ("Secure Use Profiles", "no"),
                            ("Secure Transport Connection Profiles", "no"),
                            ("Digital Signature Profiles", "no: signatures are neither made nor verified"),
                            ("Media Storage Security Profiles", "no"),
                            ("Attribute Confidentiality Profiles", "no"),
                            ("Network Address Management Profiles", "no"),
                            ("Time Synchronization Profiles", "no: the clock is the operating system's"),
                            ("Application Configuration Management Profiles", "no"),
                            ("Audit Trail Message Format and Transmission", "no"),
                        ),
                    ),
                ),
            ),
            Section(
                title="Application level security",
                body=(
                    bullets(
                        (
                            "Files and folders of objects can be read by the node's own user alone. They are not "
                            "encrypted.",
                            "Logs hold UIDs and AE titles, no attributes of a patient and no pixels.",
                            "Every change of state is recorded in the ledger with its time and reason. The record is "
                            "not "
                            "an audit trail in the sense of PS3.15.",
                        )
                    ),
                ),
            ),
        ),
    )


def _connections(settings: Settings) -> Iterator[tuple[str, ...]]:
    node = settings.node
    yield "sources", f"this node, address {code(node.bind)}", code(node.port), "Verification, Storage"
    for entry in settings.destinations:
        port, services = (
            (web_peer(entry.name, entry.url).port, "STOW-RS; QIDO-RS by doctor and where a response is unclear")
            if isinstance(entry, DicomwebDestinationSettings)
            else (entry.port, "Storage, Verification by doctor")
        )
        yield "this node", f"destination {code(entry.name)}", code(port), services
