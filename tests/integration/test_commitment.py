"""Storage Commitment on real sockets, both sides: on time, late, twice, elsewhere, in part, and never."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import ComputedRadiographyImageStorage, Verification  # type: ignore[attr-defined]

from config.settings import DicomDestinationSettings, Settings, SourceSettings, TlsSettings
from dicom_node.command_set import build_event_report_request, build_response
from dicom_node.commitment_jobs import CommitmentJobs
from dicom_node.commitment_messages import decode, encode, parse_request
from dicom_node.data_phase import DataPhaseError
from dicom_node.instance_store import InstanceStore
from dicom_node.ledger.database import ledger_url
from dicom_node.receiver import Receiver
from dicom_node.states import DeliveryState
from dicom_node.upper_layer import accept_association
from tests.contract.conftest import Clock, Ledger
from tests.contract.test_ledger_deliveries import deliver, open_deliveries
from tests.support.commitment import MockCommitmentPacs, MockModality, bring_report, report_dataset
from tests.support.network import receiver_settings
from tests.support.peers import LOOPBACK, closed_port, find_free_port

COMMITTING, COMMITTED = DeliveryState.COMMITTING, DeliveryState.COMMITTED
PENDING, SENT = DeliveryState.PENDING, DeliveryState.SENT
RETRY = {"initial_delay_s": 5, "jitter": 0}


class Bench:
    """A receiver and the jobs of a worker on one ledger, whose clock tests move."""

    def __init__(
        self,
        folder: Path,
        pacs: int,
        source: dict[str, Any] | bool,
        *,
        tls: TlsSettings | None = None,
        of_destination: dict[str, Any] | None = None,
        of_source: dict[str, Any] | None = None,
        **asked: Any,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.ledger = Ledger(ledger_url("", folder), Clock())
        commitment = {"delay_s": 0, "wait_s": 0, **asked} if asked.pop("commits", True) else False
        destination = DicomDestinationSettings.model_validate(
            {"name": "pacs", "ae_title": "PACS", "host": LOOPBACK, "port": pacs, "retry": RETRY, "connect_timeout_s": 2}
            | {"commitment": commitment, **(of_destination or {})}
        )
        modality = SourceSettings.model_validate(
            {"name": "xray", "ae_titles": ["XRAY1"], "hosts": ["127.0.0.0/8"], "commitment": source} | (of_source or {})
        )
        base = receiver_settings(folder, sources=[modality], tls=tls)
        self.settings: Settings = base.model_copy(update={"destinations": (destination,)})
        self.receiver = Receiver(self.settings, InstanceStore(folder), self.ledger.reception, self.ledger.database)
        self.receiver.start()
        self.jobs = self.new_jobs()

    def new_jobs(self) -> CommitmentJobs:
        """Return the jobs of another worker, which knows nothing but the ledger."""
        return CommitmentJobs(self.settings, self.ledger.database, clock=self.ledger.clock, rng=random.Random(1))

    def sent(self, count: int = 1, series: str = "1") -> int:
        """Receive, conclude and deliver a series."""
        (delivery_id,) = open_deliveries(self.ledger, count, series=series)
        deliver(self.ledger, delivery_id)
        return delivery_id

    def state(self, delivery_id: int) -> DeliveryState:
        return self.ledger.deliveries.get(delivery_id).state

    def close(self) -> None:
        self.receiver.stop(0)
        self.ledger.database.close()


@pytest.fixture
def pacs() -> Iterator[MockCommitmentPacs]:
    with MockCommitmentPacs() as running:
        yield running


@pytest.fixture
def bench(tmp_path: Path, pacs: MockCommitmentPacs) -> Iterator[Bench]:
    running = Bench(tmp_path, pacs.port, source=False, report_ae_titles=["PACS_OUT"], wait_s=0)
    yield running
    running.close()


# -- as SCU -----------------------------------------------------------------------------------------


def test_a_report_on_the_association_of_the_request_commits(tmp_path: Path) -> None:
    with MockCommitmentPacs(on_same=True) as pacs:
        bench = Bench(tmp_path, pacs.port, source=False, wait_s=20)
        delivery_id = bench.sent(3)
        bench.jobs.ask("pacs")
        assert bench.state(delivery_id) is COMMITTED
        assert pacs.same_statuses == [0x0000]
        assert pacs.asked[0].calling_ae_title == "LOWDOSE"
        assert pacs.asked[0].transaction_uid.startswith("2.25.")
        bench.close()


@pytest.mark.parametrize("calling", ["PACS", "PACS_OUT"])
@pytest.mark.parametrize("with_role", [True, False])
def test_a_report_on_a_new_association_commits_and_may_come_twice(
    bench: Bench, pacs: MockCommitmentPacs, calling: str, with_role: bool
) -> None:
    delivery_id = bench.sent(3)
    bench.jobs.ask("pacs")
    asked = pacs.wait_for(0)
    assert bench.state(delivery_id) is COMMITTING
    report = report_dataset(asked.transaction_uid, asked.instances)
    assert bring_report(bench.receiver.port, report, calling=calling, with_role=with_role) == 0x0000
    assert bench.state(delivery_id) is COMMITTED
    before = bench.ledger.rows("SELECT * FROM delivery_item")
    assert bring_report(bench.receiver.port, report, calling=calling) == 0x0000
    assert [row[4:6] for row in bench.ledger.rows("SELECT * FROM delivery_item")] == [row[4:6] for row in before]
    assert bench.state(delivery_id) is COMMITTED


def test_another_worker_asks_again_when_the_first_died_after_its_request(
    bench: Bench, pacs: MockCommitmentPacs
) -> None:
    delivery_id = bench.sent()
    bench.jobs.ask("pacs")
    first = pacs.wait_for(0)
    other = bench.new_jobs()
    other.ask("pacs")
    assert len(pacs.asked) == 1
    bench.ledger.clock.advance(3600)
    other.ask("pacs")
    second = pacs.wait_for(1)
    assert second.instances == first.instances
    assert second.transaction_uid != first.transaction_uid
    # The first one's late answer counts.
    assert bring_report(bench.receiver.port, report_dataset(first.transaction_uid, first.instances)) == 0x0000
    assert bench.state(delivery_id) is COMMITTED


def test_what_fails_is_to_be_sent_again(bench: Bench, pacs: MockCommitmentPacs) -> None:
    delivery_id = bench.sent(3)
    bench.jobs.ask("pacs")
    asked = pacs.wait_for(0)
    good, bad, third = asked.instances
    report = report_dataset(asked.transaction_uid, [good, third], {bad: 0x0112})
    assert bring_report(bench.receiver.port, report) == 0x0000
    assert bench.state(delivery_id) is PENDING
    bench.ledger.clock.advance(5)
    deliver(bench.ledger, delivery_id)
    bench.jobs.ask("pacs")
    assert pacs.wait_for(1).instances == (bad,)


def test_a_request_that_is_refused_is_made_again(tmp_path: Path) -> None:
    with MockCommitmentPacs(status=0x0213) as pacs:
        bench = Bench(tmp_path, pacs.port, source=False)
        bench.sent()
        bench.jobs.ask("pacs")
        assert len(pacs.asked) == 1
        (row,) = bench.ledger.rows("SELECT state, reason FROM commitment_transaction")
        assert row[0] == "failed"
        assert "0213" in row[1]
        bench.ledger.clock.advance(600)
        bench.jobs.ask("pacs")
        assert len({asked.transaction_uid for asked in pacs.asked}) == 2
        bench.close()


def test_a_destination_that_is_down_is_asked_soon_after_it_is_back(tmp_path: Path) -> None:
    port = find_free_port()
    bench = Bench(tmp_path, port, source=False)
    delivery_id = bench.sent()
    bench.jobs.ask("pacs")
    assert bench.state(delivery_id) is COMMITTING
    assert bench.ledger.rows("SELECT state FROM commitment_transaction") == [("failed",)]
    bench.ledger.clock.advance(5)
    with MockCommitmentPacs(port=port) as pacs:
        bench.jobs.ask("pacs")
        assert len(pacs.asked) == 1
    bench.close()


def test_the_commitment_scp_may_be_another_than_the_storage_scp(tmp_path: Path) -> None:
    with closed_port() as storage, MockCommitmentPacs(ae_title="SC") as pacs:
        bench = Bench(tmp_path, storage, source=False, ae_title="SC", port=pacs.port)
        delivery_id = bench.sent()
        bench.jobs.ask("pacs")
        asked = pacs.wait_for(0)
        report = report_dataset(asked.transaction_uid, asked.instances)
        assert bring_report(bench.receiver.port, report, calling="SC") == 0x0000
        assert bench.state(delivery_id) is COMMITTED
        bench.close()


def test_who_may_report_may_verify_and_store_nothing(bench: Bench) -> None:
    ae = AE(ae_title="PACS_OUT")
    ae.add_requested_context(Verification)
    ae.add_requested_context(ComputedRadiographyImageStorage)
    association = ae.associate(LOOPBACK, bench.receiver.port, ae_title="LOWDOSE")
    assert [context.abstract_syntax for context in association.accepted_contexts] == [Verification]
    association.release()


def test_reports_of_strangers_are_rejected_and_those_of_modalities_refused(
    bench: Bench, pacs: MockCommitmentPacs
) -> None:
    delivery_id = bench.sent()
    bench.jobs.ask("pacs")
    asked = pacs.wait_for(0)
    report = report_dataset(asked.transaction_uid, asked.instances)
    assert bring_report(bench.receiver.port, report, calling="STRANGER") is None
    # A modality that is answered no commitment has no context for it either.
    assert bring_report(bench.receiver.port, report, calling="XRAY1") is None
    assert bench.state(delivery_id) is COMMITTING


def test_reports_that_make_no_sense_are_answered_by_the_standard(bench: Bench, pacs: MockCommitmentPacs) -> None:
    delivery_id = bench.sent()
    bench.jobs.ask("pacs")
    asked = pacs.wait_for(0)
    good = report_dataset(asked.transaction_uid, asked.instances)
    without = report_dataset("", asked.instances)
    port = bench.receiver.port
    assert bring_report(port, report_dataset("2.25.1", asked.instances)) == 0x0115
    assert bring_report(port, without) == 0x0115
    assert bring_report(port, good, event_type=3) == 0x0113
    assert bring_report(port, good, instance="1.2.3") == 0x0112
    empty = Dataset()
    empty.TransactionUID = asked.transaction_uid
    # Success that names nothing commits nothing.
    assert bring_report(port, empty) == 0x0000
    assert bench.state(delivery_id) is COMMITTING
    assert bring_report(port, good) == 0x0000
    assert bench.state(delivery_id) is COMMITTED


def test_a_report_that_overtakes_the_response_to_its_request_counts(tmp_path: Path) -> None:
    statuses: list[int | None] = []

    def serve(listener: socket.socket) -> None:
        association = accept_association(
            listener.accept()[0],
            judge=lambda _: None,
            choose_transfer_syntax=lambda context: context.transfer_syntaxes[0],
            ae_title="PACS",
            max_pdu_bytes=16_384,
            acse_timeout_s=20,
            network_timeout_s=20,
        )
        phase, encoded = association.phase, bytearray()
        context_id, request = phase.receive_command()
        phase.receive_data_set(context_id, encoded.extend)
        syntax = association.contexts[context_id].transfer_syntax
        asked = parse_request(decode(bytes(encoded), syntax))
        report = encode(report_dataset(asked.transaction_uid, [uid for _, uid in asked.references]), syntax)
        command = build_event_report_request(1, request.sop_class_uid, request.sop_instance_uid, 1)
        phase.send_message(context_id, command, memoryview(report))
        statuses.append(phase.receive_command()[1].status)
        phase.send_message(context_id, build_response(request, 0))
        with contextlib.suppress(DataPhaseError):
            phase.receive_command()
        phase.confirm_release()
        phase.close()

    with socket.create_server((LOOPBACK, 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        bench = Bench(tmp_path, listener.getsockname()[1], source=False, wait_s=20)
        delivery_id = bench.sent(2)
        bench.jobs.ask("pacs")
        thread.join()
    assert statuses == [0x0000]
    assert bench.state(delivery_id) is COMMITTED
    assert bench.ledger.rows("SELECT state FROM commitment_transaction") == [("reported",)]
    bench.close()


# -- as SCP -----------------------------------------------------------------------------------------


@pytest.fixture
def modality() -> Iterator[MockModality]:
    with MockModality() as running:
        yield running


def site(folder: Path, pacs: int, modality: MockModality, **changes: Any) -> Bench:
    source = {"port": modality.port, "host": LOOPBACK, "originals": "replaced", **changes.pop("source", {})}
    return Bench(folder, pacs, source={k: v for k, v in source.items() if v is not None}, **changes)


def turn(bench: Bench) -> None:
    """Let a worker do what is due for modalities."""
    bench.jobs.decide()
    bench.jobs.report("xray")


def test_yes_is_said_when_the_destination_has_committed_and_not_before(
    tmp_path: Path, pacs: MockCommitmentPacs, modality: MockModality
) -> None:
    bench = site(tmp_path, pacs.port, modality)
    delivery_id = bench.sent(2)
    assert modality.ask(bench.receiver.port, "2.25.77", "1.2.1.1", "1.2.1.2") == 0x0000
    turn(bench)
    assert modality.reports == []
    bench.jobs.ask("pacs")
    turn(bench)
    assert modality.reports == []
    asked = pacs.wait_for(0)
    assert bring_report(bench.receiver.port, report_dataset(asked.transaction_uid, asked.instances)) == 0x0000
    assert bench.state(delivery_id) is COMMITTED
    turn(bench)
    (report,) = modality.reports
    assert (report.transaction_uid, report.event_type_id, report.failed) == ("2.25.77", 1, {})
    assert report.committed == ("1.2.1.1", "1.2.1.2")
    assert report.calling_ae_title == "LOWDOSE"
    turn(bench)
    assert len(modality.reports) == 1
    # It lost the answer and asks the same again; then uses the Transaction UID for something else.
    assert modality.ask(bench.receiver.port, "2.25.77", "1.2.1.1", "1.2.1.2") == 0x0000
    turn(bench)
    assert len(modality.reports) == 2
    assert modality.ask(bench.receiver.port, "2.25.77", "1.2.1.1") == 0x0115
    bench.close()


def test_unknown_objects_and_wrong_classes_are_named_as_failed(
    tmp_path: Path, pacs: MockCommitmentPacs, modality: MockModality
) -> None:
    bench = site(tmp_path, pacs.port, modality)
    assert modality.ask(bench.receiver.port, "2.25.1", "1.2.3.4.5") == 0x0000
    turn(bench)
    assert (modality.reports[0].event_type_id, modality.reports[0].failed) == (2, {"1.2.3.4.5": 0x0112})
    bench.sent()
    assert modality.ask(bench.receiver.port, "2.25.2", "1.2.1.1", sop_class="1.2.840.10008.5.1.4.1.1.7") == 0x0000
    turn(bench)
    assert modality.reports[1].failed == {"1.2.1.1": 0x0119}
    bench.close()


def test_what_is_not_committed_in_time_is_failed(
    tmp_path: Path, pacs: MockCommitmentPacs, modality: MockModality
) -> None:
    bench = site(tmp_path, pacs.port, modality, source={"wait_s": 600})
    bench.sent()
    assert modality.ask(bench.receiver.port, "2.25.1", "1.2.1.1") == 0x0000
    bench.ledger.clock.advance(599)
    turn(bench)
    assert modality.reports == []
    bench.ledger.clock.advance(1)
    turn(bench)
    assert modality.reports[0].failed == {"1.2.1.1": 0x0110}
    bench.close()


def test_an_original_that_only_the_node_has_is_not_committed_unless_the_site_says_so(
    tmp_path: Path, pacs: MockCommitmentPacs, modality: MockModality
) -> None:
    bench = site(tmp_path, pacs.port, modality, source={"originals": "required"})
    bench.sent(2)
    bench.jobs.ask("pacs")
    asked = pacs.wait_for(0)
    assert bring_report(bench.receiver.port, report_dataset(asked.transaction_uid, asked.instances)) == 0x0000
    assert modality.ask(bench.receiver.port, "2.25.1", "1.2.1.1", "1.2.1.2") == 0x0000
    turn(bench)
    # The first was enhanced, and only that was sent; the second was passed through.
    assert modality.reports[0].failed == {"1.2.1.1": 0x0110}
    assert modality.reports[0].committed == ("1.2.1.2",)
    bench.close()


@pytest.mark.parametrize(("counts", "failed"), [("committed", {"1.2.1.1": 0x0110}), ("sent", {})])
def test_a_destination_without_commitment_counts_only_where_the_site_says_so(
    tmp_path: Path, pacs: MockCommitmentPacs, modality: MockModality, counts: str, failed: dict[str, int]
) -> None:
    bench = site(tmp_path, pacs.port, modality, source={"counts": counts}, commits=False)
    bench.sent()
    assert modality.ask(bench.receiver.port, "2.25.1", "1.2.1.1") == 0x0000
    turn(bench)
    assert modality.reports[0].failed == failed
    bench.close()


def test_every_destination_has_to_commit(tmp_path: Path, pacs: MockCommitmentPacs, modality: MockModality) -> None:
    bench = site(tmp_path, pacs.port, modality, source={"counts": "sent"})
    committing, other = open_deliveries(bench.ledger, 1, "pacs", "plain")
    deliver(bench.ledger, committing)
    bench.jobs.ask("pacs")
    asked = pacs.wait_for(0)
    assert bring_report(bench.receiver.port, report_dataset(asked.transaction_uid, asked.instances)) == 0x0000
    assert modality.ask(bench.receiver.port, "2.25.1", "1.2.1.1") == 0x0000
    turn(bench)
    assert modality.reports == []
    deliver(bench.ledger, other)
    turn(bench)
    assert modality.reports[0].committed == ("1.2.1.1",)
    bench.close()


def test_a_modality_that_is_down_gets_its_report_later(tmp_path: Path, pacs: MockCommitmentPacs) -> None:
    port = find_free_port()
    away = MockModality(port=port)
    bench = site(tmp_path, pacs.port, away)
    assert away.ask(bench.receiver.port, "2.25.1", "1.2.3.4.5") == 0x0000
    turn(bench)
    assert bench.ledger.rows("SELECT state, attempts FROM commitment_request") == [("decided", 1)]
    # Another worker takes it up.
    bench.jobs = bench.new_jobs()
    bench.ledger.clock.advance(3600)
    with away:
        turn(bench)
        assert len(away.reports) == 1
    assert bench.ledger.rows("SELECT state, attempts FROM commitment_request") == [("reported", 2)]
    bench.close()


def test_a_report_that_nobody_takes_is_given_up_and_the_request_can_be_made_again(
    tmp_path: Path, pacs: MockCommitmentPacs, modality: MockModality
) -> None:
    modality.status = 0x0110
    bench = site(tmp_path, pacs.port, modality, source={"wait_s": 60, "max_age_h": 1})
    assert modality.ask(bench.receiver.port, "2.25.1", "1.2.3.4.5") == 0x0000
    turn(bench)
    assert len(modality.reports) == 1
    bench.ledger.clock.advance(3700)
    turn(bench)
    assert bench.ledger.rows("SELECT state FROM commitment_request") == [("abandoned",)]
    bench.close()


@pytest.mark.parametrize("port", [None, "listener"])
def test_the_report_goes_on_the_association_of_the_request(
    tmp_path: Path, pacs: MockCommitmentPacs, modality: MockModality, port: str | None
) -> None:
    source: dict[str, Any] = {"same_association": True} if port else {"port": None}
    bench = site(tmp_path, pacs.port, modality, source=source)
    assert modality.ask(bench.receiver.port, "2.25.1", "1.2.3.4.5", stay_for_reports=1) == 0x0000
    assert modality.reports[0].failed == {"1.2.3.4.5": 0x0112}
    bench.receiver.stop(5)
    assert bench.ledger.rows("SELECT state FROM commitment_request") == [("reported",)]
    bench.close()


def test_requests_that_make_no_sense_are_answered_by_the_standard(
    tmp_path: Path, pacs: MockCommitmentPacs, modality: MockModality
) -> None:
    bench = site(tmp_path, pacs.port, modality)
    assert modality.ask(bench.receiver.port, "2.25.1", "1.2.3", action_type=2) == 0x0123
    assert modality.ask(bench.receiver.port, "2.25.1") == 0x0115
    assert modality.ask(bench.receiver.port, "", "1.2.3") == 0x0115
    assert bench.ledger.rows("SELECT * FROM commitment_request") == []
    bench.close()


def test_a_source_without_commitment_has_no_context_for_it(
    tmp_path: Path, pacs: MockCommitmentPacs, modality: MockModality
) -> None:
    bench = Bench(tmp_path, pacs.port, source=False)
    assert modality.ask(bench.receiver.port, "2.25.1", "1.2.3") is None
    bench.close()


def test_a_destination_that_is_to_commit_no_more_holds_nothing_back(bench: Bench, pacs: MockCommitmentPacs) -> None:
    delivery_id = bench.sent()
    bench.jobs.ask("pacs")
    pacs.wait_for(0)
    # Still in the settings, still asked.
    bench.jobs.drop()
    assert bench.state(delivery_id) is COMMITTING
    (entry,) = bench.settings.dicom_destinations
    # Taken out of the settings altogether nobody knows what it was to do.
    bench.settings = bench.settings.model_copy(update={"destinations": ()})
    bench.new_jobs().drop()
    assert bench.state(delivery_id) is COMMITTING
    without = entry.model_copy(update={"commitment": None})
    bench.settings = bench.settings.model_copy(update={"destinations": (without,)})
    bench.new_jobs().drop()
    assert bench.state(delivery_id) is DeliveryState.SENT
