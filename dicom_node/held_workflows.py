"""Which workflows this process has in hand, and which the engine says it should have.

The engine claims a workflow in one transaction and begins it then. Where the answer to the commit is lost, the workflow
is claimed by a process that lives and knows nothing of it; no other takes it, and it holds up its queue's partition.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from dbos import DBOS

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

# The engine begins what it has claimed within a second, and writes the end of what has ended as soon as its database
# takes it; it waits up to 90 s between two tries.
MISSING_FOR_S = 120.0


class HeldWorkflows:
    """The workflows that are being worked on; safe for any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()
        self._missing_since: dict[str, float] = {}

    @contextmanager
    def hold(self, workflow_id: str | None) -> Iterator[None]:
        """Count a workflow as in hand for the block."""
        name = workflow_id or ""
        with self._lock:
            self._held[name] += 1
        try:
            yield
        finally:
            with self._lock:
                self._held[name] -= 1
                if not self._held[name]:
                    del self._held[name]

    def missing(self, claimed: Iterable[str], now: float) -> list[str]:
        """Return those among `claimed` that nobody here has had in hand for `MISSING_FOR_S`, each once.

        Parameters
        ----------
        claimed
            Workflows that the engine says this process works on.
        now
            In seconds, by a clock that is never set.
        """
        with self._lock:
            unheld = [name for name in claimed if name not in self._held]
            self._missing_since = {name: self._missing_since.get(name, now) for name in unheld}
            found = [name for name, since in self._missing_since.items() if now - since >= MISSING_FOR_S]
            for name in found:
                del self._missing_since[name]
            return found

    def take_up_missing(self, executor: str) -> None:
        """Take up what `executor`, this process, has claimed and not begun."""
        claimed = DBOS.list_workflows(status="PENDING", executor_id=executor, load_input=False, load_output=False)
        for name in self.missing((workflow.workflow_id for workflow in claimed), time.monotonic()):
            log.warning("Workflow was claimed and never begun; it is taken up", extra={"workflow": name})
            DBOS.resume_workflow(name)


class _Holder(Protocol):
    held: HeldWorkflows


S = TypeVar("S", bound=_Holder)


def held(workflow: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Let a method that is a workflow count as in hand while it runs."""

    @functools.wraps(workflow)
    def run(self: S, /, *arguments: P.args, **options: P.kwargs) -> T:
        with self.held.hold(DBOS.workflow_id):
            return workflow(self, *arguments, **options)

    return run
