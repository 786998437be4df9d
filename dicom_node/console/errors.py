"""Errors to pages that say what to do; no page shows where in the code it happened."""

from __future__ import annotations

import logging
import secrets
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from dicom_node.console.access import (
    Access,
    ForgedRequest,
    PasswordChangeRequired,
    PermissionDenied,
    SignInRequired,
)
from dicom_node.console.rendering import render
from dicom_node.errors import LedgerUnavailable, OperationRefused
from dicom_node.object_keeping import StoreUnavailable

log = logging.getLogger(__name__)

_SENTENCES = {
    404: ("There is no such page", "What the address names is not there, or not any more. Go on from the menu."),
    405: ("That can't be done here", "The address is that of a form. Go on from the menu."),
    413: ("That is too large", "The console takes no request of this size."),
}


def add_error_pages(app: FastAPI) -> None:
    """Register the pages."""

    @app.exception_handler(SignInRequired)
    async def _sign_in(request: Request, _error: Exception) -> Response:
        wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        there = "/login" if wanted == "/" or request.method != "GET" else f"/login?next={quote(wanted)}"
        if "hx-request" in request.headers:
            return Response(status_code=401, headers={"HX-Redirect": "/login"})
        return RedirectResponse(there, 303)

    @app.exception_handler(PasswordChangeRequired)
    async def _change(request: Request, _error: Exception) -> Response:
        if "hx-request" in request.headers:
            return Response(status_code=403, headers={"HX-Redirect": "/account"})
        return RedirectResponse("/account", 303)

    @app.exception_handler(PermissionDenied)
    async def _denied(request: Request, error: Exception) -> Response:
        advice = f"{str(error).capitalize()}. An admin gives rights: page Users, or dicom-node user role."
        return await _page(request, 403, "You may not do this", advice)

    @app.exception_handler(ForgedRequest)
    async def _forged(request: Request, error: Exception) -> Response:
        return await _page(request, 403, "Nothing was done", f"{str(error).capitalize()}, and try once more.")

    @app.exception_handler(OperationRefused)
    async def _refused(request: Request, error: Exception) -> Response:
        return await _page(request, 409, "That can't be done now", str(error))

    @app.exception_handler(LedgerUnavailable)
    async def _no_ledger(request: Request, error: Exception) -> Response:
        advice = f"{error}. Received objects are safe. See that the database runs and its disk has room; then reload."
        return await _page(request, 503, "The ledger can't be reached", advice, ask=False)

    @app.exception_handler(StoreUnavailable)
    async def _no_store(request: Request, error: Exception) -> Response:
        return await _page(request, 503, "The object can't be read now", f"{error}. Try again; see [storage].")

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        names = sorted({str(one["loc"][-1]) for one in error.errors()})
        return await _page(request, 400, "Something is wrong in the form", f"Look at: {', '.join(names)}.")

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        title, advice = _SENTENCES.get(error.status_code, ("That did not work", "Go back, and try once more."))
        if error.status_code == 404 and error.detail not in ("", "Not Found"):
            advice = error.detail
        return await _page(request, error.status_code, title, advice)

    @app.exception_handler(Exception)
    async def _unforeseen(request: Request, error: Exception) -> Response:
        number = secrets.token_hex(4)
        log.error(
            "Page failed by an unforeseen error", extra={"page": request.url.path, "error": number}, exc_info=error
        )
        advice = f"The log of the node has more under the number {number}. What the node does for studies goes on."
        return await _page(request, 500, "The console could not make this page", advice, ask=False)


async def _page(request: Request, status: int, title: str, advice: str, *, ask: bool = True) -> Response:
    if ask and not hasattr(request.state, "signed_in"):
        # Error pages of unknown addresses come before any route: the menu is for those who are signed in.
        access: Access = request.app.state.access
        try:
            request.state.signed_in = await run_in_threadpool(access.signed_in, request)
        except LedgerUnavailable:
            request.state.signed_in = None
    template = "error_fragment.html" if "hx-request" in request.headers else "error.html"
    return render(request, template, status_code=status, title=title, advice=advice, status=status)
