"""The ledger of what modalities asked this node to commit, and of what they were answered (Storage Commitment SCP)."""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, bindparam, exists, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from dicom_node.commitment_failures import (
    CLASS_INSTANCE_CONFLICT,
    COMMITTED,
    NO_SUCH_INSTANCE,
    PROCESSING_FAILURE,
)
from dicom_node.ledger.database import Database, cut
from dicom_node.ledger.operations import OPEN_REROUTED
from dicom_node.ledger.schema import (
    arrival,
    commitment_request,
    commitment_request_item,
    delivery,
    delivery_item,
    event,
    instance,
)
from dicom_node.states import DEAD_LETTERS, ArrivalState, DeliveryState, InstanceState, ItemState

_CONCLUDED: Final = (ArrivalState.ENHANCED.value, ArrivalState.PASSED_THROUGH.value)
_DEAD: Final = frozenset(state.value for state in (*DEAD_LETTERS, DeliveryState.CANCELLED))
_LEASE_S: Final = 120.0
"""A report that a process began and did not end is tried by another after this."""


_BATCH: Final = 500
# Of two processes that find something out at once, the first one's answer stays.
_SET_OUTCOME = (
    update(commitment_request_item)
    .where(
        commitment_request_item.c.request_id == bindparam("of_request"),
        commitment_request_item.c.number == bindparam("of_number"),
        commitment_request_item.c.outcome.is_(None),
    )
    .values(outcome=bindparam("found"))
)


class RequestState(enum.StrEnum):
    """How far the answer to a request is."""

    WAITING = "waiting"
    DECIDED = "decided"
    REPORTED = "reported"
    ABANDONED = "abandoned"


@dataclass(frozen=True, kw_only=True)
class AnsweringPolicy:
    """What counts as committed for a source; see `config.settings.SourceCommitmentSettings`.

    Parameters
    ----------
    committing
        Destinations, by name, that are asked for commitment themselves.
    """

    committing: frozenset[str]
    sent_counts: bool
    originals_may_be_replaced: bool
    wait_s: float


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request of a modality."""

    request_id: int
    transaction_uid: str
    calling_ae_title: str
    host: str
    source: str
    state: RequestState
    received_at: float
    attempts: int
    reason: str | None


class TransactionUidReused(Exception):
    """The same sender used this Transaction UID for other SOP instances."""


class CommitmentRequestLedger:
    """The side of the ledger that answers requests for commitment."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(
        self,
        *,
        transaction_uid: str,
        calling_ae_title: str,
        host: str,
        source: str,
        references: Sequence[tuple[str, str]],
    ) -> int:
        """Keep a request; returns its number. The same request again is answered again and kept once.

        Raises
        ------
        TransactionUidReused
        """
        now = self._database.now()
        try:
            with self._database.write() as connection:
                return self._insert(connection, transaction_uid, calling_ae_title, host, source, references, now)
        except IntegrityError:
            # Another association brought it in the same moment.
            with self._database.write() as connection:
                return self._insert(connection, transaction_uid, calling_ae_title, host, source, references, now)

    def _insert(
        self,
        connection: Connection,
        transaction_uid: str,
        calling_ae_title: str,
        host: str,
        source: str,
        references: Sequence[tuple[str, str]],
        now: float,
    ) -> int:
        known = connection.execute(
            select(commitment_request.c.id, commitment_request.c.state).where(
                commitment_request.c.calling_ae_title == calling_ae_title,
                commitment_request.c.transaction_uid == transaction_uid,
            )
        ).one_or_none()
        if known is not None:
            items = connection.execute(
                select(commitment_request_item.c.sop_class_uid, commitment_request_item.c.sop_instance_uid).where(
                    commitment_request_item.c.request_id == known.id
                )
            )
            if {(item.sop_class_uid, item.sop_instance_uid) for item in items} != set(references):
                raise TransactionUidReused(transaction_uid)
            if known.state in (RequestState.REPORTED.value, RequestState.ABANDONED.value):
                connection.execute(
                    update(commitment_request)
                    .where(commitment_request.c.id == known.id)
                    .values(
                        state=RequestState.DECIDED.value, decided_at=now, attempts=0, next_attempt_at=now, reason=None
                    )
                )
            return int(known.id)
        request_id = int(
            connection.execute(
                insert(commitment_request).values(
                    transaction_uid=transaction_uid,
                    calling_ae_title=calling_ae_title,
                    host=host,
                    source=source,
                    state=RequestState.WAITING.value,
                    received_at=now,
                    attempts=0,
                    next_attempt_at=now,
                )
            ).inserted_primary_key[0]  # type: ignore[index]
        )
        connection.execute(
            insert(commitment_request_item),
            [
                {"request_id": request_id, "number": n, "sop_class_uid": c, "sop_instance_uid": i}
                for n, (c, i) in enumerate(references)
            ],
        )
        return request_id

    def get(self, request_id: int) -> Request:
        """Return one request."""
        with self._database.read() as connection:
            return _request(
                connection.execute(select(commitment_request).where(commitment_request.c.id == request_id)).one()
            )

    def waiting(self) -> list[Request]:
        """Return the requests that nobody has decided yet, oldest first."""
        return self._all(commitment_request.c.state == RequestState.WAITING.value)

    def due(self, source: str) -> list[Request]:
        """Return the decided requests of a source whose report is to be brought now."""
        return self._all(
            commitment_request.c.state == RequestState.DECIDED.value,
            commitment_request.c.source == source,
            commitment_request.c.next_attempt_at <= self._database.now(),
        )

    def requests(self, *, show_all: bool = False) -> list[Request]:
        """Return requests for people: those that are not reported, or all of them."""
        return self._all(*(() if show_all else (commitment_request.c.state != RequestState.REPORTED.value,)))

    def _all(self, *conditions: Any) -> list[Request]:
        query = select(commitment_request).where(*conditions).order_by(commitment_request.c.id)
        with self._database.read() as connection:
            return [_request(row) for row in connection.execute(query)]

    def decide(self, request_id: int, policy: AnsweringPolicy) -> bool:
        """Judge every SOP instance of a request; tells whether all are, so that there is an answer.

        An answer once given for an instance stays. What is still on its way when `policy.wait_s` is over has failed.
        """
        now = self._database.now()
        # A request may name thousands, and is looked at again and again: only what was found is written.
        with self._database.read() as connection:
            request = connection.execute(select(commitment_request).where(commitment_request.c.id == request_id)).one()
            if request.state != RequestState.WAITING.value:
                return bool(request.state == RequestState.DECIDED.value)
            items = connection.execute(
                select(commitment_request_item).where(
                    commitment_request_item.c.request_id == request_id, commitment_request_item.c.outcome.is_(None)
                )
            ).all()
            named = [(item.sop_class_uid, item.sop_instance_uid) for item in items]
            outcomes = judge_instances(connection, named, policy)
        if now - request.received_at >= policy.wait_s:
            outcomes = [PROCESSING_FAILURE if outcome is None else outcome for outcome in outcomes]
        found = [
            {"of_request": request_id, "of_number": item.number, "found": outcome}
            for item, outcome in zip(items, outcomes, strict=True)
            if outcome is not None
        ]
        is_open = None in outcomes
        if is_open and not found:
            return False
        with self._database.write() as connection:
            if found:
                connection.execute(_SET_OUTCOME, found)
            if is_open:
                return False
            connection.execute(
                update(commitment_request)
                .where(commitment_request.c.id == request_id, commitment_request.c.state == RequestState.WAITING.value)
                .values(state=RequestState.DECIDED.value, decided_at=now, next_attempt_at=now)
            )
            return True

    def outcomes(self, request_id: int) -> list[tuple[str, str, int]]:
        """Return SOP class, SOP instance and outcome of everything that a decided request names, in its order."""
        item = commitment_request_item
        query = (
            select(item.c.sop_class_uid, item.c.sop_instance_uid, func.coalesce(item.c.outcome, PROCESSING_FAILURE))
            .where(item.c.request_id == request_id)
            .order_by(item.c.number)
        )
        with self._database.read() as connection:
            return [(row[0], row[1], int(row[2])) for row in connection.execute(query)]

    def counts(self) -> Mapping[int, tuple[int, int, int]]:
        """Return for each request how many of its instances are committed, failed and undecided."""
        found: dict[int, list[int]] = {}
        item = commitment_request_item
        with self._database.read() as connection:
            for request_id, outcome, number in connection.execute(
                select(item.c.request_id, item.c.outcome, func.count()).group_by(item.c.request_id, item.c.outcome)
            ):
                place = 2 if outcome is None else 0 if outcome == COMMITTED else 1
                found.setdefault(request_id, [0, 0, 0])[place] += number
        return {request_id: (a, b, c) for request_id, (a, b, c) in found.items()}

    def take(self, request_id: int) -> bool:
        """Take a report into work, so that no other process brings it at the same time; False if one does."""
        now = self._database.now()
        with self._database.write() as connection:
            changed = connection.execute(
                update(commitment_request)
                .where(
                    commitment_request.c.id == request_id,
                    commitment_request.c.state == RequestState.DECIDED.value,
                    commitment_request.c.next_attempt_at <= now,
                )
                .values(attempts=commitment_request.c.attempts + 1, next_attempt_at=now + _LEASE_S)
            )
            return changed.rowcount == 1

    def reported(self, request_id: int) -> None:
        """Note that the modality took the report."""
        self._close(request_id, RequestState.REPORTED, None)

    def abandon(self, request_id: int, reason: str) -> None:
        """Note that the report is not brought any more; the request made again is answered again."""
        self._close(request_id, RequestState.ABANDONED, reason)

    def _close(self, request_id: int, state: RequestState, reason: str | None) -> None:
        with self._database.write() as connection:
            connection.execute(
                update(commitment_request)
                .where(commitment_request.c.id == request_id, commitment_request.c.state == RequestState.DECIDED.value)
                .values(state=state.value, reported_at=self._database.now(), reason=cut(reason))
            )

    def report_failed(self, request_id: int, reason: str, *, retry_in_s: float) -> None:
        """Note why the report was not brought, and when it is tried again."""
        with self._database.write() as connection:
            connection.execute(
                update(commitment_request)
                .where(commitment_request.c.id == request_id, commitment_request.c.state == RequestState.DECIDED.value)
                .values(next_attempt_at=self._database.now() + retry_in_s, reason=cut(reason))
            )


def judge_instances(
    connection: Connection, references: Sequence[tuple[str, str]], policy: AnsweringPolicy
) -> list[int | None]:
    """Judge (SOP class, SOP instance) pairs: 0 where one is safe without its sender, a Failure Reason where not.

    None where that is still open. Safe means: every destination of its route has committed to what it was to get of
    it, and, unless the site has decided otherwise, one of them to the original itself.
    """
    found: list[int | None] = []
    for first in range(0, len(references), _BATCH):
        batch = references[first : first + _BATCH]
        received = _received(connection, [uid for _, uid in batch])
        concluded = {row.arrival_id for row in received.values() if row.arrival_state in _CONCLUDED}
        deliveries = _Deliveries(connection, concluded)
        found += [_judge(received.get(uid), sop_class, deliveries, policy) for sop_class, uid in batch]
    return found


def _received(connection: Connection, uids: Sequence[str]) -> dict[str, Any]:
    """Return, by SOP Instance UID, the newest received instance, or the one that stands for it."""
    state = arrival.c.state.label("arrival_state")
    query = select(instance, state).join(arrival, arrival.c.id == instance.c.arrival_id)
    newest = {
        row.sop_instance_uid: row
        for row in connection.execute(
            query.where(instance.c.sop_instance_uid.in_(uids), instance.c.origin == "received").order_by(
                instance.c.revision, instance.c.id
            )
        )
    }
    # The same image, received before in another encoding: that one goes to the destinations.
    standing_in = {row.same_as_id for row in newest.values() if row.same_as_id is not None}
    if not standing_in:
        return newest
    first = {row.id: row for row in connection.execute(query.where(instance.c.id.in_(standing_in)))}
    return {uid: first.get(row.same_as_id) if row.same_as_id is not None else row for uid, row in newest.items()}


class _Deliveries:
    """What the deliveries of some arrivals carry."""

    def __init__(self, connection: Connection, arrival_ids: Collection[int]) -> None:
        self.carried: dict[int, list[Any]] = {}
        """By the received instance that they are of."""
        self.destinations: dict[int, set[str]] = {}
        """By arrival: those that its route names."""
        of_these = delivery.c.arrival_id.in_(arrival_ids)
        carried = (
            select(
                delivery.c.destination,
                delivery.c.state.label("delivery_state"),
                instance.c.id.label("instance_id"),
                func.coalesce(instance.c.source_id, instance.c.id).label("received_id"),
                delivery_item.c.state,
                delivery_item.c.at,
                delivery_item.c.committed_at,
            )
            .join(delivery_item, delivery_item.c.delivery_id == delivery.c.id)
            .join(instance, instance.c.id == delivery_item.c.instance_id)
            .where(of_these)
        )
        for row in connection.execute(carried):
            self.carried.setdefault(row.received_id, []).append(row)
        # A destination may have several deliveries. Of one that was rerouted, away or here, neither end carries all.
        was_rerouted = exists().where(
            event.c.subject == delivery.name,
            event.c.subject_id == delivery.c.id,
            event.c.event.in_(("reroute", OPEN_REROUTED)),
        )
        named = select(delivery.c.arrival_id, delivery.c.destination).where(of_these, ~was_rerouted)
        for arrival_id, destination in connection.execute(named).tuples():
            self.destinations.setdefault(arrival_id, set()).add(destination)


def _judge(received: Any, sop_class_uid: str, deliveries: _Deliveries, policy: AnsweringPolicy) -> int | None:
    if received is None:
        return NO_SUCH_INSTANCE
    if received.sop_class_uid != sop_class_uid:
        return CLASS_INSTANCE_CONFLICT
    if received.state == InstanceState.QUARANTINED.value:
        return PROCESSING_FAILURE
    if received.arrival_state not in _CONCLUDED:
        return None
    carried = deliveries.carried.get(received.id, [])
    every = deliveries.destinations.get(received.arrival_id, set())
    if not carried or every - {row.destination for row in carried}:
        # A destination that was to get nothing of it can't vouch for it.
        return PROCESSING_FAILURE
    outcomes = [_judge_item(row, policy) for row in carried]
    failures = [outcome for outcome in outcomes if outcome not in (None, COMMITTED)]
    if failures:
        return failures[0]
    if not policy.originals_may_be_replaced and all(row.instance_id != received.id for row in carried):
        return PROCESSING_FAILURE
    return None if None in outcomes else COMMITTED


def _judge_item(row: Any, policy: AnsweringPolicy) -> int | None:
    is_dead = row.state == ItemState.REFUSED.value or (
        row.state == ItemState.PENDING.value and row.delivery_state in _DEAD
    )
    if is_dead:
        return PROCESSING_FAILURE
    if row.destination not in policy.committing:
        if not policy.sent_counts:
            return PROCESSING_FAILURE
        return COMMITTED if row.state == ItemState.SENT.value else None
    if row.state == ItemState.SENT.value and row.committed_at is not None:
        return COMMITTED if row.at is None or row.committed_at >= row.at else None
    return None


def _request(row: Any) -> Request:
    return Request(
        request_id=row.id,
        transaction_uid=row.transaction_uid,
        calling_ae_title=row.calling_ae_title,
        host=row.host,
        source=row.source,
        state=RequestState(row.state),
        received_at=row.received_at,
        attempts=row.attempts,
        reason=row.reason,
    )
