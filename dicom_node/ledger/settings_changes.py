"""Who changed which settings of a running node, and what became of it."""

from __future__ import annotations

import enum
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select, text, update

from dicom_node.ledger.database import Database
from dicom_node.ledger.schema import process, settings_change

_LOCK = 0x1D05E004


class ChangeOutcome(enum.StrEnum):
    """What became of a change."""

    REQUESTED = "requested"  # by a command; no process has looked at it yet
    APPLIED = "applied"
    REFUSED = "refused"


@dataclass(frozen=True, kw_only=True)
class RecordedChange:
    """One line of the history; `changes` are `settings_changes.Change` or faults, as plain values."""

    number: int
    at: float
    node: str
    who: str
    outcome: ChangeOutcome
    digest: str | None
    changes: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class RunningProcess:
    """A process of this machine's node, and the settings that it works with."""

    name: str
    pid: int
    seen_at: float
    settings_digest: str | None


class SettingsChangeLedger:
    """The side of the ledger that keeps the changes of one node's settings."""

    def __init__(self, database: Database, node: str) -> None:
        self._database = database
        self._node = node

    def request(self, who: str, digest: str) -> int:
        """Write down that `who` wants the file with this SHA-256 in force; returns the number of the line."""
        with self._database.write() as connection:
            return self._insert(connection, who, ChangeOutcome.REQUESTED, digest, [])

    def note(
        self, outcome: ChangeOutcome, digest: str | None, changes: Sequence[dict[str, Any]], *, who: str = "SIGHUP"
    ) -> None:
        """Write down what became of a change; every process of the node does, and the first one counts.

        Parameters
        ----------
        who
            Where no command asked for it.
        """
        ours = settings_change.c.node == self._node
        with self._database.write() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            last = connection.execute(
                select(settings_change).where(ours).order_by(settings_change.c.id.desc()).limit(1)
            ).one_or_none()
            if last is not None and last.outcome == ChangeOutcome.REQUESTED:
                connection.execute(
                    update(settings_change)
                    .where(settings_change.c.id == last.id)
                    .values(outcome=outcome.value, digest=digest, changes=json.dumps(list(changes)))
                )
            elif last is None or (last.outcome, last.digest) != (outcome.value, digest):
                self._insert(connection, who, outcome, digest, changes)

    def _insert(
        self,
        connection: Connection,
        who: str,
        outcome: ChangeOutcome,
        digest: str | None,
        changes: Sequence[dict[str, Any]],
    ) -> int:
        added = connection.execute(
            insert(settings_change).values(
                at=self._database.now(),
                node=self._node,
                who=who[:255],
                outcome=outcome.value,
                digest=digest,
                changes=json.dumps(list(changes)),
            )
        ).inserted_primary_key
        assert added is not None
        return int(added[0])

    def get(self, number: int) -> RecordedChange:
        """Return one line."""
        with self._database.read() as connection:
            return _recorded(connection.execute(select(settings_change).where(settings_change.c.id == number)).one())

    def history(self, limit: int) -> list[RecordedChange]:
        """Return the last changes of this node, the latest first."""
        query = select(settings_change).where(settings_change.c.node == self._node)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(settings_change.c.id.desc()).limit(limit))
            return [_recorded(row) for row in rows]

    def processes(self, machine: str, heard_within_s: float) -> list[RunningProcess]:
        """Return the processes of this node on `machine` that were heard of lately."""
        query = select(process.c.name, process.c.pid, process.c.seen_at, process.c.settings_digest).where(
            process.c.machine == machine[-512:],
            process.c.name.startswith(f"{self._node}:", autoescape=True),
            process.c.seen_at >= self._database.now() - heard_within_s,
        )
        with self._database.read() as connection:
            return [RunningProcess(**row._mapping) for row in connection.execute(query.order_by(process.c.name))]


def _recorded(row: Any) -> RecordedChange:
    fields = row._mapping
    return RecordedChange(
        number=fields["id"],
        at=fields["at"],
        node=fields["node"],
        who=fields["who"],
        outcome=ChangeOutcome(fields["outcome"]),
        digest=fields["digest"],
        changes=json.loads(fields["changes"]),
    )
