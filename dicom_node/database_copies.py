"""Copies of a database that is in use: of one moment, and read again before they count."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Final

from sqlalchemy.engine import make_url

from dicom_node.errors import OperationRefused

WORKFLOW_SCHEMA: Final = "dbos"
"""The workflow engine's schema on PostgreSQL. It is in no copy: the ledger starts all work again (decision 4)."""


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy a SQLite database that others may be writing to, as it was at one moment.

    Parameters
    ----------
    target
        Must not exist; a file of its own, without a log, synced to the disk.

    Raises
    ------
    OperationRefused
        If it can't be read or written, or the copy is not sound.
    """
    partial = target.with_name(target.name + ".partial")
    try:
        partial.unlink(missing_ok=True)
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        # Opened for writing, as the index of the log may have to be made; nothing is written.
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=rw", uri=True)) as here,
            closing(sqlite3.connect(partial)) as there,
        ):
            # All pages in one step: one read transaction, which in WAL mode holds up no writer.
            here.backup(there)
            there.execute("PRAGMA journal_mode=DELETE")
            found = there.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise OperationRefused(
                f"the copy of {source} is damaged ({found}): see docs/storage.md on a damaged ledger"
            )
        sync_file(partial)
        partial.rename(target)
        sync_folder(target.parent)
    except (OSError, sqlite3.Error) as error:
        raise OperationRefused(f"{source} can't be copied to {target}: {error}") from error


def dump_postgres(url: str, target: Path, *, snapshot: str | None = None) -> None:
    """Dump a PostgreSQL database as it was at one moment, without the workflow engine's tables.

    Parameters
    ----------
    url
        As in the settings.
    snapshot
        The moment: what `pg_export_snapshot()` gave in a transaction that is still open.

    Raises
    ------
    OperationRefused
        If `pg_dump` is not installed or fails.
    """
    partial = target.with_name(target.name + ".partial")
    options = ["--format=custom", "--no-owner", "--no-privileges", f"--exclude-schema={WORKFLOW_SCHEMA}"]
    options += [f"--snapshot={snapshot}"] if snapshot else []
    _run("pg_dump", url, *options, f"--file={partial}")
    _run("pg_restore", None, "--list", str(partial))
    sync_file(partial)
    partial.rename(target)
    sync_folder(target.parent)


def restore_postgres(source: Path, url: str) -> None:
    """Bring a dump into an empty database, all or nothing; raises `OperationRefused`."""
    _run("pg_restore", url, "--no-owner", "--no-privileges", "--single-transaction", "--exit-on-error", str(source))


def _run(program: str, url: str | None, *arguments: str) -> None:
    found = _find(program)
    environment = dict(os.environ)
    command = [found]
    if url is not None:
        whole = make_url(url)
        if whole.password:
            # Not among the arguments, which every user of the machine can see.
            environment["PGPASSWORD"] = str(whole.password)
        plain = whole.set(drivername="postgresql")._replace(password=None)
        command.append(f"--dbname={plain.render_as_string(hide_password=False)}")
    try:
        done = subprocess.run(
            [*command, *arguments], env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    except OSError as error:
        raise OperationRefused(f"{found} can't be run ({error.strerror})") from error
    if done.returncode:
        said = (done.stderr.decode(errors="replace").strip().splitlines() or ["no reason"])[-1]
        raise OperationRefused(f"{program} failed: {said}")


def _find(program: str) -> str:
    found = shutil.which(program)
    if found is not None:
        return found
    # Where Debian keeps the programs of each version of the server.
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"), key=lambda p: int(p.parts[-3]))
    if not installed:
        raise OperationRefused(
            f"{program} is not installed: install PostgreSQL's client programs of the server's version or newer "
            "(Debian: postgresql-client)"
        )
    return str(installed[-1])


def sync_file(path: Path) -> None:
    """Have what was written to a file on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Have the names in a folder on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
