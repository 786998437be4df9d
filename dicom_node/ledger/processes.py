"""Which processes of the node are alive, by their heartbeat."""

from __future__ import annotations

import os
import socket

from sqlalchemy import delete, insert, select, update

from dicom_node.ledger.database import Database
from dicom_node.ledger.schema import process

HEARTBEAT_S = 5.0
# A process that has been silent for this long is taken for dead; a stalled disk may hold up a beat or two.
DEAD_AFTER_S = 60.0


class ProcessLedger:
    """The side of the ledger that knows the node's processes.

    Parameters
    ----------
    database
        Open database with its tables created.
    name
        Unique name of this process; stable over restarts.
    role
        receiver or worker.
    """

    def __init__(self, database: Database, *, name: str, role: str) -> None:
        self._database = database
        self._name = name
        self._role = role
        self._started_at = database.now()
        self._beaten_at: float | None = None
        self._steady_since = self._started_at

    def beat(self) -> None:
        """Say that this process is alive."""
        now = self._database.now()
        values = {
            "role": self._role,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started_at": self._started_at,
            "seen_at": now,
        }
        with self._database.write() as connection:
            known = connection.execute(update(process).where(process.c.name == self._name).values(**values)).rowcount
            if not known:
                connection.execute(insert(process), {"name": self._name, **values})
        if self._beaten_at is None or now - self._beaten_at > DEAD_AFTER_S / 2:
            self._steady_since = now
        self._beaten_at = now

    def can_judge(self) -> bool:
        """Return whether the silence of another process means that it is dead.

        Not so while the ledger was away: then all of them were silent, and have not all been heard of again.
        """
        if self._beaten_at is None:
            return False
        now = self._database.now()
        return now - self._beaten_at <= DEAD_AFTER_S / 2 and now - self._steady_since >= DEAD_AFTER_S

    def leave(self) -> None:
        """Say that this process ends in order."""
        with self._database.write() as connection:
            connection.execute(delete(process).where(process.c.name == self._name))

    def alive(self, role: str) -> set[str]:
        """Return the names of the processes of `role` that were heard of lately; this one lives in any case."""
        with self._database.read() as connection:
            heard = connection.scalars(
                select(process.c.name).where(
                    process.c.role == role, process.c.seen_at >= self._database.now() - DEAD_AFTER_S
                )
            )
            return {self._name, *heard}
