"""Figures for metrics and alarms: a handful of queries that stay cheap however long the ledger is.

Each looks at what is in work or at the last rows by number, never at a whole table.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Row, Select, func, select

from dicom_node.ledger.database import Database
from dicom_node.ledger.schema import (
    arrival,
    association,
    delivery,
    delivery_commitment,
    delivery_item,
    destination,
    enhancement,
    hold,
    instance,
    object_check,
    process,
)
from dicom_node.states import ArrivalState, BreakerState, DeliveryState, InstanceState, ItemState

OPEN_DELIVERIES = (
    DeliveryState.PENDING,
    DeliveryState.SENDING,
    DeliveryState.HELD,
    DeliveryState.REFUSED,
    DeliveryState.ABANDONED,
    DeliveryState.COMMITTING,
)
"""States in which a delivery is not done."""
_MOVING = (DeliveryState.PENDING.value, DeliveryState.SENDING.value)
OPEN_ARRIVALS = (ArrivalState.OPEN, ArrivalState.COMPLETE, ArrivalState.ENHANCING, ArrivalState.FOLLOWING)
"""States in which a series is in work."""
_LOOK_BACK = 20_000
_FAULTS = ("missing", "damaged", "unreadable")


@dataclass(frozen=True, kw_only=True)
class Down:
    """A destination that counts as down: since when (seconds since the epoch), and why."""

    since: float
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What the ledger says of the moment; times in seconds since the epoch.

    Attributes
    ----------
    at
        When it was read, by the clock of the database.
    deliveries
        Number by destination and state, of those that are not done.
    oldest
        Of each destination, when the oldest delivery that waits or is being sent began.
    objects
        Of each destination, objects that are still to be sent.
    down
        Destinations that count as down.
    holds
        Number by scope.
    series
        Number by state, of those in work.
    unrouted
        Those among them that no route takes.
    quarantined, damaged
        Objects.
    given_up
        Of each destination, deliveries whose commitment is not asked for any more.
    seen
        Of each calling AE title, when its last association began.
    heartbeats
        Of each process of the cluster, when it was heard of.
    judged, guarded
        Of the last images that the guards judged: how many, and how many of them they refused.
    concluded, late
        Of the last series that went on: how many, and how many of them were late.
    """

    at: float
    deliveries: Mapping[tuple[str, str], int]
    oldest: Mapping[str, float]
    objects: Mapping[str, int]
    down: Mapping[str, Down]
    holds: Mapping[str, int]
    series: Mapping[str, int]
    unrouted: int
    quarantined: int
    damaged: int
    given_up: Mapping[str, int]
    seen: Mapping[str, float]
    heartbeats: Mapping[str, float]
    judged: int
    guarded: int
    concluded: int
    late: int


class FigureLedger:
    """The side of the ledger that counts.

    Parameters
    ----------
    images, series
        How many of the last images and series the shares are counted over.
    late_reason
        What the ledger says of a series that was late.
    """

    def __init__(self, database: Database, *, images: int, series: int, late_reason: str) -> None:
        self._database = database
        self._images = images
        self._series = series
        self._late_reason = late_reason
        self._lock = threading.Lock()
        # Associations are never deleted, and there may be millions: only those that came since are looked at.
        self._seen: dict[str, float] = {}
        self._seen_to = 0

    def figures(self) -> Figures:
        """Read them, in one transaction; raises `LedgerUnavailable`."""
        now = self._database.now()
        with self._lock, self._database.read() as connection:
            deliveries, oldest = self._queue(connection)
            judged, guarded = self._guards(connection)
            concluded, late = self._deadlines(connection)
            return Figures(
                at=now,
                deliveries=deliveries,
                oldest=oldest,
                objects=_pairs(
                    connection.execute(
                        select(delivery.c.destination, func.count())
                        .join(delivery_item, delivery_item.c.delivery_id == delivery.c.id)
                        .where(
                            delivery.c.state.in_((*_MOVING, DeliveryState.HELD.value)),
                            delivery_item.c.state == ItemState.PENDING.value,
                        )
                        .group_by(delivery.c.destination)
                    ).all()
                ),
                down={
                    row.name: Down(since=row.changed_at, reason=row.reason)
                    for row in connection.execute(
                        select(destination.c.name, destination.c.changed_at, destination.c.reason).where(
                            destination.c.state == BreakerState.OPEN.value
                        )
                    )
                },
                holds=_pairs(connection.execute(select(hold.c.scope, func.count()).group_by(hold.c.scope)).all()),
                series=_pairs(
                    connection.execute(
                        select(arrival.c.state, func.count())
                        .where(arrival.c.state.in_([state.value for state in OPEN_ARRIVALS]))
                        .group_by(arrival.c.state)
                    ).all()
                ),
                unrouted=_number(
                    connection,
                    select(func.count())
                    .select_from(arrival)
                    .where(
                        arrival.c.state.in_([state.value for state in OPEN_ARRIVALS[1:]]), arrival.c.route.is_(None)
                    ),
                ),
                quarantined=_number(
                    connection,
                    select(func.count())
                    .select_from(instance)
                    .where(instance.c.state == InstanceState.QUARANTINED.value),
                ),
                damaged=_number(
                    connection,
                    select(func.count())
                    .select_from(object_check.join(instance, instance.c.id == object_check.c.instance_id))
                    .where(object_check.c.finding.in_(_FAULTS), instance.c.state == InstanceState.STORED.value),
                ),
                given_up=_pairs(
                    connection.execute(
                        select(delivery.c.destination, func.count())
                        .join(delivery_commitment, delivery_commitment.c.delivery_id == delivery.c.id)
                        .where(
                            delivery.c.state == DeliveryState.COMMITTING.value,
                            delivery_commitment.c.next_request_at.is_(None),
                        )
                        .group_by(delivery.c.destination)
                    ).all()
                ),
                seen=self._last_seen(connection),
                heartbeats={
                    row.name: row.seen_at for row in connection.execute(select(process.c.name, process.c.seen_at))
                },
                judged=judged,
                guarded=guarded,
                concluded=concluded,
                late=late,
            )

    def _queue(self, connection: Connection) -> tuple[dict[tuple[str, str], int], dict[str, float]]:
        rows = connection.execute(
            select(delivery.c.destination, delivery.c.state, func.count(), func.min(delivery.c.created_at))
            .where(delivery.c.state.in_([state.value for state in OPEN_DELIVERIES]))
            .group_by(delivery.c.destination, delivery.c.state)
        ).all()
        oldest: dict[str, float] = {}
        for name, state, _, first in rows:
            if state in _MOVING:
                oldest[name] = min(first, oldest.get(name, first))
        return {(name, state): number for name, state, number, _ in rows}, oldest

    def _guards(self, connection: Connection) -> tuple[int, int]:
        # Only what came as far as the network has a time for it: what a guard refused did.
        newest = connection.scalar(select(func.max(enhancement.c.instance_id))) or 0
        last = (
            select(enhancement.c.decision)
            .where(
                # Where nearly everything passes through, the search for the others ends here.
                enhancement.c.instance_id > newest - _LOOK_BACK,
                enhancement.c.inference_s.is_not(None),
                enhancement.c.decision.is_not(None),
            )
            .order_by(enhancement.c.instance_id.desc())
            .limit(self._images)
        )
        decisions = list(connection.scalars(last))
        return len(decisions), sum(decision != "enhanced" for decision in decisions)

    def _deadlines(self, connection: Connection) -> tuple[int, int]:
        last = (
            select(arrival.c.reason, arrival.c.released_at, arrival.c.shadow)
            .where(arrival.c.finished_at.is_not(None) | arrival.c.released_at.is_not(None))
            .order_by(arrival.c.id.desc())
            .limit(self._series)
        )
        rows = connection.execute(last).all()
        late = [row.reason == self._late_reason or (row.released_at is not None and not row.shadow) for row in rows]
        return len(rows), sum(late)

    def _last_seen(self, connection: Connection) -> dict[str, float]:
        rows = connection.execute(
            select(association.c.calling_ae_title, func.max(association.c.opened_at), func.max(association.c.id))
            .where(association.c.id > self._seen_to)
            .group_by(association.c.calling_ae_title)
        ).all()
        for title, opened_at, number in rows:
            self._seen[title] = max(opened_at, self._seen.get(title, opened_at))
            self._seen_to = max(self._seen_to, number)
        return dict(self._seen)


def _pairs(rows: Sequence[Row[str, int]]) -> dict[str, int]:
    return {row[0]: row[1] for row in rows}


def _number(connection: Connection, query: Select[int]) -> int:
    return connection.scalar(query) or 0
