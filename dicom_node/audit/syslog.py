"""Audit messages to a syslog server: RFC 5424 over UDP (RFC 5426) or TLS (RFC 5425), as PS3.15 A.6 and A.7 ask."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from config.observation import AuditSettings
from dicom_node.audit.chain import Entry

# Facility 10 (security and authorization), severity 5 (notice): RFC 5424 6.2.1, IHE ITI TF-2 3.20.
_PRIORITY: Final = 10 * 8 + 5
_MESSAGE_ID: Final = "DICOM+RFC3881"
_BOM: Final = b"\xef\xbb\xbf"
_TIMEOUT_S: Final = 10.0
_ALERT_S: Final = 0.5
MOST_UDP_BYTES: Final = 65_000


class NotSent(Exception):
    """The server did not take messages; the text says why. All of them are to be sent again."""


def frame(entry: Entry, *, host: str, process: str) -> bytes:
    """Return a message in the form of RFC 5424."""
    at = datetime.fromtimestamp(entry.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    # PRINTUSASCII without spaces (RFC 5424 6).
    name = "".join(c for c in host if "!" <= c <= "~")[:255] or "-"
    header = f"<{_PRIORITY}>1 {at} {name} dicom-node {process} {_MESSAGE_ID} - "
    declaration = '<?xml version="1.0" encoding="UTF-8"?>'
    return header.encode() + _BOM + (declaration + entry.message).encode()


def send(settings: AuditSettings, messages: Sequence[bytes]) -> None:
    """Send messages in their order; over TLS they are at the server when this returns.

    Syslog has no answers. So a TLS connection carries one batch, and ends in order: the server's own end of it says
    that it has read everything, where a reset or silence says that it may not have.

    Raises
    ------
    NotSent
        If the server is away, or may not have taken all of them.
    """
    try:
        if settings.transport == "udp":
            _send_udp(settings, messages)
        else:
            _send_tls(settings, messages)
    except ssl.SSLCertVerificationError as error:
        raise NotSent(f"its certificate is not accepted: {error.verify_message}") from error
    except ssl.SSLError as error:
        raise NotSent(f"TLS failed ({error.reason or type(error).__name__})") from error
    except OSError as error:
        raise NotSent(error.strerror or type(error).__name__) from error


def _send_udp(settings: AuditSettings, messages: Sequence[bytes]) -> None:
    kind, _, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(kind, socket.SOCK_DGRAM) as sock:
        # Connected, so that a port that nobody listens on is heard of.
        sock.connect(address)
        for message in messages:
            sock.send(message[:MOST_UDP_BYTES])


def _send_tls(settings: AuditSettings, messages: Sequence[bytes]) -> None:
    context = ssl.create_default_context(cafile=None if settings.ca_file is None else str(settings.ca_file))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.certificate is not None and settings.key is not None:
        context.load_cert_chain(settings.certificate, settings.key)
    with (
        socket.create_connection((settings.host, settings.port), timeout=_TIMEOUT_S) as plain,
        context.wrap_socket(plain, server_hostname=settings.host) as sock,
    ):
        for message in messages:
            sock.sendall(f"{len(message)} ".encode() + message)
        _end(sock)


def _end(sock: ssl.SSLSocket) -> None:
    """End the connection in order, and wait for the other side's end of it; OSError where that is none."""
    _heed_alerts(sock)
    plain: socket.socket
    try:
        plain = sock.unwrap()
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
        # Its end of the connection, without the notice that TLS has for it, as many do.
        return
    # OpenSSL takes an alert for an end too. A server that closes over what it has not read resets the connection.
    if plain.recv(1):
        raise OSError(errno.EPROTO, "it answered, which no syslog server does")


def _heed_alerts(sock: ssl.SSLSocket) -> None:
    """Raise where the server refuses us after the handshake, as TLS 1.3 has it for client certificates."""
    sock.settimeout(_ALERT_S)
    try:
        if not sock.recv(1):
            raise OSError(errno.ECONNRESET, "it hung up before the end")
    except TimeoutError:
        pass
    sock.settimeout(_TIMEOUT_S)
