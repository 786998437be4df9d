"""Which processes of the node are alive, by their heartbeat."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import delete, insert, select, update

from dicom_node.errors import LedgerError
from dicom_node.ledger.database import Database
from dicom_node.ledger.schema import process

HEARTBEAT_S = 5.0
# A process that has been silent for this long is taken for dead; a stalled disk may hold up a beat or two.
DEAD_AFTER_S = 60.0
# Time in which one that lives is heard of for certain.
WATCH_S = 3 * HEARTBEAT_S


class NameTaken(LedgerError):
    """Another process works under this name; the message says where."""


@dataclass(frozen=True, kw_only=True)
class _Claim:
    """Who has a name, and when that one was heard of."""

    machine: str | None
    host: str
    token: str | None
    seen_at: float


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
    machine
        Host and data folder: no two processes of one name run in the same, so one that starts there comes after the
        last. Empty: this host.
    dead_after_s
        Silence after which a process is taken for dead, in seconds.
    """

    def __init__(
        self,
        database: Database,
        *,
        name: str,
        role: str,
        machine: str = "",
        dead_after_s: float = DEAD_AFTER_S,
    ) -> None:
        self._database = database
        self._name = name
        self._role = role
        self._machine = machine or socket.gethostname()
        self._token = secrets.token_hex(16)
        self.dead_after_s = dead_after_s
        self.settings_digest: str | None = None
        """SHA-256 of the settings file that this process works with."""
        self._started_at = database.now()
        self._beaten_at: float | None = None
        self._steady_since = self._started_at

    @property
    def name(self) -> str:
        """Name of this process."""
        return self._name

    def join(self, pause: Callable[[float], None] = time.sleep) -> None:
        """Take the name, and say that this process is alive; before it does any work.

        Where a process of another machine had the name lately, this watches for a while whether that one is heard of
        again. So neither a clock that is wrong nor a container that comes back under another host name is taken for a
        second machine.

        Raises
        ------
        NameTaken
            If a living process of another machine has the name.
        """
        first = self._claim()
        if first is not None and first.machine != self._machine and self._is_recent(first):
            for _ in range(round(WATCH_S)):
                pause(1.0)
                now = self._claim()
                if now is not None and now.machine != self._machine and now.seen_at != first.seen_at:
                    raise NameTaken(
                        f"{now.host} runs {self._name} already: give each machine of a cluster a node.name of its own"
                    )
        self._write(take=True)

    def beat(self) -> None:
        """Say that this process is alive.

        Raises
        ------
        NameTaken
            If another process has taken the name since.
        """
        if not self._write(take=False):
            raise NameTaken(f"another process has taken the name {self._name}")

    def _write(self, *, take: bool) -> bool:
        now = self._database.now()
        values = {
            "role": self._role,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started_at": self._started_at,
            "seen_at": now,
            "machine": self._machine[-512:],
            "token": self._token,
            "settings_digest": self.settings_digest,
        }
        named = process.c.name == self._name
        ours = named if take else named & (process.c.token == self._token)
        with self._database.write() as connection:
            if not connection.execute(update(process).where(ours).values(**values)).rowcount:
                if connection.scalar(select(process.c.name).where(named)) is not None:
                    return False
                connection.execute(insert(process), {"name": self._name, **values})
        if self._beaten_at is None or now - self._beaten_at > self.dead_after_s / 2:
            self._steady_since = now
        self._beaten_at = now
        return True

    def _claim(self) -> _Claim | None:
        with self._database.read() as connection:
            row = connection.execute(
                select(process.c.machine, process.c.host, process.c.token, process.c.seen_at).where(
                    process.c.name == self._name
                )
            ).one_or_none()
        return None if row is None else _Claim(**row._mapping)

    def _is_recent(self, claim: _Claim) -> bool:
        # Either way: the clock of the one that wrote it, or ours, may be wrong.
        return abs(self._database.now() - claim.seen_at) < self.dead_after_s

    def can_judge(self) -> bool:
        """Return whether the silence of another process means that it is dead.

        Not so while the ledger was away: then all of them were silent, and have not all been heard of again.
        """
        if self._beaten_at is None:
            return False
        now = self._database.now()
        return now - self._beaten_at <= self.dead_after_s / 2 and now - self._steady_since >= self.dead_after_s

    def leave(self) -> None:
        """Say that this process ends in order."""
        with self._database.write() as connection:
            connection.execute(delete(process).where(process.c.name == self._name, process.c.token == self._token))

    def alive(self, role: str) -> set[str]:
        """Return the names of the processes of `role` that were heard of lately; this one lives in any case."""
        with self._database.read() as connection:
            heard = connection.scalars(
                select(process.c.name).where(
                    process.c.role == role, process.c.seen_at >= self._database.now() - self.dead_after_s
                )
            )
            return {self._name, *heard}
