"""Behind a balancer: the peer's own address counts, if the balancer is known, and no other claim does."""

from __future__ import annotations

import logging
import socket
import struct
from pathlib import Path

import pytest
from pydantic import ValidationError

from config.settings import ReceiverSettings, SourceSettings
from tests.integration.test_tls_receiver import client
from tests.support.certificates import Authority, server_settings
from tests.support.network import LOOPBACK, RawPeer, RunningReceiver, associate_rq, running_receiver
from tests.support.peers import wait_until

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
MODALITY = SourceSettings(name="xray", ae_titles=("SENDER",), hosts=("10.77.0.5", "2001:db8::5"))
REJECTED, ACCEPTED = 3, 2


def header(source: str = "10.77.0.5", *, command: int = 0x21, extra: bytes = b"", port: int = 40_001) -> bytes:
    """Encode a header of version 2, with no code of the product."""
    if ":" in source:
        family, size = 0x21, socket.AF_INET6
        addresses = socket.inet_pton(size, source) + socket.inet_pton(size, "2001:db8::1")
    else:
        family, addresses = 0x11, socket.inet_aton(source) + socket.inet_aton("10.77.0.1")
    body = addresses + struct.pack("!HH", port, 104) + extra
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


@pytest.fixture
def receiver(tmp_path: Path):  # type: ignore[no-untyped-def]
    with running_receiver(
        tmp_path / "node", sources=[MODALITY], proxy_protocol_from=("127.0.0.0/8",), acse_timeout_s=1.0
    ) as running:
        yield running


@pytest.mark.parametrize("source", ["10.77.0.5", "2001:db8::5"])
def test_the_address_in_the_header_is_the_peer_s(receiver: RunningReceiver, source: str) -> None:
    # Further values, as a balancer may send them.
    with RawPeer(receiver.port) as peer:
        peer.send(header(source, extra=b"\x03\0\x04abcd"))
        assert peer.associate()[0] == ACCEPTED
        assert peer.store("1.2.3.4").status == 0
        peer.release()
    assert receiver.rows("SELECT host, port FROM association") == [(source, 40_001)]


def test_an_address_that_is_no_source_s_is_rejected_and_named(receiver: RunningReceiver) -> None:
    with RawPeer(receiver.port) as peer:
        peer.send(header("10.77.0.6"))
        assert peer.associate()[0] == REJECTED
    assert receiver.rows("SELECT host FROM rejection") == [("10.77.0.6",)]


def test_a_header_in_pieces_with_the_request_behind_it_is_read_exactly(receiver: RunningReceiver) -> None:
    with RawPeer(receiver.port) as peer:
        whole = header() + associate_rq()
        for begin in range(0, 40, 7):
            peer.send(whole[begin : begin + 7])
        peer.send(whole[42:])
        assert peer.receive()[0] == ACCEPTED
        peer.release()


@pytest.mark.parametrize(
    "sent",
    [
        associate_rq(),
        b"PROXY TCP4 10.77.0.5 10.77.0.1 40001 104\r\n",
        header(command=0x2F),
        header()[:13] + b"\x31" + header()[14:],  # a Unix socket
        SIGNATURE + struct.pack("!BBH", 0x21, 0x11, 4) + b"abcd",
        SIGNATURE + struct.pack("!BBH", 0x21, 0x11, 65_535),
        header()[:20],
    ],
    ids=["none", "version 1", "command", "family", "too short", "too long", "cut off"],
)
def test_a_balancer_that_does_not_say_for_whom_is_told_in_the_log_and_gets_nothing(
    receiver: RunningReceiver, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with RawPeer(receiver.port) as peer:
        peer.send(sent)
        assert peer.is_closed()
    wait_until(lambda: bool(receiver.rows("SELECT host FROM rejection")), what="the note")
    assert receiver.rows("SELECT calling_ae_title, host FROM rejection") == [("", LOOPBACK)]
    assert "No association through a balancer" in caplog.text


def test_a_check_is_no_fault(receiver: RunningReceiver, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    # Once as haproxy does with check-send-proxy, once as it does without.
    with RawPeer(receiver.port) as peer:
        peer.send(SIGNATURE + struct.pack("!BBH", 0x20, 0, 0))
        peer.sock.shutdown(socket.SHUT_WR)
        assert peer.is_closed()
    RawPeer(receiver.port).sock.close()
    wait_until(lambda: caplog.text.count("No association") == 2, what="both ends")
    assert receiver.rows("SELECT count(*) FROM rejection") == [(0,)]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_from_anybody_else_a_header_is_no_pdu(tmp_path: Path) -> None:
    with (
        running_receiver(tmp_path / "node", sources=[MODALITY], proxy_protocol_from=("10.77.0.0/24",)) as running,
        RawPeer(running.port) as peer,
    ):
        peer.send(header())
        with pytest.raises((AssertionError, EOFError, ConnectionResetError)):
            assert peer.associate()[0] == ACCEPTED
        assert running.rows("SELECT count(*) FROM association") == [(0,)]


def test_the_header_comes_before_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    pair = authority.sign("node.hospital.example", names=("127.0.0.1",))
    modality = authority.sign("xray1.hospital.example", names=("xray1.hospital.example",))
    with running_receiver(
        tmp_path / "node",
        sources=[MODALITY],
        tls=server_settings(pair, authority),
        proxy_protocol_from=("127.0.0.1",),
    ) as running:
        context = client(authority, modality)
        with RawPeer(running.receiver.tls_port) as peer:
            peer.send(header())
            peer.sock = context.wrap_socket(peer.sock, server_hostname=LOOPBACK)
            assert peer.associate()[0] == ACCEPTED
            peer.release()
        assert running.rows("SELECT host FROM association") == [("10.77.0.5",)]


def test_a_balancer_is_an_address_or_a_network() -> None:
    assert ReceiverSettings(proxy_protocol_from=("10.1.0.5", "10.2.0.9/28")).proxy_protocol_from == (
        "10.1.0.5/32",
        "10.2.0.0/28",
    )
    with pytest.raises(ValidationError, match=r"an address, or a network such as"):
        ReceiverSettings(proxy_protocol_from=("balancer.example",))
