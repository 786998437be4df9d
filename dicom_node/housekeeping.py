"""Every periodic job of a worker (APScheduler): series, workflows, deadlines, takeover, probes, retention, disks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from apscheduler.schedulers.base import BaseScheduler
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.commitment_jobs import CommitmentJobs
from dicom_node.disk_care import DiskCare
from dicom_node.engine_history import forget_ended
from dicom_node.errors import NodeError
from dicom_node.fault_points import fault_point
from dicom_node.instance_store import InstanceStore
from dicom_node.ledger.database import TAKING_OVER, Database
from dicom_node.ledger.processes import ProcessLedger
from dicom_node.ledger.reception import ReceptionLedger
from dicom_node.ledger.retention import RetentionLedger
from dicom_node.observation.definitions import JOBS_FAILED
from dicom_node.observation.metering import count
from dicom_node.series_watch import SeriesWatch
from dicom_node.standing import StandingWatch
from dicom_node.workflows import Workflows, end_other_versions

log = logging.getLogger(__name__)

# A file that a receiver is still writing is younger than the longest silence on its association by far.
INCOMING_MAX_AGE_S = 86_400.0


STALLED_S: Final = 120.0
"""Age of the last beat from which on the scheduler counts as dead."""


@dataclass(kw_only=True)
class Pulse:
    """Whether the scheduler still gives jobs their turn: one job does nothing but beat."""

    monotonic: Callable[[], float] = time.monotonic
    _beaten_at: float | None = field(default=None, init=False)

    def beat(self) -> None:
        """Say that the jobs run."""
        self._beaten_at = self.monotonic()

    def trouble(self) -> str | None:
        """Say that they don't; None where they do, or have not begun yet."""
        if self._beaten_at is None:
            return None
        silent_s = self.monotonic() - self._beaten_at
        return f"the periodic jobs have not run for {silent_s:.0f} s" if silent_s > STALLED_S else None


@dataclass(frozen=True, kw_only=True)
class Housekeeping:
    """The jobs; each may run at any time and in every worker at once."""

    watch: SeriesWatch
    workflows: Workflows
    database: Database
    processes: ProcessLedger
    reception: ReceptionLedger
    retention: RetentionLedger
    standing: StandingWatch
    store: InstanceStore
    keep_s: float
    care: DiskCare
    commitment: CommitmentJobs | None = None

    def complete_and_wake(self) -> None:
        """Complete quiet series and enqueue what is to be done."""
        self.watch.tick()
        self.workflows.wake()

    def recover(self) -> None:
        """Take up what failed workflows and dead workers left in the middle."""
        with self.database.exclusively(TAKING_OVER) as is_ours:
            if not is_ours:
                return
            if self.processes.can_judge():
                self.workflows.take_over(self.processes.alive("worker"))
                closed = self.reception.close_of_others(self.processes.alive("receiver"))
                if closed:
                    log.warning("Associations of a receiver that is gone were closed", extra={"associations": closed})
            end_other_versions(self.processes.name, self.processes.alive("worker"))
            self.workflows.restart_ended()

    def take_up_unheld(self) -> None:
        """Take up what this process has claimed and never begun."""
        self.workflows.held.take_up_missing(self.processes.name)

    def purge(self) -> None:
        """Delete the objects of arrivals that every destination has had for long enough, and stale temporary files."""
        purged = 0
        for key in self.retention.purge_delivered(self.keep_s):
            fault_point("retention.marked")
            self.store.delete(key)
            fault_point("retention.deleted")
            purged += 1
        swept = self.store.sweep_incoming(INCOMING_MAX_AGE_S)
        if purged or swept:
            log.info("Retention", extra={"purged": purged, "swept": swept})


def schedule_jobs(scheduler: BaseScheduler, housekeeping: Housekeeping, pulse: Pulse | None = None) -> None:
    """Add the jobs to `scheduler`; the first runs at once, to pick up what a restart left."""
    housekeeping.watch.route_waiting()
    commitment = housekeeping.commitment.jobs() if housekeeping.commitment is not None else ()
    for name, job, period_s in (
        *((("pulse", pulse.beat, 1.0),) if pulse is not None else ()),
        ("complete and wake", housekeeping.complete_and_wake, 0.25),
        ("deadlines", housekeeping.workflows.release_overdue, 2.0),
        ("recovery", housekeeping.recover, min(15.0, housekeeping.processes.dead_after_s / 4)),
        ("claims", housekeeping.take_up_unheld, 15.0),
        ("probes", housekeeping.standing.probe, 1.0),
        ("failover", housekeeping.standing.give_up_and_turn, 5.0),
        ("retention", housekeeping.purge, 600.0),
        ("the engine's history", lambda: forget_ended(housekeeping.database.now()), 3600.0),
        *housekeeping.care.jobs,
        *commitment,
    ):
        scheduler.add_job(
            _logged(name, job),
            "interval",
            seconds=period_s,
            name=name,
            max_instances=1,
            coalesce=True,
            misfire_grace_time=None,
        )


def _logged(name: str, job: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        # The top of a loop: the next run tries again.
        try:
            job()
        except (NodeError, SQLAlchemyError) as error:
            count(JOBS_FAILED, name)
            log.warning("Job failed", extra={"job": name, "reason": str(error).splitlines()[0]})
        except Exception:
            count(JOBS_FAILED, name)
            log.exception("Job failed by an unforeseen error", extra={"job": name})

    return run
