"""The ledger of destinations: which are down, which wait for an operator, and how fast each may be sent to.

It is shared by every worker of every machine, so that one finding of a dead destination counts for all.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, exists, select, update

from dicom_node.errors import OperationRefused
from dicom_node.ledger.database import Database, change_state, cut, insert_once, record_event
from dicom_node.ledger.schema import arrival, delivery, destination, hold
from dicom_node.states import BREAKER, BreakerState, DeliveryState


class HoldScope(enum.StrEnum):
    """What an operator can hold as a whole, with everything that is still to come for it."""

    DESTINATION = "destination"
    STUDY = "study"


@dataclass(frozen=True, kw_only=True)
class Hold:
    """A destination (by name) or a study (by its UID) that nothing is sent to, or of, until it is released."""

    scope: HoldScope
    subject: str
    at: float
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class DestinationLine:
    """How a destination stands.

    Parameters
    ----------
    state, since, reason
        Of the circuit breaker.
    failures
        Attempts in a row that no answer came to.
    probe_at
        Next probe in seconds since the epoch; None where none is due.
    """

    name: str
    state: BreakerState
    since: float
    reason: str | None
    failures: int
    probe_at: float | None


class DestinationLedger:
    """The side of the ledger that knows how destinations stand."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- circuit breaker ------------------------------------------------------------------------

    def note_answer(self, name: str) -> bool:
        """Write down that a destination answered; True if that closed its breaker."""
        with self._database.read() as connection:
            row = connection.execute(
                select(destination.c.failures, destination.c.state).where(destination.c.name == name)
            ).one_or_none()
        # Nearly always there is nothing to write.
        if row is None or (not row.failures and row.state == BreakerState.CLOSED.value):
            return False
        with self._database.write() as connection:
            return self._close(connection, name, "it answered")

    def note_silence(
        self, name: str, delivery_id: int, reason: str, *, sent_something: bool, limit: int, probe_in_s: float
    ) -> bool:
        """Write down an attempt that no answer came to; True if that opened the breaker.

        Parameters
        ----------
        sent_something
            There was an association, and it was lost over an object. One object that makes its peer hang up must not
            close the destination to all others, so such failures of one delivery count once.
        limit
            Attempts in a row that open the breaker.
        probe_in_s
            Delay before the first probe, in seconds.
        """
        now = self._database.now()
        with self._database.write() as connection:
            _require_row(connection, name, now)
            row = connection.execute(select(destination).where(destination.c.name == name).with_for_update()).one()
            if sent_something and row.failed_delivery_id == delivery_id:
                return False
            connection.execute(
                update(destination)
                .where(destination.c.id == row.id)
                .values(failures=row.failures + 1, failed_delivery_id=delivery_id)
            )
            if row.state == BreakerState.OPEN.value or row.failures + 1 < limit:
                return False
            change_state(
                connection,
                destination,
                row.id,
                BREAKER,
                BreakerState,
                "open",
                at=now,
                reason=reason,
                changed_at=now,
                probe_at=now + probe_in_s,
            )
            return True

    def take_probes(self, every_s: float) -> list[str]:
        """Return the destinations that are down and due for a probe; each is given to one caller per `every_s`."""
        now = self._database.now()
        due = (destination.c.state == BreakerState.OPEN.value) & (destination.c.probe_at <= now)
        with self._database.read() as connection:
            if not connection.scalar(select(exists().where(due))):
                return []
        with self._database.write() as connection:
            return list(
                connection.scalars(
                    update(destination).where(due).values(probe_at=now + every_s).returning(destination.c.name)
                )
            )

    def delay_probe(self, name: str, by_s: float, reason: str) -> None:
        """Probe a destination that did not answer again after `by_s` seconds; `reason` is what was found this time."""
        with self._database.write() as connection:
            connection.execute(
                update(destination)
                .where(destination.c.name == name, destination.c.state == BreakerState.OPEN.value)
                .values(probe_at=self._database.now() + by_s, reason=cut(reason))
            )

    def close(self, name: str, reason: str) -> bool:
        """Try a destination again from now on: everything that waits for it is due; True if it was down."""
        with self._database.write() as connection:
            return self._close(connection, name, reason)

    def _close(self, connection: Connection, name: str, reason: str) -> bool:
        now = self._database.now()
        row = connection.execute(select(destination).where(destination.c.name == name).with_for_update()).one_or_none()
        if row is None:
            return False
        connection.execute(
            update(destination).where(destination.c.id == row.id).values(failures=0, failed_delivery_id=None)
        )
        if row.state == BreakerState.CLOSED.value:
            return False
        change_state(
            connection,
            destination,
            row.id,
            BREAKER,
            BreakerState,
            "close",
            at=now,
            reason=reason,
            changed_at=now,
            probe_at=None,
        )
        connection.execute(
            update(delivery)
            .where(
                delivery.c.destination == name,
                delivery.c.state == DeliveryState.PENDING.value,
                delivery.c.next_attempt_at > now,
            )
            .values(next_attempt_at=now)
        )
        return True

    def lines(self) -> list[DestinationLine]:
        """Return how each destination stands that was ever in trouble, by name."""
        with self._database.read() as connection:
            return [
                DestinationLine(
                    name=row.name,
                    state=BreakerState(row.state),
                    since=row.changed_at,
                    reason=row.reason,
                    failures=row.failures,
                    probe_at=row.probe_at,
                )
                for row in connection.execute(select(destination).order_by(destination.c.name))
            ]

    # -- rate -----------------------------------------------------------------------------------

    def take_turn(self, name: str, per_minute: float, *, longest_wait_s: float) -> tuple[bool, float]:
        """Reserve the time of one object, over all workers.

        Returns
        -------
        Whether the caller has a turn, and the seconds until it comes. Without a turn (it would take longer than
        `longest_wait_s`) nothing is reserved.
        """
        now = self._database.now()
        with self._database.write() as connection:
            _require_row(connection, name, now)
            row = connection.execute(
                select(destination.c.id, destination.c.next_object_at)
                .where(destination.c.name == name)
                .with_for_update()
            ).one()
            step_s = 60.0 / per_minute
            turn = max(now, row.next_object_at or now)
            if turn - now > longest_wait_s + step_s:
                # Nobody reserves that far ahead: the clock was set back, or the limit raised.
                turn = now
            if turn - now > longest_wait_s:
                return False, turn - now
            connection.execute(
                update(destination).where(destination.c.id == row.id).values(next_object_at=turn + step_s)
            )
            return True, turn - now

    # -- holds ----------------------------------------------------------------------------------

    def hold(self, scope: HoldScope, subject: str, reason: str) -> None:
        """Send nothing more to a destination, or of a study, until it is released; OperationRefused if it is held."""
        now = self._database.now()
        with self._database.write() as connection:
            inserted = connection.scalar(
                insert_once(connection, hold)
                .values(scope=scope.value, subject=subject, at=now, reason=cut(reason))
                .returning(hold.c.subject)
            )
            if inserted is None:
                raise OperationRefused(f"{scope} {subject} is on hold already")
            _record_hold(connection, scope, subject, "hold", reason, now)

    def release(self, scope: HoldScope, subject: str, reason: str) -> None:
        """End the hold of a destination or study; OperationRefused if there is none.

        The maximum age of what waited counts anew: what was held for days is not given up at the first failure.
        """
        now = self._database.now()
        held = delivery.c.destination == subject
        if scope is HoldScope.STUDY:
            held = delivery.c.arrival_id.in_(select(arrival.c.id).where(arrival.c.study_instance_uid == subject))
        with self._database.write() as connection:
            ended = connection.execute(hold.delete().where(hold.c.scope == scope.value, hold.c.subject == subject))
            if ended.rowcount != 1:
                raise OperationRefused(f"{scope} {subject} is not on hold")
            connection.execute(
                update(delivery).where(held, delivery.c.state == DeliveryState.PENDING.value).values(created_at=now)
            )
            _record_hold(connection, scope, subject, "release", reason, now)

    def holds(self) -> Sequence[Hold]:
        """Return what is on hold as a whole, the longest first."""
        with self._database.read() as connection:
            return [
                Hold(scope=HoldScope(row.scope), subject=row.subject, at=row.at, reason=row.reason)
                for row in connection.execute(select(hold).order_by(hold.c.at))
            ]


def may_be_sent(*, even_if_down: bool = False) -> ColumnElement[bool]:
    """Return the condition that neither destination nor study of a delivery is on hold, nor the destination down."""
    down = exists().where(destination.c.name == delivery.c.destination, destination.c.state == BreakerState.OPEN.value)
    of_destination = exists().where(
        hold.c.scope == HoldScope.DESTINATION.value, hold.c.subject == delivery.c.destination
    )
    of_study = exists().where(
        hold.c.scope == HoldScope.STUDY.value,
        hold.c.subject == arrival.c.study_instance_uid,
        arrival.c.id == delivery.c.arrival_id,
    )
    free = ~of_destination & ~of_study
    return free if even_if_down else ~down & free


def _require_row(connection: Connection, name: str, now: float) -> None:
    connection.execute(
        insert_once(connection, destination).values(
            name=name, state=BreakerState.CLOSED.value, failures=0, changed_at=now
        )
    )


def _record_hold(
    connection: Connection, scope: HoldScope, subject: str, event_name: str, reason: str, now: float
) -> None:
    # A hold has no number; its subject stands in the reason.
    record_event(
        connection,
        hold,
        0,
        at=now,
        event_name=event_name,
        from_state=None,
        to_state="held" if event_name == "hold" else "released",
        reason=f"{scope} {subject}: {reason}",
    )
