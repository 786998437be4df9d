"""Prove that nothing is lost: the ledger's balance, and every file that it names."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dicom_node.instance_store import InstanceStore
from dicom_node.ledger.balance import Balance, BalanceLedger, Count, StoredFile

_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What `dicom-node verify` found.

    Attributes
    ----------
    balance
        Received = delivered + in work + quarantined, in all and per association, study and day.
    missing, damaged
        Keys of objects whose file is not there, or is not what was received.
    orphans
        Keys of files that the ledger does not know; nobody was told that they are safe, so they are no loss.
    """

    balance: Balance
    missing: tuple[str, ...]
    damaged: tuple[str, ...]
    orphans: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """True if nothing that was acknowledged is lost."""
        return not self.missing and not self.damaged and not self.balance.findings

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
            "orphan_files": list(self.orphans),
            "associations": counted(self.balance.associations),
            "studies": counted(self.balance.studies),
            "days": counted(self.balance.days),
        }


def verify(ledger: BalanceLedger, store: InstanceStore, *, deep: bool) -> Verification:
    """Compare ledger and store.

    Parameters
    ----------
    deep
        Read every file again and compare its SHA-256; otherwise its size alone.
    """
    # The store is listed before the ledger: an object that arrives in between is in the ledger, not an orphan.
    present = {*store.keys(), *store.quarantined_keys()}
    balance = ledger.balance()
    missing, damaged, known = [], [], set()
    for file in ledger.files():
        known.add(file.key)
        size = store.size(file.key)
        if size is None:
            missing.append(file.key)
        elif size != file.size or (deep and not _is_sound(store.path(file.key), file)):
            damaged.append(file.key)
    return Verification(
        balance=balance, missing=tuple(missing), damaged=tuple(damaged), orphans=tuple(sorted(present - known))
    )


def _is_sound(path: Path, file: StoredFile) -> bool:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        stream.seek(file.dataset_offset)
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest() == file.digest
