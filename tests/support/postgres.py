"""A PostgreSQL cluster of its own for tests: a temporary folder, a free port of the loopback interface, fsync on."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
import pytest

from tests.support.peers import LOOPBACK, find_free_port

_PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))

requires_postgres = pytest.mark.skipif(not _PROGRAMS, reason="PostgreSQL is not installed (Debian package postgresql)")


class PostgresCluster:
    """A running PostgreSQL server, which can be stopped, killed and started again.

    Parameters
    ----------
    folder
        Empty folder that the server's user can reach; the server refuses to run as root, so there it runs as the user
        that the Debian package made.
    address
        Where it listens.
    prefix
        What runs a command on the host of that address.
    """

    def __init__(self, folder: Path, *, address: str = LOOPBACK, prefix: Sequence[str] = ()) -> None:
        self.folder = folder
        self.address = address
        self._prefix = tuple(prefix)
        self.port = find_free_port()
        self._data = folder / "data"
        self._databases = 0

    def __enter__(self) -> Self:
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
        self._run("initdb", "-D", self._data, "-A", "trust", "-U", "node", "--no-locale", "-E", "UTF8")
        (self._data / "postgresql.auto.conf").write_text(
            f"port = {self.port}\nlisten_addresses = '{self.address}'\nunix_socket_directories = '{self.folder}'\n"
            "fsync = on\nsynchronous_commit = on\nmax_connections = 200\nshared_buffers = 32MB\n"
        )
        if self.address != LOOPBACK:
            with (self._data / "pg_hba.conf").open("a") as rules:
                rules.write(f"host all all {self.address}/24 trust\n")
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self._run("pg_ctl", "-D", self._data, "-l", self.folder / "log.txt", "-w", "-t", "60", "start")

    def stop(self, mode: str = "immediate") -> None:
        """Stop the server; `immediate` is a crash: no checkpoint, connections cut."""
        self._run("pg_ctl", "-D", self._data, "-w", "-t", "60", "-m", mode, "stop")

    def create_database(self) -> str:
        """Create an empty database; returns its URL as the settings take it."""
        self._databases += 1
        name = f"test{self._databases}"
        with psycopg.connect(self.local_url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
        return f"postgresql://node@{self.address}:{self.port}/{name}"

    def local_url(self, name: str) -> str:
        """Return the URL of a database by the server's Unix socket, which no network keeps from us."""
        return f"postgresql://node@/{name}?host={self.folder}&port={self.port}"

    def _run(self, program: str, *arguments: str | Path) -> None:
        command = [str(_PROGRAMS[-1] / program), *map(str, arguments)]
        if os.geteuid() == 0:
            command = [*self._prefix, "runuser", "-u", "postgres", "--", *command]
        # Not a pipe: the server would inherit it, and the call would wait for the server's end.
        with open(self.folder / f"{program}.txt", "ab") as output:
            done = subprocess.run(command, stdout=output, stderr=output, cwd="/", timeout=120, check=False)
        if done.returncode:
            raise RuntimeError((self.folder / f"{program}.txt").read_text(errors="replace")[-2000:])
