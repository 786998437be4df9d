"""Signing in with a password: slowed down for whoever guesses, and equally slow for every name."""

from __future__ import annotations

import logging

from fastapi import Request

from dicom_node.console.access import Access, address_of, record
from dicom_node.console.passwords import hash_password, is_right, needs_rehash
from dicom_node.errors import OperationRefused
from dicom_node.ledger.console_audit import AuditResult
from dicom_node.ledger.console_users import ConsoleUser

log = logging.getLogger(__name__)

_FREE_PER_ADDRESS = 4
"""Attempts of one address that are free, in those of one user: a department behind one proxy shares an address."""


class WrongPassword(OperationRefused):
    """Name or password is wrong, or it is not tried now; the message is for whoever tries."""


def check_password(request: Request, name: str, password: str) -> ConsoleUser:
    """Return the user of this name and password.

    Raises
    ------
    WrongPassword
        With the same words whether the name or the password is wrong.
    """
    access: Access = request.app.state.access
    address = address_of(request)
    free = access.settings.free_attempts
    by_user, by_address = f"user:{name.casefold()[:128]}", f"address:{address}"
    user = access.users.find(name)
    # A password that was typed in the field of the name must not stand in the audit.
    shown = user.name if user else "(unknown)"
    wait = access.throttle.attempt({by_user: free, by_address: free * _FREE_PER_ADDRESS})
    if wait > 0:
        log.warning("Sign-in not tried: too many attempts failed", extra={"address": address, "wait_s": round(wait)})
        record(request, "sign in", None, AuditResult.REFUSED, f"too soon: {wait:.0f} s to wait", user=shown)
        raise WrongPassword(f"too many attempts failed: wait {max(1, round(wait))} s, then try again")
    stored = access.users.password_hash(name)
    if not is_right(stored, password) or user is None or user.disabled:
        why = "the user is locked out" if user and user.disabled else "wrong password" if user else "no such user"
        log.warning("Sign-in failed", extra={"user": shown, "address": address, "reason": why})
        record(request, "sign in", None, AuditResult.REFUSED, why, user=shown)
        raise WrongPassword("name or password is wrong")
    access.throttle.succeed(by_user, by_address)
    if stored is not None and needs_rehash(stored):
        access.users.rehash(user.user_id, hash_password(password))
    return user
