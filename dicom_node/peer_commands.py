"""The commands that talk to peers: `send` and `doctor`."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from config.loading import load_settings
from dicom_node import diagnosis, sending
from dicom_node.certificates import expiries
from dicom_node.command_options import AsJson, ConfigFile, print_json
from dicom_node.commitment_probing import commitment_probes
from dicom_node.destinations.kinds import make_destination
from dicom_node.errors import NodeError, describe
from dicom_node.state import EXIT_FOUND_FAULTS, EXIT_OK, open_state


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
        print_json(summary.as_json())
    return EXIT_OK if summary.is_complete else EXIT_FOUND_FAULTS


def doctor(config: ConfigFile, as_json: AsJson = False) -> int:
    """Try out this machine and every destination, step by step, without storing anything."""
    from model.errors import ModelError

    settings = load_settings(config)
    node = settings.node

    def describe_weights() -> str:
        try:
            from model.denoiser import Denoiser
        except Exception as error:  # whatever a half installed library raises
            raise ModelError(f"PyTorch can't be imported ({describe(error)}): install the node again") from error
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
    for one in diagnosis.diagnose(checks, [*destinations, *commitment_probes(settings)]):
        found.append(one)
        if not as_json:
            print(diagnosis.render(one), flush=True)
    if as_json:
        print_json(diagnosis.as_json(found))
    return EXIT_FOUND_FAULTS if any(one.has_failed for one in found) else EXIT_OK
