"""A process of the node takes changed settings while it runs: on SIGHUP, whole or not at all."""

from __future__ import annotations

import hashlib
import logging
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from config.loading import InvalidSettings, load_settings
from config.settings import Settings
from dicom_node.errors import LedgerError
from dicom_node.ledger.processes import ProcessLedger
from dicom_node.ledger.settings_changes import ChangeOutcome, SettingsChangeLedger
from dicom_node.logs import configure_logging
from dicom_node.settings_changes import MASKED, is_secret, plan_change
from dicom_node.settings_in_force import changes_at_start, keep_in_force

log = logging.getLogger(__name__)

_POLL_S: Final = 0.25


def reload_event() -> threading.Event:
    """Return an event that SIGHUP sets; early, as without a handler the signal ends the process."""
    asked = threading.Event()
    signal.signal(signal.SIGHUP, lambda *_: asked.set())
    return asked


def read_settings(file: Path) -> tuple[Settings, str]:
    """Return the settings in a file and its SHA-256, both of the same moment; raises `InvalidSettings`."""
    while True:
        before = digest_of(file)
        settings = load_settings(file)
        if digest_of(file) == before:
            return settings, before


def digest_of(file: Path) -> str:
    """Return the SHA-256 of a settings file; empty where it can't be read, which `load_settings` explains."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""


def note_start(history: SettingsChangeLedger, data_dir: Path, digest: str) -> None:
    """Write down what the settings have changed in since the node ran last; a process that starts again does too."""
    changes = changes_at_start(data_dir)
    if not changes:
        return
    try:
        history.note(ChangeOutcome.APPLIED, digest, changes, who="start of the node")
    except LedgerError as error:
        log.error("A change of the settings could not be recorded", extra={"reason": str(error)})


class Reloader:
    """Has one process take what changed in its settings file.

    Parameters
    ----------
    file
        The settings file.
    settings
        What the process works with now.
    role
        As its log lines call it.
    processes, history
        Sides of the ledger: which settings the process works with, and who changed what.
    apply
        Makes other settings those of the process; called by one thread.
    """

    def __init__(
        self,
        *,
        file: Path,
        settings: Settings,
        role: str,
        processes: ProcessLedger,
        history: SettingsChangeLedger,
        apply: Callable[[Settings], None],
    ) -> None:
        self._file = file
        self._settings = settings
        self._role = role
        self._processes = processes
        self._history = history
        self._apply = apply

    def work_until(self, stop: threading.Event, asked: threading.Event) -> None:
        """Reload whenever `asked` is set, until `stop` is."""
        while not stop.wait(_POLL_S):
            if asked.is_set():
                asked.clear()
                self.reload()

    def reload(self) -> bool:
        """Read the file and take what it says; False if it is refused and everything stays as it was."""
        try:
            wanted, digest = read_settings(self._file)
        except InvalidSettings as error:
            faults: list[dict[str, object]] = [
                {
                    "path": fault.path,
                    "value": MASKED if is_secret(fault.path) else fault.value,
                    "allowed": fault.allowed,
                }
                for fault in error.faults
            ]
            where = ", ".join(fault.path for fault in error.faults)
            log.error("Settings are refused, the old ones stay", extra={"faults": where})
            self._note(ChangeOutcome.REFUSED, digest_of(self._file) or None, faults)
            return False
        plan = plan_change(self._settings, wanted)
        try:
            self._apply(plan.effective)
            configure_logging(plan.effective.logging, self._role)
        except Exception:
            # The top of a reload: the process goes on with what it has.
            log.exception("Settings could not be taken by an unforeseen error")
            fault: dict[str, object] = {
                "path": "(node)",
                "value": self._role,
                "allowed": "see the log of this process: restart the node",
            }
            self._note(ChangeOutcome.REFUSED, digest, [fault])
            return False
        self._settings = plan.effective
        keep_in_force(plan.effective.node.data_dir, plan.effective, digest)
        log.info(
            "Settings are in force",
            extra={
                "changed": ", ".join(change.path for change in plan.taken) or "nothing",
                "at_next_start": ", ".join(change.path for change in plan.later) or None,
            },
        )
        taken = [{**change.as_json(), "takes_effect": "now"} for change in plan.taken]
        later = [{**change.as_json(), "takes_effect": "at the next start"} for change in plan.later]
        self._note(ChangeOutcome.APPLIED, digest, [*taken, *later])
        self._processes.settings_digest = digest
        try:
            self._processes.beat()
        except LedgerError as error:
            # The next heartbeat says it.
            log.warning("Heartbeat not written", extra={"reason": str(error)})
        return True

    def _note(self, outcome: ChangeOutcome, digest: str | None, changes: list[dict[str, object]]) -> None:
        try:
            self._history.note(outcome, digest, changes)
        except LedgerError as error:
            log.error("A change of the settings could not be recorded", extra={"reason": str(error)})
