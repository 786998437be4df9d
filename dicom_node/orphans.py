"""Files that the ledger does not know: what a crash left between the rename of a file and the commit of its row."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

from dicom_node.instance_store import InstanceStore
from dicom_node.ledger.checks import CheckLedger
from dicom_node.states import InstanceState

log = logging.getLogger(__name__)

MOST_ORPHANS = 100
"""So many crashes hit that short moment never; then the ledger is older than the store, of a backup as a rule."""


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What a sweep found: files that no row names, and files of purged objects whose deletion had failed."""

    orphans: tuple[str, ...]
    left_over: tuple[str, ...]
    is_ledger_suspect: bool = False


class OrphanSweep:
    """Finds orphans and deals with them.

    Parameters
    ----------
    age_s
        Younger files are left alone: their row may be on its way, or of a commit whose answer was lost.
    action
        What to do with orphans.
    """

    def __init__(
        self, *, ledger: CheckLedger, store: InstanceStore, age_s: float, action: Literal["report", "move", "delete"]
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._age_s = age_s
        self._action = action
        self._reported: frozenset[str] = frozenset()

    def sweep(self) -> Swept:
        """Look at every file once; nothing is touched unless the ledger answers.

        Raises
        ------
        LedgerUnavailable
        """
        # The files first: a row that is committed while we look is then known.
        old = list(self._store.keys_older_than(self._age_s))
        states = self._ledger.known(old)
        orphans = tuple(key for key in old if key not in states)
        left_over = tuple(key for key in old if states.get(key) is InstanceState.PURGED)
        for key in left_over:
            self._store.delete(key)
        suspect = len(orphans) > MOST_ORPHANS
        if suspect:
            self._report(
                orphans,
                "More files without a row than crashes explain: is the ledger older than the files, restored from a "
                "backup? Nothing is moved or deleted; docs/storage.md says what to do",
            )
        elif self._action == "report":
            self._report(orphans, "Files that the ledger does not know")
        else:
            for key in orphans:
                self._settle(key)
        return Swept(orphans=orphans, left_over=left_over, is_ledger_suspect=suspect)

    def _settle(self, key: str) -> None:
        # Once more, right before: whatever committed late, or healed an object with this file, counts.
        if self._ledger.known([key]):
            return
        if self._action == "move":
            self._ledger.record_orphan(key, "moved to the folder orphans")
            self._store.set_aside(key)
        else:
            self._ledger.record_orphan(key, "deleted")
            self._store.delete(key)
        log.warning("Orphan", extra={"key": key, "action": self._action})

    def _report(self, orphans: tuple[str, ...], sentence: str) -> None:
        if orphans and frozenset(orphans) != self._reported:
            log.error(sentence, extra={"files": len(orphans), "first": orphans[0]})
        self._reported = frozenset(orphans)
