"""A small HTTP server for GET alone: on a TCP port for the outside, on a Unix socket between our own processes."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import BaseServer, TCPServer, ThreadingMixIn, UnixStreamServer
from typing import Any, Final

log = logging.getLogger(__name__)

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
_MOST_REQUESTS: Final = 16
_TIMEOUT_S: Final = 10.0
SOCKETS: Final = "run"
"""Folder of the processes' sockets in the data folder."""
SUFFIX: Final = ".sock"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a path is answered with."""

    status: int
    body: bytes
    content_type: str = "application/json"

    @classmethod
    def of_json(cls, status: int, value: Any) -> Answer:
        """Return `value` as JSON."""
        return cls(status=status, body=json.dumps(value, indent=2).encode() + b"\n")


Respond = Callable[[str], Answer]
NOT_FOUND: Final = Answer(status=404, body=b'{"error": "no such page"}\n')


class _Handler(BaseHTTPRequestHandler):
    timeout = _TIMEOUT_S
    server_version = "dicom-node"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer a request."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Answer without the body."""
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        respond: Respond = self.server.respond  # type: ignore[attr-defined]
        try:
            answer = respond(self.path.split("?")[0])
        except Exception:
            # The top of this request; the others shall be answered.
            log.exception("A request for metrics or health failed", extra={"path": self.path[:100]})
            answer = Answer(status=500, body=b'{"error": "unforeseen; see the log"}\n')
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if with_body:
            self.wfile.write(answer.body)

    def address_string(self) -> str:
        """Return who asks; nobody, on a Unix socket."""
        return str(self.client_address[0]) if self.client_address else ""

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: it is asked every few seconds."""


class _Bounded(ThreadingMixIn):
    """Answers a few requests at once, and closes the connections beyond."""

    daemon_threads = True
    block_on_close = False
    respond: Respond

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._slots = threading.BoundedSemaphore(_MOST_REQUESTS)
        super().__init__(*arguments, **options)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the request a thread, if there is one."""
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)  # type: ignore[attr-defined]
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and give the place back."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of peers that hang up."""


class _OnPort(_Bounded, TCPServer):
    allow_reuse_address = True


class _OnPortV6(_OnPort):
    address_family = socket.AF_INET6


class _OnSocket(_Bounded, UnixStreamServer):
    pass


@contextmanager
def _running(server: BaseServer, respond: Respond, name: str) -> Iterator[None]:
    server.respond = respond  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.2}, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def on_port(bind: str, port: int, respond: Respond) -> Iterator[int]:
    """Answer on a TCP port for as long as the block runs; gives the port, for 0 a free one.

    Raises
    ------
    OSError
        If the port can't be listened on.
    """
    kind = _OnPortV6 if ":" in bind else _OnPort
    server = kind((bind, port), _Handler)
    with _running(server, respond, "metrics"):
        yield int(server.server_address[1])


@contextmanager
def on_socket(folder: Path, name: str, respond: Respond) -> Iterator[None]:
    """Answer on the Unix socket of `name` in `folder` for as long as the block runs.

    What an earlier process of this name left behind is replaced: only one runs at a time.

    Raises
    ------
    OSError
        If it can't be made.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{name}{SUFFIX}"
    path.unlink(missing_ok=True)
    with _short(path) as short:
        server = _OnSocket(short, _Handler)
        os.chmod(short, stat.S_IRUSR | stat.S_IWUSR)
    mine = path.stat().st_ino
    with _running(server, respond, "self report"):
        try:
            yield
        finally:
            # The next process of this name may be there already.
            with contextlib.suppress(OSError):
                if path.stat().st_ino == mine:
                    path.unlink()


@contextmanager
def _short(path: Path) -> Iterator[str]:
    # The address of a Unix socket has 108 bytes (unix(7)); folders of data may be longer.
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)


class _SocketConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(self.timeout)
        try:
            with _short(self._path) as short:
                sock.connect(short)
        except BaseException:
            sock.close()
            raise
        self.sock = sock


def names_on_sockets(folder: Path) -> list[str]:
    """Return the names of the processes that have a socket in `folder`; one that was killed still has."""
    return sorted(path.name.removesuffix(SUFFIX) for path in folder.glob(f"*{SUFFIX}"))


def ask(folder: Path, name: str, path: str, *, timeout_s: float = 3.0) -> Answer:
    """Ask a process on its socket.

    Raises
    ------
    OSError
        If it does not run, or does not answer in time.
    """
    connection = _SocketConnection(folder / f"{name}{SUFFIX}", timeout_s)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return Answer(
            status=response.status, body=response.read(), content_type=response.headers.get("Content-Type", "")
        )
    except http.client.HTTPException as error:
        raise ConnectionError(f"no HTTP answer ({type(error).__name__})") from error
    finally:
        connection.close()
