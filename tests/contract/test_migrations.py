"""A ledger of an earlier version comes to today's tables, with everything that it knew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.errors import LedgerOutdated
from dicom_node.ledger import migrations, schema
from dicom_node.ledger.database import Database, ledger_url
from tests.support.ledgers import make_version_1, rows_of, tables_of


@pytest.fixture(params=["sqlite", "postgresql"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Return the URLs of two empty databases, on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'old.sqlite'}", f"sqlite:///{tmp_path / 'new.sqlite'}"
        return
    cluster = request.getfixturevalue("postgres")
    yield ledger_url(cluster.create_database(), tmp_path), ledger_url(cluster.create_database(), tmp_path)


@pytest.fixture
def old(urls: tuple[str, str]) -> Iterator[Database]:
    """Return a ledger of version 1, not opened by this version yet."""
    make_version_1(urls[0])
    database = Database(urls[0])
    yield database
    database.close()


@pytest.fixture
def new(urls: tuple[str, str]) -> Iterator[Database]:
    """Return a new ledger."""
    database = Database(urls[1])
    database.create()
    yield database
    database.close()


def _migrate(database: Database, to: int = schema.SCHEMA_VERSION) -> None:
    with database.migrating() as connection:
        migrations.migrate(connection, to)


def test_the_first_migration_makes_the_tables_that_the_first_release_made(old: Database, urls: tuple[str, str]) -> None:
    fresh = Database(urls[1])
    _migrate(fresh, 1)
    made = tables_of(fresh.engine)
    del made["alembic_version"]
    assert made == tables_of(old.engine)
    fresh.close()


def test_a_migrated_ledger_has_the_tables_of_a_new_one(old: Database, new: Database) -> None:
    _migrate(old)
    assert tables_of(old.engine) == tables_of(new.engine)
    with old.read() as connection:
        assert migrations.differences(connection) == []
        assert migrations.version_of(connection) == schema.SCHEMA_VERSION


def test_every_change_of_the_tables_has_a_migration(urls: tuple[str, str], new: Database) -> None:
    step_by_step = Database(urls[0])
    for version in range(1, schema.SCHEMA_VERSION + 1):
        _migrate(step_by_step, version)
    with step_by_step.read() as connection:
        assert migrations.differences(connection) == []
    assert tables_of(step_by_step.engine) == tables_of(new.engine)
    step_by_step.close()


def test_migration_keeps_every_row(old: Database) -> None:
    before = rows_of(old.engine)
    _migrate(old)
    after = rows_of(old.engine)
    assert before.pop("schema_version") == [{"version": 1}]
    assert after.pop("schema_version") == [{"version": schema.SCHEMA_VERSION}]
    for table, rows in before.items():
        kept = [{name: row[name] for name in rows[0]} for row in after[table]]
        assert kept == rows, table
    # What the first version did not know has the value that says so.
    assert {row["part"] for row in after["delivery"]} == {0}
    assert {row["shadow"] for row in after["arrival"]} <= {False}
    with old.migrating() as connection:
        assert migrations.dangling_references(connection) == []


def test_numbers_go_on_after_a_migration(old: Database) -> None:
    highest = max(row["id"] for row in rows_of(old.engine)["arrival"])
    _migrate(old)
    values = {"series_instance_uid": "1.9", "study_instance_uid": "1.2", "generation": 1, "state": "open"}
    with old.write() as connection:
        added = connection.execute(schema.arrival.insert().values(**values, opened_at=1.0, last_received_at=1.0))
    assert added.inserted_primary_key is not None
    assert added.inserted_primary_key[0] == highest + 1


def test_a_migration_that_fails_leaves_the_ledger_as_it_was(old: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    before, rows = tables_of(old.engine), rows_of(old.engine)
    with pytest.raises(RuntimeError), old.migrating() as connection:
        migrations.migrate(connection)
        raise RuntimeError("the power went")
    assert tables_of(old.engine) == before
    assert rows_of(old.engine) == rows


def test_an_older_ledger_is_refused_until_it_is_upgraded(old: Database) -> None:
    before = tables_of(old.engine)
    with pytest.raises(LedgerOutdated, match=r"version 1.*dicom-node upgrade"):
        old.create()
    assert tables_of(old.engine) == before
    _migrate(old)
    old.create()


def test_a_newer_ledger_is_refused(new: Database) -> None:
    with new.write() as connection:
        migrations.note_version(connection, schema.SCHEMA_VERSION + 1)
    with pytest.raises(LedgerOutdated, match="run the version of dicom-node that wrote it"):
        new.create()
    with pytest.raises(LedgerOutdated):
        new.require_version()


def test_foreign_keys_are_enforced_after_a_migration(old: Database) -> None:
    _migrate(old)
    if old.engine.dialect.name == "sqlite":
        with old.read() as connection:
            assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_a_ledger_from_before_alembic_is_known_by_its_version(new: Database) -> None:
    with new.write() as connection:
        connection.exec_driver_sql("DROP TABLE alembic_version")
    new.create()
    _migrate(new)
    assert rows_of(new.engine)["alembic_version"] == [{"version_num": str(schema.SCHEMA_VERSION)}]
