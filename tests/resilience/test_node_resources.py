"""Disk and ledger of a running node fail: A700 to the sender, and everything goes on when they are back."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.invariants import check_pacs
from tests.support.modality import ModalityAssociation
from tests.support.node import running_node
from tests.support.peers import MockScp, read_part10, requires_dcmtk, wait_until
from tests.support.radiographs import CT, write_radiographs

pytestmark = requires_dcmtk

OUT_OF_RESOURCES = 0xA700


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder with 12 MB of space."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system can't be mounted here: that takes root and the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_answered_a700_and_the_node_recovers_without_a_restart(tmp_path: Path, small_disk: Path) -> None:
    paths = write_radiographs(tmp_path / "in", 3, sop_class=CT)
    (large,) = write_radiographs(tmp_path / "in", 1, first=3, size=2000, sop_class=CT)
    first, second, third, huge = (read_part10(path) for path in (*paths, large))
    with (
        MockScp() as pacs,
        running_node(
            tmp_path / "node", pacs.port, node={"data_dir": str(small_disk / "data")}, receiver={"min_free_mb": 0}
        ) as node,
    ):
        with ModalityAssociation(node.port) as association:
            assert association.store_object(first) == 0
            (small_disk / "ballast").write_bytes(bytes(7_000_000))
            assert association.store_object(huge) == OUT_OF_RESOURCES
            # The half object is gone, the association lives.
            assert list((node.data_dir / "incoming").iterdir()) == []
            assert association.store_object(second) == 0
            fill(small_disk / "ballast2")
            statuses = {association.store_object(third) for _ in range(3)}
            assert statuses == {OUT_OF_RESOURCES}
            (small_disk / "ballast2").unlink()
            (small_disk / "ballast").unlink()
            assert association.store_object(third) == 0
            association.release()
        node.wait_balanced(3)
        check_pacs(pacs.objects, paths, node)
        assert set(node.processes()) == {"supervisor", "receiver", "worker-0"}
        assert "is started again" not in node.log()


def fill(ballast: Path) -> None:
    """Write until there is no space left."""
    with open(ballast, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


def test_a_locked_ledger_is_answered_a700_and_the_association_lives(tmp_path: Path) -> None:
    paths = write_radiographs(tmp_path / "in", 2)
    first, second = map(read_part10, paths)
    with MockScp() as pacs, running_node(tmp_path / "node", pacs.port) as node:
        with ModalityAssociation(node.port, timeout_s=50) as association:
            assert association.store_object(first) == 0
            other = sqlite3.connect(node.data_dir / "ledger.sqlite", isolation_level=None, timeout=30)
            other.execute("BEGIN IMMEDIATE")
            assert association.store_object(second) == OUT_OF_RESOURCES
            other.execute("ROLLBACK")
            other.close()
            assert association.store_object(second) == 0
            association.release()
        found = node.wait_balanced(2)
        check_pacs(pacs.objects, paths, node)
        # What the ledger never took is not kept either: a modality that tries for hours must not fill the disk.
        assert found.orphans == ()


def test_the_node_outlives_its_postgresql_server(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    cluster = request.getfixturevalue("postgres")
    url = cluster.create_database()
    paths = write_radiographs(tmp_path / "in", 3)
    first, second, third = map(read_part10, paths)
    with MockScp() as pacs, running_node(tmp_path / "node", pacs.port, node={"database_url": url}) as node:
        with ModalityAssociation(node.port, timeout_s=50) as association:
            assert association.store_object(first) == 0
            cluster.stop()
            try:
                assert association.store_object(second) == OUT_OF_RESOURCES
                time.sleep(2)
                assert association.store_object(second) == OUT_OF_RESOURCES
            finally:
                cluster.start()
            assert association.store_object(second) == 0
            assert association.store_object(third) == 0
            association.release()
        wait_until(lambda: "receiver" in node.processes(), what="the receiver")
        node.wait_balanced(3, timeout_s=150)
        check_pacs(pacs.objects, paths, node)
