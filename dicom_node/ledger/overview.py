"""Figures of the node as it runs: what waits, what came and went lately, and who sends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, case, func, select

from dicom_node.ledger.database import Database
from dicom_node.ledger.processes import DEAD_AFTER_S
from dicom_node.ledger.schema import (
    arrival,
    association,
    delivery,
    enhancement,
    instance,
    process,
    rejection,
)
from dicom_node.states import DEAD_LETTERS, ArrivalState, DeliveryState

BUCKETS = 12
_BUCKET_S = 300.0
_SPAN_S = BUCKETS * _BUCKET_S
_MOST_SAMPLES = 20_000

WAITING = (
    DeliveryState.PENDING,
    DeliveryState.SENDING,
    DeliveryState.COMMITTING,
    DeliveryState.HELD,
    *sorted(DEAD_LETTERS),
)
"""States of deliveries that are not done."""


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Five minutes of the last hour.

    Attributes
    ----------
    received, delivered
        Objects that came, and deliveries (a series to a destination) that ended well.
    median_s, most_s
        From the completion of a series to the end of its delivery, in seconds; None without any.
    """

    begin: float
    received: int
    received_bytes: int
    delivered: int
    median_s: float | None
    most_s: float | None


@dataclass(frozen=True, kw_only=True)
class QueueFigures:
    """What waits for a destination: state -> number of deliveries, and since when the oldest waits."""

    destination: str
    states: dict[str, int]
    oldest_at: float | None


@dataclass(frozen=True, kw_only=True)
class SenderFigures:
    """What the ledger knows of an AE title that called."""

    calling_ae_title: str
    last_at: float | None
    host: str | None
    open: int


@dataclass(frozen=True, kw_only=True)
class ProcessFigures:
    """A process of the node."""

    name: str
    role: str
    host: str
    pid: int
    started_at: float
    seen_at: float
    is_silent: bool


@dataclass(frozen=True, kw_only=True)
class Overview:
    """The node at a glance; the last hour in `buckets`, the oldest first."""

    at: float
    processes: list[ProcessFigures]
    open_associations: int
    series: dict[str, int]
    unrouted: int
    queues: list[QueueFigures]
    buckets: list[Bucket]
    enhanced: int
    passed_through: int
    median_enhance_s: float | None
    noise_removed: float | None
    rejected: int
    last_rejections: list[dict[str, Any]]

    def waiting(self, *states: DeliveryState) -> int:
        """Return how many deliveries are in any of `states`."""
        return sum(queue.states.get(state.value, 0) for queue in self.queues for state in states)


class OverviewLedger:
    """The side of the ledger that shows the whole at a glance; each question has an index, and none reads a table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def overview(self) -> Overview:
        """Return the figures of now."""
        now = self._database.now()
        since = now - _SPAN_S
        with self._database.read() as connection:
            decided = connection.execute(
                select(
                    enhancement.c.decision, enhancement.c.total_s, enhancement.c.noise_before, enhancement.c.noise_after
                )
                .where(enhancement.c.at >= since, enhancement.c.decision.is_not(None))
                .order_by(enhancement.c.at.desc())
                .limit(_MOST_SAMPLES)
            ).all()
            enhanced = [row for row in decided if row.decision == "enhanced"]
            shares = [
                1 - row.noise_after / row.noise_before for row in enhanced if row.noise_before and row.noise_after
            ]
            return Overview(
                at=now,
                processes=_processes(connection, now),
                open_associations=connection.scalar(
                    select(func.count()).select_from(association).where(association.c.closed_at.is_(None))
                )
                or 0,
                series=_series(connection),
                unrouted=connection.scalar(
                    select(func.count())
                    .select_from(arrival)
                    .where(arrival.c.state == ArrivalState.COMPLETE.value, arrival.c.route.is_(None))
                )
                or 0,
                queues=_queues(connection),
                buckets=_buckets(connection, now),
                enhanced=len(enhanced),
                passed_through=len(decided) - len(enhanced),
                median_enhance_s=_quantile([row.total_s for row in enhanced if row.total_s is not None], 0.5),
                noise_removed=_quantile(shares, 0.5),
                rejected=connection.scalar(
                    select(func.count()).select_from(rejection).where(rejection.c.last_at >= now - 86_400)
                )
                or 0,
                last_rejections=[
                    dict(row._mapping)
                    for row in connection.execute(
                        select(rejection)
                        .where(rejection.c.last_at >= now - 86_400)
                        .order_by(rejection.c.last_at.desc())
                        .limit(5)
                    )
                ],
            )

    def queues(self) -> list[QueueFigures]:
        """Return what waits for each destination."""
        with self._database.read() as connection:
            return _queues(connection)

    def senders(self, ae_titles: Sequence[str]) -> list[SenderFigures]:
        """Return of each AE title when it called last, from where, and how many associations it has open."""
        found = []
        with self._database.read() as connection:
            for ae_title in ae_titles:
                ours = association.c.calling_ae_title == ae_title
                last = connection.execute(
                    select(association.c.opened_at, association.c.host)
                    .where(ours)
                    .order_by(association.c.opened_at.desc())
                    .limit(1)
                ).one_or_none()
                still_open = connection.scalar(
                    select(func.count()).select_from(association).where(ours, association.c.closed_at.is_(None))
                )
                found.append(
                    SenderFigures(
                        calling_ae_title=ae_title,
                        last_at=last.opened_at if last else None,
                        host=last.host if last else None,
                        open=still_open or 0,
                    )
                )
        return found


def _processes(connection: Connection, now: float) -> list[ProcessFigures]:
    return [
        ProcessFigures(
            name=row.name,
            role=row.role,
            host=row.host,
            pid=row.pid,
            started_at=row.started_at,
            seen_at=row.seen_at,
            is_silent=now - row.seen_at >= DEAD_AFTER_S,
        )
        for row in connection.execute(select(process).order_by(process.c.name))
    ]


def _series(connection: Connection) -> dict[str, int]:
    done = (ArrivalState.ENHANCED.value, ArrivalState.PASSED_THROUGH.value)
    query = (
        select(arrival.c.state, func.count())
        .where(arrival.c.state.in_([state.value for state in ArrivalState if state.value not in done]))
        .group_by(arrival.c.state)
    )
    return {row[0]: row[1] for row in connection.execute(query)}


def _queues(connection: Connection) -> list[QueueFigures]:
    query = (
        select(
            delivery.c.destination,
            delivery.c.state,
            func.count().label("number"),
            func.min(delivery.c.created_at).label("oldest_at"),
        )
        .where(delivery.c.state.in_([state.value for state in WAITING]))
        .group_by(delivery.c.destination, delivery.c.state)
        .order_by(delivery.c.destination)
    )
    found: dict[str, QueueFigures] = {}
    for row in connection.execute(query):
        known = found.get(row.destination)
        oldest = [at for at in (row.oldest_at, known.oldest_at if known else None) if at is not None]
        found[row.destination] = QueueFigures(
            destination=row.destination,
            states={**(known.states if known else {}), row.state: row.number},
            oldest_at=min(oldest, default=None),
        )
    return list(found.values())


def _buckets(connection: Connection, now: float) -> list[Bucket]:
    first = now - _SPAN_S
    begins = [first + n * _BUCKET_S for n in range(BUCKETS)]

    def within(at: ColumnElement[Any], begin: float, what: Any) -> ColumnElement[Any]:
        return func.sum(case(((at >= begin) & (at < begin + _BUCKET_S), what), else_=0))

    received = connection.execute(
        select(
            *(within(instance.c.at, begin, 1).label(f"n{n}") for n, begin in enumerate(begins)),
            *(within(instance.c.at, begin, instance.c.size).label(f"b{n}") for n, begin in enumerate(begins)),
        ).where(instance.c.at >= first, instance.c.origin == "received")
    ).one()
    ended = connection.execute(
        select(delivery.c.finished_at, arrival.c.completed_at)
        .join(arrival, arrival.c.id == delivery.c.arrival_id)
        .where(
            delivery.c.finished_at >= first,
            delivery.c.state.in_(
                [DeliveryState.SENT.value, DeliveryState.COMMITTING.value, DeliveryState.COMMITTED.value]
            ),
        )
        .order_by(delivery.c.finished_at.desc())
        .limit(_MOST_SAMPLES)
    ).all()
    buckets = []
    for n, begin in enumerate(begins):
        here = [row for row in ended if begin <= row.finished_at < begin + _BUCKET_S]
        took = [row.finished_at - row.completed_at for row in here if row.completed_at is not None]
        buckets.append(
            Bucket(
                begin=begin,
                received=int(received[n] or 0),
                received_bytes=int(received[BUCKETS + n] or 0),
                delivered=len(here),
                median_s=_quantile(took, 0.5),
                most_s=max(took, default=None),
            )
        )
    return buckets


def _quantile(values: Sequence[float], share: float) -> float | None:
    return sorted(values)[int(share * (len(values) - 1))] if values else None
