"""The overview: what needs somebody, what waits, what came and went in the last hour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Depends, Request
from markupsafe import Markup
from starlette.responses import Response

from dicom_node.console.access import require
from dicom_node.console.alarms import concerns
from dicom_node.console.permissions import Permission
from dicom_node.console.plots import bar_plot, line_plot
from dicom_node.console.rendering import is_fragment_wanted, render
from dicom_node.disk_care import disk_report
from dicom_node.ledger.destinations import HoldScope
from dicom_node.ledger.overview import Bucket, Overview, OverviewLedger, SenderFigures
from dicom_node.state import State
from dicom_node.states import BreakerState, DeliveryState

router = APIRouter()


@dataclass(frozen=True, kw_only=True)
class DestinationTile:
    """A destination on the overview."""

    name: str
    state: str
    states: dict[str, int]
    oldest_at: float | None


@dataclass(frozen=True, kw_only=True)
class SourceTile:
    """A source on the overview, with the latest of its AE titles."""

    name: str
    ae_titles: Sequence[str]
    last: SenderFigures | None
    open: int


@router.get("/", dependencies=[Depends(require(Permission.VIEW))])
def show_overview(
    request: Request,
) -> Response:
    """Show the page, or for a page that refreshes itself its living part."""
    node: State = request.app.state.node
    ledger = OverviewLedger(node.database)
    overview = ledger.overview()
    standings, holds = node.standings.lines(), node.standings.holds()
    disks = disk_report(node.settings, node.database, node.settings.node.data_dir)
    down = {line.name for line in standings if line.state is BreakerState.OPEN}
    held = {hold.subject for hold in holds if hold.scope is HoldScope.DESTINATION}
    template = "overview_live.html" if is_fragment_wanted(request) else "overview.html"
    return render(
        request,
        template,
        overview=overview,
        concerns=concerns(overview, standings, holds, disks, workers=node.settings.node.workers),
        destinations=_destinations(node, overview, down, held),
        sources=_sources(node, ledger),
        disks=disks,
        waiting=overview.waiting(DeliveryState.PENDING, DeliveryState.SENDING),
        dead=overview.waiting(DeliveryState.REFUSED, DeliveryState.ABANDONED),
        committing=overview.waiting(DeliveryState.COMMITTING),
        in_work=sum(overview.series.values()),
        received=sum(bucket.received for bucket in overview.buckets),
        received_bytes=sum(bucket.received_bytes for bucket in overview.buckets),
        delivered=sum(bucket.delivered for bucket in overview.buckets),
        plots=_plots(overview.buckets),
    )


def _destinations(node: State, overview: Overview, down: set[str], held: set[str]) -> list[DestinationTile]:
    queues = {queue.destination: queue for queue in overview.queues}
    names = [destination.name for destination in node.settings.destinations]
    names += sorted(set(queues) - set(names))
    known = set(names[: len(node.settings.destinations)])
    tiles = []
    for name in names:
        state = "down" if name in down else "on hold" if name in held else "ok" if name in known else "not set up"
        queue = queues.get(name)
        tiles.append(
            DestinationTile(
                name=name,
                state=state,
                states=queue.states if queue else {},
                oldest_at=queue.oldest_at if queue else None,
            )
        )
    return tiles


def _sources(node: State, ledger: OverviewLedger) -> list[SourceTile]:
    figures = {
        found.calling_ae_title: found
        for found in ledger.senders(sorted({title for source in node.settings.sources for title in source.ae_titles}))
    }
    tiles = []
    for source in node.settings.sources:
        ours = [figures[title] for title in source.ae_titles]
        called = [one for one in ours if one.last_at is not None]
        tiles.append(
            SourceTile(
                name=source.name,
                ae_titles=source.ae_titles,
                last=max(called, key=lambda one: one.last_at or 0.0, default=None),
                open=sum(one.open for one in ours),
            )
        )
    return tiles


def _plots(buckets: Sequence[Bucket]) -> dict[str, Markup]:
    labels = [
        datetime.fromtimestamp(bucket.begin).astimezone().strftime("%H:%M") if n % 3 == 0 else ""
        for n, bucket in enumerate(buckets)
    ]
    received = [bucket.received for bucket in buckets]
    delivered = [bucket.delivered for bucket in buckets]
    times = [bucket.median_s for bucket in buckets]
    known = [value for value in times if value is not None]
    return {
        "received": bar_plot(received, labels, title="Objects received in five minutes", text=_said(received)),
        "delivered": bar_plot(delivered, labels, title="Deliveries ended in five minutes", text=_said(delivered)),
        "latency": line_plot(
            times,
            labels,
            title="Seconds from a complete series to its delivery, median of five minutes",
            text=f"Between {min(known):.1f} and {max(known):.1f} s." if known else "Nothing was delivered.",
            unit="s",
        ),
    }


def _said(values: Sequence[Any]) -> str:
    return f"{sum(values):,} in the last hour, at most {max(values):,} in five minutes." if any(values) else "None."
