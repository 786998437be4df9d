"""What the receiver writes: associations, rejections, and the instances that it answers for."""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from dicom_node.errors import LedgerUnavailable
from dicom_node.fault_points import fault_point
from dicom_node.ledger.balance import StoredFile
from dicom_node.ledger.database import Database, cut, record_event
from dicom_node.ledger.schema import arrival, association, instance, object_check, rejection
from dicom_node.ledger.study_index import index_study
from dicom_node.states import ArrivalState, InstanceState

MAX_REJECTIONS = 1000
"""Rejected senders that are remembered: the latest."""


class RecordOutcome(enum.Enum):
    """What a received object is to the ledger."""

    NEW = "new"
    DUPLICATE = "duplicate"  # same UID, same bytes: nothing to do
    REVISION = "revision"  # same UID, other content: both are kept


@dataclass(frozen=True, kw_only=True)
class ReceivedInstance:
    """An object that is safe in the instance store, about to be acknowledged.

    Attributes
    ----------
    terms
        Kind and hash of what its study is searched by (`identifiers`).
    """

    association_id: int
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    key: str
    size: int
    dataset_offset: int
    digest: str
    terms: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """The ledger's answer: the row that stands for the object."""

    instance_id: int
    outcome: RecordOutcome


# Built once: this path runs for every object received.
_SAME_UID = (
    select(instance.c.id, instance.c.digest, instance.c.transfer_syntax_uid, instance.c.revision)
    .where(
        instance.c.sop_instance_uid == bindparam("uid"),
        instance.c.origin == "received",
        instance.c.arrival_id.is_not(None),
    )
    .order_by(instance.c.revision)
)
_TOUCH_ARRIVAL = (
    update(arrival)
    .where(arrival.c.series_instance_uid == bindparam("series"), arrival.c.state == ArrivalState.OPEN.value)
    .values(last_received_at=bindparam("at"))
    .returning(arrival.c.id)
)
_INSERT_INSTANCE = insert(instance).returning(instance.c.id)


class ReceptionLedger:
    """The receiver's side of the ledger.

    Parameters
    ----------
    database
        Open database with its tables created.
    receiver
        Name of the receiver process; stable over restarts, so that a new run closes what the last one left open.
    """

    def __init__(self, database: Database, receiver: str) -> None:
        self._database = database
        self._receiver = receiver

    def open_association(self, *, calling_ae_title: str, called_ae_title: str, host: str, port: int) -> int:
        """Record an accepted association; returns its number."""
        with self._database.write() as connection:
            association_id: int = connection.execute(
                insert(association).returning(association.c.id),
                {
                    "receiver": self._receiver,
                    "calling_ae_title": calling_ae_title,
                    "called_ae_title": called_ae_title,
                    "host": host,
                    "port": port,
                    "opened_at": self._database.now(),
                },
            ).scalar_one()
            return association_id

    def close_association(self, association_id: int, *, outcome: str, acknowledged: int) -> None:
        """Record how an association ended.

        Parameters
        ----------
        outcome
            "released", "aborted" or "lost".
        acknowledged
            Objects answered with success that have a row of their own: duplicates don't count.
        """
        with self._database.write() as connection:
            connection.execute(
                update(association)
                .where(association.c.id == association_id)
                .values(closed_at=self._database.now(), outcome=outcome, acknowledged=acknowledged)
            )

    def close_left_open(self) -> int:
        """Close the associations that an earlier run of this receiver never ended; returns how many."""
        with self._database.write() as connection:
            return connection.execute(
                update(association)
                .where(association.c.receiver == self._receiver, association.c.closed_at.is_(None))
                .values(closed_at=self._database.now(), outcome="interrupted")
            ).rowcount

    def close_of_others(self, alive: Collection[str]) -> int:
        """Close the associations that receivers left open which are not among those `alive`; returns how many.

        Their series would never be complete. A receiver that was only cut off, and comes back, goes on: what it
        records then opens a late generation, and the end of the association is written over this one.
        """
        with self._database.write() as connection:
            return connection.execute(
                update(association)
                .where(association.c.receiver.not_in(list(alive)), association.c.closed_at.is_(None))
                .values(closed_at=self._database.now(), outcome="interrupted")
            ).rowcount

    def record_rejection(self, *, calling_ae_title: str, called_ae_title: str, host: str, reason: str) -> None:
        """Count a rejected association request; repetitions share a row, and the latest `MAX_REJECTIONS` are kept."""
        now = self._database.now()
        key = {
            "calling_ae_title": calling_ae_title[:16],
            "called_ae_title": called_ae_title[:16],
            "host": host,
            "reason": reason[:255],
        }
        same = [rejection.c[name] == value for name, value in key.items()]
        with self._database.write() as connection:
            known = connection.execute(
                update(rejection).where(*same).values(last_at=now, count=rejection.c.count + 1)
            ).rowcount
            if not known:
                connection.execute(insert(rejection), {**key, "first_at": now, "last_at": now, "count": 1})
                # A stranger that calls under a new name each time must not fill the disk.
                latest = select(rejection.c.id).order_by(rejection.c.last_at.desc(), rejection.c.id.desc())
                connection.execute(delete(rejection).where(rejection.c.id.not_in(latest.limit(MAX_REJECTIONS))))

    def record_received(self, received: ReceivedInstance) -> Recorded:
        """Take an object into the ledger; durable when it returns.

        A new object joins the open arrival of its series, or opens the series' next generation.

        Raises
        ------
        LedgerUnavailable
            If the database can't take it; then the object must not be acknowledged.
        """
        return self.record_all([received])[0]

    def record_all(self, received: Sequence[ReceivedInstance]) -> list[Recorded]:
        """Take objects into the ledger in one transaction, all or none; durable when it returns.

        Raises
        ------
        LedgerUnavailable
            If the database can't take them; then none of them must be acknowledged.
        """
        for _ in range(3):
            try:
                with self._database.write() as connection:
                    recorded = [self._record(connection, one) for one in received]
                    fault_point("reception.committing")
                    return recorded
            except IntegrityError:
                # Another receiver took the same UID or opened the same series between our look and our write
                # (PostgreSQL only: SQLite has one writer). Its row is there now: look again.
                continue
        raise LedgerUnavailable("the ledger changed under three attempts to record an instance")

    def _record(self, connection: Connection, received: ReceivedInstance) -> Recorded:
        now = self._database.now()
        revision = 0
        for row in connection.execute(_SAME_UID, {"uid": received.sop_instance_uid}):
            if row.digest == received.digest and row.transfer_syntax_uid == received.transfer_syntax_uid:
                return Recorded(instance_id=row.id, outcome=RecordOutcome.DUPLICATE)
            revision = row.revision + 1
        arrival_id = connection.execute(_TOUCH_ARRIVAL, {"series": received.series_instance_uid, "at": now}).scalar()
        if arrival_id is None:
            arrival_id = _open_arrival(connection, received, now)
        reason = f"revision {revision} of a SOP Instance UID received with other content" if revision else None
        instance_id = connection.execute(
            _INSERT_INSTANCE,
            {
                "origin": "received",
                "association_id": received.association_id,
                "arrival_id": arrival_id,
                "state": InstanceState.STORED.value,
                "reason": reason,
                "sop_class_uid": received.sop_class_uid,
                "sop_instance_uid": received.sop_instance_uid,
                "study_instance_uid": received.study_instance_uid,
                "series_instance_uid": received.series_instance_uid,
                "transfer_syntax_uid": received.transfer_syntax_uid,
                "key": received.key,
                "size": received.size,
                "dataset_offset": received.dataset_offset,
                "digest": received.digest,
                "revision": revision,
                "at": now,
            },
        ).scalar_one()
        record_event(
            connection,
            instance,
            instance_id,
            at=now,
            event_name="receive",
            from_state=None,
            to_state=InstanceState.STORED.value,
            reason=reason,
        )
        return Recorded(instance_id=instance_id, outcome=RecordOutcome.REVISION if revision else RecordOutcome.NEW)

    def find_stored(self, instance_id: int) -> StoredFile | None:
        """Return the file of an instance; None where it was purged or set aside, and none has to be there."""
        query = select(instance.c.key, instance.c.size, instance.c.dataset_offset, instance.c.digest).where(
            instance.c.id == instance_id, instance.c.state == InstanceState.STORED.value
        )
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else StoredFile(**row._mapping)

    def replace_file(self, instance_id: int, *, old_key: str, new: StoredFile, reason: str) -> bool:
        """Let an instance have another file of the same data set; False if another process was first.

        Raises
        ------
        LedgerUnavailable
        """
        now = self._database.now()
        with self._database.write() as connection:
            changed = connection.execute(
                update(instance)
                .where(
                    instance.c.id == instance_id,
                    instance.c.key == old_key,
                    instance.c.digest == new.digest,
                    instance.c.state == InstanceState.STORED.value,
                )
                .values(key=new.key, size=new.size, dataset_offset=new.dataset_offset)
            )
            if changed.rowcount != 1:
                return False
            connection.execute(delete(object_check).where(object_check.c.instance_id == instance_id))
            record_event(
                connection,
                instance,
                instance_id,
                at=now,
                event_name="restore",
                from_state=InstanceState.STORED.value,
                to_state=InstanceState.STORED.value,
                reason=f"received again; before, {reason}",
            )
        return True

    def record_quarantined(
        self,
        *,
        association_id: int,
        key: str,
        size: int,
        dataset_offset: int,
        digest: str,
        reason: str,
        sop_class_uid: str | None = None,
        sop_instance_uid: str | None = None,
        transfer_syntax_uid: str | None = None,
    ) -> int:
        """Record the copy of an object that was refused as unreadable; returns its number."""
        now = self._database.now()
        with self._database.write() as connection:
            instance_id: int = connection.execute(
                _INSERT_INSTANCE,
                {
                    "origin": "received",
                    "association_id": association_id,
                    "state": InstanceState.QUARANTINED.value,
                    "reason": cut(reason),
                    "sop_class_uid": sop_class_uid,
                    "sop_instance_uid": sop_instance_uid,
                    "transfer_syntax_uid": transfer_syntax_uid,
                    "key": key,
                    "size": size,
                    "dataset_offset": dataset_offset,
                    "digest": digest,
                    "revision": 0,
                    "at": now,
                },
            ).scalar_one()
            record_event(
                connection,
                instance,
                instance_id,
                at=now,
                event_name="quarantine",
                from_state=None,
                to_state=InstanceState.QUARANTINED.value,
                reason=reason,
            )
            return instance_id


def _open_arrival(connection: Connection, received: ReceivedInstance, now: float) -> int:
    index_study(
        connection,
        received.study_instance_uid,
        terms=received.terms,
        association_id=received.association_id,
        now=now,
    )
    last = connection.scalar(
        select(func.max(arrival.c.generation)).where(arrival.c.series_instance_uid == received.series_instance_uid)
    )
    generation = 1 if last is None else last + 1
    arrival_id: int = connection.execute(
        insert(arrival).returning(arrival.c.id),
        {
            "series_instance_uid": received.series_instance_uid,
            "study_instance_uid": received.study_instance_uid,
            "generation": generation,
            "state": ArrivalState.OPEN.value,
            "attempts": 0,
            "opened_at": now,
            "last_received_at": now,
        },
    ).scalar_one()
    record_event(
        connection,
        arrival,
        arrival_id,
        at=now,
        event_name="open",
        from_state=None,
        to_state=ArrivalState.OPEN.value,
        reason=None if generation == 1 else f"late instance: generation {generation}",
    )
    return arrival_id
