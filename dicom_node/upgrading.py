"""Bring the ledger of an earlier version of the program to this one, after a copy of it was made."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, select
from sqlalchemy.engine import make_url

from config.settings import Settings
from dicom_node.app import only_one
from dicom_node.database_copies import copy_sqlite, dump_postgres
from dicom_node.errors import OperationRefused
from dicom_node.fault_points import fault_point
from dicom_node.ledger import migrations, schema
from dicom_node.ledger.database import Database, ledger_url, require_version


@dataclass(frozen=True, kw_only=True)
class Upgrade:
    """What an upgrade did, or would do.

    Parameters
    ----------
    found
        Version of the ledger's tables before; None where there was no ledger.
    known
        Version that this program needs.
    copy
        The copy that was made of the ledger before; None where none was.
    """

    found: int | None
    known: int
    copy: Path | None

    @property
    def is_needed(self) -> bool:
        """True if the ledger is older than the program."""
        return self.found is not None and self.found < self.known


def upgrade(
    settings: Settings,
    *,
    dry: bool = False,
    with_copy: bool = True,
    clock: Callable[[], float] = time.time,
) -> Upgrade:
    """Migrate the ledger's tables, in one transaction, with every process of the node stopped.

    Parameters
    ----------
    dry
        Only tell what would be done.
    with_copy
        Copy the ledger first, to `backups` in the data folder; False where somebody else has.

    Raises
    ------
    OperationRefused
        If a process of the node runs, the copy fails, or the tables are not what their version says; nothing is
        changed then.
    LedgerOutdated
        If the ledger is of a newer version.
    LedgerUnavailable
    """
    data_dir = settings.node.data_dir
    url = ledger_url(settings.node.database_url, data_dir)
    if not _is_there(url):
        return Upgrade(found=None, known=schema.SCHEMA_VERSION, copy=None)
    database = Database(url)
    try:
        database.set_clock()
        with database.read() as connection:
            found = migrations.version_of(connection)
        if found is not None and found > schema.SCHEMA_VERSION:
            require_version(found)
        planned = Upgrade(found=found, known=schema.SCHEMA_VERSION, copy=None)
        if dry or not planned.is_needed:
            return planned
        with _nobody_here(data_dir):
            with database.read() as connection:
                _refuse_if_running(connection, settings, database.now())
            copy = _copy(settings, url, found or 0, clock()) if with_copy else None
            fault_point("upgrade.copied")
            with database.migrating() as connection:
                _refuse_if_running(connection, settings, database.now())
                _migrate(connection, found or 0, database.now())
                fault_point("upgrade.migrated")
    finally:
        database.close()
    return Upgrade(found=found, known=schema.SCHEMA_VERSION, copy=copy)


def _is_there(url: str) -> bool:
    """Tell whether there is a database; opening a SQLite file that is not there would make one."""
    whole = make_url(url)
    return whole.get_backend_name() != "sqlite" or Path(str(whole.database)).exists()


@contextmanager
def _nobody_here(data_dir: Path) -> Iterator[None]:
    """Hold the lock of every role that ever ran on this data folder, so that none runs and none starts."""
    with ExitStack() as stack:
        for lock in sorted(data_dir.glob("*.lock")):
            stack.enter_context(only_one(data_dir, lock.stem))
        yield


def _refuse_if_running(connection: Connection, settings: Settings, now: float) -> None:
    # The columns that the first version had already.
    table = schema.process
    rows = connection.execute(
        select(table.c.name, table.c.host, table.c.seen_at).where(table.c.seen_at >= now - settings.node.dead_after_s)
    ).all()
    if rows:
        names = ", ".join(f"{row.name} on {row.host} ({max(0, now - row.seen_at):.0f} s ago)" for row in rows)
        raise OperationRefused(
            f"the node runs, or did a moment ago: {names}. Stop it on every machine; one that did not end in order "
            f"counts as running for {settings.node.dead_after_s:g} s"
        )


def _copy(settings: Settings, url: str, version: int, now: float) -> Path:
    folder = settings.node.data_dir / "backups"
    at = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise OperationRefused(f"{folder} can't be made ({error.strerror}): no copy of the ledger") from error
    if url.startswith("sqlite"):
        target = folder / f"ledger-version-{version}-{at}.sqlite"
        copy_sqlite(Path(str(make_url(url).database)), target)
    else:
        target = folder / f"ledger-version-{version}-{at}.dump"
        dump_postgres(settings.node.database_url, target)
    return target


def _migrate(connection: Connection, found: int, now: float) -> None:
    migrations.migrate(connection)
    wrong = [*migrations.differences(connection), *migrations.dangling_references(connection)]
    if wrong:
        raise OperationRefused(
            f"the ledger says version {found}, but its tables are others: {'; '.join(wrong[:5])}; nothing was changed"
        )
    connection.execute(
        schema.event.insert().values(
            at=now,
            subject="ledger",
            subject_id=schema.SCHEMA_VERSION,
            from_state=str(found),
            to_state=str(schema.SCHEMA_VERSION),
            event="upgrade",
        )
    )
