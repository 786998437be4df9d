"""DICOM over TLS as initiator: deliveries to real peers, and why there is none in words that help."""

from __future__ import annotations

import json
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from config.settings import PeerTlsSettings, SourceSettings
from dicom_node.destinations.base import Outcome, StepState
from dicom_node.destinations.storage_scu import StorageScu
from tests.support.certificates import Authority, Pair, client_settings, server_settings
from tests.support.items import Outcomes, destination, items_of, write_series
from tests.support.network import LOOPBACK, running_receiver
from tests.support.node import REPOSITORY
from tests.support.peers import (
    DcmtkStorescp,
    HangingUpPeer,
    MockScp,
    Orthanc,
    SilentPeer,
    find_free_port,
    requires_dcmtk,
    requires_orthanc,
)

LATE = "wants? a certificate of ours|does not know the authority of our certificate|does not accept our certificate"
"""A peer with TLS 1.3 says so after our side of the handshake, and its alert is lost where it hangs up too soon."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def node(authority: Authority) -> Pair:
    return authority.sign("node.hospital.example")


@pytest.fixture(scope="module")
def pacs(authority: Authority) -> Pair:
    return authority.sign("pacs.hospital.example", names=("127.0.0.1",))


def scu(port: int, tls: PeerTlsSettings, **changes: object) -> StorageScu:
    return StorageScu(destination(port, tls=tls, **changes), node_ae_title="LOWDOSE")


def deliver(port: int, tls: PeerTlsSettings, paths: list[Path], **changes: object) -> Outcomes:
    outcomes = Outcomes()
    scu(port, tls, **changes).deliver(items_of(paths), on_outcome=outcomes.append)
    return outcomes


@contextmanager
def secure_scp(context: ssl.SSLContext) -> Iterator[int]:
    """A Verification SCP of stock pynetdicom over TLS."""
    ae = AE("SECURE")
    ae.add_supported_context(Verification)
    server = ae.start_server((LOOPBACK, 0), block=False, ssl_context=context)
    assert server is not None
    try:
        yield int(server.socket.getsockname()[1])
    finally:
        ae.shutdown()


def server_context(authority: Authority, pair: Pair, *, asks: bool = True) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    if asks:
        context.load_verify_locations(authority.file)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


# ---------------------------------------------------------------------- real peers


@requires_dcmtk
def test_a_series_goes_to_dcmtk_over_tls(tmp_path: Path, authority: Authority, node: Pair, pacs: Pair) -> None:
    paths = write_series(tmp_path / "in", 3)
    options = ["+tls", str(pacs.key), str(pacs.certificate), "+cf", str(authority.file)]
    port = find_free_port()
    with DcmtkStorescp(tmp_path / "scp", *options, port=port) as peer:
        outcomes = deliver(port, client_settings(authority, node), paths)
        assert set(outcomes.states().values()) == {Outcome.SENT}, list(outcomes)
        assert len(peer.objects()) == 3
        refused = deliver(port, client_settings(authority), paths)
        assert set(refused.states().values()) == {Outcome.RETRY}
        assert re.search("wants? a certificate of ours", refused.reason(0)), refused.reason(0)


@requires_orthanc
def test_orthanc_both_ways_over_tls(tmp_path: Path, authority: Authority, node: Pair, pacs: Pair) -> None:
    paths = write_series(tmp_path / "in", 2)
    source = SourceSettings(name="orthanc", ae_titles=("ORTHANC",), certificates=("pacs.hospital.example",))
    with running_receiver(tmp_path / "node", sources=[source], tls=server_settings(node, authority)) as running:
        configuration = {
            "DicomTlsEnabled": True,
            "DicomTlsCertificate": str(pacs.certificate),
            "DicomTlsPrivateKey": str(pacs.key),
            "DicomTlsTrustedCertificates": str(authority.file),
            "DicomModalities": {
                "node": {
                    "AET": "LOWDOSE",
                    "Host": LOOPBACK,
                    "Port": running.receiver.tls_port,
                    "UseDicomTls": True,
                }
            },
        }
        with Orthanc(tmp_path / "orthanc", configuration=configuration) as orthanc:
            outcomes = deliver(orthanc.port, client_settings(authority, node), paths, ae_title="ORTHANC")
            assert set(outcomes.states().values()) == {Outcome.SENT}, list(outcomes)
            assert len(orthanc.instances()) == 2
            steps = {s.name: s for s in scu(orthanc.port, client_settings(authority, node), ae_title="ORTHANC").probe()}
            assert steps["tls"].state is steps["echo"].state is StepState.OK
            orthanc._get("/modalities/node/store", json.dumps(orthanc.instances()).encode())
        assert running.rows("SELECT count(*) FROM instance") == [(2,)]
        assert running.rows("SELECT DISTINCT calling_ae_title FROM association") == [("ORTHANC",)]


def test_the_small_modality_sends_over_tls(tmp_path: Path, authority: Authority, node: Pair, pacs: Pair) -> None:
    write_series(tmp_path / "in", 2)
    source = SourceSettings(name="small", ae_titles=("MODALITY",), certificates=("pacs.hospital.example",))
    with running_receiver(tmp_path / "node", sources=[source], tls=server_settings(node, authority)) as running:

        def send(*options: str) -> subprocess.CompletedProcess[str]:
            to = f"LOWDOSE@{LOOPBACK}:{running.receiver.tls_port}"
            command = [sys.executable, "-m", "dicom_node", "send", str(tmp_path / "in"), "--to", to, *options]
            return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=60, check=False)

        ours = ("--certificate", str(pacs.certificate), "--key", str(pacs.key))
        done = send("--ca", str(authority.file), *ours)
        assert done.returncode == 0, done.stderr
        assert running.rows("SELECT count(*) FROM instance") == [(2,)]
        unknown = send("--tls")
        assert unknown.returncode == 1
        assert "the authority of its certificate is not known" in unknown.stderr
        half = send("--ca", str(authority.file), "--key", str(pacs.key))
        assert half.returncode == 2
        assert "--certificate and --key together" in half.stderr


# ---------------------------------------------------------------------- faults


def test_each_fault_of_a_peers_certificate_is_told_and_tried_again(
    tmp_path: Path, authority: Authority, node: Pair, pacs: Pair
) -> None:
    other = Authority(tmp_path / "other", "Other CA")
    paths = write_series(tmp_path / "in", 1)
    ours = client_settings(authority, node)
    cases = (
        (authority.sign("wrong", names=("10.0.0.1",)), ours, "its certificate is for another address"),
        (authority.sign("late", days=-2), ours, "is expired"),
        (other.sign("pacs"), ours, "the authority of its certificate is not known"),
        (pacs, client_settings(authority), LATE),
        (pacs, client_settings(authority, other.sign("node")), LATE),
        (pacs, client_settings(authority, node, server_name="ris.example"), "its certificate is for another name"),
    )
    for pair, tls, reason in cases:
        with secure_scp(server_context(authority, pair)) as port:
            outcomes = deliver(port, tls, paths)
            assert outcomes.states() == {0: Outcome.RETRY}, reason
            assert re.search(reason, outcomes.reason(0)), outcomes.reason(0)
            steps = {step.name: step for step in scu(port, tls).probe()}
            failed = next(step for step in steps.values() if step.state is StepState.FAILED)
            assert failed.name in ("tls", "association")
            assert re.search(reason, failed.sentence), failed.sentence
            if "its certificate" in reason:
                # What it shows instead, so that the administrator knows which one to correct.
                assert pair.fingerprint in failed.sentence
                assert steps["association"].state is StepState.SKIPPED


def test_a_name_that_is_not_checked_or_given_by_hand(authority: Authority, node: Pair) -> None:
    wrong = authority.sign("pacs2", names=("pacs2.hospital.example",))
    with secure_scp(server_context(authority, wrong)) as port:
        for changes in ({"check_name": False}, {"server_name": "pacs2.hospital.example"}):
            steps = {step.name: step for step in scu(port, client_settings(authority, node, **changes)).probe()}
            assert steps["echo"].state is StepState.OK, changes
            assert "TLSv1.3" in steps["tls"].sentence
            assert "CN=pacs2 by CN=Hospital Test CA, is valid until" in steps["tls"].sentence
            assert "364 days left" in steps["tls"].sentence


def test_a_peer_whose_certificate_ends_soon_is_a_warning(authority: Authority) -> None:
    soon = authority.sign("soon", days=10)
    with secure_scp(server_context(authority, soon, asks=False)) as port:
        steps = {step.name: step for step in scu(port, client_settings(authority)).probe()}
    assert steps["tls"].state is StepState.WARNING
    assert "9 days left" in steps["tls"].sentence


def test_peers_without_tls_are_told_from_those_that_are_silent(tmp_path: Path, authority: Authority) -> None:
    paths = write_series(tmp_path / "in", 1)
    tls = client_settings(authority)
    with SilentPeer() as silent, HangingUpPeer() as hanging:
        for port, reason in (
            (silent.port, "did not answer the TLS handshake"),
            (hanging.port, "closed the connection"),
        ):
            outcomes = deliver(port, tls, paths, acse_timeout_s=1)
            assert outcomes.states() == {0: Outcome.RETRY}
            assert reason in outcomes.reason(0), outcomes.reason(0)
            assert outcomes.reason(0).endswith("does it speak TLS on this port?")
    with MockScp() as plain:
        outcomes = deliver(plain.port, tls, paths, acse_timeout_s=2)
        assert outcomes.states() == {0: Outcome.RETRY}
        assert "no TLS:" in outcomes.reason(0)
        assert plain.objects == [], "nothing goes out in the clear where TLS is asked for"


def test_old_versions_are_not_spoken(authority: Authority, pacs: Pair) -> None:
    context = server_context(authority, pacs, asks=False)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with secure_scp(context) as port:
        steps = {step.name: step for step in scu(port, client_settings(authority)).probe()}
    assert steps["tls"].state is StepState.FAILED
    assert "versions of TLS that are not safe" in steps["tls"].sentence


def test_files_that_are_missing_delay_a_delivery_and_their_return_ends_that(
    tmp_path: Path, authority: Authority, pacs: Pair
) -> None:
    paths = write_series(tmp_path / "in", 1)
    with secure_scp(server_context(authority, pacs, asks=False)) as port:
        ca = tmp_path / "later.pem"
        peer = scu(port, PeerTlsSettings(enabled=True, ca=ca))
        outcomes = Outcomes()
        peer.deliver(items_of(paths), on_outcome=outcomes.append)
        assert outcomes.states() == {0: Outcome.RETRY}
        assert str(ca) in outcomes.reason(0)
        ca.write_bytes(authority.file.read_bytes())
        outcomes = Outcomes()
        peer.deliver(items_of(paths), on_outcome=outcomes.append)
        assert "no TLS" not in outcomes.reason(0)
