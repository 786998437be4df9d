"""The commands: arguments to application, and exit codes.

Exit codes: 0 done; 1 done, and something was found wrong (doctor, verify, send); 2 settings or arguments are wrong;
3 the receiver's port is taken; 4 the ledger can't be reached; 5 the data folder can't be written,
or another node runs on it.
"""

from __future__ import annotations

import ipaddress
import json
import os
import sys
import time
from dataclasses import asdict
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from config.doubts import doubts
from config.example import render_example
from config.loading import InvalidSettings, load_settings
from dicom_node import __version__, commitment_view, diagnosis, disk_reports, reports, sending, shadow
from dicom_node import app as application
from dicom_node.admission import resolve_hosts
from dicom_node.alert_commands import alert
from dicom_node.association_policy import host_names
from dicom_node.audit_commands import audit
from dicom_node.certificate_watch import expiring_soon
from dicom_node.certificates import broken_files, certificate_faults, expiries, key_doubts
from dicom_node.command_options import AsJson, ConfigFile
from dicom_node.commitment_peers import committing
from dicom_node.conformance import render_statement
from dicom_node.destinations.kinds import make_destination
from dicom_node.disk_care import disk_report
from dicom_node.errors import NodeError, OperationRefused
from dicom_node.forecast import Forecast, foresee, sender_troubles
from dicom_node.ledger.checks import CheckLedger
from dicom_node.ledger.commitment_requests import CommitmentRequestLedger
from dicom_node.ledger.commitments import CommitmentLedger
from dicom_node.ledger.measurements import MeasurementLedger
from dicom_node.logs import hook_exceptions
from dicom_node.observation.machine import current_alarms
from dicom_node.part10 import open_part10
from dicom_node.queue_commands import queue
from dicom_node.routing import SenderFacts, source_name
from dicom_node.state import EXIT_FOUND_FAULTS, EXIT_LEDGER, EXIT_OK, EXIT_USAGE, StartRefused, open_state
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
route = typer.Typer(help="Which route takes an object.", no_args_is_help=True)
commitment = typer.Typer(help="What destinations have committed, and what was promised.", no_args_is_help=True)
commands.add_typer(queue, name="queue")
commands.add_typer(alert, name="alert")
commands.add_typer(audit, name="audit")
commands.add_typer(commitment, name="commitment")
commands.add_typer(route, name="route")


class RoleName(StrEnum):
    """A role that can run by itself."""

    RECEIVER = "receiver"
    WORKER = "worker"


def main() -> None:
    """Run a command; every expected failure is one clear message and its exit code."""
    # Whatever any process of the node writes is for its own user, also what libraries write: databases, their logs.
    os.umask(0o077)
    hook_exceptions()
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
            _print_json({"ok": False, "faults": [asdict(fault) for fault in error.faults], "warnings": []})
            return EXIT_USAGE
        raise
    now = time.time()
    faults = certificate_faults(settings, now)
    if faults and not as_json:
        raise InvalidSettings(config, tuple(faults))
    warnings = [*doubts(settings), *key_doubts(settings), *expiring_soon(settings, now)]
    if faults:
        _print_json({"ok": False, "faults": [asdict(fault) for fault in faults], "warnings": warnings})
        return EXIT_USAGE
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
    elif faults := [fault for fault in broken_files(settings) if fault.path.startswith("tls.")]:
        # An expired certificate does not keep the node from starting, nor does a destination's.
        raise InvalidSettings(config, tuple(faults))
    if role is RoleName.RECEIVER:
        return application.run_receiver(settings, supervised=supervised)
    if role is RoleName.WORKER:
        # Imported here: PyTorch takes seconds and memory to load, and nothing else needs it.
        from dicom_node.worker import run_worker

        return run_worker(settings, number, supervised=supervised)
    return application.supervise(settings, config)


@commands.command()
def send(
    paths: Annotated[list[Path], typer.Argument(help="Files and folders of DICOM objects.", metavar="PATH...")],
    to: Annotated[str, typer.Option(help="Where to.", metavar="AET@HOST:PORT")],
    calling: Annotated[str, typer.Option(help="AE title to call with.", metavar="AET")] = "MODALITY",
    tls: Annotated[bool, typer.Option("--tls", help="Speak TLS; so does each of the options below.")] = False,
    ca: Annotated[
        Path | None, typer.Option(help="Authorities of the peer's certificate (PEM).", metavar="FILE")
    ] = None,
    certificate: Annotated[Path | None, typer.Option(help="Certificate to show (PEM).", metavar="FILE")] = None,
    key: Annotated[Path | None, typer.Option(help="Its private key (PEM).", metavar="FILE")] = None,
    any_name: Annotated[bool, typer.Option("--any-name", help="The certificate may be for another name.")] = False,
    as_json: AsJson = False,
) -> int:
    """Send objects by C-STORE, as a modality would."""
    console = Console(stderr=True, quiet=as_json)
    target = sending.parse_target(to)
    if tls or ca or certificate or key or any_name:
        target = sending.with_tls(target, ca=ca, certificate=certificate, key=key, check_name=not any_name)
    summary = sending.send(paths, target, calling_ae_title=calling, console=console)
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

    ports = [] if settings.tls.only else [node.port]
    ports += [settings.tls.port] if settings.tls.enabled else []
    checks: tuple[diagnosis.Check, ...] = (
        *(partial(diagnosis.check_port, node.bind, port) for port in ports),
        *(partial(diagnosis.check_certificate, one, settings.tls.warn_days) for one in expiries(settings, time.time())),
        lambda: diagnosis.check_data_dir(node.data_dir),
        lambda: diagnosis.check_free_space(node.data_dir, settings.receiver.min_free_mb),
        lambda: diagnosis.check_that("model", describe_weights, errors=(ModelError,), advice="correct model.weights"),
        lambda: diagnosis.check_that("ledger", reach_ledger, errors=(NodeError,)),
    )
    destinations = [make_destination(d, node_ae_title=node.ae_title) for d in settings.destinations]
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
    settings = load_settings(config)
    with open_state(settings) as state:
        found = state.balance.status()
        disks = disk_report(settings, state.database, settings.node.data_dir)
        checks = CheckLedger(state.database).summary()
        holds, standings = state.standings.holds(), state.standings.lines()
        commitments = commitment_view.summarise(settings, state.database)
        alarms = current_alarms(settings, state.database)
    certificates = expiries(settings, time.time())
    if as_json:
        _print_json(
            {
                **asdict(found),
                "certificates": [asdict(one) for one in certificates],
                "disks": disks,
                "object_checks": asdict(checks),
                "holds": [reports.hold_as_json(hold) for hold in holds],
                "destinations": [reports.standing_as_json(line) for line in standings],
                "commitment": asdict(commitments),
                "alarms": [alarm.as_json() for alarm in alarms],
            }
        )
    else:
        console = Console()
        reports.show_status(console, found, state.store.path, holds=holds, standings=standings, alarms=alarms)
        commitment_view.show_summary(console, commitments)
        reports.show_certificates(console, certificates, settings.tls.warn_days)
        disk_reports.show_disks(console, disks)
        disk_reports.show_checks(console, checks, time.time())
    return EXIT_OK


@commands.command()
def verify(
    config: ConfigFile,
    deep: Annotated[bool, typer.Option("--deep", help="Read every file again and compare its SHA-256.")] = False,
    skip_h: Annotated[
        float | None,
        typer.Option(
            "--skip-checked-h",
            help="With --deep: leave out what was read and found sound in the last H hours, to go on after a break.",
            metavar="H",
            min=0,
        ),
    ] = None,
    rate_mb: Annotated[
        float | None, typer.Option("--mb-per-s", help="With --deep: read no faster than this.", metavar="MB", min=0.1)
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Prove that received = delivered + in work + quarantined, and that every file is there.

    Exit code 1 where something is missing, damaged or does not add up. Files without a row are no loss.
    """
    if not deep and (skip_h is not None or rate_mb is not None):
        raise OperationRefused("--skip-checked-h and --mb-per-s belong to --deep: without it no file is read")
    with open_state(load_settings(config)) as state, disk_reports.progress(shown=deep and not as_json) as on_progress:
        found = verify_state(
            state.balance,
            state.store,
            deep=deep,
            checks=CheckLedger(state.database) if deep else None,
            skip_since=None if skip_h is None else time.time() - skip_h * 3600,
            on_progress=on_progress,
            bytes_per_s=None if rate_mb is None else rate_mb * 1e6,
        )
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


@commitment.command("list")
def commitment_list(
    config: ConfigFile,
    show_all: Annotated[bool, typer.Option("--all", help="Also what is committed, or not sent yet.")] = False,
    as_json: AsJson = False,
) -> int:
    """Show the deliveries whose destination has not committed yet, and what it was asked."""
    settings = load_settings(config)
    with open_state(settings) as state:
        lines = CommitmentLedger(state.database).lines(list(committing(settings)), show_all=show_all)
    if as_json:
        _print_json({"deliveries": [commitment_view.line_as_json(line) for line in lines]})
    else:
        commitment_view.show_lines(Console(), lines, time.time())
    return EXIT_OK


@commitment.command("ask")
def commitment_ask(
    config: ConfigFile,
    numbers: Annotated[list[int], typer.Argument(help="Deliveries by number.", metavar="NUMBER...")],
    as_json: AsJson = False,
) -> int:
    """Ask for the commitment of deliveries again now, also where that was given up."""
    settings = load_settings(config)
    with open_state(settings) as state:
        ledger = CommitmentLedger(state.database)
        for number in numbers:
            ledger.ask_again(number, list(committing(settings)))
    if as_json:
        _print_json({"asked": numbers})
    else:
        print(f"{len(numbers)} {'delivery is' if len(numbers) == 1 else 'deliveries are'} asked for now.")
    return EXIT_OK


@commitment.command("requests")
def commitment_requests(
    config: ConfigFile,
    show_all: Annotated[bool, typer.Option("--all", help="Also those that are answered.")] = False,
    as_json: AsJson = False,
) -> int:
    """Show what modalities asked this node to commit, and what became of the answer."""
    with open_state(load_settings(config)) as state:
        ledger = CommitmentRequestLedger(state.database)
        requests, counts = ledger.requests(show_all=show_all), ledger.counts()
    if as_json:
        _print_json({"requests": [commitment_view.request_as_json(entry, counts) for entry in requests]})
    else:
        commitment_view.show_requests(Console(), requests, counts)
    return EXIT_OK


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


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
