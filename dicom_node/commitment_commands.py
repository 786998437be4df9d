"""The `commitment` commands: what destinations have committed, and what was promised to modalities."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.console import Console

from config.loading import load_settings
from dicom_node import commitment_view
from dicom_node.command_options import AsJson, ConfigFile, print_json
from dicom_node.commitment_peers import committing
from dicom_node.ledger.commitment_requests import CommitmentRequestLedger
from dicom_node.ledger.commitments import CommitmentLedger
from dicom_node.state import EXIT_OK, open_state

commitment = typer.Typer(help="What destinations have committed, and what was promised.", no_args_is_help=True)


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
        print_json({"deliveries": [commitment_view.line_as_json(line) for line in lines]})
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
        print_json({"asked": numbers})
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
        print_json({"requests": [commitment_view.request_as_json(entry, counts) for entry in requests]})
    else:
        commitment_view.show_requests(Console(), requests, counts)
    return EXIT_OK
