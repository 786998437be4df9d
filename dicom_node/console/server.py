"""The console's process: its port, its certificate, its first user."""

from __future__ import annotations

import errno
import logging
import os
import socket
import ssl
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Final

import uvicorn
from fastapi import FastAPI

from config.settings import ConsoleSettings, Settings
from dicom_node.app import heartbeat, ledger_check, machine_alone, machine_of, only_one, stop_event
from dicom_node.audit import audited
from dicom_node.console.application import create_app, guard_app
from dicom_node.console.passwords import hash_password, make_password
from dicom_node.errors import LedgerUnavailable
from dicom_node.ledger.console_audit import AuditLedger
from dicom_node.ledger.console_users import UserLedger
from dicom_node.ledger.processes import ProcessLedger
from dicom_node.ledger.settings_changes import SettingsChangeLedger
from dicom_node.logs import configure_logging
from dicom_node.observation.health import Health
from dicom_node.observation.reporting import reporting
from dicom_node.reloading import Reloader, reload_event
from dicom_node.state import EXIT_FOUND_FAULTS, EXIT_OK, EXIT_PORT, StartRefused, State, open_state

log = logging.getLogger(__name__)

FIRST_ADMIN: Final = "admin"
_LOOK_S: Final = 30.0
"""How often it is seen whether the certificate was renewed."""
_EXPIRE_EVERY: Final = 120
"""After so many of these looks what is too old goes from the audit."""
_CONNECTIONS: Final = 200
_GRACE_S: Final = 5


def run_console(settings: Settings, file: Path, digest: str, *, supervised: bool = False) -> int:
    """Run the console until SIGTERM or SIGINT; returns the exit code. SIGHUP has it read its settings `file` again."""
    configure_logging(settings.logging, "console")
    # What uvicorn says of requests is in the audit, and its errors are logged by the page of errors.
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    stop, asked = stop_event(), reload_event()
    with open_state(settings) as state, only_one(settings.node.data_dir, "console"):
        processes = ProcessLedger(
            state.database,
            name=f"{settings.node.name}:console",
            role="console",
            machine=machine_of(settings),
            dead_after_s=settings.node.dead_after_s,
        )
        processes.settings_digest = digest
        app = create_app(state)
        with (
            heartbeat(state.database, processes),
            audited(settings, "console"),
            machine_alone(settings, supervised=supervised),
            reporting(settings, "console", Health(checks=(ledger_check(state.database),))),
        ):
            reloader = Reloader(
                file=file,
                settings=settings,
                role="console",
                processes=processes,
                history=SettingsChangeLedger(state.database, settings.node.name),
                apply=lambda effective: _take(app, effective),
            )
            threading.Thread(target=reloader.work_until, args=(stop, asked), name="reload", daemon=True).start()
            _serve(state, app, stop)
    return EXIT_OK


def _take(app: FastAPI, settings: Settings) -> None:
    """Let pages show what the node works with from now on; [console] itself counts from the next start."""
    app.state.node = replace(app.state.node, settings=settings)


def _serve(state: State, app: FastAPI, stop: threading.Event) -> None:
    console = state.settings.console
    listener = listen(console.bind, console.port)
    context = _tls_context(console) if console.certificate else None
    server = uvicorn.Server(_configuration(app, context))
    add_first_admin(state)
    # Not in the main thread: signals are ours.
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="console")
    thread.start()
    scheme = "https" if context else "http"
    host = f"[{console.bind}]" if ":" in console.bind else console.bind
    log.info("Console listens", extra={"address": f"{scheme}://{host}:{console.port}/"})
    marks, looks = _marks(console), 0
    while not stop.wait(_LOOK_S) and thread.is_alive():
        looks += 1
        if context is not None and (found := _marks(console)) != marks:
            marks = found
            _renew(context, console)
        if looks % _EXPIRE_EVERY == 1:
            _expire(state)
    server.should_exit = True
    thread.join(_GRACE_S + 5)
    listener.close()


def _configuration(app: FastAPI, context: ssl.SSLContext | None) -> uvicorn.Config:
    configuration = uvicorn.Config(
        guard_app(app),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # `guard.ProxyOnly` decides whom to believe
        lifespan="off",
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=_GRACE_S,
        h11_max_incomplete_event_size=64 * 1024,
    )
    configuration.load()
    configuration.ssl = context
    return configuration


def listen(bind: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises
    ------
    StartRefused
        If the port is taken or the address is not ours. The node goes on without its console.
    """
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((bind, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRNOTAVAIL:
            advice = "console.bind is no address of this machine"
        elif error.errno == errno.EACCES:
            advice = "choose a port above 1023"
        else:
            advice = "stop the program that has it, or choose another console.port"
        raise StartRefused(
            f"the console's port {port} of {bind} can't be listened on ({os.strerror(error.errno or 0)}): {advice}",
            EXIT_PORT,
        ) from error
    return listener


def add_first_admin(state: State) -> None:
    """Add the user `admin` where there is nobody yet, and print its password, which is kept nowhere."""
    password = make_password()
    if not UserLedger(state.database).add_first(FIRST_ADMIN, hash_password(password)):
        return
    AuditLedger(state.database).record(
        user="(the node)", address="-", action="add the first admin", subject=FIRST_ADMIN
    )
    # On purpose no line of the log: those are sent to other places, and this is for who starts the node.
    print(
        f"\nThe console's first user is {FIRST_ADMIN!r}, with the password {password}\n"
        "It is shown this once, and has to be changed at the first sign-in.\n"
        f"Lost it? dicom-node user password {FIRST_ADMIN} -c FILE\n",
        file=sys.stderr,
        flush=True,
    )


def _tls_context(console: ConsoleSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        _load(context, console)
    except (OSError, ValueError) as error:
        raise StartRefused(
            f"console.certificate can't be used ({error}): `dicom-node check -c FILE` says why", EXIT_FOUND_FAULTS
        ) from error
    return context


def _renew(context: ssl.SSLContext, console: ConsoleSettings) -> None:
    try:
        _load(context, console)
    except (OSError, ValueError) as error:
        # Half of a renewal: the former pair stays until they fit.
        log.warning("The console's new certificate can't be used", extra={"reason": type(error).__name__})
    else:
        log.info("The console's certificate was read again")


def _load(context: ssl.SSLContext, console: ConsoleSettings) -> None:
    assert console.certificate is not None
    assert console.key is not None
    # Tried on a context of its own first: one that fails half-way has lost its pair.
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(console.certificate, console.key, password=_no_password)
    context.load_cert_chain(console.certificate, console.key, password=_no_password)


def _no_password() -> str:
    raise ValueError("the key has a password")


def _marks(console: ConsoleSettings) -> tuple[object, ...]:
    return tuple(_mark(path) for path in (console.certificate, console.key) if path is not None)


def _mark(path: Path) -> object:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _expire(state: State) -> None:
    try:
        AuditLedger(state.database).expire(state.settings.console.keep_audit_days * 86_400.0)
    except LedgerUnavailable as error:
        log.warning("The console's audit is not cleared of what is too old", extra={"reason": str(error)})
