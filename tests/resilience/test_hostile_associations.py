"""Every byte stream of the hostile corpus on a connection of its own: the answers that it is owed, and nothing else."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator

import pytest

from dicom_node.ledger.balance import BalanceLedger
from dicom_node.verification import verify
from tests.support.hostile_associations import HostileStream, streams
from tests.support.memory import peak_growth
from tests.support.network import LOOPBACK, RawPeer, RunningReceiver, decode_command, running_receiver
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
