"""Audit messages as PS3.15 has them, and a syslog server over TLS that can misbehave."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lxml import etree

from tests.support.certificates import Pair
from tests.support.peers import LOOPBACK

SCHEMA = etree.XMLSchema(etree.parse(str(Path(__file__).with_name("audit_message.xsd"))))


def valid(message: str) -> Any:
    """Return the root of an audit message, which must be valid by the schema of PS3.15 A.5.1."""
    root = etree.fromstring(message.encode())
    assert SCHEMA.validate(root), SCHEMA.error_log
    return root


def event_of(message: str) -> str:
    """Return the code of the event of a valid message."""
    return str(valid(message).find("EventIdentification/EventID").get("csd-code"))


class SyslogSink:
    """A syslog server over TLS (RFC 5425); `messages` is what it read, whole frames alone.

    Parameters
    ----------
    certificate
        Its own.
    port
        0 for a free one.
    authority
        Asks for a client certificate of this authority.
    """

    def __init__(self, certificate: Pair, *, port: int = 0, authority: Path | None = None) -> None:
        self.messages: list[bytes] = []
        self.connections = 0
        self.resets = 0
        """Connections that are to be reset after the first bytes."""
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate.certificate, certificate.key)
        if authority is not None:
            self._context.load_verify_locations(authority)
            self._context.verify_mode = ssl.CERT_REQUIRED
        self._listener = socket.create_server((LOOPBACK, port))
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        data = b""
        try:
            with self._context.wrap_socket(plain, server_side=True) as sock:
                while piece := sock.recv(65536):
                    if self.resets:
                        self.resets -= 1
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        return
                    data += piece
        except (OSError, ssl.SSLError):
            return
        finally:
            while data:
                length, _, rest = data.partition(b" ")
                message, data = rest[: int(length)], rest[int(length) :]
                assert len(message) == int(length), "a frame was cut off"
                self.messages.append(message)
