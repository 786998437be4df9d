"""Chapter 1: what the node does with which objects, and which services of DICOM it offers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pydicom.uid import UID

from config.settings import Settings
from dicom_node.association_policy import is_accepted_abstract_syntax
from dicom_node.conformance.markdown import Section, bullets, code, codes, paragraph, see, table
from dicom_node.conformance.sop_classes import EnhancedClass, enhanced_classes, name_of, storage_classes
from dicom_node.conformance.transfer_syntaxes import (
    SyntaxSupport,
    syntax_name,
    syntax_supports,
)
from dicom_node.derivation.terms import PRODUCT
from dicom_node.destinations.syntaxes import NOT_IN_WEB_SERVICES
from dicom_node.negotiation import STORAGE_COMMITMENT, VERIFICATION

ANY_STORAGE: Final = "(any storage SOP class)"
"""Stands for the abstract syntax of the Storage service, which is no single one."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """A DIMSE service: whether the node uses it, and an abstract syntax by which the receiver is asked for it."""

    name: str
    abstract_syntax: str
    as_scu: str = ""
    note: str = ""
    as_scp: bool = False

    @property
    def is_provided(self) -> bool:
        """Whether the receiver accepts its presentation contexts."""
        return self.as_scp or self.abstract_syntax == ANY_STORAGE or is_accepted_abstract_syntax(self.abstract_syntax)


SERVICES: Final = (
    Service(name="Verification", abstract_syntax=VERIFICATION, as_scu="yes", note="SCU only for `dicom-node doctor`."),
    Service(name="Storage", abstract_syntax=ANY_STORAGE, as_scu="yes"),
    Service(
        name="Storage Commitment Push Model",
        abstract_syntax=STORAGE_COMMITMENT,
        as_scu="yes",
        as_scp=True,
        note="Each only with the peers whose settings have `commitment`.",
    ),
    Service(name="Non-Patient Object Storage", abstract_syntax="1.2.840.10008.5.1.4.38.1"),
    Service(name="Modality Worklist", abstract_syntax="1.2.840.10008.5.1.4.31"),
    Service(name="Modality Performed Procedure Step", abstract_syntax="1.2.840.10008.3.1.2.3.3"),
    Service(name="Unified Procedure Step", abstract_syntax="1.2.840.10008.5.1.4.34.6.1"),
    Service(name="Instance Availability Notification", abstract_syntax="1.2.840.10008.5.1.4.33"),
    Service(name="Query/Retrieve: C-FIND", abstract_syntax="1.2.840.10008.5.1.4.1.2.2.1"),
    Service(name="Query/Retrieve: C-MOVE", abstract_syntax="1.2.840.10008.5.1.4.1.2.2.2"),
    Service(name="Query/Retrieve: C-GET", abstract_syntax="1.2.840.10008.5.1.4.1.2.2.3"),
    Service(name="Print Management", abstract_syntax="1.2.840.10008.5.1.1.9"),
)


def overview(settings: Settings) -> Section:
    """Return the chapter."""
    return Section(
        title="Overview",
        body=(
            paragraph(
                f"{PRODUCT} is a DICOM node that stands between X-ray modalities and a PACS. It receives objects by "
                "C-STORE, takes the noise out of the X-ray images that it is told to enhance, and forwards the "
                "enhanced images, or the objects as they came, by C-STORE or STOW-RS. It is no archive, no viewer "
                "and no source of patient or order data."
            ),
            table("Will it work with my equipment?", ("If you connect", "it has to", "and the node"), _needs(settings)),
            paragraph(
                "What the node receives is either enhanced, which makes a new SOP instance in a new series of the same "
                "study, or passed through bit for bit. An image that can't be enhanced, or not in time, is passed "
                "through: nothing that was acknowledged is withheld."
            ),
        ),
        parts=(
            _content_and_transfer(settings),
            Section(title="DIMSE services", body=(_services(),)),
            Section(title="DICOM Web Services", body=_web_services()),
            Section(title="Media services", body=("None: no File-sets are created, read or updated.",)),
            Section(title="Real-Time Video services", body=("None.",)),
            Section(
                title="De-identification profiles",
                body=("None. No identity is removed; what is derived keeps the patient of its source.",),
            ),
            Section(
                title="Overview of character sets",
                body=(
                    paragraph(
                        "All: no text is converted, and what the node writes itself fits every character set. "
                        f"See {see('Specific Character Sets')}."
                    ),
                ),
            ),
        ),
    )


def _needs(settings: Settings) -> Iterator[tuple[str, str, str]]:
    node, tls = settings.node, settings.tls
    port, over = (tls.port, " over TLS") if tls.only else (node.port, "")
    yield (
        "a modality, or any other sender",
        f"be a Storage SCU that calls the AE title {code(node.ae_title)} on TCP port {code(port)}{over} from an AE "
        "title and an address that are in `[[sources]]`",
        "takes every storage SOP class, private ones too, in each of the transfer syntaxes below",
    )
    yield (
        "a PACS, or any other receiver",
        "be a Storage SCP for the SOP classes of your modalities, and know the node's calling AE title and address",
        "sends each object in the transfer syntax that it is in, or compressed without loss where its settings say so, "
        "and, where that is refused, uncompressed in Explicit or Implicit VR Little Endian",
    )
    yield (
        "equipment that expects or gives Storage Commitment",
        "have `commitment` in the settings of its source or destination",
        "asks the PACS, and says yes to the modality when the destinations have",
    )
    yield (
        "equipment that expects a worklist or queries from the node",
        "do without: it gets them from the PACS, as before",
        "offers none of them",
    )


def _content_and_transfer(settings: Settings) -> Section:
    others = len(storage_classes()) - len([c for c in enhanced_classes(settings) if c.uid in storage_classes()])
    return Section(
        title="Content and transfer",
        body=(
            paragraph(
                "Every storage SOP class is received, kept until it is delivered, and sent; the node displays and "
                "archives nothing. Images of the SOP classes in this table can be enhanced. A route of the settings "
                "decides whether they are, by its `sop_classes`; the last column names the routes of these settings "
                'that do. Enhancing processes the image and creates an instance of the same SOP class: "S" means a '
                "Standard SOP Class, or Standard Extended where the source is, whose additional attributes are kept."
            ),
            table(
                "SOP classes that can be enhanced",
                ("SOP class", "UID", "SCU", "SCP", "Create", "Process", "In `sop_classes`", "Default", "Routes"),
                map(_enhanced_row, enhanced_classes(settings)),
            ),
            bullets(
                (
                    f"{others} more storage SOP classes that DICOM defines are received and passed through "
                    f"({see('Storage SOP classes')}).",
                    "SOP classes that DICOM does not define, private ones among them, are taken for storage SOP "
                    "classes, received and passed through.",
                    "Where a route asks for it, an Enhanced SR on each enhanced series is made and sent "
                    f"({see('Structured Report content')}).",
                    "Which transfer syntax set applies: the following, for every storage SOP class.",
                )
            ),
            table(
                "Transfer syntaxes",
                ("Transfer syntax", "UID", "Received", "Sent as it is", "Sent uncompressed", "Enhanced", "Derived as"),
                map(_syntax_row, syntax_supports()),
            ),
            bullets(
                (
                    "Images with several samples per pixel, or of more than 16 bits allocated, are passed through. "
                    "Whether a codec reads an image is found out image by image; one that none reads is "
                    "passed through.",
                )
            ),
            paragraph(
                '"Sent uncompressed" is what happens to pixel data where a destination refuses the transfer syntax; '
                '"Derived as" is the transfer syntax of the enhanced image '
                f"({see('Transfer syntaxes of derived objects')})."
            ),
        ),
    )


def _enhanced_row(entry: EnhancedClass) -> tuple[str, ...]:
    create, process = ("S", "yes") if entry.is_supported else ("-", "no")
    default = "yes" if entry.by_default else "no"
    name, uid = name_of(entry.uid), code(entry.uid)
    return name, uid, "yes", "yes", create, process, code(entry.setting), default, codes(entry.routes)


def _syntax_row(entry: SyntaxSupport) -> tuple[str, ...]:
    decoded = "yes" if entry.decodable else "no"
    derived = syntax_name(entry.derived) if entry.decodable else "none"
    return entry.name, code(entry.uid), "yes", "yes", decoded, decoded, derived


def _services() -> str:
    rows = (
        (
            service.name,
            service.abstract_syntax if service.abstract_syntax == ANY_STORAGE else code(UID(service.abstract_syntax)),
            service.as_scu or "no",
            "yes" if service.is_provided else "no",
            service.note or "-",
        )
        for service in SERVICES
    )
    return table("DIMSE services", ("Service", "Abstract syntax", "SCU", "SCP", "Note"), rows)


def _web_services() -> tuple[str, ...]:
    rows = (
        ("Studies: Store (STOW-RS)", "yes", "no", "To destinations of kind dicomweb."),
        ("Studies: Search (QIDO-RS)", "yes", "no", "By `dicom-node doctor`, and where a success names no instance."),
        ("Studies: Retrieve (WADO-RS)", "no", "no", "-"),
        ("Worklist (UPS-RS), Non-Patient Instances", "no", "no", "-"),
    )
    refused = ", ".join(sorted(syntax_name(uid) for uid in NOT_IN_WEB_SERVICES))
    return (
        table("DICOM Web Services", ("Service", "User agent", "Origin server", "Note"), rows),
        bullets(
            (
                'Store: POST to /studies with multipart/related; type="application/dicom", with Content-Length and '
                "never in chunks; responses in application/dicom+json, or application/dicom+xml.",
                "An object goes in its own transfer syntax, or compressed as its destination's settings say; from "
                f"{refused} it is transcoded to Explicit VR Little Endian, and where the server refuses its transfer "
                "syntax too (Failure Reason C122 or another Cxxx; 400, 409, 415, 422 or 500 for this object alone).",
                "An instance is sent when the response lists it in Referenced SOP Sequence, with or without Warning "
                "Reason. One in Failed SOP Sequence is treated as C-STORE treats the same status. One in neither is "
                "not stored, and is sent again.",
                "HTTP over TLS 1.2 or later, with the server's certificate verified unless `verify` is false; "
                "authentication by bearer token, OAuth 2.0 client credentials, user and password, or client "
                "certificate. Redirects are not followed.",
                "DICOMweb has no Storage Commitment: what was sent rests on the response alone.",
            )
        ),
    )
