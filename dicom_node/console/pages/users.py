"""The console's users and what they did; for admins."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request
from starlette.responses import RedirectResponse, Response

from config.settings import RoleName
from dicom_node.console.access import Access, SignedIn, audited, require
from dicom_node.console.passwords import hash_password, make_password
from dicom_node.console.permissions import ROLE_PERMISSIONS, Permission
from dicom_node.console.rendering import render
from dicom_node.errors import OperationRefused
from dicom_node.ledger.console_audit import PAGE, AuditLedger
from dicom_node.ledger.console_users import require_user_name

router = APIRouter()


@router.get("/users", dependencies=[Depends(require(Permission.MANAGE_USERS))])
def show_users(
    request: Request,
) -> Response:
    """Show every user, and the form for another one."""
    return _page(request)


def _page(request: Request, *, made_for: str = "", password: str = "", fault: str = "", status: int = 200) -> Response:
    access: Access = request.app.state.access
    return render(
        request,
        "users.html",
        status_code=status,
        users=access.users.all(),
        sessions=access.sessions.counts(),
        roles=list(RoleName),
        permissions=ROLE_PERMISSIONS,
        made_for=made_for,
        password=password,
        fault=fault,
    )


@router.post("/users/add", dependencies=[Depends(require(Permission.MANAGE_USERS))])
def add_user(
    request: Request,
    name: Annotated[str, Form(max_length=64)],
    role: Annotated[RoleName, Form()],
    sees_patients: Annotated[bool, Form()] = False,
) -> Response:
    """Add a user with a password that is shown once."""
    access: Access = request.app.state.access
    password = make_password()
    try:
        with audited(request, "add user", f"{name.strip()[:64]} ({role.value}{', patients' if sees_patients else ''})"):
            require_user_name(name.strip())
            access.users.add(name.strip(), hash_password(password), role, sees_patients=sees_patients, must_change=True)
    except OperationRefused as error:
        return _page(request, fault=str(error), status=409)
    return _page(request, made_for=name.strip(), password=password)


@router.post("/users/{user}/rights", dependencies=[Depends(require(Permission.MANAGE_USERS))])
def change_rights(
    request: Request,
    user: str,
    role: Annotated[RoleName, Form()],
    sees_patients: Annotated[bool, Form()] = False,
) -> Response:
    """Give a user another role, or the right to see patient data; the user signs in again."""
    access: Access = request.app.state.access
    with audited(request, "change rights", f"{user} ({role.value}{', patients' if sees_patients else ''})"):
        found = access.users.get(user)
        if found.issuer:
            raise OperationRefused(f"the rights of {user} come from {found.issuer}, at each sign-in; change them there")
        access.users.set_role(found.user_id, role, sees_patients=sees_patients)
    return RedirectResponse("/users", 303)


@router.post("/users/{user}/password", dependencies=[Depends(require(Permission.MANAGE_USERS))])
def reset_password(
    request: Request,
    user: str,
) -> Response:
    """Give a user another password, which is shown once and has to be changed."""
    access: Access = request.app.state.access
    password = make_password()
    with audited(request, "reset password", user):
        found = access.users.get(user)
        if found.issuer:
            raise OperationRefused(f"{user} signs in at {found.issuer}, and has no password here")
        access.users.set_password(found.user_id, hash_password(password), must_change=True)
        access.throttle.forget(f"user:{user.casefold()}")
    return _page(request, made_for=user, password=password)


@router.post("/users/{user}/lock")
def lock(
    request: Request,
    user: str,
    signed_in: Annotated[SignedIn, Depends(require(Permission.MANAGE_USERS))],
    disabled: Annotated[bool, Form()],
) -> Response:
    """Lock a user out, everywhere and at once; or let the user in again."""
    access: Access = request.app.state.access
    with audited(request, "lock user" if disabled else "unlock user", user):
        if disabled and user == signed_in.user.name:
            raise OperationRefused("you can't lock yourself out; another admin can")
        access.users.set_disabled(access.users.get(user).user_id, disabled=disabled)
        access.throttle.forget(f"user:{user.casefold()}")
    return RedirectResponse("/users", 303)


@router.get("/audit", dependencies=[Depends(require(Permission.VIEW_AUDIT))])
def show_audit(
    request: Request,
    before: int | None = None,
    user: str = "",
    action: str = "",
) -> Response:
    """Show what users did, the latest first."""
    access: Access = request.app.state.access
    ledger: AuditLedger = access.audit
    lines = ledger.lines(before=before, user=user.strip(), action=action.strip())
    return render(
        request,
        "audit.html",
        lines=lines,
        user=user,
        action=action,
        actions=ledger.actions(),
        is_first=before is None,
        next=lines[-1].number if len(lines) == PAGE else None,
    )
