"""DICOMweb peers for tests: a mock origin server that can misbehave, and Orthanc with its DICOMweb plugin."""

from __future__ import annotations

import base64
import contextlib
import email
import email.policy
import json
import select
import socket
import ssl
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import pytest
from pydicom import dcmread

from config.settings import DicomwebDestinationSettings
from tests.support.peers import LOOPBACK, Orthanc, ReceivedObject

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")

requires_orthanc_dicomweb = pytest.mark.skipif(
    not PLUGIN.exists(), reason="Orthanc's DICOMweb plugin is not installed (Debian package orthanc-dicomweb)"
)


def web_destination(port: int, **changes: object) -> DicomwebDestinationSettings:
    """Return the settings of a DICOMweb destination on the loopback interface with short time-outs."""
    settings: dict[str, object] = {
        "name": "pacs",
        "kind": "dicomweb",
        "url": f"http://{LOOPBACK}:{port}/dicom-web",
        "connect_timeout_s": 5,
        "send_timeout_s": 20,
        "response_timeout_s": 20,
    }
    return DicomwebDestinationSettings.model_validate(settings | changes)


@dataclass(frozen=True)
class Canned:
    """A response as it goes out; `close` ends the connection without one, `early` answers before the body is read."""

    status: int
    body: bytes = b""
    content_type: str = "application/dicom+json"
    headers: Mapping[str, str] = field(default_factory=dict)
    close: bool = False
    early: bool = False


def as_json(
    stored: Mapping[str, int] | None = None,
    failed: Mapping[str, int | None] | None = None,
    others: tuple[int, ...] = (),
) -> bytes:
    """Return a Store Instances Response in the DICOM JSON Model."""

    def item(uid: str | None, tag: str, reason: int | None) -> dict[str, Any]:
        found: dict[str, Any] = {} if uid is None else {"00081155": {"vr": "UI", "Value": [uid]}}
        return found | ({tag: {"vr": "US", "Value": [reason]}} if reason else {})

    sequences = {
        "00081199": [item(uid, "00081196", reason) for uid, reason in (stored or {}).items()],
        "00081198": [item(uid, "00081197", reason) for uid, reason in (failed or {}).items()],
        "0008119A": [item(None, "00081197", reason) for reason in others],
    }
    return json.dumps({tag: {"vr": "SQ", "Value": items} for tag, items in sequences.items() if items}).encode()


class MockStow:
    """An origin server in this process, which collects what it gets and can be made to misbehave.

    Objects are counted from 0 over all requests, in the order in which they arrive.

    Parameters
    ----------
    statuses
        Number of an object -> its Failure or Warning Reason.
    abort_at, cut_at
        Numbers of objects at which the connection ends without a response; nothing of such a request is kept.
    refuse
        Told the objects of a request, returns a response for all of it, or None to store them.
    respond
        Told the objects of a request and their reasons, returns the response after they were stored.
    tls
        Makes it a server of HTTPS.
    """

    def __init__(
        self,
        *,
        statuses: Mapping[int, int] | None = None,
        abort_at: frozenset[int] = frozenset(),
        cut_at: frozenset[int] = frozenset(),
        refuse: Callable[[list[ReceivedObject]], Canned | None] | None = None,
        respond: Callable[[list[ReceivedObject], Mapping[str, int]], Canned] | None = None,
        query: Canned | None = None,
        token: Callable[[], str] | None = None,
        tls: ssl.SSLContext | None = None,
        keeps: bool = True,
    ) -> None:
        self.statuses, self.broken = dict(statuses or {}), abort_at | cut_at
        self.refuse, self.respond, self.query, self.token = refuse, respond, query, token
        self.keeps = keeps
        self.objects: list[ReceivedObject] = []
        self.requests: list[dict[str, str]] = []
        self.request_sizes: list[int] = []
        self.request_counts: list[int] = []
        self.queries: list[str] = []
        self.token_requests: list[dict[str, str]] = []
        self.stores = 0
        self._server = ThreadingHTTPServer((LOOPBACK, 0), self._handler())
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def associations(self) -> int:
        """How many requests there were."""
        return len(self.requests)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def read_body(self, read: Callable[[int], bytes], length: int) -> bytes | None:
        """Return the body of a request; None to end the connection."""
        return read(length)

    def store(self, objects: list[ReceivedObject]) -> Canned | None:
        """Keep the objects of one request and return the response; None to end the connection."""
        first, self.stores = self.stores, self.stores + len(objects)
        if any(number in self.broken for number in range(first, self.stores)):
            return None
        if self.refuse is not None and (refusal := self.refuse(objects)) is not None:
            return None if refusal.close else refusal
        reasons = {entry.sop_instance_uid: self.statuses.get(first + n, 0) for n, entry in enumerate(objects)}
        stored = {uid: reason for uid, reason in reasons.items() if reason == 0 or 0xB000 <= reason <= 0xBFFF}
        if self.keeps:
            self.objects += [entry for entry in objects if entry.sop_instance_uid in stored]
        if self.respond is not None:
            return self.respond(objects, reasons)
        failed = {uid: reason for uid, reason in reasons.items() if uid not in stored}
        return Canned(200 if not failed else 202 if stored else 409, as_json(stored, failed))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        mock = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_POST(self) -> None:
                if self.path == "/token":
                    self._give_token()
                    return
                mock.requests.append({name.lower(): value for name, value in self.headers.items()})
                early = mock.refuse([]) if mock.refuse is not None else None
                if early is not None and early.early:
                    self._answer(early)
                    self.close_connection = True
                    return
                length = int(self.headers["Content-Length"])
                body = mock.read_body(self.rfile.read, length)
                if body is None or len(body) < length:
                    self.close_connection = True
                    return
                objects = read_parts(self.headers["Content-Type"], body)
                mock.request_sizes.append(len(body))
                mock.request_counts.append(len(objects))
                answer = mock.store(objects)
                if answer is None:
                    self.close_connection = True
                    return
                self._answer(answer)

            def do_GET(self) -> None:
                mock.requests.append({name.lower(): value for name, value in self.headers.items()})
                mock.queries.append(self.path)
                if mock.query is not None:
                    self._answer(mock.query)
                    return
                wanted = parse_qs(urlsplit(self.path).query).get("SOPInstanceUID", [""])[0]
                hits = [{"00080018": {"vr": "UI", "Value": [wanted]}}] if wanted in mock.uids() else []
                self._answer(Canned(200, json.dumps(hits).encode()))

            def _give_token(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                mock.token_requests.append({name.lower(): value for name, value in self.headers.items()})
                assert mock.token is not None
                answer = {"access_token": mock.token(), "token_type": "Bearer", "expires_in": 3600}
                self._answer(Canned(200, json.dumps(answer).encode(), "application/json"))

            def _answer(self, canned: Canned) -> None:
                self.send_response(canned.status)
                self.send_header("Content-Type", canned.content_type)
                self.send_header("Content-Length", str(len(canned.body)))
                for name, value in canned.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(canned.body)

        return Handler

    def uids(self) -> set[str]:
        """Return the SOP Instance UIDs of what it keeps."""
        return {entry.sop_instance_uid for entry in self.objects}


def read_parts(content_type: str, body: bytes) -> list[ReceivedObject]:
    """Return the objects of a multipart body, read by the standard library, not by code of ours."""
    message = email.message_from_bytes(
        b"MIME-Version: 1.0\r\nContent-Type: " + content_type.encode() + b"\r\n\r\n",
        policy=email.policy.HTTP,
    )
    assert message.get_content_type() == "multipart/related"
    assert message.get_param("type") == "application/dicom"
    boundary = b"--" + str(message.get_boundary()).encode()
    first, *parts, last = body.split(boundary)
    assert first == b""
    assert last == b"--\r\n"
    return [_received(part) for part in parts]


def _received(part: bytes) -> ReceivedObject:
    header, _, content = part.partition(b"\r\n\r\n")
    assert header == b"\r\nContent-Type: application/dicom"
    content = content.removesuffix(b"\r\n")
    ds = dcmread(BytesIO(content), stop_before_pixels=True)
    # Past preamble, prefix and the group length element, which counts what follows it.
    offset = 144 + int(ds.file_meta.FileMetaInformationGroupLength)
    return ReceivedObject(
        sop_class_uid=str(ds.file_meta.MediaStorageSOPClassUID),
        sop_instance_uid=str(ds.file_meta.MediaStorageSOPInstanceUID),
        transfer_syntax_uid=str(ds.file_meta.TransferSyntaxUID),
        data=content[offset:],
    )


class WebOrthanc(Orthanc):
    """An Orthanc with the DICOMweb service at /dicom-web.

    Parameters
    ----------
    users
        Name -> password of those who may log in; nobody has to where there are none.
    """

    def __init__(self, folder: Path, *, users: Mapping[str, str], configuration: Mapping[str, object]) -> None:
        own = {"Plugins": [str(PLUGIN)], "DicomWeb": {"Enable": True, "Root": "/dicom-web/"}}
        logins = {"AuthenticationEnabled": bool(users), "RegisteredUsers": dict(users)}
        super().__init__(folder, configuration={**own, **logins, **configuration})
        self.users = dict(users)

    def _get(self, path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(f"http://{LOOPBACK}:{self.http_port}{path}", data=body)
        for user, password in self.users.items():
            token = base64.b64encode(f"{user}:{password}".encode()).decode()
            request.add_header("Authorization", f"Basic {token}")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bytes(answer.read())

    def uid_of(self, identifier: str) -> str:
        """Return the SOP Instance UID behind Orthanc's own identifier."""
        return str(json.loads(self._get(f"/instances/{identifier}"))["MainDicomTags"]["SOPInstanceUID"])


@contextlib.contextmanager
def orthanc_with_dicomweb(
    folder: Path, *, users: Mapping[str, str] | None = None, **configuration: object
) -> Iterator[WebOrthanc]:
    """Give a `WebOrthanc`; further arguments are entries of its configuration."""
    with WebOrthanc(folder, users=users or {}, configuration=configuration) as peer:
        yield peer


@contextlib.contextmanager
def tls_in_front(port: int, context: ssl.SSLContext) -> Iterator[int]:
    """Give a port where TLS is taken off, as a reverse proxy does, before the connection goes on to `port`.

    Orthanc's own HTTPS can't be used here: that of Debian 12 (1.10.1) ends with a segmentation fault at the first
    connection, whatever its certificate.
    """
    with socket.create_server((LOOPBACK, 0)) as listener:
        threading.Thread(target=_accept, args=(listener, context, port), daemon=True).start()
        yield int(listener.getsockname()[1])
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, context: ssl.SSLContext, port: int) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_forward, args=(connection, context, port), daemon=True).start()


def _forward(connection: socket.socket, context: ssl.SSLContext, port: int) -> None:
    with (
        contextlib.suppress(OSError),
        connection,
        context.wrap_socket(connection, server_side=True) as outside,
        socket.create_connection((LOOPBACK, port)) as inside,
    ):
        # A TLS socket is not for two threads, so both directions take turns on this one.
        while True:
            ready = [outside] if outside.pending() else select.select([outside, inside], [], [])[0]
            for source, sink in ((outside, inside), (inside, outside)):
                if source in ready:
                    # Blocks for a record that has only begun to come, which is soon there.
                    if not (piece := source.recv(65_536)):
                        return
                    sink.sendall(piece)
