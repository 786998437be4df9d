"""Says in plain sentences why a DICOM peer did not take something, and who has to do what about it; pure."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass

from pydicom.uid import UID

from dicom_node.destinations.base import find_status
from dicom_node.errors import (
    AssociationAborted,
    AssociationRejectedPermanent,
    AssociationRejectedTransient,
    ConnectionFailed,
    ContextRejected,
    DeliveryError,
    NetworkTimeout,
    TlsFailed,
)
from dicom_node.tls import explain_tls


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Whom we call and as whom, as far as sentences need it; `name` is the destination's in the settings, if any."""

    ae_title: str
    host: str
    port: int
    calling_ae_title: str
    name: str = ""

    @property
    def address(self) -> str:
        """Host and port, with an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return (
            f"{self.name!r} ({self.ae_title} at {self.address})" if self.name else f"{self.ae_title} at {self.address}"
        )


REJECTIONS: dict[tuple[int, int], str] = {
    (1, 1): "it gives no reason; its log should",
    (1, 2): "it does not know the DICOM application context; this is hardly a DICOM port",
    (1, 3): "calling AE title {calling} not recognised there; ask its administrator to add AE title {calling} "
    "with the address of this machine",
    (1, 7): "called AE title {called} not recognised there; correct the AE title that we call, or ask its "
    "administrator what it is",
    (2, 1): "it gives no reason; its log should",
    (2, 2): "it does not support this version of the DICOM protocol",
    (3, 1): "it is busy at the moment",
    (3, 2): "it has as many associations open as it allows",
}
"""(source, reason) of A-ASSOCIATE-RJ (PS3.8 Table 9-21) -> what it means here and what to do."""


def explain_rejection(peer: Peer, *, result: int, source: int, reason: int) -> str:
    """Return the sentence for an A-ASSOCIATE-RJ with these three numbers."""
    text = REJECTIONS.get((source, reason), "for a reason that DICOM does not name")
    text = text.format(calling=peer.calling_ae_title, called=peer.ae_title)
    for_now = " for now" if result == 2 else ""
    return f"{peer} refused the association{for_now}: {text} (result {result}, source {source}, reason {reason})"


def explain_connection(peer: Peer, cause: BaseException | None) -> str:
    """Return the sentence for a TCP connection that could not be opened; `cause` is the system's error."""
    match cause:
        case socket.gaierror():
            return f"{peer} not reached: host name {peer.host} is not known; correct it or ask for a DNS entry"
        case ConnectionRefusedError():
            return (
                f"{peer} not reached: nothing listens on port {peer.port} there; is it running, and is the port right?"
            )
        case TimeoutError():
            return (
                f"{peer} not reached: {peer.host} does not answer on port {peer.port}; is it up, is a firewall between?"
            )
        case OSError(errno=errno.EHOSTUNREACH | errno.ENETUNREACH):
            return f"{peer} not reached: there is no route to {peer.host}; check its address and the network"
        case OSError():
            return f"{peer} not reached: {cause.strerror or cause}"
        case _:
            return f"{peer} not reached: no TCP connection"


def explain_failure(peer: Peer, error: DeliveryError) -> str:
    """Return the sentence for an association that was not opened, or was lost."""
    match error:
        case AssociationRejectedPermanent() | AssociationRejectedTransient():
            return explain_rejection(peer, result=error.result, source=error.source, reason=error.reason)
        case TlsFailed():
            return f"{peer}: no TLS: {explain_tls(error.__cause__)}"
        case ConnectionFailed():
            return explain_connection(peer, error.__cause__)
        case NetworkTimeout():
            return f"{peer} did not answer in time: {_detail(peer, error)}"
        case AssociationAborted():
            return f"{peer}: the association was lost: {_detail(peer, error)}"
        case ContextRejected():
            return f"{peer} takes none of the SOP classes and transfer syntaxes that were proposed"
        case _:
            return f"{peer}: {_detail(peer, error)}"


def _detail(peer: Peer, error: DeliveryError) -> str:
    # The cause is what happened on the wire; the error around it repeats whom we talked to.
    text = str(error.__cause__ or error)
    return text.removeprefix(f"{peer.ae_title} at {peer.host}:{peer.port}").lstrip(": ")


def explain_status(peer: Peer, status: int, comment: str = "") -> str:
    """Return the sentence for a C-STORE status; empty for Success.

    Parameters
    ----------
    comment
        Error Comment (0000,0902). It is a text of the peer's, and often quotes the attribute that it does not like, so
        it is given for people at a terminal alone, and never for what is logged or stored.
    """
    if status == 0x0000:
        return ""
    said = f": {comment.strip()}" if comment.strip() else ""
    return f"{peer} answered {status:04X} ({find_status(status).meaning}){said}"


def explain_context(peer: Peer, sop_class_uid: str, transfer_syntax_uid: str, *, class_accepted: bool) -> str:
    """Return the sentence for an object for which no presentation context was accepted.

    Parameters
    ----------
    class_accepted
        Whether the SOP class was accepted in some other transfer syntax that this object can't be sent in.
    """
    sop_class, syntax = name_uid(sop_class_uid), name_uid(transfer_syntax_uid)
    if class_accepted:
        return (
            f"{peer} takes {sop_class} neither in {syntax} nor uncompressed; ask its administrator to allow one of them"
        )
    return f"{peer} does not take {sop_class}; ask its administrator to allow this SOP class, or route it elsewhere"


def name_uid(uid: str) -> str:
    """Return the name of a UID with the UID itself, or the UID alone if the standard does not name it."""
    name = UID(uid).name
    return uid if name == uid else f"{name} ({uid})"
