"""The connection to the ledger's database: short transactions, durable commits, one kind of error."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event, insert, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import ExceptionContext, make_url
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from dicom_node.errors import IllegalTransition, LedgerOutdated, LedgerUnavailable
from dicom_node.ledger import migrations, schema
from dicom_node.states import State, Transitions, advance

TIMEOUT_S = 15.0
"""Longest wait for the database's answer, or for a lock that another has, where the settings say nothing else."""
# SQLite with WAL and synchronous=FULL syncs the log at every commit (sqlite.org/pragma.html#pragma_synchronous).
_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON")

_CREATING = 0x1D05E001
TAKING_OVER = 0x1D05E002
ALERTING = 0x1D05E003
"""Locks on the database, by number."""

_SILENCE_S = 1.0
_REMEMBER_S = 5.0
# The server ends a statement that takes too long; where nothing comes so long after that, it is silent.
_AFTER_SERVER_S = 3.0
_PATIENCE_S = 120.0
MIGRATION_S = 86_400.0
"""Longest that a migration or a dump of the ledger may take."""
# A network that is cut without a word: the driver must give up before the rest of the cluster gives this machine up.
_CONNECTION = {
    "connect_timeout": 3,
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    # The same for the server: it shall not keep the locks of a machine that it can't hear any more.
    "options": "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=3 -c tcp_keepalives_count=3 "
    "-c tcp_user_timeout=15000 -c idle_in_transaction_session_timeout=45000",
}


def ledger_url(database_url: str, data_dir: Path) -> str:
    """Return the SQLAlchemy URL of the ledger for the settings' `database_url` (empty: SQLite in `data_dir`)."""
    if not database_url:
        return f"sqlite:///{data_dir / 'ledger.sqlite'}"
    return database_url.replace("postgresql://", "postgresql+psycopg://", 1)


def bounded_url(url: str) -> str:
    """Return a PostgreSQL URL that says when its connections give up, for those who connect themselves."""
    return make_url(url).update_query_dict({k: str(v) for k, v in _CONNECTION.items()}).render_as_string(False)


def bounded_engine_options(url: str, timeout_s: float) -> dict[str, Any]:
    """Return what `create_engine` of the workflow engine takes for it to give up on a server that is silent.

    Twice the ledger's time: the engine's own migrations take longer than our statements. The server is given no limit,
    as the engine takes that error for one that trying again can't help.
    """
    if not url.startswith("postgresql"):
        return {}
    parsed = make_url(url)
    arguments, options = parsed.get_dialect()().create_connect_args(parsed)
    # psycopg takes long to load, and a node on SQLite needs none of it.
    from dicom_node.ledger.bounded_connection import connect_bounded

    return {"creator": lambda: connect_bounded(*arguments, answer_within_s=2 * timeout_s, **options)}


class Database:
    """Transactions on the ledger.

    Parameters
    ----------
    url
        SQLAlchemy URL (`ledger_url`).
    clock
        Seconds since the epoch; tests give their own. Absent: on PostgreSQL, the server's clock, which all machines
        share.
    timeout_s
        Longest wait for an answer of the database, or for a lock that another has, in seconds.
    """

    def __init__(self, url: str, clock: Callable[[], float] | None = None, *, timeout_s: float = TIMEOUT_S) -> None:
        self.engine = _engine(url, timeout_s)
        self._ahead_s = 0.0
        self._follows_server = clock is None and not url.startswith("sqlite")
        self._clock = clock or time.time

    def now(self) -> float:
        """Return the time in seconds since the epoch."""
        return self._clock() + self._ahead_s

    def set_clock(self) -> None:
        """Measure again how far the clock of the database's server is ahead of ours; raises `LedgerUnavailable`."""
        if self._follows_server:
            with self.read() as connection:
                before = time.time()
                server = float(connection.scalar(text("SELECT extract(epoch FROM clock_timestamp())")) or before)
                after = time.time()
            # Not known better than the question took: nothing is changed for less than that.
            if abs(server - (before + after) / 2 - self._ahead_s) > after - before:
                self._ahead_s = server - (before + after) / 2

    @contextmanager
    def exclusively(self, lock: int) -> Iterator[bool]:
        """Run a block that no two processes are in at once; gives False, at once, where another one is in it.

        Held by the session with the database: a process that dies or is cut off loses it. On SQLite it is always
        given: what runs under it must bear being done twice there, by processes of one machine.
        """
        if self.engine.dialect.name != "postgresql":
            yield True
            return
        with self._translated(), self.engine.connect() as connection:
            yield bool(connection.scalar(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": lock}))
            connection.rollback()

    def create(self) -> None:
        """Create the tables of a new ledger; refuse one of another version of the program.

        Raises
        ------
        LedgerUnavailable
            If the database can't be reached.
        LedgerOutdated
            If its tables are of another version.
        """
        with self._translated(), self.engine.begin() as connection, patiently(connection):
            self._lock_creation(connection)
            version = migrations.version_of(connection)
            if version is None:
                schema.metadata.create_all(connection)
                migrations.note_version(connection, schema.SCHEMA_VERSION)
                migrations.stamp(connection, schema.SCHEMA_VERSION)
        self.set_clock()
        if version is not None:
            require_version(version)

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        """Run a transaction that changes the tables, alone: no process of any version starts meanwhile.

        Raises
        ------
        LedgerUnavailable
            If the database can't be reached or refuses a change; then nothing was changed.
        """
        with self._translated(), self.engine.connect() as connection:
            on_sqlite = connection.dialect.name == "sqlite"
            if on_sqlite:
                # Without effect within a transaction. A table that is made anew would take its references with it.
                connection.connection.execute("PRAGMA foreign_keys=OFF")
            try:
                with connection.begin(), patiently(connection, MIGRATION_S):
                    self._lock_creation(connection)
                    yield connection
            finally:
                if on_sqlite:
                    # Whoever takes the connection next finds it as it is configured.
                    connection.invalidate()

    def require_version(self) -> None:
        """Raise `LedgerOutdated` if the tables are of another version now, and `LedgerUnavailable`."""
        with self.read() as connection:
            version = connection.scalar(select(schema.schema_version.c.version))
        if version is not None:
            require_version(version)

    def _lock_creation(self, connection: Connection) -> None:
        if connection.dialect.name == "postgresql":
            # Several machines may start on an empty database at once.
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _CREATING})

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Run a transaction that changes something; durable when the block has ended.

        Raises
        ------
        LedgerUnavailable
            If the database can't be reached, is locked or is full. A violated constraint comes as
            SQLAlchemy's IntegrityError: only the caller knows what it means.
        """
        is_committing = False
        try:
            with self.engine.begin() as connection:
                yield connection
                is_committing = True
        except IntegrityError:
            raise
        except SQLAlchemyError as error:
            raise _unavailable(error, may_be_committed=is_committing and not _is_full(error)) from error

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Run a transaction that only reads; raises `LedgerUnavailable`."""
        with self._translated(), self.engine.connect().execution_options(ledger_begin="BEGIN") as connection:
            yield connection

    def check(self) -> None:
        """Have SQLite check its own pages; PostgreSQL looks after its.

        Raises
        ------
        LedgerUnavailable
            If the file is damaged, with what is wrong.
        """
        if self.engine.dialect.name != "sqlite":
            return
        with self.read() as connection:
            found = connection.execute(text("PRAGMA quick_check(1)")).scalar()
        if found != "ok":
            raise LedgerUnavailable(f"ledger database: {str(found).strip().splitlines()[-1]}")

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError:
            raise
        except SQLAlchemyError as error:
            raise _unavailable(error) from error


def require_version(version: int) -> None:
    """Raise `LedgerOutdated`, with what to do, unless `version` is that of this program's tables."""
    known = schema.SCHEMA_VERSION
    if version < known:
        raise LedgerOutdated(
            f"the ledger has schema version {version}, this program needs {known}: stop the node on every machine, "
            "then `dicom-node upgrade -c FILE`",
            version,
        )
    if version > known:
        raise LedgerOutdated(
            f"the ledger has schema version {version}, this program knows {known}: run the version of dicom-node that "
            "wrote it, or restore the backup that its upgrade made",
            version,
        )


def _unavailable(error: SQLAlchemyError, *, may_be_committed: bool = False) -> LedgerUnavailable:
    cause = getattr(error, "orig", None) or error
    return LedgerUnavailable(
        f"ledger database: {str(cause).strip().splitlines()[0]}", may_be_committed=may_be_committed
    )


def _is_full(error: SQLAlchemyError) -> bool:
    """Tell whether SQLite had no space for a commit: then the commit's last frame is not in the log."""
    cause = getattr(error, "orig", None)
    return isinstance(cause, sqlite3.Error) and getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


# After these the connection can't be trusted: it may hold a view of the log that the disk does not have, or a file
# descriptor of a database that was replaced (sqlite.org/rescode.html).
_REOPENED_AFTER = frozenset(
    {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB,
     sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PROTOCOL}
)  # fmt: skip


def reopen_after_faults(target: Engine | type[Engine]) -> None:
    """Make SQLAlchemy open new SQLite connections after an error of the disk, as it does after one of the network.

    Parameters
    ----------
    target
        One engine, or `Engine` for all of the process. The workflow engine tries again for as long as it takes where
        SQLAlchemy says that a connection was lost, and fails the workflow for good where it does not.
    """

    @event.listens_for(target, "handle_error")
    def _lost(context: ExceptionContext) -> None:
        cause = context.original_exception
        code = getattr(cause, "sqlite_errorcode", None) if isinstance(cause, sqlite3.Error) else None
        if code is not None and code & 0xFF in _REOPENED_AFTER:
            context.is_disconnect = True
            # SQLAlchemy closes the connection now, but SQLite keeps a closed one, and its lock, for as long as a
            # statement of it lives: the cursor does in the error's traceback, until the garbage collector comes by.
            with contextlib.suppress(sqlite3.Error, AttributeError):
                if context.cursor is not None:
                    context.cursor.close()
            with contextlib.suppress(sqlite3.Error, AttributeError):
                if context.connection is not None:
                    context.connection.connection.dbapi_connection.rollback()  # type: ignore[union-attr]


def _engine(url: str, timeout_s: float) -> Engine:
    if not url.startswith("sqlite"):
        # A server that lives ends a statement that is slow, or waits for a lock: the connection stays usable.
        options = f"{_CONNECTION['options']} -c statement_timeout={int(timeout_s * 1000)}"
        engine = create_engine(
            url,
            pool_size=8,
            max_overflow=64,
            pool_pre_ping=True,
            pool_timeout=timeout_s,
            connect_args={**_CONNECTION, "options": options},
        )
        return _remembering_silence(engine, timeout_s + _AFTER_SERVER_S)
    engine = create_engine(
        url, pool_size=8, max_overflow=128, pool_timeout=timeout_s, connect_args={"timeout": timeout_s}
    )

    reopen_after_faults(engine)

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: object) -> None:
        # The driver's own BEGIN comes too late and takes no write lock; ours is below.
        connection.isolation_level = None
        for pragma in (*_PRAGMAS, f"busy_timeout={int(timeout_s * 1000)}"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # IMMEDIATE takes the write lock at once: two writers wait for each other instead of failing at commit.
        connection.exec_driver_sql(connection.get_execution_options().get("ledger_begin", "BEGIN IMMEDIATE"))

    return engine


@contextmanager
def patiently(connection: Connection, seconds: float = _PATIENCE_S) -> Iterator[None]:
    """Let the statements of a transaction take longer: at a start others may be making the same tables."""
    if connection.dialect.name != "postgresql":
        yield
        return
    driver: Any = connection.connection.driver_connection
    usual_s, driver.answer_within_s = driver.answer_within_s, seconds + _AFTER_SERVER_S
    try:
        connection.execute(text(f"SET LOCAL statement_timeout = {int(seconds * 1000)}"))
        connection.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = {int(seconds * 1000)}"))
        yield
    finally:
        driver.answer_within_s = usual_s


def _remembering_silence(engine: Engine, answer_within_s: float) -> Engine:
    """Let connections fail at once for a moment after one had no answer at all.

    A receiver that is cut off from the database can then say so at once to every modality, which tries another.
    """
    from dicom_node.ledger.bounded_connection import connect_bounded

    silent_until = 0.0

    @event.listens_for(engine, "do_connect")
    def _connect(dialect: Any, _record: object, arguments: Any, options: Any) -> Any:
        nonlocal silent_until
        begun = time.monotonic()
        failure = dialect.loaded_dbapi.OperationalError
        if begun < silent_until:
            raise failure("its server gave no answer a moment ago")
        try:
            return connect_bounded(*arguments, answer_within_s=answer_within_s, **options)
        except failure:
            # A server that refuses does so at once, and may be back at any time.
            if time.monotonic() - begun > _SILENCE_S:
                silent_until = time.monotonic() + _REMEMBER_S
            raise

    return engine


def record_event(
    connection: Connection,
    table: Table,
    row_id: int,
    *,
    at: float,
    event_name: str,
    from_state: str | None,
    to_state: str,
    reason: str | None = None,
) -> None:
    """Append to the audit of changes."""
    connection.execute(
        insert(schema.event),
        {
            "at": at,
            "subject": table.name,
            "subject_id": row_id,
            "from_state": from_state,
            "to_state": to_state,
            "event": event_name,
            "reason": cut(reason),
        },
    )


def change_state(
    connection: Connection,
    table: Table,
    row_id: int,
    transitions: Transitions[State],
    states: type[State],
    event_name: str,
    *,
    at: float,
    reason: str | None = None,
    **columns: Any,
) -> State:
    """Apply `event_name` to one row and write it to the audit.

    The update names the state that it leaves, so of two processes only one makes the change.

    Raises
    ------
    IllegalTransition
        If the state of the row knows no such event, another process was first, or there is no such row.
    """
    current = connection.scalar(select(table.c.state).where(table.c.id == row_id))
    if current is None:
        raise IllegalTransition(f"no {table.name} {row_id}")
    before = states(current)
    after = advance(transitions, before, event_name)
    changed = connection.execute(
        update(table)
        .where(table.c.id == row_id, table.c.state == before.value)
        .values(state=after.value, reason=cut(reason), **columns)
    )
    if changed.rowcount != 1:
        raise IllegalTransition(f"{table.name} {row_id} left {before.value} in another process")
    record_event(
        connection,
        table,
        row_id,
        at=at,
        event_name=event_name,
        from_state=before.value,
        to_state=after.value,
        reason=reason,
    )
    return after


def cut(reason: str | None) -> str | None:
    """Return `reason` as it fits its column: cut, and without what some database stores in no text."""
    # It may quote an attribute or a peer. PostgreSQL takes no NUL, and no database half of a surrogate pair.
    return None if reason is None else reason[:1024].replace("\0", "?").encode(errors="replace").decode()


def insert_once(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """Return an INSERT without effect where the row is there, even if another process inserts it at this moment."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()


def check_reachable(database: Database) -> None:
    """Raise `LedgerUnavailable` unless the database answers."""
    with database.read() as connection:
        connection.execute(text("SELECT 1"))
