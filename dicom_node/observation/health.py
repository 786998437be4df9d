"""Whether a process works (live) and whether it should get work (ready), found by checks of its own.

A thread carries the checks out from time to time, and who asks gets the last findings: asking often costs nothing,
and a check that hangs is a finding too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from dicom_node.errors import describe

log = logging.getLogger(__name__)

PERIOD_S: Final = 2.0
STALE_S: Final = 20.0
"""Age from which the findings of a process say that it hangs."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check.

    Attributes
    ----------
    name
        Stable; in the answer.
    look
        Returns what is wrong in words, None where nothing is. May raise: that is a finding too.
    is_vital
        Where it fails, the process does not work, and starting it again may help. Otherwise it only is not ready.
    """

    name: str
    look: Callable[[], str | None]
    is_vital: bool = False


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What the checks found last: problems by check, empty texts where there is none."""

    problems: Mapping[str, str]
    is_live: bool
    is_ready: bool

    def as_json(self) -> dict[str, Any]:
        """Return it as `/healthz/NAME` answers."""
        return {
            "live": self.is_live,
            "ready": self.is_ready,
            "checks": {name: problem or "ok" for name, problem in self.problems.items()},
        }


@dataclass(kw_only=True)
class Health:
    """The checks of one process and what they found."""

    checks: Sequence[Check]
    monotonic: Callable[[], float] = time.monotonic
    _problems: dict[str, str] = field(default_factory=dict, init=False)
    _looked_at: float | None = field(default=None, init=False)
    _at_check: str = field(default="", init=False)

    def look(self) -> None:
        """Carry out every check."""
        for check in self.checks:
            self._at_check = check.name
            try:
                problem = check.look() or ""
            except Exception as error:  # noqa: BLE001 - the top of a check: that it fails is what is asked for
                problem = describe(error) or type(error).__name__
            self._problems[check.name] = problem
        self._at_check = ""
        self._looked_at = self.monotonic()

    def finding(self) -> Finding:
        """Return what was found last; a process that has not looked for long is not live."""
        problems = {check.name: self._problems.get(check.name, "not looked at yet") for check in self.checks}
        if self._looked_at is None:
            return Finding(problems=problems, is_live=True, is_ready=False)
        stale_s = self.monotonic() - self._looked_at
        if stale_s > STALE_S:
            where = f" in {self._at_check}" if self._at_check else ""
            problems["watch"] = f"nothing was looked at for {stale_s:.0f} s: it hangs{where}"
            return Finding(problems=problems, is_live=self._hangs_outside(), is_ready=False)
        vital = {check.name for check in self.checks if check.is_vital}
        failed = {name for name, problem in problems.items() if problem}
        return Finding(problems=problems, is_live=not failed & vital, is_ready=not failed)

    def _hangs_outside(self) -> bool:
        """Tell whether it hangs at a check that says nothing of this process, such as the ledger's server."""
        return any(check.name == self._at_check and not check.is_vital for check in self.checks)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Carry the checks out for as long as the block runs."""
        ended = threading.Event()

        def watch() -> None:
            while True:
                self.look()
                if ended.wait(PERIOD_S):
                    return

        thread = threading.Thread(target=watch, name="health", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
