"""DCMTK's own options to refuse, abort, sleep and ignore, as destination and as modality."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pydicom.errors import InvalidDicomError

from tests.support.node import CALLING, RunningNode, default_routes, destination, running_node
from tests.support.peers import LOOPBACK, DcmtkStorescp, MockScp, find_program, read_part10, wait_until
from tests.support.radiographs import CT, write_radiographs
from tests.support.scenarios import Result, Scenario

SCP_OPTIONS: dict[str, tuple[str, ...]] = {
    "refuse": ("--refuse",),
    "abort-after": ("--abort-after",),
    "abort-during": ("--abort-during",),
    "sleep-after": ("--sleep-after", "6"),
    "sleep-during": ("--sleep-during", "6"),
}
"""What DCMTK's storescp does until it is started again as a healthy one."""
SHORT_S = 2.0
"""The node's time-outs: sleeping peers are beyond them."""


def run_dcmtk(folder: Path) -> Result:
    """Deliver to each misbehaving storescp until the node has seen it, heal it, and let DCMTK's SCUs abort too."""
    result = Result()
    paths = write_radiographs(folder / "in", 2, sop_class=CT)
    with contextlib.ExitStack() as stack:
        pacs = stack.enter_context(MockScp())
        peers = {
            name: stack.enter_context(DcmtkStorescp(folder / name, *options)) for name, options in SCP_OPTIONS.items()
        }
        # Always: takes objects without the bits being kept, and rejects nobody who names an implementation class.
        peers["ignore"] = stack.enter_context(DcmtkStorescp(folder / "ignore", "--ignore"))
        peers["reject"] = stack.enter_context(DcmtkStorescp(folder / "reject", "--reject"))
        times = {"acse_timeout_s": SHORT_S, "dimse_timeout_s": SHORT_S}
        targets = [destination("pacs", pacs.port)]
        targets += [destination(name, peer.port, **times) for name, peer in peers.items()]
        node = stack.enter_context(
            running_node(
                folder / "node", destinations=targets, routes=default_routes(*(str(t["name"]) for t in targets))
            )
        )
        result.tried += _abort_as_modality(node, paths)
        node.send(*paths)
        for name in SCP_OPTIONS:
            # --refuse rejects for good (PS3.8 9.3.4, result 1), which is a dead letter until an operator retries it.
            # One that sleeps has answered before, so a second association may be enough.
            states = "'refused'" if name == "refuse" else "'pending', 'sent'"
            ((delivery_id,),) = node.wait_for_rows(
                f"SELECT id FROM delivery WHERE destination = '{name}' AND state IN ({states}) AND attempts >= 1"
            )
            result.tried += 1
            peers[name].stop()
            _drop_beginnings(peers[name], paths)
            peers[name].options = ()
            peers[name].start()
            if name == "refuse":
                node.command("queue", "retry", str(delivery_id))
        wait_until(
            lambda: node.rows("SELECT count(*) FROM delivery WHERE state = 'sent'")[0][0] >= len(targets),
            timeout_s=90,
            what="delivery everywhere",
        )
        node.wait_until_idle()
        result.check(node, pacs.objects, paths)
        for name in (*SCP_OPTIONS, "reject"):
            side = Result()
            side.check(node, peers[name].objects(), paths)
            if not side.ok:
                result.broken.append(f"{name}: {side}")
        result.tried += 2  # --ignore and --reject, where the point is that nothing goes wrong
    return result


def _drop_beginnings(peer: DcmtkStorescp, paths: Sequence[Path]) -> None:
    """Remove what a storescp was in the middle of writing when it was ended: it has answered for none of it."""
    whole = [read_part10(path).data for path in paths]
    for file in peer.received_folder.iterdir():
        try:
            data = read_part10(file).data
        except InvalidDicomError:
            data = b""
        if any(len(data) < len(original) and original.startswith(data) for original in whole):
            file.unlink()


def _abort_as_modality(node: RunningNode, paths: list[Path]) -> int:
    """Abort after stores and after echoes; what was acknowledged before an abort counts."""
    tried = 0
    for program, options in (
        ("storescu", ["--abort", *map(str, paths)]),
        ("storescu", ["--repeat", "2", "--abort", *map(str, paths)]),
        ("echoscu", ["--abort"]),
        ("echoscu", ["--repeat", "5", "--abort"]),
    ):
        found = find_program(program)
        assert found is not None
        flags = [option for option in options if option not in map(str, paths)]
        files = [option for option in options if option in map(str, paths)]
        done = subprocess.run(
            [found, "-aet", CALLING, "-aec", "LOWDOSE", *flags, LOOPBACK, str(node.port), *files],
            capture_output=True,
            timeout=60,
            check=False,
            env={**os.environ, "TCP_NODELAY": "1"},
        )
        assert done.returncode == 0, (program, options, done.stderr)
        tried += 1
    return tried


DCMTK = Scenario(
    name="dcmtk",
    tries="DCMTK refuses, aborts, sleeps beyond the time-out, ignores and rejects (storescp), and aborts after its "
    "work (storescu, echoscu).",
    unit="options",
    run=lambda folder, share: run_dcmtk(folder),
)
