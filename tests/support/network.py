"""A peer on a raw socket that can send anything, and a running receiver to send it to.

The PDUs are built here from PS3.7 and PS3.8 and share no code with the product.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from config.settings import NodeSettings, ReceiverSettings, Settings, SourceSettings, TlsSettings
from dicom_node.instance_store import InstanceStore
from dicom_node.ledger.database import Database, ledger_url
from dicom_node.ledger.reception import ReceptionLedger
from dicom_node.receiver import Receiver

LOOPBACK = "127.0.0.1"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
CT = "1.2.840.10008.5.1.4.1.1.2"
VERIFICATION = "1.2.840.10008.1.1"

Elements = Sequence[tuple[int, int, bytes, bytes]]


def element(group: int, number: int, vr: bytes, value: bytes, syntax: str = EXPLICIT) -> bytes:
    """Encode one data element of a defined length."""
    order = ">" if syntax == BIG_ENDIAN else "<"
    if len(value) % 2:
        value += b" " if vr not in (b"UI", b"OB", b"UN") else b"\0"
    if syntax == IMPLICIT:
        return struct.pack(order + "HHI", group, number, len(value)) + value
    if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
        return struct.pack(order + "HH2sHI", group, number, vr, 0, len(value)) + value
    return struct.pack(order + "HH2sH", group, number, vr, len(value)) + value


def data_set(
    uid: str = "1.2.3.4",
    *,
    sop_class: str = CT,
    study: str = "1.2.3",
    series: str = "1.2.3.1",
    syntax: str = EXPLICIT,
    pixels: bytes = b"\1\2\3\4",
) -> bytes:
    """Encode the least that a storage SCP needs to see, with some pixel data."""
    elements = (
        (0x0008, 0x0016, b"UI", sop_class.encode()),
        (0x0008, 0x0018, b"UI", uid.encode()),
        (0x0008, 0x0060, b"CS", b"CT"),
        (0x0010, 0x0020, b"LO", b"TEST"),
        (0x0020, 0x000D, b"UI", study.encode()),
        (0x0020, 0x000E, b"UI", series.encode()),
        (0x7FE0, 0x0010, b"OW", pixels),
    )
    return b"".join(element(*each, syntax=syntax) for each in elements if each[3])


# ---------------------------------------------------------------------- PDUs


def item(kind: int, body: bytes) -> bytes:
    """Encode an item of an association PDU."""
    return struct.pack(">BBH", kind, 0, len(body)) + body


def associate_rq(
    contexts: Sequence[tuple[int, str, Sequence[str]]] = ((1, CT, (EXPLICIT,)), (3, VERIFICATION, (IMPLICIT,))),
    *,
    calling: str = "SENDER",
    called: str = "LOWDOSE",
    max_pdu: int = 16_384,
    version: int = 1,
    application_context: str = "1.2.840.10008.3.1.1.1",
) -> bytes:
    """Encode A-ASSOCIATE-RQ (PS3.8 9.3.2)."""
    body = struct.pack(">HH", version, 0) + called.encode().ljust(16) + calling.encode().ljust(16) + bytes(32)
    body += item(0x10, application_context.encode())
    for context_id, abstract_syntax, transfer_syntaxes in contexts:
        names = b"".join(item(0x40, syntax.encode()) for syntax in transfer_syntaxes)
        body += item(0x20, bytes((context_id, 0, 0, 0)) + item(0x30, abstract_syntax.encode()) + names)
    body += item(0x50, item(0x51, struct.pack(">I", max_pdu)) + item(0x52, b"1.2.3.999"))
    return pdu(1, body)


def pdu(kind: int, body: bytes) -> bytes:
    """Encode a PDU."""
    return struct.pack(">BBI", kind, 0, len(body)) + body


def pdv(context_id: int, control: int, fragment: bytes) -> bytes:
    """Encode a presentation data value item; control bit 0: command, bit 1: last fragment."""
    return struct.pack(">IBB", len(fragment) + 2, context_id, control) + fragment


def command(*elements: tuple[int, bytes]) -> bytes:
    """Encode a command set with its group length."""
    body = b"".join(struct.pack("<HHI", 0, number, len(value)) + value for number, value in elements)
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def us(value: int) -> bytes:
    """Encode a US value."""
    return struct.pack("<H", value)


def ui(value: str) -> bytes:
    """Encode a UI value."""
    encoded = value.encode()
    return encoded + b"\0" * (len(encoded) % 2)


def store_rq(uid: str = "1.2.3.4", *, sop_class: str = CT, message_id: int = 1, has_data_set: bool = True) -> bytes:
    """Encode the command set of C-STORE-RQ."""
    return command(
        (0x0002, ui(sop_class)),
        (0x0100, us(0x0001)),
        (0x0110, us(message_id)),
        (0x0700, us(0)),
        (0x0800, us(0x0001 if has_data_set else 0x0101)),
        (0x1000, ui(uid)),
    )


def echo_rq(message_id: int = 1) -> bytes:
    """Encode the command set of C-ECHO-RQ."""
    return command((0x0002, ui(VERIFICATION)), (0x0100, us(0x0030)), (0x0110, us(message_id)), (0x0800, us(0x0101)))


def decode_command(encoded: bytes) -> dict[int, bytes]:
    """Return the elements of a command set by element number."""
    found, position = {}, 0
    while position < len(encoded):
        _, number, length = struct.unpack_from("<HHI", encoded, position)
        found[number] = encoded[position + 8 : position + 8 + length]
        position += 8 + length
    return found


@dataclass(frozen=True)
class Response:
    """A C-STORE or C-ECHO response as a peer sees it."""

    command_field: int
    message_id: int
    status: int
    comment: str


class RawPeer:
    """An association requestor that sends whatever it is told."""

    def __init__(
        self, port: int, *, timeout_s: float = 15.0, context: ssl.SSLContext | None = None, host: str = LOOPBACK
    ) -> None:
        self.sock = socket.create_connection((host, port), timeout=timeout_s)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            self.sock = context.wrap_socket(self.sock, server_hostname=LOOPBACK)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.sock.close()

    def send(self, *pieces: bytes) -> None:
        """Send bytes as they are."""
        self.sock.sendall(b"".join(pieces))

    def associate(self, request: bytes | None = None) -> tuple[int, bytes]:
        """Send a request and return type and body of the answer."""
        self.send(associate_rq() if request is None else request)
        return self.receive()

    def receive(self) -> tuple[int, bytes]:
        """Return type and body of the next PDU; EOFError if the connection was closed."""
        header = self._exactly(6)
        kind, _, length = struct.unpack(">BBI", header)
        return kind, self._exactly(length)

    def store(self, uid: str = "1.2.3.4", encoded: bytes | None = None, **changes: object) -> Response:
        """Send one C-STORE in two PDUs and return its response."""
        body = data_set(uid) if encoded is None else encoded
        self.send(pdu(4, pdv(1, 3, store_rq(uid, **changes))), pdu(4, pdv(1, 2, body)))  # type: ignore[arg-type]
        return self.response()

    def echo(self) -> int:
        """Send C-ECHO and return its status."""
        self.send(pdu(4, pdv(3, 3, echo_rq(77))))
        return self.response().status

    def response(self) -> Response:
        """Return the next response; AssertionError if another PDU comes."""
        encoded, control = b"", 0
        while not control & 2:
            kind, body = self.receive()
            assert kind == 4, (kind, body)
            control, encoded = body[5], encoded + body[6:]
        found = decode_command(encoded)
        return Response(
            int.from_bytes(found[0x0100], "little"),
            int.from_bytes(found[0x0120], "little"),
            int.from_bytes(found[0x0900], "little"),
            found.get(0x0902, b"").decode().strip(),
        )

    def abort(self) -> tuple[int, int]:
        """Return source and reason of the A-ABORT that must come next."""
        kind, body = self.receive()
        assert kind == 7, (kind, body)
        return body[2], body[3]

    def release(self) -> None:
        """Release the association and see it confirmed and the connection closed."""
        self.send(pdu(5, bytes(4)))
        assert self.receive() == (6, bytes(4))
        assert self.is_closed()

    def is_closed(self) -> bool:
        """Wait for the end of the connection; false if more data comes."""
        try:
            return not self.sock.recv(1)
        except ConnectionResetError:
            return True

    def _exactly(self, count: int) -> bytes:
        received = b""
        while len(received) < count:
            piece = self.sock.recv(count - len(received))
            if not piece:
                raise EOFError("the connection was closed")
            received += piece
        return received


# ---------------------------------------------------------------------- a receiver


def receiver_settings(
    folder: Path,
    *,
    sources: Sequence[SourceSettings] | None = None,
    tls: TlsSettings | None = None,
    **changes: object,
) -> Settings:
    """Settings of a receiver on a free port that takes SENDER and a few programs from this machine."""
    node = NodeSettings(bind=LOOPBACK, data_dir=folder).model_copy(update={"port": 0})
    titles = ("SENDER", "PYNETDICOM", "ECHOSCU", "STORESCU", "DCMSEND")
    default = (SourceSettings(name="tests", ae_titles=titles, hosts=("127.0.0.0/8",)),)
    limits = {"min_free_mb": 0, "acse_timeout_s": 5.0, "network_timeout_s": 10.0, **changes}
    return Settings(
        node=node, receiver=ReceiverSettings(**limits), sources=default if sources is None else tuple(sources)
    ).model_copy(update={"tls": tls or TlsSettings()})


@dataclass
class RunningReceiver:
    """A receiver with its store and its ledger on SQLite."""

    receiver: Receiver
    store: InstanceStore
    database: Database
    ledger: ReceptionLedger

    @property
    def port(self) -> int:
        """TCP port."""
        return self.receiver.port

    def rows(self, query: str) -> list[tuple[object, ...]]:
        """Return the rows of a query on the ledger."""
        with self.database.read() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(query)]

    def stored_files(self) -> list[bytes]:
        """Return the content of every object outside of quarantine."""
        return [path.read_bytes() for path in map(self.store.path, self.store.keys())]


@contextlib.contextmanager
def running_receiver(
    folder: Path,
    *,
    store: InstanceStore | None = None,
    ledger_type: type[ReceptionLedger] = ReceptionLedger,
    database: Database | None = None,
    sources: Sequence[SourceSettings] | None = None,
    tls: TlsSettings | None = None,
    **changes: object,
) -> Iterator[RunningReceiver]:
    """Run a receiver in `folder`, on SQLite there without `database`; `changes` are settings of the receiver table."""
    folder.mkdir(parents=True, exist_ok=True)
    database = database or Database(ledger_url("", folder))
    database.create()
    ledger = ledger_type(database, receiver="test")
    settings = receiver_settings(folder, sources=sources, tls=tls, **changes)
    objects = store or InstanceStore(folder)
    running = RunningReceiver(Receiver(settings, objects, ledger, database), objects, database, ledger)
    running.receiver.start()
    try:
        yield running
    finally:
        running.receiver.stop(0)
        database.close()
