"""The ledger of signed-in browsers, and of attempts to sign in that failed."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy import delete, func, insert, select, update

from dicom_node.ledger.console_users import ConsoleUser, user_of
from dicom_node.ledger.database import Database
from dicom_node.ledger.schema import console_session, console_throttle, console_user
from dicom_node.ledger.upserts import upsert

_TOUCH_S: Final = 30.0
"""How often it is written down that a session is in use."""
FORGET_S: Final = 86_400.0
"""Failed attempts to sign in are forgotten after this time without another, in seconds."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """A browser that a user signed in with."""

    token_hash: str
    user: ConsoleUser


def hash_token(token: str) -> str:
    """Return what the ledger keeps of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


class SessionLedger:
    """The side of the ledger that knows sessions.

    Parameters
    ----------
    idle_s, longest_s
        Time without use, and in all, after which a session ends, in seconds.
    """

    def __init__(self, database: Database, *, idle_s: float, longest_s: float) -> None:
        self._database = database
        self._idle_s = idle_s
        self._longest_s = longest_s

    def open(self, user_id: int, address: str) -> str:
        """Begin a session; returns its token, which is kept nowhere."""
        token = secrets.token_urlsafe(32)
        now = self._database.now()
        with self._database.write() as connection:
            connection.execute(
                delete(console_session).where(
                    (console_session.c.expires_at <= now) | (console_session.c.seen_at <= now - self._idle_s)
                )
            )
            connection.execute(
                insert(console_session),
                {
                    "token_hash": hash_token(token),
                    "user_id": user_id,
                    "address": address,
                    "created_at": now,
                    "seen_at": now,
                    "expires_at": now + self._longest_s,
                },
            )
        return token

    def find(self, token: str, *, touch: bool = True) -> Session | None:
        """Return the session of a token; None if it has ended, or its user is locked out.

        Parameters
        ----------
        touch
            Whether a person asks; a page that refreshes itself keeps no session alive.
        """
        now = self._database.now()
        key = hash_token(token)
        with self._database.read() as connection:
            row = connection.execute(
                select(console_session.c.seen_at, console_user)
                .join(console_user, console_user.c.id == console_session.c.user_id)
                .where(
                    console_session.c.token_hash == key,
                    console_session.c.expires_at > now,
                    console_session.c.seen_at > now - self._idle_s,
                    console_user.c.disabled.is_(False),
                )
            ).one_or_none()
        if row is None:
            return None
        if touch and now - row.seen_at >= min(_TOUCH_S, self._idle_s / 10):
            with self._database.write() as connection:
                connection.execute(
                    update(console_session).where(console_session.c.token_hash == key).values(seen_at=now)
                )
        return Session(token_hash=key, user=user_of(row))

    def counts(self) -> dict[int, int]:
        """Return user -> number of sessions that are open."""
        now = self._database.now()
        query = (
            select(console_session.c.user_id, func.count())
            .where(console_session.c.expires_at > now, console_session.c.seen_at > now - self._idle_s)
            .group_by(console_session.c.user_id)
        )
        with self._database.read() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def end(self, token_hash: str) -> None:
        """End one session."""
        with self._database.write() as connection:
            connection.execute(delete(console_session).where(console_session.c.token_hash == token_hash))

    def end_all(self, user_id: int) -> int:
        """End every session of a user; returns how many."""
        with self._database.write() as connection:
            return connection.execute(delete(console_session).where(console_session.c.user_id == user_id)).rowcount


def wait_s(failures: int, free: int, longest_s: float) -> float:
    """Return how long to wait after the last of so many failed attempts, in seconds; it doubles each time."""
    if failures < free:
        return 0.0
    return float(min(longest_s, 2.0 ** min(failures - free, 32)))


class ThrottleLedger:
    """The side of the ledger that slows down whoever guesses passwords, over all processes and machines."""

    def __init__(self, database: Database, *, longest_s: float) -> None:
        self._database = database
        self._longest_s = longest_s

    def attempt(self, free: Mapping[str, int]) -> float:
        """Count an attempt before it is made, or return for how many seconds none is taken; 0 where it may be made.

        It counts as failed until `succeed`: attempts at the same moment must not share one count.

        Parameters
        ----------
        free
            What the attempt counts for (user, address), and how many attempts of each are free.
        """
        now = self._database.now()
        with self._database.write() as connection:
            connection.execute(delete(console_throttle).where(console_throttle.c.last_at <= now - FORGET_S))
            wait = 0.0
            # In one order, or two attempts could wait for each other.
            for key in sorted(free):
                connection.execute(
                    upsert(connection, console_throttle)
                    .values(key=key, failures=0, last_at=now - self._longest_s)
                    .on_conflict_do_nothing()
                )
                row = connection.execute(
                    select(console_throttle).where(console_throttle.c.key == key).with_for_update()
                ).one()
                wait = max(wait, row.last_at + wait_s(row.failures, free[key], self._longest_s) - now)
            if wait > 0:
                return wait
            connection.execute(
                update(console_throttle)
                .where(console_throttle.c.key.in_(free))
                .values(failures=console_throttle.c.failures + 1, last_at=now)
            )
            return 0.0

    def succeed(self, key: str, *others: str) -> None:
        """Forget the failures of `key`, and one of each of the others: the attempt was none."""
        with self._database.write() as connection:
            connection.execute(delete(console_throttle).where(console_throttle.c.key == key))
            connection.execute(
                update(console_throttle)
                .where(console_throttle.c.key.in_(others), console_throttle.c.failures > 0)
                .values(failures=console_throttle.c.failures - 1)
            )

    def forget(self, key: str) -> None:
        """Forget the failures of `key`: an admin vouches for the user."""
        self.succeed(key)
