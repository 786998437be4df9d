"""Storage Commitment over TLS: each message in each direction, whose certificate counts, and why there is none."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dicom_node.commitment_probing import commitment_probes
from dicom_node.destinations.base import StepState
from dicom_node.states import DeliveryState
from tests.integration.test_commitment import COMMITTED, COMMITTING, PENDING, Bench, turn
from tests.support.certificates import Authority, Pair, server_settings
from tests.support.commitment import CLASS, MockCommitmentPacs, MockModality, bring_report, report_dataset
from tests.support.peers import (
    LOOPBACK,
    MockScp,
    Orthanc,
    SilentPeer,
    closed_port,
    find_free_port,
    requires_orthanc,
    wait_until,
)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def pairs(authority: Authority) -> dict[str, Pair]:
    found = {name: authority.sign(f"{name}.hospital.example") for name in ("node", "pacs", "xray1")}
    return found | {"other": authority.sign("other.hospital.example", names=())}


def listening(authority: Authority, pair: Pair, *, asks: bool = True) -> ssl.SSLContext:
    """The context of a peer that is called, made without the product's code."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.file))
    context.load_cert_chain(pair.certificate, pair.key)
    context.verify_mode = ssl.CERT_REQUIRED if asks else ssl.CERT_NONE
    return context


def calling(authority: Authority, pair: Pair | None) -> ssl.SSLContext:
    """The context of a peer that calls."""
    context = ssl.create_default_context(cafile=str(authority.file))
    if pair is not None:
        context.load_cert_chain(pair.certificate, pair.key)
    return context


def called(authority: Authority, pair: Pair | None, **changes: Any) -> dict[str, Any]:
    """The settings of a peer that the node calls over TLS."""
    files = {} if pair is None else {"certificate": str(pair.certificate), "key": str(pair.key)}
    return {"ca": str(authority.file), **files, **changes}


@pytest.fixture
def pacs(authority: Authority, pairs: dict[str, Pair]) -> Iterator[MockCommitmentPacs]:
    with MockCommitmentPacs(context=listening(authority, pairs["pacs"])) as running:
        yield running


class MutePeer(SilentPeer):
    """Does the handshake, sends session tickets as servers of TLS 1.3 do, and never says a word of DICOM."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__()
        self.context = context

    def _serve(self, connection: socket.socket) -> None:
        super()._serve(self.context.wrap_socket(connection, server_side=True))


def state_of_transaction(bench: Bench) -> tuple[str, str]:
    ((state, reason),) = bench.ledger.rows("SELECT state, reason FROM commitment_transaction")
    return state, reason


# -- as SCU -----------------------------------------------------------------------------------------


def test_a_report_on_the_same_association_commits_over_tls(
    tmp_path: Path, authority: Authority, pairs: dict[str, Pair]
) -> None:
    with MockCommitmentPacs(on_same=True, context=listening(authority, pairs["pacs"])) as pacs:
        of_destination = {"tls": called(authority, pairs["node"])}
        bench = Bench(tmp_path, pacs.port, source=False, of_destination=of_destination, wait_s=20)
        delivery_id = bench.sent(3)
        bench.jobs.ask("pacs")
        assert bench.state(delivery_id) is COMMITTED
        assert pacs.same_statuses == [0x0000]
        bench.close()


def test_a_report_on_a_new_association_comes_over_tls_and_with_the_right_certificate_alone(
    tmp_path: Path, authority: Authority, pairs: dict[str, Pair], pacs: MockCommitmentPacs
) -> None:
    bench = Bench(
        tmp_path,
        pacs.port,
        source=False,
        tls=server_settings(pairs["node"], authority),
        of_destination={"tls": called(authority, pairs["node"])},
        report_certificates=["pacs.hospital.example"],
    )
    delivery_id = bench.sent(2)
    bench.jobs.ask("pacs")
    asked = pacs.wait_for(0)
    report = report_dataset(asked.transaction_uid, asked.instances)
    receiver = bench.receiver
    assert bring_report(receiver.port, report) is None
    assert bring_report(receiver.tls_port, report, context=calling(authority, pairs["other"])) is None
    assert bring_report(receiver.tls_port, report, context=calling(authority, None)) is None
    assert bench.state(delivery_id) is COMMITTING
    reasons = [str(row[0]) for row in bench.ledger.rows("SELECT reason FROM rejection ORDER BY id")]
    assert "came without TLS, which destination 'pacs' requires" in reasons[0]
    assert reasons[1].endswith('add to its commitment.report_certificates:\n"other.hospital.example"')
    assert bring_report(receiver.tls_port, report, context=calling(authority, pairs["pacs"])) == 0x0000
    assert bench.state(delivery_id) is COMMITTED
    bench.close()


def test_a_source_that_is_a_destination_too_reports_only_as_the_destination_demands(
    tmp_path: Path, authority: Authority, pairs: dict[str, Pair], pacs: MockCommitmentPacs
) -> None:
    bench = Bench(
        tmp_path,
        pacs.port,
        source={"port": 4006},
        tls=server_settings(pairs["node"], authority),
        of_destination={"tls": called(authority, pairs["node"])},
        of_source={"ae_titles": ["PACS"]},
        report_tls="required",
    )
    delivery_id = bench.sent()
    bench.jobs.ask("pacs")
    asked = pacs.wait_for(0)
    report = report_dataset(asked.transaction_uid, asked.instances)
    # It is let in, as it may store and ask; but for the destination it can't speak without TLS.
    assert bring_report(bench.receiver.port, report) == 0x0124
    assert bench.state(delivery_id) is COMMITTING
    assert bring_report(bench.receiver.tls_port, report, context=calling(authority, pairs["pacs"])) == 0x0000
    assert bench.state(delivery_id) is COMMITTED
    bench.close()


def test_the_commitment_scp_may_speak_tls_where_the_storage_scp_does_not_and_the_other_way_round(
    tmp_path: Path, authority: Authority, pairs: dict[str, Pair], pacs: MockCommitmentPacs
) -> None:
    with_tls = {"commitment": {"delay_s": 0, "wait_s": 0, "tls": called(authority, pairs["node"])}}
    bench = Bench(tmp_path / "only-commitment", pacs.port, source=False, of_destination=with_tls)
    bench.sent()
    bench.jobs.ask("pacs")
    assert len(pacs.asked) == 1
    bench.close()
    with MockCommitmentPacs() as plain:
        without = {
            "tls": called(authority, pairs["node"]),
            "commitment": {"delay_s": 0, "wait_s": 0, "port": plain.port, "tls": False},
        }
        bench = Bench(tmp_path / "only-storage", pacs.port, source=False, of_destination=without)
        bench.sent()
        bench.jobs.ask("pacs")
        assert len(plain.asked) == 1
        bench.close()


def test_each_fault_of_tls_is_told_in_words_and_asked_again(
    tmp_path: Path, authority: Authority, pairs: dict[str, Pair], pacs: MockCommitmentPacs
) -> None:
    other = Authority(tmp_path / "other", "Other CA")
    with (
        MockCommitmentPacs() as plain,
        SilentPeer() as silent,
        MutePeer(listening(authority, pairs["pacs"])) as mute,
        MockCommitmentPacs(context=listening(authority, authority.sign("late", days=-2))) as expired,
    ):
        cases = (
            ("stranger", pacs.port, called(other, None), "the authority of its certificate is not known"),
            ("expired", expired.port, called(authority, pairs["node"]), "expired"),
            ("name", pacs.port, called(authority, pairs["node"], server_name="ris"), "for another name"),
            ("none", pacs.port, called(authority, None), "certificate of ours|does not accept"),
            ("plain", plain.port, called(authority, None), "no TLS"),
            ("silent", silent.port, called(authority, None), "did not answer the TLS handshake"),
            ("mute", mute.port, called(authority, pairs["node"]), "did not answer the association request"),
            ("file", pacs.port, called(authority, None) | {"ca": str(tmp_path / "gone.pem")}, "gone.pem"),
        )
        for name, port, tls, expected in cases:
            of_destination = {"tls": tls, "acse_timeout_s": 1}
            bench = Bench(tmp_path / name, port, source=False, of_destination=of_destination)
            bench.sent()
            bench.jobs.ask("pacs")
            state, reason = state_of_transaction(bench)
            assert state == "failed", name
            assert any(words in reason for words in expected.split("|")), (name, reason)
            # Nothing is lost: once the fault is mended it is asked for again.
            if name == "name":
                (wrong,) = bench.settings.dicom_destinations
                right = wrong.model_copy(update={"tls": wrong.tls.model_copy(update={"server_name": None})})
                bench.settings = bench.settings.model_copy(update={"destinations": (right,)})
                bench.ledger.clock.advance(600)
                bench.new_jobs().ask("pacs")
                assert len(pacs.asked) == 1
            bench.close()
        assert plain.asked == [], "nothing goes out in the clear where TLS is asked for"


@requires_orthanc
def test_orthanc_is_asked_and_asks_over_tls_with_certificates_on_both_sides(
    tmp_path: Path, authority: Authority, pairs: dict[str, Pair]
) -> None:
    files = {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(pairs["pacs"].certificate),
        "DicomTlsPrivateKey": str(pairs["pacs"].key),
        "DicomTlsTrustedCertificates": str(authority.file),
        "DicomTlsRemoteCertificateRequired": True,
    }
    tls = called(authority, pairs["node"])
    # One Orthanc is the PACS of one node, and the modality too.
    port = find_free_port()
    source = {"port": port, "host": LOOPBACK, "originals": "replaced", "counts": "sent", "tls": tls}
    bench = Bench(
        tmp_path / "node",
        port,
        source=source,
        tls=server_settings(pairs["node"], authority),
        of_destination={"tls": tls},
        of_source={"ae_titles": ["PACS"], "certificates": ["pacs.hospital.example"]},
        report_certificates=["pacs.hospital.example"],
    )
    node = {"AET": "LOWDOSE", "Host": LOOPBACK, "Port": bench.receiver.tls_port, "UseDicomTls": True}
    known = {"DicomModalities": {"node": node | {"AllowStorageCommitment": True}}}
    with Orthanc(tmp_path / "orthanc", port=port, ae_title="PACS", configuration={**files, **known}) as orthanc:
        delivery_id = bench.sent()
        # It does not have the object, and says so on an association of its own.
        bench.jobs.ask("pacs")
        wait_until(lambda: bench.state(delivery_id) is PENDING, timeout_s=60, what="Orthanc's report")
        assert bench.ledger.rows("SELECT DISTINCT calling_ae_title FROM association WHERE id > 1") == [("PACS",)]

        def ask(instance: str) -> dict[str, Any]:
            resource = {"DicomInstances": [{"SOPClassUID": CLASS, "SOPInstanceUID": instance}]}
            made = json.loads(orthanc._get("/modalities/node/storage-commitment", json.dumps(resource).encode()))

            def answer() -> dict[str, Any]:
                bench.jobs.decide()
                bench.jobs.report("xray")
                return dict(json.loads(orthanc._get(f"/storage-commitment/{made['ID']}")))

            wait_until(lambda: answer()["Status"] != "Pending", timeout_s=60, what="the node's report")
            return answer()

        assert ask("1.2.3.4.5")["Status"] == "Failure"
    bench.close()


# -- as SCP -----------------------------------------------------------------------------------------


def test_a_modality_asks_and_is_answered_over_tls(
    tmp_path: Path, authority: Authority, pairs: dict[str, Pair], pacs: MockCommitmentPacs
) -> None:
    with MockModality(context=listening(authority, pairs["xray1"])) as modality:
        tls = called(authority, pairs["node"])
        bench = Bench(
            tmp_path,
            pacs.port,
            source={"port": modality.port, "host": LOOPBACK, "originals": "replaced", "tls": tls},
            tls=server_settings(pairs["node"], authority),
            of_destination={"tls": tls},
            of_source={"certificates": ["xray1.hospital.example"]},
        )
        delivery_id = bench.sent()
        receiver = bench.receiver
        # Nobody borrows its title: neither without TLS, nor with another's certificate.
        assert modality.ask(receiver.port, "2.25.1", "1.2.1.1") is None
        assert modality.ask(receiver.tls_port, "2.25.1", "1.2.1.1", context=calling(authority, pairs["other"])) is None
        assert bench.ledger.rows("SELECT count(*) FROM commitment_request") == [(0,)]
        ours = calling(authority, pairs["xray1"])
        assert modality.ask(receiver.tls_port, "2.25.1", "1.2.1.1", context=ours) == 0x0000
        bench.jobs.ask("pacs")
        asked = pacs.wait_for(0)
        report = report_dataset(asked.transaction_uid, asked.instances)
        assert bring_report(receiver.tls_port, report, context=calling(authority, pairs["pacs"])) == 0x0000
        assert bench.state(delivery_id) is DeliveryState.COMMITTED
        turn(bench)
        assert [(one.transaction_uid, one.committed) for one in modality.reports] == [("2.25.1", ("1.2.1.1",))]
        assert bench.ledger.rows("SELECT state FROM commitment_request") == [("reported",)]
        bench.close()


def test_a_report_goes_over_tls_or_not_at_all_until_the_fault_is_mended(
    tmp_path: Path, authority: Authority, pairs: dict[str, Pair], pacs: MockCommitmentPacs
) -> None:
    other = Authority(tmp_path / "other", "Other CA")
    shown, right = other.sign("xray1", file="shown"), authority.sign("xray1", file="right")
    plain = MockModality()
    with plain, MockModality(context=listening(authority, shown, asks=False)) as wrong:
        for name, modality, words in (
            ("plain", plain, "it speaks no TLS|closed the connection"),
            ("wrong", wrong, "the authority of its certificate is not known"),
        ):
            source = {"port": modality.port, "host": LOOPBACK, "tls": called(authority, pairs["node"])}
            bench = Bench(tmp_path / name, pacs.port, source=source)
            assert modality.ask(bench.receiver.port, "2.25.1", "1.2.3.4.5") == 0x0000
            turn(bench)
            assert modality.reports == []
            ((state, reason),) = bench.ledger.rows("SELECT state, reason FROM commitment_request")
            assert state == "decided"
            assert any(one in reason for one in words.split("|")), reason
            if modality is wrong:
                assert modality.context is not None
                modality.context.load_cert_chain(right.certificate, right.key)
                bench.ledger.clock.advance(3600)
                turn(bench)
                assert len(modality.reports) == 1
            bench.close()


def test_the_report_on_the_association_of_the_request_is_encrypted_with_it(
    tmp_path: Path, authority: Authority, pairs: dict[str, Pair], pacs: MockCommitmentPacs
) -> None:
    with MockModality() as modality:
        bench = Bench(tmp_path, pacs.port, source=True, tls=server_settings(pairs["node"], authority))
        ours = calling(authority, pairs["xray1"])
        answer = modality.ask(bench.receiver.tls_port, "2.25.1", "1.2.3.4.5", stay_for_reports=1, context=ours)
        assert answer == 0x0000
        assert modality.reports[0].failed == {"1.2.3.4.5": 0x0112}
        bench.close()


# -- doctor -----------------------------------------------------------------------------------------


def probe(bench: Bench) -> dict[str, dict[str, tuple[StepState, str]]]:
    return {
        one.name: {step.name: (step.state, step.sentence) for step in one.probe()}
        for one in commitment_probes(bench.settings)
    }


def test_doctor_tries_out_both_sides_of_commitment_and_stores_nothing(
    tmp_path: Path, authority: Authority, pairs: dict[str, Pair], pacs: MockCommitmentPacs
) -> None:
    with MockModality(context=listening(authority, pairs["xray1"])) as modality:
        tls = called(authority, pairs["node"])
        source = {"port": modality.port, "host": LOOPBACK, "tls": tls}
        bench = Bench(tmp_path, pacs.port, source=source, of_destination={"tls": tls})
        found = probe(bench)
        assert list(found) == ["pacs: commitment", "xray: commitment reports"]
        for steps in found.values():
            assert {name: state for name, (state, _) in steps.items()} == dict.fromkeys(
                ("name", "tcp", "tls", "commitment"), StepState.OK
            )
        assert (pacs.asked, modality.reports) == ([], [])
        bench.close()


def test_doctor_says_what_is_wrong_with_commitment(
    tmp_path: Path, authority: Authority, pairs: dict[str, Pair], pacs: MockCommitmentPacs
) -> None:
    other = Authority(tmp_path / "other", "Other CA")
    with MockScp() as storage, closed_port() as off:
        source = {"port": off, "host": LOOPBACK, "tls": called(authority, pairs["node"])}
        bench = Bench(tmp_path / "plain", storage.port, source=source)
        found = probe(bench)
        state, sentence = found["pacs: commitment"]["commitment"]
        assert state is StepState.FAILED
        assert "does not take Storage Commitment: is it switched on there?" in sentence
        # A modality is often switched off: no failure, but nothing more is tried.
        reports = found["xray: commitment reports"]
        assert [reports[name][0] for name in ("tcp", "tls", "commitment")] == [
            StepState.WARNING,
            StepState.SKIPPED,
            StepState.SKIPPED,
        ]
        bench.close()
    bench = Bench(tmp_path / "tls", pacs.port, source={"port": 4006}, of_destination={"tls": called(other, None)})
    found = probe(bench)
    state, sentence = found["pacs: commitment"]["tls"]
    assert state is StepState.FAILED
    assert "the authority of its certificate is not known" in sentence
    # Where its reports go is known when it asks.
    assert found["xray: commitment reports"]["commitment"][0] is StepState.SKIPPED
    bench.close()
