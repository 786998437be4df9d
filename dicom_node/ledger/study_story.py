"""The ledger's story of one study: its series, its images, its deliveries, and every event in their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, case, func, select

from dicom_node.ledger.database import Database
from dicom_node.ledger.schema import (
    arrival,
    association,
    commitment_transaction,
    delivery,
    delivery_item,
    enhancement,
    event,
    hold,
    instance,
    object_check,
)
from dicom_node.states import ItemState

MOST_IMAGES = 200
"""Images that a story names at first; a long run has thousands."""
_MOST_EVENTS = 2000


@dataclass(frozen=True, kw_only=True)
class SeriesPart:
    """One generation of a series of a study."""

    arrival_id: int
    series_instance_uid: str
    generation: int
    state: str
    route: str | None
    reason: str | None
    opened_at: float
    completed_at: float | None
    finished_at: float | None
    shadow: bool
    received: int
    derived: int


@dataclass(frozen=True, kw_only=True)
class ImageLine:
    """A received object and what became of it.

    Attributes
    ----------
    decision
        "enhanced" or "passed_through"; None while that is open.
    noise_before, noise_after
        In units of the image's linear values.
    derived_id
        The image that was derived from it.
    finding
        What reading the file again found, where that was no good.
    """

    instance_id: int
    arrival_id: int
    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    size: int
    state: str
    revision: int
    reason: str | None
    at: float
    same_as_id: int | None
    calling_ae_title: str
    host: str
    decision: str | None
    why: str | None
    strength: float | None
    noise_before: float | None
    noise_after: float | None
    total_s: float | None
    model_digest: str | None
    derived_id: int | None
    finding: str | None


@dataclass(frozen=True, kw_only=True)
class DeliveryPart:
    """A delivery of a study."""

    delivery_id: int
    arrival_id: int
    series_instance_uid: str
    destination: str
    part: int
    state: str
    attempts: int
    created_at: float
    next_attempt_at: float
    finished_at: float | None
    reason: str | None
    sent: int
    refused: int
    left: int
    committed: int
    requests: int


@dataclass(frozen=True, kw_only=True)
class StoryEvent:
    """Something that happened: one event, or several of objects in a row that are alike.

    Attributes
    ----------
    subject
        series, image, delivery or hold.
    number
        Of the arrival or delivery; of the first of several images.
    times
        How many.
    """

    at: float
    until: float
    subject: str
    number: int
    event: str
    from_state: str | None
    to_state: str
    reason: str | None
    times: int


@dataclass(frozen=True, kw_only=True)
class StudyStory:
    """Everything that the ledger knows of a study."""

    series: list[SeriesPart]
    images: list[ImageLine]
    image_count: int
    deliveries: list[DeliveryPart]
    events: list[StoryEvent]
    more_events: bool
    is_held: bool
    hold_reason: str | None


class StoryLedger:
    """The side of the ledger that tells what became of a study."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def story(self, study_instance_uid: str, *, images: int | None = MOST_IMAGES) -> StudyStory:
        """Return the story of a study; `images` is the most that are named, None for all."""
        with self._database.read() as connection:
            series = _series(connection, study_instance_uid)
            arrivals = [part.arrival_id for part in series]
            deliveries = _deliveries(connection, arrivals)
            events = _events(connection, study_instance_uid, arrivals, [one.delivery_id for one in deliveries])
            held = connection.execute(
                select(hold.c.reason).where(hold.c.scope == "study", hold.c.subject == study_instance_uid)
            ).one_or_none()
            return StudyStory(
                series=series,
                images=_images(connection, arrivals, images),
                image_count=sum(part.received for part in series),
                deliveries=deliveries,
                events=events[:_MOST_EVENTS],
                more_events=len(events) > _MOST_EVENTS,
                is_held=held is not None,
                hold_reason=held.reason if held else None,
            )

    def stored_key(self, study_instance_uid: str) -> str | None:
        """Return the file of a received object of the study that is still there; None if retention took them all."""
        query = (
            select(instance.c.key)
            .join(arrival, arrival.c.id == instance.c.arrival_id)
            .where(
                arrival.c.study_instance_uid == study_instance_uid,
                instance.c.origin == "received",
                instance.c.state == "stored",
            )
            .order_by(instance.c.id)
            .limit(1)
        )
        with self._database.read() as connection:
            key: str | None = connection.scalar(query)
            return key


def _series(connection: Connection, uid: str) -> list[SeriesPart]:
    def number(origin: str) -> Any:
        return func.sum(case((instance.c.origin == origin, 1), else_=0))

    query = (
        select(arrival, number("received").label("received"), number("derived").label("derived"))
        .outerjoin(instance, instance.c.arrival_id == arrival.c.id)
        .where(arrival.c.study_instance_uid == uid)
        .group_by(arrival.c.id)
        .order_by(arrival.c.id)
    )
    return [
        SeriesPart(
            arrival_id=row.id,
            series_instance_uid=row.series_instance_uid,
            generation=row.generation,
            state=row.state,
            route=row.route,
            reason=row.reason,
            opened_at=row.opened_at,
            completed_at=row.completed_at,
            finished_at=row.finished_at,
            shadow=row.shadow,
            received=row.received or 0,
            derived=row.derived or 0,
        )
        for row in connection.execute(query)
    ]


def _images(connection: Connection, arrivals: Sequence[int], limit: int | None) -> list[ImageLine]:
    query = (
        select(
            instance.c.id.label("instance_id"),
            instance.c.arrival_id,
            instance.c.sop_instance_uid,
            instance.c.sop_class_uid,
            instance.c.series_instance_uid,
            instance.c.transfer_syntax_uid,
            instance.c.size,
            instance.c.state,
            instance.c.revision,
            instance.c.reason,
            instance.c.at,
            instance.c.same_as_id,
            association.c.calling_ae_title,
            association.c.host,
            enhancement.c.decision,
            enhancement.c.reason.label("why"),
            enhancement.c.strength,
            enhancement.c.noise_before,
            enhancement.c.noise_after,
            enhancement.c.total_s,
            enhancement.c.model_digest,
            enhancement.c.derived_id,
            case((object_check.c.finding != "sound", object_check.c.finding)).label("finding"),
        )
        .join(association, association.c.id == instance.c.association_id)
        .outerjoin(enhancement, enhancement.c.instance_id == instance.c.id)
        .outerjoin(object_check, object_check.c.instance_id == instance.c.id)
        .where(instance.c.arrival_id.in_(arrivals), instance.c.origin == "received")
        .order_by(instance.c.id)
    )
    if limit is not None:
        query = query.limit(limit)
    return [ImageLine(**row._mapping) for row in connection.execute(query)]


def _deliveries(connection: Connection, arrivals: Sequence[int]) -> list[DeliveryPart]:
    def items(*conditions: Any) -> Any:
        return (
            select(func.count())
            .where(delivery_item.c.delivery_id == delivery.c.id, *conditions)
            .correlate(delivery)
            .scalar_subquery()
        )

    begun = (
        select(func.count())
        .where(
            event.c.subject == delivery.name,
            event.c.subject_id == delivery.c.id,
            event.c.event == "begin",
            event.c.from_state == "pending",
        )
        .correlate(delivery)
        .scalar_subquery()
    )
    query = (
        select(
            delivery.c.id.label("delivery_id"),
            delivery.c.arrival_id,
            arrival.c.series_instance_uid,
            delivery.c.destination,
            delivery.c.part,
            delivery.c.state,
            begun.label("attempts"),
            delivery.c.created_at,
            delivery.c.next_attempt_at,
            delivery.c.finished_at,
            delivery.c.reason,
            items(delivery_item.c.state == ItemState.SENT.value).label("sent"),
            items(delivery_item.c.state == ItemState.REFUSED.value).label("refused"),
            items(delivery_item.c.state == ItemState.PENDING.value).label("left"),
            items(delivery_item.c.committed_at >= delivery_item.c.at).label("committed"),
            select(func.count())
            .where(commitment_transaction.c.delivery_id == delivery.c.id)
            .correlate(delivery)
            .scalar_subquery()
            .label("requests"),
        )
        .join(arrival, arrival.c.id == delivery.c.arrival_id)
        .where(delivery.c.arrival_id.in_(arrivals))
        .order_by(delivery.c.id)
    )
    return [DeliveryPart(**row._mapping) for row in connection.execute(query)]


def _events(connection: Connection, uid: str, arrivals: Sequence[int], deliveries: Sequence[int]) -> list[StoryEvent]:
    columns = (
        event.c.id,
        event.c.at,
        event.c.subject,
        event.c.subject_id,
        event.c.event,
        event.c.from_state,
        event.c.to_state,
        event.c.reason,
    )
    # One query for each subject: the index begins with it, and planners make little of OR and of joins here.
    images = select(instance.c.id).where(instance.c.arrival_id.in_(arrivals))
    of_parts = [
        select(*columns).where(event.c.subject == table.name, event.c.subject_id.in_(numbers))
        for table, numbers in ((arrival, arrivals), (delivery, deliveries), (instance, images))
    ]
    # A hold has no number; what it is about stands in its reason.
    of_holds = select(*columns).where(
        event.c.subject == hold.name, event.c.subject_id == 0, event.c.reason.startswith(f"study {uid}:")
    )
    rows = [row for query in (*of_parts, of_holds) for row in connection.execute(query)]
    return _grouped(sorted(rows, key=lambda row: row.id))


_NAMES = {arrival.name: "series", instance.name: "image"}


def _grouped(rows: Sequence[Any]) -> list[StoryEvent]:
    """Put events of images that are alike, and between which nothing else happened, into one."""
    story: list[StoryEvent] = []
    for row in rows:
        subject = _NAMES.get(row.subject, row.subject)
        # What an image was derived from differs for each, and is in the list of images.
        reason = None if row.event == "derive" else row.reason
        last = story[-1] if story else None
        is_enhanced = (subject, row.event, row.to_state) == ("image", "decide", "enhanced")
        if is_enhanced and last is not None and (last.subject, last.event) == ("image", "derive"):
            # It stands beside the event of the derived image; in shadow mode it stands alone.
            continue
        if (
            last is not None
            and subject == "image"
            and (last.subject, last.event, last.to_state, last.reason) == (subject, row.event, row.to_state, reason)
        ):
            story[-1] = StoryEvent(**{**last.__dict__, "until": row.at, "times": last.times + 1})
            continue
        story.append(
            StoryEvent(
                at=row.at,
                until=row.at,
                subject=subject,
                number=row.subject_id,
                event=row.event,
                from_state=row.from_state,
                to_state=row.to_state,
                reason=reason,
                times=1,
            )
        )
    return story
