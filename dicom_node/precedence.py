"""Who has the denoiser: one image at a time, and one whose original has gone before only while nobody else waits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

POLL_S = 0.5


class GaveUp(Exception):
    """An image waited, or was worked on, until its time was over."""


class Precedence:
    """A lock that images in time get before those in the background."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_held = False
        self._in_time = 0

    @contextmanager
    def hold(self, *, in_background: bool = False, is_over: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Wait for the lock and hold it for the block.

        Parameters
        ----------
        in_background
            Let everybody go first who is in time.
        is_over
            Asked while it waits: whether it has waited for too long.

        Raises
        ------
        GaveUp
            If the time was over before it had the lock.
        """
        self._take(in_background=in_background, is_over=is_over)
        try:
            yield
        finally:
            self._release()

    def give_way(self, *, is_over: Callable[[], bool]) -> None:
        """Let those in time go first; to be called by the one in the background that holds the lock.

        Raises
        ------
        GaveUp
            If the time was over before it had the lock again. It holds the lock all the same, as before.
        """
        with self._changed:
            if not self._in_time:
                return
        self._release()
        try:
            self._take(in_background=True, is_over=is_over)
        except GaveUp:
            # Its block still has to end, and releases what it holds.
            self._take(in_background=False, is_over=lambda: False)
            raise

    def _take(self, *, in_background: bool, is_over: Callable[[], bool]) -> None:
        with self._changed:
            if not in_background:
                self._in_time += 1
            try:
                while self._is_held or (in_background and self._in_time):
                    # Also for the clock: nobody says when the time is over.
                    self._changed.wait(POLL_S)
                    if is_over():
                        raise GaveUp
                self._is_held = True
            finally:
                if not in_background:
                    self._in_time -= 1

    def _release(self) -> None:
        with self._changed:
            self._is_held = False
            self._changed.notify_all()
