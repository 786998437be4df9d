"""Chapter 5: what the application entities do within each service."""

from __future__ import annotations

from config.settings import Settings
from dicom_node.conformance.commitment import commitment_service
from dicom_node.conformance.implementation import RECEIVER_AE, SENDER_AE
from dicom_node.conformance.markdown import Section, bullets, code, codes, facts, paragraph, see, table
from dicom_node.conformance.transfer_syntaxes import SyntaxSupport, syntax_name, syntax_supports
from dicom_node.destinations.syntaxes import COMPRESSIONS, FALLBACK_SYNTAXES


def services(settings: Settings) -> Section:
    """Return the chapter."""
    return Section(
        title="Service and interoperability description",
        parts=(
            Section(
                title="Mapping of services to application entities",
                body=(
                    table(
                        "Services of each application entity",
                        ("Service", "SCU", "SCP"),
                        (
                            ("Verification", f"{SENDER_AE}", RECEIVER_AE),
                            ("Storage", SENDER_AE, RECEIVER_AE),
                            (
                                "Storage Commitment",
                                f"{SENDER_AE}; reports: {RECEIVER_AE}",
                                f"{RECEIVER_AE}; reports: {SENDER_AE}",
                            ),
                        ),
                    ),
                ),
            ),
            Section(
                title="Verification service",
                body=(
                    paragraph(
                        f"The {RECEIVER_AE} answers C-ECHO on every association, also between the objects that are "
                        f"stored on it. The {SENDER_AE} sends C-ECHO when `dicom-node doctor` is run."
                    ),
                ),
            ),
            Section(title="Storage service", parts=(_as_scu(), _as_scp(settings))),
            commitment_service(settings),
            Section(title="Specific Character Sets", body=(_character_sets(),)),
        ),
    )


def _as_scu() -> Section:
    fallbacks = " and ".join(syntax_name(syntax) for syntax in FALLBACK_SYNTAXES)
    compressed = " or ".join(syntax_name(syntax) for syntax in COMPRESSIONS.values())
    return Section(
        title="SCU of the storage SOP classes",
        body=(
            bullets(
                (
                    "Objects are sent when the series is complete and enhanced or passed through; nobody has to start "
                    "it.",
                    "A series goes out on one association, unless the association is lost or its objects need more "
                    "presentation contexts than one association has.",
                    "An object goes out in its own transfer syntax, byte for byte as it lies on the disk, wherever the "
                    f"destination accepts that. Otherwise it is sent in {fallbacks}, whichever is accepted first in "
                    "this order. SOP Instance UID and all values stay the same, and what the attributes say of an "
                    "earlier lossy compression stays too.",
                    "Where `compress` of a destination says so, an uncompressed derived object is offered in "
                    f"{compressed} first, with `compress_originals` an original too: each frame is decoded again and "
                    "compared before it goes. Where the destination refuses that, a codec can't hold the pixels "
                    "exactly, it takes too long, or an association was lost over the object, it goes as above.",
                    "Nothing is sent with loss that came without.",
                )
            ),
            table(
                "Transcoding for a destination that refuses the transfer syntax of an object",
                (
                    "Transfer syntax of the object",
                    *(f"To {syntax_name(syntax)}" for syntax in FALLBACK_SYNTAXES),
                    "Codecs",
                ),
                map(_transcoding_row, syntax_supports()),
            ),
            paragraph(
                "SUPPORTED: possible, with the same SOP Instance UID. NOT_SUPPORTED: the object is refused as a dead "
                "letter. Codecs are tried in the order given; an object whose pixel data none of them reads, or "
                "whose pixel data would exceed 4 GiB uncompressed, is a dead letter too."
            ),
        ),
    )


def _transcoding_row(entry: SyntaxSupport) -> tuple[str, ...]:
    cells = (_transcoded(entry, syntax) for syntax in FALLBACK_SYNTAXES)
    return entry.name, *cells, codes(entry.codecs) if entry.codecs else "-"


def _transcoded(entry: SyntaxSupport, syntax: str) -> str:
    if entry.uid == syntax:
        return "as it is"
    return "SUPPORTED" if entry.decodable else "NOT_SUPPORTED"


def _as_scp(settings: Settings) -> Section:
    receiver, keep_h = settings.receiver, settings.retention.keep_h
    return Section(
        title="SCP of the storage SOP classes",
        body=(
            facts(
                "Conformance of the Storage SCP",
                {
                    "Level of conformance (PS3.4 B.4.1)": "2 (full): all attributes are kept, private ones too",
                    "Level of digital signature support": "3 (bit-preserving, signatures are not verified), as long as "
                    "an object goes on in the transfer syntax that it came in",
                    "Coercion of attributes": "none",
                    "Limits of what an object may hold": f"its data set has at most {receiver.max_object_mb} MB",
                    "Duration of storage": "until every destination of the route has the object, and has committed to "
                    f"it where it is asked to, then {keep_h:g} hours",
                    "Access to what is stored": "none: there is no query and no retrieval",
                },
            ),
            bullets(
                (
                    "Success means that the object will not be lost by a crash or a power cut of the node.",
                    "An object that comes again with the same bytes is acknowledged and kept once. One that comes with "
                    "the same SOP Instance UID and other content is kept beside the first, and processed as its "
                    "revision.",
                    "A data set with a Study or a Series Instance UID missing can't be routed and is refused.",
                    f"What each status means is in {see('Status codes of the Storage SCP')}.",
                )
            ),
            paragraph(
                "A signature does not survive decoding: where a destination refuses a compressed transfer syntax, the "
                "pixel data that it gets is no longer what was signed. Derived objects carry no signature of their "
                "source."
            ),
        ),
    )


def _character_sets() -> str:
    return paragraph(
        "Text is neither converted nor checked: received objects are forwarded with the bytes that they came with, and "
        f"derived objects keep Specific Character Set {code('(0008,0005)')} and the bytes of every text that they take "
        "over. What the node writes itself is ASCII, which every character set holds. A derived Series Description or "
        "Derivation Description repeats text of the source only where the data set's own character sets can express "
        "it exactly; otherwise the node's own text stands alone. Conditions of routes compare decoded text."
    )
