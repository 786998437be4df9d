"""Who may work now: pieces of work side by side, but alone an image that was in work when a worker died."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Turns of the work of one worker.

    When a worker dies, every image that was in work is under suspicion. The second time each goes alone, so an image
    that ends the process again takes no innocent one with it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._together = 0
        self._is_one_alone = False
        self._is_closed = False

    @contextmanager
    def take(self, *, alone: bool) -> Iterator[None]:
        """Wait for a turn and hold it for the block; `alone` lets nobody else have one meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_one_alone and not self._is_closed)
            if alone:
                # Said before the others have ended, so that no new one begins.
                self._is_one_alone = True
                self._changed.wait_for(lambda: self._together == 0)
            else:
                self._together += 1
        try:
            yield
        finally:
            with self._changed:
                if alone:
                    self._is_one_alone = False
                else:
                    self._together -= 1
                self._changed.notify_all()

    def close(self, timeout_s: float) -> bool:
        """Give no turn any more, and wait until those that are held have ended; False if that took too long.

        Who asks for a turn afterwards waits until the process ends: its work is taken up at the next start.
        """
        with self._changed:
            self._is_closed = True
            return self._changed.wait_for(lambda: self._together == 0 and not self._is_one_alone, timeout_s)
