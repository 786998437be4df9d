"""The ledger of what destinations were asked to commit, and of what they answered (Storage Commitment SCU)."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, and_, exists, func, insert, or_, select, update

from dicom_node.commitment_failures import COMMITTED, Remedy, describe_failure, remedy_for
from dicom_node.errors import IllegalTransition, LedgerUnavailable, OperationRefused
from dicom_node.ledger.database import Database, change_state, cut, record_event
from dicom_node.ledger.deliveries import study_of
from dicom_node.ledger.schema import (
    commitment_reference,
    commitment_transaction,
    delivery,
    delivery_commitment,
    delivery_item,
    instance,
)
from dicom_node.states import DELIVERY, DeliveryState, InstanceState, ItemState

LONGEST_TIMEOUT_S: Final = 86_400.0


class TransactionState(enum.StrEnum):
    """How far a request to a destination is."""

    REQUESTING = "requesting"
    REQUESTED = "requested"
    REPORTED = "reported"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class AskingPolicy:
    """When a destination is asked; see `config.settings.CommitmentSettings` for each."""

    delay_s: float
    timeout_s: float
    max_age_s: float
    max_references: int


@dataclass(frozen=True, kw_only=True)
class ResendPolicy:
    """How often an object goes again whose commitment failed, and how long after the report."""

    max_resends: int
    delay_s: float


@dataclass(frozen=True, kw_only=True)
class Transaction:
    """A request to send: its Transaction UID and the (SOP class, SOP instance) pairs that it names."""

    transaction_uid: str
    delivery_id: int
    references: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class ReportOutcome:
    """What a report changed; `delivery` is the state that its delivery has now."""

    delivery_id: int
    destination: str
    delivery: DeliveryState
    committed: int
    failed: int
    unknown: int


@dataclass(frozen=True, kw_only=True)
class CommitmentLine:
    """A delivery whose destination is to commit, for people."""

    delivery_id: int
    destination: str
    state: DeliveryState
    committed: int
    uncommitted: int
    requests: int
    since: float | None
    next_request_at: float | None
    is_given_up: bool
    reason: str | None


class UnknownTransaction(Exception):
    """No request of ours has this Transaction UID."""


class NotTheDestination(Exception):
    """The report comes from a peer that may not speak for the destination of its transaction."""


# Of a row of `delivery_item`.
is_committed: ColumnElement[bool] = and_(
    delivery_item.c.committed_at.is_not(None),
    or_(delivery_item.c.at.is_(None), delivery_item.c.committed_at >= delivery_item.c.at),
)
_open_states = (DeliveryState.SENT.value, DeliveryState.COMMITTING.value)
# What was sent before the rest went to another destination is to be committed, too.
_sent_states = (DeliveryState.SENT.value, DeliveryState.REROUTED.value)


def has_uncommitted() -> ColumnElement[bool]:
    """Return the condition that a delivery has sent something that is not committed."""
    return exists().where(
        delivery_item.c.delivery_id == delivery.c.id, delivery_item.c.state == ItemState.SENT.value, ~is_committed
    )


class CommitmentLedger:
    """The side of the ledger that asks destinations for commitment."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- asking ---------------------------------------------------------------------------------

    def due(self, destination: str, delay_s: float, *, limit: int = 100) -> list[int]:
        """Return the deliveries whose destination is to be asked now, the longest waiting first.

        Deliveries whose objects were all purged before commitment was asked for are left alone: nothing could be sent
        again.
        """
        now = self._database.now()
        is_sent = (delivery.c.state == DeliveryState.SENT.value) | (
            (delivery.c.state == DeliveryState.REROUTED.value) & has_uncommitted()
        )
        is_committing = delivery.c.state == DeliveryState.COMMITTING.value
        is_stored = exists().where(
            instance.c.id == delivery_item.c.instance_id,
            delivery_item.c.delivery_id == delivery.c.id,
            instance.c.state == InstanceState.STORED.value,
        )
        query = (
            select(delivery.c.id)
            .outerjoin(delivery_commitment, delivery_commitment.c.delivery_id == delivery.c.id)
            .where(
                delivery.c.destination == destination,
                # Said for the index alone: this is asked every second, and most are committed.
                delivery.c.state.in_((*_open_states, *_sent_states)),
                # However it was sent, for the first time or again, it is asked for anew.
                (is_sent & (func.coalesce(delivery.c.finished_at, 0.0) <= now - delay_s))
                | (is_committing & (delivery_commitment.c.next_request_at <= now)),
                is_stored,
            )
            .order_by(delivery_commitment.c.next_request_at, delivery.c.id)
            .limit(limit)
        )
        with self._database.read() as connection:
            return list(connection.scalars(query))

    def begin(self, delivery_id: int, policy: AskingPolicy, new_uid: Callable[[], str]) -> list[Transaction]:
        """Write down, under new Transaction UIDs, what is about to be asked; nothing if it is not due any more.

        From here on a report is known whenever it comes, and the next request is due when none has come in time,
        whatever becomes of this process. A delivery of which everything is committed is so from here on.
        """
        now = self._database.now()
        with self._database.write() as connection:
            state = connection.scalar(select(delivery.c.state).where(delivery.c.id == delivery_id).with_for_update())
            if state not in (*_open_states, *_sent_states):
                return []
            row = connection.execute(
                select(delivery_commitment).where(delivery_commitment.c.delivery_id == delivery_id)
            ).one_or_none()
            if state in _sent_states:
                since, requests = now, 0
                if row is None:
                    connection.execute(
                        insert(delivery_commitment).values(delivery_id=delivery_id, since=now, requests=0)
                    )
                _change(connection, delivery_id, "request_commitment", now)
            elif row is None or row.next_request_at is None or row.next_request_at > now:
                return []
            else:
                since, requests = row.since, row.requests
            left = connection.execute(_left_to_commit(delivery_id)).all()
            if not left:
                _commit(connection, delivery_id, now)
                return []
            if requests and now - since > policy.max_age_s:
                self._give_up(connection, delivery_id, now, f"no commitment of {len(left)} SOP instances in time")
                return []
            timeout_s = min(policy.timeout_s * 2.0**requests, max(LONGEST_TIMEOUT_S, policy.timeout_s))
            connection.execute(
                update(delivery_commitment)
                .where(delivery_commitment.c.delivery_id == delivery_id)
                .values(since=since, requests=requests + 1, next_request_at=now + timeout_s, reason=None)
            )
            step = policy.max_references
            return [
                _open_transaction(connection, delivery_id, left[first : first + step], new_uid(), now)
                for first in range(0, len(left), step)
            ]

    @staticmethod
    def _give_up(connection: Connection, delivery_id: int, now: float, reason: str) -> None:
        connection.execute(
            update(delivery_commitment)
            .where(delivery_commitment.c.delivery_id == delivery_id)
            .values(next_request_at=None, reason=cut(reason))
        )
        committing = DeliveryState.COMMITTING.value
        record_event(
            connection,
            delivery,
            delivery_id,
            at=now,
            event_name="commitment_overdue",
            from_state=committing,
            to_state=committing,
            reason=reason,
        )

    def drop(self, destinations: Collection[str]) -> list[int]:
        """Wait no more for the commitment of `destinations`, which are not asked any more; returns the deliveries.

        They have what was sent, and that is all that the settings want of them: what nobody asks for would otherwise be
        waited for, and kept, for ever.
        """
        waiting = (
            select(delivery.c.id)
            .where(delivery.c.destination.in_(list(destinations)), delivery.c.state == DeliveryState.COMMITTING.value)
            .order_by(delivery.c.id)
            .limit(500)
        )
        with self._database.read() as connection:
            found = list(connection.scalars(waiting))
        now, dropped = self._database.now(), []
        for delivery_id in found:
            # One transaction each: of two workers the second finds it done.
            with contextlib.suppress(IllegalTransition), self._database.write() as connection:
                _change(connection, delivery_id, "drop_commitment", now, "commitment is not asked for any more")
                dropped.append(delivery_id)
        return dropped

    def study_of(self, delivery_id: int) -> str:
        """Return the Study Instance UID of a delivery for the log; empty where it can't be found now."""
        return study_of(self._database, delivery_id)

    def waited_s(self, delivery_id: int) -> float | None:
        """Return how long a delivery has waited for its commitment, for metrics; None where that can't be found now."""
        query = select(delivery_commitment.c.since).where(delivery_commitment.c.delivery_id == delivery_id)
        try:
            with self._database.read() as connection:
                since = connection.scalar(query)
        except LedgerUnavailable:
            return None
        return None if since is None else max(0.0, self._database.now() - since)

    def is_given_up(self, delivery_id: int) -> bool:
        """Tell whether nobody asks for the commitment of a delivery any more."""
        with self._database.read() as connection:
            return bool(
                connection.scalar(
                    select(func.count())
                    .select_from(delivery_commitment.join(delivery, delivery.c.id == delivery_commitment.c.delivery_id))
                    .where(
                        delivery_commitment.c.delivery_id == delivery_id,
                        delivery_commitment.c.next_request_at.is_(None),
                        delivery.c.state == DeliveryState.COMMITTING.value,
                    )
                )
            )

    def requested(self, transaction_uid: str) -> None:
        """Note that the destination took a request."""
        self._note(transaction_uid, TransactionState.REQUESTED, None)

    def request_failed(self, transaction_uid: str, reason: str, *, retry_in_s: float) -> None:
        """Note that a request did not reach the destination, or was not taken; the next is due in `retry_in_s`.

        A report on it still counts: the answer alone may have been lost.
        """
        self._note(transaction_uid, TransactionState.FAILED, reason, retry_in_s)

    def _note(
        self, transaction_uid: str, state: TransactionState, reason: str | None, retry_in_s: float | None = None
    ) -> None:
        now = self._database.now()
        mine = commitment_transaction.c.transaction_uid == transaction_uid
        with self._database.write() as connection:
            changed = connection.execute(
                update(commitment_transaction)
                .where(mine, commitment_transaction.c.state == TransactionState.REQUESTING.value)
                .values(state=state.value, reason=cut(reason))
            )
            if changed.rowcount and retry_in_s is not None:
                connection.execute(
                    update(delivery_commitment)
                    .where(
                        delivery_commitment.c.delivery_id
                        == select(commitment_transaction.c.delivery_id).where(mine).scalar_subquery(),
                        delivery_commitment.c.next_request_at.is_not(None),
                    )
                    .values(next_request_at=now + retry_in_s, reason=cut(reason))
                )

    def open_transactions(self, transaction_uids: Collection[str]) -> int:
        """Return how many of these wait for their report."""
        with self._database.read() as connection:
            return int(
                connection.scalar(
                    select(func.count()).where(
                        commitment_transaction.c.transaction_uid.in_(list(transaction_uids)),
                        commitment_transaction.c.state == TransactionState.REQUESTED.value,
                    )
                )
                or 0
            )

    # -- reports --------------------------------------------------------------------------------

    def record_report(
        self,
        transaction_uid: str,
        *,
        committed: Collection[str],
        failed: Mapping[str, int],
        policies: Mapping[str, ResendPolicy],
    ) -> ReportOutcome:
        """Write down a report, and what follows from it for each SOP instance that it names.

        What is committed stays so, whichever request the report is on and however late it comes; a report that comes
        again says nothing of what was sent since. A failure counts once, and only on the last request that names the
        instance.

        Parameters
        ----------
        committed, failed
            SOP Instance UIDs, the failed ones with their Failure Reason (0008,1197).
        policies
            Of the destinations that the peer may speak for, by name.

        Raises
        ------
        UnknownTransaction, NotTheDestination
        """
        now = self._database.now()
        with self._database.write() as connection:
            found = connection.execute(
                select(commitment_transaction.c.id, commitment_transaction.c.delivery_id, delivery.c.destination)
                .join(delivery, delivery.c.id == commitment_transaction.c.delivery_id)
                .where(commitment_transaction.c.transaction_uid == transaction_uid)
            ).one_or_none()
            if found is None:
                raise UnknownTransaction(transaction_uid)
            policy = policies.get(found.destination)
            if policy is None:
                raise NotTheDestination(found.destination)
            delivery_id = found.delivery_id
            connection.execute(select(delivery.c.id).where(delivery.c.id == delivery_id).with_for_update())
            references = {
                row.sop_instance_uid: row for row in connection.execute(_references(found.id, delivery_id)).all()
            }
            named = {*committed, *failed}
            # Named in both lists, an object is not safe.
            good = [references[uid] for uid in committed if uid in references and uid not in failed]
            bad = [(references[uid], reason) for uid, reason in failed.items() if uid in references]
            for row in good:
                if row.outcome != COMMITTED:
                    self._commit_item(connection, found.id, delivery_id, row, now)
            failures = [
                (row, reason)
                for row, reason in bad
                if row.outcome is None and not row.is_committed and row.last_transaction_id == found.id
            ]
            for row, reason in bad:
                if row.outcome is None:
                    _set_outcome(connection, found.id, row.instance_id, reason)
            connection.execute(
                update(commitment_transaction)
                .where(commitment_transaction.c.id == found.id)
                .values(
                    state=TransactionState.REPORTED.value,
                    reported_at=func.coalesce(commitment_transaction.c.reported_at, now),
                    reason=cut(describe_failure(bad[0][1])) if bad else None,
                )
            )
            self._follow_up(connection, delivery_id, failures, policy, now)
            if any(
                row.outcome is None and row.last_transaction_id == found.id and not row.is_committed
                for uid, row in references.items()
                if uid not in named
            ):
                _ask_again(connection, delivery_id, now, "a report did not name every SOP instance that was asked for")
            state = DeliveryState(
                connection.execute(select(delivery.c.state).where(delivery.c.id == delivery_id)).scalar_one()
            )
        return ReportOutcome(
            delivery_id=delivery_id,
            destination=found.destination,
            delivery=state,
            committed=len(good),
            failed=len(failures),
            unknown=len(named - references.keys()),
        )

    @staticmethod
    def _commit_item(connection: Connection, transaction_id: int, delivery_id: int, row: Any, now: float) -> None:
        _set_outcome(connection, transaction_id, row.instance_id, COMMITTED)
        item = (delivery_item.c.delivery_id == delivery_id) & (delivery_item.c.instance_id == row.instance_id)
        connection.execute(update(delivery_item).where(item).values(committed_at=now, commitment_failures=0))
        # It was to be sent again, or given up, for want of what has come now.
        connection.execute(
            update(delivery_item)
            .where(item, delivery_item.c.state.in_([ItemState.PENDING.value, ItemState.REFUSED.value]))
            .values(state=ItemState.SENT.value, reason=None, in_doubt=False)
        )

    @staticmethod
    def _follow_up(
        connection: Connection, delivery_id: int, failures: Sequence[tuple[Any, int]], policy: ResendPolicy, now: float
    ) -> None:
        state = connection.scalar(select(delivery.c.state).where(delivery.c.id == delivery_id))
        if state == DeliveryState.REFUSED.value and not connection.execute(_left_to_commit(delivery_id)).all():
            # A late report on what was a dead letter.
            if not _count_items(connection, delivery_id, ItemState.REFUSED, ItemState.PENDING):
                _commit(connection, delivery_id, now)
            return
        if state != DeliveryState.COMMITTING.value:
            return
        for row, reason in failures:
            _apply_failure(connection, delivery_id, row, reason, policy)
        first = describe_failure(failures[0][1]) if failures else None
        if _count_items(connection, delivery_id, ItemState.PENDING):
            # `created_at` starts anew: the maximum age of the delivery counts from here.
            next_at = now + policy.delay_s
            _change(
                connection,
                delivery_id,
                "resend",
                now,
                f"not committed: {first}",
                next_attempt_at=next_at,
                created_at=now,
                finished_at=None,
            )
        elif _count_items(connection, delivery_id, ItemState.REFUSED):
            _change(connection, delivery_id, "refuse", now, f"not committed: {first}")
        elif not connection.execute(_left_to_commit(delivery_id)).all():
            _commit(connection, delivery_id, now)
        elif failures:
            _ask_again(connection, delivery_id, now, first or "")

    # -- people ---------------------------------------------------------------------------------

    def ask_again(self, delivery_id: int, destinations: Collection[str]) -> None:
        """Ask for the commitment of a delivery now (the operator's `commitment ask`); its maximum age starts anew.

        Raises
        ------
        OperationRefused
            If it does not wait for a commitment.
        """
        now = self._database.now()
        with self._database.write() as connection:
            row = connection.execute(
                select(delivery.c.state, delivery.c.destination).where(delivery.c.id == delivery_id).with_for_update()
            ).one_or_none()
            if row is None or row.state not in _open_states or row.destination not in destinations:
                raise OperationRefused(
                    f"delivery {delivery_id} waits for no commitment; "
                    "`dicom-node commitment list -c FILE` shows which do"
                )
            changed = connection.execute(
                update(delivery_commitment)
                .where(delivery_commitment.c.delivery_id == delivery_id)
                .values(since=now, requests=0, next_request_at=now, reason=None)
            )
            if not changed.rowcount:
                connection.execute(
                    insert(delivery_commitment).values(
                        delivery_id=delivery_id, since=now, requests=0, next_request_at=now
                    )
                )

    def counts(self, destinations: Collection[str]) -> tuple[int, int, tuple[int, ...]]:
        """Return how many deliveries to `destinations` are committed and how many not yet, and the numbers given up."""
        theirs = delivery.c.destination.in_(list(destinations))
        by_state = select(delivery.c.state, func.count()).where(theirs).group_by(delivery.c.state)
        given_up = (
            select(delivery.c.id)
            .join(delivery_commitment, delivery_commitment.c.delivery_id == delivery.c.id)
            .where(
                theirs,
                delivery.c.state == DeliveryState.COMMITTING.value,
                delivery_commitment.c.next_request_at.is_(None),
            )
            .order_by(delivery.c.id)
        )
        with self._database.read() as connection:
            numbers = {row[0]: int(row[1]) for row in connection.execute(by_state)}
            waiting = sum(numbers.get(state, 0) for state in _open_states)
            return numbers.get(DeliveryState.COMMITTED.value, 0), waiting, tuple(connection.scalars(given_up))

    def lines(self, destinations: Collection[str], *, show_all: bool = False) -> list[CommitmentLine]:
        """Return the deliveries to `destinations` that wait for a commitment, oldest first; `show_all`: all of them."""
        committed = _item_number(ItemState.SENT, is_committed).label("committed")
        uncommitted = _item_number(None, ~is_committed).label("uncommitted")
        query = (
            select(
                delivery.c.id,
                delivery.c.destination,
                delivery.c.state,
                delivery.c.reason.label("delivery_reason"),
                delivery_commitment,
                committed,
                uncommitted,
            )
            .outerjoin(delivery_commitment, delivery_commitment.c.delivery_id == delivery.c.id)
            .where(delivery.c.destination.in_(list(destinations)))
            .order_by(delivery.c.id)
        )
        if not show_all:
            query = query.where(delivery.c.state.in_(_open_states))
        with self._database.read() as connection:
            return [_line(row) for row in connection.execute(query)]


def _line(row: Any) -> CommitmentLine:
    state = DeliveryState(row.state)
    return CommitmentLine(
        delivery_id=row.id,
        destination=row.destination,
        state=state,
        committed=row.committed,
        uncommitted=row.uncommitted,
        requests=row.requests or 0,
        since=row.since,
        next_request_at=row.next_request_at,
        is_given_up=state is DeliveryState.COMMITTING and row.next_request_at is None,
        reason=row.reason or row.delivery_reason,
    )


def _item_number(state: ItemState | None, condition: ColumnElement[bool]) -> Any:
    query = select(func.count()).where(delivery_item.c.delivery_id == delivery.c.id, condition)
    if state is not None:
        query = query.where(delivery_item.c.state == state.value)
    return query.correlate(delivery).scalar_subquery()


def _left_to_commit(delivery_id: int) -> Any:
    return (
        select(instance.c.id, instance.c.sop_class_uid, instance.c.sop_instance_uid)
        .join(delivery_item, delivery_item.c.instance_id == instance.c.id)
        .where(delivery_item.c.delivery_id == delivery_id, ~is_committed)
        .order_by(instance.c.id)
    )


def _references(transaction_id: int, delivery_id: int) -> Any:
    other = commitment_reference.alias("other")
    other_transaction = commitment_transaction.alias("other_transaction")
    last = (
        select(func.max(other.c.transaction_id))
        .join(other_transaction, other_transaction.c.id == other.c.transaction_id)
        .where(
            other.c.instance_id == commitment_reference.c.instance_id, other_transaction.c.delivery_id == delivery_id
        )
        .correlate(commitment_reference)
        .scalar_subquery()
    )
    return (
        select(
            commitment_reference.c.instance_id,
            commitment_reference.c.outcome,
            instance.c.sop_instance_uid,
            delivery_item.c.commitment_failures,
            is_committed.label("is_committed"),
            last.label("last_transaction_id"),
        )
        .join(instance, instance.c.id == commitment_reference.c.instance_id)
        .join(
            delivery_item,
            (delivery_item.c.instance_id == commitment_reference.c.instance_id)
            & (delivery_item.c.delivery_id == delivery_id),
        )
        .where(commitment_reference.c.transaction_id == transaction_id)
    )


def _open_transaction(
    connection: Connection, delivery_id: int, left: Sequence[Any], transaction_uid: str, now: float
) -> Transaction:
    transaction_id = connection.execute(
        insert(commitment_transaction).values(
            transaction_uid=transaction_uid,
            delivery_id=delivery_id,
            state=TransactionState.REQUESTING.value,
            created_at=now,
        )
    ).inserted_primary_key[0]  # type: ignore[index]
    connection.execute(
        insert(commitment_reference), [{"transaction_id": transaction_id, "instance_id": row.id} for row in left]
    )
    return Transaction(
        transaction_uid=transaction_uid,
        delivery_id=delivery_id,
        references=tuple((row.sop_class_uid, row.sop_instance_uid) for row in left),
    )


def _set_outcome(connection: Connection, transaction_id: int, instance_id: int, outcome: int) -> None:
    connection.execute(
        update(commitment_reference)
        .where(
            commitment_reference.c.transaction_id == transaction_id, commitment_reference.c.instance_id == instance_id
        )
        .values(outcome=outcome)
    )


def _apply_failure(connection: Connection, delivery_id: int, row: Any, reason: int, policy: ResendPolicy) -> None:
    remedy = remedy_for(reason)
    if remedy is Remedy.ASK_AGAIN:
        return
    failures = row.commitment_failures + 1
    is_over = remedy is Remedy.DEAD_LETTER or failures > policy.max_resends
    values: dict[str, Any] = {
        "state": (ItemState.REFUSED if is_over else ItemState.PENDING).value,
        "reason": cut(f"not committed: {describe_failure(reason)}"),
        # The operator's retry counts anew.
        "commitment_failures": 0 if is_over else failures,
    }
    if not is_over:
        # It answered the C-STORE with success and may have the object all the same.
        values["in_doubt"] = True
    connection.execute(
        update(delivery_item)
        .where(delivery_item.c.delivery_id == delivery_id, delivery_item.c.instance_id == row.instance_id)
        .values(**values)
    )


def _ask_again(connection: Connection, delivery_id: int, now: float, reason: str) -> None:
    """Make the next request due soon, not at once: a destination that always answers so is not to be hammered."""
    row = connection.execute(
        select(delivery_commitment.c.requests, delivery_commitment.c.next_request_at).where(
            delivery_commitment.c.delivery_id == delivery_id
        )
    ).one_or_none()
    if row is None or row.next_request_at is None:
        return
    soon = now + min(10.0 * 2.0 ** min(row.requests, 10), 3600.0)
    connection.execute(
        update(delivery_commitment)
        .where(delivery_commitment.c.delivery_id == delivery_id)
        .values(next_request_at=min(soon, row.next_request_at), reason=cut(reason))
    )


def _count_items(connection: Connection, delivery_id: int, *states: ItemState) -> int:
    return int(
        connection.scalar(
            select(func.count()).where(
                delivery_item.c.delivery_id == delivery_id, delivery_item.c.state.in_([s.value for s in states])
            )
        )
        or 0
    )


def _commit(connection: Connection, delivery_id: int, now: float) -> None:
    _change(connection, delivery_id, "commit", now, finished_at=now)
    connection.execute(
        update(delivery_commitment)
        .where(delivery_commitment.c.delivery_id == delivery_id)
        .values(next_request_at=None, reason=None)
    )


def _change(
    connection: Connection, delivery_id: int, event_name: str, now: float, reason: str | None = None, **columns: Any
) -> None:
    change_state(
        connection, delivery, delivery_id, DELIVERY, DeliveryState, event_name, at=now, reason=reason, **columns
    )
