"""The `audit` commands: show the audit messages, and prove that none was changed or removed."""

from __future__ import annotations

import getpass
import json
import socket
from datetime import datetime
from pathlib import Path
from typing import Annotated
from xml.etree import ElementTree as ET

import typer

from config.loading import load_settings
from config.settings import Settings
from dicom_node.audit.chain import AuditChain, Entry, read_entries
from dicom_node.audit.chain import verify as verify_chain
from dicom_node.audit.events import audit_log_used
from dicom_node.audit.messages import render_message
from dicom_node.audit.recorder import FOLDER
from dicom_node.command_options import AsJson, ConfigFile
from dicom_node.state import EXIT_FOUND_FAULTS, EXIT_OK

audit = typer.Typer(help="DICOM audit messages (PS3.15 A.5).", no_args_is_help=True)


@audit.command("verify")
def audit_verify(config: ConfigFile, as_json: AsJson = False) -> int:
    """Go through the chain of audit messages; exit code 1 where one was changed, removed, added or moved."""
    count, breaks = verify_chain(_folder(load_settings(config)))
    if as_json:
        found = [{"file": one.file, "line": one.line, "number": one.number, "what": one.what} for one in breaks]
        print(json.dumps({"ok": not breaks, "entries": count, "breaks": found}, indent=2))
    else:
        for one in breaks:
            place = f"{one.file}, line {one.line}: " if one.line else f"{one.file}: " if one.file else ""
            print(f"{place}{one.what}")
        print(f"{count} entries; {'the chain does NOT hold' if breaks else 'the chain holds'}.")
    return EXIT_FOUND_FAULTS if breaks else EXIT_OK


@audit.command("list")
def audit_list(
    config: ConfigFile,
    last: Annotated[int, typer.Option(help="The last ones.", min=1)] = 20,
    as_json: AsJson = False,
) -> int:
    """Show audit messages. That somebody did is audited too, as the standard asks."""
    settings = load_settings(config)
    folder = _folder(settings)
    entries = list(read_entries(folder))[-last:]
    if as_json:
        shown = [{"number": e.number, "at": e.at, "message": e.message} for e in entries]
        print(json.dumps({"entries": shown}, indent=2))
    else:
        for entry in entries:
            print(f"{entry.number}  {_local(entry.at)}  {_summary(entry)}")
    if settings.audit.enabled and folder.is_dir():
        event = audit_log_used(user=getpass.getuser(), host=socket.gethostname(), location=folder.as_uri())
        at = datetime.now().astimezone().timestamp()
        source_id = f"{settings.node.name}@{socket.gethostname()}"
        message = render_message(event, at=at, source_id=source_id, site=settings.audit.site, patients=False)
        AuditChain(folder, rotate_bytes=settings.audit.rotate_mb * 1_000_000).append(message, at)
    return EXIT_OK


def _folder(settings: Settings) -> Path:
    return settings.node.data_dir / FOLDER


def _summary(entry: Entry) -> str:
    try:
        message = ET.fromstring(entry.message)  # noqa: S314 - we wrote it, and the chain is local
    except ET.ParseError:
        return entry.message
    event = message.find("EventIdentification")
    kinds = [] if event is None else [code.get("originalText", "") for code in event if code.get("originalText")]
    people = [one.get("UserID", "") for one in message.findall("ActiveParticipant")]
    objects = [one.get("ParticipantObjectID", "") for one in message.findall("ParticipantObjectIdentification")]
    outcome = "" if event is None or event.get("EventOutcomeIndicator") == "0" else " FAILED"
    return f"{', '.join(kinds)}{outcome}: {' -> '.join(people)} {' '.join(objects)}".rstrip()


def _local(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
