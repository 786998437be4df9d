"""Passwords: made, judged and compared (argon2id, RFC 9106)."""

from __future__ import annotations

import secrets
import threading
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from dicom_node.errors import OperationRefused

LEAST_LENGTH: Final = 12
_MOST_LENGTH: Final = 256
_HASHER: Final = PasswordHasher()
# One comparison takes 64 MiB: many at once must not take the memory of the node.
_AT_ONCE: Final = threading.BoundedSemaphore(2)
_NOBODYS: Final = _HASHER.hash(secrets.token_urlsafe(16))


def make_password() -> str:
    """Return a password that nobody guesses: 100 bits, in groups that can be typed from a screen."""
    letters = "abcdefghijkmnpqrstuvwxyz23456789"
    return "-".join("".join(secrets.choice(letters) for _ in range(5)) for _ in range(4))


def require_strong(password: str, name: str) -> None:
    """Refuse a password that is guessed soon; length is what counts (NIST SP 800-63B 5.1.1.2).

    Raises
    ------
    OperationRefused
    """
    if len(password) < LEAST_LENGTH:
        raise OperationRefused(f"the password has {len(password)} characters; at least {LEAST_LENGTH} are needed")
    if len(password) > _MOST_LENGTH:
        raise OperationRefused(f"the password has more than {_MOST_LENGTH} characters")
    if name and name.casefold() in password.casefold():
        raise OperationRefused("the password has the name of the user in it; take another one")
    if len(set(password.casefold())) < 5:
        raise OperationRefused("the password repeats a few characters; take another one")


def hash_password(password: str) -> str:
    """Return the hash to keep."""
    with _AT_ONCE:
        return _HASHER.hash(password)


def is_right(password_hash: str | None, password: str) -> bool:
    """Tell whether a password is the one of this hash; without a hash it takes as long, and is wrong."""
    with _AT_ONCE:
        try:
            return _HASHER.verify(password_hash or _NOBODYS, password[:_MOST_LENGTH]) and password_hash is not None
        except (VerificationError, InvalidHashError):
            return False


def needs_rehash(password_hash: str) -> bool:
    """Tell whether the hash was made with weaker parameters than today's."""
    return _HASHER.check_needs_rehash(password_hash)
