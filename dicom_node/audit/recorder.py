"""The audit of this process: events go to a thread, which writes them to the chain in their order.

Nothing that serves a peer waits for the disk of the audit. What is not written yet when the process is killed is lost:
some milliseconds. Where the disk takes nothing, messages wait in memory, up to a bound, and the log says so.
"""

from __future__ import annotations

import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from config.settings import Settings
from dicom_node.audit.chain import AuditChain
from dicom_node.audit.events import Event, application_activity
from dicom_node.audit.messages import render_message

log = logging.getLogger(__name__)

FOLDER: Final = "audit"
"""In the data folder."""
_MOST_WAITING: Final = 10_000
_RETRY_S: Final = 5.0
_FLUSH_S: Final = 10.0


class _Writer:
    def __init__(self, settings: Settings) -> None:
        audit = settings.audit
        self._audit = audit
        self._source_id = f"{settings.node.name}@{socket.gethostname()}"
        self._chain = AuditChain(settings.node.data_dir / FOLDER, rotate_bytes=audit.rotate_mb * 1_000_000)
        self._waiting: queue.Queue[tuple[Event, float] | None] = queue.Queue(_MOST_WAITING)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._write, name="audit", daemon=True)
        self._thread.start()

    @property
    def names_patients(self) -> bool:
        return self._audit.patients

    def put(self, event: Event) -> None:
        try:
            self._waiting.put_nowait((event, time.time()))
        except queue.Full:
            log.error("An audit message is lost: too many wait for the disk", extra={"event": event.event_id.meaning})

    def end(self) -> None:
        self._ending.set()
        with suppress(queue.Full):
            self._waiting.put(None, timeout=_FLUSH_S)
        self._thread.join(_FLUSH_S)
        if self._thread.is_alive():
            log.error("Audit messages are lost: they could not be written", extra={"number": self._waiting.qsize()})

    def _write(self) -> None:
        while (taken := self._waiting.get()) is not None:
            event, at = taken
            try:
                message = render_message(
                    event, at=at, source_id=self._source_id, site=self._audit.site, patients=self._audit.patients
                )
                self._append(message, at)
            except Exception:
                # The top of this message; the next ones are written.
                log.exception(
                    "An audit message is lost by an unforeseen error", extra={"event": event.event_id.meaning}
                )

    def _append(self, message: str, at: float) -> None:
        said = False
        while True:
            try:
                self._chain.append(message, at)
                if said:
                    log.info("Audit messages are written again")
                return
            except OSError as error:
                if not said:
                    log.error("Audit messages can't be written", extra={"reason": error.strerror})
                said = True
                if self._ending.wait(_RETRY_S):
                    # One more try, and then it is the end.
                    self._chain.append(message, at)
                    return


_writer: _Writer | None = None


def is_on() -> bool:
    """Return whether events are written; where they are not, nobody has to find out what belongs in them."""
    return _writer is not None


def names_patients() -> bool:
    """Return whether patients are named."""
    return _writer is not None and _writer.names_patients


def record(event: Event) -> None:
    """Write an event to the audit; never waits, and never fails."""
    if _writer is not None:
        _writer.put(event)


@contextmanager
def audited(settings: Settings, process: str) -> Iterator[None]:
    """Write what this process records for as long as the block runs, its start and its end among it."""
    global _writer
    if not settings.audit.enabled:
        yield
        return
    _writer = writer = _Writer(settings)

    def activity(*, started: bool) -> Event:
        return application_activity(
            started=started,
            process_id=os.getpid(),
            ae_title=settings.node.ae_title,
            name=f"dicom-node {process}",
            host=socket.gethostname(),
        )

    record(activity(started=True))
    try:
        yield
    finally:
        record(activity(started=False))
        _writer = None
        writer.end()
