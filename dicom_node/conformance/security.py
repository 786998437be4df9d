"""Chapter 8: what protects the node and what does not."""

from __future__ import annotations

from collections.abc import Iterator

from config.settings import DicomDestinationSettings, DicomwebDestinationSettings, Settings
from dicom_node.conformance.markdown import Section, bullets, code, paragraph, table
from dicom_node.destinations.web_explanations import web_peer
from dicom_node.tls import CIPHERS


def security(settings: Settings) -> Section:
    """Return the chapter."""
    return Section(
        title="Security",
        parts=(
            Section(
                title="Transport security",
                body=(
                    paragraph(
                        "As acceptor and as initiator the node supports the BCP 195 RFC 8996, 9325 TLS Secure "
                        "Transport Connection Profile (PS3.15 B.12). In these settings "
                        + _in_these_settings(settings)
                        + " Where TLS is not used, objects, and with them the identity of patients, cross the network "
                        "in the clear."
                    ),
                    bullets(
                        (
                            "Versions: TLS 1.2 and 1.3; 1.3 alone where `min_version` says so.",
                            "Cipher suites of TLS 1.2, by OpenSSL's names: "
                            + ", ".join(code(suite) for suite in CIPHERS)
                            + ". Of TLS 1.3: all that OpenSSL has on by default.",
                            "Certificates: X.509 in PEM files; keys of RSA from 2048 bits, and of elliptic curves.",
                            "Revocation: by lists (CRL, RFC 5280) in PEM files, of the peer and of each authority "
                            "above it or of the peer alone, where `crl` names a file. A list that is overdue or "
                            "missing refuses every peer of its authority. Delta and indirect lists are not used; no "
                            "OCSP.",
                            "As acceptor it asks for a certificate of the peer unless `client_certificates` says "
                            "otherwise, and takes those of the authorities in `ca` alone. A source can be bound to "
                            "certificates.",
                            "As initiator it verifies the peer's certificate and its name, and shows its own where it "
                            "has one. It never falls back to a connection without TLS.",
                            "Storage Commitment: requests and reports go over TLS in both directions, on the "
                            "association of the request and on new ones. Reports of a destination can be taken over "
                            "TLS alone (`report_tls`), and of certain certificates alone (`report_certificates`).",
                            "No renegotiation, no compression, no session tickets.",
                        )
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
                            "network. A source with `certificates` is known by its key.",
                            "A source can have limits of its own: associations at once, and objects a minute.",
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
                            ("BCP 195 RFC 8996, 9325 TLS Secure Transport Connection Profile", "yes: B.12"),
                            ("Other Secure Transport Connection Profiles", "no"),
                            ("Digital Signature Profiles", "no: signatures are neither made nor verified"),
                            ("Media Storage Security Profiles", "no"),
                            ("Attribute Confidentiality Profiles", "no"),
                            ("Network Address Management Profiles", "no"),
                            ("Time Synchronization Profiles", "no: the clock is the operating system's"),
                            ("Application Configuration Management Profiles", "no"),
                            ("Audit Trail Message Format and Transmission (A.5, A.6, A.7)", _audit(settings)),
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
                            "Logs and ledger hold UIDs and AE titles, no attributes of a patient and no pixels. "
                            "An Error Comment of a peer is not kept, as it may quote an attribute.",
                            "Every change of state is recorded in the ledger with its time and reason. The record is "
                            "not "
                            "an audit trail in the sense of PS3.15; for that there is `[audit]`.",
                        )
                    ),
                ),
            ),
        ),
    )


def _connections(settings: Settings) -> Iterator[tuple[str, ...]]:
    node = settings.node
    here = f"this node, address {code(node.bind)}"
    asks = any(source.commitment is not None for source in settings.sources)
    served = "Verification, Storage, requests for Storage Commitment" if asks else "Verification, Storage"
    reporters = [entry.name for entry in settings.dicom_destinations if entry.commitment is not None]
    ports = [] if settings.tls.only else [(node.port, "")]
    ports += [(settings.tls.port, ", over TLS")] if settings.tls.enabled else []
    for port, over in ports:
        yield "sources", here, code(port), f"{served}{over}"
        for name in reporters:
            if over or not _requires_tls(settings, name):
                yield f"destination {code(name)}", here, code(port), f"reports of Storage Commitment{over}"
    for entry in settings.destinations:
        if isinstance(entry, DicomwebDestinationSettings):
            services = "STOW-RS; QIDO-RS by doctor and where a response is unclear"
            yield "this node", f"destination {code(entry.name)}", code(web_peer(entry.name, entry.url).port), services
            continue
        over = ", over TLS" if entry.tls.enabled else ""
        yield "this node", f"destination {code(entry.name)}", code(entry.port), f"Storage, Verification by doctor{over}"
        if (asked := entry.commitment) is not None:
            tls = entry.tls if asked.tls is None else asked.tls
            over = ", over TLS" if tls.enabled else ""
            to = f"destination {code(entry.name)}"
            yield "this node", to, code(asked.port or entry.port), f"requests for Storage Commitment{over}"
    for source in settings.sources:
        if source.commitment is not None and source.commitment.port is not None:
            over = ", over TLS" if source.commitment.tls.enabled else ""
            to = f"source {code(source.name)}"
            yield "this node", to, code(source.commitment.port), f"reports of Storage Commitment{over}"
    if settings.metrics.port:
        here = f"this node, address {code(settings.metrics.bind)}"
        yield "monitoring", here, code(settings.metrics.port), "HTTP: metrics and health"
    if settings.audit.enabled and settings.audit.host:
        yield "this node", "the audit record repository", code(settings.audit.port), "audit messages by syslog"


def _requires_tls(settings: Settings, name: str) -> bool:
    return any(
        entry.name == name
        and entry.commitment is not None
        and (entry.commitment.report_tls == "required" or bool(entry.commitment.report_certificates))
        for entry in settings.dicom_destinations
    )


def _audit(settings: Settings) -> str:
    audit = settings.audit
    if not audit.enabled:
        return "yes, and off in these settings (`[audit]`)"
    where = {"tls": "syslog over TLS (RFC 5425)", "udp": "syslog over UDP (RFC 5426)"}[audit.transport]
    patients = "with Patient ID" if audit.patients else "without Patient ID, which the messages' tables ask for"
    return f"yes: {where if audit.host else 'a local file alone'}, {patients}"


def _in_these_settings(settings: Settings) -> str:
    node, tls = settings.node, settings.tls
    if not tls.enabled:
        acceptor = f"it listens without TLS alone, on port {code(node.port)};"
    elif tls.only:
        acceptor = f"it listens for TLS alone, on port {code(tls.port)};"
    else:
        acceptor = f"it listens without TLS on port {code(node.port)} and for TLS on port {code(tls.port)};"
    secured = [
        entry.name
        for entry in settings.destinations
        if isinstance(entry, DicomDestinationSettings) and entry.tls.enabled
    ]
    named = ", ".join(code(name) for name in secured)
    return f"{acceptor} destinations that are called over TLS: {named or 'none'}."
