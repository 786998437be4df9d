"""Originals that go before every image is decided, and the enhanced images that follow, on every database."""

from __future__ import annotations

import pytest

from dicom_node.errors import IllegalTransition
from dicom_node.ledger.arrivals import EnhancementDecision, EnhancementRecord
from dicom_node.ledger.measurements import MeasurementLedger
from dicom_node.ledger.reception import RecordOutcome
from dicom_node.states import ArrivalState, ItemState
from tests.contract.conftest import Ledger, derived

ITEMS = (
    "SELECT delivery.part, instance.origin, coalesce(instance.source_id, instance.id) FROM delivery_item "
    "JOIN delivery ON delivery.id = delivery_id JOIN instance ON instance.id = instance_id "
    "ORDER BY delivery.part, instance.id"
)


def begin(ledger: Ledger, count: int = 3) -> tuple[int, list[int]]:
    arrival_id = ledger.complete(count)
    return arrival_id, ledger.arrivals.begin(arrival_id, 0)


def release(ledger: Ledger, arrival_id: int, *destinations: str, shadow: bool = False, original: bool = False) -> None:
    ledger.arrivals.release(
        arrival_id,
        destinations=destinations or ("pacs",),
        send_original=original or shadow,
        send_enhanced=not shadow,
        reason="late",
        shadow=shadow,
    )


def end(ledger: Ledger, arrival_id: int, *, given_up: str | None = None, report: bool = False) -> ArrivalState:
    return ledger.arrivals.end_following(
        arrival_id, destinations=("pacs",), given_up=given_up, report=derived(99) if report else None
    )


def deliver_all(ledger: Ledger) -> None:
    """Send whatever is due, with success."""
    for due in ledger.deliveries.due():
        ledger.deliveries.begin(due.delivery_id, due.attempts)
        for obj in ledger.deliveries.take_objects(due.delivery_id):
            ledger.deliveries.record_item(due.delivery_id, obj.instance_id, ItemState.SENT, status=0, reason=None)
        ledger.deliveries.settle(due.delivery_id, failure=None, retry_in_s=None)


def counts(ledger: Ledger) -> tuple[int, int]:
    balance = ledger.balance.balance()
    assert not balance.findings
    return balance.total.delivered, balance.total.in_work


def test_originals_go_first_and_what_is_enhanced_later_follows_once(ledger: Ledger) -> None:
    arrival_id, (one, two, three) = begin(ledger)
    ledger.enhance(one)
    release(ledger, arrival_id)
    assert ledger.rows(ITEMS) == [(0, "received", two), (0, "received", three), (0, "derived", one)]
    deliver_all(ledger)
    # Nothing of the series is done while anything may follow.
    assert counts(ledger) == (0, 3)
    assert ledger.arrivals.begin(arrival_id, 1) == [two, three]
    ledger.enhance(two)
    ledger.pass_through(three, "the guard refused it")
    assert end(ledger, arrival_id) is ArrivalState.ENHANCED
    assert [row for row in ledger.rows(ITEMS) if row[0] == 1] == [(1, "derived", two)]
    assert [(line.part, line.pending) for line in ledger.deliveries.lines()] == [(0, 0), (1, 1)]
    assert counts(ledger) == (2, 1)
    deliver_all(ledger)
    assert counts(ledger) == (3, 0)


def test_the_workflow_that_worked_on_a_released_series_is_replaced(ledger: Ledger) -> None:
    arrival_id, _ = begin(ledger)
    release(ledger, arrival_id)
    with pytest.raises(IllegalTransition, match="past attempt 0"):
        ledger.arrivals.begin(arrival_id, 0)
    for send in (True, False):
        with pytest.raises(IllegalTransition):
            ledger.arrivals.conclude(arrival_id, destinations=("pacs",), send_original=send, send_enhanced=True)
    with pytest.raises(IllegalTransition):
        release(ledger, arrival_id)


def test_following_ends_once(ledger: Ledger) -> None:
    arrival_id, _ = begin(ledger)
    with pytest.raises(IllegalTransition):
        end(ledger, arrival_id, given_up="too long")
    release(ledger, arrival_id)
    assert end(ledger, arrival_id, given_up="too long") is ArrivalState.PASSED_THROUGH
    with pytest.raises(IllegalTransition):
        end(ledger, arrival_id)
    assert {row[0] for row in ledger.rows("SELECT reason FROM enhancement")} == {"too long"}
    assert {row[0] for row in ledger.rows(ITEMS)} == {0}


def test_what_was_enhanced_before_following_is_given_up_still_follows(ledger: Ledger) -> None:
    arrival_id, (one, *_) = begin(ledger)
    release(ledger, arrival_id)
    ledger.enhance(one)
    assert end(ledger, arrival_id, given_up="too long") is ArrivalState.ENHANCED
    assert [row for row in ledger.rows(ITEMS) if row[0] == 1] == [(1, "derived", one)]


def test_the_report_follows_too(ledger: Ledger) -> None:
    arrival_id, (one,) = begin(ledger, 1)
    release(ledger, arrival_id)
    ledger.enhance(one)
    end(ledger, arrival_id, report=True)
    assert [row[1] for row in ledger.rows(ITEMS) if row[0] == 1] == ["derived", "report"]


def test_retention_waits_for_what_follows(ledger: Ledger) -> None:
    arrival_id, (one,) = begin(ledger, 1)
    release(ledger, arrival_id)
    deliver_all(ledger)
    ledger.clock.advance(1e6)
    assert ledger.retention.purge_delivered(0) == []
    ledger.enhance(one)
    end(ledger, arrival_id)
    assert ledger.retention.purge_delivered(0) == []
    deliver_all(ledger)
    ledger.clock.advance(1)
    assert len(ledger.retention.purge_delivered(0)) == 2


def test_in_shadow_mode_no_derived_object_is_in_any_delivery(ledger: Ledger) -> None:
    arrival_id = ledger.complete(2)
    release(ledger, arrival_id, shadow=True)
    one, two = ledger.arrivals.begin(arrival_id, 1)
    measured = EnhancementRecord(decision=EnhancementDecision.ENHANCED, noise_before=4.0, noise_after=1.0)
    assert ledger.arrivals.decide(one, measured)
    # As if a derived object had come into the ledger all the same, of a time before the route was in shadow mode.
    ledger.enhance(two)
    assert end(ledger, arrival_id, report=True) is ArrivalState.PASSED_THROUGH
    deliver_all(ledger)
    assert ledger.rows(ITEMS) == [(0, "received", one), (0, "received", two)]
    assert counts(ledger) == (2, 0)


def test_measurements_are_those_of_shadow_mode_alone(ledger: Ledger) -> None:
    arrival_id = ledger.complete(2)
    ledger.arrivals.assign_route(arrival_id, "chest")
    release(ledger, arrival_id, shadow=True)
    one, two = ledger.arrivals.begin(arrival_id, 1)
    ledger.arrivals.count_attempt(two)
    ledger.clock.advance(7)
    ledger.arrivals.decide(one, EnhancementRecord(decision=EnhancementDecision.ENHANCED, noise_before=4.0))
    other = ledger.complete(1, series="2")
    ledger.arrivals.begin(other, 0)
    first, second = MeasurementLedger(ledger.database).measurements(route="chest")
    assert (first.decision, first.noise_before, first.decided_at) == ("enhanced", 4.0, first.completed_at + 7)
    assert (second.decision, second.decided_at) == (None, None)
    assert MeasurementLedger(ledger.database).measurements(route="hand") == []
    assert MeasurementLedger(ledger.database).measurements(since=ledger.clock.now + 1) == []


def test_an_image_given_up_for_the_deadline_has_its_attempt_back(ledger: Ledger) -> None:
    _, (one,) = begin(ledger, 1)
    ledger.arrivals.count_attempt(one)
    ledger.arrivals.postpone(one)
    assert ledger.arrivals.attempts_at(one) == 0
    ledger.arrivals.postpone(one)
    assert ledger.arrivals.attempts_at(one) == 0
    ledger.enhance(one)
    ledger.arrivals.postpone(one)
    assert ledger.arrivals.attempts_at(one) is None


# -- the same image in another transfer syntax ------------------------------------------------------


def test_an_image_that_another_stands_for_is_not_delivered_and_shares_its_fate(ledger: Ledger) -> None:
    first, (one,) = begin(ledger, 1)
    association = ledger.associate()
    ledger.receive(association, 1, content="b")
    ledger.release(association, 1)
    (idle,) = ledger.arrivals.idle()
    ledger.arrivals.complete(idle.arrival_id, last_activity_at=idle.last_activity_at)
    (again,) = ledger.arrivals.begin(idle.arrival_id, 0)
    stored = ledger.arrivals.instance(again)
    assert [i.instance_id for i in ledger.arrivals.revisions_before(stored)] == [one]
    assert ledger.arrivals.recognise(again, one)
    assert ledger.arrivals.is_recognised(again)
    ledger.arrivals.conclude(idle.arrival_id, destinations=("pacs",), send_original=True, send_enhanced=True)
    assert ledger.rows("SELECT id FROM delivery") == []
    # The first is still being enhanced.
    assert counts(ledger) == (0, 2)
    ledger.enhance(one)
    ledger.arrivals.conclude(first, destinations=("pacs",), send_original=False, send_enhanced=True)
    assert counts(ledger) == (0, 2)
    deliver_all(ledger)
    assert counts(ledger) == (2, 0)
    ledger.clock.advance(1)
    assert len(ledger.retention.purge_delivered(0)) == 3


def test_what_is_decided_is_recognised_no_more(ledger: Ledger) -> None:
    _, (one, two) = begin(ledger, 2)
    ledger.enhance(two)
    assert not ledger.arrivals.recognise(two, one)
    assert not ledger.arrivals.is_recognised(two)


def test_a_late_instance_goes_by_the_route_of_its_series(ledger: Ledger) -> None:
    first = ledger.complete(1)
    assert ledger.arrivals.earlier_route(first) is None
    ledger.arrivals.assign_route(first, "chest")
    second = ledger.complete(1, first=2)
    other = ledger.complete(1, series="2")
    assert ledger.arrivals.earlier_route(second) == "chest"
    assert ledger.arrivals.earlier_route(first) is None
    assert ledger.arrivals.earlier_route(other) is None


def test_what_retention_deleted_is_known_when_it_comes_again(ledger: Ledger) -> None:
    arrival_id, (one,) = begin(ledger, 1)
    ledger.enhance(one)
    ledger.arrivals.conclude(arrival_id, destinations=("pacs",), send_original=False, send_enhanced=True)
    deliver_all(ledger)
    ledger.clock.advance(1)
    assert ledger.retention.purge_delivered(0)
    assert ledger.receive(ledger.associate(), 1).outcome is RecordOutcome.DUPLICATE
    assert ledger.arrivals.idle() == []
    # Other bytes can't be compared with what is gone: a revision.
    assert ledger.receive(ledger.associate(), 1, content="b").outcome is RecordOutcome.REVISION
    ((number,),) = ledger.rows("SELECT id FROM instance WHERE revision = 1")
    assert ledger.arrivals.revisions_before(ledger.arrivals.instance(number)) == []
