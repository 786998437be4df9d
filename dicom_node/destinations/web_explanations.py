"""Says in plain sentences why a DICOMweb server did not take something, and who has to do what about it; pure.

Texts of the server are never quoted: they may name a patient, and these sentences are logged and stored.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

import httpx

from dicom_node.destinations.base import find_status
from dicom_node.destinations.explanations import Peer, explain_connection

MAX_RETRY_AFTER_S: Final = 3600.0
"""Longest wait that a server can impose on us by Retry-After, in seconds."""


@dataclass(frozen=True, kw_only=True)
class WebPeer(Peer):
    """A DICOMweb service, as far as sentences need it."""

    ae_title: str = ""
    calling_ae_title: str = ""
    url: str

    def __str__(self) -> str:
        return f"{self.name!r} ({self.url})" if self.name else self.url


def web_peer(name: str, url: str) -> WebPeer:
    """Return the peer at the base URL of a service."""
    parts = urlsplit(url)
    return WebPeer(
        name=name,
        url=url,
        host=parts.hostname or "",
        port=parts.port or (443 if parts.scheme == "https" else 80),
    )


HTTP_STATUSES: Final[Mapping[int, str]] = {
    400: "it calls the request malformed",
    401: "it does not accept who we are; correct the token, the password or the OAuth settings of this destination",
    403: "it knows us but does not let us store; ask its administrator for the right to store",
    404: "there is no Store transaction at this address; correct url, which ends before /studies",
    405: "this address takes no POST; correct url, which ends before /studies",
    406: "it can write none of the forms of response that we read, DICOM JSON and DICOM XML",
    407: "a proxy asks for a login; the node uses none, so let it through",
    408: "the request took too long for it; set max_request_mb lower",
    409: "it stored none of the objects, and did not say why",
    411: "it did not see the length of the request; a proxy between must pass Content-Length on",
    413: "the object is larger than it takes in one request; ask its administrator to raise the limit",
    415: "it does not take the media type or the transfer syntax",
    422: "it can't process the objects",
    429: "it asks for fewer requests",
    500: "it failed inside; its log should say why",
    501: "it does not offer the Store transaction (STOW-RS)",
    502: "the gateway before it got no proper answer from it",
    503: "it is not available at the moment",
    504: "the gateway before it got no answer in time",
    507: "it has no room left",
}
"""What a status of HTTP (RFC 9110, PS3.18 8.5 and 10.5.3) means here, and what to do."""


def explain_http(peer: WebPeer, status: int, headers: Mapping[str, str]) -> str:
    """Return the sentence for a status that tells of the whole request."""
    return f"{peer} answered HTTP {status}{_phrase(status)}: {_meaning(peer, status, headers)}"


def _phrase(status: int) -> str:
    try:
        return f" {HTTPStatus(status).phrase}"
    except ValueError:
        return ""


def _meaning(peer: WebPeer, status: int, headers: Mapping[str, str]) -> str:
    if 300 <= status < 400:
        place = urlsplit(headers.get("location", ""))
        if not place.hostname:
            return "it points elsewhere; correct url"
        if place.hostname != peer.host:
            return f"it points to the host {place.hostname}, to which nothing is sent unasked; correct url"
        if place.scheme == "https" and peer.url.startswith("http:"):
            return "it wants TLS; write https in url"
        return "it points to another address of its own; correct url"
    if status < 300:
        return "its response says nothing of the objects"
    wait_s = retry_after_s(headers, datetime.now(UTC))
    wait = f"; it wants to be left alone for {wait_s:.0f} s" if wait_s else ""
    return HTTP_STATUSES.get(status, "a status that STOW-RS does not know") + wait


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float:
    """Return the seconds that Retry-After (RFC 9110 10.2.3) names, up to `MAX_RETRY_AFTER_S`; 0 where it is absent."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        wait_s = float(text[:9])
    else:
        try:
            until = parsedate_to_datetime(text)
        except (ValueError, TypeError, IndexError, OverflowError):
            return 0.0
        wait_s = (until.replace(tzinfo=until.tzinfo or UTC) - now).total_seconds()
    return min(max(0.0, wait_s), MAX_RETRY_AFTER_S)


def explain_reason(peer: WebPeer, reason: int | None) -> str:
    """Return the sentence for a Failure Reason or a Warning Reason; empty for no warning."""
    if reason is None:
        return f"{peer} did not store it, and gives no reason"
    if reason == 0:
        return ""
    # PS3.18 Annex I gives C122 to STOW-RS alone; for C-STORE it is one of the Cxxx.
    meaning = "transfer syntax not supported" if reason == SYNTAX_REFUSED else find_status(reason).meaning
    return f"{peer} answered {reason:04X} ({meaning})"


SYNTAX_REFUSED: Final = 0xC122
"""Failure Reason: Referenced Transfer Syntax not supported (PS3.18 Annex I)."""


def explain_transport(peer: WebPeer, error: BaseException) -> str:
    """Return the sentence for a connection that was not made, or was lost."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLError):
            return f"{peer}: no TLS: {explain_tls(peer, cause)}"
    if isinstance(error, httpx.ConnectTimeout):
        return explain_connection(peer, TimeoutError())
    if isinstance(error, httpx.ConnectError):
        system = next((c for c in causes if isinstance(c, OSError)), None)
        return explain_connection(peer, system)
    if isinstance(error, httpx.TimeoutException):
        slow = "took no more of the request" if isinstance(error, httpx.WriteTimeout) else "gave no response in time"
        return f"{peer} {slow}; whether it stored anything is not known"
    return f"{peer}: the connection was lost before the whole response came ({type(error).__name__})"


def is_before_the_request(error: BaseException) -> bool:
    """Tell whether the error came so early that the server can't have stored anything."""
    early = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)
    # A server that wants a certificate says so after the handshake of TLS 1.3, and reads no request before.
    refused = any(isinstance(c, ssl.SSLError) and _alert(c) in _ALERTS for c in _causes(error))
    return isinstance(error, early) or refused


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


_CERTIFICATE_FAULTS: Final[Mapping[int, str]] = {
    3: "crl_file has no revocation list of its authority, or of one above; add it",
    8: "the revocation list of its authority in crl_file is not signed by that authority; get it anew",
    11: "the revocation list of its authority in crl_file is not valid yet; is the clock of this machine right?",
    12: "the revocation list of its authority in crl_file is overdue; put the next one there",
    9: "its certificate is not valid yet; is the clock of this machine right?",
    10: "its certificate has expired; its administrator has to renew it",
    18: "its certificate is signed by itself; put it into a file and name that as ca_file",
    19: "the authority of its certificate is not trusted here; name the certificate of that authority as ca_file",
    20: "the authority of its certificate is not known here; name the certificate of that authority as ca_file",
    21: "the authority of its certificate is not known here; name the certificate of that authority as ca_file",
    23: "its certificate was revoked",
    62: "its certificate is for another name; write in url the name that the certificate has",
    64: "its certificate is for another address; write in url the name or address that the certificate has",
}
"""X509_V_ERR_... of OpenSSL -> what it means here and what to do."""

_ALERTS: Final[Mapping[str, str]] = {
    "CERTIFICATE_REQUIRED": "it asks for a certificate of ours; set client_certificate and client_key",
    "HANDSHAKE_FAILURE": "it ended the handshake; it may ask for a client_certificate, or for ciphers that we lack",
    "UNKNOWN_CA": "it does not know the authority of our client_certificate; its administrator has to add it",
    "BAD_CERTIFICATE": "it does not take our client_certificate; its administrator has to admit it",
    "CERTIFICATE_EXPIRED": "our client_certificate has expired; renew it",
    "CERTIFICATE_REVOKED": "our client_certificate was revoked; get another",
    "CERTIFICATE_UNKNOWN": "it does not take our client_certificate; its administrator has to admit it",
    "ACCESS_DENIED": "it does not let the owner of our client_certificate in; its administrator has to admit it",
    "PROTOCOL_VERSION": "it speaks no TLS 1.2 or later; its administrator has to allow it",
}
"""Alerts of TLS (RFC 8446 6.2), as OpenSSL names them behind the version -> what they mean here and what to do."""


def explain_tls(peer: WebPeer, error: ssl.SSLError) -> str:
    """Return why TLS with the server failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        fault = _CERTIFICATE_FAULTS.get(error.verify_code, f"its certificate is not accepted: {error.verify_message}")
        return f"{fault} (host {peer.host})"
    if (alert := _alert(error)) in _ALERTS:
        return _ALERTS[alert]
    if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"):
        return f"port {peer.port} does not speak TLS; write http in url, or the port of TLS"
    if isinstance(error, ssl.SSLEOFError):
        return "the connection ended in the handshake"
    return (error.reason or "the handshake failed").replace("_", " ").lower()


def _alert(error: ssl.SSLError) -> str:
    return (error.reason or "").rpartition("ALERT_")[2]


def explain_name_or_connection(peer: WebPeer, error: OSError) -> str:
    """Return the sentence for a connection tried without HTTP."""
    if isinstance(error, ssl.SSLError):
        return f"{peer}: no TLS: {explain_tls(peer, error)}"
    return explain_connection(peer, TimeoutError() if isinstance(error, socket.timeout) else error)
