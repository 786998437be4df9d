"""Every version that the ledger's tables had, and the way from each to the next (Alembic).

`schema.metadata` makes the tables of a new ledger; an older one gets there by the modules in `versions`, one for each
version, in one transaction. A change of `schema` needs `SCHEMA_VERSION` raised and a module here; a test compares the
two. A module describes its tables itself and is never changed once released: `schema` goes on without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, select, text

from dicom_node.ledger import schema

if TYPE_CHECKING:
    from alembic.config import Config

# Alembic is imported where it is used: a process that finds its ledger as it should be starts without it.


def version_of(connection: Connection) -> int | None:
    """Return the version of the ledger's tables; None where there are none yet."""
    if not inspect(connection).has_table(schema.schema_version.name):
        return None
    return connection.scalar(select(schema.schema_version.c.version))


def stamp(connection: Connection, version: int) -> None:
    """Tell Alembic which version a ledger has that it did not make, such as one from before it was used."""
    from alembic import command
    from alembic.runtime.migration import MigrationContext

    if MigrationContext.configure(connection).get_current_revision() != str(version):
        command.stamp(_config(connection), str(version), purge=True)


def migrate(connection: Connection, to: int = schema.SCHEMA_VERSION) -> None:
    """Bring the tables of a ledger to the version `to`, within the transaction of `connection`.

    Foreign keys must not be enforced on SQLite meanwhile: tables are made anew under their names.

    Raises
    ------
    sqlalchemy.exc.SQLAlchemyError
        If the database refuses a change; the transaction is then to be rolled back.
    """
    from alembic import command

    version = version_of(connection)
    if version is not None:
        stamp(connection, version)
    command.upgrade(_config(connection), str(to))


def _config(connection: Connection) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def note_version(connection: Connection, version: int) -> None:
    """Write down the version where every version of the program looks for it."""
    connection.execute(schema.schema_version.delete())
    connection.execute(schema.schema_version.insert().values(version=version))


def differences(connection: Connection) -> list[str]:
    """Return what the tables have that `schema` has not, or the reverse; nothing where they are as they should be."""
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    found: list[str] = []
    for one in compare_metadata(MigrationContext.configure(connection), schema.metadata):
        # A change of a column comes as a list of one or more.
        changes = one if isinstance(one, list) else [one]
        found += (" ".join(str(part) for part in change if part is not None) for change in changes)
    return found


def dangling_references(connection: Connection) -> list[str]:
    """Return what SQLite finds of rows that refer to no row, after a migration; PostgreSQL has looked itself."""
    if connection.dialect.name != "sqlite":
        return []
    return [
        f"{row[0]} row {row[1]} refers to no {row[2]}" for row in connection.execute(text("PRAGMA foreign_key_check"))
    ]
