"""What reading stored objects again found, and which files the ledger knows at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, insert, select

from dicom_node.integrity import Examined, Finding
from dicom_node.ledger.database import Database, cut, record_event
from dicom_node.ledger.schema import instance, object_check
from dicom_node.states import InstanceState

_BATCH = 500
_SHOWN = 50


@dataclass(frozen=True, kw_only=True)
class CheckedObject:
    """An object that is to be read again."""

    instance_id: int
    key: str
    size: int
    dataset_offset: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class CheckSummary:
    """How far the reading of all objects is, and what is wrong with some.

    Attributes
    ----------
    objects, checked
        Objects in the store, and how many of them were read at least once.
    oldest_at
        When the one that waits longest was read, in seconds since the epoch.
    findings
        The objects that are not sound; the last ones.
    faults
        Their number.
    """

    objects: int
    checked: int
    oldest_at: float | None
    faults: int
    findings: list[dict[str, Any]]


class CheckLedger:
    """The side of the ledger that looks after the files."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def due(self, older_than_s: float, limit: int = 50) -> list[CheckedObject]:
        """Return objects that were not read for this time, those that were never read first."""
        before = self._database.now() - older_than_s
        query = (
            select(instance.c.id, instance.c.key, instance.c.size, instance.c.dataset_offset, instance.c.digest)
            .outerjoin(object_check, object_check.c.instance_id == instance.c.id)
            .where(
                instance.c.state == InstanceState.STORED.value,
                object_check.c.checked_at.is_(None) | (object_check.c.checked_at <= before),
            )
            .order_by(func.coalesce(object_check.c.checked_at, 0.0), instance.c.id)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [
                CheckedObject(
                    instance_id=row.id,
                    key=row.key,
                    size=row.size,
                    dataset_offset=row.dataset_offset,
                    digest=row.digest,
                )
                for row in connection.execute(query)
            ]

    def checked_since(self, at: float) -> set[str]:
        """Return the keys of the objects that were found sound at that time or later."""
        query = (
            select(instance.c.key)
            .join(object_check, object_check.c.instance_id == instance.c.id)
            .where(object_check.c.checked_at >= at, object_check.c.finding == Finding.SOUND.value)
        )
        with self._database.read() as connection:
            return set(connection.scalars(query))

    def record(self, examined: Sequence[tuple[str, Examined]]) -> list[str]:
        """Take what was found of objects, by key; returns the keys with a fault that is new.

        Objects that were purged or moved to quarantine meanwhile are left out: their file is rightly gone.
        """
        found = dict(examined)
        new: list[str] = []
        now = self._database.now()
        with self._database.write() as connection:
            rows = connection.execute(
                select(instance.c.id, instance.c.key, instance.c.state, object_check.c.finding)
                .outerjoin(object_check, object_check.c.instance_id == instance.c.id)
                .where(instance.c.key.in_(found), instance.c.state == InstanceState.STORED.value)
            ).all()
            if not rows:
                return []
            connection.execute(delete(object_check).where(object_check.c.instance_id.in_([row.id for row in rows])))
            connection.execute(
                insert(object_check),
                [
                    {
                        "instance_id": row.id,
                        "checked_at": now,
                        "finding": found[row.key].finding.value,
                        "reason": cut(found[row.key].reason or None),
                    }
                    for row in rows
                ],
            )
            for row in rows:
                one = found[row.key]
                if one.is_sound or row.finding == one.finding.value:
                    continue
                new.append(row.key)
                record_event(
                    connection,
                    instance,
                    row.id,
                    at=now,
                    event_name=one.finding.value,
                    from_state=row.state,
                    to_state=row.state,
                    reason=one.reason,
                )
        return new

    def known(self, keys: Sequence[str]) -> dict[str, InstanceState]:
        """Return the state of each of `keys` that the ledger knows."""
        states: dict[str, InstanceState] = {}
        with self._database.read() as connection:
            for begin in range(0, len(keys), _BATCH):
                batch = keys[begin : begin + _BATCH]
                query = select(instance.c.key, instance.c.state).where(instance.c.key.in_(batch))
                states.update((row.key, InstanceState(row.state)) for row in connection.execute(query))
        return states

    def record_orphan(self, key: str, reason: str) -> None:
        """Write to the audit what became of a file that the ledger does not know."""
        with self._database.write() as connection:
            record_event(
                connection,
                instance,
                0,
                at=self._database.now(),
                event_name="orphan",
                from_state=None,
                to_state="orphan",
                reason=f"{key}: {reason}",
            )

    def summary(self) -> CheckSummary:
        """Return how far the reading of all objects is, and what is wrong."""
        stored = instance.c.state == InstanceState.STORED.value
        joined = select(func.count(), func.min(object_check.c.checked_at)).join(
            instance, instance.c.id == object_check.c.instance_id
        )
        bad = object_check.c.finding != Finding.SOUND.value
        shown = (
            select(
                instance.c.key,
                instance.c.sop_instance_uid,
                instance.c.origin,
                object_check.c.finding,
                object_check.c.reason,
                object_check.c.checked_at,
            )
            .join(instance, instance.c.id == object_check.c.instance_id)
            .where(stored, bad)
            .order_by(object_check.c.checked_at.desc(), instance.c.id.desc())
            .limit(_SHOWN)
        )
        with self._database.read() as connection:
            objects = connection.scalar(select(func.count()).select_from(instance).where(stored)) or 0
            checked, oldest = connection.execute(joined.where(stored)).one()
            faults = connection.execute(joined.where(stored, bad)).one()[0]
            findings = [dict(row._mapping) for row in connection.execute(shown)]
        return CheckSummary(objects=objects, checked=checked, oldest_at=oldest, faults=faults, findings=findings)
