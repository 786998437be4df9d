"""Walks up to a DICOM peer step by step (name, TCP, association, presentation contexts, C-ECHO) and tells each step."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pydicom.uid import UID

from config.settings import PeerTlsSettings
from dicom_node.destinations.base import ProbeStep, StepState
from dicom_node.destinations.explanations import Peer, explain_connection, explain_failure
from dicom_node.errors import DeliveryError
from dicom_node.tls import TlsSocket, TlsUnusable, client_context, connect_tls, explain_tls
from dicom_node.upper_layer import VERIFICATION, ProposedContext, RequestedAssociation

PROBED_CLASSES: Mapping[str, str] = {
    "CR": "1.2.840.10008.5.1.4.1.1.1",
    "DX for presentation": "1.2.840.10008.5.1.4.1.1.1.1",
    "DX for processing": "1.2.840.10008.5.1.4.1.1.1.1.1",
    "MG for presentation": "1.2.840.10008.5.1.4.1.1.1.2",
    "MG for processing": "1.2.840.10008.5.1.4.1.1.1.2.1",
    "IO for presentation": "1.2.840.10008.5.1.4.1.1.1.3",
    "IO for processing": "1.2.840.10008.5.1.4.1.1.1.3.1",
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "enhanced CT": "1.2.840.10008.5.1.4.1.1.2.1",
    "XA": "1.2.840.10008.5.1.4.1.1.12.1",
    "enhanced XA": "1.2.840.10008.5.1.4.1.1.12.1.1",
    "RF": "1.2.840.10008.5.1.4.1.1.12.2",
    "enhanced XRF": "1.2.840.10008.5.1.4.1.1.12.2.1",
    "SC": "1.2.840.10008.5.1.4.1.1.7",
    "presentation state": "1.2.840.10008.5.1.4.1.1.11.1",
    "X-ray dose report": "1.2.840.10008.5.1.4.1.1.88.67",
    "quality report": "1.2.840.10008.5.1.4.1.1.88.22",
}
"""What comes out of an X-ray department; other classes are tried when they are sent."""

WITHOUT_PIXELS = ("presentation state", "X-ray dose report", "quality report")
"""Of the probed classes those that need no compression, and are proposed uncompressed alone."""

PROBED_SYNTAXES: Mapping[str, str] = {
    "explicit VR LE": "1.2.840.10008.1.2.1",
    "implicit VR LE": "1.2.840.10008.1.2",
    "RLE": "1.2.840.10008.1.2.5",
    "JPEG lossless": "1.2.840.10008.1.2.4.70",
    "JPEG-LS lossless": "1.2.840.10008.1.2.4.80",
    "JPEG 2000 lossless": "1.2.840.10008.1.2.4.90",
    "JPEG baseline": "1.2.840.10008.1.2.4.50",
    "JPEG 2000": "1.2.840.10008.1.2.4.91",
}
_SOON_DAYS = 30
"""Days before the end of a peer's certificate from which on doctor warns."""

UNCOMPRESSED = ("explicit VR LE", "implicit VR LE")

STEPS = ("name", "tcp", "tls", "association", "contexts", "compression", "echo")


OpenAssociation = Callable[[Sequence[ProposedContext]], RequestedAssociation]


def probe_peer(
    peer: Peer,
    *,
    open_association: OpenAssociation,
    connect_timeout_s: float,
    tls: PeerTlsSettings | None = None,
    sop_classes: Mapping[str, str] = PROBED_CLASSES,
    compression: str | None = None,
    clock: Callable[[], float] = time.time,
) -> list[ProbeStep]:
    """Return the steps up to a peer; those after a failed one are there, as skipped.

    Parameters
    ----------
    peer
        Whom we call and as whom.
    open_association
        Opens an association with that peer for the contexts it is given; raises `DeliveryError`.
    connect_timeout_s
        Longest wait for the TCP connection, in seconds, and for the TLS handshake.
    tls
        How TLS is spoken with that peer; None for not at all.
    sop_classes
        Short name -> SOP class whose acceptance is of interest; `probed_contexts` must fit on one association.
    compression
        Transfer syntax, one of `PROBED_SYNTAXES`, that images are to be compressed in for this peer; None for none.
    clock
        Seconds since the epoch, for how long certificates still hold.
    """
    walk = StepWalk()
    if (
        walk.step("name", lambda: resolve_peer(peer))
        and walk.step("tcp", lambda: connect_peer(peer, connect_timeout_s))
        and (tls is None or walk.step("tls", lambda: secure_peer(peer, tls, connect_timeout_s, clock)))
    ):
        walk.step("association", lambda: _negotiate(peer, open_association, sop_classes, compression, walk))
    done = {step.name.split(":")[0] for step in walk.steps}
    absent = {name for name, wanted in (("compression", compression), ("tls", tls)) if wanted is None}
    skipped = [name for name in STEPS if name not in done and name not in absent]
    return walk.steps + [
        ProbeStep(name=name, state=StepState.SKIPPED, sentence="not tried, because an earlier step failed")
        for name in skipped
    ]


def probed_contexts(sop_classes: Mapping[str, str] = PROBED_CLASSES) -> list[ProposedContext]:
    """Return Verification, and each class once for each transfer syntax in which objects of it can come."""
    verification = ProposedContext(abstract_syntax=VERIFICATION, transfer_syntaxes=("1.2.840.10008.1.2",))
    return [verification] + [
        ProposedContext(abstract_syntax=sop_class, transfer_syntaxes=(PROBED_SYNTAXES[syntax],))
        for short_name, sop_class in sop_classes.items()
        for syntax in (UNCOMPRESSED if short_name in WITHOUT_PIXELS else PROBED_SYNTAXES)
    ]


@dataclass(frozen=True, kw_only=True)
class StepFinding:
    """How a step ended, and one sentence on it."""

    state: StepState
    sentence: str


class StepWalk:
    """The steps so far; each is timed, and stops the walk if it failed."""

    def __init__(self) -> None:
        self.steps: list[ProbeStep] = []

    def step(self, name: str, action: Callable[[], StepFinding]) -> bool:
        begin, place = time.perf_counter(), len(self.steps)
        finding = action()
        seconds = time.perf_counter() - begin
        # Steps that an action adds itself happened inside it and are told after it.
        self.steps.insert(place, ProbeStep(name=name, state=finding.state, sentence=finding.sentence, seconds=seconds))
        return finding.state is not StepState.FAILED


def _ok(sentence: str) -> StepFinding:
    return StepFinding(state=StepState.OK, sentence=sentence)


def _failed(sentence: str) -> StepFinding:
    return StepFinding(state=StepState.FAILED, sentence=sentence)


def resolve_peer(peer: Peer) -> StepFinding:
    """Look up the name of the host."""
    try:
        ipaddress.ip_address(peer.host)
    except ValueError:
        pass
    else:
        return _ok(f"{peer.host} is an address, no name to look up")
    try:
        found = socket.getaddrinfo(peer.host, peer.port, type=socket.SOCK_STREAM)
    except OSError as error:
        return _failed(explain_connection(peer, error))
    return _ok(f"{peer.host} is {', '.join(sorted({str(entry[4][0]) for entry in found}))}")


def connect_peer(peer: Peer, timeout_s: float) -> StepFinding:
    """Open a TCP connection, and close it."""
    try:
        socket.create_connection((peer.host, peer.port), timeout=timeout_s).close()
    except OSError as error:
        return _failed(explain_connection(peer, error))
    return _ok(f"{peer.address} accepts connections")


def secure_peer(
    peer: Peer, tls: PeerTlsSettings, timeout_s: float, clock: Callable[[], float] = time.time
) -> StepFinding:
    """Do a TLS handshake as a delivery does; where it fails, look at what the peer shows all the same."""
    now = clock()
    try:
        context = client_context(tls)
        with _shake(peer, tls, context, timeout_s) as connection:
            shown = connection.certificate
            version, cipher = connection.version(), (connection.cipher() or ("unknown",))[0]
    except (OSError, TlsUnusable, ValueError) as error:
        said = f"{peer}: no TLS: {explain_tls(error)}"
        if isinstance(error, ssl.SSLCertVerificationError):
            said += _what_it_shows(peer, tls, timeout_s, now)
        return _failed(said)
    assert shown is not None
    sentence = (
        f"{version} with {cipher}; its certificate, of {shown.subject} by {shown.issuer}, is {shown.validity(now)}"
    )
    state = StepState.WARNING if shown.days_left(now) < _SOON_DAYS else StepState.OK
    return StepFinding(state=state, sentence=sentence)


def _what_it_shows(peer: Peer, tls: PeerTlsSettings, timeout_s: float, now: float) -> str:
    context = client_context(tls)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with _shake(peer, tls, context, timeout_s) as connection:
            shown = connection.certificate
    except OSError:
        return ""
    if shown is None:
        return ""
    names = ", ".join(shown.names) or "nobody"
    return (
        f". It shows a certificate for {names}, of {shown.subject} by {shown.issuer}, {shown.validity(now)}, with "
        f"SHA-256 fingerprint {shown.fingerprint}"
    )


def _shake(peer: Peer, tls: PeerTlsSettings, context: ssl.SSLContext, timeout_s: float) -> TlsSocket:
    sock = socket.create_connection((peer.host, peer.port), timeout=timeout_s)
    try:
        return connect_tls(sock, context, tls.server_name or peer.host, timeout_s)
    except BaseException:
        sock.close()
        raise


def _negotiate(
    peer: Peer,
    open_association: OpenAssociation,
    sop_classes: Mapping[str, str],
    compression: str | None,
    walk: StepWalk,
) -> StepFinding:
    """Open the association, and add the steps that need it open."""
    try:
        association = open_association(probed_contexts(sop_classes))
    except DeliveryError as error:
        return _failed(explain_failure(peer, error))
    try:
        with association:
            walk.steps += _judge_contexts(peer, association, sop_classes)
            if compression is not None:
                walk.steps.append(_judge_compression(association, sop_classes, compression))
            walk.step("echo", lambda: _echo(peer, association))
    except DeliveryError as error:
        return StepFinding(state=StepState.WARNING, sentence=f"accepted, but not ended properly: {error}")
    return _ok(f"accepted: {peer.calling_ae_title} calls {peer.ae_title}")


def _judge_contexts(peer: Peer, association: RequestedAssociation, sop_classes: Mapping[str, str]) -> list[ProbeStep]:
    """Return one step for each class, or a single failed one if none at all is taken."""
    accepted = {(str(c.abstract_syntax), str(c.transfer_syntax)) for c in association.accepted.values()}
    steps = []
    for short_name, sop_class in sop_classes.items():
        taken = [name for name, syntax in PROBED_SYNTAXES.items() if (sop_class, syntax) in accepted]
        if not taken:
            state, sentence = StepState.WARNING, f"{UID(sop_class).name} is not taken; objects of it would be refused"
        elif not any(name in UNCOMPRESSED for name in taken):
            state, sentence = (
                StepState.WARNING,
                f"taken only in {', '.join(taken)}; uncompressed objects would be refused",
            )
        else:
            state, sentence = StepState.OK, f"taken in {', '.join(taken)}"
        steps.append(ProbeStep(name=f"contexts: {short_name}", state=state, sentence=sentence))
    if sop_classes and not any(sop_class in {a for a, _ in accepted} for sop_class in sop_classes.values()):
        sentence = f"{peer} takes none of the X-ray SOP classes; is it a storage SCP?"
        return [ProbeStep(name="contexts", state=StepState.FAILED, sentence=sentence)]
    return steps


def _judge_compression(
    association: RequestedAssociation, sop_classes: Mapping[str, str], compression: str
) -> ProbeStep:
    """Tell of which image classes, among those that are taken at all, the peer takes the chosen compression."""
    accepted = {(str(c.abstract_syntax), str(c.transfer_syntax)) for c in association.accepted.values()}
    taken_at_all = {abstract_syntax for abstract_syntax, _ in accepted}
    images = {
        short_name: sop_class
        for short_name, sop_class in sop_classes.items()
        if short_name not in WITHOUT_PIXELS and sop_class in taken_at_all
    }
    refused = [short_name for short_name, sop_class in images.items() if (sop_class, compression) not in accepted]
    chosen = next(name for name, syntax in PROBED_SYNTAXES.items() if syntax == compression)
    if not refused:
        return ProbeStep(
            name="compression", state=StepState.OK, sentence=f"images are taken in {chosen}, as compress asks"
        )
    which = "all images" if len(refused) == len(images) else ", ".join(refused)
    sentence = f"{chosen} is refused for {which}, which go as they are; choose another compress, or enter it there"
    return ProbeStep(name="compression", state=StepState.WARNING, sentence=sentence)


def _echo(peer: Peer, association: RequestedAssociation) -> StepFinding:
    if not any(context.abstract_syntax == VERIFICATION for context in association.accepted.values()):
        return StepFinding(
            state=StepState.WARNING, sentence=f"{peer} does not offer Verification, so C-ECHO was not tried"
        )
    try:
        status = association.echo()
    except DeliveryError as error:
        return _failed(explain_failure(peer, error))
    return _ok("answered 0000") if status == 0x0000 else _failed(f"{peer} answered C-ECHO with {status:04X}")
