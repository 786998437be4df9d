"""What the guards and the network decided, day by day."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, case, func, select

from dicom_node.ledger.database import Database
from dicom_node.ledger.schema import association, enhancement, instance

MOST_SAMPLES = 20_000
"""Enhanced images, the latest, of which the noise is read."""


@dataclass(frozen=True, kw_only=True)
class DayOfGuards:
    """Images of a day: enhanced; of them with a remark of the guards; refused by the guards; left alone otherwise."""

    enhanced: int = 0
    remarked: int = 0
    refused: int = 0
    others: int = 0

    @property
    def judged(self) -> int:
        """Images that the guards judged."""
        return self.enhanced + self.refused


@dataclass(frozen=True, kw_only=True)
class NoiseSample:
    """An enhanced image: the day by its place, who sent it, noise before and after in units of the stored values."""

    day: int
    calling_ae_title: str
    before: float
    after: float


@dataclass(frozen=True, kw_only=True)
class UsedModel:
    """Weights by their SHA-256, how many images were enhanced with them, and when last."""

    digest: str
    images: int
    last_at: float


class ModelFigures:
    """The side of the ledger that tells of the network at work."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def days(self, begins: Sequence[float]) -> list[DayOfGuards]:
        """Return what was decided on each day, one after another from its beginning."""
        kind = case(
            ((enhancement.c.decision == "enhanced") & enhancement.c.reason.is_not(None), "remarked"),
            (enhancement.c.decision == "enhanced", "enhanced"),
            # Only what came as far as the network has a time for it: what a guard refused did.
            (enhancement.c.inference_s.is_not(None), "refused"),
            else_="others",
        ).label("kind")
        day = _day(begins)
        query = (
            select(day, kind, func.count().label("number"))
            .where(enhancement.c.at >= begins[0], enhancement.c.decision.is_not(None))
            .group_by("day", "kind")
        )
        counts: list[dict[str, int]] = [{} for _ in begins]
        with self._database.read() as connection:
            for row in connection.execute(query):
                counts[row.day][row.kind] = row.number
        return [
            DayOfGuards(
                enhanced=one.get("enhanced", 0) + one.get("remarked", 0),
                remarked=one.get("remarked", 0),
                refused=one.get("refused", 0),
                others=one.get("others", 0),
            )
            for one in counts
        ]

    def noise(self, begins: Sequence[float]) -> list[NoiseSample]:
        """Return the latest enhanced images with their noise."""
        query = (
            select(_day(begins), association.c.calling_ae_title, enhancement.c.noise_before, enhancement.c.noise_after)
            .select_from(enhancement)
            .join(instance, instance.c.id == enhancement.c.instance_id)
            .join(association, association.c.id == instance.c.association_id)
            .where(
                enhancement.c.at >= begins[0],
                enhancement.c.decision == "enhanced",
                enhancement.c.noise_before.is_not(None),
                enhancement.c.noise_after.is_not(None),
            )
            .order_by(enhancement.c.at.desc())
            .limit(MOST_SAMPLES)
        )
        with self._database.read() as connection:
            return [
                NoiseSample(day=row[0], calling_ae_title=row[1], before=row[2], after=row[3])
                for row in connection.execute(query)
            ]

    def models(self, since: float) -> list[UsedModel]:
        """Return with which weights images were enhanced, the latest first."""
        digest = enhancement.c.model_digest
        last = func.max(enhancement.c.at)
        query = (
            select(digest, func.count(), last)
            .where(enhancement.c.at >= since, digest.is_not(None))
            .group_by(digest)
            .order_by(last.desc())
        )
        with self._database.read() as connection:
            return [UsedModel(digest=row[0], images=row[1], last_at=row[2]) for row in connection.execute(query)]


def _day(begins: Sequence[float]) -> ColumnElement[Any]:
    """Return the place of the day that a row is of; days differ in length where clocks are changed."""
    ends = [(enhancement.c.at < end, number) for number, end in enumerate(begins[1:])]
    return case(*ends, else_=len(begins) - 1).label("day")
