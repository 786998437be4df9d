"""A TCP proxy that knows PDUs (PS3.8 9.3.1) and does something to the nth of a type, once."""

from __future__ import annotations

import contextlib
import enum
import socket
import struct
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.support.peers import LOOPBACK

_PIECES = 64
_TRICKLE_S = 0.02


class Action(enum.StrEnum):
    """What happens to a PDU."""

    CUT_BEFORE = "cut before"
    CUT_WITHIN = "cut within"
    CUT_AFTER = "cut after"
    STALL = "stall"
    TRICKLE = "trickle"
    CORRUPT_TYPE = "corrupt type"
    CORRUPT_LENGTH = "corrupt length"
    DUPLICATE = "duplicate"
    REORDER = "reorder"


class Direction(enum.StrEnum):
    """Which way a PDU goes."""

    FROM_REQUESTOR = "from requestor"
    FROM_ACCEPTOR = "from acceptor"


@dataclass(frozen=True, kw_only=True)
class PduFault:
    """One disturbance: `nth` counts from 1 over all connections of a proxy."""

    direction: Direction
    pdu_type: int
    nth: int
    action: Action

    def __str__(self) -> str:
        names = {1: "A-ASSOCIATE-RQ", 2: "A-ASSOCIATE-AC", 4: "P-DATA-TF", 5: "A-RELEASE-RQ", 6: "A-RELEASE-RP"}
        return f"{self.action} at {names[self.pdu_type]} {self.nth} {self.direction}"


SPOTS = (
    (Direction.FROM_REQUESTOR, 1, 1),
    (Direction.FROM_REQUESTOR, 4, 1),
    (Direction.FROM_REQUESTOR, 4, 2),
    (Direction.FROM_REQUESTOR, 4, 3),
    (Direction.FROM_REQUESTOR, 5, 1),
    (Direction.FROM_ACCEPTOR, 2, 1),
    (Direction.FROM_ACCEPTOR, 4, 1),
    (Direction.FROM_ACCEPTOR, 4, 2),
    (Direction.FROM_ACCEPTOR, 6, 1),
)
"""Every PDU of an association for two objects, whose data sets fit into one PDU each."""


def all_faults() -> list[PduFault]:
    """Return every action at every spot."""
    return [
        PduFault(direction=direction, pdu_type=pdu_type, nth=nth, action=action)
        for direction, pdu_type, nth in SPOTS
        for action in Action
    ]


class PduProxy:
    """Passes connections on to a port of the loopback interface; the first PDU that `fault` fits is disturbed."""

    def __init__(self, target: int, fault: PduFault) -> None:
        self._target = target
        self._fault = fault
        self._lock = threading.Lock()
        self._listener = socket.create_server((LOOPBACK, 0))
        self._open: list[socket.socket] = []
        self.port = int(self._listener.getsockname()[1])
        self._passed = 0
        self.happened = False

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for sock in (self._listener, *self._open):
            _close(sock)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                requestor, _ = self._listener.accept()
                self._open.append(requestor)
                try:
                    acceptor = socket.create_connection((LOOPBACK, self._target), timeout=10)
                except OSError:
                    _close(requestor)
                    continue
                acceptor.settimeout(None)
                self._open.append(acceptor)
                for sock in (requestor, acceptor):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for source, sink, direction in (
                    (requestor, acceptor, Direction.FROM_REQUESTOR),
                    (acceptor, requestor, Direction.FROM_ACCEPTOR),
                ):
                    threading.Thread(target=self._pump, args=(source, sink, direction), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, direction: Direction) -> None:
        try:
            while True:
                header = _exactly(source, 6)
                pdu = header + _exactly(source, struct.unpack(">BBI", header)[2])
                if self._is_hit(direction, pdu[0]):
                    self._disturb(source, sink, pdu)
                else:
                    sink.sendall(pdu)
        except (OSError, EOFError):
            pass
        finally:
            _close(source)
            _close(sink)

    def _is_hit(self, direction: Direction, pdu_type: int) -> bool:
        fault = self._fault
        with self._lock:
            if self.happened or (direction, pdu_type) != (fault.direction, fault.pdu_type):
                return False
            self._passed += 1
            self.happened = self._passed == fault.nth
            return self.happened

    def _disturb(self, source: socket.socket, sink: socket.socket, pdu: bytes) -> None:
        match self._fault.action:
            case Action.CUT_BEFORE:
                raise EOFError
            case Action.CUT_WITHIN:
                sink.sendall(pdu[: max(3, len(pdu) // 2)])
                raise EOFError
            case Action.CUT_AFTER:
                sink.sendall(pdu)
                raise EOFError
            case Action.STALL:
                sink.sendall(pdu[: len(pdu) // 2])
                # The connection stays open, and nothing comes any more, until one of the two gives up.
                while source.recv(65536):
                    pass
                raise EOFError
            case Action.TRICKLE:
                step = max(1, len(pdu) // _PIECES)
                pause = threading.Event()
                for begin in range(0, len(pdu), step):
                    sink.sendall(pdu[begin : begin + step])
                    pause.wait(_TRICKLE_S)
            case Action.CORRUPT_TYPE:
                sink.sendall(b"\x77" + pdu[1:])
            case Action.CORRUPT_LENGTH:
                sink.sendall(pdu[:2] + b"\xff\xff\xff\xf0" + pdu[6:])
            case Action.DUPLICATE:
                sink.sendall(pdu + pdu)
            case Action.REORDER:
                header = _exactly(source, 6)
                sink.sendall(header + _exactly(source, struct.unpack(">BBI", header)[2]) + pdu)


def _exactly(sock: socket.socket, count: int) -> bytes:
    received = bytearray()
    while len(received) < count:
        piece = sock.recv(count - len(received))
        if not piece:
            raise EOFError
        received += piece
    return bytes(received)


def _close(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
