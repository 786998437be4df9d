"""Settings: what this node works with, beside the defaults, and who changed what; nothing is changed here."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from dicom_node.console.access import require
from dicom_node.console.permissions import Permission
from dicom_node.console.rendering import render
from dicom_node.ledger.settings_changes import SettingsChangeLedger
from dicom_node.settings_in_force import changes_at_start
from dicom_node.settings_view import tables_of
from dicom_node.state import State

router = APIRouter()

_HISTORY: Final = 20


@router.get("/settings", dependencies=[Depends(require(Permission.VIEW))])
def show_settings(request: Request, show: str = "changed") -> Response:
    """Show the settings that are not at their default, or all of them."""
    node: State = request.app.state.node
    is_all = show == "all"
    tables = tables_of(node.settings)
    return render(
        request,
        "settings.html",
        tables=[table for table in tables if is_all or table.changed],
        is_all=is_all,
        changed=sum(len(table.changed) for table in tables),
        number=sum(len(table.lines) for table in tables),
        history=SettingsChangeLedger(node.database, node.settings.node.name).history(_HISTORY),
        at_start=changes_at_start(node.settings.node.data_dir),
    )
