"""What reports are made from and where they go, on every database."""

from __future__ import annotations

import pytest

from dicom_node.ledger.arrivals import DerivedInstance, EnhancementDecision, EnhancementRecord
from dicom_node.ledger.outcomes import OutcomeLedger
from dicom_node.states import ArrivalState, ItemState
from tests.contract.conftest import CR, EXPLICIT, Ledger, derived

REPORT = DerivedInstance(
    sop_class_uid="1.2.840.10008.5.1.4.1.1.88.22",
    sop_instance_uid="2.25.99",
    study_instance_uid="1.2",
    series_instance_uid="2.25.2000",
    transfer_syntax_uid=EXPLICIT,
    key="report",
    size=700,
    dataset_offset=300,
    digest="e" * 64,
)
RECORD = EnhancementRecord(
    decision=EnhancementDecision.ENHANCED,
    reason="strength lowered",
    strength=0.35,
    noise_before=39.75,
    noise_after=12.25,
    inference_s=1.5,
    total_s=2.5,
    model_digest="f" * 64,
)


def conclude(
    ledger: Ledger, arrival_id: int, report: DerivedInstance | str | None, *, send_enhanced: bool = True
) -> ArrivalState:
    return ledger.arrivals.conclude(
        arrival_id,
        destinations=("a", "b"),
        send_original=not send_enhanced,
        send_enhanced=send_enhanced,
        report=report,
    )


def series_with_report(ledger: Ledger) -> int:
    """Conclude a series of an enhanced image, one that was passed through, and a report."""
    arrival_id = ledger.complete(2)
    first, second = ledger.arrivals.begin(arrival_id, 0)
    ledger.enhance(first)
    ledger.pass_through(second)
    assert conclude(ledger, arrival_id, REPORT) is ArrivalState.ENHANCED
    return arrival_id


def items(ledger: Ledger, destination: str) -> list[str]:
    query = (
        "SELECT instance.sop_instance_uid FROM delivery_item JOIN delivery ON delivery.id = delivery_id "
        f"JOIN instance ON instance.id = instance_id WHERE destination = '{destination}' ORDER BY instance.id"
    )
    return [row[0] for row in ledger.rows(query)]


def deliver(ledger: Ledger, refused: str = "") -> None:
    """Deliver everything; the object with the UID `refused` is refused."""
    for delivery in ledger.deliveries.due():
        ledger.deliveries.begin(delivery.delivery_id, delivery.attempts)
        for found in ledger.deliveries.take_objects(delivery.delivery_id):
            state = ItemState.REFUSED if found.sop_instance_uid == refused else ItemState.SENT
            ledger.deliveries.record_item(
                delivery.delivery_id, found.instance_id, state, status=None, reason=None, in_doubt=False
            )
        ledger.deliveries.settle(delivery.delivery_id, failure=None, retry_in_s=None)


def test_outcomes_tell_what_was_decided_of_each_image_of_the_arrival(ledger: Ledger) -> None:
    other = ledger.complete(1, series="9")
    ledger.enhance(*ledger.arrivals.begin(other, 0))
    arrival_id = ledger.complete(3)
    first, second, third = ledger.arrivals.begin(arrival_id, 0)
    ledger.clock.advance(5)
    assert ledger.arrivals.decide(first, RECORD, derived(first))
    ledger.clock.advance(5)
    ledger.pass_through(second, "not an image")
    ledger.arrivals.count_attempt(third)
    enhanced, passed = OutcomeLedger(ledger.database).outcomes(arrival_id)
    assert enhanced.source == ledger.arrivals.instance(first)
    assert enhanced.record == RECORD
    assert enhanced.derived == derived(first)
    assert enhanced.decided_at == ledger.clock.now - 5
    assert passed.source == ledger.arrivals.instance(second)
    assert passed.record == EnhancementRecord(decision=EnhancementDecision.PASSED_THROUGH, reason="not an image")
    assert passed.derived is None
    assert passed.decided_at == ledger.clock.now


def test_attempts_at_a_report_are_counted_for_each_arrival(ledger: Ledger) -> None:
    first, second = ledger.complete(1), ledger.complete(1, series="2")
    outcomes = OutcomeLedger(ledger.database)
    assert [outcomes.count_attempt(first) for _ in range(3)] == [1, 2, 3]
    assert outcomes.count_attempt(second) == 1


def test_a_report_goes_last_to_every_destination(ledger: Ledger) -> None:
    series_with_report(ledger)
    assert items(ledger, "a") == items(ledger, "b") == ["1.2.1.2", "2.25.1", "2.25.99"]
    assert ledger.rows("SELECT origin, source_id, state, key FROM instance WHERE sop_class_uid <> '" + CR + "'") == [
        ("report", None, "stored", "report")
    ]
    assert "report" in {file.key for file in ledger.balance.files()}


def test_why_there_is_no_report_is_in_the_audit_where_something_was_enhanced(ledger: Ledger) -> None:
    arrival_id = ledger.complete(1)
    ledger.enhance(*ledger.arrivals.begin(arrival_id, 0))
    conclude(ledger, arrival_id, "highdicom is broken")
    passed = ledger.complete(1, series="2")
    ledger.pass_through(*ledger.arrivals.begin(passed, 0))
    conclude(ledger, passed, "nobody asks for it")
    assert ledger.rows("SELECT subject_id, to_state, reason FROM event WHERE event = 'no_report'") == [
        (arrival_id, "enhanced", "highdicom is broken")
    ]
    assert items(ledger, "a") == ["2.25.1", "1.2.2.1"]


@pytest.mark.parametrize(("refused", "delivered", "dead"), [("", 2, 0), ("2.25.99", 2, 0), ("2.25.1", 1, 1)])
def test_the_balance_counts_images_whatever_becomes_of_the_report(
    ledger: Ledger, refused: str, delivered: int, dead: int
) -> None:
    series_with_report(ledger)
    waiting = ledger.balance.balance()
    assert (waiting.total.received, waiting.total.in_work, waiting.findings) == (2, 2, [])
    deliver(ledger, refused)
    found = ledger.balance.balance()
    assert (found.total.received, found.total.delivered, found.total.dead_letters) == (2, delivered, dead)
    assert found.findings == []
    assert len(ledger.deliveries.dead_letters()) == (2 if refused else 0)


@pytest.mark.parametrize(
    ("refused", "purged"), [("", ["derived-1", "key-1-1-1-a", "key-1-1-2-a", "report"]), ("2.25.99", [])]
)
def test_a_report_is_kept_and_purged_with_its_series(ledger: Ledger, refused: str, purged: list[str]) -> None:
    series_with_report(ledger)
    deliver(ledger, refused)
    ledger.clock.advance(10)
    assert sorted(ledger.retention.purge_delivered(5)) == purged
