"""The durable workflows: enhance a series, deliver it. They read top to bottom; DBOS carries them over crashes.

The ledger is the truth. A workflow that is enqueued twice, lost or run again from its last finished step changes
nothing that the ledger does not allow, so `wake` may be called at any time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from dbos import DBOS, DBOSConfiguredInstance, SetEnqueueOptions, SetWorkflowID

from config.settings import Content, RouteSettings, Settings
from dicom_node.delivery import Courier
from dicom_node.enhancement import LATE, ImageEnhancer, Times
from dicom_node.errors import IllegalTransition, LedgerUnavailable
from dicom_node.ledger.arrivals import Arrival, ArrivalLedger, DerivedInstance, EnhancementDecision, EnhancementRecord
from dicom_node.ledger.deliveries import Delivery, DeliveryLedger
from dicom_node.ledger.outcomes import OutcomeLedger
from dicom_node.object_keeping import StoreUnavailable
from dicom_node.reporting import Reporter
from dicom_node.states import ArrivalState, DeliveryState
from dicom_node.turns import Turns

log = logging.getLogger(__name__)

ENHANCE_QUEUE = "enhance"
IMAGE_QUEUE = "enhance-image"
DELIVER_QUEUE = "deliver"
# From here on the images of a series are spread over the workers, one child workflow each (about 0.1 s of overhead).
SPREAD_FROM = 8
# An image that ended the process this often is not tried again.
MAX_IMAGE_ATTEMPTS = 2
# Likewise a report.
MAX_REPORT_ATTEMPTS = 2
_ENDED = frozenset({"ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED", "SUCCESS"})
LATE_REPORT = "the route's deadline passed before there was a report"


def _is_passing(error: BaseException) -> bool:
    return isinstance(error, (LedgerUnavailable, StoreUnavailable))


_step = DBOS.step(
    retries_allowed=True, max_attempts=8, interval_seconds=0.5, backoff_rate=2.0, should_retry=_is_passing
)


@dataclass(frozen=True, kw_only=True)
class WorkflowParts:
    """What the workflows work with."""

    settings: Settings
    arrivals: ArrivalLedger
    deliveries: DeliveryLedger
    enhancer: ImageEnhancer
    outcomes: OutcomeLedger
    reporter: Reporter
    courier: Courier
    find_route: Callable[[Arrival], RouteSettings | None]
    clock: Callable[[], float] = time.time


@DBOS.dbos_class()
class Workflows(DBOSConfiguredInstance):
    """The workflows of one worker process; construct it before DBOS is launched."""

    def __init__(self, parts: WorkflowParts) -> None:
        super().__init__("node")
        self._parts = parts
        self._woken: set[str] = set()
        self._turns = Turns()
        self._sending = Turns()
        # What this process has counted an attempt for. A step that is retried in the same process counts once: the
        # number says how many processes began the image, and all of them but the last have ended over it.
        self._counted: set[int] = set()
        # Likewise the attempts at the report of each arrival that this process is about to conclude.
        self._begun_reports: dict[int, int] = {}

    def register_queues(self) -> None:
        """Create the queues; after DBOS is launched."""
        DBOS.register_queue(ENHANCE_QUEUE, worker_concurrency=2, polling_interval_sec=0.2)
        DBOS.register_queue(IMAGE_QUEUE, worker_concurrency=1, polling_interval_sec=0.2)
        # One delivery at a time in each partition: a destination has as many partitions as associations allowed.
        DBOS.register_queue(DELIVER_QUEUE, partition_concurrency=1, polling_interval_sec=0.2)

    def finish_in_hand(self, timeout_s: float) -> bool:
        """Begin nothing more, and wait for the images and associations in progress; False if they took too long."""
        deadline = time.monotonic() + timeout_s
        images_done = self._turns.close(timeout_s)
        return self._sending.close(max(0.0, deadline - time.monotonic())) and images_done

    # -- a series -------------------------------------------------------------------------------

    @DBOS.workflow(name="enhance_series", max_recovery_attempts=1000)
    def enhance_series(self, arrival_id: int, attempt: int) -> str:
        """Enhance every image of an arrival, then open its deliveries; returns the arrival's state."""
        images = self._begin(arrival_id, attempt)
        if images is None:
            return "not to be enhanced now"
        if len(images) < SPREAD_FROM:
            for instance_id in images:
                self._enhance(instance_id)
        else:
            handles = [DBOS.enqueue_workflow(IMAGE_QUEUE, self.enhance_image, instance_id) for instance_id in images]
            for handle in handles:
                handle.get_result()
        return self._conclude(arrival_id)

    @DBOS.workflow(name="enhance_image", max_recovery_attempts=1000)
    def enhance_image(self, instance_id: int) -> None:
        """Enhance one image of a large series."""
        self._enhance(instance_id)

    @_step
    def _begin(self, arrival_id: int, attempt: int) -> list[int] | None:
        try:
            return self._parts.arrivals.begin(arrival_id, attempt)
        except IllegalTransition as error:
            log.info("Nothing to enhance", extra={"arrival": arrival_id, "reason": str(error)})
            return None

    @_step
    def _enhance(self, instance_id: int) -> None:
        arrivals = self._parts.arrivals
        stored = arrivals.instance(instance_id)
        arrival = arrivals.get(stored.arrival_id)
        if arrival.state is not ArrivalState.ENHANCING:
            return  # the deadline concluded it
        begun = arrivals.attempts_at(instance_id)
        if begun is None:
            return  # decided, and the process ended before the engine knew
        with self._turns.take(alone=begun > 0):
            if instance_id not in self._counted:
                begun = arrivals.count_attempt(instance_id)
                self._counted.add(instance_id)
            if begun > MAX_IMAGE_ATTEMPTS:
                reason = f"processing this image ended the worker {begun - 1} times"
                log.error("Image passed through", extra={"instance": instance_id, "reason": reason})
                record = EnhancementRecord(decision=EnhancementDecision.PASSED_THROUGH, reason=reason)
                arrivals.decide(instance_id, record)
            else:
                route = self._parts.find_route(arrival)
                record, derived = self._parts.enhancer.enhance(stored, route, self._times(arrival, route))
                self._decide(instance_id, record, derived)
        self._counted.discard(instance_id)

    def _decide(self, instance_id: int, record: EnhancementRecord, derived: DerivedInstance | None) -> None:
        try:
            is_kept = self._parts.arrivals.decide(instance_id, record, derived)
        except LedgerUnavailable as error:
            # The image is enhanced again, into another file. Where the connection was lost in the middle of a commit,
            # the ledger may know this one.
            if derived is not None and not error.may_be_committed:
                self._parts.enhancer.discard(derived)
            raise
        if derived is not None and not is_kept:
            self._parts.enhancer.discard(derived)

    def _times(self, arrival: Arrival, route: RouteSettings | None) -> Times:
        series_at = self._parts.arrivals.first_completed_at(arrival.series_instance_uid)
        if route is None or arrival.completed_at is None:
            return Times(series_at=series_at)
        return Times(series_at=series_at, give_up_at=arrival.completed_at + route.deadline_s)

    @_step
    def _conclude(self, arrival_id: int) -> str:
        arrival = self._parts.arrivals.get(arrival_id)
        if arrival.state is not ArrivalState.ENHANCING:
            return arrival.state.value
        state = self._conclude_with(arrival, self._make_report(arrival))
        self._begun_reports.pop(arrival_id, None)
        return state

    def _make_report(self, arrival: Arrival) -> DerivedInstance | str | None:
        """Return the report on `arrival`, or why there is none; None where none is wanted or nothing was enhanced."""
        route = self._parts.find_route(arrival)
        if route is None or not route.report:
            return None
        outcomes = self._parts.outcomes.outcomes(arrival.arrival_id)
        if all(outcome.derived is None for outcome in outcomes):
            return None
        if arrival.arrival_id not in self._begun_reports:
            self._begun_reports[arrival.arrival_id] = self._parts.outcomes.count_attempt(arrival.arrival_id)
        begun = self._begun_reports[arrival.arrival_id]
        if begun > MAX_REPORT_ATTEMPTS:
            return f"making it was begun {begun - 1} times and never ended"
        series_at = self._parts.arrivals.first_completed_at(arrival.series_instance_uid)
        return self._parts.reporter.make(arrival, outcomes, strength=route.strength_value, series_at=series_at)

    def _conclude_with(self, arrival: Arrival, report: DerivedInstance | str | None) -> str:
        try:
            return self.conclude(arrival, late=None, report=report)
        except LedgerUnavailable as error:
            # Where the connection was lost in the middle of a commit, the ledger may know the report.
            if not error.may_be_committed:
                self._discard(report)
            raise
        except IllegalTransition as error:
            self._discard(report)
            now = self._parts.arrivals.get(arrival.arrival_id)
            if now.state is ArrivalState.ENHANCING:
                raise
            log.info("Concluded meanwhile", extra={"arrival": arrival.arrival_id, "reason": str(error)})
            return now.state.value

    def _discard(self, report: DerivedInstance | str | None) -> None:
        if isinstance(report, DerivedInstance):
            self._parts.reporter.discard(report)

    def conclude(self, arrival: Arrival, *, late: str | None, report: DerivedInstance | str | None = None) -> str:
        """End the enhancement of `arrival` and open its deliveries; `late` passes undecided images through."""
        route = self._parts.find_route(arrival)
        if route is None:
            raise IllegalTransition(f"arrival {arrival.arrival_id} has no route any more")
        if late is not None and route.report:
            # Making one takes time that the images don't have any more.
            report = LATE_REPORT
        state = self._parts.arrivals.conclude(
            arrival.arrival_id,
            destinations=route.destinations,
            send_original=Content.ORIGINAL in route.send,
            send_enhanced=Content.ENHANCED in route.send,
            late=late,
            report=report,
        )
        log.info("Series concluded", extra={"arrival": arrival.arrival_id, "state": state.value, "reason": late})
        return state.value

    # -- a delivery -----------------------------------------------------------------------------

    @DBOS.workflow(name="deliver", max_recovery_attempts=1000)
    def deliver(self, delivery_id: int, attempt: int) -> str:
        """Make one attempt to deliver; the ledger says when the next one is due."""
        if not self._take(delivery_id, attempt):
            return "not to be sent now"
        return self._send(delivery_id, attempt)

    @_step
    def _take(self, delivery_id: int, attempt: int) -> bool:
        try:
            self._parts.deliveries.begin(delivery_id, attempt)
        except IllegalTransition as error:
            log.info("Nothing to deliver", extra={"delivery": delivery_id, "reason": str(error)})
            return False
        return True

    @_step
    def _send(self, delivery_id: int, attempt: int) -> str:
        with self._sending.take(alone=False):
            delivery = self._parts.deliveries.get(delivery_id)
            if delivery.attempts != attempt + 1:
                # This process was cut off from the ledger in the middle, and taken for dead: another one sends.
                log.info("Sent by another worker", extra={"delivery": delivery_id, "attempt": attempt})
                return delivery.state.value
            return self._parts.courier.attempt(delivery_id).value

    # -- waking ---------------------------------------------------------------------------------

    def wake(self) -> None:
        """Enqueue what the ledger says is to be done now. Doing it twice is harmless."""
        wanted: set[str] = set()
        for arrival in self._parts.arrivals.in_state(ArrivalState.COMPLETE):
            if arrival.route is not None:
                wanted.add(self._wake_arrival(arrival))
        for delivery in self._parts.deliveries.due():
            wanted.add(self._wake_delivery(delivery))
        self._woken &= wanted

    def _wake_arrival(self, arrival: Arrival) -> str:
        workflow_id = f"enhance:{arrival.series_instance_uid}:{arrival.generation}:{arrival.attempts}"
        if workflow_id not in self._woken:
            with SetWorkflowID(workflow_id):
                DBOS.enqueue_workflow(ENHANCE_QUEUE, self.enhance_series, arrival.arrival_id, arrival.attempts)
            self._woken.add(workflow_id)
        return workflow_id

    def _wake_delivery(self, delivery: Delivery) -> str:
        workflow_id = f"deliver:{delivery.delivery_id}:{delivery.attempts}"
        if workflow_id not in self._woken:
            with (
                SetWorkflowID(workflow_id),
                SetEnqueueOptions(queue_partition_key=self._parts.courier.partition(delivery)),
            ):
                DBOS.enqueue_workflow(DELIVER_QUEUE, self.deliver, delivery.delivery_id, delivery.attempts)
            self._woken.add(workflow_id)
        return workflow_id

    def release_overdue(self) -> None:
        """Send on the originals of arrivals whose route's deadline has passed."""
        for arrival in self._parts.arrivals.in_state(ArrivalState.COMPLETE, ArrivalState.ENHANCING):
            route = self._parts.find_route(arrival)
            if route is None or arrival.completed_at is None:
                continue
            if self._parts.clock() - arrival.completed_at >= route.deadline_s:
                log.warning("Deadline passed", extra={"arrival": arrival.arrival_id, "route": route.name})
                try:
                    self.conclude(arrival, late=LATE)
                except IllegalTransition as error:
                    log.info("Concluded meanwhile", extra={"arrival": arrival.arrival_id, "reason": str(error)})
                except LedgerUnavailable:
                    raise
                except Exception:
                    # The top of this series: its fault must not keep the originals of others.
                    log.exception("Deadline passed, and nothing went on", extra={"arrival": arrival.arrival_id})

    def restart_ended(self) -> None:
        """Take up what a failed workflow left in the middle.

        A workflow fails only where the ledger stays away for longer than the steps' retries: in the middle, or before
        it took anything into work.
        """
        for arrival in self._parts.arrivals.in_state(ArrivalState.COMPLETE):
            workflow_id = f"enhance:{arrival.series_instance_uid}:{arrival.generation}:{arrival.attempts}"
            if arrival.route is not None and _has_failed(workflow_id):
                # `wake` names the next workflow by the number.
                self._parts.arrivals.count_restart(arrival.arrival_id)
        for delivery in self._parts.deliveries.due():
            if _has_failed(f"deliver:{delivery.delivery_id}:{delivery.attempts}"):
                self._parts.deliveries.skip_attempt(delivery.delivery_id, delivery.attempts)
        for arrival in self._parts.arrivals.in_state(ArrivalState.ENHANCING):
            workflow_id = f"enhance:{arrival.series_instance_uid}:{arrival.generation}:{arrival.attempts}"
            if _has_ended(workflow_id) and self._parts.arrivals.get(arrival.arrival_id) == arrival:
                attempts = self._parts.arrivals.count_restart(arrival.arrival_id)
                log.warning("Enhancement starts again", extra={"arrival": arrival.arrival_id, "attempt": attempts})
                self._wake_arrival(self._parts.arrivals.get(arrival.arrival_id))
        for delivery in self._parts.deliveries.in_state(DeliveryState.SENDING):
            # `begin` has counted the attempt that the workflow's name does not count yet.
            workflow_id = f"deliver:{delivery.delivery_id}:{delivery.attempts - 1}"
            if _has_ended(workflow_id) and self._parts.deliveries.get(delivery.delivery_id) == delivery:
                log.warning("Delivery starts again", extra={"delivery": delivery.delivery_id})
                self._parts.deliveries.settle(
                    delivery.delivery_id, failure="the attempt was interrupted", retry_in_s=1.0
                )

    def take_over(self, alive: set[str]) -> None:
        """Take the workflows of workers that are gone; `alive` are the executors heard of lately.

        A worker that is gone may only be cut off, and still be sending. So a delivery is not resumed but ended, and
        `restart_ended` begins it under the next number, by which everything that the old attempt still writes is known
        as late. Enhancement is resumed: an image is decided once, whoever comes first.
        """
        for workflow in DBOS.list_workflows(status="PENDING", load_input=False, load_output=False):
            if workflow.executor_id not in alive:
                log.warning(
                    "Workflow taken over", extra={"workflow": workflow.workflow_id, "executor": workflow.executor_id}
                )
                if workflow.workflow_id.startswith("deliver:"):
                    DBOS.cancel_workflow(workflow.workflow_id)
                else:
                    DBOS.resume_workflow(workflow.workflow_id)


def _has_failed(workflow_id: str) -> bool:
    status = DBOS.get_workflow_status(workflow_id)
    return status is not None and status.status in _ENDED


def _has_ended(workflow_id: str) -> bool:
    status = DBOS.get_workflow_status(workflow_id)
    return status is None or status.status in _ENDED
