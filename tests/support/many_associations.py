"""A hundred associations at once, and one too many."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.modality import ModalityAssociation
from tests.support.network import RawPeer, associate_rq
from tests.support.node import CALLING, RunningNode, running_node
from tests.support.peers import MockScp, read_part10, wait_until
from tests.support.radiographs import CT, write_radiographs
from tests.support.scenarios import Result, Scenario

COUNT = 100


def run_many(folder: Path, waves: int) -> Result:
    """Open a hundred associations, store on all of them at the same moment, see the one after them rejected; again."""
    result = Result()
    with (
        MockScp() as pacs,
        running_node(folder / "node", pacs.port, receiver={"max_associations": COUNT}) as node,
    ):
        receiver = node.processes()["receiver"]
        threads, sent, files = receiver.num_threads(), [], [receiver.num_fds()]
        for wave in range(waves):
            paths = [
                write_radiographs(folder / "in", 1, series=wave * COUNT + n + 1, sop_class=CT, size=64)[0]
                for n in range(COUNT)
            ]
            sent += paths
            result.broken += _wave(node, paths)
            result.tried += COUNT
            try:
                wait_until(lambda: receiver.num_threads() <= threads + 1, timeout_s=30)
            except TimeoutError:
                result.broken.append(f"{receiver.num_threads()} threads after the associations, {threads} before")
            files.append(receiver.num_fds())
        node.wait_balanced(len(sent), timeout_s=240)
        result.check(node, pacs.objects, sent)
        # SQLite keeps the handles of connections that others were open beside, and uses them again: what counts is
        # that a second wave takes no more; how many were beside each other differs a little from wave to wave.
        if files[-1] > max(files[1:2]) + COUNT // 2:
            result.broken.append(f"file handles grow from wave to wave: {files}")
        result.figures["receiver's file handles at first and after each wave"] = files
    return result


def _wave(node: RunningNode, paths: Sequence[Path]) -> list[str]:
    """Store one object on each of as many associations, all at once; returns what was wrong."""
    broken = []
    with contextlib.ExitStack() as stack:
        open_ones = [stack.enter_context(ModalityAssociation(node.port, timeout_s=120)) for _ in paths]
        with RawPeer(node.port) as peer:
            answer = peer.associate(associate_rq(calling=CALLING))
            # Transient, by the presentation service provider, local limit exceeded (PS3.8 9.3.4).
            if answer != (3, bytes((0, 2, 3, 2))):
                broken.append(f"association {len(paths) + 1} was answered {answer}")
        together = threading.Barrier(len(paths))

        def store(association: ModalityAssociation, path: Path) -> int:
            together.wait(60)
            status = association.store_object(read_part10(path))
            association.release()
            return status

        with ThreadPoolExecutor(len(paths)) as pool:
            broken += [f"status {status:04X}" for status in pool.map(store, open_ones, paths) if status]
    return broken


MANY_ASSOCIATIONS = Scenario(
    name="many-associations",
    tries="A hundred associations store at the same moment, and one more is rejected as too many.",
    unit="associations",
    run=lambda folder, share: run_many(folder, 5 if share else 2),
)
