"""From the chained file to the syslog server: what was sent is remembered, what was not waits in the file."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Final

from config.observation import AuditSettings
from dicom_node.audit.chain import AuditChain, Entry, files_of, read_entries, removal_note
from dicom_node.audit.syslog import NotSent, frame, send

log = logging.getLogger(__name__)

SENT: Final = "sent.json"
PERIOD_S: Final = 2.0
_LONGEST_DELAY_S: Final = 300.0
_BATCH: Final = 200
_DAY_S: Final = 86_400.0


class Forwarder:
    """Sends what is new, and removes files that are old; one for each machine."""

    def __init__(
        self,
        settings: AuditSettings,
        folder: Path,
        *,
        send: Callable[[AuditSettings, Sequence[bytes]], None] = send,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._send = send
        self._now = now
        self._host = socket.getfqdn()

    def step(self) -> int:
        """Send what is new; returns how much. NotSent where the server is away: nothing is lost then."""
        if not self._settings.host:
            return 0
        count = 0
        while batch := list(islice(read_entries(self._folder, self._sent()), _BATCH)):
            entries = [entry for entry in batch if not entry.message.startswith("removed by retention")]
            if entries:
                process = str(os.getpid())
                self._send(self._settings, [frame(entry, host=self._host, process=process) for entry in entries])
            self._remember(batch[-1])
            count += len(entries)
        return count

    def remove_old(self) -> int:
        """Remove whole files that are older than they are to be kept, and say so in the chain; returns how many."""
        files = files_of(self._folder)
        sent = self._sent() if self._settings.host else None
        removed: list[Path] = []
        last: Entry | None = None
        for file in files[:-1]:
            end = _last_entry(file)
            if end is None or self._now() - end.at < self._settings.keep_days * _DAY_S:
                break
            if sent is not None and end.number > sent:
                break
            removed.append(file)
            last = end
        if last is None:
            return 0
        # First the word of it: a file that stays is no harm.
        AuditChain(self._folder, rotate_bytes=self._settings.rotate_mb * 1_000_000).append(
            removal_note(last), self._now()
        )
        for file in removed:
            file.unlink(missing_ok=True)
        return len(removed)

    def _sent(self) -> int:
        try:
            return int(json.loads((self._folder / SENT).read_text())["n"])
        except FileNotFoundError:
            return 0
        except (ValueError, KeyError, TypeError):
            log.warning("It is not known what the syslog server has; everything is sent again")
            return 0

    def _remember(self, entry: Entry) -> None:
        new = self._folder / f"{SENT}.new"
        new.write_text(json.dumps({"n": entry.number}) + "\n")
        new.replace(self._folder / SENT)


def _last_entry(file: Path) -> Entry | None:
    last = None
    for last in read_entries_of(file):  # noqa: B007 - the last one is wanted
        pass
    return last


def read_entries_of(file: Path) -> Iterator[Entry]:
    """Yield the entries of one file of the chain."""
    return (entry for entry in read_entries(file.parent) if entry.file == file.name)


@contextmanager
def forwarding(settings: AuditSettings, folder: Path) -> Iterator[None]:
    """Send and tidy up for as long as the block runs."""
    ended = threading.Event()
    forwarder = Forwarder(settings, folder)

    def forward() -> None:
        delay_s, failures, tidied_at = PERIOD_S, 0, -_DAY_S
        while not ended.wait(delay_s):
            delay_s = PERIOD_S
            try:
                if not folder.is_dir():
                    continue
                forwarder.step()
                if failures:
                    log.info("The syslog server takes audit messages again")
                failures = 0
                if time.monotonic() - tidied_at > _DAY_S:
                    forwarder.remove_old()
                    tidied_at = time.monotonic()
            except NotSent as error:
                if not failures:
                    facts = {"host": settings.host, "port": settings.port, "reason": str(error)}
                    log.warning("Audit messages wait for the syslog server", extra=facts)
                failures += 1
                delay_s = min(_LONGEST_DELAY_S, PERIOD_S * 2.0 ** min(failures, 10))
            except Exception:
                # The top of a loop: the messages are in the file.
                log.exception("Audit messages could not be forwarded by an unforeseen error")
                delay_s = 60.0

    threading.Thread(target=forward, name="audit forwarding", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
