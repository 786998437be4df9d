"""SIGKILL at every fault point of a running node, one after the other, with objects on their way each time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dicom_node.fault_points import FAULT_POINTS
from tests.support.fault_points import QUICK_SUPERVISOR, FaultFolder
from tests.support.modality import ModalityAssociation, PersistentModality
from tests.support.network import RawPeer, associate_rq
from tests.support.node import RunningNode, running_node
from tests.support.peers import MockScp, is_listening, read_part10, wait_until
from tests.support.radiographs import CT, write_radiographs
from tests.support.scenarios import Result, Scenario

_RECEIVER = ("store", "reception", "quarantine", "association")
# Elsewhere: retention runs every ten minutes (its own test), and a takeover takes two machines.
_APART = frozenset({"retention.marked", "retention.deleted", "recover.resumed"})


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One death: where, of whom, at which pass."""

    point: str
    role: str
    nth: int = 1

    def __str__(self) -> str:
        return f"{self.point} of {self.role}, pass {self.nth}"


def all_kills(passes: Sequence[int] = (1, 2)) -> list[Kill]:
    """Return a kill for each point in each role that passes it."""
    kills = []
    for point in FAULT_POINTS:
        family = point.split(".")[0]
        if point in _APART or family in ("upgrade", "backup", "restore"):
            continue
        roles = ["receiver"] if family in _RECEIVER or point == "start.cleared" else ["worker"]
        if family == "store" and point != "store.creating":
            roles.append("worker")  # derived objects
        if point == "start.opened":
            roles = ["receiver"]
        many = passes if family in ("store", "image", "deliver") or point == "reception.recorded" else (1,)
        if point in ("deliver.taken", "deliver.enqueued", "deliver.opened", "deliver.settling", "deliver.settled"):
            many = (1,)
        kills += [Kill(point=point, role=role, nth=nth) for role in roles for nth in many]
    return kills


def run_kills(folder: Path, kills: Sequence[Kill]) -> Result:
    """Kill one after the other in one node that starts its processes again; returns what was lost."""
    result, faults = Result(), FaultFolder(folder / "faults")
    with (
        MockScp() as pacs,
        running_node(folder / "node", pacs.port, environment=faults.environment, program=QUICK_SUPERVISOR) as node,
    ):
        sent: list[Path] = []
        quarantined = 0
        for number, kill in enumerate(kills, 1):
            faults.arm(kill.point, "kill", role=kill.role, nth=kill.nth)
            paths = write_radiographs(folder / "in", 2, series=2 * number)
            paths += write_radiographs(folder / "in", 1, series=2 * number + 1, sop_class=CT)
            with PersistentModality(node.port, paths) as modality:
                provoke(kill, node)
                modality.wait()
            sent += paths
            quarantined += kill.point.startswith("quarantine.")
            if kill.point == "reception.duplicate":
                # The object is known by now; its sender was not answered in time and sends it again.
                send_until_stored(node, paths[0])
            try:
                wait_until(lambda k=kill: faults.is_done(k.point), timeout_s=60, what=str(kill))  # type: ignore[misc]
            except TimeoutError:
                result.broken.append(f"{kill} did not happen")
                faults.disarm(kill.point)
                continue
            result.tried += 1
            if kill.point.startswith("quarantine."):
                # The sender tries again.
                wait_until(lambda: _send_garbage(node), timeout_s=60, what="an answer to garbage")
            wait_done(node, len(sent) + quarantined)
            checked = dataclasses.replace(result, broken=list(result.broken), figures={})
            checked.check(node, pacs.objects, sent)
            if not checked.ok:
                result.broken.append(f"after {kill}: {checked}")
                break
        result.check(node, pacs.objects, sent)
    return result


def wait_done(node: RunningNode, count: int, *, timeout_s: float = 120.0) -> None:
    """Wait until the node has nothing to do with at least `count` objects received."""

    def is_done() -> bool:
        total = node.verify(deep=False).balance.total
        return total.received >= count and total.in_work == total.dead_letters

    wait_until(is_done, timeout_s=timeout_s, what=f"the delivery of {count} objects")


def provoke(kill: Kill, node: RunningNode) -> None:
    """Do what brings a process to the point, where sending objects alone does not."""
    if kill.point.startswith("start."):
        name = kill.role if kill.role == "receiver" else "worker-0"
        wait_until(lambda: name in node.processes(), what=name)
        node.kill(name)
    elif kill.point == "association.rejected":
        _knock(node)
    elif kill.point.startswith("quarantine."):
        _send_garbage(node)


def _knock(node: RunningNode) -> None:
    try:
        with RawPeer(node.port) as peer:
            peer.associate(associate_rq(calling="NOBODY"))
    except (OSError, EOFError):
        pass


def _send_garbage(node: RunningNode) -> bool:
    """Send a data set that ends in the middle of an element; returns whether it was answered."""
    (obj,) = map(read_part10, write_radiographs(node.folder / "garbage", 1, series=9999))
    cut = dataclasses.replace(obj, data=obj.data[: len(obj.data) // 2])
    wait_until(lambda: is_listening(node.port), timeout_s=60, what="the receiver")
    try:
        with ModalityAssociation(node.port) as association:
            association.store_object(cut)
            association.release()
    except (OSError, EOFError, AssertionError):
        return False
    return True


def send_until_stored(node: RunningNode, path: Path) -> None:
    """Send a file until it is acknowledged."""
    with PersistentModality(node.port, [path]) as modality:
        modality.wait()


def scenario(folder: Path, share: float) -> Result:
    """Run every kill, or for CI the first pass of each."""
    return run_kills(folder, all_kills() if share else all_kills((1,)))


KILL_MATRIX = Scenario(
    name="kill-matrix",
    tries="SIGKILL to receiver or worker at every named step between two effects, while objects are on their way.",
    unit="kills",
    run=scenario,
)
