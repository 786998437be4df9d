"""What needs somebody, first things first, with where to go for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from dicom_node.console.rendering import clock
from dicom_node.ledger.destinations import DestinationLine, Hold
from dicom_node.ledger.overview import Overview
from dicom_node.states import DEAD_LETTERS, BreakerState


@dataclass(frozen=True, kw_only=True)
class Concern:
    """Something to look after: how bad (``bad`` or ``warn``), a sentence, and the page that helps."""

    kind: str
    sentence: str
    path: str
    label: str


def concerns(
    overview: Overview,
    standings: Sequence[DestinationLine],
    holds: Sequence[Hold],
    disks: Sequence[dict[str, Any]],
    *,
    workers: int,
) -> list[Concern]:
    """Return what needs somebody now; the worst first."""
    bad: list[Concern] = []
    warn: list[Concern] = []
    roles = {process.role for process in overview.processes if not process.is_silent}
    if "receiver" not in roles:
        bad.append(
            Concern(kind="bad", sentence="No receiver runs: modalities can't send.", path="/", label="Processes")
        )
    if workers and "worker" not in roles:
        sentence = "No worker runs: nothing is enhanced or delivered."
        bad.append(Concern(kind="bad", sentence=sentence, path="/", label="Processes"))
    for line in standings:
        if line.state is BreakerState.OPEN:
            sentence = f"{line.name} is down since {clock(line.since)}: {line.reason}"
            bad.append(
                Concern(kind="bad", sentence=sentence, path=f"/destinations/{quote(line.name)}", label=line.name)
            )
    for queue in overview.queues:
        if number := sum(queue.states.get(state.value, 0) for state in DEAD_LETTERS):
            what = "1 delivery" if number == 1 else f"{number} deliveries"
            sentence = f"{what} to {queue.destination} refused or given up: nobody tries any more."
            path = f"/queue?show=dead&destination={quote(queue.destination)}"
            bad.append(Concern(kind="bad", sentence=sentence, path=path, label="Dead letters"))
    for disk in disks:
        if disk["state"] != "ok":
            kind, among = ("bad", bad) if disk["state"] == "above high watermark" else ("warn", warn)
            sentence = f"Disk of {disk['path']}: {disk['reason']}"
            among.append(Concern(kind=kind, sentence=sentence, path="/", label="Disks"))
    if overview.unrouted:
        what = "1 series is" if overview.unrouted == 1 else f"{overview.unrouted} series are"
        sentence = f"{what} kept: no route takes it; add [[routes]] or [fallback]."
        warn.append(Concern(kind="warn", sentence=sentence, path="/studies?state=no+route", label="Studies"))
    for hold in holds:
        sentence = f"On hold since {clock(hold.at)}: {hold.scope.value} {hold.subject} ({hold.reason})"
        is_destination = hold.scope.value == "destination"
        path = f"/destinations/{quote(hold.subject)}" if is_destination else f"/studies?uid={quote(hold.subject)}"
        warn.append(Concern(kind="warn", sentence=sentence, path=path, label="Look"))
    for process in overview.processes:
        if process.is_silent:
            sentence = f"{process.name} on {process.host} was last heard of at {clock(process.seen_at)}."
            warn.append(Concern(kind="warn", sentence=sentence, path="/", label="Processes"))
    return bad + warn
