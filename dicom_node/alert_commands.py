"""The `alert` commands: which alarms are on, who was told, and a trial of each way of telling."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from config.loading import load_settings
from dicom_node.command_options import AsJson, ConfigFile
from dicom_node.errors import OperationRefused
from dicom_node.ledger.alarms import AlarmLedger, Message
from dicom_node.state import EXIT_FOUND_FAULTS, EXIT_OK, open_state

alert = typer.Typer(help="Who is told of alarms, and whether that works.", no_args_is_help=True)


@alert.command("list")
def alert_list(config: ConfigFile, as_json: AsJson = False) -> int:
    """Show the ways of telling in the settings, the alarms that are on, and the last messages."""
    settings = load_settings(config)
    with open_state(settings) as state:
        ledger = AlarmLedger(state.database, socket.gethostname())
        alarms, messages = ledger.alarms(), ledger.messages()
    ways = [
        {
            "alert": one.name,
            "kind": one.kind,
            "to": one.url or ", ".join(one.recipients),
            "alarms": [kind.value for kind in one.alarms],
        }
        for one in settings.alerts
    ]
    if as_json:
        found = {"alerts": ways, "alarms": list(map(asdict, alarms)), "messages": list(map(asdict, messages))}
        print(json.dumps(found, indent=2))
        return EXIT_OK
    console = Console()
    for way in ways:
        _say(console, f"{way['alert']}  {way['kind']} to {way['to']}: {', '.join(way['alarms']) or 'every alarm'}")
    if not ways:
        _say(console, "Nobody is told of alarms: add [[alerts]] to the settings.")
    for alarm in alarms:
        _say(console, f"ALARM {alarm.kind} since {_local(alarm.since)}: {alarm.sentence}", style="bold red")
    if not alarms:
        _say(console, "No alarm is on.")
    for message in messages:
        what = f"{message.alert}  {message.event} {message.kind}"
        _say(console, f"{_local(message.created_at)}  {what}: {_fate(message)}")
    return EXIT_OK


@alert.command("test")
def alert_test(
    config: ConfigFile,
    name: Annotated[str | None, typer.Argument(help="Of one alert; all unless given.", metavar="[NAME]")] = None,
    as_json: AsJson = False,
) -> int:
    """Send a trial message now, and say what the other side answered. Exit code 1 if one was not taken."""
    # Imported here: httpx takes time to load, and no other command needs it.
    from dicom_node.observation.alerts import NotBrought, bring, trial_notice

    settings = load_settings(config)
    chosen = [one for one in settings.alerts if name in (None, one.name)]
    if not chosen:
        known = ", ".join(one.name for one in settings.alerts)
        raise OperationRefused(
            f"no alert {name!r}; there are: {known}" if known else "there are no [[alerts]] in the settings"
        )
    tried = []
    for one in chosen:
        reason = None
        try:
            bring(one, trial_notice(settings.node.name, time.time()))
        except NotBrought as error:
            reason = str(error)
        tried.append({"alert": one.name, "ok": reason is None, "reason": reason})
        if not as_json:
            print(f"{one.name}: {'taken' if reason is None else reason}", flush=True)
    if as_json:
        print(json.dumps({"tried": tried}, indent=2))
    return EXIT_OK if all(entry["ok"] for entry in tried) else EXIT_FOUND_FAULTS


def _fate(message: Message) -> str:
    if message.sent_at is not None:
        return f"told {_local(message.sent_at)}"
    if message.next_attempt_at is None:
        return f"given up: {message.reason}"
    return f"waits, tried {message.attempts} x" + (f": {message.reason}" if message.reason else "")


def _say(console: Console, sentence: str, *, style: str = "") -> None:
    console.print(Text(sentence, style=style), soft_wrap=True)


def _local(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
