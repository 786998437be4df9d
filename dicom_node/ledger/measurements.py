"""What enhancing images in shadow mode gave, as the ledger knows it."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select

from dicom_node.ledger.database import Database
from dicom_node.ledger.schema import arrival, enhancement, instance


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One image that was received on a route in shadow mode; times in seconds since the epoch.

    Attributes
    ----------
    decision
        "enhanced" or "passed_through"; None while it waits to be measured.
    completed_at, decided_at
        When its series was complete, and what would have become of the image was known.
    """

    route: str
    series_instance_uid: str
    generation: int
    decision: str | None
    reason: str | None
    noise_before: float | None
    noise_after: float | None
    inference_s: float | None
    total_s: float | None
    completed_at: float
    decided_at: float | None


class MeasurementLedger:
    """The side of the ledger that tells of shadow mode."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def measurements(self, *, route: str | None = None, since: float = 0.0) -> list[Measurement]:
        """Return the images of series that were complete at `since` or later, on one route or on all, by reception."""
        query = (
            select(
                arrival.c.route,
                arrival.c.series_instance_uid,
                arrival.c.generation,
                enhancement.c.decision,
                enhancement.c.reason,
                enhancement.c.noise_before,
                enhancement.c.noise_after,
                enhancement.c.inference_s,
                enhancement.c.total_s,
                arrival.c.completed_at,
                enhancement.c.at.label("decided_at"),
            )
            .select_from(instance)
            .join(arrival, arrival.c.id == instance.c.arrival_id)
            .outerjoin(enhancement, enhancement.c.instance_id == instance.c.id)
            .where(
                arrival.c.shadow.is_(True),
                arrival.c.completed_at >= since,
                instance.c.origin == "received",
                # Another object stands for it.
                instance.c.same_as_id.is_(None),
            )
            .order_by(instance.c.id)
        )
        if route is not None:
            query = query.where(arrival.c.route == route)
        with self._database.read() as connection:
            return [_measurement(**row._mapping) for row in connection.execute(query)]


def _measurement(*, route: str | None, decision: str | None, decided_at: float | None, **others: object) -> Measurement:
    # The time of a row without a decision is that of the first attempt.
    at = decided_at if decision is not None else None
    return Measurement(route=route or "", decision=decision, decided_at=at, **others)  # type: ignore[arg-type]
