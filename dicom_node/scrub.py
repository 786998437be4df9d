"""The slow reading of every stored object, so that a file that decayed is found before somebody needs it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from dicom_node.instance_store import InstanceStore
from dicom_node.integrity import Examined
from dicom_node.ledger.checks import CheckLedger

log = logging.getLogger(__name__)

_MOST_OBJECTS = 50


class Scrub:
    """Reads objects again, as many as its rate allows; it never waits, so a stop never waits for it.

    Parameters
    ----------
    period_s
        Time in which each object is read once; 0: never.
    bytes_per_s
        Most that is read on average. An object larger than what has been saved up is read all the same, and paid for
        afterwards.
    """

    def __init__(
        self,
        *,
        ledger: CheckLedger,
        store: InstanceStore,
        period_s: float,
        bytes_per_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._period_s = period_s
        self._bytes_per_s = bytes_per_s
        self._clock = clock
        self._credit = 0.0
        self._at = clock()
        self._burst_s = 10.0

    def step(self) -> int:
        """Read what the time since the last step allows; returns how many objects."""
        now = self._clock()
        self._credit += (now - self._at) * self._bytes_per_s
        self._credit = min(self._credit, self._burst_s * self._bytes_per_s)
        self._at = now
        if not self._period_s or self._credit <= 0:
            return 0
        found: list[tuple[str, Examined]] = []
        for one in self._ledger.due(self._period_s, _MOST_OBJECTS):
            if self._credit <= 0:
                break
            _, result = self._store.examine(one.key, one, from_disk=True)
            self._credit -= max(result.read_bytes, 4096)
            found.append((one.key, result))
        if found:
            report_faults(self._ledger, found)
        return len(found)


def report_faults(ledger: CheckLedger, found: list[tuple[str, Examined]]) -> None:
    """Record what was found, and raise the alarm for what is wrong and was not known."""
    new = set(ledger.record(found))
    for key, one in found:
        if key in new:
            log.error("A stored object is not what it was", extra={"key": key, "reason": one.reason})
