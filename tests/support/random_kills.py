"""SIGKILL at random moments to random processes of a node under load."""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path

from tests.support.fault_points import QUICK_SUPERVISOR
from tests.support.modality import PersistentModality
from tests.support.node import RunningNode, running_node
from tests.support.peers import MockScp, wait_until
from tests.support.radiographs import CT, write_radiographs
from tests.support.scenarios import Result, Scenario

_SEED = 20260721
# The worker is the slowest to come back, so it gets its time: a worker that never works proves nothing.
_TARGETS = ("receiver", "receiver", "worker-0", "worker-0", "everything")


def run_random_kills(folder: Path, kills: int) -> Result:
    """Kill `kills` times, each time with two modalities in the middle of a series; returns what was lost."""
    rng, result = random.Random(_SEED), Result()
    with (
        contextlib.ExitStack() as modalities,
        MockScp(delay_s=0.03) as pacs,
        running_node(folder / "node", pacs.port, program=QUICK_SUPERVISOR) as node,
    ):
        sent: list[Path] = []
        sending: list[PersistentModality] = []
        counts: dict[str, int] = {}
        for number in range(kills):
            paths = write_radiographs(folder / "in", 3, series=3 * number)
            others = write_radiographs(folder / "in", 3, series=3 * number + 1, sop_class=CT)
            for series in (paths, others):
                modality = PersistentModality(node.port, series, pause_s=0.05)
                sending.append(modalities.enter_context(modality))
            sent += [*paths, *others]
            time.sleep(rng.uniform(0.0, 1.2))
            target = rng.choice(_TARGETS)
            _kill(node, target)
            counts[target] = counts.get(target, 0) + 1
            result.tried += 1
        for modality in sending:
            modality.wait()
        wait_until(lambda: _is_done(node, len(sent)), timeout_s=60 + 4 * kills, what="the delivery of everything")
        result.check(node, pacs.objects, sent)
        result.figures["kills by process"] = counts
        result.figures["stores that were cut off and sent again"] = sum(len(m.failures) for m in sending)
    return result


def _kill(node: RunningNode, target: str) -> None:
    if target == "everything":
        node.kill_everything()
        node.start()
        return
    wait_until(lambda: target in node.processes(), timeout_s=90, what=target)
    runs = node.log().count("Worker runs")
    node.kill(target)
    if target != "receiver":
        wait_until(lambda: node.log().count("Worker runs") > runs, timeout_s=90, what="the worker's restart")


def _is_done(node: RunningNode, count: int) -> bool:
    total = node.verify(deep=False).balance.total
    return total.received >= count and total.in_work == total.dead_letters


RANDOM_KILLS = Scenario(
    name="random-kills",
    tries="SIGKILL at a random moment to receiver, worker or every process at once, under load.",
    unit="kills",
    run=lambda folder, share: run_random_kills(folder, max(4, round(200 * share))),
)
