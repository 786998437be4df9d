"""What two parts of the ledger do to each other: failover and commitment, hold and age, attempts that overlap."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
from sqlalchemy import Connection, insert, select, update

from dicom_node.errors import OperationRefused
from dicom_node.ledger.balance import Count
from dicom_node.ledger.commitment_requests import AnsweringPolicy, judge_instances
from dicom_node.ledger.commitments import AskingPolicy, CommitmentLedger, ResendPolicy
from dicom_node.ledger.destinations import HoldScope
from dicom_node.ledger.reception import RecordOutcome
from dicom_node.ledger.retention import RetentionLedger
from dicom_node.ledger.schema import arrival, delivery, delivery_item, instance, rejection
from dicom_node.states import DeliveryState, ItemState
from tests.contract.conftest import CR, Ledger, received
from tests.contract.test_ledger_deliveries import answer, deliver
from tests.contract.test_ledger_operations import begin, due, items
from tests.support.peers import wait_until

T = TypeVar("T")
LOCKED = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"

PENDING, SENT, REROUTED = DeliveryState.PENDING, DeliveryState.SENT, DeliveryState.REROUTED
WHY = "asked for"
HOUR = 3600.0
POLICY = AskingPolicy(delay_s=0.0, timeout_s=HOUR, max_age_s=72 * HOUR, max_references=500)
RESENDS = ResendPolicy(max_resends=2, delay_s=10.0)
NUMBERS = itertools.count(1)


def new_uid() -> str:
    """Return a Transaction UID that was not used before."""
    return f"2.25.{next(NUMBERS)}"


def open_deliveries(ledger: Ledger, count: int, *destinations: str) -> list[int]:
    """Receive a series that is passed through; returns the numbers of its deliveries."""
    arrival_id = ledger.complete(count)
    for image in ledger.arrivals.begin(arrival_id, 0):
        ledger.pass_through(image)
    ledger.arrivals.conclude(arrival_id, destinations=destinations, send_original=True, send_enhanced=True)
    return [row[0] for row in ledger.rows("SELECT id FROM delivery ORDER BY id")]


def send_first(ledger: Ledger, delivery_id: int) -> list[int]:
    """Send the first object of a delivery and lose the others for now; returns all their numbers."""
    attempt = begin(ledger, delivery_id)
    left = [one.instance_id for one in ledger.deliveries.take_objects(delivery_id)]
    ledger.deliveries.record_item(delivery_id, left[0], ItemState.SENT, status=0, reason=None, attempt=attempt)
    ledger.deliveries.settle(delivery_id, failure="lost", retry_in_s=60.0, attempt=attempt)
    return left


# -- attempts that overlap ---------------------------------------------------------------------------


def test_what_an_attempt_that_was_followed_lost_does_not_take_back_what_the_next_one_sent(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger, 1, "pacs")
    old = begin(ledger, delivery_id)
    (one,) = ledger.deliveries.take_objects(delivery_id)
    # Its process was cut off; another one ends its attempt and makes the next.
    ledger.deliveries.settle(delivery_id, failure="interrupted", retry_in_s=0.0, attempt=old)
    deliver(ledger, delivery_id)
    ledger.deliveries.record_item(
        delivery_id, one.instance_id, ItemState.PENDING, status=None, reason="lost", in_doubt=True, attempt=old
    )
    assert items(ledger, delivery_id) == [("received", "sent", False)]
    assert ledger.balance.balance().total == Count(received=1, delivered=1)


def test_what_a_destination_took_from_an_attempt_that_was_followed_is_sent(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger, 1, "pacs")
    old = begin(ledger, delivery_id)
    (one,) = ledger.deliveries.take_objects(delivery_id)
    ledger.deliveries.settle(delivery_id, failure="interrupted", retry_in_s=0.0, attempt=old)
    begin(ledger, delivery_id)
    goes_on = ledger.deliveries.record_item(
        delivery_id, one.instance_id, ItemState.SENT, status=0, reason=None, attempt=old
    )
    assert not goes_on
    assert items(ledger, delivery_id) == [("received", "sent", False)]


def test_an_attempt_that_was_followed_takes_nothing_out_of_doubt(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger, 2, "pacs")
    old = begin(ledger, delivery_id)
    first, second = ledger.deliveries.take_objects(delivery_id)
    ledger.operations.hold(delivery_id, WHY)
    ledger.operations.release(delivery_id, WHY)
    begin(ledger, delivery_id)
    ledger.deliveries.take_objects(delivery_id)
    # The new attempt may have sent both by now.
    ledger.deliveries.put_back(
        delivery_id, "stopped", attempt=old, in_s=0, untouched=[first.instance_id, second.instance_id]
    )
    assert items(ledger, delivery_id) == [("received", "pending", True)] * 2


def test_an_attempt_whose_rest_was_rerouted_ends_without_an_error(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger, 1, "a")
    attempt = begin(ledger, delivery_id)
    (one,) = ledger.deliveries.take_objects(delivery_id)
    ledger.operations.hold(delivery_id, WHY)
    ledger.operations.reroute(delivery_id, "b", WHY)
    assert not ledger.deliveries.record_item(
        delivery_id, one.instance_id, ItemState.PENDING, status=None, reason="lost", in_doubt=True, attempt=attempt
    )
    state = ledger.deliveries.settle(delivery_id, failure="lost", retry_in_s=60.0, attempt=attempt)
    assert state is ledger.deliveries.get(delivery_id).state is REROUTED


# -- reroute ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["cancelled", "refused", "abandoned"])
def test_what_goes_to_a_destination_that_had_ended_without_it_is_sent_there(ledger: Ledger, end: str) -> None:
    one, other = open_deliveries(ledger, 2, "a", "b")
    if end == "cancelled":
        ledger.operations.cancel(other, WHY)
    else:
        attempt = begin(ledger, other)
        if end == "refused":
            answer(ledger, other, ItemState.REFUSED, ItemState.REFUSED)
        ledger.deliveries.settle(other, failure="full", retry_in_s=None, attempt=attempt)
    assert ledger.deliveries.get(other).state == end
    assert ledger.operations.reroute(one, "b", WHY) == other
    assert due(ledger) == [other]
    deliver(ledger, other)
    assert ledger.balance.balance().total == Count(received=2, delivered=2)


def test_what_waits_at_the_other_destination_is_not_hurried_by_a_reroute(ledger: Ledger) -> None:
    one, other = open_deliveries(ledger, 2, "a", "b")
    ledger.operations.hold(other, WHY)
    assert ledger.operations.reroute(one, "b", WHY) == other
    assert ledger.deliveries.get(other).state is DeliveryState.HELD
    assert len(items(ledger, other)) == 2


# -- failover and commitment ------------------------------------------------------------------------


def test_what_was_sent_before_a_reroute_is_committed_before_retention_lets_it_go(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger, 2, "pacs")
    first, second = send_first(ledger, delivery_id)
    other = ledger.operations.reroute(delivery_id, "other", WHY)
    deliver(ledger, other)
    commitments = CommitmentLedger(ledger.database)
    retention = RetentionLedger(ledger.database, ["pacs"])
    ledger.clock.advance(HOUR)
    assert retention.purge_delivered(60.0) == []
    assert commitments.due("pacs", POLICY.delay_s) == [delivery_id]
    (transaction,) = commitments.begin(delivery_id, POLICY, new_uid)
    assert [uid for _, uid in transaction.references] == ["1.2.1.1"]
    assert retention.purge_delivered(60.0) == []
    outcome = commitments.record_report(
        transaction.transaction_uid, committed=["1.2.1.1"], failed={}, policies={"pacs": RESENDS}
    )
    assert outcome.delivery is DeliveryState.COMMITTED
    policy = AnsweringPolicy(
        committing=frozenset({"pacs"}), sent_counts=True, originals_may_be_replaced=False, wait_s=HOUR
    )
    with ledger.database.read() as connection:
        # The first by the one destination, the second by the other.
        assert judge_instances(connection, [(CR, "1.2.1.1"), (CR, "1.2.1.2")], policy) == [0, 0]
    ledger.clock.advance(HOUR)
    assert len(retention.purge_delivered(60.0)) == 2
    assert {first, second} == {1, 2}


def test_a_rerouted_delivery_that_sent_nothing_has_nothing_to_commit(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger, 2, "pacs")
    deliver(ledger, ledger.operations.reroute(delivery_id, "other", WHY))
    ledger.clock.advance(HOUR)
    assert CommitmentLedger(ledger.database).due("pacs", POLICY.delay_s) == []
    assert len(RetentionLedger(ledger.database, ["pacs"]).purge_delivered(60.0)) == 2


def test_what_nobody_asks_to_commit_any_more_is_sent_and_may_go(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger, 1, "pacs")
    deliver(ledger, delivery_id)
    commitments = CommitmentLedger(ledger.database)
    commitments.begin(delivery_id, POLICY, new_uid)
    ledger.clock.advance(HOUR)
    assert commitments.drop(["other"]) == []
    assert ledger.deliveries.get(delivery_id).state is DeliveryState.COMMITTING
    assert commitments.drop(["pacs"]) == [delivery_id]
    assert commitments.drop(["pacs"]) == []
    assert ledger.deliveries.get(delivery_id).state is SENT
    assert len(RetentionLedger(ledger.database, []).purge_delivered(60.0)) == 1


def test_a_report_that_comes_twice_commits_nothing_that_was_sent_again_between(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger, 1, "pacs")
    deliver(ledger, delivery_id)
    commitments = CommitmentLedger(ledger.database)
    (transaction,) = commitments.begin(delivery_id, POLICY, new_uid)

    def report() -> DeliveryState:
        return commitments.record_report(
            transaction.transaction_uid, committed=["1.2.1.1"], failed={}, policies={"pacs": RESENDS}
        ).delivery

    assert report() is DeliveryState.COMMITTED
    ledger.clock.advance(HOUR)
    # The archive lost it, and somebody sends it again.
    ledger.operations.resend_originals(delivery_id, WHY)
    assert report() is PENDING
    assert items(ledger, delivery_id) == [("received", "pending", True)]
    deliver(ledger, delivery_id)
    assert report() is SENT
    assert len(commitments.begin(delivery_id, POLICY, new_uid)) == 1


# -- hold and age -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("scope", "subject"), [(HoldScope.DESTINATION, "a"), (HoldScope.STUDY, "1.2")])
def test_what_an_operator_holds_is_not_given_up_while_its_destination_is_down(
    ledger: Ledger, scope: HoldScope, subject: str
) -> None:
    (delivery_id,) = open_deliveries(ledger, 1, "a")
    ledger.standings.note_silence("a", delivery_id, "refused", sent_something=False, limit=1, probe_in_s=30.0)
    ledger.standings.hold(scope, subject, WHY)
    ledger.clock.advance(100 * HOUR)
    assert ledger.deliveries.abandon_waiting("a", 72 * HOUR, "too old") == []
    ledger.standings.release(scope, subject, WHY)
    ledger.standings.close("a", "it answered")
    # The attempt after a release is made in any case.
    assert due(ledger) == [delivery_id]


# -- clocks -----------------------------------------------------------------------------------------


def test_a_clock_that_is_set_back_holds_up_no_turn(ledger: Ledger) -> None:
    assert ledger.standings.take_turn("a", 60.0, longest_wait_s=5.0) == (True, 0.0)
    ledger.clock.advance(-HOUR)
    assert ledger.standings.take_turn("a", 60.0, longest_wait_s=5.0) == (True, 0.0)
    has_turn, wait_s = ledger.standings.take_turn("a", 60.0, longest_wait_s=5.0)
    assert (has_turn, wait_s) == (True, 1.0)


# -- two processes at once ---------------------------------------------------------------------------


def while_locked(ledger: Ledger, lock: Callable[[Connection], object], act: Callable[[], T]) -> T:
    """Do something in another thread while a transaction of this one is open, which ends as soon as that one waits."""
    with ThreadPoolExecutor(1) as pool, ledger.database.write() as connection:
        lock(connection)
        result = pool.submit(act)
        wait_until(lambda: result.done() or ledger.rows(LOCKED) != [(0,)])
        connection.commit()
        return result.result()


def need_postgresql(ledger: Ledger) -> None:
    if ledger.database.engine.dialect.name != "postgresql":
        pytest.skip("SQLite has one writer at a time")


def test_a_stranger_who_is_rejected_by_two_receivers_at_once_is_one_row(ledger: Ledger) -> None:
    need_postgresql(ledger)
    stranger = {"calling_ae_title": "WHO", "called_ae_title": "LOWDOSE", "host": "10.0.0.9", "reason": "unknown"}

    def first(connection: Connection) -> None:
        connection.execute(insert(rejection), {**stranger, "first_at": 1.0, "last_at": 1.0, "count": 1})

    while_locked(ledger, first, lambda: ledger.reception.record_rejection(**stranger))
    assert ledger.rows("SELECT calling_ae_title, count FROM rejection") == [("WHO", 2)]


def test_originals_that_are_sent_again_at_the_moment_of_their_purge_stay(ledger: Ledger) -> None:
    need_postgresql(ledger)
    (delivery_id,) = open_deliveries(ledger, 2, "pacs")
    deliver(ledger, delivery_id)
    ledger.clock.advance(HOUR)

    def resend(connection: Connection) -> None:
        # What `resend_originals` does first, and what it has done at its end.
        connection.execute(select(instance.c.id).where(instance.c.origin == "received").with_for_update())
        connection.execute(update(delivery_item).values(state=ItemState.PENDING.value))
        connection.execute(update(delivery).values(state=PENDING.value, finished_at=None))

    assert while_locked(ledger, resend, lambda: ledger.retention.purge_delivered(60.0)) == []
    assert ledger.rows("SELECT DISTINCT state FROM instance") == [("stored",)]


def test_originals_that_a_purge_is_about_to_delete_are_not_promised(ledger: Ledger) -> None:
    need_postgresql(ledger)
    (delivery_id,) = open_deliveries(ledger, 2, "pacs")
    deliver(ledger, delivery_id)

    def purge(connection: Connection) -> None:
        connection.execute(update(instance).values(state="purged"))

    with pytest.raises(OperationRefused, match="purged"):
        while_locked(ledger, purge, lambda: ledger.operations.resend_originals(delivery_id, WHY))


def test_two_receivers_that_take_objects_of_two_series_do_not_lock_each_other_out(ledger: Ledger) -> None:
    need_postgresql(ledger)
    association = ledger.associate()
    for series in ("1", "2"):
        ledger.receive(association, 1, series=series)
    objects = [received(association, 2, series=series) for series in ("2", "1")]

    def touch(connection: Connection, series: str) -> None:
        connection.execute(update(arrival).where(arrival.c.series_instance_uid == f"1.2.{series}").values(route="r"))

    with ThreadPoolExecutor(1) as pool, ledger.database.write() as connection:
        touch(connection, "1")
        result = pool.submit(ledger.reception.record_all, objects)
        wait_until(lambda: result.done() or ledger.rows(LOCKED) != [(0,)])
        touch(connection, "2")
        connection.commit()
        assert [one.outcome for one in result.result()] == [RecordOutcome.NEW] * 2
    # In the order in which they were asked for.
    keys = [ledger.rows(f"SELECT key FROM instance WHERE id = {one.instance_id}")[0][0] for one in result.result()]
    assert keys == [one.key for one in objects]
