"""The console as an ASGI application: its pages, its access, its guards."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from typing import Final

from fastapi import APIRouter, FastAPI
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Scope

from dicom_node import __version__
from dicom_node.console.access import Access
from dicom_node.console.errors import add_error_pages
from dicom_node.console.guard import guarded
from dicom_node.console.oidc import OidcSignIn
from dicom_node.console.pages import (
    account,
    destinations,
    model,
    overview,
    queue,
    routes,
    settings,
    sources,
    studies,
    users,
    viewer,
)
from dicom_node.console.permissions import Permission
from dicom_node.console.rendering import STATIC, MenuEntry
from dicom_node.identifiers import try_identifiers
from dicom_node.state import State

ROUTERS: Final[Sequence[APIRouter]] = (
    account.router,
    overview.router,
    studies.router,
    queue.router,
    destinations.router,
    sources.router,
    routes.router,
    model.router,
    settings.router,
    users.router,
    viewer.router,
)

MENU: Final[Sequence[MenuEntry]] = (
    MenuEntry(label="Overview", path="/", permission=Permission.VIEW),
    MenuEntry(label="Studies", path="/studies", permission=Permission.VIEW),
    MenuEntry(label="Queue", path="/queue", permission=Permission.VIEW),
    MenuEntry(label="Destinations", path="/destinations", permission=Permission.VIEW),
    MenuEntry(label="Sources", path="/sources", permission=Permission.VIEW),
    MenuEntry(label="Routes", path="/routes", permission=Permission.VIEW),
    MenuEntry(label="Model", path="/model", permission=Permission.VIEW),
    MenuEntry(label="Settings", path="/settings", permission=Permission.VIEW),
    MenuEntry(label="Users", path="/users", permission=Permission.MANAGE_USERS),
    MenuEntry(label="Audit", path="/audit", permission=Permission.VIEW_AUDIT),
)


class _StaticFiles(StaticFiles):
    """Files that may be kept for ever where their address names their content."""

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        is_named = scope["query_string"].startswith(b"v=")
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if is_named else "no-cache"
        return response


def create_app(node: State) -> FastAPI:
    """Return the application; `guard_app` puts it behind its guards.

    Parameters
    ----------
    node
        Settings, ledger and instance store; handlers find it as ``request.app.state.node``.
    """
    app = FastAPI(title="Low-dose node", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.node = node
    app.state.access = Access(node.database, node.settings.console)
    app.state.identifiers = identifiers = try_identifiers(node.settings)
    oidc = node.settings.console.oidc
    # Without a key of the node, what browsers keep is signed by one of this process.
    key = identifiers.derive("oidc") if identifiers else secrets.token_bytes(32)
    app.state.oidc = OidcSignIn(oidc, key) if oidc.issuer else None
    app.state.menu = MENU
    for router in ROUTERS:
        app.include_router(router)
    app.mount("/static", _StaticFiles(directory=STATIC), name="static")
    add_error_pages(app)
    return app


def guard_app(app: FastAPI) -> ASGIApp:
    """Return the application behind everything that a request passes first."""
    return guarded(app, app.state.node.settings.console)


__all__ = ["MENU", "ROUTERS", "Permission", "create_app", "guard_app"]
