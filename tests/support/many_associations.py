"""A hundred associations at once, and one too many."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.modality import ModalityAssociation
from tests.support.network import RawPeer, associate_rq
from tests.support.node import CALLING, running_node
from tests.support.peers import MockScp, read_part10, wait_until
from tests.support.radiographs import CT, write_radiographs
from tests.support.scenarios import Result, Scenario

COUNT = 100


def run_many(folder: Path, rounds: int) -> Result:
    """Open a hundred associations, store on all of them at the same moment, and see the one after them rejected."""
    result = Result()
    with (
        MockScp() as pacs,
        running_node(folder / "node", pacs.port, receiver={"max_associations": COUNT}) as node,
        contextlib.ExitStack() as stack,
    ):
        paths = [
            path
            for number in range(COUNT)
            for path in write_radiographs(folder / "in", rounds, series=number + 1, sop_class=CT, size=64)
        ]
        receiver = node.processes()["receiver"]
        threads, files = receiver.num_threads(), receiver.num_fds()
        open_ones = [stack.enter_context(ModalityAssociation(node.port, timeout_s=120)) for _ in range(COUNT)]
        with RawPeer(node.port) as peer:
            answer = peer.associate(associate_rq(calling=CALLING))
            # Transient, by the presentation service provider, local limit exceeded (PS3.8 9.3.4).
            if answer != (3, bytes((0, 2, 3, 2))):
                result.broken.append(f"association {COUNT + 1} was answered {answer}")
        together = threading.Barrier(COUNT)

        def store(number: int) -> list[int]:
            together.wait(60)
            association = open_ones[number]
            statuses = [
                association.store_object(read_part10(path)) for path in paths[number * rounds : (number + 1) * rounds]
            ]
            association.release()
            return statuses

        with ThreadPoolExecutor(COUNT) as pool:
            for statuses in pool.map(store, range(COUNT)):
                result.broken += [f"status {status:04X}" for status in statuses if status]
        result.tried = COUNT
        node.wait_balanced(len(paths), timeout_s=240)
        result.check(node, pacs.objects, paths)
        try:
            wait_until(
                lambda: receiver.num_threads() <= threads + 1, timeout_s=30, what="the end of the associations' threads"
            )
        except TimeoutError as error:
            result.broken.append(str(error))
        result.figures["receiver's file handles before and after"] = [files, receiver.num_fds()]
    return result


MANY_ASSOCIATIONS = Scenario(
    name="many-associations",
    tries="A hundred associations store at the same moment, and one more is rejected as too many.",
    unit="associations",
    run=lambda folder, is_long: run_many(folder, 5 if is_long else 1),
)
