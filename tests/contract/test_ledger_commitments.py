"""What destinations were asked to commit, and what they answered, on every database."""

from __future__ import annotations

import itertools

import pytest

from dicom_node.errors import OperationRefused
from dicom_node.ledger.commitments import (
    AskingPolicy,
    CommitmentLedger,
    NotTheDestination,
    ReportOutcome,
    ResendPolicy,
    Transaction,
    UnknownTransaction,
)
from dicom_node.ledger.retention import RetentionLedger
from dicom_node.states import DeliveryState, ItemState
from tests.contract.conftest import Ledger
from tests.contract.test_ledger_deliveries import answer, deliver, open_deliveries

SENT, COMMITTING, COMMITTED = DeliveryState.SENT, DeliveryState.COMMITTING, DeliveryState.COMMITTED
PENDING, REFUSED = DeliveryState.PENDING, DeliveryState.REFUSED
HOUR = 3600.0
POLICY = AskingPolicy(delay_s=5.0, timeout_s=HOUR, max_age_s=72 * HOUR, max_references=500)
RESENDS = ResendPolicy(max_resends=2, delay_s=10.0)


class Asking:
    """A ledger, the commitments in it, and Transaction UIDs that tell their order."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.commitments = CommitmentLedger(ledger.database)
        self._uids = (f"2.25.{number}" for number in itertools.count(1))

    def sent(self, count: int = 3, series: str = "1") -> int:
        """Return a delivery that is sent, and whose time to be asked for has come."""
        (delivery_id,) = open_deliveries(self.ledger, count, series=series)
        deliver(self.ledger, delivery_id)
        self.ledger.clock.advance(POLICY.delay_s)
        return delivery_id

    def ask(self, delivery_id: int, policy: AskingPolicy = POLICY) -> list[Transaction]:
        return self.commitments.begin(delivery_id, policy, lambda: next(self._uids))

    def report(self, uid: str, *committed: str, failed: dict[str, int] | None = None) -> ReportOutcome:
        return self.commitments.record_report(uid, committed=committed, failed=failed or {}, policies={"pacs": RESENDS})

    def state(self, delivery_id: int) -> DeliveryState:
        return self.ledger.deliveries.get(delivery_id).state


@pytest.fixture
def asking(ledger: Ledger) -> Asking:
    return Asking(ledger)


def names(transaction: Transaction) -> list[str]:
    return [uid for _, uid in transaction.references]


def test_a_delivery_is_asked_for_when_it_is_sent_and_the_delay_is_over(asking: Asking) -> None:
    (delivery_id,) = open_deliveries(asking.ledger, 3)
    assert asking.commitments.due("pacs", 5.0) == []
    deliver(asking.ledger, delivery_id)
    assert asking.commitments.due("pacs", 5.0) == []
    asking.ledger.clock.advance(5)
    assert asking.commitments.due("pacs", 5.0) == [delivery_id]
    assert asking.commitments.due("other", 5.0) == []
    (transaction,) = asking.ask(delivery_id)
    assert len(transaction.references) == 3
    assert asking.state(delivery_id) is COMMITTING
    # Another worker that saw it due, and the next round.
    assert asking.ask(delivery_id) == []
    assert asking.commitments.due("pacs", 5.0) == []


def test_everything_named_as_committed_makes_the_delivery_committed(asking: Asking) -> None:
    delivery_id = asking.sent()
    (transaction,) = asking.ask(delivery_id)
    asking.ledger.clock.advance(1)
    outcome = asking.report(transaction.transaction_uid, *names(transaction))
    assert (outcome.committed, outcome.failed, outcome.unknown) == (3, 0, 0)
    assert outcome.delivery is asking.state(delivery_id) is COMMITTED
    # The same report again, and one that says the opposite.
    again = asking.report(transaction.transaction_uid, *names(transaction))
    assert again.delivery is COMMITTED
    late = asking.report(transaction.transaction_uid, failed=dict.fromkeys(names(transaction), 0x0112))
    assert (late.failed, late.delivery) == (0, COMMITTED)


def test_a_request_names_no_more_than_its_most_and_each_has_its_own_uid(asking: Asking) -> None:
    delivery_id = asking.sent(5)
    policy = AskingPolicy(delay_s=5.0, timeout_s=HOUR, max_age_s=72 * HOUR, max_references=2)
    transactions = asking.ask(delivery_id, policy)
    assert [len(t.references) for t in transactions] == [2, 2, 1]
    assert len({t.transaction_uid for t in transactions}) == 3
    for transaction in transactions[:-1]:
        assert asking.report(transaction.transaction_uid, *names(transaction)).delivery is COMMITTING
    assert asking.report(transactions[-1].transaction_uid, *names(transactions[-1])).delivery is COMMITTED


def test_without_a_report_it_is_asked_again_for_what_is_left_under_a_new_uid(asking: Asking) -> None:
    delivery_id = asking.sent()
    (first,) = asking.ask(delivery_id)
    asking.commitments.requested(first.transaction_uid)
    one, *others = names(first)
    asking.report(first.transaction_uid, one)
    asking.ledger.clock.advance(HOUR)
    assert asking.commitments.due("pacs", 5.0) == [delivery_id]
    (second,) = asking.ask(delivery_id)
    assert names(second) == others
    assert second.transaction_uid != first.transaction_uid
    # Twice as long this time.
    asking.ledger.clock.advance(HOUR)
    assert asking.commitments.due("pacs", 5.0) == []
    asking.ledger.clock.advance(HOUR)
    assert asking.commitments.due("pacs", 5.0) == [delivery_id]


def test_a_late_yes_on_an_earlier_request_counts_and_a_late_no_does_not(asking: Asking) -> None:
    delivery_id = asking.sent(1)
    (first,) = asking.ask(delivery_id)
    asking.ledger.clock.advance(HOUR)
    (second,) = asking.ask(delivery_id)
    outcome = asking.report(first.transaction_uid, failed=dict.fromkeys(names(first), 0x0112))
    assert (outcome.failed, outcome.delivery) == (0, COMMITTING)
    assert asking.report(first.transaction_uid, *names(first)).delivery is COMMITTED
    assert asking.report(second.transaction_uid, *names(second)).delivery is COMMITTED


@pytest.mark.parametrize("reason", [0x0110, 0x0112, 0x0213, 0xC123])
def test_what_failed_is_sent_again_and_what_is_committed_is_not(asking: Asking, reason: int) -> None:
    delivery_id = asking.sent()
    (transaction,) = asking.ask(delivery_id)
    good, bad, third = names(transaction)
    outcome = asking.report(transaction.transaction_uid, good, third, failed={bad: reason})
    assert (outcome.committed, outcome.failed, outcome.delivery) == (2, 1, PENDING)
    assert asking.ledger.deliveries.due() == []
    asking.ledger.clock.advance(RESENDS.delay_s)
    asking.ledger.deliveries.begin(delivery_id, asking.ledger.deliveries.get(delivery_id).attempts)
    (item,) = asking.ledger.deliveries.take_objects(delivery_id)
    assert (item.sop_instance_uid, item.in_doubt) == (bad, True)
    answer(asking.ledger, delivery_id, ItemState.SENT)
    asking.ledger.deliveries.settle(delivery_id, failure=None, retry_in_s=None)
    asking.ledger.clock.advance(POLICY.delay_s)
    assert asking.commitments.due("pacs", 5.0) == [delivery_id]
    (second,) = asking.ask(delivery_id)
    assert names(second) == [bad]
    assert asking.report(second.transaction_uid, bad).delivery is COMMITTED


def test_what_fails_too_often_is_a_dead_letter_and_a_retry_counts_anew(asking: Asking) -> None:
    delivery_id = asking.sent(1)
    for attempt in range(RESENDS.max_resends + 1):
        (transaction,) = asking.ask(delivery_id)
        outcome = asking.report(transaction.transaction_uid, failed=dict.fromkeys(names(transaction), 0x0112))
        if attempt < RESENDS.max_resends:
            assert outcome.delivery is PENDING
            asking.ledger.clock.advance(RESENDS.delay_s)
            deliver(asking.ledger, delivery_id)
    assert asking.state(delivery_id) is REFUSED
    assert "No such object instance (0112)" in (asking.ledger.deliveries.get(delivery_id).reason or "")
    asking.ledger.operations.retry(delivery_id, "asked for")
    deliver(asking.ledger, delivery_id)
    asking.ledger.clock.advance(RESENDS.delay_s)
    (transaction,) = asking.ask(delivery_id)
    again = asking.report(transaction.transaction_uid, failed=dict.fromkeys(names(transaction), 0x0112))
    assert again.delivery is PENDING


@pytest.mark.parametrize("reason", [0x0122, 0x0119])
def test_what_sending_again_can_not_help_is_a_dead_letter_at_once(asking: Asking, reason: int) -> None:
    delivery_id = asking.sent()
    (transaction,) = asking.ask(delivery_id)
    good, bad, third = names(transaction)
    assert asking.report(transaction.transaction_uid, good, third, failed={bad: reason}).delivery is REFUSED
    # The destination thinks better of it.
    assert asking.report(transaction.transaction_uid, good, bad, third).delivery is COMMITTED


def test_a_duplicate_transaction_uid_is_asked_again_and_nothing_is_sent_again(asking: Asking) -> None:
    delivery_id = asking.sent(1)
    (first,) = asking.ask(delivery_id)
    outcome = asking.report(first.transaction_uid, failed=dict.fromkeys(names(first), 0x0131))
    assert outcome.delivery is COMMITTING
    asking.ledger.clock.advance(60)
    assert asking.commitments.due("pacs", 5.0) == [delivery_id]
    (second,) = asking.ask(delivery_id)
    assert names(second) == names(first)


def test_what_a_report_leaves_out_is_asked_for_again_and_what_it_adds_changes_nothing(asking: Asking) -> None:
    delivery_id = asking.sent()
    (transaction,) = asking.ask(delivery_id)
    outcome = asking.report(transaction.transaction_uid, names(transaction)[0], "1.2.3.4")
    assert (outcome.committed, outcome.unknown, outcome.delivery) == (1, 1, COMMITTING)
    asking.ledger.clock.advance(60)
    (second,) = asking.ask(delivery_id)
    assert names(second) == names(transaction)[1:]


def test_named_in_both_lists_an_object_is_not_committed(asking: Asking) -> None:
    delivery_id = asking.sent(1)
    (transaction,) = asking.ask(delivery_id)
    both = names(transaction)
    assert asking.report(transaction.transaction_uid, *both, failed=dict.fromkeys(both, 0x0110)).delivery is PENDING
    assert asking.state(delivery_id) is PENDING
    assert asking.ledger.rows("SELECT count(*) FROM delivery_item WHERE committed_at IS NOT NULL") == [(0,)]


def test_a_late_yes_while_it_waits_to_be_sent_again_saves_the_sending(asking: Asking) -> None:
    delivery_id = asking.sent(1)
    (transaction,) = asking.ask(delivery_id)
    asking.report(transaction.transaction_uid, failed=dict.fromkeys(names(transaction), 0x0110))
    asking.report(transaction.transaction_uid, *names(transaction))
    asking.ledger.deliveries.begin(delivery_id, asking.ledger.deliveries.get(delivery_id).attempts)
    assert asking.ledger.deliveries.take_objects(delivery_id) == []
    assert asking.ledger.deliveries.settle(delivery_id, failure=None, retry_in_s=None) is SENT
    asking.ledger.clock.advance(RESENDS.delay_s)
    assert asking.ask(delivery_id) == []
    assert asking.state(delivery_id) is COMMITTED


def test_reports_of_strangers_and_on_unknown_requests_change_nothing(asking: Asking) -> None:
    delivery_id = asking.sent(1)
    (transaction,) = asking.ask(delivery_id)
    with pytest.raises(UnknownTransaction):
        asking.report("2.25.999", *names(transaction))
    with pytest.raises(NotTheDestination):
        asking.commitments.record_report(
            transaction.transaction_uid, committed=names(transaction), failed={}, policies={"other": RESENDS}
        )
    assert asking.state(delivery_id) is COMMITTING


def test_a_request_that_did_not_get_through_is_made_again_soon_and_its_report_counts(asking: Asking) -> None:
    delivery_id = asking.sent(1)
    (first,) = asking.ask(delivery_id)
    asking.commitments.request_failed(first.transaction_uid, "no connection", retry_in_s=7)
    assert asking.commitments.due("pacs", 5.0) == []
    asking.ledger.clock.advance(7)
    assert asking.commitments.due("pacs", 5.0) == [delivery_id]
    # The destination had it all the same.
    assert asking.report(first.transaction_uid, *names(first)).delivery is COMMITTED


def test_a_destination_that_never_answers_is_given_up_with_everything_kept(asking: Asking) -> None:
    delivery_id = asking.sent(1)
    asked = 0
    for _ in range(400):
        asked += len(asking.ask(delivery_id))
        if asking.commitments.is_given_up(delivery_id):
            break
        asking.ledger.clock.advance(HOUR)
    assert asked == 7  # after 0, 1, 3, 7, 15, 31 and 55 hours; at 79 hours the alarm
    assert asking.state(delivery_id) is COMMITTING
    asking.ledger.clock.advance(10_000 * HOUR)
    assert asking.commitments.due("pacs", 5.0) == []
    assert RetentionLedger(asking.ledger.database, {"pacs"}).purge_delivered(0) == []
    (line,) = asking.commitments.lines(["pacs"])
    assert (line.is_given_up, line.committed, line.uncommitted) == (True, 0, 1)
    # The operator asks again.
    asking.commitments.ask_again(delivery_id, ["pacs"])
    (transaction,) = asking.ask(delivery_id)
    assert asking.report(transaction.transaction_uid, *names(transaction)).delivery is COMMITTED
    with pytest.raises(OperationRefused):
        asking.commitments.ask_again(delivery_id, ["pacs"])


def test_retention_lets_go_only_what_is_committed_where_that_is_asked_for(asking: Asking) -> None:
    delivery_id = asking.sent(1)

    def purge(names: set[str]) -> list[str]:
        return RetentionLedger(asking.ledger.database, names).purge_delivered(500)

    asking.ledger.clock.advance(1000)
    assert purge({"pacs"}) == []
    (transaction,) = asking.ask(delivery_id)
    asking.ledger.clock.advance(1000)
    assert purge({"pacs"}) == []
    asking.report(transaction.transaction_uid, *names(transaction))
    assert purge({"pacs"}) == []  # kept for its time from the commitment on
    asking.ledger.clock.advance(501)
    assert len(purge({"pacs"})) == 2


def test_where_commitment_is_not_asked_for_success_is_enough_for_retention(asking: Asking) -> None:
    asking.sent(1)
    assert len(RetentionLedger(asking.ledger.database, {"other"}).purge_delivered(0)) == 2


def test_an_object_that_was_sent_again_has_to_be_committed_again(asking: Asking) -> None:
    delivery_id = asking.sent(2)
    (transaction,) = asking.ask(delivery_id)
    first, second = names(transaction)
    asking.report(transaction.transaction_uid, first, failed={second: 0x0110})
    # Somebody sends everything of it again.
    with asking.ledger.database.write() as connection:
        connection.exec_driver_sql("UPDATE delivery_item SET state = 'pending'")
    asking.ledger.clock.advance(60)
    deliver(asking.ledger, delivery_id)
    asking.ledger.clock.advance(60)
    (transaction,) = asking.ask(delivery_id)
    assert names(transaction) == [first, second]
