"""The composition root: which parts run in which role. With `worker`, the only module that names adapters."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from config.settings import Settings
from dicom_node.errors import LedgerUnavailable
from dicom_node.ledger.processes import HEARTBEAT_S, ProcessLedger
from dicom_node.ledger.reception import ReceptionLedger
from dicom_node.logs import configure_logging
from dicom_node.receiver import Receiver
from dicom_node.state import EXIT_OK, EXIT_PORT, FATAL_CODES, StartRefused, open_state
from dicom_node.supervisor import Role, Supervisor

log = logging.getLogger(__name__)


def run_receiver(settings: Settings) -> int:
    """Run the receiver until SIGTERM or SIGINT; returns the exit code."""
    configure_logging(settings.logging, "receiver")
    stop = stop_event()
    with open_state(settings) as state:
        name = f"{settings.node.name}:receiver"
        ledger = ReceptionLedger(state.database, name)
        interrupted = ledger.close_left_open()
        if interrupted:
            log.warning("Associations of an earlier run were interrupted", extra={"associations": interrupted})
        receiver = Receiver(settings, state.store, ledger)
        try:
            receiver.start()
        except OSError as error:
            raise StartRefused(
                f"port {settings.node.port} of {settings.node.bind} can't be listened on "
                f"({os.strerror(error.errno or 0)}): stop the program that has it, or choose another node.port",
                EXIT_PORT,
            ) from error
        with heartbeat(ProcessLedger(state.database, name=name, role="receiver")):
            stop.wait()
            receiver.stop(settings.node.drain_s)
    return EXIT_OK


def supervise(settings: Settings, file: Path) -> int:
    """Run every role of this machine as processes of their own; returns the exit code."""
    configure_logging(settings.logging, "node")
    base = [sys.executable, "-m", "dicom_node", "run", "-c", str(file), "--supervised", "--role"]
    roles = [Role(name="receiver", command=[*base, "receiver"], fatal_codes=FATAL_CODES)]
    roles += [
        Role(name=f"worker-{n}", command=[*base, "worker", "--number", str(n)], fatal_codes=FATAL_CODES)
        for n in range(settings.node.workers)
    ]
    return Supervisor(roles, drain_s=settings.node.drain_s).run()


def end_with_supervisor() -> None:
    """Stop this process in order when the supervisor is gone: standard input is a pipe that it holds open."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="supervisor-watch", daemon=True).start()


def stop_event() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set."""
    stop = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: stop.set())
    return stop


@contextmanager
def heartbeat(processes: ProcessLedger) -> Iterator[None]:
    """Say that this process is alive for as long as the block runs."""
    ended = threading.Event()

    def beat() -> None:
        while True:
            try:
                processes.beat()
            except LedgerUnavailable as error:
                log.warning("Heartbeat not written", extra={"reason": str(error)})
            if ended.wait(HEARTBEAT_S):
                return

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(HEARTBEAT_S)
        try:
            processes.leave()
        except LedgerUnavailable as error:
            log.warning("Heartbeat not ended", extra={"reason": str(error)})
