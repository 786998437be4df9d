"""How fast the objects of one source may come: a bucket that fills as time goes by."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

BURST_S: Final = 60.0
"""A source that was quiet may send this many seconds' worth at once: a study comes in one burst."""

LONGEST_WAIT_S: Final = 10.0
"""An object waits no longer than this for its turn, lest the sender's own time-out end the association."""


class Pace:
    """The pace of one source, over all of its associations.

    Parameters
    ----------
    per_minute
        Objects a minute.
    clock
        Seconds, monotonic; tests give their own.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_minute / 60
        self._most = max(1.0, self._per_second * BURST_S)
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens = self._most
        self._at = clock()

    def take(self) -> float | None:
        """Take the place of one object: returns the seconds to wait for it first, or None if there is none soon."""
        with self._lock:
            now = self._clock()
            tokens = min(self._most, self._tokens + (now - self._at) * self._per_second)
            wait_s = max(0.0, (1 - tokens) / self._per_second)
            self._at = now
            if wait_s > LONGEST_WAIT_S:
                self._tokens = tokens
                return None
            self._tokens = tokens - 1
            return wait_s
