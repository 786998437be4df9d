"""Revoked certificates: who is refused and when, over which list, and what a list that is overdue or missing does."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.settings import DicomwebDestinationSettings, SourceSettings
from dicom_node.destinations.base import Outcome, StepState
from dicom_node.destinations.web_session import NotSendable, tls_context
from tests.integration.test_tls_destinations import deliver, scu, secure_scp, server_context
from tests.integration.test_tls_receiver import client, refusal
from tests.support.certificates import Authority, Pair, client_settings, server_settings
from tests.support.items import write_series
from tests.support.network import LOOPBACK, RawPeer, RunningReceiver, associate_rq, running_receiver
from tests.support.peers import wait_until

SENDER = SourceSettings(name="tests", ae_titles=("SENDER",), hosts=("127.0.0.0/8",))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def pairs(authority: Authority) -> dict[str, Pair]:
    return {name: authority.sign(name) for name in ("node", "xray1", "xray2", "pacs")}


@pytest.fixture
def crl(tmp_path: Path, authority: Authority) -> Path:
    return authority.write_list(tmp_path / "lists.pem")


@pytest.fixture
def receiver(tmp_path: Path, authority: Authority, pairs: dict[str, Pair], crl: Path) -> Iterator[RunningReceiver]:
    tls = server_settings(pairs["node"], authority, crl=crl)
    with running_receiver(tmp_path / "data", sources=[SENDER], tls=tls) as running:
        yield running


def is_let_in(running: RunningReceiver, context: ssl.SSLContext) -> bool:
    with RawPeer(running.receiver.tls_port, context=context) as peer:
        return peer.associate()[0] == 2


def is_refused_because(running: RunningReceiver, context: ssl.SSLContext, reason: str) -> bool:
    def counted() -> set[tuple[object, ...]]:
        return set(running.rows("SELECT reason, count FROM rejection"))

    before = counted()
    refusal(running, context)
    wait_until(lambda: counted() != before, what="the rejection in the ledger")
    ((said, _),) = counted() - before
    assert reason in str(said), said
    return True


# ---------------------------------------------------------------------- senders


def test_a_revoked_sender_is_refused_from_the_next_list_on_and_the_others_are_not(
    receiver: RunningReceiver, authority: Authority, pairs: dict[str, Pair], crl: Path
) -> None:
    stolen, other = client(authority, pairs["xray1"]), client(authority, pairs["xray2"])
    with RawPeer(receiver.receiver.tls_port, context=stolen) as lasting:
        assert lasting.associate()[0] == 2
        authority.write_list(crl, "xray1")
        assert is_refused_because(receiver, stolen, "its certificate was revoked")
        assert is_let_in(receiver, other)
        # What is open goes on: cutting off an object in its middle would help nobody.
        assert lasting.echo() == 0
    authority.write_list(crl, "xray1", "xray2")
    assert is_refused_because(receiver, other, "its certificate was revoked")
    authority.write_list(crl)
    assert is_let_in(receiver, stolen)


def test_a_session_from_before_does_not_outlive_its_certificate(
    receiver: RunningReceiver, authority: Authority, pairs: dict[str, Pair], crl: Path
) -> None:
    context = client(authority, pairs["xray1"])
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with RawPeer(receiver.receiver.tls_port, context=context) as peer:
        assert isinstance(peer.sock, ssl.SSLSocket)
        session = peer.sock.session
    authority.write_list(crl, "xray1")
    tcp = socket.create_connection((LOOPBACK, receiver.receiver.tls_port), timeout=15)
    answered = b""
    with contextlib.closing(tcp), contextlib.suppress(OSError):
        again = context.wrap_socket(tcp, server_hostname=LOOPBACK, session=session)
        again.sendall(associate_rq())
        answered = again.recv(1)
    assert answered == b"", "an association was accepted"


def test_an_overdue_list_refuses_everybody_until_the_next_one_is_there(
    receiver: RunningReceiver, authority: Authority, pairs: dict[str, Pair], crl: Path
) -> None:
    context = client(authority, pairs["xray2"])
    authority.write_list(crl, "xray1", days=-1)
    assert is_refused_because(receiver, context, "is overdue: put the next one into the file that crl names")
    authority.write_list(crl, "xray1", from_days=2)
    assert is_refused_because(receiver, context, "is not valid yet: is the clock right?")
    authority.write_list(crl, "xray1")
    assert is_let_in(receiver, context)


def test_a_file_that_is_no_list_changes_nothing_and_one_of_a_stranger_refuses_everybody(
    tmp_path: Path, receiver: RunningReceiver, authority: Authority, pairs: dict[str, Pair], crl: Path
) -> None:
    other = Authority(tmp_path / "other", "Other CA")
    authority.write_list(crl, "xray1")
    assert is_refused_because(receiver, client(authority, pairs["xray1"]), "revoked")
    for half in (b"", crl.read_bytes()[:100], crl.read_bytes() + other.file.read_bytes()):
        crl.write_bytes(half)
        assert is_let_in(receiver, client(authority, pairs["xray2"]))
        assert is_refused_because(receiver, client(authority, pairs["xray1"]), "revoked")
        # Whoever writes to the file of the lists makes no authority.
        stranger = client(authority, other.sign("xray1"))
        assert is_refused_because(receiver, stranger, "the authority of its certificate is not known")
    other.write_list(crl)
    assert is_refused_because(receiver, client(authority, pairs["xray2"]), "has no revocation list of its authority")
    impostor = Authority(tmp_path / "impostor")
    impostor.write_list(crl)
    assert is_refused_because(receiver, client(authority, pairs["xray2"]), "is not signed by that authority")


# ---------------------------------------------------------------------- destinations


def test_nothing_goes_to_a_revoked_pacs_and_it_is_tried_again(
    tmp_path: Path, authority: Authority, pairs: dict[str, Pair], crl: Path
) -> None:
    paths = write_series(tmp_path / "in", 1)
    tls = client_settings(authority, pairs["node"], crl=crl)
    with secure_scp(server_context(authority, pairs["pacs"])) as port:
        peer = scu(port, tls)
        assert {step.name: step.state for step in peer.probe()}["echo"] is StepState.OK
        for revoked, days, reason in (
            (("pacs",), 7, "its certificate was revoked"),
            ((), -1, "is overdue"),
        ):
            authority.write_list(crl, *revoked, days=days)
            outcomes = deliver(port, tls, paths)
            assert outcomes.states() == {0: Outcome.RETRY}
            assert re.search(reason, outcomes.reason(0)), outcomes.reason(0)
            steps = {step.name: step for step in peer.probe()}
            assert steps["tls"].state is StepState.FAILED
            assert reason in steps["tls"].sentence
        authority.write_list(crl)
        assert {step.name: step.state for step in peer.probe()}["echo"] is StepState.OK


def test_a_dicomweb_server_is_looked_up_too(
    tmp_path: Path, authority: Authority, pairs: dict[str, Pair], crl: Path
) -> None:
    settings = DicomwebDestinationSettings.model_validate(
        {
            "name": "web",
            "kind": "dicomweb",
            "url": "https://localhost/",
            "ca_file": str(authority.file),
            "crl_file": str(crl),
        }
    )
    with secure_scp(server_context(authority, pairs["pacs"], asks=False)) as port:

        def shake() -> None:
            tcp = socket.create_connection((LOOPBACK, port), timeout=15)
            with tls_context(settings).wrap_socket(tcp, server_hostname="localhost"):
                pass

        shake()
        authority.write_list(crl, "pacs")
        with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
            shake()
        crl.write_text("nothing")
        with pytest.raises(NotSendable, match="no revocation list in PEM form"):
            shake()


# ---------------------------------------------------------------------- authorities below an authority


def test_lists_of_the_whole_chain_are_needed_unless_the_leaf_alone_is_looked_up(
    tmp_path: Path, authority: Authority, pairs: dict[str, Pair], crl: Path
) -> None:
    below = Authority(tmp_path / "below", "Site CA", above=authority)
    modality = below.sign("portable")
    modality.certificate.write_bytes(modality.certificate.read_bytes() + below.file.read_bytes())
    context = client(authority, modality)
    site = tmp_path / "site.pem"
    below.write_list(site)

    def lists(*files: Path) -> None:
        crl.write_bytes(b"".join(file.read_bytes() for file in files))

    root = authority.write_list(tmp_path / "root.pem")
    tls = server_settings(pairs["node"], authority, crl=crl)
    with running_receiver(tmp_path / "chain", sources=[SENDER], tls=tls) as running:
        lists(root, site)
        assert is_let_in(running, context)
        lists(site)
        assert is_refused_because(running, context, "or of one above: add it")
        authority.write_list(root, "Site CA")
        lists(root, site)
        assert is_refused_because(running, context, "its certificate was revoked")
    leaf = server_settings(pairs["node"], authority, crl=crl, crl_check="leaf")
    with running_receiver(tmp_path / "leaf", sources=[SENDER], tls=leaf) as running:
        lists(site)
        assert is_let_in(running, context)
        below.write_list(site, "portable")
        lists(site)
        assert is_refused_because(running, context, "its certificate was revoked")
