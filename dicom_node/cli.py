"""The commands: arguments to application, and exit codes.

Exit codes: 0 done; 1 done, and something was found wrong (doctor, verify, send); 2 settings or arguments are wrong;
3 the receiver's port is taken; 4 the ledger can't be reached; 5 the data folder can't be written,
or another node runs on it.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from config.doubts import doubts
from config.example import render_example
from config.loading import InvalidSettings, load_settings
from dicom_node import __version__
from dicom_node import app as application
from dicom_node.alert_commands import alert
from dicom_node.audit_commands import audit
from dicom_node.backup_commands import backup_command, restore_command
from dicom_node.certificate_watch import expiring_soon
from dicom_node.certificates import broken_files, certificate_faults, key_doubts
from dicom_node.command_options import AsJson, ConfigFile, print_json
from dicom_node.commitment_commands import commitment
from dicom_node.conformance import render_statement
from dicom_node.errors import NodeError, OperationRefused
from dicom_node.logs import hook_exceptions, speak_with_facts
from dicom_node.peer_commands import doctor, send
from dicom_node.queue_commands import queue
from dicom_node.reload_commands import reload_command
from dicom_node.reloading import read_settings
from dicom_node.route_commands import route
from dicom_node.settings_in_force import read_in_force
from dicom_node.state import EXIT_LEDGER, EXIT_OK, EXIT_USAGE, StartRefused
from dicom_node.state_commands import shadow_report, status, verify
from dicom_node.upgrade_commands import upgrade_command
from dicom_node.user_commands import user


def _exit(code: int | None, **_parameters: object) -> NoReturn:
    sys.exit(code or 0)


commands = typer.Typer(
    name="dicom-node",
    result_callback=_exit,
    help="Receive low-dose X-ray studies, denoise them, forward them to the PACS.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
commands.add_typer(queue, name="queue")
commands.add_typer(user, name="user")
commands.add_typer(alert, name="alert")
commands.add_typer(audit, name="audit")
commands.add_typer(commitment, name="commitment")
commands.add_typer(route, name="route")
commands.command("upgrade")(upgrade_command)
commands.command("reload")(reload_command)
commands.command("backup")(backup_command)
commands.command("restore")(restore_command)


class RoleName(StrEnum):
    """A role that can run by itself."""

    RECEIVER = "receiver"
    WORKER = "worker"
    CONSOLE = "console"


def main() -> None:
    """Run a command; every expected failure is one clear message and its exit code."""
    # Whatever any process of the node writes is for its own user, also what libraries write: databases, their logs.
    os.umask(0o077)
    hook_exceptions()
    # Of commands that set up no log of their own: what they warn of shall come with its facts.
    speak_with_facts("dicom-node")
    errors = Console(stderr=True)
    try:
        commands()
    except InvalidSettings as error:
        for fault in error.faults:
            errors.print(Text(f"{error.file}: {fault}"), soft_wrap=True)
        sys.exit(EXIT_USAGE)
    except StartRefused as error:
        errors.print(Text(f"dicom-node: {error}"), soft_wrap=True)
        sys.exit(error.exit_code)
    except NodeError as error:
        errors.print(Text(f"dicom-node: {error}"), soft_wrap=True)
        sys.exit(EXIT_USAGE if isinstance(error, OperationRefused) else EXIT_LEDGER)


@commands.command()
def init(folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write to; made if absent.")]) -> None:
    """Write a commented settings file, node.toml, and the folder for the data."""
    file = folder / "node.toml"
    try:
        (folder / "node-data").mkdir(parents=True, exist_ok=True, mode=0o700)
        # It may come to hold the password of a database.
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as stream:
            stream.write(render_example())
    except FileExistsError:
        raise OperationRefused(f"{file} exists and is left as it is; remove it, or name another folder") from None
    except OSError as error:
        raise OperationRefused(f"{folder} can't be written ({error.strerror}); name another folder") from error
    print(f"Wrote {file}. Set your AE titles and your PACS in it, then: dicom-node check -c {file}")


@commands.command()
def check(config: ConfigFile, as_json: AsJson = False) -> int:
    """Validate the settings; every fault is named at once (exit code 2)."""
    try:
        settings = load_settings(config)
    except InvalidSettings as error:
        if as_json:
            print_json({"ok": False, "faults": [asdict(fault) for fault in error.faults], "warnings": []})
            return EXIT_USAGE
        raise
    now = time.time()
    faults = certificate_faults(settings, now)
    if faults and not as_json:
        raise InvalidSettings(config, tuple(faults))
    warnings = [*doubts(settings), *key_doubts(settings), *expiring_soon(settings, now)]
    if faults:
        print_json({"ok": False, "faults": [asdict(fault) for fault in faults], "warnings": warnings})
        return EXIT_USAGE
    if as_json:
        print_json({"ok": True, "faults": [], "warnings": warnings})
        return EXIT_OK
    for warning in warnings:
        print(f"warning: {warning}")
    print(f"{config}: settings are valid.")
    return EXIT_OK


@commands.command()
def run(
    config: ConfigFile,
    role: Annotated[RoleName | None, typer.Option(help="Run one role in this process, instead of all.")] = None,
    number: Annotated[int, typer.Option(help="Number of the worker, unique on this node's name.", min=0)] = 0,
    supervised: Annotated[bool, typer.Option(hidden=True)] = False,
    in_force: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> int:
    """Run the node: the receiver, the workers and the console, as processes that are watched and restarted."""
    # One that is started again goes on with what the others work with, whatever the file says by now.
    kept = read_in_force(in_force) if in_force is not None else None
    settings, digest = kept if kept is not None else read_settings(config)
    if supervised:
        application.end_with_supervisor()
    elif faults := [fault for fault in broken_files(settings) if fault.path.startswith("tls.")]:
        # An expired certificate does not keep the node from starting, nor does a destination's.
        raise InvalidSettings(config, tuple(faults))
    if role is RoleName.RECEIVER:
        return application.run_receiver(settings, config, digest, supervised=supervised)
    if role is RoleName.WORKER:
        # Imported here: PyTorch takes seconds and memory to load, and nothing else needs it.
        from dicom_node.worker import run_worker

        return run_worker(settings, number, config, digest, supervised=supervised)
    if role is RoleName.CONSOLE:
        # Imported here: the receiver and the workers need nothing of it.
        from dicom_node.console.server import run_console

        return run_console(settings, config, digest, supervised=supervised)
    return application.supervise(settings, config)


# In the order in which the help shows them.
commands.command()(send)
commands.command()(doctor)
commands.command()(status)
commands.command()(verify)
commands.command("shadow")(shadow_report)


@commands.command()
def conformance(
    config: ConfigFile,
    output: Annotated[
        Path | None, typer.Option(help="File to write to, instead of standard output.", metavar="FILE")
    ] = None,
) -> int:
    """Write the DICOM Conformance Statement of a node with these settings, as Markdown."""
    statement = render_statement(load_settings(config))
    if output is None:
        print(statement, end="")
        return EXIT_OK
    try:
        output.write_text(statement, encoding="utf-8")
    except OSError as error:
        raise OperationRefused(f"{output} can't be written ({error.strerror}); name another file") from error
    return EXIT_OK


@commands.command()
def version() -> None:
    """Show the version."""
    print(f"dicom-node {__version__}")
