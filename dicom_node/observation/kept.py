"""A value that is looked up by a thread of its own and kept for a while, so that nobody waits for what is slow."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """A value that takes time to look up.

    Parameters
    ----------
    look
        Finds the value; what it raises comes to whoever asks.
    for_s
        Time for which a value is good, in seconds.
    wait_s
        Longest that anybody waits for a new one.
    late
        Stands in where it takes longer; given the seconds that it has taken.
    """

    def __init__(
        self,
        look: Callable[[], T],
        for_s: float,
        *,
        late: Callable[[float], T],
        wait_s: float = 2.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look = look
        self._for_s = for_s
        self._late = late
        self._wait_s = wait_s
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._looking: threading.Thread | None = None
        self._begun_at = 0.0
        self._found: tuple[float, T] | None = None
        self._error: BaseException | None = None

    def get(self) -> T:
        """Return the value; a new one where the last is too old."""
        with self._lock:
            if self._found is not None and self._monotonic() - self._found[0] < self._for_s:
                return self._found[1]
            if self._looking is None:
                self._begun_at = self._monotonic()
                self._looking = threading.Thread(target=self._run, name="look up", daemon=True)
                self._looking.start()
            looking, begun_at = self._looking, self._begun_at
        # Whoever comes while one looks waits for the same one.
        looking.join(max(0.0, self._wait_s - (self._monotonic() - begun_at)))
        with self._lock:
            if looking.is_alive() and self._looking is looking:
                return self._late(self._monotonic() - begun_at)
            if self._error is not None:
                raise self._error
            assert self._found is not None
            return self._found[1]

    def _run(self) -> None:
        error: BaseException | None = None
        found: T | None = None
        try:
            found = self._look()
        except Exception as raised:  # noqa: BLE001 - handed to whoever asks
            error = raised
        with self._lock:
            self._looking = None
            self._error = error
            if error is None:
                self._found = (self._monotonic(), found)  # type: ignore[assignment]
