"""Signing in and out, and one's own password."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Form, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from dicom_node.console.access import (
    Access,
    ForgedRequest,
    SignedIn,
    address_of,
    audited,
    csrf_of,
    is_secure,
    new_token,
    public,
    record,
    require,
    require_own_form,
    set_cookie,
)
from dicom_node.console.oidc import STATE_S, OidcSignIn, SignInFailed
from dicom_node.console.passwords import hash_password, is_right, require_strong
from dicom_node.console.permissions import Permission
from dicom_node.console.rendering import render
from dicom_node.console.signing_in import WrongPassword, check_password
from dicom_node.errors import OperationRefused
from dicom_node.ledger.console_audit import AuditResult

router = APIRouter()


def _form_cookie(request: Request) -> str:
    """Return the name of the cookie that ties the sign-in form to the browser that it was shown to."""
    access: Access = request.app.state.access
    return access.cookie_name(request) + "-form"


def local_path(wanted: str) -> str:
    """Return where to go after signing in: a page of the console, whatever the address asked for."""
    parts = urlsplit(wanted)
    if parts.scheme or parts.netloc or not wanted.startswith("/") or wanted.startswith(("//", "/\\", "/login")):
        return "/"
    return wanted if wanted.isprintable() else "/"


def _login_page(request: Request, wanted: str, *, fault: str = "", name: str = "", status: int = 200) -> Response:
    token = request.cookies.get(_form_cookie(request)) or new_token()
    oidc = request.app.state.node.settings.console.oidc
    page = render(
        request,
        "login.html",
        status_code=status,
        wanted=wanted,
        fault=fault,
        name=name,
        form_csrf=csrf_of(token),
        issuer=urlsplit(oidc.issuer).hostname if oidc.issuer else "",
    )
    set_cookie(request, page, _form_cookie(request), token)
    return page


@router.get("/login", dependencies=[Depends(public)])
async def show_login(request: Request, next: str = "/") -> Response:
    """Show the form; whoever is signed in goes on."""
    access: Access = request.app.state.access
    if await run_in_threadpool(access.signed_in, request) is not None:
        return RedirectResponse(local_path(next), 303)
    return await run_in_threadpool(_login_page, request, local_path(next))


@router.post("/login", dependencies=[Depends(public)])
async def login(
    request: Request,
    name: Annotated[str, Form(max_length=128)] = "",
    password: Annotated[str, Form(max_length=1024)] = "",
    next: Annotated[str, Form()] = "/",
) -> Response:
    """Sign in with a password."""
    wanted = local_path(next)
    token = request.cookies.get(_form_cookie(request), "")
    try:
        await require_own_form(request, csrf_of(token) if token else "-")
        user = await run_in_threadpool(check_password, request, name.strip(), password)
    except ForgedRequest:
        fault = "The page was too old, or the browser keeps no cookies for this console. Try once more."
        return await run_in_threadpool(_login_page, request, wanted, fault=fault, name=name, status=403)
    except WrongPassword as error:
        fault = str(error).capitalize() + "."
        return await run_in_threadpool(_login_page, request, wanted, fault=fault, name=name, status=403)
    access: Access = request.app.state.access
    response = RedirectResponse("/account" if user.must_change else wanted, 303)
    await run_in_threadpool(access.sign_in, request, response, user)
    response.delete_cookie(_form_cookie(request), path="/", secure=is_secure(request), httponly=True)
    await run_in_threadpool(record, request, "sign in", user=user.name)
    return response


def _oidc(request: Request) -> OidcSignIn:
    found: OidcSignIn | None = request.app.state.oidc
    if found is None:
        raise OperationRefused("nobody signs in by OpenID Connect here; [console.oidc] names no issuer")
    return found


@router.post("/login/oidc", dependencies=[Depends(public)])
async def begin_oidc(request: Request, next: Annotated[str, Form()] = "/") -> Response:
    """Send the browser to the issuer."""
    token = request.cookies.get(_form_cookie(request), "")
    try:
        await require_own_form(request, csrf_of(token) if token else "-")
        back = str(request.url_for("finish_oidc"))
        begun = await run_in_threadpool(_oidc(request).begin, back, local_path(next))
    except (ForgedRequest, SignInFailed) as error:
        fault = str(error).capitalize() + "."
        return await run_in_threadpool(_login_page, request, local_path(next), fault=fault, status=403)
    # A page and not a redirect: of a form, browsers hold redirects against form-action too.
    page = render(request, "onward.html", address=begun.address, label="Go on to the issuer")
    # It has to come along when the issuer sends the browser back, from another site.
    set_cookie(request, page, _oidc_cookie(request), begun.kept, same_site="lax", max_age=STATE_S)
    return page


@router.get("/login/oidc/callback", dependencies=[Depends(public)])
def finish_oidc(request: Request, state: str = "", code: str = "", error: str = "") -> Response:
    """Sign in whom the issuer vouches for."""
    access: Access = request.app.state.access
    kept = request.cookies.get(_oidc_cookie(request), "")
    try:
        if error or not code:
            raise SignInFailed("you did not sign in there, or it does not let you in")
        vouched, wanted = _oidc(request).finish(kept, state=state, code=code)
        user = access.users.take_in(
            issuer=vouched.issuer,
            subject=vouched.subject,
            name=vouched.name,
            role=vouched.role,
            sees_patients=vouched.sees_patients,
        )
        if user.disabled:
            raise SignInFailed("you are locked out of this console; an admin lets you in again")
    except SignInFailed as failure:
        record(request, "sign in", None, AuditResult.REFUSED, str(failure), user="(unknown)")
        page = _login_page(request, "/", fault=str(failure).capitalize() + ".", status=403)
    else:
        # A redirect would still count as the issuer's navigation, and the session's cookie would not go with it.
        page = render(request, "onward.html", address=local_path(wanted), label="Go on to the console")
        access.sign_in(request, page, user)
        record(request, "sign in", reason=f"vouched for by {vouched.issuer}", user=user.name)
    page.delete_cookie(_oidc_cookie(request), path="/", secure=is_secure(request), httponly=True)
    return page


def _oidc_cookie(request: Request) -> str:
    access: Access = request.app.state.access
    return access.cookie_name(request) + "-oidc"


@router.post("/logout")
def logout(request: Request, signed_in: Annotated[SignedIn, Depends(require(Permission.ACCOUNT))]) -> Response:
    """End the session of this browser."""
    access: Access = request.app.state.access
    response = RedirectResponse("/login", 303)
    access.sign_out(request, response, signed_in)
    record(request, "sign out")
    return response


@router.post("/logout/everywhere")
def logout_everywhere(
    request: Request, signed_in: Annotated[SignedIn, Depends(require(Permission.ACCOUNT))]
) -> Response:
    """End every session of the user, on every machine."""
    access: Access = request.app.state.access
    response = RedirectResponse("/login", 303)
    ended = access.sessions.end_all(signed_in.user.user_id)
    access.sign_out(request, response, signed_in)
    record(request, "sign out everywhere", reason=f"{ended} sessions")
    return response


@router.get("/account")
def show_account(
    request: Request, signed_in: Annotated[SignedIn, Depends(require(Permission.ACCOUNT))], changed: bool = False
) -> Response:
    """Show who is signed in, what the user may do, and the form for another password."""
    return render(request, "account.html", fault="", changed=changed, permissions=sorted(signed_in.permissions))


@router.post("/account/password")
def change_password(
    request: Request,
    signed_in: Annotated[SignedIn, Depends(require(Permission.ACCOUNT))],
    old: Annotated[str, Form(max_length=1024)] = "",
    new: Annotated[str, Form(max_length=1024)] = "",
    again: Annotated[str, Form(max_length=1024)] = "",
) -> Response:
    """Change one's own password; every other session of the user ends."""
    access: Access = request.app.state.access
    user = signed_in.user
    try:
        with audited(request, "change own password"):
            if user.issuer:
                raise OperationRefused("your password is kept where you sign in; change it there")
            keys = {f"user:{user.name.casefold()}": access.settings.free_attempts}
            if wait := access.throttle.attempt(keys):
                raise OperationRefused(f"too many attempts failed: wait {max(1, round(wait))} s, then try again")
            if not is_right(access.users.password_hash(user.name), old):
                raise OperationRefused("the old password is wrong")
            access.throttle.succeed(next(iter(keys)))
            if new != again:
                raise OperationRefused("the new password was typed in two ways")
            if new == old:
                raise OperationRefused("the new password is the old one; take another one")
            require_strong(new, user.name)
            access.users.set_password(user.user_id, hash_password(new), must_change=False)
    except OperationRefused as error:
        fault = str(error)[:1].upper() + str(error)[1:] + "."
        permissions = sorted(signed_in.permissions)
        return render(request, "account.html", status_code=409, fault=fault, changed=False, permissions=permissions)
    response = RedirectResponse("/account?changed=true", 303)
    set_cookie(request, response, access.cookie_name(request), access.sessions.open(user.user_id, address_of(request)))
    return response
