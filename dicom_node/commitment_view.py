"""Storage Commitment for people and for scripts: what status and the `commitment` commands say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from config.settings import Settings
from dicom_node.commitment_peers import committing
from dicom_node.ledger.commitment_requests import CommitmentRequestLedger, Request, RequestState
from dicom_node.ledger.commitments import CommitmentLedger, CommitmentLine
from dicom_node.ledger.database import Database


@dataclass(frozen=True, kw_only=True)
class CommitmentSummary:
    """Figures for `dicom-node status`.

    Attributes
    ----------
    committed, uncommitted
        Deliveries that were sent to destinations that commit, by whether they have.
    given_up
        Those of `uncommitted` that nobody asks for any more, by number.
    waiting_requests, unreported_requests, abandoned_requests
        Requests of modalities: undecided, decided but not brought, and given up.
    """

    committed: int
    uncommitted: int
    given_up: tuple[int, ...]
    waiting_requests: int
    unreported_requests: int
    abandoned_requests: int


def summarise(settings: Settings, database: Database) -> CommitmentSummary:
    """Count what is committed and what waits."""
    committed, uncommitted, given_up = CommitmentLedger(database).counts(list(committing(settings)))
    states = [request.state for request in CommitmentRequestLedger(database).requests()]
    return CommitmentSummary(
        committed=committed,
        uncommitted=uncommitted,
        given_up=given_up,
        waiting_requests=states.count(RequestState.WAITING),
        unreported_requests=states.count(RequestState.DECIDED),
        abandoned_requests=states.count(RequestState.ABANDONED),
    )


def show_summary(console: Console, summary: CommitmentSummary) -> None:
    """Print what status says of commitment; nothing where there is nothing."""
    if summary.committed or summary.uncommitted:
        _say(console, f"Storage Commitment: {summary.committed} committed, {summary.uncommitted} not yet")
    if summary.given_up:
        numbers = " ".join(map(str, summary.given_up))
        _say(
            console,
            f"ALARM: no commitment in time, the objects stay: {numbers}; see to the destination, then: "
            f"dicom-node commitment ask {numbers} -c FILE",
        )
    if summary.waiting_requests or summary.unreported_requests or summary.abandoned_requests:
        _say(
            console,
            f"Requests of modalities: {summary.waiting_requests} wait for destinations, "
            f"{summary.unreported_requests} to be reported, {summary.abandoned_requests} given up: "
            "dicom-node commitment requests -c FILE",
        )


def show_lines(console: Console, lines: Sequence[CommitmentLine], now: float) -> None:
    """Print what `dicom-node commitment list` found."""
    for line in lines:
        if line.is_given_up:
            wait = f", GIVEN UP: dicom-node commitment ask {line.delivery_id} -c FILE"
        elif line.next_request_at is not None:
            wait = f", asked again in {max(0.0, line.next_request_at - now):.0f} s"
        else:
            wait = ""
        asked = f"asked {line.requests} x{wait}"
        head = f"{line.delivery_id}  {line.destination}  {line.state.value}"
        _say(console, f"{head}  {line.committed} committed, {line.uncommitted} not, {asked}")
        if line.reason:
            _say(console, f"   {line.reason}")
    if not lines:
        _say(console, "Nothing waits for a commitment.")


def show_requests(console: Console, requests: Sequence[Request], counts: Mapping[int, tuple[int, int, int]]) -> None:
    """Print what `dicom-node commitment requests` found."""
    for request in requests:
        committed, failed, undecided = counts.get(request.request_id, (0, 0, 0))
        _say(
            console,
            f"{request.request_id}  {request.source}  {request.state.value}  {committed} committed, {failed} failed, "
            f"{undecided} on their way, tried {request.attempts} x",
        )
        if request.reason:
            _say(console, f"   {request.reason}")
    if not requests:
        _say(console, "Every request of a modality is answered.")


def line_as_json(line: CommitmentLine) -> dict[str, Any]:
    """Return one delivery as `dicom-node commitment list --json` prints it."""
    values = asdict(line)
    values["delivery"] = values.pop("delivery_id")
    values["given_up"] = values.pop("is_given_up")
    return {**values, "state": line.state.value}


def request_as_json(request: Request, counts: Mapping[int, tuple[int, int, int]]) -> dict[str, Any]:
    """Return one request as `dicom-node commitment requests --json` prints it."""
    committed, failed, undecided = counts.get(request.request_id, (0, 0, 0))
    values = asdict(request)
    values["request"] = values.pop("request_id")
    counted = {"committed": committed, "failed": failed, "undecided": undecided}
    return {**values, "state": request.state.value, **counted}


def _say(console: Console, sentence: str) -> None:
    console.print(Text(sentence), soft_wrap=True)
