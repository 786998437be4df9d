"""Sources: who may call, when each did last, and who was turned away with what would let it in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from config.settings import Settings, SourceSettings
from dicom_node.association_policy import find_source
from dicom_node.console.access import require
from dicom_node.console.permissions import Permission
from dicom_node.console.rendering import render
from dicom_node.ledger.callers import SHOWN, CallerLedger, DayOfCaller, RejectedCaller
from dicom_node.ledger.overview import OverviewLedger, SenderFigures
from dicom_node.observation.alarms import is_silent
from dicom_node.state import State

router = APIRouter()


@dataclass(frozen=True, kw_only=True)
class SourceRow:
    """A source and what it did.

    Attributes
    ----------
    state
        connected, ok, silent, or never called.
    shared
        Of its AE titles those that another source has too: what came is counted at both.
    """

    settings: SourceSettings
    state: str
    last: SenderFigures | None
    open: int
    day: DayOfCaller
    tls: str
    shared: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class RejectedRow:
    """A caller that was turned away: the sentence, the lines that would let it in, and by whom it is known now."""

    caller: RejectedCaller
    sentence: str
    lines: str
    admitted_by: str


@router.get("/sources", dependencies=[Depends(require(Permission.VIEW))])
def show_sources(request: Request) -> Response:
    """Show every source, and the callers that were rejected."""
    node: State = request.app.state.node
    rejected = CallerLedger(node.database).rejected()
    return render(
        request,
        "sources.html",
        rows=_rows(node),
        rejected=[rejected_row(caller, node.settings) for caller in rejected],
        is_more=len(rejected) == SHOWN,
    )


def _rows(node: State) -> list[SourceRow]:
    sources = node.settings.sources
    titles = sorted({title for source in sources for title in source.ae_titles})
    figures = {found.calling_ae_title: found for found in OverviewLedger(node.database).senders(titles)}
    days = CallerLedger(node.database).last_day(titles)
    now = node.database.now()
    rows = []
    for source in sources:
        ours = [figures[title] for title in source.ae_titles]
        called = [one for one in ours if one.last_at is not None]
        last = max(called, key=lambda one: one.last_at or 0.0, default=None)
        is_open = sum(one.open for one in ours)
        rows.append(
            SourceRow(
                settings=source,
                state=_state(source, last, is_open, now),
                last=last,
                open=is_open,
                day=_sum([days[title] for title in source.ae_titles if title in days]),
                tls=_tls(source, node.settings),
                shared=tuple(
                    title
                    for title in source.ae_titles
                    if any(title in other.ae_titles for other in sources if other is not source)
                ),
            )
        )
    return rows


def _state(source: SourceSettings, last: SenderFigures | None, is_open: int, now: float) -> str:
    if is_open:
        return "connected"
    if last is None or last.last_at is None:
        return "never called"
    return "silent" if is_silent(source, last.last_at, now) else "ok"


def _sum(days: Sequence[DayOfCaller]) -> DayOfCaller:
    return DayOfCaller(
        associations=sum(day.associations for day in days),
        objects=sum(day.objects for day in days),
        size=sum(day.size for day in days),
    )


def _tls(source: SourceSettings, settings: Settings) -> str:
    if source.certificates:
        number = len(source.certificates)
        return "required, with its certificate" if number == 1 else f"required, with one of {number} certificates"
    if source.tls == "required":
        return "required"
    return "optional" if settings.tls.certificate is not None else "not set up on this node"


def rejected_row(caller: RejectedCaller, settings: Settings) -> RejectedRow:
    """Return a rejected caller as the page shows it; the reason is what `status` prints, lines to add and all."""
    sentence, _, lines = caller.reason.partition("\n")
    try:
        # Host names are not asked for here: such a caller is shown as it was.
        found = find_source(caller.calling_ae_title, caller.host, settings.sources, {})
    except ValueError:
        found = None
    is_stranger = "is not a known source" in sentence
    return RejectedRow(
        caller=caller,
        sentence=sentence,
        lines=lines,
        admitted_by=found.name if found is not None and is_stranger else "",
    )
