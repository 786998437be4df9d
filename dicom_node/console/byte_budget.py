"""A budget of bytes that requests share: who asks for more than is left waits, in the order of asking."""

from __future__ import annotations

import asyncio
from collections import deque


class BudgetExhausted(Exception):
    """What is needed did not come free in time."""


class ByteBudget:
    """Bytes that may be in use at once, within one event loop.

    Parameters
    ----------
    limit
        In bytes. A request for more than that waits until it is alone.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def used(self) -> int:
        """Bytes in use."""
        return self._used

    async def take(self, count: int, *, within_s: float) -> int:
        """Wait for `count` bytes; returns what is to be given back.

        Raises
        ------
        BudgetExhausted
            If they don't come free within `within_s` seconds.
        """
        count = min(count, self._limit)
        if not self._waiting and self._used + count <= self._limit:
            self._used += count
            return count
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((count, turn))
        try:
            await asyncio.wait_for(asyncio.shield(turn), within_s)
        except TimeoutError:
            self._leave(count, turn)
            raise BudgetExhausted from None
        except asyncio.CancelledError:
            self._leave(count, turn)
            raise
        return count

    def give_back(self, count: int) -> None:
        """Give back what `take` returned."""
        self._used -= count
        self._let_in()

    def _leave(self, count: int, turn: asyncio.Future[None]) -> None:
        if turn.done() and not turn.cancelled():
            # It came just as nobody waited any more.
            self.give_back(count)
            return
        self._waiting = deque(entry for entry in self._waiting if entry[1] is not turn)
        # Who stood behind a large request may fit.
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self._used + self._waiting[0][0] <= self._limit:
            count, turn = self._waiting.popleft()
            self._used += count
            turn.set_result(None)
