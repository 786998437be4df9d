"""The ledger's side of quality reports: what became of each image of an arrival, and how often a report was begun."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import func, select

from dicom_node.ledger.arrivals import (
    INSTANCE_COLUMNS,
    DerivedInstance,
    EnhancementDecision,
    EnhancementRecord,
    StoredInstance,
)
from dicom_node.ledger.database import Database, record_event
from dicom_node.ledger.schema import arrival, association, enhancement, event, instance
from dicom_node.states import ArrivalState

BEGIN_REPORT = "begin_report"

_made = instance.alias("made")
# One prefix for each part, since parts have columns of the same names.
_COLUMNS = {
    "source": INSTANCE_COLUMNS,
    "record": tuple(enhancement.c[field.name] for field in fields(EnhancementRecord) if field.name in enhancement.c),
    "made": tuple(_made.c[field.name] for field in fields(DerivedInstance)),
}


@dataclass(frozen=True, kw_only=True)
class ImageOutcome:
    """A received image of an arrival and what became of it; `derived` where it was enhanced."""

    source: StoredInstance
    record: EnhancementRecord
    derived: DerivedInstance | None
    decided_at: float


class OutcomeLedger:
    """The side of the ledger that reports are made from."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def outcomes(self, arrival_id: int) -> list[ImageOutcome]:
        """Return what became of each decided image of an arrival, in the order of reception."""
        named = [c.label(f"{part}:{c.name}") for part, columns in _COLUMNS.items() for c in columns]
        query = (
            select(*named, enhancement.c.at.label("decided_at"))
            .select_from(instance)
            .join(association, instance.c.association_id == association.c.id)
            .join(enhancement, enhancement.c.instance_id == instance.c.id)
            .outerjoin(_made, _made.c.id == enhancement.c.derived_id)
            .where(instance.c.arrival_id == arrival_id, enhancement.c.decision.is_not(None))
            .order_by(instance.c.id)
        )
        with self._database.read() as connection:
            return [_outcome(row) for row in connection.execute(query)]

    def count_attempt(self, arrival_id: int) -> int:
        """Count, in the audit, an attempt to make the report of an arrival in work; returns its number, from 1.

        It is written before the attempt begins, so that a report that kills the process is known afterwards.
        """
        begun = select(func.count()).where(
            event.c.subject == arrival.name, event.c.subject_id == arrival_id, event.c.event == BEGIN_REPORT
        )
        state = ArrivalState.ENHANCING.value
        with self._database.write() as connection:
            record_event(
                connection,
                arrival,
                arrival_id,
                at=self._database.now(),
                event_name=BEGIN_REPORT,
                from_state=state,
                to_state=state,
            )
            return int(connection.scalar(begun) or 0)


def _outcome(row: Any) -> ImageOutcome:
    def part(prefix: str) -> dict[str, Any]:
        return {c.name: row._mapping[f"{prefix}:{c.name}"] for c in _COLUMNS[prefix]}

    source, record, made = part("source"), part("record"), part("made")
    record["decision"] = EnhancementDecision(record["decision"])
    return ImageOutcome(
        source=StoredInstance(instance_id=source.pop("id"), **source),
        record=EnhancementRecord(**record),
        derived=None if made["key"] is None else DerivedInstance(**made),
        decided_at=row.decided_at,
    )
