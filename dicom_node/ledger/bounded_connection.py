"""A PostgreSQL connection that gives up on a server that takes what is sent and never answers.

A network that is cut is found out by the kernel (`tcp_user_timeout`, keepalives). A server that was stopped in its
tracks, or whose disk hangs, is not: its kernel acknowledges every packet, and the driver waits for ever. No time-out of
the server helps either, since it is the server that would have to watch it.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any, TypeVar

import psycopg

RV = TypeVar("RV")


class SilentServer(psycopg.OperationalError):
    """The server took a statement and did not answer in time."""


class BoundedConnection(psycopg.Connection[Any]):
    """A connection whose statements fail with `SilentServer` when the answer does not come in time.

    The connection is closed then: whether the server did what it was asked is not known.
    """

    answer_within_s = 15.0
    _listens = False

    def wait(self, gen: Any, *arguments: Any, **options: Any) -> Any:
        """Run a generator of the driver that waits for the server, and no longer than `answer_within_s`."""
        return super().wait(gen if self._listens else self._bounded(gen), *arguments, **options)

    def notifies(self, **options: Any) -> Generator[psycopg.Notify]:
        """Yield notifications; here silence is no fault."""
        self._listens = True
        try:
            yield from super().notifies(**options)
        finally:
            self._listens = False

    def _bounded(self, gen: Generator[Any, Any, RV]) -> Generator[Any, Any, RV]:
        until = time.monotonic() + self.answer_within_s
        try:
            wanted = next(gen)
            while True:
                # The driver comes by ten times a second, with nothing where nothing came (psycopg.waiting).
                ready = yield wanted
                if not ready and time.monotonic() > until:
                    self.close()
                    raise SilentServer(
                        f"its server took a statement and has not answered for {self.answer_within_s:g} s"
                    )
                wanted = gen.send(ready)
        except StopIteration as ended:
            value: RV = ended.value
            return value


def connect_bounded(*arguments: Any, answer_within_s: float, **options: Any) -> BoundedConnection:
    """Connect as `psycopg.connect` does; the limit is in seconds."""
    connection = BoundedConnection.connect(*arguments, **options)
    connection.answer_within_s = answer_within_s
    return connection
