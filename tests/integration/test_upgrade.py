"""`dicom-node upgrade`: an old ledger, with its copy, comes to this version, or stays what it was."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from config.loading import load_settings
from dicom_node import state
from dicom_node.app import only_one
from dicom_node.database_copies import restore_postgres
from dicom_node.instance_store import InstanceStore
from dicom_node.ledger import schema
from dicom_node.ledger.database import Database, ledger_url
from dicom_node.state import open_state
from tests.integration.test_commands import run
from tests.support.fault_points import FaultFolder
from tests.support.ledgers import BASE_TIME, make_version_1, rows_of, tables_of
from tests.support.node import RunningNode, destination
from tests.support.peers import MockScp, closed_port
from tests.support.radiographs import CR, radiograph


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return the settings file of a node whose ledger is of version 1."""
    assert run("init", tmp_path / "node").returncode == 0
    file = tmp_path / "node" / "node.toml"
    make_version_1(_url(file))
    return file


def _url(file: Path) -> str:
    settings = load_settings(file)
    return ledger_url(settings.node.database_url, settings.node.data_dir)


def _tables(file: Path) -> object:
    database = Database(_url(file))
    try:
        return tables_of(database.engine), rows_of(database.engine)
    finally:
        database.close()


def test_an_old_ledger_is_refused_by_every_command_with_what_to_do(file: Path) -> None:
    before = _tables(file)
    for command in ("status", "verify", "run"):
        refused = run(command, "-c", file, *(["--role", "receiver"] if command == "run" else []))
        assert refused.returncode == state.EXIT_LEDGER
        assert "dicom-node upgrade -c FILE" in refused.stderr
        assert "damaged" not in refused.stderr
    assert _tables(file) == before


def test_upgrade_makes_a_copy_first_and_done_again_does_nothing(file: Path) -> None:
    before = _tables(file)
    checked = run("upgrade", "-c", file, "--check")
    assert checked.returncode == state.EXIT_FOUND_FAULTS
    assert f"version 1, this program needs {schema.SCHEMA_VERSION}" in checked.stdout
    assert _tables(file) == before

    done = run("upgrade", "-c", file)
    assert done.returncode == state.EXIT_OK, done.stderr
    (copy,) = (load_settings(file).node.data_dir / "backups").iterdir()
    assert str(copy) in done.stdout
    assert copy.stat().st_mode & 0o777 == 0o600
    old = Database(f"sqlite:///{copy}")
    assert (tables_of(old.engine), rows_of(old.engine)) == before
    old.close()

    with open_state(load_settings(file)) as opened, opened.database.read() as connection:
        events = connection.execute(schema.event.select().where(schema.event.c.subject == "ledger")).all()
    assert [(one.event, one.from_state, one.to_state) for one in events] == [
        ("upgrade", "1", str(schema.SCHEMA_VERSION))
    ]
    again = run("upgrade", "-c", file, "--check")
    assert (again.returncode, "nothing to do" in again.stdout) == (state.EXIT_OK, True)
    assert run("upgrade", "-c", file).returncode == state.EXIT_OK
    assert len(list(copy.parent.iterdir())) == 1


def test_upgrade_waits_for_the_end_of_every_process(file: Path) -> None:
    before = _tables(file)
    with sqlite3.connect(load_settings(file).node.data_dir / "ledger.sqlite") as connection:
        connection.execute("UPDATE process SET seen_at = ?", (time.time() - 3,))
    connection.close()
    refused = run("upgrade", "-c", file)
    assert refused.returncode == state.EXIT_USAGE
    assert "node:receiver on old-host" in refused.stderr
    with sqlite3.connect(load_settings(file).node.data_dir / "ledger.sqlite") as connection:
        connection.execute("UPDATE process SET seen_at = 1760000005.0")
    connection.close()
    # One that has not said yet that it lives has its lock.
    with only_one(load_settings(file).node.data_dir, "worker-0"):
        refused = run("upgrade", "-c", file)
    assert refused.returncode == state.EXIT_DATA_DIR
    assert _tables(file) == before


def test_killed_in_the_middle_an_upgrade_has_changed_nothing(file: Path, tmp_path: Path) -> None:
    before = _tables(file)
    faults = FaultFolder(tmp_path / "faults")
    for point in ("upgrade.copied", "upgrade.migrated"):
        faults.arm(point)
        command = [sys.executable, "-m", "dicom_node", "upgrade", "-c", str(file)]
        killed = subprocess.run(
            command, env={**os.environ, **faults.environment}, capture_output=True, check=False, timeout=120
        )
        assert killed.returncode == -9, killed.stderr
        assert faults.is_done(point)
        assert _tables(file) == before
    assert run("upgrade", "-c", file).returncode == state.EXIT_OK


def test_tables_that_are_not_what_their_version_says_are_left_alone(file: Path) -> None:
    with sqlite3.connect(load_settings(file).node.data_dir / "ledger.sqlite") as connection:
        connection.execute("UPDATE schema_version SET version = 2")
    connection.close()
    before = _tables(file)
    refused = run("upgrade", "-c", file)
    assert refused.returncode == state.EXIT_USAGE
    assert "its tables are others" in refused.stderr
    assert _tables(file) == before


def test_a_newer_ledger_is_refused(file: Path) -> None:
    assert run("upgrade", "-c", file).returncode == state.EXIT_OK
    with sqlite3.connect(load_settings(file).node.data_dir / "ledger.sqlite") as connection:
        connection.execute("UPDATE schema_version SET version = version + 1")
    connection.close()
    for command in ("upgrade", "status"):
        refused = run(command, "-c", file)
        assert refused.returncode == state.EXIT_LEDGER
        assert "run the version of dicom-node that wrote it" in refused.stderr


def test_without_a_ledger_there_is_nothing_to_upgrade(tmp_path: Path) -> None:
    run("init", tmp_path / "node")
    done = run("upgrade", "-c", tmp_path / "node" / "node.toml")
    assert (done.returncode, "no ledger yet" in done.stdout) == (state.EXIT_OK, True)
    assert not (tmp_path / "node" / "node-data" / "ledger.sqlite").exists()


def test_a_ledger_on_postgresql_is_dumped_before_it_is_upgraded(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    cluster = request.getfixturevalue("postgres")
    url = cluster.create_database()
    run("init", tmp_path / "node")
    file = tmp_path / "node" / "node.toml"
    file.write_text(file.read_text().replace('# database_url = ""', f'database_url = "{url}"'))
    assert _url(file).startswith("postgresql")
    make_version_1(_url(file))
    before = _tables(file)
    done = run("upgrade", "-c", file)
    assert done.returncode == state.EXIT_OK, done.stderr
    with open_state(load_settings(file)):
        pass
    (dump,) = (load_settings(file).node.data_dir / "backups").iterdir()
    other = cluster.create_database()
    restore_postgres(dump, other)
    restored = Database(ledger_url(other, tmp_path))
    assert (tables_of(restored.engine), rows_of(restored.engine)) == before
    restored.close()


_OLD_WORKFLOWS = """
import sys
from dbos import DBOS, DBOSClient
url = sys.argv[1]
DBOS(config={"name": "lowdose-node", "system_database_url": url, "application_version": "0", "executor_id": "x"})
DBOS.launch()
DBOS.destroy()
client = DBOSClient(system_database_url=url)
for name, queue, number in (("enhance_series", "enhance", "enhance:1.2.4:1:0"), ("deliver", "deliver", "deliver:3:0")):
    client.enqueue({"workflow_name": name, "queue_name": queue, "workflow_id": number, "app_version": "0"}, 1, 0)
client.destroy()
"""


def _give_files(node: RunningNode) -> None:
    """Put the objects that the old ledger names into the store, and bring its times near to now."""
    store = InstanceStore(node.data_dir)
    now = time.time() - 300
    with sqlite3.connect(node.data_dir / "ledger.sqlite") as connection:
        connection.row_factory = sqlite3.Row
        for row in connection.execute("SELECT * FROM instance").fetchall():
            ds = radiograph(row["id"], sop_class=CR, size=16)
            ds.SOPInstanceUID = row["sop_instance_uid"] or "1.2.3"
            ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2", row["series_instance_uid"] or "1.2.3"
            stored = store.save(ds)
            if row["state"] == "quarantined":
                stored = store.quarantine(stored.key, row["reason"])
            connection.execute(
                "UPDATE instance SET key = ?, size = ?, dataset_offset = ?, digest = ? WHERE id = ?",
                (stored.key, stored.size, stored.dataset_offset, stored.digest, row["id"]),
            )
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for column in [row["name"] for row in connection.execute(f"PRAGMA table_info({table})")]:
                if column == "at" or column.endswith("_at"):
                    connection.execute(f"UPDATE {table} SET {column} = {column} + ?", (now - BASE_TIME,))
    connection.close()


def test_a_node_of_the_first_release_is_upgraded_and_delivers_what_it_had_in_work(tmp_path: Path) -> None:
    route = {"name": "all", "enhance": False, "send": ["original"], "quiet_period_s": 0.3, "destinations": ["pacs"]}
    with MockScp() as pacs, closed_port() as archive:
        node = RunningNode(
            tmp_path / "node",
            destinations=[destination("pacs", pacs.port), destination("archive", archive)],
            routes=[route],
            node={"dead_after_s": 8.0},
        )
        node.data_dir.mkdir(mode=0o700)
        make_version_1(f"sqlite:///{node.data_dir / 'ledger.sqlite'}")
        _give_files(node)
        # The engine's state too is an old one: one workflow queued, one in the middle, of other code than today's.
        workflows = node.data_dir / "workflows.sqlite"
        command = [sys.executable, "-c", _OLD_WORKFLOWS, f"sqlite:///{workflows}"]
        subprocess.run(command, check=True, timeout=120, capture_output=True)
        with sqlite3.connect(workflows) as connection:
            changed = connection.execute(
                "UPDATE workflow_status SET status = 'PENDING', executor_id = 'test:worker-0' "
                "WHERE workflow_uuid = 'deliver:3:0'"
            )
            assert changed.rowcount == 1
        connection.close()
        assert run("upgrade", "-c", node.file).returncode == state.EXIT_OK
        with node:
            # Ten objects came to the old node: three deliveries had been made, one refused, all else was in work.
            node.wait_balanced(10, dead_letters=1)
            with sqlite3.connect(workflows) as connection:
                old = connection.execute(
                    "SELECT status FROM workflow_status WHERE application_version = '0'"
                ).fetchall()
            connection.close()
        assert {status for (status,) in old} == {"CANCELLED"}
        assert sorted(obj.sop_instance_uid for obj in pacs.objects) == sorted(
            ["1.2.2.1", "1.2.2.2", "1.2.3.1", "1.2.3.2", "1.2.4.1", "1.2.5.1", "1.2.5.1"]
        )
