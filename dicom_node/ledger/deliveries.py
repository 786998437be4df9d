"""The ledger of deliveries: what each destination is to get, what it answered, and when to try again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, exists, false, func, select, update

from dicom_node.errors import IllegalTransition, LedgerUnavailable
from dicom_node.ledger.database import Database, change_state, cut
from dicom_node.ledger.destinations import may_be_sent
from dicom_node.ledger.schema import arrival, delivery, delivery_item, event, instance
from dicom_node.states import DEAD_LETTERS, DELIVERY, DeliveryState, ItemState


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """One arrival on its way to one destination."""

    delivery_id: int
    arrival_id: int
    destination: str
    state: DeliveryState
    attempts: int
    created_at: float
    next_attempt_at: float
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class PendingObject:
    """An instance that a delivery still has to send; `key` names its file in the instance store."""

    instance_id: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    key: str
    dataset_offset: int
    is_derived: bool
    in_doubt: bool
    size: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class DeliveryLine:
    """A delivery as the queue shows it; `part` is 1 where it follows originals that went before, else 0."""

    delivery_id: int
    destination: str
    state: DeliveryState
    attempts: int
    study_instance_uid: str
    series_instance_uid: str
    generation: int
    part: int
    route: str | None
    sent: int
    refused: int
    pending: int
    created_at: float
    next_attempt_at: float
    reason: str | None


def study_of(database: Database, delivery_id: int) -> str:
    """Return the Study Instance UID of a delivery for the log; empty where it can't be found now."""
    query = (
        select(arrival.c.study_instance_uid)
        .join(delivery, delivery.c.arrival_id == arrival.c.id)
        .where(delivery.c.id == delivery_id)
    )
    try:
        with database.read() as connection:
            return connection.scalar(query) or ""
    except LedgerUnavailable:
        return ""


# Where an operator leaves a delivery whose attempt is still in work.
_STOPPED = frozenset({DeliveryState.HELD, DeliveryState.CANCELLED})


class DeliveryLedger:
    """The side of the ledger that delivers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, delivery_id: int) -> Delivery:
        """Return one delivery; IllegalTransition if there is none."""
        with self._database.read() as connection:
            row = connection.execute(select(delivery).where(delivery.c.id == delivery_id)).one_or_none()
        if row is None:
            raise IllegalTransition(f"no delivery {delivery_id}")
        return _delivery(row)

    def study_of(self, delivery_id: int) -> str:
        """Return the Study Instance UID of a delivery for the log; empty where it can't be found now."""
        return study_of(self._database, delivery_id)

    def due(self) -> list[Delivery]:
        """Return the pending deliveries whose time has come, the longest waiting first.

        What is on hold is not among them, nor what goes to a destination that is down.
        """
        query = (
            select(delivery)
            .where(
                delivery.c.state == DeliveryState.PENDING.value,
                delivery.c.next_attempt_at <= self._database.now(),
                may_be_sent(),
            )
            .order_by(delivery.c.next_attempt_at, delivery.c.id)
        )
        return self._all(query)

    def in_state(self, *states: DeliveryState) -> list[Delivery]:
        """Return the deliveries in any of `states`, oldest first."""
        return self._all(
            select(delivery).where(delivery.c.state.in_([s.value for s in states])).order_by(delivery.c.id)
        )

    def _all(self, query: Any) -> list[Delivery]:
        with self._database.read() as connection:
            return [_delivery(row) for row in connection.execute(query)]

    def begin(self, delivery_id: int, attempt: int) -> bool:
        """Take a delivery into work for the workflow that makes its attempt number `attempt`, from 0.

        Returns
        -------
        False if it has to wait: it, its study or its destination was put on hold, or its destination is down, after
        the workflow was enqueued. The attempt is skipped then.

        Raises
        ------
        IllegalTransition
            If it is not to be sent (held, sent, refused ...), or another workflow makes a later attempt.
        """
        now = self._database.now()
        with self._database.write() as connection:
            row = connection.execute(
                select(delivery.c.state, delivery.c.attempts).where(delivery.c.id == delivery_id).with_for_update()
            ).one_or_none()
            known = (
                (DeliveryState.PENDING.value, attempt),
                # The same workflow goes on after a crash: then the attempt is counted already.
                (DeliveryState.SENDING.value, attempt + 1),
            )
            if row is None or (row.state, row.attempts) not in known:
                raise IllegalTransition(f"delivery {delivery_id} is not there, or past attempt {attempt}")
            if not connection.scalar(select(may_be_sent()).where(delivery.c.id == delivery_id)):
                if row.state == DeliveryState.PENDING.value:
                    _skip_attempt(connection, delivery_id, attempt)
                    return False
                # A crash interrupted the attempt, and now nothing may be sent.
                _wait(connection, delivery_id, "the attempt was interrupted", at=now, until=now)
                return False
            change_state(
                connection,
                delivery,
                delivery_id,
                DELIVERY,
                DeliveryState,
                "begin",
                at=now,
                attempts=attempt + 1,
            )
            return True

    def skip_attempt(self, delivery_id: int, attempt: int) -> None:
        """Count an attempt whose workflow failed before it began; the delivery waits for the next one."""
        with self._database.write() as connection:
            _skip_attempt(connection, delivery_id, attempt)

    def take_objects(self, delivery_id: int) -> list[PendingObject]:
        """Return what is left to send, in the order of reception, originals first, and put it in doubt.

        From here on the destination may have any of it, until `record_item` says what it answered: if the process
        ends in between, the next attempt learns that from `in_doubt`.
        """
        query = (
            select(
                instance.c.id,
                instance.c.sop_class_uid,
                instance.c.sop_instance_uid,
                instance.c.transfer_syntax_uid,
                instance.c.key,
                instance.c.dataset_offset,
                instance.c.origin,
                delivery_item.c.in_doubt,
                instance.c.size,
                instance.c.digest,
            )
            .join(delivery_item, delivery_item.c.instance_id == instance.c.id)
            .where(delivery_item.c.delivery_id == delivery_id, delivery_item.c.state == ItemState.PENDING.value)
            .order_by(instance.c.id)
        )
        with self._database.write() as connection:
            left = [
                PendingObject(
                    instance_id=row.id,
                    sop_class_uid=row.sop_class_uid,
                    sop_instance_uid=row.sop_instance_uid,
                    transfer_syntax_uid=row.transfer_syntax_uid,
                    key=row.key,
                    dataset_offset=row.dataset_offset,
                    is_derived=row.origin == "derived",
                    in_doubt=row.in_doubt,
                    size=row.size,
                    digest=row.digest,
                )
                for row in connection.execute(query)
            ]
            connection.execute(
                update(delivery_item)
                .where(delivery_item.c.delivery_id == delivery_id, delivery_item.c.state == ItemState.PENDING.value)
                .values(in_doubt=True)
            )
            return left

    def record_item(
        self,
        delivery_id: int,
        instance_id: int,
        state: ItemState,
        *,
        status: int | None,
        reason: str | None,
        in_doubt: bool = False,
        attempt: int | None = None,
    ) -> bool:
        """Write what the destination answered; `in_doubt` if it may have the instance without having answered.

        Parameters
        ----------
        attempt
            Number of the attempt that asks, as the delivery counted it when it began; None takes any.

        Returns
        -------
        Whether the attempt goes on: False where an operator has put the delivery, its study or its destination on
        hold, or another attempt has begun since.
        """
        one = (delivery_item.c.delivery_id == delivery_id) & (delivery_item.c.instance_id == instance_id)
        if attempt is not None:
            # What a later attempt has found stands, but for this: that the destination took the instance is true,
            # whoever was told so.
            is_ours = exists().where(delivery.c.id == delivery_id, delivery.c.attempts == attempt)
            is_news = (delivery_item.c.state != ItemState.SENT.value) if state is ItemState.SENT else false()
            one &= is_ours | is_news
        with self._database.write() as connection:
            connection.execute(
                update(delivery_item)
                .where(one)
                .values(
                    state=state.value, status=status, reason=cut(reason), in_doubt=in_doubt, at=self._database.now()
                )
            )
            goes_on = select(delivery.c.id).where(
                delivery.c.id == delivery_id,
                delivery.c.state == DeliveryState.SENDING.value,
                delivery.c.attempts == (delivery.c.attempts if attempt is None else attempt),
                # An attempt that gets answers is not stopped by what others found.
                may_be_sent(even_if_down=True),
            )
            return connection.scalar(goes_on) is not None

    def put_back(
        self, delivery_id: int, reason: str, *, attempt: int, in_s: float, untouched: Sequence[int]
    ) -> DeliveryState:
        """End attempt number `attempt`, which stopped half-way without a failure: what is left waits `in_s` seconds.

        The destination can't have `untouched` instances: they are taken out of doubt, unless another attempt has begun
        since.
        """
        now = self._database.now()
        with self._database.write() as connection:
            state, is_ours = _standing(connection, delivery_id, attempt)
            if not is_ours:
                return state
            connection.execute(
                update(delivery_item)
                .where(delivery_item.c.delivery_id == delivery_id, delivery_item.c.instance_id.in_(untouched))
                .values(in_doubt=False)
            )
            if state is not DeliveryState.SENDING:
                return state
            return _wait(connection, delivery_id, reason, at=now, until=now + in_s)

    def settle(
        self, delivery_id: int, *, failure: str | None, retry_in_s: float | None, attempt: int | None = None
    ) -> DeliveryState:
        """End an attempt: sent, refused, or pending again.

        Parameters
        ----------
        failure
            Why something is left to send; None if nothing is.
        retry_in_s
            Delay before the next attempt where something is left to send; None gives the delivery up.
        attempt
            Number of the attempt, as the delivery counted it when it began; None takes any. An attempt that another
            one has followed changes nothing any more.

        Returns
        -------
        The state that the delivery has now: on hold, cancelled or rerouted where an operator said so in the middle.
        """
        now = self._database.now()
        with self._database.write() as connection:
            state, is_ours = _standing(connection, delivery_id, attempt)
            if not is_ours or state is DeliveryState.REROUTED:
                return state
            count = _item_counts(connection, delivery_id)
            if state in _STOPPED and (count[ItemState.PENDING] or count[ItemState.REFUSED]):
                return state
            if not count[ItemState.PENDING]:
                if not count[ItemState.REFUSED]:
                    return self._end(connection, delivery_id, "succeed", now, None)
                return self._end(connection, delivery_id, "refuse", now, _first_refusal(connection, delivery_id))
            state = change_state(
                connection,
                delivery,
                delivery_id,
                DELIVERY,
                DeliveryState,
                "retry",
                at=now,
                reason=failure,
                next_attempt_at=now + (retry_in_s or 0.0),
            )
            if retry_in_s is None:
                return self._end(connection, delivery_id, "abandon", now, failure)
            return state

    def refuse(self, delivery_id: int, reason: str) -> DeliveryState:
        """End an attempt that the destination refused as a whole: what is left becomes a dead letter."""
        now = self._database.now()
        with self._database.write() as connection:
            connection.execute(
                update(delivery_item)
                .where(delivery_item.c.delivery_id == delivery_id, delivery_item.c.state == ItemState.PENDING.value)
                .values(state=ItemState.REFUSED.value, reason=cut(reason), at=now)
            )
            return self._end(connection, delivery_id, "refuse", now, reason)

    def _end(
        self, connection: Connection, delivery_id: int, event_name: str, now: float, reason: str | None
    ) -> DeliveryState:
        return change_state(
            connection,
            delivery,
            delivery_id,
            DELIVERY,
            DeliveryState,
            event_name,
            at=now,
            reason=reason,
            finished_at=now,
        )

    def abandon_waiting(self, destination: str, max_age_s: float, reason: str) -> list[int]:
        """Give up what has waited for a destination for longer than `max_age_s` seconds; returns their numbers.

        What is on hold is left to the operator.
        """
        now = self._database.now()
        too_old = (
            select(delivery.c.id)
            .where(
                delivery.c.destination == destination,
                delivery.c.state == DeliveryState.PENDING.value,
                delivery.c.created_at < now - max_age_s,
                may_be_sent(even_if_down=True),
            )
            .order_by(delivery.c.id)
        )
        with self._database.write() as connection:
            found = list(connection.scalars(too_old))
            for delivery_id in found:
                self._end(connection, delivery_id, "abandon", now, reason)
        return found

    def lines(
        self,
        *,
        states: Sequence[DeliveryState] | None = None,
        destination: str | None = None,
        study: str | None = None,
        series: str | None = None,
        numbers: Sequence[int] | None = None,
    ) -> list[DeliveryLine]:
        """Return deliveries for people to read, oldest first; `study` and `series` are UIDs of what was received."""

        def counted(state: ItemState) -> Any:
            return (
                select(func.count())
                .where(delivery_item.c.delivery_id == delivery.c.id, delivery_item.c.state == state.value)
                .scalar_subquery()
                .label(state.value)
            )

        query = select(
            delivery,
            _BEGUN,
            arrival.c.study_instance_uid,
            arrival.c.series_instance_uid,
            arrival.c.generation,
            arrival.c.route,
            counted(ItemState.SENT),
            counted(ItemState.REFUSED),
            counted(ItemState.PENDING).label("left"),
        ).join(arrival, delivery.c.arrival_id == arrival.c.id)
        if states is not None:
            query = query.where(delivery.c.state.in_([s.value for s in states]))
        if destination is not None:
            query = query.where(delivery.c.destination == destination)
        if study is not None:
            query = query.where(arrival.c.study_instance_uid == study)
        if series is not None:
            query = query.where(arrival.c.series_instance_uid == series)
        if numbers is not None:
            query = query.where(delivery.c.id.in_(numbers))
        with self._database.read() as connection:
            return [_line(row) for row in connection.execute(query.order_by(delivery.c.id))]

    def knows(self, *, study: str | None = None, series: str | None = None) -> bool:
        """Tell whether anything was received of a study or series."""
        query = select(arrival.c.id).limit(1)
        if study is not None:
            query = query.where(arrival.c.study_instance_uid == study)
        if series is not None:
            query = query.where(arrival.c.series_instance_uid == series)
        with self._database.read() as connection:
            return connection.scalar(query) is not None

    def dead_letters(self) -> list[DeliveryLine]:
        """Return the deliveries that nobody tries any more."""
        return self.lines(states=sorted(DEAD_LETTERS))


# The column `attempts` numbers workflows, and an operator's retry takes a number without being an attempt.
_BEGUN = (
    select(func.count())
    .where(
        event.c.subject == delivery.name,
        event.c.subject_id == delivery.c.id,
        event.c.event == "begin",
        event.c.from_state == DeliveryState.PENDING.value,
    )
    .correlate(delivery)
    .scalar_subquery()
    .label("begun")
)


def _skip_attempt(connection: Connection, delivery_id: int, attempt: int) -> None:
    connection.execute(
        update(delivery)
        .where(
            delivery.c.id == delivery_id,
            delivery.c.state == DeliveryState.PENDING.value,
            delivery.c.attempts == attempt,
        )
        .values(attempts=attempt + 1)
    )


def _standing(connection: Connection, delivery_id: int, attempt: int | None) -> tuple[DeliveryState, bool]:
    """Return the state of a delivery, and whether `attempt` is still the one in work."""
    row = connection.execute(
        select(delivery.c.state, delivery.c.attempts).where(delivery.c.id == delivery_id).with_for_update()
    ).one()
    return DeliveryState(row.state), attempt is None or row.attempts == attempt


def _wait(connection: Connection, delivery_id: int, reason: str, *, at: float, until: float) -> DeliveryState:
    return change_state(
        connection,
        delivery,
        delivery_id,
        DELIVERY,
        DeliveryState,
        "retry",
        at=at,
        reason=reason,
        next_attempt_at=until,
    )


def _item_counts(connection: Connection, delivery_id: int) -> dict[ItemState, int]:
    rows = connection.execute(
        select(delivery_item.c.state, func.count())
        .where(delivery_item.c.delivery_id == delivery_id)
        .group_by(delivery_item.c.state)
    ).all()
    counts = dict.fromkeys(ItemState, 0)
    counts.update({ItemState(state): number for state, number in rows})
    return counts


def _first_refusal(connection: Connection, delivery_id: int) -> str:
    reason = connection.scalar(
        select(delivery_item.c.reason)
        .where(delivery_item.c.delivery_id == delivery_id, delivery_item.c.state == ItemState.REFUSED.value)
        .order_by(delivery_item.c.instance_id)
        .limit(1)
    )
    return reason or "refused by the destination"


def _delivery(row: Row[Any]) -> Delivery:
    return Delivery(
        delivery_id=row.id,
        arrival_id=row.arrival_id,
        destination=row.destination,
        state=DeliveryState(row.state),
        attempts=row.attempts,
        created_at=row.created_at,
        next_attempt_at=row.next_attempt_at,
        reason=row.reason,
    )


def _line(row: Row[Any]) -> DeliveryLine:
    return DeliveryLine(
        delivery_id=row.id,
        destination=row.destination,
        state=DeliveryState(row.state),
        attempts=row.begun,
        study_instance_uid=row.study_instance_uid,
        series_instance_uid=row.series_instance_uid,
        generation=row.generation,
        part=row.part,
        route=row.route,
        sent=row.sent,
        refused=row.refused,
        pending=row.left,
        created_at=row.created_at,
        next_attempt_at=row.next_attempt_at,
        reason=row.reason,
    )
