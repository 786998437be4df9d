"""A ledger file that is damaged, read-only or of something else: one clear sentence, and the file is left as it is."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.loading import load_settings
from config.settings import Settings
from dicom_node import state
from dicom_node.disk_space import Reserve
from dicom_node.errors import LedgerUnavailable
from dicom_node.ledger.database import Database, ledger_url
from dicom_node.ledger.reception import ReceptionLedger
from dicom_node.state import open_state
from tests.contract.conftest import Clock, Ledger
from tests.integration.test_commands import run

PAGE_BYTES = 4096
TABLE_LEAF = 0x0D
"""First byte of a leaf page of a table (SQLite's file format, 1.6)."""


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    assert run("init", tmp_path / "node").returncode == 0
    return tmp_path / "node" / "node.toml"


def filled(folder: Path) -> Path:
    """Return a ledger with some pages."""
    ledger = Ledger(ledger_url("", folder), Clock())
    ledger.complete(200)
    ledger.database.close()
    return folder / "ledger.sqlite"


def test_a_damaged_page_is_found_at_the_start(settings: Path) -> None:
    file = filled(settings.parent / "node-data")
    content = bytearray(file.read_bytes())
    # A leaf of the table of objects, which nothing reads before there is work: only who looks for it finds it.
    leaf = next(
        page
        for page in range(0, len(content), PAGE_BYTES)
        if content[page] == TABLE_LEAF and b"key-1-1-150-a" in content[page : page + PAGE_BYTES]
    )
    content[leaf : leaf + 8] = b"\xff" * 8
    file.write_bytes(content)
    loaded = load_settings(settings)
    with open_state(loaded):
        pass
    with pytest.raises(state.StartRefused, match=r"docs/storage\.md"), open_state(loaded, thorough=True):
        pass
    content = bytearray(file.read_bytes())
    ended = run("run", "-c", settings, "--role", "receiver")
    assert ended.returncode == state.EXIT_LEDGER
    assert "docs/storage.md" in ended.stderr
    assert str(file) in ended.stderr
    assert file.read_bytes() == content


def test_a_file_that_is_no_database_is_not_overwritten(settings: Path) -> None:
    file = settings.parent / "node-data" / "ledger.sqlite"
    file.write_bytes(b"no database at all" * 1000)
    for command in (("status", "-c", settings), ("run", "-c", settings, "--role", "receiver")):
        ended = run(*command)
        assert ended.returncode == state.EXIT_LEDGER, ended
        assert "file is not a database" in ended.stderr
    assert file.read_bytes() == b"no database at all" * 1000


def test_a_sound_ledger_passes_the_check(tmp_path: Path) -> None:
    filled(tmp_path)
    database = Database(ledger_url("", tmp_path))
    database.check()
    database.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a file system can't be mounted here: that takes root and the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_ledger_that_became_read_only_is_unavailable_and_comes_back(disk: Path) -> None:
    """As a file system that its kernel remounted after an error."""
    ledger = Ledger(ledger_url("", disk), Clock())
    association = ledger.associate()
    ledger.receive(association, 1)
    # Connections keep their descriptors; new ones, and the log's files, are refused.
    ledger.database.close()
    assert subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=False).returncode == 0
    with pytest.raises(LedgerUnavailable):
        ledger.receive(association, 2)
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    ledger.receive(association, 2)
    assert ledger.rows("SELECT count(*) FROM instance") == [(2,)]
    ledger.database.close()


def test_a_full_ledger_is_unavailable_and_certainly_not_committed(disk: Path) -> None:
    ledger = Ledger(ledger_url("", disk), Clock())
    association = ledger.associate()
    with ledger.database.engine.connect() as connection:
        before = connection.connection.dbapi_connection
    with (disk / "ballast").open("wb", buffering=0) as ballast, pytest.raises(OSError, match="No space"):
        while True:
            ballast.write(bytes(4096))
    recorded = 0
    with pytest.raises(LedgerUnavailable) as full:
        while True:
            ledger.receive(association, recorded + 1)
            recorded += 1
    assert not full.value.may_be_committed
    # What saw the fault is used no more.
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        before.execute("SELECT 1")  # type: ignore[union-attr]
    (disk / "ballast").unlink()
    assert ledger.rows("SELECT count(*) FROM instance") == [(recorded,)]
    ledger.receive(association, recorded + 1)
    ledger.database.close()


def test_a_node_whose_disk_is_full_starts_on_its_reserve(disk: Path) -> None:
    settings = Settings.model_validate({"node": {"data_dir": str(disk / "data")}})
    with open_state(settings):
        Reserve(disk / "data" / "reserve", 1 << 20).hold(8 << 20)
    with (disk / "ballast").open("wb", buffering=0) as ballast, pytest.raises(OSError, match="No space"):
        while True:
            ballast.write(bytes(4096))
    with open_state(settings) as opened:
        ReceptionLedger(opened.database, "test:receiver").open_association(
            calling_ae_title="A", called_ae_title="B", host="h", port=1
        )
    assert not (disk / "data" / "reserve").exists()
    # Without one there is a clear word.
    with (disk / "ballast2").open("wb", buffering=0) as ballast, pytest.raises(OSError, match="No space"):
        while True:
            ballast.write(bytes(4096))
    with pytest.raises(state.StartRefused, match="that the disk has room") as refused, open_state(settings):
        pass
    assert refused.value.exit_code == state.EXIT_LEDGER
