"""Chapter 7: associations, presentation contexts, and what ends or refuses them."""

from __future__ import annotations

from collections.abc import Iterator

from config.settings import DicomDestinationSettings, ReceiverSettings, Settings
from dicom_node.admission import HOST_NAMES_FOR_S
from dicom_node.association_policy import APPLICATION_CONTEXT_NAME
from dicom_node.conformance.implementation import RECEIVER_AE, SENDER_AE
from dicom_node.conformance.markdown import Section, bullets, code, facts, paragraph, see, table
from dicom_node.conformance.status_codes import status_codes
from dicom_node.conformance.transfer_syntaxes import syntax_name, syntax_supports
from dicom_node.data_phase import CLOSE_WAIT_S, LARGEST_SENT_PDU, MIN_BYTES_PER_S
from dicom_node.destinations.probing import PROBED_CLASSES, PROBED_SYNTAXES, UNCOMPRESSED, WITHOUT_PIXELS
from dicom_node.destinations.storage_scu import LOSSES_IN_VAIN
from dicom_node.destinations.syntaxes import COMPRESSIONS
from dicom_node.negotiation import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    MAX_CONTEXTS,
    STORAGE_COMMITMENT,
    VERIFICATION,
)
from dicom_node.rejections import REJECTION_CAUSES
from dicom_node.upper_layer import RESPONSE_PDU_BYTES


def communication(settings: Settings) -> Section:
    """Return the chapter."""
    return Section(
        title="Network and media communication details",
        parts=(
            _general(),
            _receiver(settings),
            _sender(settings),
            status_codes(),
            Section(
                title="Network interfaces",
                body=(
                    bullets(
                        (
                            "DICOM upper layer protocol over TCP/IP, IPv4 and IPv6 (PS3.8 9). Physical network and IP "
                            "configuration are those of the operating system.",
                            "Host names of sources and destinations are resolved by the operating system; those of "
                            f"sources anew every {HOST_NAMES_FOR_S:g} s.",
                        )
                    ),
                ),
            ),
            Section(title="Media", body=("None: no File-sets are created, read or updated.",)),
        ),
    )


def _general() -> Section:
    return Section(
        title="General association parameters",
        body=(
            facts(
                "Parameters of every association",
                {
                    "Application Context Name": code(APPLICATION_CONTEXT_NAME),
                    "Implementation Class UID": code(IMPLEMENTATION_CLASS_UID),
                    "Implementation Version Name": code(IMPLEMENTATION_VERSION_NAME),
                    "Presentation contexts on one association": f"at most {MAX_CONTEXTS}",
                    "Asynchronous operations": "none: one operation at a time; a window that is proposed is not "
                    "answered",
                    "SCP/SCU role selection": "none, Storage Commitment Push Model apart: the default roles; a role "
                    "that is proposed is not answered. For Storage Commitment what is proposed is accepted, and who "
                    "brings a report proposes the SCP role",
                    "SOP class extended negotiation": "none: what is proposed is not answered",
                    "User identity negotiation": "none: what is proposed is neither checked nor answered",
                    "Largest P-DATA PDU that is sent": f"what the peer announces, at most {LARGEST_SENT_PDU} bytes",
                    "Wait for the peer to close the connection": f"{CLOSE_WAIT_S:g} s",
                },
            ),
        ),
    )


def _receiver(settings: Settings) -> Section:
    return Section(
        title=RECEIVER_AE,
        parts=(
            Section(
                title=f"Association parameters of the {RECEIVER_AE}", body=(_receiver_parameters(settings.receiver),)
            ),
            Section(title=f"Association initiation of the {RECEIVER_AE}", body=("It initiates no association.",)),
            Section(
                title=f"Association acceptance of the {RECEIVER_AE}",
                body=(
                    paragraph(
                        f"An association is accepted when the called AE title is {code(settings.node.ae_title)}, and "
                        "the calling AE title and the address are both those of one source "
                        f"({see('Connected systems')}), or those of a destination that reports on Storage Commitment. "
                        "Otherwise, and while the node can't take objects, it is "
                        "rejected. "
                        "Result 1 is permanent, result 2 transient."
                    ),
                    table(
                        "Rejected associations",
                        ("Result", "Source", "Reason", "When", "What to do"),
                        (
                            (str(cause.result), str(cause.source), str(cause.reason), cause.case, cause.remedy)
                            for cause in REJECTION_CAUSES
                        ),
                    ),
                    paragraph(
                        f"Presentation contexts are accepted for Verification ({code(VERIFICATION)}), for every SOP "
                        f"class of {see('Storage SOP classes')}, and for every SOP class that DICOM does not define; "
                        "each in each of these transfer syntaxes."
                    ),
                    table(
                        "Accepted presentation contexts, for each of these abstract syntaxes",
                        ("Transfer syntax", "UID", "Role", "Extended negotiation"),
                        ((entry.name, code(entry.uid), "SCP", "none") for entry in syntax_supports()),
                    ),
                    paragraph(
                        f"Storage Commitment Push Model ({code(STORAGE_COMMITMENT)}) is accepted in the uncompressed "
                        "transfer syntaxes but Deflated, from sources and for destinations whose settings have "
                        "`commitment`. A destination that is no source is admitted from its AE titles and hosts, and "
                        "from `report_ae_titles` and `report_hosts`: for this and Verification alone."
                    ),
                    bullets(
                        (
                            "Each presentation context is answered for itself, with the first transfer syntax in the "
                            "order of the requestor that is accepted.",
                            "A context without an accepted transfer syntax is answered with result 4, one with another "
                            "abstract syntax with result 3.",
                            "An accepted association stays open without an accepted context too; it is the requestor's "
                            "to end.",
                            "A peer that breaks the protocol, or is silent for too long, is sent A-ABORT. What was "
                            "acknowledged before is kept; the object on its way is dropped.",
                            f"When the node stops, associations in progress have {settings.node.drain_s:g} s to end "
                            "before they are aborted.",
                        )
                    ),
                ),
            ),
        ),
    )


def _receiver_parameters(receiver: ReceiverSettings) -> str:
    return facts(
        f"Association parameters of the {RECEIVER_AE}",
        {
            "Associations at once, as acceptor": f"{receiver.max_associations}",
            "Associations at once, as initiator": "none",
            "Largest P-DATA PDU that is announced": f"{receiver.max_pdu_bytes} bytes",
            "Wait for the association request": f"{receiver.acse_timeout_s:g} s",
            "Longest silence on an association": f"{receiver.network_timeout_s:g} s",
            "Longest time of one message": f"{receiver.network_timeout_s:g} s, and 1 s more for each "
            f"{MIN_BYTES_PER_S} bytes of it",
        },
    )


def _sender(settings: Settings) -> Section:
    return Section(
        title=SENDER_AE,
        parts=(
            Section(title=f"Association parameters of the {SENDER_AE}", body=tuple(_sender_parameters(settings))),
            Section(
                title=f"Association initiation of the {SENDER_AE}",
                body=(
                    paragraph(
                        "An association is opened when a delivery is due. For each SOP class that is to be sent, one "
                        "presentation context is proposed with each transfer syntax that its objects are in, and one "
                        "more with what remains of the uncompressed little endian transfer syntaxes. A context holds a "
                        "single transfer syntax where the peer's choice could leave others out."
                    ),
                    table(
                        "Proposed presentation contexts, for each SOP class",
                        ("Objects are in", "First context", "Second context", "Role", "Extended negotiation"),
                        _proposed_contexts(),
                    ),
                    paragraph(
                        "Where `compress` of the destination asks for it, a context with the compressed transfer "
                        "syntax alone is proposed before these, for each SOP class of uncompressed derived objects, "
                        "and with `compress_originals` of uncompressed originals."
                    ),
                    table(
                        "The context before these, where an object is to be compressed",
                        ("`compress`", "Transfer syntax", "Role", "Extended negotiation"),
                        ((code(name), syntax_name(syntax), "SCU", "none") for name, syntax in COMPRESSIONS.items()),
                    ),
                    paragraph(
                        f"For Storage Commitment an association of its own is opened, with {code(STORAGE_COMMITMENT)} "
                        "in Explicit and Implicit VR Little Endian: to a destination in the default roles with a "
                        "request, to a modality with the SCP role proposed, with a report. A modality that leaves the "
                        "role unanswered gets the report all the same."
                    ),
                    bullets(
                        (
                            f"Objects that need more than {MAX_CONTEXTS} contexts are sent on several associations.",
                            "When an association is lost, the object that was on its way is tried again later, and the "
                            f"others go on at once on another association; after {LOSSES_IN_VAIN} losses in a row "
                            "without an answer the destination is left alone until the next attempt.",
                            "The association is released when all objects have an answer.",
                            "`dicom-node doctor` proposes Verification in Implicit VR Little Endian, and each of these "
                            f"SOP classes in each of these transfer syntaxes: {', '.join(PROBED_CLASSES)}; "
                            f"{', '.join(PROBED_SYNTAXES)}; those without pixels ({', '.join(WITHOUT_PIXELS)}) in "
                            f"{' and '.join(UNCOMPRESSED)} alone. It stores nothing.",
                        )
                    ),
                ),
            ),
            Section(title=f"Association acceptance of the {SENDER_AE}", body=("It accepts no association.",)),
        ),
    )


def _sender_parameters(settings: Settings) -> Iterator[str]:
    yield facts(
        f"Association parameters of the {SENDER_AE}",
        {
            "Calling AE title": f"{code(settings.node.ae_title)}, unless a destination's `calling_ae_title` says "
            "otherwise",
            "Associations at once, as acceptor": "none",
            "Associations at once, as initiator": "for each destination its `concurrency`",
            "Largest P-DATA PDU that is announced": f"{RESPONSE_PDU_BYTES} bytes: what comes back is responses",
            "Longest time of one message": "the destination's `dimse_timeout_s`, and 1 s more for each "
            f"{MIN_BYTES_PER_S} bytes of it",
        },
    )
    entries = [entry for entry in settings.destinations if isinstance(entry, DicomDestinationSettings)]
    if entries:
        header = ("Destination", "Associations", "TCP connection", "Association answer", "Response", "Tried for")
        rows = (
            (
                code(entry.name),
                str(entry.concurrency),
                f"{entry.connect_timeout_s:g} s",
                f"{entry.acse_timeout_s:g} s",
                f"{entry.dimse_timeout_s:g} s",
                f"{entry.retry.max_age_h:g} h",
            )
            for entry in entries
        )
        yield table("Limits for each destination", header, rows)


def _proposed_contexts() -> Iterator[tuple[str, ...]]:
    for entry in syntax_supports():
        first, *rest = (", ".join(map(syntax_name, context)) for context in entry.proposed)
        yield entry.name, first, "; ".join(rest) or "-", "SCU", "none"
