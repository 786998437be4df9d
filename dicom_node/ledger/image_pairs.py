"""The ledger's side of the viewer: an image that was received, what was made of it, and the images beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select

from dicom_node.ledger.arrivals import EnhancementDecision
from dicom_node.ledger.database import Database
from dicom_node.ledger.schema import arrival, enhancement, event, instance
from dicom_node.states import InstanceState


@dataclass(frozen=True, kw_only=True)
class KeptImage:
    """One object of the pair.

    Attributes
    ----------
    state, left_at, left_because
        Where it is; when and why it left the store, seconds since the epoch, where it did.
    """

    instance_id: int
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    key: str
    digest: str
    state: InstanceState
    left_at: float | None = None
    left_because: str | None = None


@dataclass(frozen=True, kw_only=True)
class ImagePair:
    """A received image and the one that was derived from it.

    Attributes
    ----------
    derived
        None where nothing was: passed through, in work, or only measured.
    decision, reason, strength, noise_before, noise_after, inference_s, model_digest
        As in `EnhancementRecord`; decision None while the image is in work.
    position, count
        Of the image among those of its arrival, from 1, in the order of reception.
    previous_id, next_id
        The images beside it there.
    """

    source: KeptImage
    derived: KeptImage | None
    study_instance_uid: str
    generation: int
    route: str | None
    shadow: bool
    decision: EnhancementDecision | None
    reason: str | None
    strength: float | None
    noise_before: float | None
    noise_after: float | None
    inference_s: float | None
    model_digest: str | None
    position: int
    count: int
    previous_id: int | None
    next_id: int | None


class ImagePairLedger:
    """The side of the ledger that the viewer reads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, instance_id: int) -> ImagePair | None:
        """Return the pair that a received or a derived image belongs to; None if it is neither."""
        with self._database.read() as connection:
            asked = connection.execute(
                select(instance.c.origin, instance.c.source_id).where(instance.c.id == instance_id)
            ).one_or_none()
            if asked is None or asked.origin not in ("received", "derived"):
                return None
            return _pair(connection, asked.source_id if asked.origin == "derived" else instance_id)


def _pair(connection: Connection, source_id: int) -> ImagePair | None:
    query = (
        select(
            arrival.c.id.label("arrival_id"),
            arrival.c.study_instance_uid,
            arrival.c.generation,
            arrival.c.route,
            arrival.c.shadow,
            enhancement.c.derived_id,
            enhancement.c.decision,
            enhancement.c.reason,
            enhancement.c.strength,
            enhancement.c.noise_before,
            enhancement.c.noise_after,
            enhancement.c.inference_s,
            enhancement.c.model_digest,
        )
        .select_from(instance)
        .join(arrival, arrival.c.id == instance.c.arrival_id)
        .outerjoin(enhancement, enhancement.c.instance_id == instance.c.id)
        .where(instance.c.id == source_id)
    )
    found = connection.execute(query).one_or_none()
    source = _image(connection, source_id)
    if found is None or source is None:
        return None
    values = dict(found._mapping)
    arrival_id, derived_id = values.pop("arrival_id"), values.pop("derived_id")
    decision = values.pop("decision")
    return ImagePair(
        source=source,
        derived=None if derived_id is None else _image(connection, derived_id),
        decision=None if decision is None else EnhancementDecision(decision),
        **_neighbours(connection, arrival_id, source_id),
        **values,
    )


def _image(connection: Connection, instance_id: int) -> KeptImage | None:
    columns = (
        instance.c.sop_class_uid,
        instance.c.sop_instance_uid,
        instance.c.series_instance_uid,
        instance.c.transfer_syntax_uid,
        instance.c.key,
        instance.c.digest,
        instance.c.state,
    )
    row = connection.execute(select(*columns).where(instance.c.id == instance_id)).one_or_none()
    if row is None:
        return None
    values = dict(row._mapping)
    state = InstanceState(values.pop("state"))
    left: Any = None
    if state is not InstanceState.STORED:
        left = connection.execute(
            select(event.c.at, event.c.reason)
            .where(event.c.subject == instance.name, event.c.subject_id == instance_id, event.c.to_state == state.value)
            .order_by(event.c.id.desc())
            .limit(1)
        ).one_or_none()
    return KeptImage(
        instance_id=instance_id,
        state=state,
        left_at=None if left is None else left.at,
        left_because=None if left is None else left.reason,
        **{name: value or "" for name, value in values.items()},
    )


def _neighbours(connection: Connection, arrival_id: int, source_id: int) -> dict[str, Any]:
    beside = (instance.c.arrival_id == arrival_id, instance.c.origin == "received")

    def ask(column: Any, *conditions: Any) -> Any:
        return connection.scalar(select(column).where(*beside, *conditions))

    return {
        "position": ask(func.count(), instance.c.id <= source_id),
        "count": ask(func.count()),
        "previous_id": ask(func.max(instance.c.id), instance.c.id < source_id),
        "next_id": ask(func.min(instance.c.id), instance.c.id > source_id),
    }
