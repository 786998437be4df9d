"""Every byte stream of the hostile corpus on a connection of its own: the answers that it is owed, and nothing else."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.ledger.balance import BalanceLedger
from dicom_node.verification import verify
from tests.support.hostile_associations import ECHO, OBJECT, STORE, HostileStream, streams
from tests.support.memory import peak_growth
from tests.support.network import (
    LOOPBACK,
    RawPeer,
    RunningReceiver,
    decode_command,
    pdu,
    pdv,
    running_receiver,
    store_rq,
)
from tests.support.peers import wait_until

RECEIVER_BYTES = 16 << 20
_PDU_NAMES = {2: "A-ASSOCIATE-AC", 6: "A-RELEASE-RP"}
_RESPONSES = {0x8001: "C-STORE-RSP", 0x8030: "C-ECHO-RSP"}


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningReceiver]:
    # Two seconds: as long as the machine may need for an answer, as short as a silent peer is to be cut off.
    with running_receiver(tmp_path_factory.mktemp("hostile"), acse_timeout_s=2.0, network_timeout_s=2.0) as running:
        with RawPeer(running.port) as peer:
            peer.associate()
            peer.store()
        yield running


@pytest.mark.parametrize("case", streams(), ids=str)
def test_a_hostile_stream_gets_the_answers_that_it_is_owed(receiver: RunningReceiver, case: HostileStream) -> None:
    with peak_growth() as growth:
        answers = exchange(receiver.port, case.stream)
        wait_until(lambda: receiver.receiver.associations == 0)
    assert growth.bytes < RECEIVER_BYTES
    assert answers == list(case.answers)
    check_serves_on(receiver)
    # Every good object in the corpus is the same one.
    assert receiver.rows("SELECT count(*) FROM instance") == [(1,)]


def check_serves_on(receiver: RunningReceiver) -> None:
    """A good peer is served, nothing half is left on disk, and every object is accounted for."""
    with RawPeer(receiver.port) as peer:
        assert peer.associate()[0] == 2
        assert peer.echo() == 0
        assert peer.store("1.2.3.4").status == 0
        peer.release()
    wait_until(lambda: receiver.receiver.associations == 0)
    assert not list(receiver.store.scratch.iterdir())
    found = verify(BalanceLedger(receiver.database), receiver.store, deep=False)
    assert (found.ok, found.orphans) == (True, ())


def exchange(port: int, stream: bytes, *, pieces: list[int] | None = None) -> list[str]:
    """Send a stream, cut after each of `pieces`, close our side, and return what comes back in words."""
    with socket.create_connection((LOOPBACK, port), timeout=20) as sock:
        with contextlib.suppress(OSError):
            begin = 0
            for end in [*(pieces or []), len(stream)]:
                sock.sendall(stream[begin:end])
                begin = end
            sock.shutdown(socket.SHUT_WR)
        return list(_answers(sock))


def _answers(sock: socket.socket) -> Iterator[str]:
    received = bytearray()
    with contextlib.suppress(ConnectionError):
        while piece := sock.recv(65_536):
            received += piece
    position = 0
    while position + 6 <= len(received):
        kind, _, length = struct.unpack_from(">BBI", received, position)
        body = bytes(received[position + 6 : position + 6 + length])
        assert len(body) == length, "an answer is cut off"
        position += 6 + length
        yield _in_words(kind, body)
    assert position == len(received), "bytes after the last answer"


def _in_words(kind: int, body: bytes) -> str:
    if kind == 3:
        return f"A-ASSOCIATE-RJ {body[1]},{body[2]},{body[3]}"
    if kind == 7:
        return f"A-ABORT {body[2]},{body[3]}"
    if kind != 4:
        return _PDU_NAMES[kind]
    found = decode_command(body[6:])
    field = int.from_bytes(found[0x0100], "little")
    name = _RESPONSES.get(field, f"RSP {field:04X}")
    return f"{name} {int.from_bytes(found[0x0900], 'little'):04X}"


# ---------------------------------------------------------------------- peers that take their time

TRICKLES = {
    "a command": (b"", pdu(4, pdv(1, 3, store_rq()))),
    "a PDU header": (STORE, pdu(4, pdv(1, 2, OBJECT))),
    "a data set": (STORE + pdu(4, pdv(1, 2, OBJECT))[:12], OBJECT),
}


@pytest.mark.parametrize(("begin", "rest"), TRICKLES.values(), ids=TRICKLES.keys())
def test_a_message_that_trickles_is_cut_off(tmp_path: Path, begin: bytes, rest: bytes) -> None:
    with running_receiver(tmp_path, network_timeout_s=0.6) as running, RawPeer(running.port) as peer:
        peer.associate()
        peer.send(begin)
        started = time.monotonic()
        with contextlib.suppress(OSError):
            # 0.1 s a byte: never silent for long, and in a day it would be done.
            for byte in rest:
                peer.send(bytes((byte,)))
                time.sleep(0.1)
        assert time.monotonic() - started < 8
        wait_until(lambda: running.receiver.associations == 0)
        check_serves_on(running)


def test_a_peer_that_reads_no_answer_is_cut_off(tmp_path: Path) -> None:
    with running_receiver(tmp_path, network_timeout_s=0.6) as running, peak_growth() as growth:
        with RawPeer(running.port, timeout_s=10) as peer:
            peer.associate()
            started = time.monotonic()
            with pytest.raises(OSError, match=r"reset|pipe"):
                while time.monotonic() - started < 60:
                    peer.send(ECHO * 1000)
        wait_until(lambda: running.receiver.associations == 0)
        check_serves_on(running)
    assert growth.bytes < RECEIVER_BYTES


def test_connections_that_say_nothing_are_cut_off_and_others_are_served(tmp_path: Path) -> None:
    with running_receiver(tmp_path, acse_timeout_s=0.6) as running:
        silent = [socket.create_connection((LOOPBACK, running.port)) for _ in range(20)]
        check_serves_on(running)
        for sock in silent:
            sock.settimeout(8)
            assert sock.recv(1) == b""
            sock.close()
