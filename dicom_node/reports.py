"""Tables for people: what status, verify, queue and route say on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from config.observation import AlarmKind
from dicom_node.certificates import Expiry
from dicom_node.forecast import Forecast, shipments_in_words
from dicom_node.ledger.balance import Count, NodeStatus
from dicom_node.ledger.deliveries import DeliveryLine
from dicom_node.ledger.destinations import DestinationLine, Hold
from dicom_node.ledger.processes import DEAD_AFTER_S
from dicom_node.observation.alarms import Alarm
from dicom_node.routing import RouteTrial
from dicom_node.sending import Trouble
from dicom_node.states import DEAD_LETTERS, BreakerState
from dicom_node.verification import Verification

WHAT_TO_DO = (
    'docs/storage.md, "Files that decay", says what to do; status names the SOP instances once they were read again'
)


def show_status(
    console: Console,
    status: NodeStatus,
    locate: Callable[[str], Path],
    *,
    holds: Sequence[Hold] = (),
    standings: Sequence[DestinationLine] = (),
    alarms: Sequence[Alarm] = (),
) -> None:
    """Print what `dicom-node status` found; `locate` gives the file of a key of the instance store."""
    for alarm in alarms:
        _say(console, f"ALARM {alarm.kind}: {alarm.sentence}", style="bold red")
    told = {alarm.subject for alarm in alarms if alarm.kind is AlarmKind.DESTINATION_DOWN}
    for line in standings:
        if line.state is BreakerState.OPEN and line.name not in told:
            _say(console, f"{line.name} is down since {_local(line.since)}: {line.reason}", style="yellow")
    processes = _table("process", "state", "pid", "host", "last seen")
    for row in status.processes:
        state = "running" if row["silent_s"] < DEAD_AFTER_S else "SILENT"
        processes.add_row(row["name"], state, str(row["pid"]), row["host"], f"{row['silent_s']:.0f} s ago")
    console.print(processes if status.processes else Text("No process of this node runs: dicom-node run -c FILE"))
    _say(console, f"Open associations: {status.open_associations}")
    _say(console, "Series: " + _counts(status.arrivals))
    _say(console, "Objects: " + _counts(status.instances))
    deliveries = _table("destination", "deliveries")
    for destination, counts in status.deliveries.items():
        deliveries.add_row(destination, _counts(counts))
    if status.deliveries:
        console.print(deliveries)
    if any(counts.get(state.value) for counts in status.deliveries.values() for state in DEAD_LETTERS):
        _say(console, "Nobody tries the refused and abandoned ones any more: dicom-node queue list -c FILE says why")
    _show_holds(console, holds)
    if status.oldest_pending_s is not None:
        _say(console, f"Oldest delivery that waits: {status.oldest_pending_s:.0f} s")
    for uid in status.unrouted:
        _say(
            console, f"Series {uid} is kept: no route matches; add [[routes]] or [fallback] for it and restart the node"
        )
    for row in status.following:
        why = "is measured in shadow mode" if row["shadow"] else "was late, and what is enhanced now follows"
        _say(
            console,
            f"Series {row['series_instance_uid']}: originals went on {_local(row['released_at'])}; it {why}",
        )
    for row in status.quarantined:
        sender = f"{row['calling_ae_title']} at {row['host']}" if row["host"] else "an unknown sender"
        _say(
            console, f"Quarantined {_local(row['at'])}, from {sender}: {row['reason']}; it lies in {locate(row['key'])}"
        )
    for row in status.rejections:
        _say(console, f"Rejected {row['count']} x, last {_local(row['last_at'])}, from {row['host']}: {row['reason']}")


def show_certificates(console: Console, certificates: Sequence[Expiry], warn_days: int) -> None:
    """Print how long the certificates of the settings still hold."""
    for found in certificates:
        is_due = bool(found.problem) or found.ends_soon(warn_days)
        said = found.sentence or f"{found.path}: {found.problem}"
        _say(console, f"Certificate {found.setting}: {said}", style="bold red" if is_due else "")


def show_verification(console: Console, found: Verification) -> None:
    """Print what `dicom-node verify` found."""
    table = _table("", "received", "delivered", "in work", "of them dead letters", "quarantined", "cancelled")
    for name, count in [("all", found.balance.total), *sorted(found.balance.days.items())]:
        table.add_row(name, *_fields(count))
    console.print(table)
    for finding in found.balance.findings:
        _say(console, f"{finding.subject}: {finding.finding}", style="red")
    for word, keys in (("missing", found.missing), ("damaged", found.damaged), ("unreadable", found.unreadable)):
        for key in keys:
            _say(console, f"file {word}: {key}", style="red")
    if found.missing or found.damaged or found.unreadable:
        _say(console, WHAT_TO_DO)
    if found.read_bytes or found.skipped:
        _say(console, f"{found.read_bytes / 1e6:.0f} MB read again, {found.skipped} files left out as checked lately")
    if found.orphans:
        console.print(f"{len(found.orphans)} files that nobody was told are safe (left by crashes)")
    console.print("Nothing is lost." if found.ok else Text("Something is missing; see above.", style="bold red"))


def _show_holds(console: Console, holds: Sequence[Hold]) -> None:
    for hold in holds:
        _say(console, f"On hold since {_local(hold.at)}: {hold.scope} {hold.subject} ({hold.reason})", style="yellow")


def hold_as_json(hold: Hold) -> dict[str, Any]:
    """Return a hold as `status --json` and `queue list --json` print it."""
    return {"scope": hold.scope.value, "subject": hold.subject, "at": hold.at, "reason": hold.reason}


def standing_as_json(line: DestinationLine) -> dict[str, Any]:
    """Return how a destination stands as `status --json` prints it; those that were never in trouble are left out."""
    return {
        "destination": line.name,
        "breaker": line.state.value,
        "since": line.since,
        "reason": line.reason,
        "failures": line.failures,
        "probe_at": line.probe_at,
    }


def show_queue(
    console: Console,
    lines: Sequence[DeliveryLine],
    now: float,
    *,
    holds: Sequence[Hold] = (),
    standings: Sequence[DestinationLine] = (),
) -> None:
    """Print what `dicom-node queue list` found."""
    _show_holds(console, holds)
    stopped = {hold.subject: "on hold" for hold in holds}
    stopped |= {line.name: f"{line.name} is down" for line in standings if line.state is BreakerState.OPEN}
    for line in lines:
        wait = ""
        if line.state.value == "pending":
            wait = stopped.get(line.study_instance_uid) or stopped.get(line.destination) or ""
            wait = f", waits: {wait}" if wait else f", next in {max(0.0, line.next_attempt_at - now):.0f} s"
        head = Text(f"{line.delivery_id}  {line.destination}  {line.state.value}", style="bold")
        tries = f"{line.attempts} {'try' if line.attempts == 1 else 'tries'}"
        head.append(
            f"  {line.sent} sent, {line.refused} refused, {line.pending} left, {tries}{wait}",
            style="not bold",
        )
        console.print(head, soft_wrap=True)
        generation = f" (generation {line.generation})" if line.generation > 1 else ""
        generation += " (enhanced images that follow their originals)" if line.part else ""
        console.print(Text(f"   series {line.series_instance_uid}{generation}"), soft_wrap=True)
        if line.reason:
            console.print(Text(f"   {line.reason}"), soft_wrap=True)
    if not lines:
        console.print("Nothing waits, is refused or was given up.")


def show_forecasts(
    console: Console,
    forecasts: Sequence[tuple[Path, Forecast]],
    skipped: Sequence[Trouble],
    warnings: Sequence[str],
) -> None:
    """Print what would become of objects: once for neighbours that share it, the first one named in full."""
    for warning in warnings:
        _say(console, f"warning: {warning}")
    for _, group in groupby(forecasts, key=lambda entry: entry[1]):
        (path, forecast), *others = group
        also = f" and {len(others)} more" if others else ""
        console.print(Text(f"{path}{also}", style="bold"), soft_wrap=True)
        _show_forecast(console, forecast)
    for trouble in skipped:
        console.print(Text(f"{trouble.path}: skipped: {trouble.reason}"), soft_wrap=True)


def _show_forecast(console: Console, forecast: Forecast) -> None:
    for trial in forecast.trials:
        console.print(Text(f"  {trial.route}: {'takes it' if trial.matches else 'does not match'}"), soft_wrap=True)
        for condition in trial.conditions:
            word = "holds" if condition.holds else "FAILS"
            line = f"    {word}  {condition.key} = {condition.value!r}, wanted {condition.condition}"
            console.print(Text(line), soft_wrap=True)
    if forecast.enhanced:
        what = f"enhanced with strength {forecast.strength:.2f} ({forecast.reason}); the original where that fails"
    else:
        what = forecast.reason if forecast.route is None else f"passed through: {forecast.reason}"
    console.print(Text(f"  {what}"), soft_wrap=True)
    for sentence in shipments_in_words(forecast):
        _say(console, f"  {sentence}")


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
        "part": line.part,
        "route": line.route,
        "sent": line.sent,
        "refused": line.refused,
        "pending": line.pending,
        "created_at": line.created_at,
        "next_attempt_at": line.next_attempt_at,
        "reason": line.reason,
    }


def trial_as_json(trial: RouteTrial) -> dict[str, Any]:
    """Return one trial as `dicom-node route test --json` prints it: each condition with the value that was seen."""
    return {
        "route": trial.route,
        "matches": trial.matches,
        "conditions": [
            {"key": c.key, "condition": c.condition, "value": c.value, "holds": c.holds} for c in trial.conditions
        ],
    }


def forecasts_as_json(
    forecasts: Sequence[tuple[Path, Forecast]], skipped: Sequence[Trouble], warnings: Sequence[str]
) -> dict[str, Any]:
    """Return the object that `dicom-node route test --json` prints.

    ``objects`` has for each file ``file``, ``route`` (null where none takes it), ``trials``, ``enhanced``, ``reason``,
    ``strength`` (null where it is not enhanced), ``report`` (whether one on the series goes along) and ``sends``: for
    each destination and content (``original`` or ``enhanced``) the UIDs of the transfer syntaxes in the order in which
    they are offered. ``skipped`` names files that hold no object, with the reason; ``warnings`` tell of the assumed
    sender. Where there is a single object, its ``route`` and ``trials`` stand at the top too.
    """
    objects = [_forecast_as_json(path, forecast) for path, forecast in forecasts]
    single = {key: objects[0][key] for key in ("route", "trials")} if len(objects) == 1 else {}
    listed = [{"path": str(trouble.path), "reason": trouble.reason} for trouble in skipped]
    return {**single, "objects": objects, "skipped": listed, "warnings": list(warnings)}


def _forecast_as_json(path: Path, forecast: Forecast) -> dict[str, Any]:
    return {
        "file": str(path),
        "route": forecast.route,
        "trials": [trial_as_json(trial) for trial in forecast.trials],
        "enhanced": forecast.enhanced,
        "reason": forecast.reason,
        "strength": forecast.strength,
        "report": forecast.report,
        "sends": [
            {"destination": s.destination, "content": s.content.value, "transfer_syntaxes": list(s.transfer_syntaxes)}
            for s in forecast.shipments
        ],
    }


def _say(console: Console, sentence: str, *, style: str = "") -> None:
    # Text, as what a peer or an object says can look like markup; in one piece, for those who search or cut lines.
    console.print(Text(sentence, style=style), soft_wrap=True)


def _local(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in sorted(counts.items())) or "none"


def _fields(count: Count) -> list[str]:
    shown = (count.received, count.delivered, count.in_work, count.dead_letters, count.quarantined, count.cancelled)
    return [str(number) for number in shown]
