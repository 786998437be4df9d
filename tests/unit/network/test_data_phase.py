"""The data phase between two ends of a socket: what it takes, what it refuses, and what it sends."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_node import data_phase
from dicom_node.data_phase import (
    ConnectionLost,
    DataPhase,
    DataPhaseError,
    Interrupted,
    PeerAborted,
    PeerSilent,
    ProtocolViolation,
    ReleaseRequested,
)
from tests.support.network import pdu, pdv, store_rq

MAX_PDU = 4096


def make_phase(sock: socket.socket, **changes: float) -> DataPhase:
    values = {"max_pdu_bytes": MAX_PDU, "peer_max_pdu_bytes": 100, "idle_timeout_s": 5.0, "message_timeout_s": 5.0}
    return DataPhase(sock, contexts={1, 3}, **{**values, **changes})  # type: ignore[arg-type]


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    theirs.settimeout(5)
    return ours, theirs


@pytest.fixture
def ends() -> Iterator[tuple[DataPhase, socket.socket]]:
    ours, theirs = tcp_pair()
    with ours, theirs:
        yield make_phase(ours), theirs


def receive_whole(phase: DataPhase) -> tuple[int, str, bytes]:
    context_id, command = phase.receive_command()
    received = bytearray()
    if command.has_data_set:
        phase.receive_data_set(context_id, received.extend)
    return context_id, command.sop_instance_uid, bytes(received)


def receive_all(phase: DataPhase) -> None:
    while True:
        receive_whole(phase)


MESSAGES = {
    "one PDU for all": pdu(4, pdv(1, 3, store_rq()) + pdv(1, 2, b"abcdef")),
    "PDU per PDV": pdu(4, pdv(1, 3, store_rq())) + pdu(4, pdv(1, 0, b"ab")) + pdu(4, pdv(1, 2, b"cdef")),
    "fragmented command": b"".join(
        pdu(4, pdv(1, 1 if n < 10 else 3, store_rq()[n * 8 : n * 8 + 8 if n < 10 else None])) for n in range(11)
    )
    + pdu(4, pdv(1, 2, b"abcdef")),
    "empty fragments": pdu(4, pdv(1, 1, b"") + pdv(1, 3, store_rq()) + pdv(1, 0, b""))
    + pdu(4, pdv(1, 0, b"abcdef") + pdv(1, 2, b"")),
    "one byte fragments": pdu(4, pdv(1, 3, store_rq()))
    + pdu(4, b"".join(pdv(1, 2 * (n == 5), b"abcdef"[n : n + 1]) for n in range(6))),
}


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES.keys())
def test_fragments_make_the_same_message_however_they_are_cut(
    ends: tuple[DataPhase, socket.socket], message: bytes
) -> None:
    phase, peer = ends
    peer.sendall(message + message)
    assert receive_whole(phase) == (1, "1.2.3.4", b"abcdef")
    assert receive_whole(phase) == (1, "1.2.3.4", b"abcdef")


def test_segments_may_end_anywhere() -> None:
    ours, theirs = tcp_pair()
    with ours, theirs:
        phase = make_phase(ours)
        sender = threading.Thread(target=_send_slowly, args=(theirs, MESSAGES["PDU per PDV"]))
        sender.start()
        assert receive_whole(phase) == (1, "1.2.3.4", b"abcdef")
        sender.join()


@pytest.mark.parametrize("cut", range(1, 12))
def test_headers_may_be_cut_between_two_reads(ends: tuple[DataPhase, socket.socket], cut: int) -> None:
    phase, peer = ends
    message = MESSAGES["one PDU for all"]
    peer.sendall(message + message[:cut])
    first = receive_whole(phase)
    peer.sendall(message[cut:])
    assert first == receive_whole(phase) == (1, "1.2.3.4", b"abcdef")


def _send_slowly(sock: socket.socket, encoded: bytes) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for n in range(len(encoded)):
        sock.sendall(encoded[n : n + 1])
        time.sleep(0.0002)


def test_data_sets_larger_than_the_buffer_arrive_whole(ends: tuple[DataPhase, socket.socket]) -> None:
    phase, peer = ends
    body = bytes(range(256)) * 8192
    step = MAX_PDU - 6
    encoded = pdu(4, pdv(1, 3, store_rq())) + b"".join(
        pdu(4, pdv(1, 2 if n + step >= len(body) else 0, body[n : n + step])) for n in range(0, len(body), step)
    )
    sender = threading.Thread(target=peer.sendall, args=(encoded,))
    sender.start()
    assert receive_whole(phase)[2] == body
    sender.join()


COMMAND = pdu(4, pdv(1, 3, store_rq()))
VIOLATIONS = {
    "unknown PDU type": (pdu(0x47, b""), (2, 1)),
    "association request again": (pdu(1, bytes(68)), (2, 2)),
    "release confirmed without request": (pdu(6, bytes(4)), (2, 2)),
    "PDU longer than announced": (struct.pack(">BBI", 4, 0, MAX_PDU + 100), (2, 6)),
    "PDU without PDV": (pdu(4, b"") + COMMAND, (2, 6)),
    "PDV without control byte": (pdu(4, struct.pack(">IB", 1, 1) + bytes(5)), (2, 6)),
    "PDV longer than its PDU": (pdu(4, struct.pack(">IBB", 50, 1, 3) + bytes(20)), (2, 6)),
    "rest behind the last PDV": (pdu(4, pdv(1, 3, store_rq()) + b"abc"), (2, 6)),
    "context not accepted": (pdu(4, pdv(5, 3, store_rq())), (2, 6)),
    "data without command": (pdu(4, pdv(1, 2, b"ab")), (0, 0)),
    "command inside data": (COMMAND + pdu(4, pdv(1, 0, b"ab")) + COMMAND, (0, 0)),
    "data inside command": (pdu(4, pdv(1, 1, store_rq()[:20]) + pdv(1, 2, b"ab")), (0, 0)),
    "data on another context": (COMMAND + pdu(4, pdv(3, 2, b"ab")), (0, 0)),
    "command on two contexts": (pdu(4, pdv(1, 1, store_rq()[:20]) + pdv(3, 3, store_rq()[20:])), (0, 0)),
    "command set too long": (pdu(4, pdv(1, 1, bytes(4000))) * 20, (0, 0)),
    "no command set": (pdu(4, pdv(1, 3, b"nonsense")), (0, 0)),
}


@pytest.mark.parametrize(("encoded", "source_and_reason"), VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_violations_name_what_the_abort_must_say(
    ends: tuple[DataPhase, socket.socket], encoded: bytes, source_and_reason: tuple[int, int]
) -> None:
    phase, peer = ends
    peer.sendall(encoded)
    with pytest.raises(ProtocolViolation) as caught:
        receive_all(phase)
    assert (caught.value.source, caught.value.reason) == source_and_reason


@settings(max_examples=150)
@given(st.binary(max_size=400))
def test_any_bytes_end_in_an_error_of_the_data_phase(encoded: bytes) -> None:
    ours, theirs = tcp_pair()
    with ours, theirs:
        theirs.sendall(encoded)
        theirs.close()
        with pytest.raises(DataPhaseError):
            receive_all(make_phase(ours))


def test_release_abort_and_loss_are_told_apart(ends: tuple[DataPhase, socket.socket]) -> None:
    phase, peer = ends
    peer.sendall(COMMAND + pdu(5, bytes(4)) + pdu(7, bytes((0, 0, 2, 5))))
    phase.receive_command()
    with pytest.raises(ReleaseRequested):
        phase.receive_data_set(1, len)
    with pytest.raises(PeerAborted) as caught:
        phase.receive_command()
    assert (caught.value.source, caught.value.reason) == (2, 5)
    peer.close()
    with pytest.raises(ConnectionLost):
        phase.receive_command()


def test_silence_ends_after_the_idle_timeout() -> None:
    ours, theirs = tcp_pair()
    with ours, theirs:
        phase = make_phase(ours, idle_timeout_s=0.2)
        begin = time.monotonic()
        with pytest.raises(PeerSilent):
            phase.receive_command()
        assert 0.15 < time.monotonic() - begin < 2


def test_a_trickle_is_cut_off_though_it_is_never_silent() -> None:
    ours, theirs = tcp_pair()
    with ours, theirs:
        phase = make_phase(ours, idle_timeout_s=1.0, message_timeout_s=0.3)
        stop = threading.Event()

        def trickle() -> None:
            for byte in COMMAND:
                if stop.wait(0.05):
                    return
                theirs.sendall(bytes((byte,)))

        sender = threading.Thread(target=trickle)
        sender.start()
        begin = time.monotonic()
        with pytest.raises(PeerSilent):
            phase.receive_command()
        assert time.monotonic() - begin < 1.5
        stop.set()
        sender.join()


def test_interrupt_ends_a_receive_even_while_data_flows(ends: tuple[DataPhase, socket.socket]) -> None:
    phase, peer = ends
    stop = threading.Event()

    def flood() -> None:
        peer.sendall(COMMAND)
        while not stop.is_set():
            try:
                peer.sendall(pdu(4, pdv(1, 0, bytes(4000))))
            except OSError:
                return

    sender = threading.Thread(target=flood)
    sender.start()
    threading.Timer(0.2, phase.interrupt).start()
    with pytest.raises(Interrupted):
        receive_whole(phase)
    stop.set()
    phase.close()
    sender.join()


@pytest.mark.parametrize("peer_max", [8, 9, 100, 16_384, 0])
@pytest.mark.parametrize("size", [0, 1, 93, 94, 95, 5000])
def test_sent_pdus_keep_to_the_maximum_of_the_peer(peer_max: int, size: int) -> None:
    ours, theirs = tcp_pair()
    with ours, theirs:
        phase = make_phase(ours, peer_max_pdu_bytes=peer_max)
        body = bytes(n % 251 for n in range(size))
        sender = threading.Thread(target=phase.send_message, args=(1, store_rq(), memoryview(body)))
        sender.start()
        fragments = list(_read_fragments(theirs))
        sender.join()
    assert all(length <= (peer_max or 1 << 20) for length, _, _ in fragments)
    assert all(len(payload) % 2 == 0 for _, _, payload in fragments)
    assert b"".join(p for _, control, p in fragments if control & 1) == store_rq()
    assert b"".join(p for _, control, p in fragments if not control & 1) == body + b"\0" * (size % 2)
    assert [control for _, control, _ in fragments if control & 2] == [3, 2]


def _read_fragments(sock: socket.socket) -> Iterator[tuple[int, int, bytes]]:
    control = 0
    with sock.makefile("rb") as stream:
        while control != 2:
            _, _, length, pdv_length, _, control = struct.unpack(">BBIIBB", stream.read(12))
            yield length, control, stream.read(pdv_length - 2)


def test_large_data_sets_are_sent_in_batches_without_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_phase, "_SEND_BATCH_BYTES", 10_000)
    ours, theirs = tcp_pair()
    with ours, theirs:
        phase = make_phase(ours, peer_max_pdu_bytes=506)
        body = bytes(n % 251 for n in range(123_456))
        sender = threading.Thread(target=phase.send_message, args=(1, store_rq(), memoryview(body)))
        sender.start()
        fragments = list(_read_fragments(theirs))
        sender.join()
    assert b"".join(p for _, control, p in fragments if not control & 1) == body


def test_a_maximum_that_holds_no_fragment_is_a_violation() -> None:
    ours, theirs = tcp_pair()
    with ours, theirs, pytest.raises(ProtocolViolation):
        make_phase(ours, peer_max_pdu_bytes=7)


def test_a_peer_that_takes_nothing_is_given_up() -> None:
    ours, theirs = tcp_pair()
    with ours, theirs:
        phase = make_phase(ours, idle_timeout_s=0.2, peer_max_pdu_bytes=0)
        with pytest.raises(PeerSilent):
            phase.send_message(1, store_rq(), memoryview(bytes(50_000_000)))


def test_our_abort_reaches_a_peer_that_is_still_sending(ends: tuple[DataPhase, socket.socket]) -> None:
    phase, peer = ends
    peer.sendall(COMMAND)
    phase.receive_command()
    phase.abort(2, 6)
    closer = threading.Thread(target=phase.close)
    closer.start()
    for _ in range(200):
        peer.sendall(bytes(50_000))
    assert peer.recv(100) == pdu(7, bytes((0, 0, 2, 6)))
    peer.close()
    closer.join()


def test_release_collision_is_confirmed_on_both_sides(ends: tuple[DataPhase, socket.socket]) -> None:
    phase, peer = ends
    peer.sendall(COMMAND + pdu(5, bytes(4)) + pdu(6, bytes(4)))
    assert phase.request_release(5)
    assert peer.recv(20) == pdu(5, bytes(4)) + pdu(6, bytes(4))


def test_release_without_an_answer_ends_in_abort(ends: tuple[DataPhase, socket.socket]) -> None:
    phase, peer = ends
    begin = time.monotonic()
    assert not phase.request_release(0.2)
    assert time.monotonic() - begin < 4
    assert peer.recv(100) == pdu(5, bytes(4)) + pdu(7, bytes(4)[:2] + bytes((2, 0)))
