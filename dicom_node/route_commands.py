"""The `route` commands: which route takes an object, and why."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from config.loading import load_settings
from dicom_node import reports, sending
from dicom_node.admission import resolve_hosts
from dicom_node.association_policy import host_names
from dicom_node.command_options import AsJson, ConfigFile, print_json
from dicom_node.errors import NodeError, OperationRefused
from dicom_node.forecast import Forecast, foresee, sender_troubles
from dicom_node.part10 import open_part10
from dicom_node.routing import SenderFacts, source_name
from dicom_node.state import EXIT_FOUND_FAULTS, EXIT_OK

route = typer.Typer(help="Which route takes an object.", no_args_is_help=True)


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
        print_json(reports.forecasts_as_json(forecasts, skipped, warnings))
    else:
        reports.show_forecasts(Console(), forecasts, skipped, warnings)
    return EXIT_FOUND_FAULTS if any(forecast.route is None for _, forecast in forecasts) else EXIT_OK


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
