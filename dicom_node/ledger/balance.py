"""The balance: every object received is delivered, in work, or quarantined with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, case, func, select

from dicom_node.ledger.database import Database
from dicom_node.ledger.schema import (
    arrival,
    association,
    delivery,
    delivery_item,
    enhancement,
    instance,
    process,
    rejection,
)
from dicom_node.states import DEAD_LETTERS, ArrivalState, DeliveryState, InstanceState, ItemState

_OPEN_ARRIVALS = tuple(
    state.value for state in (ArrivalState.OPEN, ArrivalState.COMPLETE, ArrivalState.ENHANCING, ArrivalState.FOLLOWING)
)

_SHOWN = 20
"""Rejections and quarantined objects that the status names; the last ones."""


@dataclass(kw_only=True)
class Count:
    """Received objects and where they are.

    `dead_letters` are part of `in_work`: they wait for an operator. `cancelled` is what an operator ended: the object
    is here, and some destination does not get it.
    """

    received: int = 0
    delivered: int = 0
    in_work: int = 0
    quarantined: int = 0
    dead_letters: int = 0
    cancelled: int = 0

    @property
    def balanced(self) -> bool:
        """True if nothing is missing."""
        return self.received == self.delivered + self.in_work + self.quarantined + self.cancelled


@dataclass(frozen=True, kw_only=True)
class Imbalance:
    """Something that does not add up."""

    subject: str
    finding: str


@dataclass(kw_only=True)
class Balance:
    """The balance as a whole, per association, per study and per day (UTC)."""

    total: Count = field(default_factory=Count)
    associations: dict[int, Count] = field(default_factory=dict)
    studies: dict[str, Count] = field(default_factory=dict)
    days: dict[str, Count] = field(default_factory=dict)
    findings: list[Imbalance] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file that the ledger says is in the instance store."""

    key: str
    size: int
    dataset_offset: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class NodeStatus:
    """Figures for `dicom-node status`."""

    processes: list[dict[str, Any]]
    open_associations: int
    arrivals: dict[str, int]
    deliveries: dict[str, dict[str, int]]
    instances: dict[str, int]
    oldest_pending_s: float | None
    unrouted: list[str]
    following: list[dict[str, Any]]
    quarantined: list[dict[str, Any]]
    rejections: list[dict[str, Any]]


class BalanceLedger:
    """The side of the ledger that answers questions about the whole."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def balance(self) -> Balance:
        """Count every received object once, by what became of it.

        An object counts as delivered when each delivery of its arrival that carries it, or the object derived from
        it, has it sent; as quarantined when it was set aside; as cancelled when an operator ended such a delivery; and
        as in work otherwise.
        """
        result = Balance()
        with self._database.read() as connection:
            for row in connection.execute(_FATES):
                fate = _fate(row)
                day = datetime.fromtimestamp(row.at, UTC).date().isoformat()
                counts = [result.total, result.days.setdefault(day, Count())]
                if row.association_id is not None:
                    counts.append(result.associations.setdefault(row.association_id, Count()))
                counts.append(result.studies.setdefault(row.study_instance_uid or "(unknown)", Count()))
                for count in counts:
                    _add(count, fate, dead=bool(row.dead))
            acknowledged = connection.execute(
                select(association.c.id, association.c.acknowledged).where(association.c.acknowledged.is_not(None))
            ).all()
            stored = {row[0]: row[1] for row in connection.execute(_STORED_BY_ASSOCIATION)}
        for association_id, said in acknowledged:
            # More may be recorded than was acknowledged: where the ledger failed in the middle of a commit the sender
            # was told so, and sends again.
            if stored.get(association_id, 0) < said:
                result.findings.append(
                    Imbalance(
                        subject=f"association {association_id}",
                        finding=f"{said} instances acknowledged, only {stored.get(association_id, 0)} recorded",
                    )
                )
        for name, count in _named(result):
            if not count.balanced:
                result.findings.append(Imbalance(subject=name, finding=f"does not add up: {count}"))
        return result

    def files(self) -> list[StoredFile]:
        """Return every file that must be in the instance store."""
        query = select(instance.c.key, instance.c.size, instance.c.dataset_offset, instance.c.digest).where(
            instance.c.state != InstanceState.PURGED.value
        )
        with self._database.read() as connection:
            return [StoredFile(**row._mapping) for row in connection.execute(query)]

    def enhancement_totals(self) -> dict[str, float]:
        """Return how many images were enhanced, and the seconds spent on them in all and in the denoiser."""
        query = select(func.count(), func.sum(enhancement.c.total_s), func.sum(enhancement.c.inference_s)).where(
            enhancement.c.decision == "enhanced"
        )
        with self._database.read() as connection:
            number, total_s, inference_s = connection.execute(query).one()
        return {"enhanced": number, "total_s": total_s or 0.0, "inference_s": inference_s or 0.0}

    def status(self) -> NodeStatus:
        """Return figures on processes, queues and rejected senders."""
        now = self._database.now()
        with self._database.read() as connection:
            processes = [
                {**row._mapping, "silent_s": round(now - row.seen_at, 1)} for row in connection.execute(select(process))
            ]
            open_associations = connection.scalar(
                select(func.count()).select_from(association).where(association.c.closed_at.is_(None))
            )
            arrivals: dict[str, int] = dict(
                connection.execute(select(arrival.c.state, func.count()).group_by(arrival.c.state)).tuples().all()
            )
            instances: dict[str, int] = dict(
                connection.execute(
                    select(instance.c.origin + " " + instance.c.state, func.count()).group_by(
                        instance.c.origin, instance.c.state
                    )
                )
                .tuples()
                .all()
            )
            deliveries: dict[str, dict[str, int]] = {}
            for destination, state, number in connection.execute(
                select(delivery.c.destination, delivery.c.state, func.count()).group_by(
                    delivery.c.destination, delivery.c.state
                )
            ):
                deliveries.setdefault(destination, {})[state] = number
            oldest = connection.scalar(
                select(func.min(delivery.c.created_at)).where(delivery.c.state == DeliveryState.PENDING.value)
            )
            unrouted = list(
                connection.scalars(
                    select(arrival.c.series_instance_uid).where(
                        # A route that took it may have gone from the settings meanwhile.
                        arrival.c.state.in_([s for s in _OPEN_ARRIVALS if s != ArrivalState.OPEN.value]),
                        arrival.c.route.is_(None),
                    )
                )
            )
            following = [dict(row._mapping) for row in connection.execute(_LATEST_FOLLOWING)]
            quarantined = [dict(row._mapping) for row in connection.execute(_LAST_QUARANTINED)]
            rejections = [
                dict(row._mapping)
                for row in connection.execute(select(rejection).order_by(rejection.c.last_at.desc()).limit(_SHOWN))
            ]
        return NodeStatus(
            processes=processes,
            open_associations=open_associations or 0,
            arrivals=arrivals,
            deliveries=deliveries,
            instances=instances,
            oldest_pending_s=None if oldest is None else round(now - oldest, 1),
            unrouted=unrouted,
            following=following,
            quarantined=quarantined,
            rejections=rejections,
        )


# One line per received instance: how many of the delivery items that stand for it (itself or what was derived from
# it) are sent, still to go, or dead letters: refused, or left over in a delivery that was given up.
_carried = instance.alias("carried")
_is_unsent = delivery_item.c.state != ItemState.SENT.value
_is_cancelled = _is_unsent & (delivery.c.state == DeliveryState.CANCELLED.value)
_is_dead = (~_is_cancelled & (delivery_item.c.state == ItemState.REFUSED.value)) | (
    (delivery_item.c.state == ItemState.PENDING.value) & delivery.c.state.in_([state.value for state in DEAD_LETTERS])
)


def _number(condition: ColumnElement[bool], name: str) -> ColumnElement[int]:
    return func.sum(case((condition, 1), else_=0)).label(name)


_items = (
    select(
        func.coalesce(_carried.c.source_id, _carried.c.id).label("received_id"),
        _number(delivery_item.c.state == ItemState.SENT.value, "sent"),
        _number(~_is_cancelled & (delivery_item.c.state == ItemState.PENDING.value), "pending"),
        _number(_is_cancelled, "cancelled"),
        _number(_is_dead, "dead"),
    )
    .join(_carried, _carried.c.id == delivery_item.c.instance_id)
    .join(delivery, delivery.c.id == delivery_item.c.delivery_id)
    .group_by(func.coalesce(_carried.c.source_id, _carried.c.id))
    .subquery("items")
)
# The same image, received before in another encoding, and its arrival: this one shares its fate.
_first = instance.alias("first")
_arrival_of_first = arrival.alias("arrival_of_first")
_FATES = (
    select(
        instance.c.id,
        instance.c.at,
        instance.c.association_id,
        instance.c.study_instance_uid,
        instance.c.state,
        arrival.c.state.label("arrival_state"),
        _arrival_of_first.c.state.label("arrival_state_of_first"),
        func.coalesce(_items.c.sent, 0).label("sent"),
        func.coalesce(_items.c.dead, 0).label("dead"),
        func.coalesce(_items.c.pending, 0).label("left"),
        func.coalesce(_items.c.cancelled, 0).label("cancelled"),
    )
    .outerjoin(arrival, arrival.c.id == instance.c.arrival_id)
    .outerjoin(_first, _first.c.id == instance.c.same_as_id)
    .outerjoin(_arrival_of_first, _arrival_of_first.c.id == _first.c.arrival_id)
    .outerjoin(_items, _items.c.received_id == func.coalesce(instance.c.same_as_id, instance.c.id))
    .where(instance.c.origin == "received")
)
_STORED_BY_ASSOCIATION = (
    select(instance.c.association_id, func.sum(case((instance.c.arrival_id.is_not(None), 1), else_=0)))
    .where(instance.c.origin == "received", instance.c.association_id.is_not(None))
    .group_by(instance.c.association_id)
)
_LATEST_FOLLOWING = (
    select(arrival.c.series_instance_uid, arrival.c.route, arrival.c.released_at, arrival.c.shadow)
    .where(arrival.c.state == ArrivalState.FOLLOWING.value)
    .order_by(arrival.c.released_at.desc(), arrival.c.id.desc())
    .limit(_SHOWN)
)
_LAST_QUARANTINED = (
    select(
        instance.c.at,
        association.c.calling_ae_title,
        association.c.host,
        instance.c.sop_instance_uid,
        instance.c.reason,
        instance.c.key,
    )
    .outerjoin(association, association.c.id == instance.c.association_id)
    .where(instance.c.state == InstanceState.QUARANTINED.value)
    .order_by(instance.c.at.desc(), instance.c.id.desc())
    .limit(_SHOWN)
)


def _fate(row: Any) -> str:
    if row.state == InstanceState.QUARANTINED.value:
        return "quarantined"
    if row.arrival_state in _OPEN_ARRIVALS or row.arrival_state_of_first in _OPEN_ARRIVALS or row.left or row.dead:
        return "in_work"
    if row.cancelled:
        return "cancelled"
    # An object that no delivery carries is neither: the sum then shows that it is missing.
    return "delivered" if row.sent else "missing"


def _add(count: Count, fate: str, *, dead: bool) -> None:
    count.received += 1
    if fate != "missing":
        setattr(count, fate, getattr(count, fate) + 1)
    count.dead_letters += dead


def _named(balance: Balance) -> Iterator[tuple[str, Count]]:
    yield "total", balance.total
    yield from ((f"association {number}", count) for number, count in balance.associations.items())
    yield from ((f"study {uid}", count) for uid, count in balance.studies.items())
    yield from ((f"day {day}", count) for day, count in balance.days.items())
