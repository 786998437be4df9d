"""The composition root: which parts run in which role. With `worker`, the only module that names adapters."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import signal
import socket
import sys
import sysconfig
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from config.settings import Settings
from dicom_node.audit import audited
from dicom_node.certificate_watch import watched_certificates
from dicom_node.errors import LedgerOutdated, LedgerUnavailable
from dicom_node.fault_points import fault_point
from dicom_node.identifiers import try_identifiers
from dicom_node.ledger.database import Database, check_reachable
from dicom_node.ledger.processes import HEARTBEAT_S, NameTaken, ProcessLedger
from dicom_node.ledger.reception import ReceptionLedger
from dicom_node.ledger.settings_changes import SettingsChangeLedger
from dicom_node.logs import configure_logging
from dicom_node.observation.health import Check, Health
from dicom_node.observation.reporting import machine_reporting, reporting
from dicom_node.observation.tracing import traced
from dicom_node.receiver import PortTaken, Receiver
from dicom_node.reloading import Reloader, digest_of, note_start, reload_event
from dicom_node.settings_in_force import start_with
from dicom_node.state import (
    EXIT_DATA_DIR,
    EXIT_FOUND_FAULTS,
    EXIT_LEDGER,
    EXIT_OK,
    EXIT_PORT,
    EXIT_USAGE,
    FATAL_CODES,
    StartRefused,
    State,
    open_state,
)
from dicom_node.supervisor import Role, Supervisor
from dicom_node.tls import TlsUnusable

log = logging.getLogger(__name__)


def run_receiver(settings: Settings, file: Path, digest: str, *, supervised: bool = False) -> int:
    """Run the receiver until SIGTERM or SIGINT; returns the exit code. SIGHUP has it read its settings `file` again.

    Where it is supervised, the supervisor serves metrics and health of the machine, and sends its alerts.
    """
    configure_logging(settings.logging, "receiver")
    stop, asked = stop_event(), reload_event()
    with open_state(settings, thorough=True) as state, only_one(settings.node.data_dir, "receiver"):
        fault_point("start.opened")
        name = f"{settings.node.name}:receiver"
        processes = ProcessLedger(
            state.database,
            name=name,
            role="receiver",
            machine=machine_of(settings),
            dead_after_s=settings.node.dead_after_s,
        )
        processes.settings_digest = digest
        history = SettingsChangeLedger(state.database, settings.node.name)
        with (
            heartbeat(state.database, processes),
            audited(settings, "receiver"),
            traced(settings.tracing, "receiver", settings.node.name),
            machine_alone(settings, supervised=supervised),
            _receiving(settings, state, name) as receiver,
        ):
            note_start(history, settings.node.data_dir, digest)
            Reloader(
                file=file,
                settings=settings,
                role="receiver",
                processes=processes,
                history=history,
                apply=receiver.change_settings,
            ).work_until(stop, asked)
    return EXIT_OK


@contextmanager
def _receiving(settings: Settings, state: State, name: str) -> Iterator[Receiver]:
    ledger = ReceptionLedger(state.database, name)
    interrupted = ledger.close_left_open()
    if interrupted:
        log.warning("Associations of an earlier run were interrupted", extra={"associations": interrupted})
    fault_point("start.cleared")
    receiver = Receiver(settings, state.store, ledger, state.database, try_identifiers(settings))
    checks = (
        Check(name="listens", look=receiver.trouble, is_vital=True),
        Check(name="disk", look=receiver.no_room),
        ledger_check(state.database),
    )
    with reporting(settings, "receiver", Health(checks=checks)), _listening(settings, receiver):
        yield receiver


@contextmanager
def _listening(settings: Settings, receiver: Receiver) -> Iterator[None]:
    try:
        receiver.start()
    except TlsUnusable as error:
        # No fatal code: the files may be about to be replaced, and the supervisor tries again.
        raise StartRefused(f"{error}: correct [tls]", EXIT_FOUND_FAULTS) from error
    except PortTaken as error:
        raise StartRefused(
            f"port {error.port} of {settings.node.bind} can't be listened on "
            f"({os.strerror(error.errno or 0)}): {_advice(error)}",
            EXIT_PORT,
        ) from error
    with watched_certificates(settings):
        yield
        receiver.stop(settings.node.drain_s)


def ledger_check(database: Database) -> Check:
    """Return the check that every role has; another start would not help where it fails."""

    def look() -> None:
        check_reachable(database)

    return Check(name="ledger", look=look)


@contextmanager
def machine_alone(settings: Settings, *, supervised: bool) -> Iterator[None]:
    """Do what the supervisor does for its machine, where a role runs without one."""
    if supervised:
        yield
        return
    with machine_reporting(settings):
        yield


def machine_of(settings: Settings) -> str:
    """Return what tells this machine's node from another one of the same name."""
    return f"{socket.gethostname()}:{settings.node.data_dir}"


def _advice(error: OSError) -> str:
    if error.errno == errno.EADDRNOTAVAIL:
        return 'node.bind is no address of this machine; "0.0.0.0" means all'
    if error.errno == errno.EACCES:
        return "choose a port above 1023"
    return "stop the program that has it, or choose another node.port or tls.port"


@contextmanager
def only_one(data_dir: Path, role: str) -> Iterator[None]:
    """Hold the lock of a role on a data folder; the kernel gives it back however the process ends.

    Raises
    ------
    StartRefused
        If another process has it: a second receiver would take the first one's open associations for ended.
    """
    descriptor = os.open(data_dir / f"{role}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StartRefused(
                f"another {role} runs on {data_dir}: stop it first, or give this node a data_dir of its own",
                EXIT_DATA_DIR,
            ) from error
        yield
    finally:
        os.close(descriptor)


def supervise(settings: Settings, file: Path) -> int:
    """Run every role of this machine as processes of their own; returns the exit code."""
    configure_logging(settings.logging, "node")
    kept = start_with(settings.node.data_dir, settings, digest_of(file))
    in_force = ["--in-force", str(kept)] if kept is not None else []
    base = role_command(file, in_force)
    roles = [Role(name="receiver", command=[*base, "receiver"], fatal_codes=FATAL_CODES)]
    roles += [
        Role(name=f"worker-{n}", command=[*base, "worker", "--number", str(n)], fatal_codes=FATAL_CODES)
        for n in range(settings.node.workers)
    ]
    if settings.console.enabled:
        # Nothing that happens to the console stops the node.
        roles.append(Role(name="console", command=[*base, "console"]))
    expected = {role.name: role for role in roles}

    def started() -> dict[str, float | None]:
        # One that ends again and again is not starting but down.
        return {
            name: role.started_at if role.started_at and role.failures <= 1 else None for name, role in expected.items()
        }

    with machine_reporting(
        settings, expected=started, restarts=lambda: {name: role.restarts for name, role in expected.items()}
    ):
        return Supervisor(roles, drain_s=settings.node.drain_s).run()


def role_command(file: Path, options: Sequence[str] = ()) -> list[str]:
    """Return the command for a role of this node, whose name is to follow, and let children find this program."""
    home, given = str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")
    if home != sysconfig.get_path("purelib") and home not in (given or "").split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join([home, given] if given else [home])
    # -P: not from the folder that the node is started in. What lies there by chance, or by malice, is not imported.
    return [sys.executable, "-P", "-m", "dicom_node", "run", "-c", str(file), "--supervised", *options, "--role"]


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
def heartbeat(database: Database, processes: ProcessLedger) -> Iterator[None]:
    """Take the process's name, and say that it is alive for as long as the block runs.

    Raises
    ------
    StartRefused
        If another machine has the name, or the ledger can't be reached.
    """
    try:
        processes.join()
    except NameTaken as error:
        raise StartRefused(str(error), EXIT_USAGE) from error
    except LedgerUnavailable as error:
        raise StartRefused(f"{error}: check that the database runs", EXIT_LEDGER) from error
    ended = threading.Event()
    every_s = min(HEARTBEAT_S, processes.dead_after_s / 6)

    def beat() -> None:
        while not ended.wait(every_s):
            try:
                database.set_clock()
                database.require_version()
                processes.beat()
            except (NameTaken, LedgerOutdated) as error:
                # Two under one name would each take the other's work for their own; two versions, the other's tables.
                log.error("This process stops", extra={"reason": str(error)})
                os.kill(os.getpid(), signal.SIGTERM)
                return
            except LedgerUnavailable as error:
                log.warning("Heartbeat not written", extra={"reason": str(error)})

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
