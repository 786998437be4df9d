"""Run the roles as processes of their own: start, watch, restart, and stop them in order.

Each child reads its standard input, a pipe that only the supervisor holds: when the supervisor is gone, however it
went, the pipe ends and the child stops. Children are in sessions of their own, so Ctrl-C reaches the supervisor
alone and they are stopped in order: the receiver first, so that nothing new comes in, then the workers. SIGHUP, which
asks for the settings to be read again, is handed on to them.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

POLL_S = 0.2
# A child that ran this long before it ended is started again at once; one that fails sooner waits longer each time.
STEADY_S = 30.0
MAX_DELAY_S = 30.0
# A child told to stop gets its drain time, and this much more to end.
GRACE_S = 10.0


@dataclass(kw_only=True)
class Role:
    """One process to keep alive.

    Parameters
    ----------
    name
        As the log shows it.
    command
        Arguments to start it.
    fatal_codes
        Exit codes that another start would only repeat, such as a port that is taken. They count until the process has
        run steadily once: one that ran and can't start now, because its database is away or somebody is editing the
        settings, is tried again, and the other roles go on.
    """

    name: str
    command: Sequence[str]
    fatal_codes: frozenset[int] = frozenset()
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    started_at: float = field(default=0.0, init=False)
    start_at: float = field(default=0.0, init=False)
    failures: int = field(default=0, init=False)
    was_steady: bool = field(default=False, init=False)
    restarts: int = field(default=0, init=False)


def restart_delay_s(failures: int) -> float:
    """Return how long to wait before a child is started again that failed this many times in a row."""
    return 0.0 if failures <= 1 else float(min(MAX_DELAY_S, 2.0 ** (failures - 2)))


class Supervisor:
    """Keeps `roles` running until it is told to stop.

    Parameters
    ----------
    roles
        Started in this order; stopped in this order too.
    drain_s
        Time that each role gets to finish what it has in hand.
    """

    def __init__(self, roles: Sequence[Role], *, drain_s: float) -> None:
        self._roles = roles
        self._drain_s = drain_s
        self._stop = threading.Event()
        self._exit_code = 0
        self._had_terminal = sys.stdin is not None and sys.stdin.isatty()

    def run(self) -> int:
        """Run until a signal or a fatal end of a child; returns the exit code."""
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._on_signal)
        signal.signal(signal.SIGHUP, self._on_hangup)
        try:
            while not self._stop.is_set():
                for role in self._roles:
                    self._keep(role)
                self._stop.wait(POLL_S)
        finally:
            self._stop_all()
        return self._exit_code

    def _on_signal(self, signum: int, _frame: object) -> None:
        if self._stop.is_set():
            return
        log.info("Stopping", extra={"signal": signal.Signals(signum).name, "drain_s": self._drain_s})
        self._stop.set()

    def _on_hangup(self, _signum: int, _frame: object) -> None:
        if self._had_terminal and not os.isatty(sys.stdin.fileno()):
            # The terminal that it was started from is gone; nobody asked for other settings.
            self._stop.set()
            return
        for role in self._roles:
            if role.process is not None and role.process.poll() is None:
                role.process.send_signal(signal.SIGHUP)

    def _keep(self, role: Role) -> None:
        now = time.monotonic()
        if role.process is None:
            if now >= role.start_at and not self._stop.is_set():
                role.process = subprocess.Popen(role.command, stdin=subprocess.PIPE, start_new_session=True)
                role.started_at = now
                log.info("Started", extra={"child": role.name, "pid": role.process.pid})
            return
        code = role.process.poll()
        if code is None:
            return
        _close(role.process)
        role.process = None
        is_steady = now - role.started_at >= STEADY_S
        role.was_steady |= is_steady
        if code in role.fatal_codes and not role.was_steady:
            self._exit_code = code
            self._stop.set()
            return
        role.restarts += 1
        role.failures = 1 if is_steady else role.failures + 1
        delay_s = restart_delay_s(role.failures)
        role.start_at = now + delay_s
        log.error("Process ended and is started again", extra={"child": role.name, "code": code, "delay_s": delay_s})

    def _stop_all(self) -> None:
        for role in self._roles:
            if role.process is None:
                continue
            role.process.terminate()
            try:
                role.process.wait(self._drain_s + GRACE_S)
            except subprocess.TimeoutExpired:
                # Nothing is lost: what it had in hand is taken up at the next start.
                log.error("Process did not stop in time and is killed", extra={"child": role.name})
                role.process.kill()
                role.process.wait()
            _close(role.process)
            role.process = None


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
