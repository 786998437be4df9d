"""Each write of a running node fails once: no success without durability, no end of a process, and it goes on after."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.disk_faults import FailingDisk, requires_compiler
from tests.support.invariants import check_pacs
from tests.support.modality import ModalityAssociation
from tests.support.node import RunningNode, running_node
from tests.support.peers import MockScp, ReceivedObject, read_part10, requires_dcmtk, wait_until
from tests.support.radiographs import ROOT, write_radiographs

pytestmark = [requires_dcmtk, requires_compiler]

SUCCESS, OUT_OF_RESOURCES = 0x0000, 0xA700

# What the receiver does for one object, in this order: which call, on which path.
RECEIVING = (
    ("open", "/incoming/"),
    ("write", "/incoming/"),
    ("fsync", "/incoming/"),
    ("rename", "/objects/"),
    ("fsync", "/objects/"),
    ("write", "ledger.sqlite-wal"),
    ("fsync", "ledger.sqlite-wal"),
)
ERRORS = (errno.EIO, errno.ENOSPC)

# What a worker does for one series; it goes on with the original, or waits until the database is back.
WORKING = (
    ("open", "/incoming/"),
    ("write", "/incoming/"),
    ("fsync", "/incoming/"),
    ("rename", "/objects/"),
    ("fsync", "/objects/"),
    ("write", "ledger.sqlite-wal"),
    ("fsync", "ledger.sqlite-wal"),
    ("open", "workflows.sqlite-journal"),
    ("write", "workflows.sqlite"),
    ("fsync", "workflows.sqlite"),
)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> FailingDisk:
    return FailingDisk(tmp_path_factory.mktemp("switch"))


@pytest.fixture(scope="module")
def pacs() -> Iterator[MockScp]:
    with MockScp() as scp:
        yield scp


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, disk: FailingDisk, pacs: MockScp) -> Iterator[RunningNode]:
    folder = tmp_path_factory.mktemp("node")
    with running_node(folder, pacs.port, environment=disk.environment) as running:
        yield running


def is_alive(node: RunningNode) -> bool:
    return set(node.processes()) == {"supervisor", "receiver", "worker-0"} and "is started again" not in node.log()


def test_no_write_of_the_receiver_that_fails_is_acknowledged(
    node: RunningNode, disk: FailingDisk, pacs: MockScp, tmp_path: Path
) -> None:
    cases = [(call, path, number) for call, path in RECEIVING for number in ERRORS]
    paths = write_radiographs(tmp_path / "in", len(cases), series=1)
    with ModalityAssociation(node.port) as association:
        for (call, path, number), source in zip(cases, paths, strict=True):
            obj = read_part10(source)
            before = set((node.data_dir / "objects").rglob("*.dcm"))
            with disk.failing(call, path=path, process="receiver", number=number):
                status = association.store_object(obj)
                assert disk.failed, f"{call} {path} is no step of the receiver"
            assert status == OUT_OF_RESOURCES, (call, path, number, hex(status))
            # Nothing is kept of it but what a commit in doubt may have recorded.
            assert not list((node.data_dir / "incoming").iterdir()), (call, path)
            if "ledger" not in path:
                assert set((node.data_dir / "objects").rglob("*.dcm")) == before, (call, path)
            assert association.store_object(obj) == SUCCESS, (call, path, number)
        association.release()
    found = node.wait_balanced(len(cases))
    # One for each commit whose end nobody knows.
    assert len(found.orphans) <= sum(path == "ledger.sqlite-wal" for _, path, _ in cases)
    check_pacs(list(pacs.objects), paths, node)
    assert is_alive(node)


def test_a_duplicate_whose_copy_can_not_be_deleted_is_still_a_success(
    node: RunningNode, disk: FailingDisk, tmp_path: Path
) -> None:
    (path,) = write_radiographs(tmp_path / "in", 1, series=900)
    obj = read_part10(path)
    with ModalityAssociation(node.port) as association:
        assert association.store_object(obj) == SUCCESS
        with disk.failing("unlink", path="/objects/", process="receiver"):
            assert association.store_object(obj) == SUCCESS
            assert disk.failed
        association.release()
    node.wait_until_idle()
    assert is_alive(node)


@pytest.mark.parametrize(("call", "path"), WORKING)
def test_a_write_of_the_worker_that_fails_delays_a_series_at_most(
    node: RunningNode, disk: FailingDisk, pacs: MockScp, tmp_path: Path, call: str, path: str
) -> None:
    series = 100 + WORKING.index((call, path))
    (source,) = write_radiographs(tmp_path / "in", 1, series=series)
    obj = read_part10(source)
    with disk.failing(call, path=path, process="worker"):
        with ModalityAssociation(node.port) as association:
            assert association.store_object(obj) == SUCCESS
            association.release()
        wait_until(lambda: disk.failed > 0, what=f"a failed {call} of the worker on {path}")
    wait_until(lambda: is_there(pacs, obj), timeout_s=60, what=f"the series after {call} {path}")
    node.wait_until_idle()
    assert node.verify().ok
    assert is_alive(node)


def is_there(pacs: MockScp, obj: ReceivedObject) -> bool:
    series = obj.sop_instance_uid.encode()
    return any(one.sop_instance_uid == obj.sop_instance_uid or series in one.data for one in list(pacs.objects))


@pytest.mark.parametrize("number", ERRORS)
def test_a_workflow_whose_step_can_not_be_recorded_waits_for_the_disk(
    node: RunningNode, disk: FailingDisk, pacs: MockScp, tmp_path: Path, number: int
) -> None:
    series = 200 + number
    # Large enough for the fault to come while it is in work.
    (source,) = write_radiographs(tmp_path / "in", 1, series=series, size=1500)
    obj = read_part10(source)
    of_series = f"arrival WHERE series_instance_uid = '{ROOT}.2.{series}'"
    with ModalityAssociation(node.port) as association:
        assert association.store_object(obj) == SUCCESS
        association.release()
    node.wait_for_rows(f"SELECT 1 FROM {of_series} AND state = 'enhancing'")
    with disk.failing("write", path="workflows.sqlite", process="worker", number=number):
        wait_until(lambda: disk.failed > 0, what="the step that can't be recorded")
    wait_until(lambda: is_there(pacs, obj), timeout_s=60, what="the series")
    node.wait_until_idle()
    assert is_alive(node)
