"""Associations that we request: what is negotiated, sent and understood, with peers that behave and that do not."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dicom_node.command_set import build_response
from dicom_node.data_phase import ReleaseRequested
from dicom_node.errors import (
    AssociationAborted,
    AssociationRejectedPermanent,
    AssociationRejectedTransient,
    ConnectionFailed,
    ContextRejected,
    NetworkTimeout,
)
from dicom_node.upper_layer import ProposedContext, RequestedAssociation, accept_association, open_association
from tests.support.network import CT, EXPLICIT, IMPLICIT, LOOPBACK, VERIFICATION, command, item, pdu, pdv, ui, us
from tests.support.peers import MockScp, closed_port

CONTEXTS = (
    ProposedContext(abstract_syntax=CT, transfer_syntaxes=(EXPLICIT,)),
    ProposedContext(abstract_syntax=CT, transfer_syntaxes=(IMPLICIT,)),
    ProposedContext(abstract_syntax=VERIFICATION, transfer_syntaxes=(IMPLICIT,)),
)


def request(port: int, **changes: object) -> RequestedAssociation:
    arguments: dict[str, object] = {
        "host": LOOPBACK,
        "port": port,
        "called_ae_title": "PACS",
        "calling_ae_title": "LOWDOSE",
        "contexts": CONTEXTS,
        "acse_timeout_s": 0.7,
        "dimse_timeout_s": 0.7,
    }
    return open_association(**{**arguments, **changes})  # type: ignore[arg-type]


@contextmanager
def raw_acceptor(behaviour: Callable[[socket.socket], None]) -> Iterator[int]:
    """Accept one connection and treat it as told, in a thread."""
    with socket.create_server((LOOPBACK, 0)) as server:

        def serve() -> None:
            sock, _ = server.accept()
            with sock:
                sock.settimeout(10)
                behaviour(sock)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join(10)
        assert not thread.is_alive()


def read_exactly(sock: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count and (piece := sock.recv(count - len(received))):
        received += piece
    return received


def read_pdu(sock: socket.socket) -> tuple[int, bytes]:
    """Return type and body of the next PDU; type 0 at the end of the connection."""
    header = read_exactly(sock, 6)
    if len(header) < 6:
        return 0, b""
    kind, _, length = struct.unpack(">BBI", header)
    return kind, read_exactly(sock, length)


def accept(sock: socket.socket, accepted: tuple[int, ...] = (1, 5), max_pdu: int = 16_384) -> None:
    """Answer the request: the first and the Verification context are accepted, the others not."""
    assert read_pdu(sock)[0] == 1
    syntaxes = {1: EXPLICIT, 3: IMPLICIT, 5: IMPLICIT}
    contexts = b"".join(
        item(0x21, bytes((n, 0, 0 if n in accepted else 4, 0)) + item(0x40, syntax.encode()))
        for n, syntax in syntaxes.items()
    )
    user = item(0x50, item(0x51, struct.pack(">I", max_pdu)) + item(0x52, b"1.2.3"))
    names = b"PACS".ljust(16) + b"LOWDOSE".ljust(16) + bytes(32)
    sock.sendall(pdu(2, struct.pack(">HH", 1, 0) + names + item(0x10, b"1.2.840.10008.3.1.1.1") + contexts + user))


def store_rsp(message_id: int = 1, status: int = 0, field: int = 0x8001) -> bytes:
    elements = ((0x0002, ui(CT)), (0x0100, us(field)), (0x0120, us(message_id)), (0x0800, us(0x0101)))
    return command(*elements, (0x0900, us(status)), (0x1000, ui("1.2.3")))


def store(association: RequestedAssociation, source: Path | bytes = b"abcd", offset: int = 0) -> int:
    return association.store(
        context_id=1, sop_class_uid=CT, sop_instance_uid="1.2.3", source=source, offset=offset
    ).status


# ---------------------------------------------------------------------- peers that behave


def test_twenty_thousand_stores_lose_no_response() -> None:
    def serve(sock: socket.socket) -> None:
        association = accept_association(
            sock,
            judge=lambda _: None,
            choose_transfer_syntax=lambda context: context.transfer_syntaxes[0],
            ae_title="PACS",
            max_pdu_bytes=1 << 20,
            acse_timeout_s=5,
            network_timeout_s=5,
        )
        phase = association.phase
        try:
            while True:
                context_id, message = phase.receive_command()
                phase.receive_data_set(context_id, len)
                phase.send_message(context_id, build_response(message, 0))
        except ReleaseRequested:
            phase.confirm_release()
            phase.close()

    with raw_acceptor(serve) as port, request(port, dimse_timeout_s=5.0) as association:
        assert {store(association) for _ in range(20_000)} == {0}


def test_file_goes_out_as_it_lies_on_disk(tmp_path: Path) -> None:
    body = os.urandom(3_000_000)
    path = tmp_path / "object"
    path.write_bytes(b"x" * 331 + body)
    received = bytearray()

    def serve(sock: socket.socket) -> None:
        accept(sock, max_pdu=4096)
        control = 0
        while control != 2:
            kind, fragment = read_pdu(sock)
            assert (kind, len(fragment) <= 4096) == (4, True)
            control = fragment[5]
            if not control & 1:
                received.extend(fragment[6:])
        sock.sendall(pdu(4, pdv(1, 3, store_rsp())))
        assert read_pdu(sock)[0] == 5
        sock.sendall(pdu(6, bytes(4)))

    with raw_acceptor(serve) as port, request(port) as association:
        assert store(association, path, offset=331) == 0
    assert received == body


@pytest.mark.parametrize("status", [0x0000, 0xB000, 0xA700, 0xC123])
def test_stock_pynetdicom_stores_and_answers(status: int) -> None:
    with MockScp(statuses={0: status}) as scp, request(scp.port) as association:
        assert association.echo() == 0
        context_id = association.context_for(CT, IMPLICIT)
        assert context_id is not None
        body = struct.pack("<HHI", 8, 0x16, 26) + CT.encode() + b"\0" + struct.pack("<HHI", 8, 0x18, 6) + b"1.2.3\0"
        response = association.store(context_id=context_id, sop_class_uid=CT, sop_instance_uid="1.2.3", source=body)
        assert response.status == status


def test_contexts_are_found_by_class_and_syntax() -> None:
    def serve(sock: socket.socket) -> None:
        accept(sock, accepted=(3, 5))
        assert read_pdu(sock)[0] == 5
        sock.sendall(pdu(6, bytes(4)))

    with raw_acceptor(serve) as port, request(port) as association:
        assert association.context_for(CT, IMPLICIT) == 3
        assert association.context_for(CT, EXPLICIT) is None
        assert sorted(association.accepted) == [3, 5]


# ---------------------------------------------------------------------- peers that refuse


def test_no_listener_is_a_failed_connection() -> None:
    with closed_port() as port, pytest.raises(ConnectionFailed):
        request(port)
    with pytest.raises(ConnectionFailed):
        request(104, host="no-such-host.invalid")


@pytest.mark.parametrize(
    ("numbers", "kind"),
    [
        ((1, 1, 7), AssociationRejectedPermanent),
        ((1, 1, 3), AssociationRejectedPermanent),
        ((2, 3, 2), AssociationRejectedTransient),
        ((2, 1, 1), AssociationRejectedTransient),
    ],
)
def test_rejections_carry_their_numbers(numbers: tuple[int, int, int], kind: type[Exception]) -> None:
    def serve(sock: socket.socket) -> None:
        read_pdu(sock)
        sock.sendall(pdu(3, bytes((0, *numbers))))

    with raw_acceptor(serve) as port, pytest.raises(kind) as caught:
        request(port)
    assert (caught.value.result, caught.value.source, caught.value.reason) == numbers  # type: ignore[attr-defined]


def test_a_peer_that_accepts_no_context_is_told_apart() -> None:
    def serve(sock: socket.socket) -> None:
        accept(sock, accepted=())
        assert read_pdu(sock)[0] == 7

    with raw_acceptor(serve) as port, pytest.raises(ContextRejected):
        request(port)


NEGOTIATIONS = {
    "silence": (lambda sock: (read_pdu(sock), read_pdu(sock)), NetworkTimeout),
    "closed": (lambda sock: read_pdu(sock), AssociationAborted),
    "aborted": (lambda sock: (read_pdu(sock), sock.sendall(pdu(7, bytes(4)))), AssociationAborted),
    "no DICOM": (lambda sock: sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"), AssociationAborted),
    "P-DATA": (lambda sock: sock.sendall(pdu(4, bytes(20))), AssociationAborted),
    "half an answer": (lambda sock: sock.sendall(pdu(2, bytes(200))[:50]), AssociationAborted),
    "a maximum of 4": (lambda sock: accept(sock, max_pdu=4), AssociationAborted),
}


@pytest.mark.parametrize(("behaviour", "kind"), NEGOTIATIONS.values(), ids=NEGOTIATIONS.keys())
def test_negotiations_that_fail_are_transient(
    behaviour: Callable[[socket.socket], None], kind: type[Exception]
) -> None:
    with raw_acceptor(behaviour) as port, pytest.raises(kind):
        request(port)


# ---------------------------------------------------------------------- peers that misbehave

ANSWERS = {
    "silence": ((), NetworkTimeout),
    "abort": ((pdu(7, bytes((0, 0, 2, 0))),), AssociationAborted),
    "release": ((pdu(5, bytes(4)),), AssociationAborted),
    "other message": ((pdu(4, pdv(1, 3, store_rsp(message_id=9))),), AssociationAborted),
    "other command": ((pdu(4, pdv(1, 3, store_rsp(field=0x8030))),), AssociationAborted),
    "request": ((pdu(4, pdv(1, 3, store_rsp(field=0x0001))),), AssociationAborted),
    "no DICOM": ((b"garbage!garbage!",), AssociationAborted),
    "half an answer": ((pdu(4, pdv(1, 3, store_rsp()))[:30],), NetworkTimeout),
}


@pytest.mark.parametrize(("answers", "kind"), ANSWERS.values(), ids=ANSWERS.keys())
def test_answers_that_are_none_end_the_association(answers: tuple[bytes, ...], kind: type[Exception]) -> None:
    def serve(sock: socket.socket) -> None:
        accept(sock)
        for _ in range(2):
            read_pdu(sock)
        for answer in answers:
            sock.sendall(answer)
        while read_pdu(sock)[0]:
            pass

    with raw_acceptor(serve) as port:
        association = request(port)
        with pytest.raises(kind):
            store(association)
        with pytest.raises(AssociationAborted):
            store(association)
        association.release()


def test_a_file_that_cannot_be_read_leaves_the_association_usable(tmp_path: Path) -> None:
    def serve(sock: socket.socket) -> None:
        accept(sock)
        for _ in range(2):
            read_pdu(sock)
        sock.sendall(pdu(4, pdv(1, 3, store_rsp(message_id=2))))
        assert read_pdu(sock)[0] == 5
        sock.sendall(pdu(6, bytes(4)))

    with raw_acceptor(serve) as port, request(port) as association:
        with pytest.raises(FileNotFoundError):
            store(association, tmp_path / "nothing")
        assert store(association) == 0


def test_an_error_in_the_block_aborts() -> None:
    last: list[int] = []

    def serve(sock: socket.socket) -> None:
        accept(sock)
        last.append(read_pdu(sock)[0])

    with raw_acceptor(serve) as port, pytest.raises(KeyError), request(port):
        raise KeyError
    assert last == [7]
