"""The commands that read what the node keeps: `status`, `verify` and `shadow`."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from config.loading import load_settings
from dicom_node import commitment_view, disk_reports, reports, shadow
from dicom_node.certificates import expiries
from dicom_node.command_options import AsJson, ConfigFile, print_json
from dicom_node.disk_care import disk_report
from dicom_node.errors import OperationRefused
from dicom_node.ledger.checks import CheckLedger
from dicom_node.ledger.measurements import MeasurementLedger
from dicom_node.observation.machine import current_alarms
from dicom_node.state import EXIT_FOUND_FAULTS, EXIT_OK, open_state
from dicom_node.verification import verify as verify_state


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
        print_json(
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
    with (
        # Its queries read all of the ledger, and whoever runs it can stop it.
        open_state(load_settings(config), database_timeout_s=3600) as state,
        disk_reports.progress(shown=deep and not as_json) as on_progress,
    ):
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
        print_json(found.as_json())
    else:
        reports.show_verification(Console(), found)
    return EXIT_OK if found.ok else EXIT_FOUND_FAULTS


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
        print_json(shadow.as_json(summaries))
    else:
        shadow.show(Console(), summaries)
    return EXIT_OK
