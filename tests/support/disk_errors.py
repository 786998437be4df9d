"""Every call to the disk fails once, at the receiver and at a worker: the answer is right, and nothing is lost."""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dicom_node.disk_space import RESERVE_FILE
from tests.support.disk_faults import FailingDisk
from tests.support.fault_points import QUICK_SUPERVISOR
from tests.support.kill_matrix import send_until_stored, wait_done
from tests.support.modality import ModalityAssociation
from tests.support.network import pdu, pdv, store_rq
from tests.support.node import RunningNode, running_node
from tests.support.peers import MockScp, ReceivedObject, read_part10, wait_until
from tests.support.radiographs import CT, write_radiographs
from tests.support.scenarios import Result, Scenario

SUCCESS, OUT_OF_RESOURCES, MISMATCH, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xA900, 0xC000


@dataclass(frozen=True, kw_only=True)
class DiskError:
    """One call that fails.

    Parameters
    ----------
    role
        Process whose calls fail.
    call, path
        As `FailingDisk.failing` takes them.
    sent
        What is sent meanwhile: a `good` object, one that is `cut` in the middle of an element, or an `other` than its
        command says; or nothing, and the process is killed: `restart`.
    status
        What the sender is to be answered.
    leaves
        Files that it may leave in the store without a row, each time.
    """

    role: str
    call: str
    path: str
    sent: str = "good"
    status: int = SUCCESS
    leaves: int = 0

    def __str__(self) -> str:
        return f"{self.call} of {self.path} by the {self.role}, {self.sent}"


def _receiver(call: str, path: str, status: int = OUT_OF_RESOURCES, **changes: object) -> DiskError:
    return DiskError(role="receiver", call=call, path=path, status=status, **changes)  # type: ignore[arg-type]


def _worker(call: str, path: str) -> DiskError:
    return DiskError(role="worker", call=call, path=path)


READING = (
    _receiver("read", "/incoming/"),
    _receiver("map", "/incoming/"),
    _worker("read", "/objects/"),
    _worker("open to read", "/objects/"),
    _worker("unlink", "workflows.sqlite-journal"),
    _worker("read", "workflows.sqlite"),
)
"""Calls that read, map or remove."""

REFUSED = (
    _receiver("rename", "/quarantine/", sent="cut"),
    _receiver("fsync", "/quarantine", sent="cut"),
    # What keeps the words is the ledger.
    _receiver("open", "/quarantine/", CANNOT_UNDERSTAND, sent="cut"),
    _receiver("write", "/quarantine/", CANNOT_UNDERSTAND, sent="cut"),
    _receiver("write", "ledger.sqlite-wal", sent="cut", leaves=1),
    _receiver("unlink", "/incoming/", MISMATCH, sent="other"),
)
"""Objects that are not taken, whose way out fails."""

STARTING = (
    DiskError(role="worker", call="open", path="ledger.sqlite-shm", sent="restart"),
    DiskError(role="worker", call="read", path="ledger.sqlite", sent="restart"),
    # Space that is held back for the ledger, which the worker takes when it starts.
    DiskError(role="worker", call="truncate", path="/reserve", sent="restart"),
)
"""A process that died starts again on a disk that fails; not `mkdir`, as its folders are there."""

WRITING = tuple(
    one
    for receiver, worker in (
        (_receiver("open", "/incoming/"), _worker("open", "/incoming/")),
        (_receiver("write", "/incoming/"), _worker("write", "/incoming/")),
        (_receiver("fsync", "/incoming/"), _worker("fsync", "/incoming/")),
        (_receiver("rename", "/objects/"), _worker("rename", "/objects/")),
        (_receiver("fsync", "/objects/"), _worker("fsync", "/objects/")),
        (_receiver("write", "ledger.sqlite-wal", leaves=1), _worker("write", "ledger.sqlite-wal")),
        (_receiver("fsync", "ledger.sqlite-wal", leaves=1), _worker("fsync", "ledger.sqlite-wal")),
    )
    for one in (receiver, worker)
)
"""Calls that both roles make."""

WORKFLOWS = (
    _worker("open", "workflows.sqlite-journal"),
    _worker("write", "workflows.sqlite"),
    _worker("fsync", "workflows.sqlite"),
)


def run_disk_errors(folder: Path, cases: Sequence[DiskError], numbers: Sequence[int] = (errno.EIO,)) -> Result:
    """Let one call after the other fail in one running node, with each of the errors."""
    result = Result()
    disk = FailingDisk(folder / "switch")
    with (
        MockScp() as pacs,
        running_node(folder / "node", pacs.port, environment=disk.environment, program=QUICK_SUPERVISOR) as node,
    ):
        sent: list[Path] = []
        refused = allowed = 0
        for number, (case, code) in enumerate(((case, code) for case in cases for code in numbers), 1):
            before = {name: process.pid for name, process in node.processes().items()}
            paths = write_radiographs(folder / "in", 1, series=number)
            result.broken += _run_case(node, disk, case, code, paths[0])
            result.tried += 1
            allowed += case.leaves
            if case.sent in ("good", "restart"):
                sent += paths
            refused += case.sent == "cut"
            wait_done(node, len(sent) + refused, timeout_s=150)
            if case.sent != "restart" and before != {name: p.pid for name, p in node.processes().items()}:
                result.broken.append(f"{case}: a process ended")
        result.check(node, pacs.objects, sent)
        if result.figures["orphan files"] > allowed:
            result.broken.append(f"{result.figures['orphan files']} orphan files, {allowed} commits in doubt")
        result.figures["calls"] = len(cases)
        result.figures["errors"] = [os.strerror(code) for code in numbers]
    return result


def _run_case(node: RunningNode, disk: FailingDisk, case: DiskError, code: int, path: Path) -> list[str]:
    what = f"{case}, {os.strerror(code)}"
    if case.sent == "restart":
        name = "worker-0"
        runs = node.log().count("Worker runs")
        (node.data_dir / RESERVE_FILE).unlink(missing_ok=True)
        with disk.failing(case.call, path=case.path, process=case.role, number=code):
            node.kill(name)
            wait_until(lambda: disk.failed > 0, timeout_s=90, what=what)
            send_until_stored(node, path)
        wait_until(lambda: node.log().count("Worker runs") > runs, timeout_s=150, what=f"the restart after {what}")
        return []
    obj = read_part10(path)
    # The association is there before: its own row is another matter.
    with (
        ModalityAssociation(node.port) as association,
        disk.failing(case.call, path=case.path, process=case.role, number=code),
    ):
        status = _store(association, obj, case.sent)
        association.release()
        try:
            # Something of a worker comes later.
            wait_until(lambda: disk.failed > 0, timeout_s=40, what=what)
        except TimeoutError as error:
            return [str(error)]
    found = [] if status == case.status else [f"{what}: answered {status:04X}, not {case.status:04X}"]
    if case.status == OUT_OF_RESOURCES:
        if case.sent == "good":
            send_until_stored(node, path)
        elif _send(node, obj, case.sent) != CANNOT_UNDERSTAND:
            found.append(f"{what}: not quarantined afterwards")
    return found


def _send(node: RunningNode, obj: ReceivedObject, kind: str) -> int:
    with ModalityAssociation(node.port) as association:
        status = _store(association, obj, kind)
        association.release()
    return status


def _store(association: ModalityAssociation, obj: ReceivedObject, kind: str) -> int:
    if kind == "other":
        command = store_rq(obj.sop_instance_uid + ".9", sop_class=CT)
        association.send(pdu(4, pdv(5, 3, command)), pdu(4, pdv(5, 2, obj.data)))
        return association.response().status
    data = obj.data[: len(obj.data) // 2] if kind == "cut" else obj.data
    return association.store_object(dataclasses.replace(obj, data=data))


DISK_ERRORS = Scenario(
    name="disk-errors",
    tries="Each call to the disk fails, by EIO and for want of space: open, read, map, write, fsync of file and "
    "folder, rename, unlink, truncate, at the receiver and at a worker, of objects, quarantine, ledger and workflows.",
    unit="failing calls",
    run=lambda folder, share: (
        run_disk_errors(folder, (*READING, *REFUSED, *STARTING, *WRITING, *WORKFLOWS), (errno.EIO, errno.ENOSPC))
        if share
        else run_disk_errors(folder, (*READING[:4], *REFUSED))
    ),
)
