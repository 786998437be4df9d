"""What a worker does for the disks from time to time: make room, keep the reserve, sample, scrub, sweep orphans."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from config.settings import Settings
from dicom_node.commitment_peers import committing
from dicom_node.disk_space import RESERVE_FILE, DiskSpace, Reserve, Watermarks, file_systems, measure, shortage
from dicom_node.errors import LedgerUnavailable
from dicom_node.instance_store import InstanceStore
from dicom_node.ledger.checks import CheckLedger
from dicom_node.ledger.database import Database
from dicom_node.ledger.disk_samples import DiskSampleLedger
from dicom_node.ledger.retention import RetentionLedger
from dicom_node.orphans import OrphanSweep
from dicom_node.scrub import Scrub

log = logging.getLogger(__name__)

SAMPLE_S = 300.0
FORECAST_S = 6 * 3600.0
_LEAST_SPAN_S = 1800.0
_MB = 1 << 20


@dataclass(kw_only=True)
class DiskCare:
    """The jobs; each may run at any time and in every worker at once."""

    disks: DiskSpace
    reserve: Reserve
    store: InstanceStore
    retention: RetentionLedger
    samples: DiskSampleLedger
    scrub: Scrub
    orphans: OrphanSweep
    reserve_bytes: int
    purge_early: bool
    _has_alarmed: bool = field(default=False, init=False)

    @classmethod
    def of(cls, settings: Settings, database: Database, store: InstanceStore) -> DiskCare:
        """Put it together from the settings."""
        storage = settings.storage
        checks = CheckLedger(database)
        size = storage.reserve_mb * _MB
        return cls(
            disks=DiskSpace(file_systems(settings), Watermarks.of(settings), free_bytes=store.free_bytes),
            reserve=Reserve(settings.node.data_dir / RESERVE_FILE, size),
            store=store,
            retention=RetentionLedger(database, list(committing(settings))),
            samples=DiskSampleLedger(database),
            scrub=Scrub(
                ledger=checks,
                store=store,
                period_s=storage.scrub_days * 86_400,
                bytes_per_s=storage.scrub_mb_per_s * 1e6,
            ),
            orphans=OrphanSweep(ledger=checks, store=store, age_s=storage.orphan_age_h * 3600, action=storage.orphans),
            reserve_bytes=size,
            purge_early=storage.purge_early,
        )

    @property
    def jobs(self) -> tuple[tuple[str, Callable[[], object], float], ...]:
        """Name, function and period in seconds of each job."""
        return (
            ("disk space", self.relieve, 5.0),
            ("disk samples", self.sample, SAMPLE_S),
            ("scrub", self.scrub.step, 10.0),
            ("orphans", self.orphans.sweep, 3600.0),
        )

    def relieve(self) -> None:
        """Above the high watermark, delete what may go, down to the low one; say so where that is not enough."""
        free = self._ledger_free_bytes()
        if self.reserve_bytes and free < self.reserve_bytes // 4:
            # Not for objects: so that deliveries in work can be recorded, and what is delivered can be deleted.
            self.reserve.release()
        if self.disks.refusal() is None:
            self._has_alarmed = False
            # Not at the price of the low watermark: a receiver that waits for it would wait for ever.
            if free - self.reserve_bytes >= self.disks.marks.resume_free_bytes:
                self.reserve.hold(free)
            return
        purged = freed = 0
        if self.purge_early and self.disks.is_objects_short():
            # Counted by the ledger's sizes, and measured at the next run: file systems give room back a little later.
            wanted = max(1, self.disks.bytes_to_free()) + (0 if self.reserve.is_held else self.reserve_bytes)
            while freed < wanted and (batch := self._purge_batch(wanted - freed)):
                for key, size in batch:
                    self.store.delete(key)
                    freed += size
                purged += len(batch)
        if purged:
            log.warning("Retention before its time", extra={"purged": purged, "freed_mb": freed // _MB})
            return
        reason = self.disks.refusal()
        if reason is not None and not self._has_alarmed:
            self._has_alarmed = True
            log.error(
                "Disk is full and nothing more may be deleted: make room, or deliver what waits",
                extra={"reason": reason},
            )

    def sample(self) -> None:
        """Keep a sample for the forecast."""
        self.samples.record(self.disks.usages())

    def _purge_batch(self, wanted_bytes: int) -> list[tuple[str, int]]:
        try:
            return self.retention.purge_early(wanted_bytes)
        except LedgerUnavailable:
            if not self.reserve.release():
                raise
            return self.retention.purge_early(wanted_bytes)

    def _ledger_free_bytes(self) -> int:
        usages = self.disks.usages()
        of_ledger = [usage for system, usage in usages if "ledger" in system.holds or "workflows" in system.holds]
        return min((usage.free_bytes for usage in of_ledger or [usage for _, usage in usages]), default=0)


def hours_until_full(samples: Sequence[tuple[float, int]], least_bytes: int) -> float | None:
    """Return in how many hours free space falls below `least_bytes` if it goes on like this; None if it does not fall.

    Parameters
    ----------
    samples
        Seconds since the epoch and free bytes, oldest first. Less than half an hour of them says nothing.

    Notes
    -----
    The least-squares line through the samples: one burst at the end of a quiet night weighs as it should.
    """
    if len(samples) < 3 or samples[-1][0] - samples[0][0] < _LEAST_SPAN_S:
        return None
    begin = samples[0][0]
    times = [at - begin for at, _ in samples]
    mean_t = sum(times) / len(times)
    mean_f = sum(free for _, free in samples) / len(samples)
    spread = sum((t - mean_t) ** 2 for t in times)
    slope = sum((t - mean_t) * (free - mean_f) for t, (_, free) in zip(times, samples, strict=True)) / spread
    if slope >= 0:
        return None
    return max(0.0, (samples[-1][1] - least_bytes) / -slope / 3600)


def disk_report(settings: Settings, database: Database, data_dir: Path) -> list[dict[str, Any]]:
    """Return how each file system of this machine stands, for `dicom-node status`."""
    marks = Watermarks.of(settings)
    samples = DiskSampleLedger(database)
    found = disk_states(settings)
    for disk, system in zip(found, file_systems(settings), strict=True):
        hours = hours_until_full(samples.samples(system, FORECAST_S), marks.min_free_bytes)
        disk["full_in_h"] = None if hours is None else round(hours, 1)
        disk["reserve_held"] = (data_dir / RESERVE_FILE).exists()
    return found


def disk_states(settings: Settings) -> list[dict[str, Any]]:
    """Return how each file system of this machine stands, without the forecast that takes the ledger."""
    marks = Watermarks.of(settings)
    report = []
    for system in file_systems(settings):
        usage = measure(system.path)
        reason = shortage(usage, marks, was_short=False)
        low = shortage(usage, marks, was_short=True)
        report.append(
            {
                "path": str(system.path),
                "holds": list(system.holds),
                "free_bytes": usage.free_bytes,
                "total_bytes": usage.total_bytes,
                "free_inodes": usage.free_inodes,
                # Between the marks it depends on which one was passed last, and that only the receiver knows.
                "state": "ok" if low is None else "between watermarks" if reason is None else "above high watermark",
                "reason": reason or low,
                "full_in_h": None,
            }
        )
    return report
