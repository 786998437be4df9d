"""Destinations: how each stands, what it answers now, and what its other side must enter."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Form, HTTPException, Request
from starlette.responses import RedirectResponse, Response

from config.settings import DicomDestinationSettings, DicomwebDestinationSettings, Settings
from dicom_node.console.access import SignedIn, audited, record, require
from dicom_node.console.pages.queue import hold_or_release
from dicom_node.console.permissions import Permission
from dicom_node.console.rendering import is_fragment_wanted, render
from dicom_node.destinations.base import ProbeStep, StepState
from dicom_node.destinations.kinds import make_destination
from dicom_node.destinations.probing import PROBED_CLASSES
from dicom_node.errors import OperationRefused
from dicom_node.ledger.console_audit import AuditResult
from dicom_node.ledger.destinations import DestinationLine, Hold, HoldScope
from dicom_node.ledger.overview import OverviewLedger, QueueFigures
from dicom_node.state import State
from dicom_node.states import BreakerState

router = APIRouter()

_TRIALS: Final = threading.BoundedSemaphore(4)
"""Echoes that wait for time-outs must not take all threads of the console."""

AnyDestination = DicomDestinationSettings | DicomwebDestinationSettings


@dataclass(frozen=True, kw_only=True)
class DestinationRow:
    """A destination of the settings, and how it stands."""

    settings: AnyDestination
    line: DestinationLine | None
    hold: Hold | None
    queue: QueueFigures | None

    @property
    def state(self) -> str:
        """Return in a word how it stands."""
        if self.line is not None and self.line.state is BreakerState.OPEN:
            return "down"
        return "on hold" if self.hold is not None else "ok"

    @property
    def address(self) -> str:
        """Return where it is."""
        if isinstance(self.settings, DicomwebDestinationSettings):
            return self.settings.url
        return f"{self.settings.ae_title} at {self.settings.host}:{self.settings.port}"


def _rows(node: State) -> list[DestinationRow]:
    lines = {line.name: line for line in node.standings.lines()}
    holds = {hold.subject: hold for hold in node.standings.holds() if hold.scope is HoldScope.DESTINATION}
    queues = {queue.destination: queue for queue in OverviewLedger(node.database).queues()}
    return [
        DestinationRow(settings=one, line=lines.get(one.name), hold=holds.get(one.name), queue=queues.get(one.name))
        for one in node.settings.destinations
    ]


def _row(node: State, name: str) -> DestinationRow:
    for row in _rows(node):
        if row.settings.name == name:
            return row
    raise HTTPException(404, f"There is no destination {name!r} in the settings. The page Destinations shows them.")


@router.get("/destinations", dependencies=[Depends(require(Permission.VIEW))])
def show_destinations(
    request: Request,
) -> Response:
    """Show every destination."""
    return render(request, "destinations.html", rows=_rows(request.app.state.node))


@router.get("/destinations/{name}", dependencies=[Depends(require(Permission.VIEW))])
def show_destination(
    request: Request,
    name: str,
) -> Response:
    """Show one destination, with the worksheet for its other side."""
    return _page(request, name)


def _page(request: Request, name: str, steps: Sequence[ProbeStep] | None = None) -> Response:
    node: State = request.app.state.node
    row = _row(node, name)
    settings = node.settings
    return render(
        request,
        "destination.html",
        row=row,
        routes=[route.name for route in settings.routes_in_order if name in route.destinations],
        classes=list(PROBED_CLASSES),
        addresses=own_addresses(row.settings),
        calling=_calling_ae_title(settings, row.settings),
        ports=_own_ports(settings),
        steps=steps,
        failed=_has_failed(steps or ()),
    )


def _has_failed(steps: Sequence[ProbeStep]) -> bool:
    return any(step.state is StepState.FAILED for step in steps)


@router.post("/destinations/{name}/echo", dependencies=[Depends(require(Permission.OPERATE))])
def echo(
    request: Request,
    name: str,
) -> Response:
    """Walk up to the destination as `dicom-node doctor` does, and show each step."""
    node: State = request.app.state.node
    row = _row(node, name)
    if not _TRIALS.acquire(blocking=False):
        raise OperationRefused("four echoes are under way already; wait until one of them ends")
    try:
        steps = make_destination(row.settings, node_ae_title=node.settings.node.ae_title).probe()
    finally:
        _TRIALS.release()
    failures = [step.sentence for step in steps if step.state is StepState.FAILED]
    record(request, "echo", name, AuditResult.FAILED if failures else AuditResult.DONE, next(iter(failures), None))
    if is_fragment_wanted(request):
        return render(request, "echo.html", row=row, steps=steps, failed=_has_failed(steps))
    return _page(request, name, steps)


@router.post("/destinations/{name}/hold")
def hold(
    request: Request,
    name: str,
    signed_in: Annotated[SignedIn, Depends(require(Permission.OPERATE))],
    reason: Annotated[str, Form(max_length=200)] = "",
) -> Response:
    """Send nothing more there until it is released."""
    _row(request.app.state.node, name)
    hold_or_release(request, HoldScope.DESTINATION, name, reason, release=False, user=signed_in.user.name)
    return RedirectResponse(request.url_for("show_destination", name=name).path, 303)


@router.post("/destinations/{name}/release")
def release(
    request: Request, name: str, signed_in: Annotated[SignedIn, Depends(require(Permission.OPERATE))]
) -> Response:
    """End the hold."""
    hold_or_release(request, HoldScope.DESTINATION, name, "", release=True, user=signed_in.user.name)
    return RedirectResponse(request.url_for("show_destination", name=name).path, 303)


@router.post("/destinations/{name}/try")
def try_again(
    request: Request, name: str, signed_in: Annotated[SignedIn, Depends(require(Permission.OPERATE))]
) -> Response:
    """Take a destination that is down for one that is up: what waits for it is tried now."""
    node: State = request.app.state.node
    _row(node, name)
    with audited(request, "try destination again", name):
        if not node.standings.close(name, f"asked for ({signed_in.user.name} in the console)"):
            raise OperationRefused(f"{name} is not down: what waits for it is tried when it is due")
    return RedirectResponse(request.url_for("show_destination", name=name).path, 303)


def _calling_ae_title(settings: Settings, destination: AnyDestination) -> str:
    if isinstance(destination, DicomDestinationSettings) and destination.calling_ae_title:
        return destination.calling_ae_title
    return settings.node.ae_title


def _own_ports(settings: Settings) -> str:
    ports = [] if settings.tls.only else [str(settings.node.port)]
    ports += [f"{settings.tls.port} (TLS)"] if settings.tls.enabled else []
    return ", ".join(ports)


def own_addresses(destination: AnyDestination) -> list[str]:
    """Return the addresses that this machine calls the destination from, as far as that is known without asking it."""
    names = [socket.gethostname()]
    host = destination.host if isinstance(destination, DicomDestinationSettings) else ""
    try:
        # No packet is sent: connecting a datagram socket has the kernel choose the way. A name is not looked up here,
        # as that could take long.
        address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)[0]
        with socket.socket(address[0], socket.SOCK_DGRAM) as probe:
            probe.connect(address[4])
            names.append(str(probe.getsockname()[0]))
    except OSError:
        pass
    return names
