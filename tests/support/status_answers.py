"""A destination for each status that a peer can answer C-STORE with; what must become of the object is told here."""

from __future__ import annotations

import contextlib
from pathlib import Path

from tests.support.node import default_routes, destination, running_node
from tests.support.peers import MockScp, wait_until
from tests.support.radiographs import CT, write_radiographs
from tests.support.scenarios import Result, Scenario

# PS3.4 B.2.3 and PS3.7 Annex C, read for this test and not taken from the product.
STORED = (0x0000, 0x0001, 0x0107, 0x0116, 0xB000, 0xB006, 0xB007, 0xB123)
AGAIN = (0xA700, 0xA701, 0xA7FF, 0x0110, 0x0210, 0x0213, 0xFE00, 0xFF00, 0xFF01, 0x1234)
REFUSED = (
    0xA800, 0xA8FF, 0xA900, 0xA9FF, 0xC000, 0xC123, 0xCFFF,
    0x0105, 0x0106, 0x0111, 0x0112, 0x0113, 0x0114, 0x0115, 0x0117, 0x0118, 0x0119,
    0x0120, 0x0121, 0x0122, 0x0123, 0x0124, 0x0211, 0x0212,
)  # fmt: skip


def run_statuses(folder: Path) -> Result:
    """Answer one object of three by each status, at a destination of its own; the others by success."""
    result = Result()
    paths = write_radiographs(folder / "in", 3, sop_class=CT)
    with contextlib.ExitStack() as stack:
        peers = {status: stack.enter_context(MockScp(statuses={1: status})) for status in (*STORED, *AGAIN, *REFUSED)}
        targets = [destination(f"s{status:04X}", peer.port) for status, peer in peers.items()]
        node = stack.enter_context(
            running_node(
                folder / "node",
                destinations=targets,
                routes=default_routes(*(str(target["name"]) for target in targets)),
            )
        )
        node.send(*paths)

        def is_settled() -> bool:
            rows = node.rows("SELECT count(*) FROM delivery WHERE state IN ('sent', 'refused')")
            return rows[0][0] == len(peers)

        wait_until(is_settled, timeout_s=150, what="the end of every delivery")
        states = dict(node.rows("SELECT destination, state FROM delivery"))
        uids = {f"{path}" for path in paths}
        for status, peer in peers.items():
            result.tried += 1
            expected = "refused" if status in REFUSED else "sent"
            if states[f"s{status:04X}"] != expected:
                result.broken.append(f"{status:04X}: {states[f's{status:04X}']}, not {expected}")
            got = {obj.sop_instance_uid for obj in peer.objects}
            # What is refused is the one object alone: the others of its series have arrived.
            if len(got) != len(uids) - (status in REFUSED):
                result.broken.append(f"{status:04X}: {len(got)} objects of {len(uids)} arrived")
            if peer.stores != len(uids) + (status in AGAIN):
                result.broken.append(f"{status:04X}: {peer.stores} stores")
        unsaid = node.rows(
            "SELECT destination FROM delivery WHERE state = 'refused' AND (reason IS NULL OR reason = '')"
        )
        if unsaid:
            result.broken.append(f"refused without a reason: {unsaid}")
        # The balance over all destinations: dead letters keep their originals.
        result.check(node, peers[0x0000].objects, paths)
        result.figures["statuses"] = {"stored": len(STORED), "tried again": len(AGAIN), "dead letter": len(REFUSED)}
    return result


STATUSES = Scenario(
    name="statuses",
    tries="A peer answers C-STORE by each status of PS3.4 B.2.3 and PS3.7 Annex C, and by some that nobody defines.",
    unit="statuses",
    run=lambda folder, share: run_statuses(folder),
)
