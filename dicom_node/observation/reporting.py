"""The threads by which a process, and a machine, tell how they are; none of them can keep the node from its work."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote

from config.settings import Settings
from dicom_node.audit.forwarding import forwarding
from dicom_node.audit.recorder import FOLDER
from dicom_node.ledger.alarms import AlarmLedger
from dicom_node.ledger.database import Database, ledger_url
from dicom_node.observation.health import Health
from dicom_node.observation.listener import NOT_FOUND, SOCKETS, TEXT, Answer, on_port, on_socket
from dicom_node.observation.metering import start_meter, stop_meter

if TYPE_CHECKING:
    from dicom_node.observation.machine import MachineView

log = logging.getLogger(__name__)

RETRY_S: Final = 10.0


@contextmanager
def reporting(settings: Settings, name: str, health: Health) -> Iterator[None]:
    """Count what this process does, carry out its checks, and answer for it on its socket, while the block runs.

    Parameters
    ----------
    name
        Of the process on this machine: receiver, worker-0 and so on.
    """
    meter = start_meter(name)

    def respond(path: str) -> Answer:
        if path == "/metrics":
            return Answer(status=200, body=meter.exposition(), content_type=TEXT)
        if path == "/health":
            return Answer.of_json(200, health.finding().as_json())
        return NOT_FOUND

    folder = settings.node.data_dir / SOCKETS
    try:
        with health.watched(), _persistently(lambda: on_socket(folder, name, respond), "the socket of this process"):
            yield
    finally:
        stop_meter()


@contextmanager
def machine_reporting(
    settings: Settings,
    *,
    expected: Callable[[], Mapping[str, float | None]] | None = None,
    restarts: Callable[[], Mapping[str, int]] = dict,
) -> Iterator[MachineView]:
    """Serve metrics and health of this machine, look for alarms and tell of them, while the block runs.

    Where roles run by themselves, each calls this, and the one that gets the port answers for all of them; another one
    takes it when that one ends.

    Parameters
    ----------
    expected, restarts
        As for `MachineView`.
    """
    # Imported here: commands start without what it takes.
    from dicom_node.observation.alert_watch import AlertWatch
    from dicom_node.observation.machine import MachineView

    database = Database(_of_existing(ledger_url(settings.node.database_url, settings.node.data_dir)))
    view = MachineView(settings, database, expected=expected, restarts=restarts)
    metrics = settings.metrics
    try:
        with ExitStack() as running:
            if metrics.port:
                listen = _persistently(
                    lambda: on_port(metrics.bind, metrics.port, view.respond),
                    f"port {metrics.port} of {metrics.bind} for metrics and health",
                )
                running.enter_context(listen)
            ledger = AlarmLedger(database, socket.gethostname())
            watch = AlertWatch(ledger, view.alarms, settings.alerts, node=settings.node.name, now=database.now)
            running.enter_context(watch.running())
            if settings.audit.enabled:
                running.enter_context(forwarding(settings.audit, settings.node.data_dir / FOLDER))
            yield view
    finally:
        database.close()


def _of_existing(url: str) -> str:
    """Return a URL that opens a ledger and never makes one: that is for the roles, which know how."""
    path = url.removeprefix("sqlite:///")
    # SQLAlchemy decodes the path once, and SQLite what follows "file:" once more.
    return url if path == url else f"sqlite:///file:{quote(quote(unquote(path)))}?mode=rw&uri=true"


@contextmanager
def _persistently(listen: Callable[[], AbstractContextManager[object]], what: str) -> Iterator[None]:
    """Keep something open while the block runs; where it can't be opened now, try again behind the work."""
    ended = threading.Event()
    opened = threading.Event()

    def keep() -> None:
        said = False
        while not ended.is_set():
            try:
                with listen():
                    opened.set()
                    ended.wait()
            except OSError as error:
                if not said:
                    log.warning("Can't be listened on; tried again", extra={"what": what, "reason": error.strerror})
                said = True
                opened.set()
                ended.wait(RETRY_S)

    thread = threading.Thread(target=keep, name="listen", daemon=True)
    thread.start()
    # So that who waits for the process to be up finds it open, where nothing stands in the way.
    opened.wait(2.0)
    try:
        yield
    finally:
        ended.set()
        thread.join(5.0)
