"""Who calls: what came from each AE title lately, and whom the node turned away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select

from dicom_node.ledger.database import Database
from dicom_node.ledger.schema import association, instance, rejection

DAY_S = 86_400.0
SHOWN = 50
"""Rejected callers that are read, the latest."""


@dataclass(frozen=True, kw_only=True)
class DayOfCaller:
    """What an AE title brought in the last day: associations, objects and their bytes."""

    associations: int = 0
    objects: int = 0
    size: int = 0


@dataclass(frozen=True, kw_only=True)
class RejectedCaller:
    """A caller that was turned away, for one reason; times in seconds since the epoch."""

    calling_ae_title: str
    called_ae_title: str
    host: str
    reason: str
    first_at: float
    last_at: float
    count: int


class CallerLedger:
    """The side of the ledger that tells of callers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def last_day(self, ae_titles: Sequence[str]) -> dict[str, DayOfCaller]:
        """Return what each AE title brought since yesterday at this time; those that brought nothing are left out."""
        since = self._database.now() - DAY_S
        title = association.c.calling_ae_title
        with self._database.read() as connection:
            called = connection.execute(
                select(title, func.count())
                .where(title.in_(ae_titles), association.c.opened_at >= since)
                .group_by(title)
            )
            associations = {row[0]: row[1] for row in called}
            brought = connection.execute(
                select(title, func.count(), func.sum(instance.c.size))
                .select_from(instance)
                .join(association, association.c.id == instance.c.association_id)
                .where(instance.c.at >= since, instance.c.origin == "received", title.in_(ae_titles))
                .group_by(title)
            )
            objects = {row[0]: (row[1], int(row[2] or 0)) for row in brought}
        return {
            name: DayOfCaller(
                associations=associations.get(name, 0),
                objects=objects.get(name, (0, 0))[0],
                size=objects.get(name, (0, 0))[1],
            )
            for name in sorted(associations.keys() | objects.keys())
        }

    def rejected(self) -> list[RejectedCaller]:
        """Return who was turned away, the latest first."""
        columns = [rejection.c[name] for name in RejectedCaller.__dataclass_fields__]
        query = select(*columns).order_by(rejection.c.last_at.desc(), rejection.c.id.desc()).limit(SHOWN)
        with self._database.read() as connection:
            return [RejectedCaller(**row._mapping) for row in connection.execute(query)]
