"""An error that nobody foresees at every fault point: the process lives on, and must still do all its work."""

from __future__ import annotations

from pathlib import Path

from tests.support.fault_points import FaultFolder
from tests.support.kill_matrix import Kill, all_kills, provoke, send_until_stored, wait_done
from tests.support.modality import PersistentModality
from tests.support.node import running_node
from tests.support.peers import MockScp, wait_until
from tests.support.radiographs import CT, write_radiographs
from tests.support.scenarios import Result, Scenario

# At its start a process may end over such an error; the kills are there for that.
_APART = ("start.",)


def run_errors(folder: Path, kinds: tuple[str, ...] = ("exception",)) -> Result:
    """Raise at one point after the other while objects are on their way; nothing may wait for a restart."""
    result, faults = Result(), FaultFolder(folder / "faults")
    with (
        MockScp() as pacs,
        running_node(folder / "node", pacs.port, environment=faults.environment) as node,
    ):
        before = {name: process.pid for name, process in node.processes().items()}
        sent: list[Path] = []
        series = 0
        places = [kill for kill in all_kills((1,)) if not kill.point.startswith(_APART)]
        for kind in kinds:
            for place in places:
                series += 2
                faults.arm(place.point, kind, role=place.role)
                paths = write_radiographs(folder / "in", 2, series=series)
                paths += write_radiographs(folder / "in", 1, series=series + 1, sop_class=CT)
                with PersistentModality(node.port, paths) as modality:
                    provoke(place, node)
                    modality.wait()
                sent += paths
                if place.point == "reception.duplicate":
                    send_until_stored(node, paths[0])
                if not _happens(faults, place):
                    result.broken.append(f"{kind} at {place} did not happen")
                    faults.disarm(place.point)
                    continue
                result.tried += 1
        try:
            wait_done(node, len(sent))
        except TimeoutError as error:
            stuck = node.rows("SELECT series_instance_uid, state FROM arrival WHERE finished_at IS NULL")
            late = node.rows("SELECT arrival_id, state, reason FROM delivery WHERE finished_at IS NULL")
            open_ones = node.rows("SELECT id FROM association WHERE closed_at IS NULL")
            result.broken.append(f"{error}: {stuck} {late} open associations {open_ones}")
        result.check(node, pacs.objects, sent)
        if before != {name: process.pid for name, process in node.processes().items()}:
            result.broken.append("a process ended over an error")
    return result


def _happens(faults: FaultFolder, place: Kill) -> bool:
    try:
        wait_until(lambda: faults.is_done(place.point), timeout_s=30)
    except TimeoutError:
        return False
    return True


UNFORESEEN_ERRORS = Scenario(
    name="unforeseen-errors",
    tries="An error that no code foresees is raised at every named step; no process may end, and nothing may wait for "
    "a restart.",
    unit="errors",
    run=lambda folder, share: run_errors(folder),
)
