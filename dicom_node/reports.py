"""Tables for people: what status, verify, queue and route say on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dicom_node.ledger.balance import Count, NodeStatus
from dicom_node.ledger.deliveries import DeliveryLine
from dicom_node.ledger.processes import DEAD_AFTER_S
from dicom_node.routing import RouteTrial
from dicom_node.verification import Verification


def show_status(console: Console, status: NodeStatus) -> None:
    """Print what `dicom-node status` found."""
    processes = _table("process", "state", "pid", "host", "last seen")
    for row in status.processes:
        state = "running" if row["silent_s"] < DEAD_AFTER_S else "SILENT"
        processes.add_row(row["name"], state, str(row["pid"]), row["host"], f"{row['silent_s']:.0f} s ago")
    console.print(processes if status.processes else Text("No process of this node runs: dicom-node run -c FILE"))
    console.print(f"Open associations: {status.open_associations}")
    console.print("Series: " + _counts(status.arrivals))
    console.print("Objects: " + _counts(status.instances))
    deliveries = _table("destination", "deliveries")
    for destination, counts in status.deliveries.items():
        deliveries.add_row(destination, _counts(counts))
    if status.deliveries:
        console.print(deliveries)
    if status.oldest_pending_s is not None:
        console.print(f"Oldest delivery that waits: {status.oldest_pending_s:.0f} s")
    for uid in status.unrouted:
        console.print(
            Text(f"Series {uid} is kept: no route matches; add [[routes]] or [fallback] for it and restart the node")
        )
    for row in status.rejections:
        at = datetime.fromtimestamp(row["last_at"]).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        console.print(
            Text(f"Rejected {row['count']} x, last {at}, from {row['host']}: {row['reason']}"), soft_wrap=True
        )


def show_verification(console: Console, found: Verification) -> None:
    """Print what `dicom-node verify` found."""
    table = _table("", "received", "delivered", "in work", "of them dead letters", "quarantined")
    for name, count in [("all", found.balance.total), *sorted(found.balance.days.items())]:
        table.add_row(name, *_fields(count))
    console.print(table)
    for finding in found.balance.findings:
        console.print(Text(f"{finding.subject}: {finding.finding}", style="red"))
    for word, keys in (("missing", found.missing), ("damaged", found.damaged)):
        for key in keys:
            console.print(Text(f"file {word}: {key}", style="red"))
    if found.orphans:
        console.print(f"{len(found.orphans)} files that nobody was told are safe (left by crashes)")
    console.print("Nothing is lost." if found.ok else Text("Something is missing; see above.", style="bold red"))


def show_queue(console: Console, lines: Sequence[DeliveryLine], now: float) -> None:
    """Print what `dicom-node queue list` found."""
    for line in lines:
        wait = f", next in {max(0.0, line.next_attempt_at - now):.0f} s" if line.state.value == "pending" else ""
        head = Text(f"{line.delivery_id}  {line.destination}  {line.state.value}", style="bold")
        head.append(
            f"  {line.sent} sent, {line.refused} refused, {line.pending} left, {line.attempts} tries{wait}",
            style="not bold",
        )
        console.print(head, soft_wrap=True)
        generation = f" (generation {line.generation})" if line.generation > 1 else ""
        console.print(Text(f"   series {line.series_instance_uid}{generation}"), soft_wrap=True)
        if line.reason:
            console.print(Text(f"   {line.reason}"), soft_wrap=True)
    if not lines:
        console.print("Nothing waits, is refused or was given up.")


def show_route(console: Console, trials: Sequence[RouteTrial], route: str | None) -> None:
    """Print which route would take an object, and why the ones before it would not."""
    for trial in trials:
        console.print(Text(f"{trial.route}: {'takes it' if trial.matches else 'does not match'}", style="bold"))
        for condition in trial.conditions:
            word = "holds" if condition.holds else "FAILS"
            console.print(Text(f"  {word}  {condition.key} = {condition.value!r}, wanted {condition.condition}"))
    if route is None:
        console.print("No route takes it: it would be kept until one does.")


def line_as_json(line: DeliveryLine) -> dict[str, Any]:
    """Return one delivery as `dicom-node queue list --json` prints it."""
    return {
        "delivery": line.delivery_id,
        "destination": line.destination,
        "state": line.state.value,
        "attempts": line.attempts,
        "study_instance_uid": line.study_instance_uid,
        "series_instance_uid": line.series_instance_uid,
        "generation": line.generation,
        "route": line.route,
        "sent": line.sent,
        "refused": line.refused,
        "pending": line.pending,
        "created_at": line.created_at,
        "next_attempt_at": line.next_attempt_at,
        "reason": line.reason,
    }


def trial_as_json(trial: RouteTrial) -> dict[str, Any]:
    """Return one trial as `dicom-node route test --json` prints it."""
    return {
        "route": trial.route,
        "matches": trial.matches,
        "conditions": [
            {"key": c.key, "condition": c.condition, "value": c.value, "holds": c.holds} for c in trial.conditions
        ],
    }


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in sorted(counts.items())) or "none"


def _fields(count: Count) -> list[str]:
    return [str(n) for n in (count.received, count.delivered, count.in_work, count.dead_letters, count.quarantined)]
