"""Ledgers of earlier versions, as their own code made them, and what two databases' tables differ in."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Boolean, Connection, Engine, MetaData, create_engine, insert, inspect, text

_FOLDER = Path(__file__).parent
BASE_TIME = 1_760_000_000.0
"""When the first row of the old ledger was written, in seconds since the epoch."""


def make_version_1(url: str) -> None:
    """Make the ledger of version 1, with rows in every table, in an empty database."""
    engine = create_engine(url)
    try:
        if engine.dialect.name == "sqlite":
            with sqlite3.connect(str(engine.url.database)) as target:
                target.executescript((_FOLDER / "version-1.sql").read_text())
            target.close()
        else:
            with engine.begin() as connection:
                connection.exec_driver_sql((_FOLDER / "version-1.postgresql.sql").read_text())
                _copy_rows(connection)
    finally:
        engine.dispose()


def _copy_rows(connection: Connection) -> None:
    source = sqlite3.connect(":memory:")
    source.row_factory = sqlite3.Row
    source.executescript((_FOLDER / "version-1.sql").read_text())
    metadata = MetaData()
    metadata.reflect(connection)
    for table in metadata.sorted_tables:
        rows = [dict(row) for row in source.execute(f"SELECT * FROM {table.name}")]
        truths = [column.name for column in table.columns if isinstance(column.type, Boolean)]
        for row in rows:
            row.update({name: bool(row[name]) for name in truths})
        connection.execute(insert(table), rows)
        if "id" in table.columns:
            number = max(row["id"] for row in rows)
            connection.execute(
                text("SELECT setval(pg_get_serial_sequence(:table, 'id'), :number)"),
                {"table": table.name, "number": number},
            )
    source.close()


def rows_of(engine: Engine) -> dict[str, list[dict[str, Any]]]:
    """Return every row of every table."""
    metadata = MetaData()
    metadata.reflect(engine)
    with engine.connect() as connection:
        return {
            table.name: sorted(
                (dict(row._mapping) for row in connection.execute(table.select())),
                key=lambda row: str(list(row.values())[:2]),
            )
            for table in metadata.sorted_tables
        }


def tables_of(engine: Engine) -> dict[str, Any]:
    """Return all that the database says of its tables: columns in order, keys, constraints, indexes, names and all."""
    inspector = inspect(engine)
    found: dict[str, Any] = {}
    for name in sorted(inspector.get_table_names()):
        found[name] = {
            "columns": [
                (c["name"], str(c["type"]), c["nullable"], c["default"], c.get("autoincrement"))
                for c in inspector.get_columns(name)
            ],
            "primary key": _plain(inspector.get_pk_constraint(name)),
            "foreign keys": sorted(map(_plain, inspector.get_foreign_keys(name))),
            "unique": sorted(map(_plain, inspector.get_unique_constraints(name))),
            "checks": sorted(map(_plain, inspector.get_check_constraints(name))),
            "indexes": sorted(_plain(index) for index in inspector.get_indexes(name)),
        }
    return found


def _plain(fact: Any) -> str:
    if isinstance(fact, dict):
        return str(sorted((key, _plain(value)) for key, value in fact.items()))
    return str(fact)
