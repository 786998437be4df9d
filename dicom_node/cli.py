"""The commands: arguments to application, and exit codes.

Exit codes: 0 done; 1 done, and something was found wrong (doctor, verify, send); 2 settings or arguments are wrong;
3 the receiver's port is taken; 4 the ledger can't be reached; 5 the data folder can't be written.
"""

from __future__ import annotations

import ipaddress
import json
import sys
import time
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from config.doubts import doubts
from config.example import render_example
from config.loading import InvalidSettings, load_settings
from config.settings import Settings
from dicom_node import __version__, diagnosis, reports, sending, shadow
from dicom_node import app as application
from dicom_node.admission import resolve_hosts
from dicom_node.association_policy import host_names
from dicom_node.conformance import render_statement
from dicom_node.destinations.storage_scu import StorageScu
from dicom_node.errors import NodeError, OperationRefused
from dicom_node.forecast import Forecast, foresee, sender_troubles
from dicom_node.ledger.measurements import MeasurementLedger
from dicom_node.part10 import open_part10
from dicom_node.routing import SenderFacts, source_name
from dicom_node.state import EXIT_FOUND_FAULTS, EXIT_LEDGER, EXIT_OK, EXIT_USAGE, StartRefused, State, open_state
from dicom_node.states import DeliveryState
from dicom_node.verification import verify as verify_state


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
queue = typer.Typer(help="What waits for a destination, and what it refused.", no_args_is_help=True)
route = typer.Typer(help="Which route takes an object.", no_args_is_help=True)
commands.add_typer(queue, name="queue")
commands.add_typer(route, name="route")

ConfigFile = Annotated[Path, typer.Option("--config", "-c", help="Settings file.", metavar="FILE")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output and nothing else.")]

# What `queue list` shows unless asked for more: everything that is not done.
OPEN_STATES = [s for s in DeliveryState if s not in (DeliveryState.SENT, DeliveryState.COMMITTED)]


class RoleName(StrEnum):
    """A role that can run by itself."""

    RECEIVER = "receiver"
    WORKER = "worker"


def main() -> None:
    """Run a command; every expected failure is one clear message and its exit code."""
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


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


@commands.command()
def init(folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write to; made if absent.")]) -> None:
    """Write a commented settings file, node.toml, and the folder for the data."""
    file = folder / "node.toml"
    try:
        (folder / "node-data").mkdir(parents=True, exist_ok=True, mode=0o700)
        with file.open("x", encoding="utf-8") as stream:
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
            _print_json({"ok": False, "faults": [asdict(fault) for fault in error.faults], "warnings": []})
            return EXIT_USAGE
        raise
    warnings = doubts(settings)
    if as_json:
        _print_json({"ok": True, "faults": [], "warnings": warnings})
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
) -> int:
    """Run the node: the receiver and the workers, as processes that are watched and restarted."""
    settings = load_settings(config)
    if supervised:
        application.end_with_supervisor()
    if role is RoleName.RECEIVER:
        return application.run_receiver(settings)
    if role is RoleName.WORKER:
        # Imported here: PyTorch takes seconds and memory to load, and nothing else needs it.
        from dicom_node.worker import run_worker

        return run_worker(settings, number)
    return application.supervise(settings, config)


@commands.command()
def send(
    paths: Annotated[list[Path], typer.Argument(help="Files and folders of DICOM objects.", metavar="PATH...")],
    to: Annotated[str, typer.Option(help="Where to.", metavar="AET@HOST:PORT")],
    calling: Annotated[str, typer.Option(help="AE title to call with.", metavar="AET")] = "MODALITY",
    as_json: AsJson = False,
) -> int:
    """Send objects by C-STORE, as a modality would."""
    console = Console(stderr=True, quiet=as_json)
    summary = sending.send(paths, sending.parse_target(to), calling_ae_title=calling, console=console)
    if as_json:
        _print_json(summary.as_json())
    return EXIT_OK if summary.is_complete else EXIT_FOUND_FAULTS


@commands.command()
def doctor(config: ConfigFile, as_json: AsJson = False) -> int:
    """Try out this machine and every destination, step by step, without storing anything."""
    from model.denoiser import Denoiser
    from model.errors import ModelError

    settings = load_settings(config)
    node = settings.node

    def describe_weights() -> str:
        denoiser = Denoiser.load(settings.model.weights, device="cpu")
        return f"weights {denoiser.name} verified, SHA-256 {denoiser.digest[:12]}"

    def reach_ledger() -> str:
        with open_state(settings) as state:
            return f"ledger at {state.database.engine.url.render_as_string(hide_password=True)} answers"

    checks = (
        lambda: diagnosis.check_port(node.bind, node.port),
        lambda: diagnosis.check_data_dir(node.data_dir),
        lambda: diagnosis.check_free_space(node.data_dir, settings.receiver.min_free_mb),
        lambda: diagnosis.check_that("model", describe_weights, errors=(ModelError,), advice="correct model.weights"),
        lambda: diagnosis.check_that("ledger", reach_ledger, errors=(NodeError,)),
    )
    destinations = [StorageScu(d, node_ae_title=node.ae_title) for d in settings.destinations]
    found = []
    for one in diagnosis.diagnose(checks, destinations):
        found.append(one)
        if not as_json:
            print(diagnosis.render(one), flush=True)
    if as_json:
        _print_json(diagnosis.as_json(found))
    return EXIT_FOUND_FAULTS if any(one.has_failed for one in found) else EXIT_OK


@commands.command()
def status(config: ConfigFile, as_json: AsJson = False) -> int:
    """Show processes, queues and rejected senders."""
    with open_state(load_settings(config)) as state:
        found = state.balance.status()
    if as_json:
        _print_json(asdict(found))
    else:
        reports.show_status(Console(), found, state.store.path)
    return EXIT_OK


@commands.command()
def verify(
    config: ConfigFile,
    deep: Annotated[bool, typer.Option("--deep", help="Read every file again and compare its SHA-256.")] = False,
    as_json: AsJson = False,
) -> int:
    """Prove that received = delivered + in work + quarantined, and that every file is there."""
    with open_state(load_settings(config)) as state:
        found = verify_state(state.balance, state.store, deep=deep)
    if as_json:
        _print_json(found.as_json())
    else:
        reports.show_verification(Console(), found)
    return EXIT_OK if found.ok else EXIT_FOUND_FAULTS


@commands.command("shadow")
def shadow_report(
    config: ConfigFile,
    route: Annotated[str | None, typer.Option(help="Only this route.")] = None,
    days: Annotated[float, typer.Option(help="Only series complete in the last days.", min=0.0)] = 36_500.0,
    as_json: AsJson = False,
) -> int:
    """Sum up what routes in shadow mode would have done: images, noise, times, guards, missed deadlines."""
    settings = load_settings(config)
    with open_state(settings) as state:
        since = time.time() - days * 86_400
        found = MeasurementLedger(state.database).measurements(route=route, since=since)
    known = {one.name: one for one in settings.routes_in_order}
    if route is not None and route not in known and not found:
        raise OperationRefused(f"no route {route!r}; there are: {', '.join(known) or 'none'}")
    summaries = shadow.summarise(found, {name: one.deadline_s for name, one in known.items()})
    if as_json:
        _print_json(shadow.as_json(summaries))
    else:
        shadow.show(Console(), summaries)
    return EXIT_OK


@queue.command("list")
def queue_list(
    config: ConfigFile,
    show_all: Annotated[bool, typer.Option("--all", help="Also what has been delivered.")] = False,
    destination: Annotated[str | None, typer.Option(help="Only this destination.")] = None,
    as_json: AsJson = False,
) -> int:
    """Show the deliveries that wait, are refused or were given up."""
    settings = load_settings(config)
    with open_state(settings) as state:
        _require_destination(settings, state, destination)
        lines = state.deliveries.lines(states=None if show_all else OPEN_STATES, destination=destination)
    if as_json:
        _print_json({"deliveries": [reports.line_as_json(line) for line in lines]})
    else:
        reports.show_queue(Console(), lines, time.time())
    return EXIT_OK


@queue.command("retry")
def queue_retry(
    config: ConfigFile,
    numbers: Annotated[list[int] | None, typer.Argument(help="Deliveries by number.", metavar="[NUMBER]...")] = None,
    destination: Annotated[str | None, typer.Option(help="Everything that this destination does not have.")] = None,
    as_json: AsJson = False,
) -> int:
    """Try deliveries again now: refused, given up, held, or waiting for their next attempt."""
    if not numbers and destination is None:
        raise OperationRefused("name deliveries by number (`dicom-node queue list`), or --destination NAME")
    settings = load_settings(config)
    with open_state(settings) as state:
        _require_destination(settings, state, destination)
        wanted = list(numbers or [])
        if destination is not None:
            again = [s for s in OPEN_STATES if s not in (DeliveryState.SENDING, DeliveryState.COMMITTING)]
            wanted += [line.delivery_id for line in state.deliveries.lines(states=again, destination=destination)]
        wanted = list(dict.fromkeys(wanted))
        state.deliveries.requeue(*wanted, reason="asked for by queue retry")
    if as_json:
        _print_json({"requeued": wanted})
    else:
        print(f"{len(wanted)} {'delivery is' if len(wanted) == 1 else 'deliveries are'} tried again now.")
    return EXIT_OK


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _require_destination(settings: Settings, state: State, name: str | None) -> None:
    """Refuse a name that neither the settings nor the ledger know: its queue would look empty."""
    known = {destination.name for destination in settings.destinations}
    if name is None or name in known or state.deliveries.lines(destination=name):
        return
    raise OperationRefused(f"no destination {name!r}; known are {', '.join(sorted(known)) or 'none'}")


@route.command("test")
def route_test(
    files: Annotated[list[Path], typer.Argument(help="DICOM objects, and folders of them.", metavar="FILE...")],
    config: ConfigFile,
    calling: Annotated[str, typer.Option(help="Calling AE title to assume.", metavar="AET")] = "",
    called: Annotated[
        str | None, typer.Option(help="Called AE title to assume; the node's own unless given.", metavar="AET")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to assume, where sources share an AE title.", metavar="ADDRESS")
    ] = "",
    as_json: AsJson = False,
) -> int:
    """Tell which route would take objects and why, what becomes of them, and what each destination gets.

    Each object is judged as if it opened its series; nothing is sent. Exit code 1 if no route takes one.
    """
    settings = load_settings(config)
    if host and not _is_address(host):
        raise OperationRefused(f"{host!r} is no IP address")
    sender = SenderFacts(
        calling_ae_title=calling,
        called_ae_title=settings.node.ae_title if called is None else called,
        source=source_name(
            settings.sources, calling, host, resolve_hosts(host_names(settings.sources)) if host else {}
        ),
    )
    forecasts: list[tuple[Path, Forecast]] = []
    skipped: list[sending.Trouble] = []
    for file in sending.find_files(files):
        try:
            sending.require_dicom(file)
            with open_part10(file) as part10:
                forecasts.append((file, foresee(settings, part10, sender)))
        except OSError as error:
            skipped.append(sending.Trouble(path=file, reason=f"can't be read ({error.strerror})"))
        except (sending.NotSendable, NodeError) as error:
            skipped.append(sending.Trouble(path=file, reason=str(error)))
    if not forecasts:
        said = f"{skipped[0].path}: {skipped[0].reason}" if skipped else f"{files[0]} is empty"
        raise OperationRefused(f"{said}; name a DICOM file that can be read")
    warnings = sender_troubles(settings, sender)
    if as_json:
        _print_json(reports.forecasts_as_json(forecasts, skipped, warnings))
    else:
        reports.show_forecasts(Console(), forecasts, skipped, warnings)
    return EXIT_FOUND_FAULTS if any(forecast.route is None for _, forecast in forecasts) else EXIT_OK


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
