"""Deliveries, the balance and retention, on every database."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dicom_node.errors import IllegalTransition, OperationRefused
from dicom_node.ledger.balance import Count
from dicom_node.states import DeliveryState, ItemState
from tests.contract.conftest import Ledger

PENDING, SENDING, SENT = DeliveryState.PENDING, DeliveryState.SENDING, DeliveryState.SENT
REFUSED, ABANDONED = DeliveryState.REFUSED, DeliveryState.ABANDONED


def open_deliveries(ledger: Ledger, count: int = 2, *destinations: str, series: str = "1", first: int = 1) -> list[int]:
    """Receive and conclude a series of which the first image is enhanced; returns the deliveries' numbers."""
    arrival_id = ledger.complete(count, series=series, first=first)
    images = ledger.arrivals.begin(arrival_id, 0)
    ledger.enhance(images[0])
    for image in images[1:]:
        ledger.pass_through(image)
    ledger.arrivals.conclude(
        arrival_id, destinations=destinations or ("pacs",), send_original=False, send_enhanced=True
    )
    return [row[0] for row in ledger.rows(f"SELECT id FROM delivery WHERE arrival_id = {arrival_id} ORDER BY id")]


def answer(ledger: Ledger, delivery_id: int, *states: ItemState, reason: str | None = None) -> None:
    """Take what is left and record an answer for each object, in order; further ones get none."""
    for item, state in zip(ledger.deliveries.take_objects(delivery_id), states, strict=False):
        ledger.deliveries.record_item(delivery_id, item.instance_id, state, status=0, reason=reason)


def deliver(ledger: Ledger, delivery_id: int) -> None:
    """Deliver everything that is left."""
    ledger.deliveries.begin(delivery_id, ledger.deliveries.get(delivery_id).attempts)
    answer(ledger, delivery_id, *[ItemState.SENT] * 10)
    assert ledger.deliveries.settle(delivery_id, failure=None, retry_in_s=None) is SENT


# -- attempts ---------------------------------------------------------------------------------------


def test_a_delivery_is_due_at_once_and_begun_once_per_attempt(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger)
    assert [d.delivery_id for d in ledger.deliveries.due()] == [delivery_id]
    ledger.deliveries.begin(delivery_id, 0)
    assert ledger.deliveries.due() == []
    assert ledger.deliveries.get(delivery_id).attempts == 1
    # The same workflow after a crash, and one that comes too early.
    ledger.deliveries.begin(delivery_id, 0)
    assert ledger.deliveries.get(delivery_id).attempts == 1
    with pytest.raises(IllegalTransition):
        ledger.deliveries.begin(delivery_id, 1)


def test_a_workflow_of_an_earlier_attempt_does_not_begin(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger)
    ledger.deliveries.begin(delivery_id, 0)
    ledger.deliveries.settle(delivery_id, failure="no answer", retry_in_s=0)
    with pytest.raises(IllegalTransition):
        ledger.deliveries.begin(delivery_id, 0)
    ledger.deliveries.begin(delivery_id, 1)


def test_after_an_operators_retry_only_the_new_workflow_begins(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger)
    ledger.operations.retry(delivery_id, "asked for")
    # The workflow that was enqueued before the retry; taking the delivery would leave the new one without its number.
    with pytest.raises(IllegalTransition):
        ledger.deliveries.begin(delivery_id, 0)
    ledger.deliveries.begin(delivery_id, 1)
    ledger.deliveries.settle(delivery_id, failure="no answer", retry_in_s=0)
    assert ledger.deliveries.get(delivery_id).attempts == 2


def test_an_attempt_whose_workflow_failed_before_it_began_is_skipped_once(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger)
    for _ in range(2):
        ledger.deliveries.skip_attempt(delivery_id, 0)
    assert ledger.deliveries.get(delivery_id).attempts == 1
    ledger.deliveries.begin(delivery_id, 1)
    ledger.deliveries.skip_attempt(delivery_id, 2)
    assert ledger.deliveries.get(delivery_id).attempts == 2


def test_of_many_threads_that_begin_an_attempt_none_counts_twice(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger)
    together = threading.Barrier(6)

    def begin(attempt: int) -> bool:
        together.wait(10)
        try:
            ledger.deliveries.begin(delivery_id, attempt)
        except IllegalTransition:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        begun = list(pool.map(begin, (0, 0, 0, 1, 1, 1)))
    assert True in begun[:3]
    assert begun[3:] == [False] * 3
    assert ledger.deliveries.get(delivery_id).attempts == 1


def test_what_is_taken_is_in_doubt_until_its_answer_is_recorded(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger, 3)
    ledger.deliveries.begin(delivery_id, 0)
    first, second, third = ledger.deliveries.take_objects(delivery_id)
    assert [item.in_doubt for item in (first, second, third)] == [False] * 3
    # Of the three images one was enhanced; derived objects come last.
    assert [item.is_derived for item in (first, second, third)] == [False, False, True]
    ledger.deliveries.record_item(delivery_id, first.instance_id, ItemState.SENT, status=0, reason=None)
    ledger.deliveries.record_item(delivery_id, second.instance_id, ItemState.PENDING, status=0xA700, reason="busy")
    # Here the process is killed: of the second we know that it was not stored, of the third nothing.
    left = {item.instance_id: item.in_doubt for item in ledger.deliveries.take_objects(delivery_id)}
    assert left == {second.instance_id: False, third.instance_id: True}


def test_what_is_left_is_tried_again_when_its_time_has_come(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger, 3)
    ledger.deliveries.begin(delivery_id, 0)
    answer(ledger, delivery_id, ItemState.SENT, ItemState.PENDING)
    assert ledger.deliveries.settle(delivery_id, failure="connection lost", retry_in_s=30) is PENDING
    assert ledger.deliveries.get(delivery_id).reason == "connection lost"
    assert ledger.deliveries.due() == []
    ledger.clock.advance(30)
    assert [d.delivery_id for d in ledger.deliveries.due()] == [delivery_id]
    assert len(ledger.deliveries.take_objects(delivery_id)) == 2


def test_a_delivery_with_everything_sent_is_sent_and_never_begun_again(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger)
    deliver(ledger, delivery_id)
    assert ledger.deliveries.get(delivery_id).state is SENT
    for attempt in range(3):
        with pytest.raises(IllegalTransition):
            ledger.deliveries.begin(delivery_id, attempt)
    with pytest.raises(OperationRefused, match="can't be retried"):
        ledger.operations.retry(delivery_id, "asked for")


def test_a_refused_object_makes_a_dead_letter_with_its_reason(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger, 2)
    ledger.deliveries.begin(delivery_id, 0)
    answer(ledger, delivery_id, ItemState.SENT, ItemState.REFUSED, reason="C000 cannot understand")
    assert ledger.deliveries.settle(delivery_id, failure=None, retry_in_s=5) is REFUSED
    (line,) = ledger.deliveries.dead_letters()
    assert (line.sent, line.refused, line.pending, line.reason) == (1, 1, 0, "C000 cannot understand")
    assert ledger.deliveries.due() == []


def test_a_delivery_that_is_refused_as_a_whole_keeps_what_was_sent(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger, 3)
    ledger.deliveries.begin(delivery_id, 0)
    answer(ledger, delivery_id, ItemState.SENT)
    assert ledger.deliveries.refuse(delivery_id, "no such destination") is REFUSED
    (line,) = ledger.deliveries.dead_letters()
    assert (line.sent, line.refused, line.pending) == (1, 2, 0)


def test_an_operators_retry_sends_what_was_refused_and_nothing_twice(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger, 2)
    ledger.deliveries.begin(delivery_id, 0)
    answer(ledger, delivery_id, ItemState.SENT, ItemState.REFUSED)
    ledger.deliveries.settle(delivery_id, failure=None, retry_in_s=5)
    ledger.clock.advance(1000)
    ledger.operations.retry(delivery_id, "asked for")
    again = ledger.deliveries.get(delivery_id)
    assert (again.state, again.created_at) == (PENDING, ledger.clock.now)
    ledger.deliveries.begin(delivery_id, again.attempts)
    assert len(ledger.deliveries.take_objects(delivery_id)) == 1


def test_a_delivery_that_is_too_old_is_abandoned_and_can_be_retried(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger)
    ledger.deliveries.begin(delivery_id, 0)
    assert ledger.deliveries.settle(delivery_id, failure="no connection", retry_in_s=None) is ABANDONED
    assert [line.reason for line in ledger.deliveries.dead_letters()] == ["no connection"]
    ledger.operations.retry(delivery_id, "asked for")
    deliver(ledger, delivery_id)


def test_the_queue_counts_attempts_and_no_operators_words(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger)
    ledger.deliveries.begin(delivery_id, 0)
    # The same workflow after a crash makes the same attempt.
    ledger.deliveries.begin(delivery_id, 0)
    ledger.deliveries.refuse(delivery_id, "no such destination")
    for _ in range(2):
        ledger.operations.retry(delivery_id, "asked for")
    assert [line.attempts for line in ledger.deliveries.lines()] == [1]
    ledger.deliveries.begin(delivery_id, ledger.deliveries.get(delivery_id).attempts)
    assert [line.attempts for line in ledger.deliveries.lines()] == [2]


def test_what_can_not_be_retried_is_said_and_nothing_changes(ledger: Ledger) -> None:
    sent, waits = open_deliveries(ledger, 1, "a", "b")
    deliver(ledger, sent)
    with pytest.raises(OperationRefused, match=rf"^delivery {sent} can't be retried: it is sent$"):
        ledger.operations.retry(sent, "asked for")
    with pytest.raises(OperationRefused, match=r"^there is no delivery 99; "):
        ledger.operations.retry(99, "asked for")
    assert [d.delivery_id for d in ledger.deliveries.in_state(PENDING)] == [waits]


def test_a_delivery_in_work_is_not_requeued(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger)
    ledger.deliveries.begin(delivery_id, 0)
    with pytest.raises(OperationRefused):
        ledger.operations.retry(delivery_id, "asked for")
    with pytest.raises(OperationRefused):
        ledger.operations.retry(delivery_id + 100, "asked for")


def test_one_destinations_answers_are_not_anothers(ledger: Ledger) -> None:
    first, second = open_deliveries(ledger, 2, "a", "b")
    deliver(ledger, first)
    assert len(ledger.deliveries.take_objects(second)) == 2
    assert [line.destination for line in ledger.deliveries.lines(states=[PENDING])] == ["b"]


# -- the balance ------------------------------------------------------------------------------------


def test_the_balance_follows_an_object_from_reception_to_delivery(ledger: Ledger) -> None:
    total = lambda: ledger.balance.balance().total  # noqa: E731
    association = ledger.associate()
    ledger.receive(association, 1)
    assert total() == Count(received=1, in_work=1)
    ledger.release(association, 1)
    (idle,) = ledger.arrivals.idle()
    ledger.arrivals.complete(idle.arrival_id, last_activity_at=idle.last_activity_at)
    (image,) = ledger.arrivals.begin(idle.arrival_id, 0)
    ledger.enhance(image)
    assert total() == Count(received=1, in_work=1)
    ledger.arrivals.conclude(idle.arrival_id, destinations=("a", "b"), send_original=True, send_enhanced=True)
    first, second = (row[0] for row in ledger.rows("SELECT id FROM delivery ORDER BY id"))
    deliver(ledger, first)
    assert total() == Count(received=1, in_work=1)
    deliver(ledger, second)
    assert total() == Count(received=1, delivered=1)
    assert ledger.balance.balance().findings == []


def test_the_balance_counts_per_association_study_and_day(ledger: Ledger) -> None:
    deliver(ledger, open_deliveries(ledger, 2)[0])
    ledger.clock.advance(86_400)
    open_deliveries(ledger, 1, series="2")
    balance = ledger.balance.balance()
    done, waiting = Count(received=2, delivered=2), Count(received=1, in_work=1)
    assert list(balance.associations.values()) == [done, waiting]
    assert balance.days == {"2027-01-15": done, "2027-01-16": waiting}
    assert balance.studies == {"1.2": Count(received=3, delivered=2, in_work=1)}


def test_a_dead_letter_stays_in_work_and_is_counted_apart(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger, 2)
    ledger.deliveries.begin(delivery_id, 0)
    answer(ledger, delivery_id, ItemState.SENT, ItemState.REFUSED)
    ledger.deliveries.settle(delivery_id, failure=None, retry_in_s=5)
    assert ledger.balance.balance().total == Count(received=2, delivered=1, in_work=1, dead_letters=1)


def test_what_is_left_of_an_abandoned_delivery_is_a_dead_letter_too(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger, 2)
    ledger.deliveries.begin(delivery_id, 0)
    answer(ledger, delivery_id, ItemState.SENT, ItemState.PENDING)
    ledger.deliveries.settle(delivery_id, failure="no connection", retry_in_s=None)
    assert ledger.balance.balance().total == Count(received=2, delivered=1, in_work=1, dead_letters=1)
    ledger.operations.retry(delivery_id, "asked for")
    assert ledger.balance.balance().total == Count(received=2, delivered=1, in_work=1)


def test_an_object_that_no_delivery_carries_is_missed(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger, 2)
    deliver(ledger, delivery_id)
    with ledger.database.write() as connection:
        connection.exec_driver_sql(
            "DELETE FROM delivery_item "
            "WHERE instance_id IN (SELECT id FROM instance WHERE sop_instance_uid = '1.2.1.2')"
        )
    balance = ledger.balance.balance()
    assert not balance.total.balanced
    assert {finding.subject for finding in balance.findings} >= {"total", "study 1.2"}


def test_an_object_that_was_acknowledged_and_is_not_recorded_is_missed(ledger: Ledger) -> None:
    association = ledger.associate()
    ledger.receive(association, 1)
    ledger.release(association, 2)
    (finding,) = ledger.balance.balance().findings
    assert finding.subject == f"association {association}"


# -- retention --------------------------------------------------------------------------------------


def keys(ledger: Ledger) -> set[str]:
    return {file.key for file in ledger.balance.files()}


def test_retention_gives_only_what_every_destination_has(ledger: Ledger) -> None:
    first, second = open_deliveries(ledger, 2, "a", "b")
    everything = keys(ledger)
    assert ledger.retention.purge_delivered(0) == []
    deliver(ledger, first)
    ledger.clock.advance(1000)
    assert ledger.retention.purge_delivered(0) == []
    deliver(ledger, second)
    ledger.clock.advance(1)
    assert set(ledger.retention.purge_delivered(0)) == everything
    assert keys(ledger) == set()
    assert ledger.retention.purge_delivered(0) == []


def test_retention_waits_for_the_time_that_objects_are_kept(ledger: Ledger) -> None:
    deliver(ledger, open_deliveries(ledger)[0])
    ledger.clock.advance(99)
    assert ledger.retention.purge_delivered(100) == []
    ledger.clock.advance(2)
    assert len(ledger.retention.purge_delivered(100)) == 3


def test_retention_keeps_dead_letters_and_what_is_in_work(ledger: Ledger) -> None:
    (refused,) = open_deliveries(ledger, 2)
    ledger.deliveries.begin(refused, 0)
    answer(ledger, refused, ItemState.SENT, ItemState.REFUSED)
    ledger.deliveries.settle(refused, failure=None, retry_in_s=5)
    (abandoned,) = open_deliveries(ledger, 1, series="2")
    ledger.deliveries.begin(abandoned, 0)
    ledger.deliveries.settle(abandoned, failure="no connection", retry_in_s=None)
    ledger.complete(1, series="3")
    ledger.receive(ledger.associate(), series="4")
    ledger.clock.advance(1_000_000)
    assert ledger.retention.purge_delivered(0) == []


def test_retention_keeps_a_series_that_no_route_takes(ledger: Ledger) -> None:
    arrival_id = ledger.complete()
    ledger.arrivals.assign_route(arrival_id, None, "no route")
    ledger.clock.advance(1_000_000)
    assert ledger.retention.purge_delivered(0) == []


def test_a_purged_object_is_still_known_when_it_is_sent_again(ledger: Ledger) -> None:
    deliver(ledger, open_deliveries(ledger, 1)[0])
    ledger.clock.advance(1)
    ledger.retention.purge_delivered(0)
    assert ledger.receive(ledger.associate(), 1).outcome.value == "duplicate"
    assert ledger.balance.balance().total == Count(received=1, delivered=1)
