"""Who asks: the session of a request, the permission its route needs, and proof that the request is the user's own."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from config.settings import ConsoleSettings
from dicom_node.console.permissions import Permission, permissions_of
from dicom_node.errors import NodeError, OperationRefused
from dicom_node.ledger.console_audit import AuditLedger, AuditResult
from dicom_node.ledger.console_sessions import Session, SessionLedger, ThrottleLedger
from dicom_node.ledger.console_users import ConsoleUser, UserLedger
from dicom_node.ledger.database import Database

log = logging.getLogger(__name__)

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
CSRF_FIELD: Final = "csrf"
CSRF_HEADER: Final = "x-csrf-token"
POLL_HEADER: Final = "x-poll"
"""Set by pages that refresh themselves: such a request keeps no session alive."""


class SignInRequired(NodeError):
    """Nobody is signed in."""


class PasswordChangeRequired(NodeError):
    """The user has a password that somebody else made, and changes it first."""


class PermissionDenied(NodeError):
    """The user may not do this; the message says what is missing."""


class ForgedRequest(NodeError):
    """The request does not prove that it comes from a page of the console."""


@dataclass(frozen=True, kw_only=True)
class SignedIn:
    """The user of a request.

    Attributes
    ----------
    csrf
        Token that forms and scripts of this session send along.
    """

    user: ConsoleUser
    permissions: frozenset[Permission]
    session: Session
    csrf: str
    address: str

    def may(self, permission: Permission) -> bool:
        """Tell whether the user has a permission."""
        return permission in self.permissions


class Access:
    """The ledgers that access needs, and the settings of it; `request.app.state.access`."""

    def __init__(self, database: Database, settings: ConsoleSettings) -> None:
        self.settings = settings
        self.users = UserLedger(database)
        self.sessions = SessionLedger(database, idle_s=settings.idle_min * 60, longest_s=settings.session_h * 3600)
        self.throttle = ThrottleLedger(database, longest_s=settings.max_wait_min * 60)
        self.audit = AuditLedger(database)

    def cookie_name(self, request: Request) -> str:
        """Return the name of the session's cookie; cookies know no ports, so ours is in the name."""
        prefix = "__Host-" if is_secure(request) else ""
        return f"{prefix}lowdose-{self.settings.port}"

    def signed_in(self, request: Request) -> SignedIn | None:
        """Return the user of a request, or nothing."""
        token = request.cookies.get(self.cookie_name(request))
        if not token:
            return None
        session = self.sessions.find(token, touch=POLL_HEADER not in request.headers)
        if session is None:
            return None
        return SignedIn(
            user=session.user,
            permissions=permissions_of(session.user.role, sees_patients=session.user.sees_patients),
            session=session,
            csrf=csrf_of(token),
            address=address_of(request),
        )

    def sign_in(self, request: Request, response: Response, user: ConsoleUser) -> None:
        """Begin a session of `user`, and end the one that the browser had."""
        former = request.cookies.get(self.cookie_name(request))
        if former and (session := self.sessions.find(former, touch=False)) is not None:
            self.sessions.end(session.token_hash)
        token = self.sessions.open(user.user_id, address_of(request))
        self.users.note_login(user.user_id)
        set_cookie(request, response, self.cookie_name(request), token)

    def sign_out(self, request: Request, response: Response, signed_in: SignedIn) -> None:
        """End the session of the browser."""
        self.sessions.end(signed_in.session.token_hash)
        response.delete_cookie(self.cookie_name(request), path="/", secure=is_secure(request), httponly=True)
        response.headers["Clear-Site-Data"] = '"cache", "storage"'


class Require:
    """The dependency by which a route says what it needs: ``Depends(require(Permission.VIEW))``."""

    def __init__(self, permission: Permission, *, reads_form: bool = True) -> None:
        self.permission = permission
        self._reads_form = reads_form

    async def __call__(self, request: Request) -> SignedIn:
        """Return the user.

        Raises
        ------
        SignInRequired, PasswordChangeRequired, PermissionDenied, ForgedRequest
        """
        access: Access = request.app.state.access
        signed_in = await run_in_threadpool(access.signed_in, request)
        if signed_in is None:
            raise SignInRequired("sign in first")
        request.state.signed_in = signed_in
        if request.method not in SAFE_METHODS:
            require_own_site(request)
            if self._reads_form:
                await require_own_form(request, signed_in.csrf)
        if signed_in.user.must_change and self.permission is not Permission.ACCOUNT:
            raise PasswordChangeRequired("change your password first")
        if self.permission not in signed_in.permissions:
            await run_in_threadpool(
                record, request, f"{request.method} without permission", request.url.path, AuditResult.REFUSED,
                f"needs: {self.permission}",
            )  # fmt: skip
            raise PermissionDenied(f"your role, {signed_in.user.role}, may not do this; it needs: {self.permission}")
        return signed_in


require = Require


class Public:
    """The dependency of the few routes that are open to everybody; unsafe ones look after themselves."""

    permission = None

    async def __call__(self) -> None:
        """Let everybody in."""


public = Public()


def csrf_of(token: str) -> str:
    """Return the token that proves that a form was made for the session of `token`; it does not tell that one."""
    return hmac.new(token.encode(), b"csrf", hashlib.sha256).hexdigest()


def require_own_site(request: Request) -> None:
    """Raise `ForgedRequest` where the browser says that another site made the request."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise ForgedRequest("the request comes from another site")


async def require_own_form(request: Request, csrf: str) -> None:
    """Raise `ForgedRequest` unless a request was made by a page of ours for this session.

    The cookie goes with no request that another site makes (SameSite=Strict); this holds where a browser or another
    program on this host name breaks that.
    """
    require_own_site(request)
    given = request.headers.get(CSRF_HEADER)
    if given is None:
        form = await request.form()
        value = form.get(CSRF_FIELD)
        given = value if isinstance(value, str) else ""
    if not hmac.compare_digest(given.encode(), csrf.encode()):
        raise ForgedRequest("the form is not of this session: load the page again")


def set_cookie(
    request: Request,
    response: Response,
    name: str,
    value: str,
    *,
    same_site: str = "strict",
    max_age: int | None = None,
) -> None:
    """Set a cookie that no script reads and that goes over TLS alone where the console is called by TLS."""
    response.set_cookie(
        name,
        value,
        path="/",
        httponly=True,
        secure=is_secure(request),
        samesite="lax" if same_site == "lax" else "strict",
        max_age=max_age,
    )


def is_secure(request: Request) -> bool:
    """Tell whether the browser speaks TLS, with us or with the proxy."""
    return request.url.scheme == "https"


def address_of(request: Request) -> str:
    """Return the address of the browser."""
    return request.client.host[:64] if request.client else "unknown"


def new_token() -> str:
    """Return a token that nobody guesses."""
    return secrets.token_urlsafe(32)


def record(
    request: Request,
    action: str,
    subject: str | None = None,
    result: AuditResult = AuditResult.DONE,
    reason: str | None = None,
    *,
    user: str | None = None,
) -> None:
    """Append what the user of a request did to the audit; `user` where nobody is signed in yet."""
    access: Access = request.app.state.access
    signed_in: SignedIn | None = getattr(request.state, "signed_in", None)
    access.audit.record(
        user=user or (signed_in.user.name if signed_in else "(nobody)"),
        address=address_of(request),
        action=action,
        subject=subject,
        result=result,
        reason=reason,
    )


@contextmanager
def audited(request: Request, action: str, subject: str | None = None) -> Iterator[None]:
    """Append to the audit how the block ends: done, refused with the reason, or failed."""
    try:
        yield
    except OperationRefused as error:
        record(request, action, subject, AuditResult.REFUSED, str(error))
        raise
    except Exception as error:
        record(request, action, subject, AuditResult.FAILED, type(error).__name__)
        raise
    record(request, action, subject)
