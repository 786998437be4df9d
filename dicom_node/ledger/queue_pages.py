"""The queue page by page: which deliveries fit a filter, the latest first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, func, select

from dicom_node.ledger.database import Database
from dicom_node.ledger.schema import arrival, delivery
from dicom_node.states import DeliveryState

PAGE = 100


@dataclass(frozen=True, kw_only=True)
class QueueFilter:
    """Which deliveries are looked for; what is empty does not count."""

    states: tuple[DeliveryState, ...] = ()
    destination: str = ""
    study: str = ""
    series: str = ""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class QueuePage:
    """The numbers on one page, how many fit in all, and below which the next page begins."""

    numbers: list[int]
    total: int
    next: int | None


class QueueLedger:
    """The side of the ledger that pages through deliveries."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, wanted: QueueFilter, *, before: int | None = None, limit: int = PAGE) -> QueuePage:
        """Return a page of those that fit."""
        query = _fitting(select(delivery.c.id), wanted).order_by(delivery.c.id.desc()).limit(limit + 1)
        if before is not None:
            query = query.where(delivery.c.id < before)
        with self._database.read() as connection:
            found = list(connection.scalars(query))
            total = connection.scalar(_fitting(select(func.count()), wanted)) or 0
        return QueuePage(numbers=found[:limit], total=total, next=found[limit - 1] if len(found) > limit else None)

    def numbers(self, wanted: QueueFilter, *, limit: int) -> list[int]:
        """Return all that fit, the oldest first, but no more than `limit`."""
        with self._database.read() as connection:
            return list(
                connection.scalars(_fitting(select(delivery.c.id), wanted).order_by(delivery.c.id).limit(limit))
            )


def _fitting(query: Select[Any], wanted: QueueFilter) -> Select[Any]:
    query = query.select_from(delivery)
    if wanted.study or wanted.series:
        query = query.join(arrival, arrival.c.id == delivery.c.arrival_id)
    if wanted.study:
        query = query.where(arrival.c.study_instance_uid == wanted.study)
    if wanted.series:
        query = query.where(arrival.c.series_instance_uid == wanted.series)
    if wanted.states:
        query = query.where(delivery.c.state.in_([state.value for state in wanted.states]))
    if wanted.destination:
        query = query.where(delivery.c.destination == wanted.destination)
    if wanted.reason:
        query = query.where(delivery.c.reason.icontains(wanted.reason, autoescape=True))
    return query
