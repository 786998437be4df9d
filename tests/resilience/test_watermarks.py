"""A small disk fills up: what is delivered goes early, what is not never does, and the node recovers by itself."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.disk_space import measure
from tests.resilience.test_node_resources import fill
from tests.support.modality import ModalityAssociation
from tests.support.node import RunningNode, destination, running_node
from tests.support.peers import MockScp, find_free_port, read_part10, requires_dcmtk, wait_until
from tests.support.radiographs import CT, write_radiographs

pytestmark = requires_dcmtk

MB = 1 << 20


@pytest.fixture
def disk_of_64_mb(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system can't be mounted here: that takes root and the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def free_mb(folder: Path) -> float:
    return measure(folder).free_bytes / MB


def send(node: RunningNode, *paths: Path) -> None:
    with ModalityAssociation(node.port) as association:
        for path in paths:
            assert association.store_object(read_part10(path)) == 0
        association.release()


def leave_free(disk: Path, name: str, megabytes: float) -> None:
    """Let something else take the disk but for so much."""
    (disk / name).write_bytes(bytes(int((free_mb(disk) - megabytes) * MB)))


def states(node: RunningNode) -> list[str]:
    return [row[0] for row in node.rows("SELECT state FROM instance ORDER BY id")]


def test_a_disk_that_fills_up_loses_nothing_and_the_node_recovers_by_itself(
    tmp_path: Path, disk_of_64_mb: Path
) -> None:
    disk = disk_of_64_mb
    # 4.5 MB each, passed through by the routes of the tests.
    paths = write_radiographs(tmp_path / "in", 6, size=1500, sop_class=CT)
    late = write_radiographs(tmp_path / "in", 1, series=2, size=200, sop_class=CT)
    port = find_free_port()
    with running_node(
        tmp_path / "node",
        destinations=[destination("pacs", port)],
        node={"data_dir": str(disk / "data")},
        receiver={"min_free_mb": 16},
        storage={"resume_free_mb": 24, "reserve_mb": 2},
    ) as node:
        wait_until((node.data_dir / "reserve").exists, what="the reserve")
        with MockScp(port=port) as pacs:
            send(node, *paths[:4])
            node.wait_balanced(4)
            assert len(pacs.objects) == 4
        # Delivered, and kept for the time of the settings; then the disk is short of room.
        assert states(node) == ["stored"] * 4
        leave_free(disk, "ballast", 14)
        wait_until(lambda: free_mb(disk) >= 24, what="room made by retention")
        # The oldest went, and no more than the low watermark asks for.
        assert states(node) == ["purged"] * 3 + ["stored"]

        # The PACS is gone: what comes now must stay, whatever happens.
        send(node, *paths[4:])
        fill(disk / "ballast2")
        wait_until(lambda: "nothing more may be deleted" in node.log(), what="the alarm")
        with pytest.raises(ConnectionError, match=r"type 3, b'\\x00\\x02\\x03\\x01'"):
            ModalityAssociation(node.port)
        wait_until(lambda: not (node.data_dir / "reserve").exists(), what="the reserve given up")
        assert node.verify().ok
        assert states(node)[4:] == ["stored"] * 2
        (found,) = node.command("status")["disks"]
        assert found["state"] == "above high watermark"

        # It is back: the reserve is enough to deliver, what is delivered makes room, and the modality is heard again.
        size = (disk / "ballast").stat().st_size
        os.truncate(disk / "ballast", size - int((20 - free_mb(disk)) * MB))
        with MockScp(port=port) as pacs:
            wait_until(lambda: len(pacs.objects) == 2, timeout_s=60, what="delivery on a full disk")
            wait_until(lambda: free_mb(disk) >= 22, timeout_s=60, what="room made by retention")
            wait_until((node.data_dir / "reserve").exists, timeout_s=60, what="the reserve held again")
            send(node, *late)
            node.wait_balanced(7)
        assert set(node.processes()) == {"supervisor", "receiver", "worker-0"}
        assert "is started again" not in node.log()
