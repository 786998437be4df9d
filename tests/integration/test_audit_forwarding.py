"""Audit messages come to a syslog server over TLS and UDP, whatever state that is in, and none is left out."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import pytest

from config.observation import AuditSettings
from dicom_node.audit.chain import AuditChain, files_of, read_entries, verify
from dicom_node.audit.events import user_authentication
from dicom_node.audit.forwarding import Forwarder
from dicom_node.audit.messages import render_message
from dicom_node.audit.syslog import NotSent
from tests.support.audit import SyslogSink, valid
from tests.support.certificates import Authority
from tests.support.peers import LOOPBACK, find_free_port, wait_until

HEADER = re.compile(
    rb"<85>1 2027-01-15T08:00:\d\d\.000Z \S+ dicom-node \d+ DICOM\+RFC3881 - \xef\xbb\xbf(<\?xml.*)", re.S
)


def fill(folder: Path, count: int, first: int = 0) -> None:
    chain = AuditChain(folder, rotate_bytes=2000)
    for number in range(first, first + count):
        event = user_authentication(user=f"user-{number}", host="10.0.0.9", succeeded=True)
        at = 1_800_000_000.0 + number
        chain.append(render_message(event, at=at, source_id="node@host", patients=False), at)


def users(messages: list[bytes]) -> list[str]:
    """Return the user of each message, which must be in the form of RFC 5424 and valid by the schema."""
    found = []
    for message in messages:
        match = HEADER.fullmatch(message)
        assert match is not None, message
        root = valid(match[1].decode().split("?>", 1)[1])
        found.append(root.find("ActiveParticipant").get("UserID"))
    return found


def numbered(count: int, first: int = 0) -> list[str]:
    return [f"user-{number}" for number in range(first, first + count)]


def tls(port: int, authority: Authority, **changes: Any) -> AuditSettings:
    return AuditSettings(enabled=True, host=LOOPBACK, port=port, ca_file=authority.file, **changes)


def test_what_waits_comes_over_tls_in_its_order_and_once(tmp_path: Path) -> None:
    authority, folder = Authority(tmp_path / "ca"), tmp_path / "audit"
    folder.mkdir()
    us = authority.sign("node")
    fill(folder, 30)
    with SyslogSink(authority.sign("syslog"), authority=authority.file) as sink:
        settings = tls(sink.port, authority, certificate=us.certificate, key=us.key)
        assert Forwarder(settings, folder).step() == 30
        wait_until(lambda: len(sink.messages) == 30)
        # A restart sends nothing again.
        fill(folder, 2, first=30)
        assert Forwarder(settings, folder).step() == 2
        assert Forwarder(settings, folder).step() == 0
        wait_until(lambda: len(sink.messages) == 32)
        assert users(sink.messages) == numbered(32)
        # Without a certificate the server does not talk to us.
        fill(folder, 1, first=32)
        with pytest.raises(NotSent):
            Forwarder(tls(sink.port, authority), folder).step()


def test_a_server_that_is_away_or_hangs_up_gets_everything_later(tmp_path: Path) -> None:
    authority, folder = Authority(tmp_path / "ca"), tmp_path / "audit"
    folder.mkdir()
    port = find_free_port()
    forwarder = Forwarder(tls(port, authority), folder)
    fill(folder, 3)
    with pytest.raises(NotSent, match="refused"):
        forwarder.step()
    with SyslogSink(authority.sign("syslog"), port=port) as sink:
        sink.resets = 1
        with pytest.raises(NotSent):
            forwarder.step()
        assert forwarder.step() == 3
        wait_until(lambda: len(sink.messages) >= 3)
        assert users(sink.messages) == numbered(3)


def test_a_server_of_another_authority_gets_nothing(tmp_path: Path) -> None:
    authority, stranger, folder = Authority(tmp_path / "ca"), Authority(tmp_path / "x", "Other CA"), tmp_path / "audit"
    folder.mkdir()
    fill(folder, 1)
    with SyslogSink(stranger.sign("syslog")) as sink:
        with pytest.raises(NotSent, match="certificate is not accepted"):
            Forwarder(tls(sink.port, authority), folder).step()
        assert sink.messages == []


def test_udp_carries_a_message_in_each_datagram(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind((LOOPBACK, 0))
        sink.settimeout(20)
        settings = AuditSettings(enabled=True, host=LOOPBACK, port=sink.getsockname()[1], transport="udp")
        assert Forwarder(settings, tmp_path).step() == 3
        assert users([sink.recv(65536) for _ in range(3)]) == numbered(3)


def test_old_files_go_only_when_they_were_sent_and_the_chain_says_so(tmp_path: Path) -> None:
    authority, folder = Authority(tmp_path / "ca"), tmp_path / "audit"
    folder.mkdir()
    fill(folder, 30)
    count = len(files_of(folder))
    with SyslogSink(authority.sign("syslog")) as sink:
        settings = tls(sink.port, authority, keep_days=1)
        later = Forwarder(settings, folder, now=lambda: 1_800_000_000.0 + 86_430)
        assert later.remove_old() == 0
        later.step()
        removed = later.remove_old()
        assert 0 < removed < count
        entries, breaks = verify(folder)
        assert (breaks, len(files_of(folder))) == ([], count - removed)
        assert entries == sum(1 for _ in read_entries(folder))
        # The word of it goes to nobody, and the next ones do.
        fill(folder, 1, first=30)
        assert later.step() == 1
        wait_until(lambda: len(sink.messages) == 31)
        files_of(folder)[0].unlink()
        assert verify(folder)[1]
