"""DICOM over TLS as acceptor: who gets through, in which versions and suites, and how everything ends."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.settings import SourceSettings
from dicom_node.tls import CIPHERS
from tests.support.certificates import Authority, Pair, server_settings
from tests.support.items import write_image
from tests.support.network import (
    LOOPBACK,
    RawPeer,
    RunningReceiver,
    associate_rq,
    data_set,
    pdu,
    pdv,
    running_receiver,
    store_rq,
)
from tests.support.peers import find_program, requires_dcmtk, wait_until

ANYBODY = SourceSettings(name="tests", ae_titles=("SENDER", "STORESCU", "ECHOSCU"), hosts=("127.0.0.0/8",))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def node(authority: Authority) -> Pair:
    return authority.sign("node.hospital.example", names=("127.0.0.1", "node.hospital.example"))


@pytest.fixture(scope="module")
def modality(authority: Authority) -> Pair:
    return authority.sign("xray1.hospital.example", names=("xray1.hospital.example",))


@pytest.fixture
def receiver(tmp_path: Path, authority: Authority, node: Pair) -> Iterator[RunningReceiver]:
    with running_receiver(tmp_path / "data", sources=[ANYBODY], tls=server_settings(node, authority)) as running:
        yield running


def client(authority: Authority, pair: Pair | None = None) -> ssl.SSLContext:
    """A peer's context, made without the product's code."""
    context = ssl.create_default_context(cafile=str(authority.file))
    if pair is not None:
        context.load_cert_chain(pair.certificate, pair.key)
    return context


def rejections(running: RunningReceiver) -> list[str]:
    return [str(row[0]) for row in running.rows("SELECT reason FROM rejection ORDER BY id")]


def refusal(running: RunningReceiver, context: ssl.SSLContext) -> None:
    """See that a peer is not let in; with TLS 1.3 it learns so only after its own side of the handshake."""
    with pytest.raises((OSError, EOFError)), RawPeer(running.receiver.tls_port, context=context) as peer:
        peer.associate()


# ---------------------------------------------------------------------- services


def test_an_object_comes_over_tls_as_it_was_sent(
    receiver: RunningReceiver, authority: Authority, modality: Pair
) -> None:
    large = data_set("1.2.3.4", pixels=bytes(range(256)) * 40_000)
    with RawPeer(receiver.receiver.tls_port, context=client(authority, modality)) as peer:
        assert peer.associate()[0] == 2
        assert peer.echo() == 0
        pieces = [large[n : n + 16_000] for n in range(0, len(large), 16_000)]
        peer.send(pdu(4, pdv(1, 3, store_rq())))
        for n, piece in enumerate(pieces):
            peer.send(pdu(4, pdv(1, 2 if n == len(pieces) - 1 else 0, piece)))
        assert peer.response().status == 0
        peer.release()
    assert [stored[-len(large) :] for stored in receiver.stored_files()] == [large]
    assert receiver.rows("SELECT outcome FROM association") == [("released",)]


def test_both_ports_are_served_at_once_or_tls_alone(
    tmp_path: Path, receiver: RunningReceiver, authority: Authority, node: Pair, modality: Pair
) -> None:
    with (
        RawPeer(receiver.port) as plain,
        RawPeer(receiver.receiver.tls_port, context=client(authority, modality)) as secure,
    ):
        assert plain.associate()[0] == secure.associate()[0] == 2
        assert plain.echo() == secure.echo() == 0
    tls = server_settings(node, authority, only=True)
    with running_receiver(tmp_path / "only", sources=[ANYBODY], tls=tls) as alone:
        with RawPeer(alone.receiver.tls_port, context=client(authority, modality)) as secure:
            assert secure.associate()[0] == 2
        with pytest.raises(RuntimeError):
            _ = alone.port


@requires_dcmtk
@pytest.mark.parametrize("profile", ["--profile-bcp195-nd", "--profile-bcp195", "--profile-bcp195-ex"])
def test_dcmtk_stores_with_each_of_its_bcp_195_profiles(
    tmp_path: Path, receiver: RunningReceiver, authority: Authority, profile: str
) -> None:
    # An RSA key too, as DCMTK's extended profile has no suite for others.
    pair = authority.sign("dcmtk", kind="2048", file=f"dcmtk{profile}")
    image = write_image(tmp_path, 1)
    done = dcmtk("storescu", receiver, authority, pair, profile, str(image))
    if profile == "--profile-bcp195-ex":
        # Its suites are of RSA keys alone, or of 256 bits: what both sides have in common decides.
        assert done.returncode == 0 or "handshake" in done.stderr.lower(), done.stderr
        return
    assert done.returncode == 0, done.stderr
    assert len(receiver.stored_files()) == 1


def dcmtk(
    name: str, running: RunningReceiver, authority: Authority, pair: Pair | None, *options: str
) -> subprocess.CompletedProcess[str]:
    program = find_program(name)
    assert program is not None
    ours = ["+tla"] if pair is None else ["+tls", str(pair.key), str(pair.certificate)]
    files = [option for option in options if not option.startswith("-")]
    switches = [option for option in options if option.startswith("-")]
    address = [LOOPBACK, str(running.receiver.tls_port)]
    return subprocess.run(
        [program, *ours, "+cf", str(authority.file), *switches, "-aec", "LOWDOSE", *address, *files],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@requires_dcmtk
def test_without_a_certificate_dcmtk_comes_in_only_where_none_is_required(
    tmp_path: Path, receiver: RunningReceiver, authority: Authority, node: Pair
) -> None:
    assert dcmtk("echoscu", receiver, authority, None).returncode != 0
    wait_until(lambda: bool(rejections(receiver)), what="the rejection in the ledger")
    assert "it showed no certificate" in rejections(receiver)[0]
    tls = server_settings(node, authority, client_certificates="optional")
    with running_receiver(tmp_path / "optional", sources=[ANYBODY], tls=tls) as running:
        done = dcmtk("echoscu", running, authority, None)
        assert done.returncode == 0, done.stderr
    tls = server_settings(node, authority, client_certificates="none")
    with running_receiver(tmp_path / "none", sources=[ANYBODY], tls=tls) as running:
        assert dcmtk("echoscu", running, authority, None).returncode == 0


# ---------------------------------------------------------------------- the profile


def handshake(running: RunningReceiver, authority: Authority, pair: Pair, *options: str) -> tuple[bool, str]:
    program = find_program("openssl")
    assert program is not None
    files = ["-cert", str(pair.certificate), "-key", str(pair.key), "-CAfile", str(authority.file)]
    address = f"{LOOPBACK}:{running.receiver.tls_port}"
    done = subprocess.run(
        [program, "s_client", "-connect", address, *options, *files, "-verify_return_error"],
        input="",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return "Cipher is (NONE)" not in done.stdout and done.returncode == 0, done.stdout + done.stderr


requires_openssl = pytest.mark.skipif(find_program("openssl") is None, reason="openssl is not installed")


@requires_openssl
@pytest.mark.parametrize(
    ("options", "is_spoken"),
    [
        (("-tls1_3",), True),
        (("-tls1_2",), True),
        (("-tls1_1", "-cipher", "ALL:@SECLEVEL=0"), False),
        (("-tls1", "-cipher", "ALL:@SECLEVEL=0"), False),
        (("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES256-SHA"), False),
        (("-tls1_2", "-cipher", "AES128-GCM-SHA256:AES256-SHA"), False),
        (("-tls1_2", "-cipher", "DHE-RSA-AES128-GCM-SHA256"), False),
        (("-tls1_2", "-cipher", "aNULL:eNULL:@SECLEVEL=0"), False),
        (("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"), True),
        (("-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"), True),
    ],
)
def test_versions_and_suites_are_those_of_the_profile(
    receiver: RunningReceiver, authority: Authority, modality: Pair, options: tuple[str, ...], is_spoken: bool
) -> None:
    done, said = handshake(receiver, authority, modality, *options)
    assert done is is_spoken, said


@requires_openssl
def test_a_receiver_with_an_rsa_key_has_the_suites_for_it(tmp_path: Path, authority: Authority, modality: Pair) -> None:
    rsa = server_settings(authority.sign("rsa", kind="2048"), authority)
    with running_receiver(tmp_path / "rsa", sources=[ANYBODY], tls=rsa) as running:
        for suite in CIPHERS:
            done, said = handshake(running, authority, modality, "-tls1_2", "-cipher", suite)
            assert done is ("RSA" in suite), said
    newest = server_settings(authority.sign("newest"), authority, min_version="1.3")
    with running_receiver(tmp_path / "newest", sources=[ANYBODY], tls=newest) as running:
        assert handshake(running, authority, modality, "-tls1_3")[0]
        assert not handshake(running, authority, modality, "-tls1_2")[0]


@requires_openssl
def test_there_are_no_session_tickets(receiver: RunningReceiver, authority: Authority, modality: Pair) -> None:
    for version in ("-tls1_2", "-tls1_3"):
        done, said = handshake(receiver, authority, modality, version)
        assert done
        assert "session ticket" not in said.lower()


def test_a_resumed_session_is_still_that_of_its_certificate(
    tmp_path: Path, authority: Authority, node: Pair, modality: Pair
) -> None:
    context = client(authority, modality)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    bound = SourceSettings(name="xray", ae_titles=("SENDER",), certificates=("xray1.hospital.example",))
    with running_receiver(tmp_path / "data", sources=[bound], tls=server_settings(node, authority)) as running:
        with RawPeer(running.receiver.tls_port, context=context) as peer:
            assert isinstance(peer.sock, ssl.SSLSocket)
            session = peer.sock.session
        tcp = socket.create_connection((LOOPBACK, running.receiver.tls_port), timeout=15)
        with context.wrap_socket(tcp, server_hostname=LOOPBACK, session=session) as again:
            assert again.session_reused
            again.sendall(associate_rq())
            assert again.recv(1) == b"\x02"


# ---------------------------------------------------------------------- whom it does not let in


def test_strangers_certificates_are_refused_and_the_reason_is_told_once(
    tmp_path: Path,
    receiver: RunningReceiver,
    authority: Authority,
    caplog: pytest.LogCaptureFixture,
) -> None:
    strange = Authority(tmp_path / "other", "Other CA").sign("xray1.hospital.example")
    expired = authority.sign("old", days=-3)
    weak = authority.sign("weak", kind="1024")
    caplog.set_level(logging.INFO)
    expected = (
        (client(authority, strange), "the authority of its certificate is not known"),
        (client(authority, expired), "is expired"),
        (client(authority), "it showed no certificate"),
    )
    for n, (context, reason) in enumerate(expected, 1):
        refusal(receiver, context)
        wait_until(lambda n=n: len(rejections(receiver)) == n, what="the rejection in the ledger")
        assert reason in rejections(receiver)[-1]
        lines = [r for r in caplog.records if reason in str(r.__dict__.get("reason", ""))]
        assert len(lines) == 1, [r.__dict__ for r in lines]
        assert lines[0].host == LOOPBACK  # type: ignore[attr-defined]
    context = ssl.create_default_context(cafile=str(authority.file))
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.load_cert_chain(weak.certificate, weak.key)
    refusal(receiver, context)
    wait_until(lambda: len(rejections(receiver)) == len(expected) + 1, what="the rejection of a short key")
    assert "too short" in rejections(receiver)[-1]
    assert receiver.rows("SELECT count(*) FROM association") == [(0,)]


def test_who_calls_the_wrong_port_is_told_so(receiver: RunningReceiver, authority: Authority, modality: Pair) -> None:
    with pytest.raises((OSError, EOFError)), RawPeer(receiver.receiver.tls_port) as plain:
        plain.associate()
    wait_until(lambda: len(rejections(receiver)) == 1, what="the first rejection")
    assert "it speaks no TLS on this port" in rejections(receiver)[0]
    with pytest.raises((OSError, EOFError)):
        RawPeer(receiver.port, context=client(authority, modality))
    wait_until(lambda: len(rejections(receiver)) == 2, what="the second rejection")
    assert "let it call tls.port" in rejections(receiver)[1]


def test_an_ae_title_that_is_bound_to_a_certificate_can_not_be_borrowed(
    tmp_path: Path, authority: Authority, node: Pair, modality: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    other = authority.sign("ct2.hospital.example", names=())
    bound = SourceSettings(name="xray", ae_titles=("SENDER",), certificates=("XRAY1.hospital.example",))
    pinned = SourceSettings(name="ct", ae_titles=("CT2",), certificates=(f"SHA256:{other.fingerprint.upper()}",))
    tls = server_settings(node, authority, client_certificates="optional")
    with running_receiver(tmp_path / "data", sources=[bound, pinned], tls=tls) as running:
        port = running.receiver.tls_port
        with RawPeer(port, context=client(authority, modality)) as right:
            assert right.associate()[0] == 2
        with RawPeer(port, context=client(authority, other)) as right:
            assert right.associate(associate_rq(calling="CT2"))[0] == 2
        caplog.set_level(logging.INFO)
        for context, title in (
            (client(authority, other), "SENDER"),
            (client(authority, modality), "CT2"),
            (client(authority), "SENDER"),
            (None, "SENDER"),
        ):
            secure = context is not None
            with RawPeer(port if secure else running.port, context=context) as wrong:
                assert wrong.associate(associate_rq(calling=title)) == (3, bytes((0, 1, 1, 3))), title
        stranger = authority.sign("portable7", names=())
        with RawPeer(port, context=client(authority, stranger)) as wrong:
            assert wrong.associate(associate_rq(calling="NOBODY"))[0] == 3
        told = rejections(running)
    assert told[0].endswith('add to its certificates:\n"ct2.hospital.example"')
    assert "does not have" in told[1]
    assert "showed no certificate" in told[2]
    assert "came without TLS, which source 'xray' requires" in told[3]
    assert 'certificates = ["portable7"]' in told[4]
    assert sum("NOBODY" in str(record.__dict__.get("reason", "")) for record in caplog.records) == 1


def test_a_source_can_require_tls_of_any_certificate(
    tmp_path: Path, authority: Authority, node: Pair, modality: Pair
) -> None:
    source = SourceSettings(name="xray", ae_titles=("SENDER",), tls="required")
    with running_receiver(tmp_path / "data", sources=[source], tls=server_settings(node, authority)) as running:
        with RawPeer(running.receiver.tls_port, context=client(authority, modality)) as secure:
            assert secure.associate()[0] == 2
        with RawPeer(running.port) as plain:
            assert plain.associate() == (3, bytes((0, 1, 1, 3)))


# ---------------------------------------------------------------------- time-outs and ends


def test_silent_and_trickling_peers_hold_up_nobody_and_are_cut_off(
    tmp_path: Path, authority: Authority, node: Pair, modality: Pair
) -> None:
    tls = server_settings(node, authority)
    with running_receiver(tmp_path / "data", sources=[ANYBODY], tls=tls, acse_timeout_s=3.0) as running:
        port = running.receiver.tls_port
        silent = [socket.create_connection((LOOPBACK, port), timeout=20) for _ in range(20)]
        trickler = socket.create_connection((LOOPBACK, port), timeout=20)
        stop = threading.Event()

        def trickle() -> None:
            with contextlib.suppress(OSError):
                # The beginning of a ClientHello of 500 bytes, which never comes to its end.
                for byte in b"\x16\x03\x01\x01\xf4\x01\x00\x01\xf0\x03\x03" + bytes(400):
                    trickler.sendall(bytes([byte]))
                    if stop.wait(0.1):
                        return

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            with RawPeer(port, context=client(authority, modality)) as peer:
                assert peer.associate()[0] == 2
                assert peer.echo() == 0
            for sock in silent:
                assert sock.recv(1) == b""
            with contextlib.suppress(ConnectionResetError):
                assert trickler.recv(1) == b""
            # After the handshake too: a request that does not come.
            with RawPeer(port, context=client(authority, modality)) as peer:
                assert peer.is_closed()
        finally:
            stop.set()
            thread.join()
            for sock in (*silent, trickler):
                sock.close()


def test_a_silent_association_is_aborted_over_tls(
    tmp_path: Path, authority: Authority, node: Pair, modality: Pair
) -> None:
    tls = server_settings(node, authority)
    with (
        running_receiver(tmp_path / "data", sources=[ANYBODY], tls=tls, network_timeout_s=0.5) as running,
        RawPeer(running.receiver.tls_port, context=client(authority, modality)) as peer,
    ):
        peer.associate()
        assert peer.abort() == (0, 0)
        assert peer.is_closed()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_stop_aborts_associations_and_says_so_encrypted(
    tmp_path: Path, authority: Authority, node: Pair, modality: Pair, version: ssl.TLSVersion
) -> None:
    context = client(authority, modality)
    context.maximum_version = version
    with running_receiver(tmp_path / "data", sources=[ANYBODY], tls=server_settings(node, authority)) as running:
        with RawPeer(running.receiver.tls_port, context=context) as peer:
            peer.associate()
            wait_until(lambda: running.receiver.associations == 1, what="the association")
            stopping = threading.Thread(target=running.receiver.stop, args=(0,))
            stopping.start()
            assert peer.abort() == (0, 0)
            # The end is announced too, so nobody in between can have cut anything off.
            assert isinstance(peer.sock, ssl.SSLSocket)
            peer.sock.suppress_ragged_eofs = False
            assert peer.sock.recv(1) == b""
        stopping.join()


def test_a_peer_that_never_closes_is_not_waited_for_long(
    receiver: RunningReceiver, authority: Authority, modality: Pair
) -> None:
    def serving() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "association"]

    with RawPeer(receiver.receiver.tls_port, context=client(authority, modality)) as rejected:
        assert rejected.associate(associate_rq(called="OTHER"))[0] == 3
        wait_until(lambda: not serving(), what="the end of the connection's thread")
    with RawPeer(receiver.receiver.tls_port, context=client(authority, modality)) as released:
        released.associate()
        released.send(pdu(5, bytes(4)))
        assert released.receive()[0] == 6
        wait_until(lambda: not serving(), what="the end of the association's thread")


def test_a_connection_that_is_cut_off_stores_nothing(
    receiver: RunningReceiver, authority: Authority, modality: Pair
) -> None:
    with RawPeer(receiver.receiver.tls_port, context=client(authority, modality)) as peer:
        peer.associate()
        peer.send(pdu(4, pdv(1, 3, store_rq())), pdu(4, pdv(1, 0, data_set()[:50])))
        # An end of TCP alone, as an attacker in between could forge it: no close_notify before it.
        socket.socket.shutdown(peer.sock, socket.SHUT_WR)
        wait_until(lambda: receiver.rows("SELECT outcome FROM association") == [("lost",)], what="the end")
    assert receiver.stored_files() == []
    assert receiver.rows("SELECT count(*) FROM instance") == [(0,)]


def test_many_associations_over_tls_at_once(receiver: RunningReceiver, authority: Authority, modality: Pair) -> None:
    context = client(authority, modality)
    failures: list[object] = []

    def send(number: int) -> None:
        try:
            with RawPeer(receiver.receiver.tls_port, context=context) as peer:
                peer.associate()
                for n in range(5):
                    uid = f"1.2.3.{number + 1}.{n}"
                    assert peer.store(uid, data_set(uid, series=f"1.2.9.{number}", pixels=bytes(50_000))).status == 0
                peer.release()
        except (AssertionError, OSError, EOFError) as error:
            failures.append(repr(error))

    threads = [threading.Thread(target=send, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert receiver.rows("SELECT count(*) FROM instance") == [(100,)]


# ---------------------------------------------------------------------- renewal


def test_a_renewed_certificate_counts_without_a_restart(
    tmp_path: Path, authority: Authority, modality: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    old, new = authority.sign("node", file="renewed"), authority.sign("node", file="new")
    context = client(authority, modality)

    def shown(running: RunningReceiver) -> bytes:
        with RawPeer(running.receiver.tls_port, context=context) as peer:
            assert peer.associate()[0] == 2
            assert isinstance(peer.sock, ssl.SSLSocket)
            return peer.sock.getpeercert(binary_form=True) or b""

    with running_receiver(tmp_path / "data", sources=[ANYBODY], tls=server_settings(old, authority)) as running:
        with RawPeer(running.receiver.tls_port, context=context) as lasting:
            lasting.associate()
            first = shown(running)
            new.move_to(old)
            second = shown(running)
            assert first != second
            assert lasting.echo() == 0
        old.certificate.write_text("half a certificate")
        assert shown(running) == second
        assert shown(running) == second
        third = authority.sign("node", file="third")
        third.move_to(old)
        assert shown(running) not in (first, second)
    troubles = [record for record in caplog.records if "can't be used" in record.getMessage()]
    assert len(troubles) == 1
    assert sum(record.getMessage() == "Certificate files read again" for record in caplog.records) == 2


# ---------------------------------------------------------------------- limits per source


def test_a_source_has_no_more_associations_than_it_may(tmp_path: Path) -> None:
    few = SourceSettings(name="few", ae_titles=("SENDER", "SENDER2"), max_associations=2)
    many = SourceSettings(name="many", ae_titles=("OTHER",))
    with running_receiver(tmp_path / "data", sources=[few, many]) as running, contextlib.ExitStack() as stack:

        def associate(title: str) -> tuple[RawPeer, tuple[int, bytes]]:
            peer = stack.enter_context(RawPeer(running.port))
            return peer, peer.associate(associate_rq(calling=title))

        first, answer = associate("SENDER")
        assert answer[0] == associate("SENDER2")[1][0] == 2
        # A transient condition, and of this source alone.
        assert associate("SENDER")[1] == (3, bytes((0, 2, 3, 2)))
        assert associate("OTHER")[1][0] == 2
        first.release()
        wait_until(lambda: running.receiver.associations == 2, what="the end of the first association")
        assert associate("SENDER2")[1][0] == 2
        assert any("its max_associations is 2" in reason for reason in rejections(running))


def test_a_source_that_sends_too_fast_is_taken_more_slowly_and_others_are_not(tmp_path: Path) -> None:
    # One object in 60 s after the first: nobody could wait for that, so it is told to come again.
    slow = SourceSettings(name="slow", ae_titles=("SENDER",), max_objects_per_minute=1)
    even = SourceSettings(name="even", ae_titles=("EVEN",), max_objects_per_minute=300)
    with running_receiver(tmp_path / "data", sources=[slow, even]) as running:
        with RawPeer(running.port) as peer:
            peer.associate()
            assert peer.store("1.2.3.1").status == 0
            refused = peer.store("1.2.3.2", data_set("1.2.3.2"))
            assert refused.status == 0xA700
            assert "max_objects_per_minute" in refused.comment
            # It is told so by each request, and the association goes on.
            assert peer.echo() == 0
        with RawPeer(running.port) as peer:
            peer.associate(associate_rq(calling="EVEN"))
            begin = time.monotonic()
            for n in range(303):
                uid = f"1.2.4.{n}"
                assert peer.store(uid, data_set(uid, series="1.2.3.9")).status == 0
            assert time.monotonic() - begin >= 0.5
        assert running.rows("SELECT count(*) FROM instance") == [(304,)]


def test_a_pacs_that_queries_under_one_title_and_sends_under_another_is_one_source(tmp_path: Path) -> None:
    pacs = SourceSettings(name="pacs", ae_titles=("PACS_QR", "PACS_SEND"), hosts=("10.0.0.0/8", "127.0.0.1"))
    with running_receiver(tmp_path / "data", sources=[pacs]) as running:
        for title in pacs.ae_titles:
            with RawPeer(running.port) as peer:
                assert peer.associate(associate_rq(calling=title))[0] == 2
                assert peer.echo() == 0
        with RawPeer(running.port) as peer:
            assert peer.associate(associate_rq(calling="PACS"))[0] == 3
