"""The command `reload`: a running node takes its changed settings, and who changed what."""

from __future__ import annotations

import getpass
import json
import os
import signal
import socket
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from config.loading import load_settings
from config.settings import Settings
from dicom_node.app import machine_of
from dicom_node.command_options import AsJson, ConfigFile
from dicom_node.errors import OperationRefused
from dicom_node.ledger.settings_changes import ChangeOutcome, RecordedChange, RunningProcess, SettingsChangeLedger
from dicom_node.queue_commands import OPEN_STATES
from dicom_node.reloading import read_settings
from dicom_node.state import EXIT_FOUND_FAULTS, EXIT_OK, EXIT_USAGE, State, open_state

_POLL_S = 0.1


def reload_command(
    config: ConfigFile,
    history: Annotated[bool, typer.Option("--history", help="Show who changed what, and change nothing.")] = False,
    limit: Annotated[int, typer.Option(help="With --history: changes shown, the latest.", min=1)] = 20,
    wait_s: Annotated[float, typer.Option(help="Longest wait for the processes, in seconds.", min=0.1)] = 30.0,
    as_json: AsJson = False,
) -> int:
    """Have the running node take its changed settings, without dropping an association or a series.

    A file with a fault is refused (exit code 2, every fault named) and the old settings stay. What counts only from the
    next start is named. Exit code 1 where a process has not taken the settings in time.
    """
    if history:
        settings = load_settings(config)
        _require_data(settings)
        with open_state(settings) as state:
            found = SettingsChangeLedger(state.database, settings.node.name).history(limit)
        _show_history(found, as_json=as_json)
        return EXIT_OK
    settings, digest = read_settings(config)
    _require_data(settings)
    with open_state(settings) as state:
        return _reload(state, digest, wait_s, as_json=as_json)


def _require_data(settings: Settings) -> None:
    """Refuse a data folder without a node, instead of making one: its settings have changed."""
    if not settings.node.data_dir.is_dir():
        raise OperationRefused(
            f"no node runs on {settings.node.data_dir}: node.data_dir, node.name and node.database_url take effect at "
            "the next start"
        )


def _reload(state: State, digest: str, wait_s: float, *, as_json: bool) -> int:
    settings = state.settings
    ledger = SettingsChangeLedger(state.database, settings.node.name)
    running = _running(ledger, settings)
    if not running:
        raise OperationRefused(
            f"node {settings.node.name} does not run on {settings.node.data_dir}: start it, and it takes these settings"
        )
    number = ledger.request(who(), digest)
    for process in running:
        os.kill(process.pid, signal.SIGHUP)
    deadline = time.monotonic() + wait_s
    behind = running
    while time.monotonic() < deadline:
        behind = [process for process in _running(ledger, settings) if process.settings_digest != digest]
        change = ledger.get(number)
        if change.outcome is ChangeOutcome.REFUSED or (not behind and change.outcome is ChangeOutcome.APPLIED):
            break
        time.sleep(_POLL_S)
    change = ledger.get(number)
    waiting = _without_destination(state)
    if as_json:
        print(
            json.dumps(
                {
                    **_change_as_json(change),
                    "processes": [process.name for process in running],
                    "behind": [process.name for process in behind],
                    "waiting": waiting,
                },
                indent=2,
            )
        )
    else:
        _show(change, running, behind, waiting)
    if change.outcome is ChangeOutcome.REFUSED:
        return EXIT_USAGE
    return EXIT_FOUND_FAULTS if behind or change.outcome is not ChangeOutcome.APPLIED else EXIT_OK


def _running(ledger: SettingsChangeLedger, settings: Settings) -> list[RunningProcess]:
    heard = ledger.processes(machine_of(settings), settings.node.dead_after_s)
    return [process for process in heard if _is_ours(process.pid)]


def _is_ours(pid: int) -> bool:
    """Tell whether a process is one of this program: the number may be another one's by now, and a signal end it."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"--role" in line and any(b"dicom" in part for part in line)


def who() -> str:
    """Return who runs this command: user, the one behind sudo, and host."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = "unknown"
    behind = os.environ.get("SUDO_USER")
    by = f", sudo by {behind}" if behind and behind != user else ""
    return f"{user} (uid {os.getuid()}{by}) on {socket.gethostname()}"


def _without_destination(state: State) -> dict[str, int]:
    """Return how many open deliveries there are to destinations that the settings don't have."""
    known = {destination.name for destination in state.settings.destinations}
    found: dict[str, int] = {}
    for line in state.deliveries.lines(states=OPEN_STATES):
        if line.destination not in known:
            found[line.destination] = found.get(line.destination, 0) + 1
    return found


def _show(
    change: RecordedChange, running: Sequence[RunningProcess], behind: Sequence[RunningProcess], waiting: dict[str, int]
) -> None:
    if change.outcome is ChangeOutcome.REFUSED:
        print("The settings are refused and the old ones stay:")
        for fault in change.changes:
            print(f"  {fault['path']} = {fault['value']}: {fault['allowed']}")
        return
    if not change.changes:
        print("Nothing has changed.")
    for one in change.changes:
        later = "" if one["takes_effect"] == "now" else f" ({one['takes_effect']})"
        print(f"  {one['path']}: {_value(one['old'])} -> {_value(one['new'])}{later}")
    for name, count in waiting.items():
        print(
            f"{count} {'delivery waits' if count == 1 else 'deliveries wait'} for {name}, not in the settings now: "
            f"add it again, or dicom-node queue reroute --destination {name} --to OTHER -c FILE"
        )
    if behind:
        print(f"Not taken yet by {', '.join(process.name for process in behind)}: see their log, or ask again.")
    else:
        print(f"In force in {', '.join(process.name for process in running)}.")


def _show_history(found: Sequence[RecordedChange], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"changes": [_change_as_json(change) for change in found]}, indent=2))
        return
    if not found:
        print("Nothing was changed while the node ran.")
    for change in found:
        at = datetime.fromtimestamp(change.at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        print(f"{at}  {change.outcome}  {change.who}  file {(change.digest or '')[:12]}")
        for one in change.changes:
            if "allowed" in one:
                print(f"    {one['path']} = {one['value']}: {one['allowed']}")
            else:
                later = "" if one["takes_effect"] == "now" else f" ({one['takes_effect']})"
                print(f"    {one['path']}: {_value(one['old'])} -> {_value(one['new'])}{later}")


def _value(value: Any) -> str:
    return "(none)" if value is None else json.dumps(value) if not isinstance(value, str) else value


def _change_as_json(change: RecordedChange) -> dict[str, Any]:
    return {
        "at": change.at,
        "node": change.node,
        "who": change.who,
        "outcome": change.outcome.value,
        "digest": change.digest,
        "changes": change.changes,
    }
