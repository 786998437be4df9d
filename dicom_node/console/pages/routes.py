"""Routes: which takes what, where it goes, and what would become of a file."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from config.settings import Content, RouteSettings
from dicom_node import sending
from dicom_node.admission import resolve_hosts
from dicom_node.association_policy import host_names
from dicom_node.console.access import SignedIn, audited, require
from dicom_node.console.permissions import Permission
from dicom_node.console.rendering import render
from dicom_node.console.uploads import MAX_BYTES, RequireUpload, Upload, uploaded
from dicom_node.errors import NodeError, OperationRefused
from dicom_node.forecast import Forecast, foresee, sender_troubles, shipments_in_words
from dicom_node.part10 import open_part10
from dicom_node.routing import SenderFacts, condition_in_words, source_name
from dicom_node.state import State

router = APIRouter()


@dataclass(frozen=True, kw_only=True)
class RouteRow:
    """A route: its place among those that are tried, and its conditions in words."""

    place: int
    settings: RouteSettings
    conditions: tuple[tuple[str, str], ...]
    sends: str


@dataclass(frozen=True, kw_only=True)
class Tested:
    """What a test found: of a file by the name that its user gave it, from a sender that was assumed."""

    name: str
    sender: SenderFacts
    forecast: Forecast
    warnings: Sequence[str]
    shipments: tuple[str, ...]


@router.get("/routes", dependencies=[Depends(require(Permission.VIEW))])
def show_routes(request: Request) -> Response:
    """Show the routes in the order in which they are tried."""
    return _page(request)


@router.post("/routes/test")
async def test_file(
    request: Request, signed_in: Annotated[SignedIn, Depends(RequireUpload(Permission.TEST_ROUTES))]
) -> Response:
    """Tell what would become of a file; nothing is sent, and the file is deleted."""
    node: State = request.app.state.node
    async with uploaded(request, signed_in, node.store.scratch) as upload:
        return await run_in_threadpool(_test, request, node, upload)


def _test(request: Request, node: State, upload: Upload) -> Response:
    calling, host = upload.fields.get("calling", "").strip()[:16], upload.fields.get("host", "").strip()[:253]
    assumed = {"calling": calling, "host": host}
    try:
        # Neither the file's name, which may be a patient's, nor anything in it goes into the audit.
        with audited(request, "test routes with a file"):
            if upload.path is None:
                raise OperationRefused("choose a DICOM file first")
            found = _foresee(node, upload.path, upload.name, calling, host)
    except OperationRefused as error:
        return _page(request, fault=str(error), assumed=assumed, status=409)
    return _page(request, tested=found, assumed=assumed)


def _foresee(node: State, path: Path, name: str, calling: str, host: str) -> Tested:
    settings = node.settings
    try:
        host = str(ipaddress.ip_address(host)) if host else ""
    except ValueError as error:
        raise OperationRefused(f"{host!r} is no IP address") from error
    addresses = resolve_hosts(host_names(settings.sources)) if host else {}
    source = source_name(settings.sources, calling, host, addresses)
    sender = SenderFacts(calling_ae_title=calling, called_ae_title=settings.node.ae_title, source=source)
    try:
        sending.require_dicom(path)
        with open_part10(path, folder=node.store.scratch) as part10:
            forecast = foresee(settings, part10, sender)
    except OSError as error:
        raise OperationRefused(f"the file can't be read ({error.strerror})") from error
    except (sending.NotSendable, NodeError) as error:
        raise OperationRefused(f"the file can't be tested: {error}") from error
    return Tested(
        name=name,
        sender=sender,
        forecast=forecast,
        warnings=sender_troubles(settings, sender),
        shipments=shipments_in_words(forecast),
    )


def _page(
    request: Request,
    *,
    tested: Tested | None = None,
    fault: str = "",
    assumed: dict[str, str] | None = None,
    status: int = 200,
) -> Response:
    node: State = request.app.state.node
    return render(
        request,
        "routes.html",
        status_code=status,
        rows=[_row(place, route) for place, route in enumerate(node.settings.routes_in_order, 1)],
        fallback=node.settings.fallback.destinations,
        titles=sorted({title for source in node.settings.sources for title in source.ae_titles}),
        tested=tested,
        fault=fault,
        assumed=assumed or {"calling": "", "host": ""},
        largest=MAX_BYTES,
    )


def _row(place: int, route: RouteSettings) -> RouteRow:
    if route.shadow:
        sends = "the original; enhanced behind it to measure"
    elif not route.enhance:
        sends = "the original"
    else:
        sends = " and ".join("the enhanced image" if one is Content.ENHANCED else "the original" for one in route.send)
    return RouteRow(
        place=place,
        settings=route,
        conditions=tuple((key, condition_in_words(condition)) for key, condition in route.match.items()),
        sends=sends,
    )
