"""Servers that take what the node tells: a webhook, and a mail server that can ask for TLS and a log-in."""

from __future__ import annotations

import email
import json
import ssl
import threading
from email.message import Message
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP as Server
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword, Session

from tests.support.certificates import Pair
from tests.support.peers import LOOPBACK, find_free_port


class HttpSink:
    """Takes POSTs; `status` says what it answers, `release` when.

    Parameters
    ----------
    port
        0 for a free one.
    certificate
        Speaks TLS with it.
    """

    def __init__(self, port: int = 0, certificate: Pair | None = None) -> None:
        self.status = 200
        self.release = threading.Event()
        self.release.set()
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                sink.release.wait(60)
                sink.bodies.append(body)
                sink.headers.append(dict(self.headers))
                self.send_response(sink.status)
                if sink.status == 302:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                # Where a redirect would lead: it must not count as taken.
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer((LOOPBACK, port), Handler)
        self._server.daemon_threads = True
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate.certificate, certificate.key)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if certificate is None else "https"
        self.port: int = self._server.server_address[1]
        self.url = f"{scheme}://{LOOPBACK}:{self.port}/alarms"

    @property
    def objects(self) -> list[dict[str, Any]]:
        """What came, as JSON."""
        return [json.loads(body) for body in self.bodies]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()


class MailSink:
    """A mail server on the loopback interface (aiosmtpd); `letters` is what it took.

    Parameters
    ----------
    certificate
        Offers STARTTLS with it, and takes nothing without; with `from_the_first_byte` speaks TLS alone.
    user, password
        Asked for, where given.
    """

    def __init__(
        self,
        *,
        certificate: Pair | None = None,
        from_the_first_byte: bool = False,
        user: str = "",
        password: str = "",
    ) -> None:
        self.letters: list[Message] = []
        self.recipients: list[list[str]] = []
        self.refused: set[str] = set()
        self.port = find_free_port()
        options: dict[str, Any] = {}
        context: ssl.SSLContext | None = None
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate.certificate, certificate.key)
            if not from_the_first_byte:
                options |= {"tls_context": context, "require_starttls": True}
        if user:

            def authenticate(
                _server: Server, _session: Session, _envelope: Envelope, _mechanism: str, said: Any
            ) -> AuthResult:
                wanted = LoginPassword(user.encode(), password.encode())
                return AuthResult(success=said == wanted, handled=False)

            # With TLS from the first byte aiosmtpd does not know that there is any.
            options |= {
                "authenticator": authenticate,
                "auth_required": True,
                "auth_require_tls": not from_the_first_byte,
            }
        self._controller = Controller(
            self,
            hostname=LOOPBACK,
            port=self.port,
            ready_timeout=60,
            ssl_context=context if from_the_first_byte else None,
            **options,
        )

    async def handle_RCPT(
        self, server: Server, session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        """Take a recipient, or not."""
        if address in self.refused:
            return "550 nobody of this name"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Server, session: Session, envelope: Envelope) -> str:
        """Take a letter."""
        assert isinstance(envelope.content, bytes)
        self.letters.append(email.message_from_bytes(envelope.content, policy=default))
        self.recipients.append(list(envelope.rcpt_tos))
        return "250 taken"

    def __enter__(self) -> Self:
        self._controller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._controller.stop()
