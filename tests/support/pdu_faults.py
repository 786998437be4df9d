"""Every disturbance of a PDU on the way from the modality and on the way to the PACS, all at one node."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import psutil

from tests.support.modality import PersistentModality
from tests.support.node import destination, running_node
from tests.support.pdu_proxy import PduFault, PduProxy, all_faults
from tests.support.peers import MockScp, wait_until
from tests.support.radiographs import CR, CT, write_radiographs
from tests.support.scenarios import Result, Scenario

_TIME_OUT_S = 3.0
_LIMITS = {"acse_timeout_s": _TIME_OUT_S, "network_timeout_s": _TIME_OUT_S}


def run_pdu_faults(folder: Path, inbound: Sequence[PduFault], outbound: Sequence[PduFault]) -> Result:
    """Disturb each association once; all of them run at the same time. CT goes to all proxies, CR to one PACS."""
    result = Result()
    with contextlib.ExitStack() as stack:
        pacs = stack.enter_context(MockScp(patience_s=_TIME_OUT_S))
        to_pacs = [stack.enter_context(PduProxy(pacs.port, fault)) for fault in outbound]
        times = {"acse_timeout_s": _TIME_OUT_S, "dimse_timeout_s": _TIME_OUT_S, "concurrency": 1}
        targets = [destination("direct", pacs.port, "DIRECT", **times)]
        targets += [destination(f"p{n}", proxy.port, f"P{n}", **times) for n, proxy in enumerate(to_pacs)]
        common = {"quiet_period_s": 0.3, "enhance": False, "send": ["original"]}
        routes = [
            {"name": "ct", "match": {"Modality": "CT"}, "destinations": [t["name"] for t in targets], **common},
            {"name": "rest", "destinations": ["direct"], **common},
        ]
        node = stack.enter_context(running_node(folder / "node", destinations=targets, routes=routes, receiver=_LIMITS))
        receiver = node.processes()["receiver"]
        threads = receiver.num_threads()
        to_node = [stack.enter_context(PduProxy(node.port, fault)) for fault in inbound]
        ct = write_radiographs(folder / "in", 2, series=1, sop_class=CT)
        sent, modalities = [*ct], [PersistentModality(node.port, ct)]
        for number, proxy in enumerate(to_node):
            paths = write_radiographs(folder / "in", 2, series=10 + number, sop_class=CR)
            sent += paths
            modalities.append(PersistentModality(proxy.port, paths, timeout_s=_TIME_OUT_S))
        for modality in modalities:
            stack.enter_context(modality)
        for modality in modalities:
            modality.wait()
        node.wait_balanced(len(sent), timeout_s=150)
        missed: list[str] = []
        direct = [obj for obj in pacs.objects if obj.called_ae_title == "DIRECT"]
        result.check(node, direct, sent)
        for proxy, fault in (*zip(to_node, inbound, strict=True), *zip(to_pacs, outbound, strict=True)):
            result.tried += proxy.happened
            if not proxy.happened:
                missed.append(str(fault))
        # On a slow machine a time-out of 3 s may end an association before its last PDU is due.
        result.figures["did not come to pass"] = missed
        if result.tried < 0.95 * (len(inbound) + len(outbound)):
            result.broken.append(f"only {result.tried} disturbances came to pass; missing: {missed}")
        for number, fault in enumerate(outbound):
            got = [obj for obj in pacs.objects if obj.called_ae_title == f"P{number}"]
            side = Result()
            side.check(node, got, ct)
            if not side.ok:
                result.broken.append(f"to the PACS, {fault}: {side}")
        result.broken += _leaks(receiver, threads)
    return result


def _leaks(receiver: psutil.Process, threads: int) -> list[str]:
    def is_flat() -> bool:
        return receiver.num_threads() <= threads + 1 and not _connections(receiver)

    try:
        wait_until(is_flat, timeout_s=30, what="the end of every connection")
    except TimeoutError:
        return [f"{receiver.num_threads()} threads, {threads} before; connections {_connections(receiver)}"]
    return []


def _connections(process: psutil.Process) -> list[object]:
    return [c for c in process.net_connections("tcp") if c.status != psutil.CONN_LISTEN]


def _scenario(folder: Path, share: float) -> Result:
    faults = all_faults()
    # For CI every third, so that every spot and every action is among them.
    return run_pdu_faults(folder, faults if share else faults[::4], faults if share else faults[1::4])


PDU_FAULTS = Scenario(
    name="pdu-faults",
    tries="An association is cut, stalled, trickled, corrupted, doubled or reordered at each of its PDUs, in both "
    "directions, from the modality and to the PACS.",
    unit="disturbed PDUs",
    run=_scenario,
)
