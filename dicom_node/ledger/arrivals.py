"""The ledger of arrivals: which series are complete, what became of each image, what is to be delivered."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, Select, and_, case, exists, func, insert, select, update

from dicom_node.errors import IllegalTransition
from dicom_node.ledger.database import Database, change_state, cut, record_event
from dicom_node.ledger.operations import add_items, open_delivery
from dicom_node.ledger.schema import arrival, association, delivery, delivery_item, enhancement, instance
from dicom_node.states import ARRIVAL, ArrivalState, InstanceState


class EnhancementDecision(enum.StrEnum):
    """What became of one received image."""

    ENHANCED = "enhanced"
    PASSED_THROUGH = "passed_through"


@dataclass(frozen=True, kw_only=True)
class IdleArrival:
    """An open arrival on which no association is open any more."""

    arrival_id: int
    route: str | None
    last_activity_at: float


@dataclass(frozen=True, kw_only=True)
class StoredInstance:
    """An instance as the ledger knows it."""

    instance_id: int
    arrival_id: int
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    key: str
    size: int
    dataset_offset: int
    digest: str
    calling_ae_title: str
    called_ae_title: str
    host: str
    revision: int = 0


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """One generation of a series."""

    arrival_id: int
    series_instance_uid: str
    study_instance_uid: str
    generation: int
    state: ArrivalState
    route: str | None
    attempts: int
    completed_at: float | None
    shadow: bool = False


@dataclass(frozen=True, kw_only=True)
class EnhancementRecord:
    """What enhancing one image gave; noise in units of the image's linear values."""

    decision: EnhancementDecision
    reason: str | None = None
    strength: float | None = None
    noise_before: float | None = None
    noise_after: float | None = None
    inference_s: float | None = None
    total_s: float | None = None
    model_digest: str | None = None


@dataclass(frozen=True, kw_only=True)
class DerivedInstance:
    """An object that the node made, a derived image or a report, safe in the instance store."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    key: str
    size: int
    dataset_offset: int
    digest: str


INSTANCE_COLUMNS = (
    instance.c.id,
    instance.c.arrival_id,
    instance.c.sop_class_uid,
    instance.c.sop_instance_uid,
    instance.c.study_instance_uid,
    instance.c.series_instance_uid,
    instance.c.transfer_syntax_uid,
    instance.c.key,
    instance.c.size,
    instance.c.dataset_offset,
    instance.c.digest,
    association.c.calling_ae_title,
    association.c.called_ae_title,
    association.c.host,
    instance.c.revision,
)
_RECEIVED = select(*INSTANCE_COLUMNS).join(association, instance.c.association_id == association.c.id)


class ArrivalLedger:
    """The side of the ledger that completes series and records their enhancement."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- completeness ---------------------------------------------------------------------------

    def idle(self) -> list[IdleArrival]:
        """Return the open arrivals that no open association has carried instances of, oldest first."""
        carried = and_(instance.c.arrival_id == arrival.c.id, instance.c.association_id == association.c.id)
        still_open = exists().where(carried, association.c.closed_at.is_(None))
        last_closed = select(func.max(association.c.closed_at)).where(carried).scalar_subquery()
        # Both dialects know a greatest of two, by different names.
        later = case((last_closed > arrival.c.last_received_at, last_closed), else_=arrival.c.last_received_at)
        query = (
            select(arrival.c.id, arrival.c.route, later.label("last_activity_at"))
            .where(arrival.c.state == ArrivalState.OPEN.value, ~still_open)
            .order_by(arrival.c.id)
        )
        with self._database.read() as connection:
            return [
                IdleArrival(arrival_id=row.id, route=row.route, last_activity_at=row.last_activity_at)
                for row in connection.execute(query)
            ]

    def complete(self, arrival_id: int, *, last_activity_at: float) -> bool:
        """Close an idle arrival; False if an instance came after all (then it stays open)."""
        with self._database.write() as connection:
            newer = connection.scalar(
                select(arrival.c.last_received_at).where(
                    arrival.c.id == arrival_id, arrival.c.last_received_at > last_activity_at
                )
            )
            if newer is not None:
                return False
            now = self._database.now()
            change_state(connection, arrival, arrival_id, ARRIVAL, ArrivalState, "complete", at=now, completed_at=now)
            return True

    def assign_route(self, arrival_id: int, route: str | None, reason: str | None = None) -> None:
        """Write down which route takes the arrival, or why none does."""
        with self._database.write() as connection:
            connection.execute(
                update(arrival).where(arrival.c.id == arrival_id).values(route=route, reason=cut(reason))
            )

    # -- reading --------------------------------------------------------------------------------

    def get(self, arrival_id: int) -> Arrival:
        """Return one arrival; IllegalTransition if there is none."""
        with self._database.read() as connection:
            row = connection.execute(select(arrival).where(arrival.c.id == arrival_id)).one_or_none()
        if row is None:
            raise IllegalTransition(f"no arrival {arrival_id}")
        return _arrival(row)

    def in_state(self, *states: ArrivalState) -> list[Arrival]:
        """Return the arrivals in any of `states`, oldest first."""
        query = select(arrival).where(arrival.c.state.in_([s.value for s in states])).order_by(arrival.c.id)
        with self._database.read() as connection:
            return [_arrival(row) for row in connection.execute(query)]

    def instances(self, arrival_id: int) -> list[StoredInstance]:
        """Return the received instances of an arrival in the order of their reception."""
        query = _RECEIVED.where(instance.c.arrival_id == arrival_id, instance.c.origin == "received").order_by(
            instance.c.id
        )
        with self._database.read() as connection:
            return [_stored(row) for row in connection.execute(query)]

    def instance(self, instance_id: int) -> StoredInstance:
        """Return one received instance."""
        with self._database.read() as connection:
            return _stored(connection.execute(_RECEIVED.where(instance.c.id == instance_id)).one())

    def first_completed_at(self, series_instance_uid: str) -> float:
        """Return when the first generation of a series was complete; the date of the series derived from it."""
        query = select(func.min(arrival.c.completed_at)).where(arrival.c.series_instance_uid == series_instance_uid)
        with self._database.read() as connection:
            return float(connection.scalar(query) or self._database.now())

    def first_instance(self, arrival_id: int) -> StoredInstance:
        """Return the instance that opened the arrival; it decides the route."""
        query = _RECEIVED.where(instance.c.arrival_id == arrival_id, instance.c.origin == "received")
        with self._database.read() as connection:
            return _stored(connection.execute(query.order_by(instance.c.id).limit(1)).one())

    def earlier_route(self, arrival_id: int) -> str | None:
        """Return the route of the last generation before this arrival that had one: it decides for the whole series."""
        this, earlier = arrival.alias("this"), arrival.alias("earlier")
        query = (
            select(earlier.c.route)
            .join(this, this.c.series_instance_uid == earlier.c.series_instance_uid)
            .where(this.c.id == arrival_id, earlier.c.generation < this.c.generation, earlier.c.route.is_not(None))
            .order_by(earlier.c.generation.desc())
            .limit(1)
        )
        with self._database.read() as connection:
            route: str | None = connection.scalar(query)
            return route

    def revisions_before(self, stored: StoredInstance) -> list[StoredInstance]:
        """Return what is still stored under the same SOP Instance UID in other bytes, and came before; newest first."""
        query = _RECEIVED.where(
            instance.c.sop_instance_uid == stored.sop_instance_uid,
            instance.c.origin == "received",
            instance.c.arrival_id.is_not(None),
            instance.c.state == InstanceState.STORED.value,
            instance.c.same_as_id.is_(None),
            instance.c.revision < stored.revision,
        ).order_by(instance.c.revision.desc())
        with self._database.read() as connection:
            return [_stored(row) for row in connection.execute(query)]

    def is_recognised(self, instance_id: int) -> bool:
        """Return whether another object stands for this one."""
        with self._database.read() as connection:
            return connection.scalar(select(instance.c.same_as_id).where(instance.c.id == instance_id)) is not None

    # -- enhancement ----------------------------------------------------------------------------

    def recognise(self, instance_id: int, same_as_id: int) -> bool:
        """Let an object of the same content, received before, stand for this one; False if it was decided meanwhile.

        It is neither enhanced nor delivered, and shares the other's fate in the balance.
        """
        reason = f"the same image as instance {same_as_id}, in another encoding"
        record = EnhancementRecord(decision=EnhancementDecision.PASSED_THROUGH, reason=reason)
        try:
            with self._database.write() as connection:
                if not _decide(connection, instance_id, record, None, self._database.now()):
                    return False
                connection.execute(
                    update(instance).where(instance.c.id == instance_id).values(same_as_id=same_as_id, reason=reason)
                )
                return True
        except IllegalTransition:
            return False

    def postpone(self, instance_id: int) -> None:
        """Take back an attempt at an image that the deadline, or a stop, cut short: nothing went wrong with it."""
        with self._database.write() as connection:
            connection.execute(
                update(enhancement)
                .where(
                    enhancement.c.instance_id == instance_id,
                    enhancement.c.decision.is_(None),
                    enhancement.c.attempts > 0,
                )
                .values(attempts=enhancement.c.attempts - 1)
            )

    def begin(self, arrival_id: int, attempt: int) -> list[int]:
        """Take an arrival into work for its workflow number `attempt`; returns its instances without a decision.

        Raises
        ------
        IllegalTransition
            If the arrival is past enhancement, e.g. because its deadline went by, or a later workflow works on it.
        """
        with self._database.write() as connection:
            current = connection.scalar(select(arrival.c.attempts).where(arrival.c.id == arrival_id))
            if current != attempt:
                raise IllegalTransition(f"arrival {arrival_id} is past attempt {attempt}")
            change_state(connection, arrival, arrival_id, ARRIVAL, ArrivalState, "begin", at=self._database.now())
            return list(connection.scalars(_undecided(arrival_id)))

    def count_restart(self, arrival_id: int) -> int:
        """Count that a workflow of this arrival failed and another one starts; returns how many were started."""
        with self._database.write() as connection:
            attempts: int = connection.execute(
                update(arrival)
                .where(arrival.c.id == arrival_id)
                .values(attempts=arrival.c.attempts + 1)
                .returning(arrival.c.attempts)
            ).scalar_one()
            return attempts

    def attempts_at(self, instance_id: int) -> int | None:
        """Return how many attempts at an image have begun; None if it is decided what became of it."""
        query = select(enhancement.c.attempts, enhancement.c.decision).where(enhancement.c.instance_id == instance_id)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return 0
        return None if row.decision is not None else int(row.attempts)

    def count_attempt(self, instance_id: int) -> int:
        """Count an attempt at one image before it begins; returns its number, from 1.

        It is written first so that an image that kills the process is known afterwards.
        """
        with self._database.write() as connection:
            attempts = connection.execute(
                update(enhancement)
                .where(enhancement.c.instance_id == instance_id)
                .values(attempts=enhancement.c.attempts + 1)
                .returning(enhancement.c.attempts)
            ).scalar()
            if attempts is None:
                attempts = 1
                connection.execute(
                    insert(enhancement), {"instance_id": instance_id, "attempts": 1, "at": self._database.now()}
                )
            return attempts

    def decide(self, instance_id: int, record: EnhancementRecord, derived: DerivedInstance | None = None) -> bool:
        """Write what became of an image, once; False if that was decided before (e.g. by the deadline)."""
        now = self._database.now()
        try:
            with self._database.write() as connection:
                return _decide(connection, instance_id, record, derived, now)
        except IllegalTransition:
            # Another process decided between our look and our write (PostgreSQL only); nothing of ours was written.
            return False

    def conclude(
        self,
        arrival_id: int,
        *,
        destinations: Sequence[str],
        send_original: bool,
        send_enhanced: bool,
        late: str | None = None,
        report: DerivedInstance | str | None = None,
    ) -> ArrivalState:
        """End the enhancement of an arrival and open its deliveries, in one transaction.

        Images without a decision are passed through with the reason `late`.

        Parameters
        ----------
        destinations
            Names; each gets one delivery.
        send_original, send_enhanced
            What the route sends. The original stands in wherever there is no enhanced image.
        late
            Reason for images that are still undecided; None where none can be.
        report
            The quality report, delivered with the images; or why there is none, where one was wanted.

        Raises
        ------
        IllegalTransition
            If another process concluded it first.
        """
        now = self._database.now()
        with self._database.write() as connection:
            if late is not None:
                record = EnhancementRecord(decision=EnhancementDecision.PASSED_THROUGH, reason=late)
                for instance_id in connection.scalars(_undecided(arrival_id)).all():
                    _decide(connection, instance_id, record, None, now)
            chosen, enhanced = _chosen(connection, arrival_id, send_original=send_original, send_enhanced=send_enhanced)
            state = change_state(
                connection,
                arrival,
                arrival_id,
                ARRIVAL,
                ArrivalState,
                "finish" if enhanced else "pass_through",
                at=now,
                reason=late,
                finished_at=now,
            )
            if isinstance(report, DerivedInstance):
                chosen.append(_insert_report(connection, arrival_id, report, now))
            elif report is not None and enhanced:
                record_event(
                    connection,
                    arrival,
                    arrival_id,
                    at=now,
                    event_name="no_report",
                    from_state=state.value,
                    to_state=state.value,
                    reason=report,
                )
            for destination in destinations if chosen else ():
                _open_delivery(connection, arrival_id, destination, chosen, now)
            return state

    def release(
        self,
        arrival_id: int,
        *,
        destinations: Sequence[str],
        send_original: bool,
        send_enhanced: bool,
        reason: str,
        shadow: bool = False,
    ) -> None:
        """Open the deliveries of an arrival before every image is decided; its enhancement goes on behind them.

        Images without a decision go as originals; of those that are enhanced later, `end_following` delivers the
        enhanced ones as a part of their own. The workflow that worked on it so far is replaced by another.

        Parameters
        ----------
        destinations
            Names; each gets one delivery.
        send_original, send_enhanced
            What the route sends. The original stands in wherever there is no enhanced image yet.
        reason
            Why.
        shadow
            Whether what is enhanced is measured alone, and never delivered.

        Raises
        ------
        IllegalTransition
            If another process concluded or released it first.
        """
        now = self._database.now()
        with self._database.write() as connection:
            change_state(
                connection,
                arrival,
                arrival_id,
                ARRIVAL,
                ArrivalState,
                "release",
                at=now,
                reason=reason,
                released_at=now,
                shadow=shadow,
                attempts=arrival.c.attempts + 1,
            )
            chosen, _ = _chosen(connection, arrival_id, send_original=send_original, send_enhanced=send_enhanced)
            for destination in destinations if chosen else ():
                _open_delivery(connection, arrival_id, destination, chosen, now)

    def end_following(
        self,
        arrival_id: int,
        *,
        destinations: Sequence[str],
        given_up: str | None = None,
        report: DerivedInstance | str | None = None,
    ) -> ArrivalState:
        """End the enhancement of an arrival whose originals went before, and deliver what was enhanced since.

        Each destination gets a delivery of its own with the enhanced images that none carries yet, and the report; in
        shadow mode nothing.

        Parameters
        ----------
        destinations
            Names.
        given_up
            Reason for images that are still undecided; None where none can be.
        report
            As for `conclude`.

        Raises
        ------
        IllegalTransition
            If another process ended it first.
        """
        now = self._database.now()
        with self._database.write() as connection:
            if given_up is not None:
                record = EnhancementRecord(decision=EnhancementDecision.PASSED_THROUGH, reason=given_up)
                for instance_id in connection.scalars(_undecided(arrival_id)).all():
                    _decide(connection, instance_id, record, None, now)
            derived, shadow = _following(connection, arrival_id)
            _, enhanced = _chosen(connection, arrival_id, send_original=False, send_enhanced=False)
            state = change_state(
                connection,
                arrival,
                arrival_id,
                ARRIVAL,
                ArrivalState,
                "end_following" if enhanced and not shadow else "give_up_following",
                at=now,
                reason=given_up or _how_it_followed(len(derived), enhanced, shadow=shadow),
                finished_at=now,
            )
            if isinstance(report, DerivedInstance) and not shadow:
                derived.append(_insert_report(connection, arrival_id, report, now))
            for destination in destinations if derived else ():
                _open_delivery(connection, arrival_id, destination, derived, now, part=1)
            return state


def _following(connection: Connection, arrival_id: int) -> tuple[list[int], bool]:
    """Return the enhanced images of a released arrival that no delivery carries, and whether it is in shadow mode."""
    shadow = bool(connection.scalar(select(arrival.c.shadow).where(arrival.c.id == arrival_id)))
    if shadow:
        return [], True
    carried = (
        exists()
        .where(delivery_item.c.instance_id == instance.c.id, delivery_item.c.delivery_id == delivery.c.id)
        .where(delivery.c.arrival_id == arrival_id)
    )
    query = (
        select(instance.c.id)
        .where(instance.c.arrival_id == arrival_id, instance.c.origin == "derived", ~carried)
        .order_by(instance.c.id)
    )
    return list(connection.scalars(query)), False


def _how_it_followed(following: int, enhanced: int, *, shadow: bool) -> str:
    if shadow:
        return f"shadow mode: {enhanced} images would have been enhanced; the originals alone were forwarded"
    return f"{following} enhanced images follow their originals"


def _undecided(arrival_id: int) -> Select[int]:
    return (
        select(instance.c.id)
        .outerjoin(enhancement, enhancement.c.instance_id == instance.c.id)
        .where(instance.c.arrival_id == arrival_id, instance.c.origin == "received", enhancement.c.decision.is_(None))
        .order_by(instance.c.id)
    )


def _decide(
    connection: Connection, instance_id: int, record: EnhancementRecord, derived: DerivedInstance | None, now: float
) -> bool:
    columns = {
        "decision": record.decision.value,
        "reason": cut(record.reason),
        "strength": record.strength,
        "noise_before": record.noise_before,
        "noise_after": record.noise_after,
        "inference_s": record.inference_s,
        "total_s": record.total_s,
        "model_digest": record.model_digest,
        "at": now,
    }
    known = connection.execute(
        select(enhancement.c.decision).where(enhancement.c.instance_id == instance_id)
    ).one_or_none()
    if known is not None and known.decision is not None:
        return False
    derived_id = _insert_derived(connection, instance_id, derived, now) if derived is not None else None
    if known is None:
        connection.execute(
            insert(enhancement), {"instance_id": instance_id, "attempts": 0, "derived_id": derived_id, **columns}
        )
    else:
        changed = connection.execute(
            update(enhancement)
            .where(enhancement.c.instance_id == instance_id, enhancement.c.decision.is_(None))
            .values(derived_id=derived_id, **columns)
        )
        if changed.rowcount != 1:
            raise IllegalTransition(f"instance {instance_id} was decided in another process")
    record_event(
        connection,
        instance,
        instance_id,
        at=now,
        event_name="decide",
        from_state=InstanceState.STORED.value,
        to_state=record.decision.value,
        reason=record.reason,
    )
    return True


def _insert_derived(connection: Connection, source_id: int, derived: DerivedInstance, now: float) -> int:
    arrival_id = connection.scalar(select(instance.c.arrival_id).where(instance.c.id == source_id))
    columns = {"origin": "derived", "arrival_id": arrival_id, "source_id": source_id}
    return _insert_made(connection, columns, derived, now, event_name="derive", reason=f"from instance {source_id}")


def _insert_report(connection: Connection, arrival_id: int, report: DerivedInstance, now: float) -> int:
    # No source: the balance counts received images, and a refused report makes none of them undelivered.
    columns = {"origin": "report", "arrival_id": arrival_id, "source_id": None}
    return _insert_made(connection, columns, report, now, event_name="report", reason=f"on arrival {arrival_id}")


def _insert_made(
    connection: Connection, columns: dict[str, Any], made: DerivedInstance, now: float, *, event_name: str, reason: str
) -> int:
    made_id: int = connection.execute(
        insert(instance).returning(instance.c.id),
        {**columns, **asdict(made), "state": InstanceState.STORED.value, "revision": 0, "at": now},
    ).scalar_one()
    record_event(
        connection,
        instance,
        made_id,
        at=now,
        event_name=event_name,
        from_state=None,
        to_state=InstanceState.STORED.value,
        reason=reason,
    )
    return made_id


def _chosen(
    connection: Connection, arrival_id: int, *, send_original: bool, send_enhanced: bool
) -> tuple[list[int], int]:
    """Return the instances to deliver (originals before derived ones), and how many were enhanced."""
    rows = connection.execute(
        select(instance.c.id, enhancement.c.decision, enhancement.c.derived_id)
        .outerjoin(enhancement, enhancement.c.instance_id == instance.c.id)
        .where(
            instance.c.arrival_id == arrival_id,
            instance.c.origin == "received",
            # Another object stands for it.
            instance.c.same_as_id.is_(None),
        )
        .order_by(instance.c.id)
    ).all()
    derived = {row.id: row.derived_id for row in rows if row.decision == EnhancementDecision.ENHANCED.value}
    originals = [row.id for row in rows if send_original or row.id not in derived]
    return originals + (list(derived.values()) if send_enhanced else []), len(derived)


def _open_delivery(
    connection: Connection, arrival_id: int, destination: str, instance_ids: Iterable[int], now: float, part: int = 0
) -> None:
    reason = f"to {destination}" + (": the enhanced images that follow" if part else "")
    add_items(connection, open_delivery(connection, arrival_id, destination, now, reason, part=part), instance_ids)


def _arrival(row: Any) -> Arrival:
    fields = row._mapping
    return Arrival(
        arrival_id=fields["id"],
        series_instance_uid=fields["series_instance_uid"],
        study_instance_uid=fields["study_instance_uid"],
        generation=fields["generation"],
        state=ArrivalState(fields["state"]),
        route=fields["route"],
        attempts=fields["attempts"],
        completed_at=fields["completed_at"],
        shadow=fields["shadow"],
    )


def _stored(row: Any) -> StoredInstance:
    fields = dict(row._mapping)
    return StoredInstance(instance_id=fields.pop("id"), **fields)
