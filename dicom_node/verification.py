"""Prove that nothing is lost: the ledger's balance, and every file that it names."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from dicom_node.instance_store import InstanceStore
from dicom_node.integrity import Examined, Finding
from dicom_node.ledger.balance import Balance, BalanceLedger, Count, StoredFile
from dicom_node.ledger.checks import CheckLedger
from dicom_node.object_keeping import StoreUnavailable
from dicom_node.scrub import report_faults

_BATCH = 100


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What `dicom-node verify` found.

    Attributes
    ----------
    balance
        Received = delivered + in work + quarantined, in all and per association, study and day.
    missing, damaged, unreadable
        Keys of objects whose file is not there, is not what was received, or gives an error of the disk.
    orphans
        Keys of files that the ledger does not know; nobody was told that they are safe, so they are no loss.
    read_bytes, skipped
        What was read of the files, and how many were not because that was done lately.
    """

    balance: Balance
    missing: tuple[str, ...]
    damaged: tuple[str, ...]
    orphans: tuple[str, ...]
    unreadable: tuple[str, ...] = ()
    read_bytes: int = 0
    skipped: int = 0

    @property
    def ok(self) -> bool:
        """True if nothing that was acknowledged is lost."""
        return not (self.missing or self.damaged or self.unreadable or self.balance.findings)

    def as_json(self) -> dict[str, Any]:
        """Return the object that `dicom-node verify --json` prints."""

        def counted(counts: dict[Any, Count]) -> dict[str, Any]:
            return {str(key): asdict(count) for key, count in counts.items()}

        return {
            "ok": self.ok,
            **asdict(self.balance.total),
            "findings": [asdict(finding) for finding in self.balance.findings],
            "missing_files": list(self.missing),
            "damaged_files": list(self.damaged),
            "unreadable_files": list(self.unreadable),
            "orphan_files": list(self.orphans),
            "read_bytes": self.read_bytes,
            "skipped_files": self.skipped,
            "associations": counted(self.balance.associations),
            "studies": counted(self.balance.studies),
            "days": counted(self.balance.days),
        }


def verify(
    ledger: BalanceLedger,
    store: InstanceStore,
    *,
    deep: bool,
    checks: CheckLedger | None = None,
    skip_since: float | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
    bytes_per_s: float | None = None,
) -> Verification:
    """Compare ledger and store.

    Parameters
    ----------
    deep
        Read every file again and compare its SHA-256; otherwise its size alone.
    checks
        Takes what a deep look found, so that one that is cut off goes on where it was.
    skip_since
        With `checks`: what was found sound at this time or later is not read again, in seconds since the epoch.
    on_progress
        Called with the bytes that were looked at, and all of them.
    bytes_per_s
        Most that is read.
    """
    # The store is listed before the ledger: an object that arrives in between is in the ledger, not an orphan.
    present = {*store.keys(), *store.quarantined_keys()}
    balance = ledger.balance()
    files = ledger.files()
    fresh = checks.checked_since(skip_since) if checks is not None and skip_since is not None else set()
    faults: dict[Finding, list[str]] = {finding: [] for finding in Finding}
    found: list[tuple[str, Examined]] = []
    total, done, begin = sum(file.size for file in files), 0, time.monotonic()
    read, skipped = 0, 0
    for file in files:
        is_fresh = file.key in fresh
        one = _examine(store, file, deep=deep and not is_fresh)
        skipped += deep and is_fresh
        read += one.read_bytes
        done += file.size
        if not one.is_sound:
            faults[one.finding].append(file.key)
        if deep and not is_fresh:
            found.append((file.key, one))
        if checks is not None and len(found) >= _BATCH:
            report_faults(checks, found)
            found = []
        on_progress(done, total)
        if bytes_per_s is not None:
            time.sleep(max(0.0, read / bytes_per_s - (time.monotonic() - begin)))
    if checks is not None and found:
        report_faults(checks, found)
    known = {file.key for file in files}
    # What retention deleted while we looked was not missing.
    gone = faults[Finding.MISSING] and {file.key for file in ledger.files()}
    return Verification(
        balance=balance,
        missing=tuple(key for key in faults[Finding.MISSING] if key in gone),
        damaged=tuple(faults[Finding.DAMAGED]),
        unreadable=tuple(faults[Finding.UNREADABLE]),
        orphans=tuple(sorted(present - known)),
        read_bytes=read,
        skipped=skipped,
    )


def _examine(store: InstanceStore, file: StoredFile, *, deep: bool) -> Examined:
    """Look at an object; where it lies on another machine it is fetched only to be read."""
    try:
        if deep:
            return store.examine(file.key, file, from_disk=True)[1]
        size = store.size(file.key)
    except (OSError, StoreUnavailable) as error:
        return Examined(finding=Finding.UNREADABLE, reason=f"the file can't be read: {error}")
    if size is None:
        return Examined(finding=Finding.MISSING, reason="the file is not there")
    if size != file.size:
        return Examined(finding=Finding.DAMAGED, reason=f"the file has {size} bytes, not {file.size}")
    return Examined(finding=Finding.SOUND)
