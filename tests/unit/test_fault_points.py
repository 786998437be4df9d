"""Fault points: each is named once and placed, and none of them does anything unless the environment says so."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dicom_node import fault_points
from dicom_node.errors import OutOfResources
from dicom_node.fault_points import FAULT_POINTS, VARIABLE, InjectedFault, fault_point
from dicom_node.instance_store import InstanceStore
from tests.support.fault_points import FaultFolder
from tests.support.node import REPOSITORY
from tests.support.radiographs import radiograph


@pytest.fixture
def armed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FaultFolder:
    """Return a folder whose plans count in this process."""
    folder = FaultFolder(tmp_path / "faults")
    monkeypatch.setattr(fault_points, "_folder", folder.folder)
    monkeypatch.setattr(fault_points, "_passes", type(fault_points._passes)())
    return folder


def placed() -> set[str]:
    """Return the names that the source code passes to `fault_point`."""
    sources = [path.read_text() for path in (REPOSITORY / "dicom_node").rglob("*.py")]
    return {name for text in sources for name in re.findall(r'\bfault_point\("([^"]*)"\)', text)} - {"name"}


def test_every_point_of_the_table_is_placed_and_every_placed_one_is_in_the_table() -> None:
    assert placed() == set(FAULT_POINTS)


def test_points_are_named_by_text_and_never_computed() -> None:
    # What a point is called must not come from anywhere but the source code.
    for path in (REPOSITORY / "dicom_node").rglob("*.py"):
        if path.name != "fault_points.py":
            calls = re.findall(r"\bfault_point\((?!\")", path.read_text())
            assert not calls, path


def test_nothing_happens_unless_the_environment_names_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fault_points._folder_of({}) is None
    assert fault_points._folder_of({VARIABLE: ""}) is None
    monkeypatch.setattr(fault_points, "_folder", None)
    for name in FAULT_POINTS:
        fault_point(name)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(SystemExit, match="nobody else"):
        fault_points._folder_of({VARIABLE: str(tmp_path)})
    with pytest.raises(SystemExit, match="can't be read"):
        fault_points._folder_of({VARIABLE: str(tmp_path / "absent")})


def test_a_plan_happens_once_at_the_nth_pass(armed: FaultFolder) -> None:
    armed.arm("deliver.answered", "exception", nth=3)
    fault_point("deliver.answered")
    fault_point("deliver.recorded")
    fault_point("deliver.answered")
    with pytest.raises(InjectedFault, match=r"deliver\.answered"):
        fault_point("deliver.answered")
    assert armed.is_done("deliver.answered")
    for _ in range(5):
        fault_point("deliver.answered")


def test_a_plan_that_repeats_happens_at_every_pass(armed: FaultFolder) -> None:
    armed.arm("store.written", "EIO", repeat=True)
    for _ in range(3):
        with pytest.raises(OSError, match=os.strerror(errno.EIO)) as caught:
            fault_point("store.written")
        assert caught.value.errno == errno.EIO
    armed.disarm("store.written")
    fault_point("store.written")


def test_a_plan_for_another_role_does_nothing(armed: FaultFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    armed.arm("store.written", "exception", role="worker")
    monkeypatch.setattr(fault_points, "_role", "receiver")
    fault_point("store.written")
    assert not armed.is_done("store.written")
    monkeypatch.setattr(fault_points, "_role", "worker")
    with pytest.raises(InjectedFault):
        fault_point("store.written")


def test_a_plan_without_a_known_action_is_an_error(armed: FaultFolder) -> None:
    (armed.folder / "store.written").write_text(json.dumps({"action": "explode"}))
    with pytest.raises(ValueError, match="explode"):
        fault_point("store.written")


def test_kill_is_sigkill_and_no_process_after_it_sees_the_plan(armed: FaultFolder) -> None:
    armed.arm("store.synced", "kill")
    code = "from dicom_node.fault_points import fault_point; fault_point('store.synced')"
    environment = {**os.environ, **armed.environment, "PYTHONPATH": str(REPOSITORY)}

    def run() -> int:
        return subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode

    assert run() == -signal.SIGKILL
    assert run() == 0


@pytest.mark.parametrize("point", ["store.written", "store.synced", "store.renamed", "store.durable"])
@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_what_could_not_be_made_durable_leaves_no_file(
    tmp_path: Path, armed: FaultFolder, point: str, error: str
) -> None:
    # A modality that is answered A700 tries for hours; each try must not leave its file.
    store = InstanceStore(tmp_path / "store")
    dataset = radiograph(1, size=16)
    for _ in range(2):
        armed.arm(point, error)
        incoming = store.create(
            sop_class_uid="1.2", sop_instance_uid="1.2.3", transfer_syntax_uid="1.2.840.10008.1.2", source_ae_title="A"
        )
        incoming.write(memoryview(b"data"))
        with pytest.raises(OutOfResources):
            incoming.commit()
        armed.arm(point, error)
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        with pytest.raises(OutOfResources):
            store.save(dataset)
    left = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert left == []
