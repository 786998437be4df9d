"""One commit for the objects that several associations finish at the same time.

A commit waits for the disk, and SQLite takes one at a time: four associations that each commit for themselves wait
for four syncs in turn. Here the one whose turn it is commits for all that wait.
"""

from __future__ import annotations

import threading

from dicom_node.errors import LedgerUnavailable
from dicom_node.ledger.reception import ReceivedInstance, ReceptionLedger, Recorded


class _Entry:
    """One object on its way into the ledger: answered, failed, or neither yet."""

    def __init__(self, received: ReceivedInstance) -> None:
        self.received = received
        self.recorded: Recorded | None = None
        self.error: Exception | None = None


class GroupCommit:
    """Records received objects in `ledger`; safe for any number of threads."""

    def __init__(self, ledger: ReceptionLedger) -> None:
        self._ledger = ledger
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._waiting: list[_Entry] = []

    def record(self, received: ReceivedInstance) -> Recorded:
        """Take an object into the ledger; durable when it returns.

        Raises
        ------
        LedgerUnavailable
            If the database can't take it; then the object must not be acknowledged.
        """
        entry = _Entry(received)
        with self._lock:
            self._waiting.append(entry)
        with self._turn:
            # Whoever had the turn before may have committed this entry too.
            if entry.recorded is None and entry.error is None:
                with self._lock:
                    group, self._waiting = self._waiting, []
                self._commit(group)
        if entry.error is not None:
            raise entry.error
        assert entry.recorded is not None
        return entry.recorded

    def _refuse_waiting(self, error: LedgerUnavailable) -> None:
        """Fail those who came meanwhile too: each turn of its own would wait for the same database as long again."""
        with self._lock:
            late, self._waiting = self._waiting, []
        for entry in late:
            # Nothing of theirs was in the commit that may have happened.
            entry.error = LedgerUnavailable(str(error))

    def _commit(self, group: list[_Entry]) -> None:
        try:
            answers = self._ledger.record_all([entry.received for entry in group])
        except Exception as error:  # noqa: BLE001 - raised again, in the thread of each entry
            if len(group) == 1 or isinstance(error, LedgerUnavailable):
                for entry in group:
                    entry.error = error
                if isinstance(error, LedgerUnavailable):
                    self._refuse_waiting(error)
            else:
                # All or none: find out whose object it is that the ledger does not take.
                for entry in group:
                    self._commit([entry])
            return
        for entry, recorded in zip(group, answers, strict=True):
            entry.recorded = recorded
