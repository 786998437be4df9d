"""What an operator does to the queue, and how destinations stand, on every database."""

from __future__ import annotations

import pytest

from dicom_node.errors import IllegalTransition, OperationRefused
from dicom_node.ledger.balance import Count
from dicom_node.ledger.commitment_requests import AnsweringPolicy, judge_instances
from dicom_node.ledger.destinations import HoldScope
from dicom_node.ledger.operations import add_items, open_delivery
from dicom_node.states import BreakerState, DeliveryState, ItemState
from tests.contract.conftest import CR, Ledger
from tests.contract.test_ledger_deliveries import answer, deliver, open_deliveries

PENDING, SENT, HELD = DeliveryState.PENDING, DeliveryState.SENT, DeliveryState.HELD
WHY = "asked for"


def items(ledger: Ledger, delivery_id: int) -> list[tuple[str, str, bool]]:
    """Return origin, state and doubt of what a delivery carries."""
    query = (
        "SELECT instance.origin, delivery_item.state, in_doubt FROM delivery_item JOIN instance ON instance.id = "
        f"instance_id WHERE delivery_id = {delivery_id} ORDER BY instance_id"
    )
    return [(origin, state, bool(doubt)) for origin, state, doubt in ledger.rows(query)]


def due(ledger: Ledger) -> list[int]:
    """Return the numbers of the deliveries that would be sent now."""
    return [found.delivery_id for found in ledger.deliveries.due()]


def begin(ledger: Ledger, delivery_id: int) -> int:
    """Begin the next attempt; returns its number as the delivery counts it."""
    assert ledger.deliveries.begin(delivery_id, ledger.deliveries.get(delivery_id).attempts)
    return ledger.deliveries.get(delivery_id).attempts


# -- hold and release -------------------------------------------------------------------------------


def test_a_delivery_on_hold_waits_until_it_is_released(ledger: Ledger) -> None:
    held, other = open_deliveries(ledger, 1, "a", "b")
    ledger.operations.hold(held, WHY)
    assert due(ledger) == [other]
    with pytest.raises(IllegalTransition):
        ledger.deliveries.begin(held, ledger.deliveries.get(held).attempts)
    ledger.operations.release(held, WHY)
    assert sorted(due(ledger)) == [held, other]
    deliver(ledger, held)


def test_a_workflow_enqueued_before_the_hold_does_not_keep_the_number_of_the_next(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger)
    before = ledger.deliveries.get(delivery_id).attempts
    ledger.operations.hold(delivery_id, WHY)
    ledger.operations.release(delivery_id, WHY)
    assert ledger.deliveries.get(delivery_id).attempts > before


def test_a_hold_in_the_middle_stops_after_the_object_on_its_way(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger, 3)
    attempt = begin(ledger, delivery_id)
    first, second, third = ledger.deliveries.take_objects(delivery_id)

    def record(instance_id: int) -> bool:
        return ledger.deliveries.record_item(
            delivery_id, instance_id, ItemState.SENT, status=0, reason=None, attempt=attempt
        )

    assert record(first.instance_id)
    ledger.operations.hold(delivery_id, WHY)
    assert not record(second.instance_id)
    untouched = [third.instance_id]
    state = ledger.deliveries.put_back(delivery_id, "stopped", attempt=attempt, in_s=0, untouched=untouched)
    assert state is HELD
    assert [(state, doubt) for _, state, doubt in items(ledger, delivery_id)] == [
        ("sent", False),
        ("sent", False),
        ("pending", False),
    ]


def test_an_attempt_that_another_has_followed_changes_nothing_any_more(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger, 2)
    old = begin(ledger, delivery_id)
    first, _ = ledger.deliveries.take_objects(delivery_id)
    ledger.operations.hold(delivery_id, WHY)
    ledger.operations.release(delivery_id, WHY)
    begin(ledger, delivery_id)
    assert not ledger.deliveries.record_item(
        delivery_id, first.instance_id, ItemState.SENT, status=0, reason=None, attempt=old
    )
    assert ledger.deliveries.settle(delivery_id, failure="lost", retry_in_s=None, attempt=old) is DeliveryState.SENDING
    assert ledger.deliveries.get(delivery_id).state is DeliveryState.SENDING


def test_what_was_sent_to_the_end_in_spite_of_a_hold_is_sent(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger, 1)
    attempt = begin(ledger, delivery_id)
    ledger.operations.hold(delivery_id, WHY)
    answer(ledger, delivery_id, ItemState.SENT)
    assert ledger.deliveries.settle(delivery_id, failure=None, retry_in_s=None, attempt=attempt) is SENT


@pytest.mark.parametrize(("scope", "subject"), [(HoldScope.DESTINATION, "a"), (HoldScope.STUDY, "1.2")])
def test_a_destination_or_study_on_hold_keeps_what_is_still_to_come_too(
    ledger: Ledger, scope: HoldScope, subject: str
) -> None:
    (early,) = open_deliveries(ledger, 1, "a", series="1")
    ledger.standings.hold(scope, subject, WHY)
    (late,) = open_deliveries(ledger, 1, "a", series="2")
    assert due(ledger) == []
    # Its workflow was enqueued before.
    before = ledger.deliveries.get(early).attempts
    assert not ledger.deliveries.begin(early, before)
    assert ledger.deliveries.get(early).attempts == before + 1
    with pytest.raises(OperationRefused, match="on hold already"):
        ledger.standings.hold(scope, subject, WHY)
    assert [(hold.scope, hold.subject) for hold in ledger.standings.holds()] == [(scope, subject)]
    ledger.standings.release(scope, subject, WHY)
    assert sorted(due(ledger)) == [early, late]
    with pytest.raises(OperationRefused, match="not on hold"):
        ledger.standings.release(scope, subject, WHY)


def test_an_attempt_that_a_crash_interrupted_waits_where_its_destination_is_on_hold(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger, 1, "a")
    begin(ledger, delivery_id)
    ledger.standings.hold(HoldScope.DESTINATION, "a", WHY)
    assert not ledger.deliveries.begin(delivery_id, ledger.deliveries.get(delivery_id).attempts - 1)
    assert ledger.deliveries.get(delivery_id).state is PENDING


# -- cancel -----------------------------------------------------------------------------------------


def test_what_is_cancelled_is_counted_kept_and_can_be_taken_up_again(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger, 2)
    begin(ledger, delivery_id)
    answer(ledger, delivery_id, ItemState.SENT)
    ledger.operations.cancel(delivery_id, "a duplicate study")
    total = ledger.balance.balance().total
    assert total == Count(received=2, delivered=1, cancelled=1)
    assert total.balanced
    ledger.clock.advance(1e8)
    assert ledger.retention.purge_delivered(0) == []
    assert due(ledger) == []
    ledger.operations.retry(delivery_id, WHY)
    assert due(ledger) == [delivery_id]
    assert ledger.balance.balance().total == Count(received=2, delivered=1, in_work=1)


# -- reroute ----------------------------------------------------------------------------------------


def test_only_what_was_not_sent_goes_to_the_other_destination(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger, 3, "a")
    begin(ledger, delivery_id)
    answer(ledger, delivery_id, ItemState.SENT, ItemState.REFUSED)
    ledger.deliveries.settle(delivery_id, failure="lost", retry_in_s=5)
    there = ledger.operations.reroute(delivery_id, "b", WHY)
    assert ledger.deliveries.get(delivery_id).state is DeliveryState.REROUTED
    assert [state for _, state, _ in items(ledger, delivery_id)] == ["sent"]
    assert items(ledger, there) == [("received", "pending", False), ("derived", "pending", False)]
    assert ledger.balance.balance().total == Count(received=3, delivered=1, in_work=2)
    deliver(ledger, there)
    assert ledger.balance.balance().total == Count(received=3, delivered=3)
    ledger.clock.advance(1000)
    assert len(ledger.retention.purge_delivered(10)) == 4


def test_a_destination_that_gets_the_series_already_gets_nothing_twice(ledger: Ledger) -> None:
    first, second = open_deliveries(ledger, 2, "a", "b")
    deliver(ledger, second)
    assert ledger.operations.reroute(first, "b", WHY) == second
    assert ledger.deliveries.get(second).state is SENT
    assert items(ledger, first) == []
    assert ledger.balance.balance().total == Count(received=2, delivered=2)


def test_what_can_not_be_rerouted_is_said(ledger: Ledger) -> None:
    sent, waits = open_deliveries(ledger, 1, "a", "b")
    deliver(ledger, sent)
    with pytest.raises(OperationRefused, match="nothing left to send"):
        ledger.operations.reroute(sent, "c", WHY)
    with pytest.raises(OperationRefused, match="goes to b already"):
        ledger.operations.reroute(waits, "b", WHY)
    begin(ledger, waits)
    with pytest.raises(OperationRefused, match="it is sending; put it on hold first"):
        ledger.operations.reroute(waits, "c", WHY)
    assert ledger.rows("SELECT count(*) FROM delivery WHERE destination = 'c'") == [(0,)]


# -- originals again --------------------------------------------------------------------------------


def test_originals_go_beside_what_was_sent_and_their_duplicates_are_no_refusal(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger, 2)
    deliver(ledger, delivery_id)
    assert [(origin, state) for origin, state, _ in items(ledger, delivery_id)] == [
        ("received", "sent"),
        ("derived", "sent"),
    ]
    assert ledger.operations.resend_originals(delivery_id, WHY) == 2
    # The second image was passed through: its original may be there.
    assert items(ledger, delivery_id) == [
        ("received", "pending", False),
        ("received", "pending", True),
        ("derived", "sent", False),
    ]
    deliver(ledger, delivery_id)
    assert ledger.balance.balance().total == Count(received=2, delivered=2)


def test_originals_go_instead_of_what_was_refused(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger, 1)
    begin(ledger, delivery_id)
    answer(ledger, delivery_id, ItemState.REFUSED, reason="A900")
    ledger.deliveries.settle(delivery_id, failure=None, retry_in_s=5)
    ledger.operations.resend_originals(delivery_id, WHY)
    assert items(ledger, delivery_id) == [("received", "pending", False)]
    deliver(ledger, delivery_id)
    assert ledger.balance.balance().total == Count(received=1, delivered=1)


def test_originals_that_retention_has_purged_are_not_promised(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger, 1)
    deliver(ledger, delivery_id)
    ledger.clock.advance(1000)
    ledger.retention.purge_delivered(10)
    with pytest.raises(OperationRefused, match="1 of 1 originals are gone"):
        ledger.operations.resend_originals(delivery_id, WHY)
    assert ledger.deliveries.get(delivery_id).state is SENT


# -- circuit breaker --------------------------------------------------------------------------------


def silent(ledger: Ledger, delivery_id: int, *, sent_something: bool = False) -> bool:
    """Write down an attempt without an answer."""
    return ledger.standings.note_silence(
        "a", delivery_id, "no connection", sent_something=sent_something, limit=3, probe_in_s=30
    )


def test_a_destination_that_never_answers_is_down_until_it_answers_a_probe(ledger: Ledger) -> None:
    (delivery_id, other) = open_deliveries(ledger, 1, "a", "b")
    assert [silent(ledger, delivery_id) for _ in range(4)] == [False, False, True, False]
    assert due(ledger) == [other]
    assert ledger.standings.take_probes(30) == []
    ledger.clock.advance(31)
    assert ledger.standings.take_probes(30) == ["a"]
    # Another worker asks in the same moment.
    assert ledger.standings.take_probes(30) == []
    assert ledger.standings.close("a", "it answered a probe")
    assert due(ledger) == [delivery_id, other]
    (line,) = ledger.standings.lines()
    assert (line.name, line.state, line.failures) == ("a", BreakerState.CLOSED, 0)
    assert [row[0] for row in ledger.rows("SELECT event FROM event WHERE subject = 'destination' ORDER BY id")] == [
        "open",
        "close",
    ]


def test_what_waits_for_its_next_attempt_goes_at_once_when_the_destination_is_back(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger, 1, "a")
    begin(ledger, delivery_id)
    ledger.deliveries.settle(delivery_id, failure="no connection", retry_in_s=600)
    for _ in range(3):
        silent(ledger, delivery_id)
    ledger.standings.close("a", "it answered a probe")
    assert due(ledger) == [delivery_id]


def test_one_answer_begins_the_count_anew(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger, 1, "a")
    silent(ledger, delivery_id)
    silent(ledger, delivery_id)
    assert not ledger.standings.note_answer("a")
    assert [silent(ledger, delivery_id) for _ in range(3)] == [False, False, True]
    assert ledger.standings.note_answer("a")


def test_one_object_that_makes_its_peer_hang_up_does_not_close_the_destination(ledger: Ledger) -> None:
    (poison, other) = open_deliveries(ledger, 1, "a", series="1") + open_deliveries(ledger, 1, "a", series="2")
    assert not any(silent(ledger, poison, sent_something=True) for _ in range(10))
    assert not silent(ledger, other, sent_something=True)
    assert silent(ledger, poison, sent_something=True)


def test_what_has_waited_too_long_for_a_dead_destination_is_a_dead_letter(ledger: Ledger) -> None:
    (old,) = open_deliveries(ledger, 1, "a", series="1")
    ledger.clock.advance(1000)
    (young,) = open_deliveries(ledger, 1, "a", series="2")
    assert ledger.deliveries.abandon_waiting("a", 500, "a is down") == [old]
    assert [line.reason for line in ledger.deliveries.dead_letters()] == ["a is down"]
    assert due(ledger) == [young]


# -- rate -------------------------------------------------------------------------------------------


def test_turns_come_as_fast_as_the_rate_says_and_are_shared(ledger: Ledger) -> None:
    turns = [ledger.standings.take_turn("a", 60, longest_wait_s=2.5) for _ in range(5)]
    assert turns == [(True, 0.0), (True, 1.0), (True, 2.0), (False, 3.0), (False, 3.0)]
    ledger.clock.advance(10)
    assert ledger.standings.take_turn("a", 60, longest_wait_s=2.5) == (True, 0.0)
    assert ledger.standings.take_turn("b", 60, longest_wait_s=2.5) == (True, 0.0)


# -- what a modality is told of it ------------------------------------------------------------------

POLICY = AnsweringPolicy(committing=frozenset(), sent_counts=True, originals_may_be_replaced=True, wait_s=3600)


def judged(ledger: Ledger, number: int) -> int | None:
    """Return what a modality that asks for the commitment of an object is told."""
    with ledger.database.read() as connection:
        return judge_instances(connection, [(CR, f"1.2.1.{number}")], POLICY)[0]


def test_where_a_delivery_was_rerouted_the_other_destination_vouches_for_it(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger, 1, "a")
    there = ledger.operations.reroute(delivery_id, "b", WHY)
    assert judged(ledger, 1) is None
    deliver(ledger, there)
    assert judged(ledger, 1) == 0


def test_what_is_cancelled_is_not_vouched_for(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger, 1, "a")
    ledger.operations.cancel(delivery_id, WHY)
    assert judged(ledger, 1) == 0x0110


def test_an_image_that_nothing_follows_is_vouched_for_by_its_first_delivery(ledger: Ledger) -> None:
    (first,) = open_deliveries(ledger, 2, "a")
    ((arrival_id, derived),) = ledger.rows("SELECT arrival_id, id FROM instance WHERE origin = 'derived'")
    with ledger.database.write() as connection:
        follows = open_delivery(connection, arrival_id, "a", ledger.clock.now, WHY, part=1)
        add_items(connection, follows, [derived])
    deliver(ledger, first)
    assert (judged(ledger, 1), judged(ledger, 2)) == (None, 0)
    deliver(ledger, follows)
    assert judged(ledger, 1) == 0


def test_the_same_image_in_another_encoding_is_vouched_for_by_the_first(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger, 1, "a")
    again = ledger.complete(1, series="1", content="b")
    ((earlier,), (later,)) = ledger.rows("SELECT id FROM instance WHERE origin = 'received' ORDER BY id")
    ledger.arrivals.begin(again, 0)
    assert ledger.arrivals.recognise(later, earlier)
    ledger.arrivals.conclude(again, destinations=("a",), send_original=False, send_enhanced=True)
    assert judged(ledger, 1) is None
    deliver(ledger, delivery_id)
    assert judged(ledger, 1) == 0
