"""A backup is whole or none, and what is restored from it loses nothing and sends nothing under two names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from config.loading import load_settings
from config.settings import BackupSettings
from dicom_node import state
from dicom_node.backup import BackupRequest, Objects, back_up
from dicom_node.backup_manifest import faults_of, read_manifest
from dicom_node.backup_schedule import run_backup
from dicom_node.errors import OperationRefused
from dicom_node.identifiers import KEY_FILE, PATIENT, open_identifiers
from dicom_node.ledger import schema
from dicom_node.ledger.database import ledger_url
from dicom_node.ledger.retention import RetentionLedger
from dicom_node.restoring import restore
from dicom_node.state import State, open_state
from dicom_node.states import ItemState
from dicom_node.verification import verify
from tests.contract.conftest import Clock, Ledger, received
from tests.integration.test_commands import run
from tests.support.fault_points import FaultFolder
from tests.support.node import REPOSITORY, running_node
from tests.support.objects import cr_dataset
from tests.support.peers import MockScp
from tests.support.radiographs import write_radiographs


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return the settings file of a node that holds two delivered objects, two that wait, and one in quarantine."""
    assert run("init", tmp_path / "node").returncode == 0
    file = tmp_path / "node" / "node.toml"
    _fill(file)
    return file


def _fill(file: Path) -> None:
    settings = load_settings(file)
    with open_state(settings) as opened:
        ledger = Ledger(ledger_url(settings.node.database_url, settings.node.data_dir), Clock(time.time()))
        for series, is_delivered in (("1", True), ("2", False)):
            arrival = _receive(opened, ledger, series)
            for instance_id in ledger.arrivals.begin(arrival, 0):
                ledger.pass_through(instance_id)
            ledger.arrivals.conclude(
                arrival, destinations=("pacs",), send_original=True, send_enhanced=False, late=None
            )
            if is_delivered:
                (delivery,) = ledger.deliveries.due()
                ledger.deliveries.begin(delivery.delivery_id, 0)
                for item in ledger.deliveries.take_objects(delivery.delivery_id):
                    ledger.deliveries.record_item(
                        delivery.delivery_id, item.instance_id, ItemState.SENT, status=0, reason=None
                    )
                ledger.deliveries.settle(delivery.delivery_id, failure=None, retry_in_s=None, attempt=1)
        stored = opened.store.quarantine(opened.store.save(_image()).key, "not a data set")
        ledger.reception.record_quarantined(
            association_id=1, key=stored.key, size=stored.size, dataset_offset=stored.dataset_offset,
            digest=stored.digest, reason="not a data set",
        )  # fmt: skip
        ledger.database.close()


def _image() -> object:
    import numpy as np

    return cr_dataset(np.full((8, 8), 7, np.uint16))


def _receive(opened: State, ledger: Ledger, series: str) -> int:
    association = ledger.associate()
    for number in (1, 2):
        stored = opened.store.save(_image())  # type: ignore[arg-type]
        facts = {**vars(received(association, number, series=series)), **vars(stored)}
        ledger.reception.record_received(type(received(1))(**facts))
    ledger.release(association, 2)
    (idle,) = ledger.arrivals.idle()
    assert ledger.arrivals.complete(idle.arrival_id, last_activity_at=idle.last_activity_at)
    return idle.arrival_id


@pytest.fixture
def elsewhere(file: Path, tmp_path: Path) -> Path:
    """Return the same settings in another folder, with an empty place for data."""
    return _moved(file, tmp_path / "new")


def _back_up(file: Path, target: Path, objects: Objects = Objects.UNDELIVERED) -> None:
    with open_state(load_settings(file)) as opened:
        back_up(opened, BackupRequest(settings_file=file, target=target, objects=objects))


@pytest.mark.parametrize(("objects", "kept", "left_out"), [("undelivered", 3, 2), ("all", 5, 0)])
def test_what_is_restored_adds_up(
    file: Path, elsewhere: Path, tmp_path: Path, objects: str, kept: int, left_out: int
) -> None:
    made = run("backup", tmp_path / "backup", "-c", file, "--objects", objects, "--json")
    assert made.returncode == state.EXIT_OK, made.stderr
    assert json.loads(made.stdout)["objects"] == kept
    done = run("restore", tmp_path / "backup", "-c", elsewhere, "--json")
    assert done.returncode == state.EXIT_OK, done.stderr
    assert {k: v for k, v in json.loads(done.stdout).items() if k != "at"} == {
        "objects": kept, "left_out": left_out, "missing_files": [],
    }  # fmt: skip
    with open_state(load_settings(elsewhere)) as opened:
        found = verify(opened.balance, opened.store, deep=True)
        assert found.ok, found
        assert found.orphans == ()
        total = found.balance.total
        assert (total.received, total.delivered, total.in_work, total.quarantined) == (5, 2, 2, 1)
        with opened.database.read() as connection:
            items = connection.execute(schema.delivery_item.select()).all()
            assert {(item.state, item.in_doubt) for item in items} == {("sent", False), ("pending", True)}
            assert connection.execute(schema.process.select()).all() == []
        (quarantined,) = opened.store.quarantined_keys()
        assert opened.store.path(quarantined).with_suffix(".txt").read_text() == "not a data set\n"


def test_without_objects_what_some_destination_lacks_is_said_to_be_missing(
    file: Path, elsewhere: Path, tmp_path: Path
) -> None:
    _back_up(file, tmp_path / "backup", Objects.NONE)
    done = run("restore", tmp_path / "backup", "-c", elsewhere)
    assert done.returncode == state.EXIT_FOUND_FAULTS
    assert "3 objects are missing" in done.stdout
    with open_state(load_settings(elsewhere)) as opened:
        assert len(verify(opened.balance, opened.store, deep=False).missing) == 3


def test_what_retention_deletes_meanwhile_is_not_missing(
    file: Path, elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_state(load_settings(file)) as opened:
        passes: list[str] = []

        def delete_delivered(name: str) -> None:
            passes.append(name)
            if passes == ["backup.ledger"]:
                keys = RetentionLedger(opened.database).purge_delivered(-10.0)
                assert len(keys) == 2
                for key in keys:
                    opened.store.delete(key)

        monkeypatch.setattr("dicom_node.backup.fault_point", delete_delivered)
        made = back_up(opened, BackupRequest(settings_file=file, target=tmp_path / "b", objects=Objects.ALL))
    # The ledger was copied again, and names nothing that is not there.
    assert passes == ["backup.ledger", "backup.ledger", "backup.objects"]
    assert made.missing == ()
    done = restore(load_settings(elsewhere), tmp_path / "b")
    assert (done.objects, done.left_out, done.missing) == (3, 0, ())


def test_an_object_that_the_node_has_lost_is_named_and_the_rest_is_saved(file: Path, tmp_path: Path) -> None:
    with open_state(load_settings(file)) as opened:
        keys = sorted(opened.store.keys())
        lost, broken = keys[:2]
        opened.store.path(lost).unlink()
        path = opened.store.path(broken)
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    made = run("backup", tmp_path / "b", "-c", file, "--objects", "all", "--json")
    assert made.returncode == state.EXIT_FOUND_FAULTS
    found = json.loads(made.stdout)
    assert (found["missing_files"], found["damaged_files"], found["objects"]) == ([lost], [broken], 4)


@pytest.mark.parametrize("point", ["backup.ledger", "backup.objects"])
def test_killed_in_the_middle_a_backup_does_not_look_whole(file: Path, tmp_path: Path, point: str) -> None:
    faults = FaultFolder(tmp_path / "faults")
    faults.arm(point)
    command = [sys.executable, "-m", "dicom_node", "backup", str(tmp_path / "b"), "-c", str(file)]
    killed = subprocess.run(
        command, env={**os.environ, **faults.environment}, capture_output=True, check=False, timeout=120, cwd=REPOSITORY
    )
    assert killed.returncode == -9, killed.stderr
    assert not (tmp_path / "b").exists()
    for half in tmp_path.glob("b*"):
        with pytest.raises(OperationRefused, match="no backup, or one that was interrupted"):
            read_manifest(half)
    _back_up(file, tmp_path / "b")
    assert faults_of(tmp_path / "b", read_manifest(tmp_path / "b")) == []
    assert not (tmp_path / "b.partial").exists()


def test_an_interrupted_restore_starts_no_node_and_is_done_again(file: Path, elsewhere: Path, tmp_path: Path) -> None:
    _back_up(file, tmp_path / "b")
    faults = FaultFolder(tmp_path / "faults")
    faults.arm("restore.objects")
    command = [sys.executable, "-m", "dicom_node", "restore", str(tmp_path / "b"), "-c", str(elsewhere)]
    killed = subprocess.run(
        command, env={**os.environ, **faults.environment}, capture_output=True, check=False, timeout=120, cwd=REPOSITORY
    )
    assert killed.returncode == -9, killed.stderr
    refused = run("status", "-c", elsewhere)
    assert (refused.returncode, "half a backup" in refused.stderr) == (state.EXIT_DATA_DIR, True)
    assert run("restore", tmp_path / "b", "-c", elsewhere).returncode == state.EXIT_OK
    with open_state(load_settings(elsewhere)) as opened:
        assert verify(opened.balance, opened.store, deep=True).ok


def test_a_damaged_backup_is_refused_before_anything_is_written(file: Path, elsewhere: Path, tmp_path: Path) -> None:
    _back_up(file, tmp_path / "b")
    for name in ("ledger.sqlite", "node.toml", *[n for n in read_manifest(tmp_path / "b").files if ".dcm" in n][:1]):
        damaged = tmp_path / "damaged"
        shutil.rmtree(damaged, ignore_errors=True)
        shutil.copytree(tmp_path / "b", damaged)
        content = bytearray((damaged / name).read_bytes())
        content[len(content) // 2] ^= 1
        (damaged / name).write_bytes(content)
        refused = run("restore", damaged, "-c", elsewhere)
        assert refused.returncode == state.EXIT_USAGE
        assert f"{name} is not what was written" in refused.stderr
        assert not load_settings(elsewhere).node.data_dir.exists()


def test_restore_touches_no_node_that_is_there(file: Path, tmp_path: Path) -> None:
    _back_up(file, tmp_path / "b")
    before = sorted(load_settings(file).node.data_dir.rglob("*"))
    refused = run("restore", tmp_path / "b", "-c", file)
    assert (refused.returncode, "holds something" in refused.stderr) == (state.EXIT_USAGE, True)
    assert sorted(load_settings(file).node.data_dir.rglob("*")) == before


def test_a_backup_overwrites_nothing(file: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "letter.txt").write_text("Dear")
    refused = run("backup", tmp_path / "b", "-c", file)
    assert (refused.returncode, "holds something already" in refused.stderr) == (state.EXIT_USAGE, True)
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["letter.txt"]


def test_studies_are_found_by_patient_after_a_restore(file: Path, elsewhere: Path, tmp_path: Path) -> None:
    before = open_identifiers(load_settings(file)).of_text(PATIENT, "PAT-1")
    _back_up(file, tmp_path / "backup")
    assert run("restore", tmp_path / "backup", "-c", elsewhere).returncode == state.EXIT_OK
    assert open_identifiers(load_settings(elsewhere)).of_text(PATIENT, "PAT-1") == before
    assert (load_settings(elsewhere).node.data_dir / KEY_FILE).stat().st_mode & 0o777 == 0o600


def test_who_was_signed_in_then_signs_in_again(file: Path, elsewhere: Path, tmp_path: Path) -> None:
    with open_state(load_settings(file)) as opened, opened.database.write() as connection:
        user = {"subject": "anna", "role": "admin", "sees_patients": False, "disabled": False, "must_change": False}
        connection.execute(schema.console_user.insert().values(id=1, name="anna", created_at=0.0, **user))
        session = {"token_hash": "0" * 64, "address": "127.0.0.1", "created_at": 0.0, "seen_at": 0.0}
        connection.execute(schema.console_session.insert().values(user_id=1, expires_at=1e12, **session))
    _back_up(file, tmp_path / "backup")
    assert run("restore", tmp_path / "backup", "-c", elsewhere).returncode == state.EXIT_OK
    with open_state(load_settings(elsewhere)) as opened, opened.database.read() as connection:
        assert connection.scalars(schema.console_user.select()).all() == [1]
        assert connection.execute(schema.console_session.select()).all() == []


def test_keys_are_in_a_backup_only_when_somebody_says_so(file: Path, tmp_path: Path) -> None:
    refused = run("backup", tmp_path / "b", "-c", file, "--with-certificates")
    assert (refused.returncode, "private keys" in refused.stderr) == (state.EXIT_USAGE, True)
    assert not (tmp_path / "b").exists()


def test_daily_backups_are_kept_up_to_a_number_and_a_failure_deletes_none(file: Path, tmp_path: Path) -> None:
    settings = load_settings(file).model_copy(
        update={"backup": BackupSettings(folder=tmp_path / "daily", keep=2, objects="all")}
    )
    (tmp_path / "daily").mkdir()
    foreign = tmp_path / "daily" / "other-20260101T000000Z"
    foreign.mkdir()
    with open_state(settings) as opened:
        made = [run_backup(opened, file, tmp_path / "daily", now=1.7e9 + 86_400 * day) for day in range(3)]
        assert all(made)
        assert sorted(p for p in (tmp_path / "daily").iterdir()) == sorted([foreign, *(p for p in made[1:] if p)])
        file.rename(file.with_name("gone"))
        assert run_backup(opened, file, tmp_path / "daily", now=1.8e9) is None
    assert len([p for p in (tmp_path / "daily").iterdir() if (p / "manifest.json").exists()]) == 2


@pytest.fixture
def postgres_file(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, Path]:
    """Return the settings of a filled node on PostgreSQL, and of an empty one."""
    cluster = request.getfixturevalue("postgres")
    files = []
    for name in ("one", "two"):
        run("init", tmp_path / name)
        files.append(tmp_path / name / "node.toml")
        line = f'database_url = "{cluster.create_database()}"'
        files[-1].write_text(files[-1].read_text().replace('# database_url = ""', line))
    _fill(files[0])
    return files[0], files[1]


def test_a_ledger_on_postgresql_comes_back(postgres_file: tuple[Path, Path], tmp_path: Path) -> None:
    file, elsewhere = postgres_file
    assert run("backup", tmp_path / "b", "-c", file).returncode == state.EXIT_OK
    refused = run("restore", tmp_path / "b", "-c", _moved(file, tmp_path / "third"))
    assert (refused.returncode, "holds tables" in refused.stderr) == (state.EXIT_USAGE, True)
    done = run("restore", tmp_path / "b", "-c", elsewhere)
    assert done.returncode == state.EXIT_OK, done.stderr
    with open_state(load_settings(elsewhere)) as opened:
        found = verify(opened.balance, opened.store, deep=True)
        assert found.ok
        total = found.balance.total
        assert (total.received, total.delivered, total.in_work, total.quarantined) == (5, 2, 2, 1)


def _moved(file: Path, folder: Path) -> Path:
    folder.mkdir()
    (folder / "node.toml").write_text(file.read_text())
    return folder / "node.toml"


def test_a_node_restored_while_the_first_one_went_on_sends_the_same_objects_under_the_same_names(
    tmp_path: Path,
) -> None:
    with MockScp() as pacs:
        with running_node(tmp_path / "node", pacs.port) as node:
            paths = write_radiographs(tmp_path / "in", 4)
            node.send(*paths[:2])
            node.wait_balanced(2)
            node.command("queue", "hold", "--destination", "pacs")
            node.send(*write_radiographs(tmp_path / "in", 2, series=2))
            node.wait_for_rows("SELECT 1 FROM delivery WHERE state = 'pending'")
            node.command("backup", str(tmp_path / "b"))
            node.command("queue", "release", "--destination", "pacs")
            node.wait_balanced(4)
        sent = {obj.sop_instance_uid for obj in pacs.objects}
        assert len(pacs.objects) == 4
        # The machine is lost; another one takes over from the backup.
        shutil.rmtree(tmp_path / "node" / "data")
        assert run("restore", tmp_path / "b", "-c", node.file).returncode == state.EXIT_OK
        with node:
            node.command("queue", "release", "--destination", "pacs")
            node.wait_balanced(4)
        assert len(pacs.objects) == 6
        assert {obj.sop_instance_uid for obj in pacs.objects} == sent
