"""DICOM over TLS: contexts after the BCP 195 profile of PS3.15 B.12, sockets for the upper layer, renewal of files.

TLS 1.2 and 1.3 alone, in 1.2 only ephemeral elliptic curve key exchange with AES in GCM: the suites that RFC 9325 4.2
recommends. No renegotiation, no compression, no session tickets, no way back to a connection without TLS.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, Literal, cast

from config.settings import PeerTlsSettings, TlsSettings
from dicom_node.certificates import Certificate, parse_certificate, require_pair
from dicom_node.data_phase import close_gently
from dicom_node.errors import NodeError
from dicom_node.pem_files import CertificateUnusable
from dicom_node.revocation import read_lists

log = logging.getLogger(__name__)

CIPHERS: Final = (
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
)
"""Cipher suites of TLS 1.2, by OpenSSL's names; those of TLS 1.3 are all sound."""

_SECURITY_LEVEL: Final = "@SECLEVEL=2"
"""Keys of RSA under 2048 bits, of elliptic curves under 224, and SHA-1 signatures are refused."""

_RECORD_BYTES: Final = 16_384
_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class TlsUnusable(NodeError):
    """The files that the settings name do not make a TLS endpoint; the message says what to do."""


class TlsSocket(ssl.SSLSocket):
    """A TLS connection that can be used as the data phase uses a TCP connection."""

    _sslobj: Any

    def sendmsg(self, buffers: Iterable[Any], *_: Any) -> int:  # type: ignore[override]
        """Send the beginning of `buffers`, as much as fits one TLS record, and return its length in bytes."""
        record = bytearray()
        for buffer in buffers:
            view = memoryview(buffer)
            record += view[: _RECORD_BYTES - len(record)]
            if len(record) == _RECORD_BYTES:
                break
        return self.send(record)

    def shutdown(self, how: int) -> None:
        """End a direction: that of sending with a close_notify; what is still read after it is dropped, not decrypted.

        The direction of reading may be ended by another thread than the one that reads and writes. It keeps its TLS
        state, which ssl.SSLSocket would drop: what is sent afterwards, such as A-ABORT, must not go in the clear.
        """
        if how == socket.SHUT_RD:
            socket.socket.shutdown(self, how)
            return
        if self._sslobj is not None:
            # Without waiting for the peer's own close_notify, which many never send.
            with contextlib.suppress(OSError, ValueError):
                timeout = self.gettimeout()
                self.settimeout(0.0)
                try:
                    self._sslobj.shutdown()
                finally:
                    self.settimeout(timeout)
        super().shutdown(how)

    @property
    def certificate(self) -> Certificate | None:
        """The peer's certificate; None if it showed none."""
        der = self.getpeercert(binary_form=True)
        if der is None:
            return None
        try:
            return parse_certificate(der)
        except CertificateUnusable:
            # OpenSSL verified it, and only our reading of its names is stricter: its fingerprint tells it too.
            digest = hashlib.sha256(der).hexdigest()
            return Certificate(subject="", issuer="", names=(), fingerprint=digest, not_before=0.0, not_after=0.0)


def server_context(settings: TlsSettings) -> ssl.SSLContext:
    """Return the context of the receiver.

    Raises
    ------
    TlsUnusable
        If a file is missing, unreadable, or not what it is to be.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, settings.min_version)
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    # Tickets reach clients that may never read them, and close with RST then. Sessions of TLS 1.2 that are resumed by
    # their ID keep the certificate that was verified with them.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.verify_mode = {
        "required": ssl.CERT_REQUIRED,
        "optional": ssl.CERT_OPTIONAL,
        "none": ssl.CERT_NONE,
    }[settings.client_certificates]
    assert settings.certificate is not None
    assert settings.key is not None
    _load_own(context, settings.certificate, settings.key)
    if settings.ca is not None and settings.client_certificates != "none":
        _load_authorities(context, settings.ca)
        if settings.crl is not None:
            load_revocation_lists(context, settings.crl, settings.crl_check)
    return context


def client_context(settings: PeerTlsSettings) -> ssl.SSLContext:
    """Return the context for connections to a peer that we call; `TlsUnusable` as of `server_context`."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, settings.min_version)
    context.check_hostname = settings.check_name
    context.verify_mode = ssl.CERT_REQUIRED
    if settings.ca is not None:
        _load_authorities(context, settings.ca)
        if settings.crl is not None:
            load_revocation_lists(context, settings.crl, settings.crl_check)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if settings.certificate is not None and settings.key is not None:
        _load_own(context, settings.certificate, settings.key)
    return context


def _context(protocol: int, min_version: str) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = _VERSIONS[min_version]
    context.set_ciphers(":".join((*CIPHERS, _SECURITY_LEVEL)))
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    # DICOM peers close without close_notify. An object cut off by that has no last fragment, and is not stored.
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    context.sslsocket_class = TlsSocket
    return context


def _load_own(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    try:
        require_pair(certificate, key)
        # A key with a password would make OpenSSL ask at the terminal.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (CertificateUnusable, OSError, ValueError, IndexError) as error:
        raise TlsUnusable(f"certificate {certificate} with key {key}: {_said(error)}") from error


def _load_authorities(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(cafile=path)
    except OSError as error:
        raise TlsUnusable(f"authorities {path}: {_said(error)}") from error


def load_revocation_lists(context: ssl.SSLContext, path: Path, check: Literal["chain", "leaf"]) -> None:
    """Make a context refuse the certificates in the lists of a file, and all whose authority has no valid one there.

    That is OpenSSL's way, and no setting softens it: who could keep the next list from reaching the node could
    otherwise go on with a stolen key.

    Raises
    ------
    TlsUnusable
        If the file holds no lists, or more than lists.
    """
    try:
        # A certificate in it would become an authority.
        read_lists(path)
        context.load_verify_locations(cafile=path)
    except (CertificateUnusable, OSError) as error:
        raise TlsUnusable(f"revocation lists {path}: {_said(error)}") from error
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN if check == "chain" else ssl.VERIFY_CRL_CHECK_LEAF


def _said(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "unknown").replace("_", " ").lower()
    return str(getattr(error, "strerror", None) or error)


class RefusedAfterHandshake(ConnectionError):
    """The peer ended the connection after the handshake, before any answer, and its alert was lost."""


class RenewedContext:
    """A TLS context that follows its files: changed ones count for the next connection, without a restart.

    Parameters
    ----------
    build
        Makes the context; raises `TlsUnusable`.
    files
        Those that it reads.
    """

    def __init__(self, build: Callable[[], ssl.SSLContext], files: Iterable[Path | None]) -> None:
        self._build = build
        self._files = [path for path in files if path is not None]
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None
        self._state: tuple[object, ...] = ()

    def get(self) -> ssl.SSLContext:
        """Return the context; the last one that could be made while the files are being replaced or are broken.

        Raises
        ------
        TlsUnusable
            If none could be made yet.
        """
        with self._lock:
            state = tuple(_fingerprint(path) for path in self._files)
            if self._context is not None and state == self._state:
                return self._context
            try:
                context = self._build()
            except TlsUnusable as error:
                if self._context is None:
                    raise
                if state != self._state:
                    log.error("Changed certificate files can't be used, the former ones go on", extra=_why(error))
                self._state = state
                return self._context
            if self._context is not None:
                log.info("Certificate files read again", extra={"files": [str(path) for path in self._files]})
            self._context, self._state = context, state
            return context


def _why(error: Exception) -> dict[str, object]:
    return {"reason": str(error)}


def _fingerprint(path: Path) -> tuple[int, ...] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def server_files(settings: TlsSettings) -> RenewedContext:
    """Return the receiver's context, which follows its files."""
    return RenewedContext(lambda: server_context(settings), _files(settings))


def client_files(settings: PeerTlsSettings) -> RenewedContext:
    """Return the context for a peer that we call, which follows its files."""
    return RenewedContext(lambda: client_context(settings), _files(settings))


def _files(settings: TlsSettings | PeerTlsSettings) -> tuple[Path | None, ...]:
    return settings.certificate, settings.key, settings.ca, settings.crl


def accept_tls(sock: socket.socket, context: ssl.SSLContext, timeout_s: float) -> TlsSocket:
    """Do the handshake with a peer that connected, all of it within `timeout_s`; OSError if it fails.

    `sock` is used up in either case.
    """
    secured = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
    return _shaken(secured, timeout_s)


def connect_tls(sock: socket.socket, context: ssl.SSLContext, server_name: str, timeout_s: float) -> TlsSocket:
    """Do the handshake with a peer that we connected to; as `accept_tls`."""
    secured = context.wrap_socket(sock, server_hostname=server_name, do_handshake_on_connect=False)
    return _shaken(secured, timeout_s)


def _shaken(secured: ssl.SSLSocket, timeout_s: float) -> TlsSocket:
    try:
        secured.settimeout(timeout_s)
        secured.do_handshake()
    except ssl.SSLError:
        # The alert that tells the peer why must reach it before the end of the connection.
        close_gently(secured)
        raise
    except BaseException:
        secured.close()
        raise
    return cast(TlsSocket, secured)


_BY_REASON: Final = {
    "WRONG_VERSION_NUMBER": "it speaks no TLS on this port",
    "HTTP_REQUEST": "it speaks HTTP on this port",
    "UNKNOWN_PROTOCOL": "it speaks no TLS on this port",
    "PACKET_LENGTH_TOO_LONG": "it speaks no TLS on this port",
    "RECORD_LAYER_FAILURE": "it speaks no TLS on this port",
    "UNSUPPORTED_PROTOCOL": "it offers only versions of TLS that are not safe, TLS 1.2 is the least",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it speaks only versions of TLS that are not safe, TLS 1.2 is the least",
    "NO_SHARED_CIPHER": "it offers none of our cipher suites, which are those of the BCP 195 profile",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "it found no common cipher suite, or wants a certificate that we have not",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it showed no certificate",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants a certificate of ours: set certificate and key",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not know the authority of our certificate: enter that authority there",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it says that our certificate is expired: renew it",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "it says that our certificate was revoked: renew it",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not accept our certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it does not accept our certificate",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "it does not accept this kind of certificate",
    "TLSV1_ALERT_ACCESS_DENIED": "it does not accept our certificate",
    "TLSV1_ALERT_DECRYPT_ERROR": "it could not verify our certificate",
}
# X509_V_ERR_* of OpenSSL.
_BY_VERIFY_CODE: Final = {
    3: "the file that crl names has no revocation list of its authority, or of one above: add it",
    8: "the revocation list of its authority is not signed by that authority: get it anew",
    11: "the revocation list of its authority is not valid yet: is the clock right?",
    12: "the revocation list of its authority is overdue: put the next one into the file that crl names",
    9: "its certificate is not valid yet: is the clock right, here and there?",
    10: "its certificate, or one above it, is expired: it has to be renewed there",
    18: "its certificate is signed by itself, and not known: add it to the file that ca names",
    19: "the authority of its certificate is not known: add it to the file that ca names",
    20: "the authority of its certificate is not known: add it to the file that ca names",
    21: "the authority of its certificate is not known: add it to the file that ca names",
    23: "its certificate was revoked",
    26: "its certificate is not meant for this use (Extended Key Usage)",
    62: "its certificate is for another name",
    64: "its certificate is for another address",
    66: "its key is too short for the BCP 195 profile (RSA: 2048 bits)",
    67: "the key of its authority is too short for the BCP 195 profile (RSA: 2048 bits)",
    68: "its certificate is signed with a weak digest, such as SHA-1",
}


def explain_tls(error: BaseException | None) -> str:
    """Return as half a sentence about the peer why a handshake failed, and what to do."""
    match error:
        case RefusedAfterHandshake():
            return (
                "it closed the connection right after the TLS handshake; it may want a certificate of ours, or not "
                "accept the one that we show"
            )
        case ssl.SSLCertVerificationError():
            return _BY_VERIFY_CODE.get(error.verify_code, f"its certificate can't be verified: {error.verify_message}")
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            return "it closed the connection during the TLS handshake; does it speak TLS on this port?"
        case ssl.SSLError(reason=str() as reason):
            return _BY_REASON.get(reason, f"TLS failed: {reason.replace('_', ' ').lower()}")
        case TimeoutError():
            return "it did not answer the TLS handshake; does it speak TLS on this port?"
        case ConnectionResetError() | BrokenPipeError() | ssl.SSLError():
            return "it closed the connection during the TLS handshake; does it speak TLS on this port?"
        case TlsUnusable():
            return str(error)
        case OSError():
            return f"TLS failed: {error.strerror or error}"
        case _:
            return "TLS failed"
