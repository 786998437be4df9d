"""The durable workflows: enhance a series, deliver it. They read top to bottom; DBOS carries them over crashes.

The ledger is the truth. A workflow that is enqueued twice, lost or run again from its last finished step changes
nothing that the ledger does not allow, so `wake` may be called at any time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from dbos import DBOS, DBOSConfiguredInstance, SetEnqueueOptions, SetWorkflowID

from config.settings import Content, Late, RouteSettings, Settings
from dicom_node.delivery import Courier
from dicom_node.enhancement import ImageEnhancer, Times
from dicom_node.errors import IllegalTransition, LedgerUnavailable
from dicom_node.fault_points import fault_point
from dicom_node.held_workflows import HeldWorkflows, held
from dicom_node.lateness import LATE
from dicom_node.ledger.arrivals import (
    Arrival,
    ArrivalLedger,
    DerivedInstance,
    EnhancementDecision,
    EnhancementRecord,
    StoredInstance,
)
from dicom_node.ledger.deliveries import Delivery, DeliveryLedger
from dicom_node.ledger.outcomes import OutcomeLedger
from dicom_node.object_keeping import StoreUnavailable
from dicom_node.observation.correlation import correlated, follow, fresh
from dicom_node.observation.definitions import DEADLINES_MISSED, STAGE_SECONDS
from dicom_node.observation.measuring import measure_image
from dicom_node.observation.metering import count, observe
from dicom_node.observation.tracing import emit
from dicom_node.private_errors import without_values
from dicom_node.reporting import Reporter
from dicom_node.states import ArrivalState, DeliveryState
from dicom_node.turns import Turns

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

ENHANCE_QUEUE = "enhance"
IMAGE_QUEUE = "enhance-image"
FOLLOW_QUEUE = "follow"
DELIVER_QUEUE = "deliver"
# From here on the images of a series are spread over the workers, one child workflow each (about 0.1 s of overhead).
SPREAD_FROM = 8
# An image that ended the process this often is not tried again.
MAX_IMAGE_ATTEMPTS = 2
# Likewise a report.
MAX_REPORT_ATTEMPTS = 2
_ENDED = frozenset({"ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED", "SUCCESS"})
SHADOW = "shadow mode: the originals go on at once"
GIVEN_UP = "the route's follow_limit_s passed before it was enhanced"
LATE_REPORT = "the route's deadline passed before there was a report"


def _is_passing(error: BaseException) -> bool:
    return isinstance(error, (LedgerUnavailable, StoreUnavailable))


def _step(work: Callable[P, T]) -> Callable[P, T]:
    durable = DBOS.step(
        retries_allowed=True, max_attempts=8, interval_seconds=0.5, backoff_rate=2.0, should_retry=_is_passing
    )
    return durable(without_values(fresh(work)))


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
    are_same: Callable[[StoredInstance, StoredInstance], bool] = lambda _one, _other: False
    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic


@DBOS.dbos_class()
class Workflows(DBOSConfiguredInstance):
    """The workflows of one worker process; construct it before DBOS is launched."""

    def __init__(self, parts: WorkflowParts) -> None:
        super().__init__("node")
        self._parts = parts
        self._woken: set[str] = set()
        self._turns = Turns()
        self._sending = Turns()
        # Of its own: an image in time that has to go alone does not wait for a cine in the background.
        self._following = Turns()
        # When this process first saw an arrival wait for its deadline; the wall clock may be set back.
        self._waits_since: dict[int, float] = {}
        # What this process has counted an attempt for. A step that is retried in the same process counts once: the
        # number says how many processes began the image, and all of them but the last have ended over it.
        self._counted: set[int] = set()
        self.held = HeldWorkflows()
        # Likewise the attempts at the report of each arrival that this process is about to conclude.
        self._begun_reports: dict[int, int] = {}

    def register_queues(self) -> None:
        """Create the queues; after DBOS is launched."""
        DBOS.register_queue(ENHANCE_QUEUE, worker_concurrency=2, polling_interval_sec=0.2)
        DBOS.register_queue(FOLLOW_QUEUE, worker_concurrency=1, polling_interval_sec=0.2)
        DBOS.register_queue(IMAGE_QUEUE, worker_concurrency=1, polling_interval_sec=0.2)
        # One delivery at a time in each partition: a destination has as many partitions as associations allowed.
        DBOS.register_queue(DELIVER_QUEUE, partition_concurrency=1, polling_interval_sec=0.2)

    @property
    def counted(self) -> frozenset[int]:
        """Images that this process has begun and not ended."""
        return frozenset(self._counted)

    def finish_in_hand(self, timeout_s: float) -> bool:
        """Begin nothing more, and wait for the images and associations in progress; False if they took too long."""
        deadline = time.monotonic() + timeout_s
        images_done = self._turns.close(timeout_s)
        sent = self._sending.close(max(0.0, deadline - time.monotonic()))
        # Last, and for what is left of the time: its originals have gone.
        followed = self._following.close(max(0.0, deadline - time.monotonic()))
        return images_done and sent and followed

    # -- a series -------------------------------------------------------------------------------

    @DBOS.workflow(name="enhance_series", max_recovery_attempts=1000)
    @held
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
    @held
    def enhance_image(self, instance_id: int) -> None:
        """Enhance one image of a large series."""
        self._enhance(instance_id)

    @DBOS.workflow(name="follow_series", max_recovery_attempts=1000)
    @held
    def follow_series(self, arrival_id: int, attempt: int) -> str:
        """Enhance what is left of an arrival whose originals have gone, one image at a time; returns its state."""
        images = self._begin(arrival_id, attempt)
        if images is None:
            return "not to be enhanced now"
        for instance_id in images:
            self._follow(instance_id)
        return self._end_following(arrival_id)

    @_step
    def _begin(self, arrival_id: int, attempt: int) -> list[int] | None:
        arrivals = self._parts.arrivals
        arrival = arrivals.get(arrival_id)
        follow(arrival.study_instance_uid)
        if self._parts.find_route(arrival) is None:
            log.warning("Series waits for a route", extra={"arrival": arrival_id})
            return None
        try:
            images = arrivals.begin(arrival_id, attempt)
        except IllegalTransition as error:
            log.info("Nothing to enhance", extra={"arrival": arrival_id, "reason": str(error)})
            return None
        fault_point("enhance.begun")
        return [instance_id for instance_id in images if not self._recognise(arrivals.instance(instance_id))]

    def _recognise(self, stored: StoredInstance) -> bool:
        """Tell whether the same image was received before in another encoding, and write that down."""
        if not stored.revision:
            return False
        for earlier in self._parts.arrivals.revisions_before(stored):
            if self._parts.are_same(earlier, stored):
                log.info(
                    "Received before in another encoding",
                    extra={"instance": stored.instance_id, "same_as": earlier.instance_id},
                )
                return self._parts.arrivals.recognise(stored.instance_id, earlier.instance_id)
        log.warning("Revision of a SOP instance", extra={"instance": stored.instance_id, "revision": stored.revision})
        return False

    @_step
    def _follow(self, instance_id: int) -> None:
        arrivals = self._parts.arrivals
        stored = arrivals.instance(instance_id)
        follow(stored.study_instance_uid)
        arrival = arrivals.get(stored.arrival_id)
        route = self._parts.find_route(arrival)
        if arrival.state is not ArrivalState.FOLLOWING or arrivals.attempts_at(instance_id) is None or route is None:
            return
        with self._following.take(alone=False):
            begun = self._count(instance_id)
            if begun > MAX_IMAGE_ATTEMPTS:
                self._pass_killer(instance_id, begun)
            else:
                series_at = arrivals.first_completed_at(arrival.series_instance_uid)
                give_up_at = (arrival.completed_at or series_at) + route.follow_limit_s
                times = Times(series_at=series_at, give_up_at=give_up_at, in_background=True)
                record, derived = self._parts.enhancer.enhance(stored, route, times)
                if derived is not None and arrival.shadow:
                    # Measured to its end, written file and all; and it can't leave, as no row knows it.
                    self._parts.enhancer.discard(derived)
                    derived = None
                self._decide(instance_id, record, derived, route)
        self._counted.discard(instance_id)

    def _count(self, instance_id: int) -> int:
        """Count an attempt at an image, once in this process; returns its number, from 1."""
        if instance_id in self._counted:
            return self._parts.arrivals.attempts_at(instance_id) or 1
        begun = self._parts.arrivals.count_attempt(instance_id)
        self._counted.add(instance_id)
        return begun

    def _pass_killer(self, instance_id: int, begun: int) -> None:
        reason = f"processing this image ended the worker {begun - 1} times"
        log.error("Image passed through", extra={"instance": instance_id, "reason": reason})
        self._parts.arrivals.decide(
            instance_id, EnhancementRecord(decision=EnhancementDecision.PASSED_THROUGH, reason=reason)
        )

    @_step
    def _end_following(self, arrival_id: int) -> str:
        arrival = self._parts.arrivals.get(arrival_id)
        follow(arrival.study_instance_uid)
        route = self._parts.find_route(arrival)
        if arrival.state is not ArrivalState.FOLLOWING or route is None:
            return arrival.state.value
        report = None if arrival.shadow else self._make_report(arrival)
        state = self._conclude_with(arrival, report)
        self._begun_reports.pop(arrival_id, None)
        return state

    @_step
    def _enhance(self, instance_id: int) -> None:
        arrivals = self._parts.arrivals
        stored = arrivals.instance(instance_id)
        follow(stored.study_instance_uid)
        arrival = arrivals.get(stored.arrival_id)
        if arrival.state is not ArrivalState.ENHANCING:
            return  # the deadline concluded it
        route = self._parts.find_route(arrival)
        if route is None:
            return  # it waits for one
        begun = arrivals.attempts_at(instance_id)
        if begun is None:
            return  # decided, and the process ended before the engine knew
        with self._turns.take(alone=begun > 0):
            begun = self._count(instance_id)
            fault_point("image.counted")
            if begun > MAX_IMAGE_ATTEMPTS:
                self._pass_killer(instance_id, begun)
            else:
                record, derived = self._parts.enhancer.enhance(stored, route, self._times(arrival, route))
                fault_point("image.derived")
                if record.reason == LATE and route.late is Late.FOLLOW:
                    arrivals.postpone(instance_id)
                else:
                    self._decide(instance_id, record, derived, route)
            fault_point("image.decided")
        self._counted.discard(instance_id)

    def _decide(
        self, instance_id: int, record: EnhancementRecord, derived: DerivedInstance | None, route: RouteSettings
    ) -> None:
        try:
            is_kept = self._parts.arrivals.decide(instance_id, record, derived)
        except LedgerUnavailable as error:
            # The image is enhanced again, into another file. Where the connection was lost in the middle of a commit,
            # the ledger may know this one.
            if derived is not None and not error.may_be_committed:
                self._parts.enhancer.discard(derived)
            raise
        if is_kept:
            measure_image(route.name, record)
            begun_ns = time.time_ns() - int((record.total_s or 0.0) * 1e9)
            emit(
                "enhance",
                begun_ns,
                instance=instance_id,
                route=route.name,
                decision=record.decision.value,
                cause=record.cause.value,
            )
        elif derived is not None:
            self._parts.enhancer.discard(derived)

    def _times(self, arrival: Arrival, route: RouteSettings) -> Times:
        series_at = self._parts.arrivals.first_completed_at(arrival.series_instance_uid)
        if arrival.completed_at is None:
            return Times(series_at=series_at)
        return Times(series_at=series_at, give_up_at=arrival.completed_at + route.deadline_s)

    @_step
    def _conclude(self, arrival_id: int) -> str:
        arrival = self._parts.arrivals.get(arrival_id)
        follow(arrival.study_instance_uid)
        if arrival.state is not ArrivalState.ENHANCING:
            return arrival.state.value
        if self._parts.find_route(arrival) is None:
            return "waits for a route"
        route = self._route_of(arrival)
        if self._is_late(arrival, route) and route.late is Late.FOLLOW:
            # Images may be left, given up for the deadline.
            self.release_late(arrival, route)
            return ArrivalState.FOLLOWING.value
        report = self._make_report(arrival)
        fault_point("conclude.reported")
        state = self._conclude_with(arrival, report)
        fault_point("conclude.concluded")
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
            if arrival.state is ArrivalState.FOLLOWING:
                return self.end_following(arrival, given_up=None, report=report)
            return self.conclude(arrival, late=None, report=report)
        except LedgerUnavailable as error:
            # Where the connection was lost in the middle of a commit, the ledger may know the report.
            if not error.may_be_committed:
                self._discard(report)
            raise
        except IllegalTransition as error:
            self._discard(report)
            now = self._parts.arrivals.get(arrival.arrival_id)
            if now.state is arrival.state:
                raise
            log.info("Concluded meanwhile", extra={"arrival": arrival.arrival_id, "reason": str(error)})
            return now.state.value

    def _discard(self, report: DerivedInstance | str | None) -> None:
        if isinstance(report, DerivedInstance):
            self._parts.reporter.discard(report)

    def conclude(self, arrival: Arrival, *, late: str | None, report: DerivedInstance | str | None = None) -> str:
        """End the enhancement of `arrival` and open its deliveries; `late` passes undecided images through."""
        route = self._route_of(arrival)
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
        self._measure_conclusion(arrival, route, is_late=late is not None)
        log.info("Series concluded", extra={"arrival": arrival.arrival_id, "state": state.value, "reason": late})
        return state.value

    def _measure_conclusion(self, arrival: Arrival, route: RouteSettings, *, is_late: bool) -> None:
        if is_late:
            count(DEADLINES_MISSED, route.name)
        if arrival.completed_at is not None:
            observe(STAGE_SECONDS, max(0.0, self._parts.clock() - arrival.completed_at), "enhance")

    def _route_of(self, arrival: Arrival) -> RouteSettings:
        route = self._parts.find_route(arrival)
        if route is None:
            raise IllegalTransition(f"arrival {arrival.arrival_id} has no route any more")
        return route

    def end_following(
        self, arrival: Arrival, *, given_up: str | None, report: DerivedInstance | str | None = None
    ) -> str:
        """End the enhancement of an arrival whose originals have gone, and deliver what was enhanced since."""
        route = self._route_of(arrival)
        if given_up is not None and route.report and not arrival.shadow:
            report = LATE_REPORT
        state = self._parts.arrivals.end_following(
            arrival.arrival_id, destinations=route.destinations, given_up=given_up, report=report
        )
        log.info("Series followed", extra={"arrival": arrival.arrival_id, "state": state.value, "reason": given_up})
        return state.value

    def release_late(self, arrival: Arrival, route: RouteSettings) -> None:
        """Send on what there is of an arrival at its deadline; what is enhanced later follows."""
        self._parts.arrivals.release(
            arrival.arrival_id,
            destinations=route.destinations,
            send_original=Content.ORIGINAL in route.send,
            send_enhanced=Content.ENHANCED in route.send,
            reason=LATE,
        )
        self._measure_conclusion(arrival, route, is_late=True)
        log.warning("Originals go on, the enhanced images follow", extra={"arrival": arrival.arrival_id})

    def release_to_measure(self, arrival: Arrival) -> None:
        """Send on the originals of an arrival in shadow mode; its enhancement is measured behind them."""
        route = self._route_of(arrival)
        if arrival.state is ArrivalState.COMPLETE:
            for stored in self._parts.arrivals.instances(arrival.arrival_id):
                self._recognise(stored)
        self._parts.arrivals.release(
            arrival.arrival_id,
            destinations=route.destinations,
            send_original=True,
            send_enhanced=False,
            reason=SHADOW,
            shadow=True,
        )
        log.info("Originals go on, enhancement is measured", extra={"arrival": arrival.arrival_id})

    # -- a delivery -----------------------------------------------------------------------------

    @DBOS.workflow(name="deliver", max_recovery_attempts=1000)
    @held
    def deliver(self, delivery_id: int, attempt: int) -> str:
        """Make one attempt to deliver; the ledger says when the next one is due."""
        if not self._take(delivery_id, attempt):
            return "not to be sent now"
        return self._send(delivery_id, attempt)

    @_step
    def _take(self, delivery_id: int, attempt: int) -> bool:
        follow(self._parts.deliveries.study_of(delivery_id))
        try:
            is_taken = self._parts.deliveries.begin(delivery_id, attempt)
        except IllegalTransition as error:
            log.info("Nothing to deliver", extra={"delivery": delivery_id, "reason": str(error)})
            return False
        fault_point("deliver.taken")
        return is_taken

    @_step
    def _send(self, delivery_id: int, attempt: int) -> str:
        follow(self._parts.deliveries.study_of(delivery_id))
        begun_ns = time.time_ns()
        with self._sending.take(alone=False):
            delivery = self._parts.deliveries.get(delivery_id)
            if delivery.attempts != attempt + 1:
                # This process was cut off from the ledger in the middle, and taken for dead: another one sends.
                log.info("Sent by another worker", extra={"delivery": delivery_id, "attempt": attempt})
                return delivery.state.value
            state = self._parts.courier.attempt(delivery_id)
            failure = "" if state is DeliveryState.SENT else state.value
            emit(
                "deliver",
                begun_ns,
                failure=failure,
                delivery=delivery_id,
                destination=delivery.destination,
                attempt=attempt,
            )
        fault_point("deliver.settled")
        return state.value

    # -- waking ---------------------------------------------------------------------------------

    def wake(self) -> None:
        """Enqueue what the ledger says is to be done now. Doing it twice is harmless."""
        wanted: set[str] = set()
        for arrival in self._parts.arrivals.in_state(ArrivalState.COMPLETE):
            with _alone("arrival", arrival.arrival_id):
                route = None if arrival.route is None else self._parts.find_route(arrival)
                if route is not None and route.shadow:
                    self._each(arrival, self.release_to_measure)
                elif route is not None:
                    wanted.add(self._wake_arrival(arrival))
        for arrival in self._parts.arrivals.in_state(ArrivalState.FOLLOWING):
            with _alone("arrival", arrival.arrival_id):
                wanted.add(self._wake_arrival(arrival))
        for delivery in self._parts.deliveries.due():
            with _alone("delivery", delivery.delivery_id):
                wanted.add(self._wake_delivery(delivery))
        self._woken &= wanted

    def _wake_arrival(self, arrival: Arrival) -> str:
        workflow_id = _workflow_id(arrival)
        if workflow_id not in self._woken:
            follows = arrival.state is ArrivalState.FOLLOWING
            queue, workflow = (FOLLOW_QUEUE, self.follow_series) if follows else (ENHANCE_QUEUE, self.enhance_series)
            with SetWorkflowID(workflow_id):
                DBOS.enqueue_workflow(queue, workflow, arrival.arrival_id, arrival.attempts)
            fault_point("enhance.enqueued")
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
            fault_point("deliver.enqueued")
            self._woken.add(workflow_id)
        return workflow_id

    def release_overdue(self) -> None:
        """Send on the originals of arrivals past their route's deadline, and give up what followed for too long."""
        waiting = self._parts.arrivals.in_state(ArrivalState.COMPLETE, ArrivalState.ENHANCING, ArrivalState.FOLLOWING)
        self._waits_since = {
            a.arrival_id: self._waits_since.get(a.arrival_id, self._parts.monotonic()) for a in waiting
        }
        for arrival in waiting:
            self._each(arrival, self._release_if_overdue)

    def _release_if_overdue(self, arrival: Arrival) -> None:
        route = self._parts.find_route(arrival)
        if route is None or not self._is_late(arrival, route):
            return
        extra = {"arrival": arrival.arrival_id, "route": route.name}
        if arrival.state is ArrivalState.FOLLOWING:
            log.warning("What was to follow is given up", extra=extra)
            self.end_following(arrival, given_up=GIVEN_UP)
            return
        log.warning("Deadline passed", extra=extra)
        if route.shadow:
            self.release_to_measure(arrival)
        elif route.late is Late.FOLLOW:
            self.release_late(arrival, route)
        else:
            self.conclude(arrival, late=LATE)

    def _is_late(self, arrival: Arrival, route: RouteSettings) -> bool:
        """Tell whether the limit of an arrival has passed by the clock, or by what this process waited for it."""
        if arrival.completed_at is None:
            return False
        limit_s = route.follow_limit_s if arrival.state is ArrivalState.FOLLOWING else route.deadline_s
        waited_s = self._parts.monotonic() - self._waits_since.get(arrival.arrival_id, self._parts.monotonic())
        return self._parts.clock() - arrival.completed_at >= limit_s or waited_s >= limit_s

    def _each(self, arrival: Arrival, act: Callable[[Arrival], None]) -> None:
        """Do something for one arrival, the top of this series: its fault must not keep the originals of others."""
        with correlated(arrival.study_instance_uid):
            try:
                act(arrival)
            except IllegalTransition as error:
                log.info("Concluded meanwhile", extra={"arrival": arrival.arrival_id, "reason": str(error)})
            except LedgerUnavailable:
                raise
            except Exception:
                log.exception("Nothing of this series went on", extra={"arrival": arrival.arrival_id})

    def restart_ended(self) -> None:
        """Take up what a failed workflow left in the middle.

        A workflow fails only where the ledger stays away for longer than the steps' retries: in the middle, or before
        it took anything into work.
        """
        for arrival in self._parts.arrivals.in_state(ArrivalState.COMPLETE):
            with _alone("arrival", arrival.arrival_id):
                # `wake` names the next workflow by the number.
                if arrival.route is not None and _has_failed(_workflow_id(arrival)):
                    self._parts.arrivals.count_restart(arrival.arrival_id)
        for delivery in self._parts.deliveries.due():
            with _alone("delivery", delivery.delivery_id):
                if _has_failed(f"deliver:{delivery.delivery_id}:{delivery.attempts}"):
                    self._parts.deliveries.skip_attempt(delivery.delivery_id, delivery.attempts)
        for arrival in self._parts.arrivals.in_state(ArrivalState.ENHANCING, ArrivalState.FOLLOWING):
            with _alone("arrival", arrival.arrival_id):
                # Without a route restarts change nothing: it goes on when the settings have one for it.
                if self._parts.find_route(arrival) is not None:
                    self._restart_enhancement(arrival)
        for delivery in self._parts.deliveries.in_state(DeliveryState.SENDING):
            with _alone("delivery", delivery.delivery_id):
                self._restart_delivery(delivery)

    def _restart_enhancement(self, arrival: Arrival) -> None:
        if _has_ended(_workflow_id(arrival)) and self._parts.arrivals.get(arrival.arrival_id) == arrival:
            attempts = self._parts.arrivals.count_restart(arrival.arrival_id)
            log.warning("Enhancement starts again", extra={"arrival": arrival.arrival_id, "attempt": attempts})
            self._wake_arrival(self._parts.arrivals.get(arrival.arrival_id))

    def _restart_delivery(self, delivery: Delivery) -> None:
        # `begin` has counted the attempt that the workflow's name does not count yet.
        workflow_id = f"deliver:{delivery.delivery_id}:{delivery.attempts - 1}"
        if _has_ended(workflow_id) and self._parts.deliveries.get(delivery.delivery_id) == delivery:
            log.warning("Delivery starts again", extra={"delivery": delivery.delivery_id})
            self._parts.deliveries.settle(
                delivery.delivery_id,
                failure="the attempt was interrupted",
                retry_in_s=1.0,
                attempt=delivery.attempts,
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
                fault_point("recover.resumed")


def end_other_versions(own: str, alive: set[str]) -> int:
    """End what an earlier version of the workflows left, queued or in the middle; returns how many.

    The engine runs a workflow only under the version that enqueued it (`WORKFLOW_VERSION`). What is ended here is in
    the ledger, and `restart_ended` begins it anew.

    Parameters
    ----------
    own
        Executor ID of this process: what is under it is of an earlier start.
    alive
        Executors heard of lately; one of another version, on another machine, still does its own.
    """
    ended = 0
    for workflow in DBOS.list_workflows(status=["PENDING", "ENQUEUED"], load_input=False, load_output=False):
        is_other = workflow.app_version not in (None, DBOS.application_version)
        if is_other and (workflow.executor_id == own or workflow.executor_id not in alive):
            DBOS.cancel_workflow(workflow.workflow_id)
            ended += 1
    if ended:
        log.warning("Workflows of another version begin anew", extra={"workflows": ended})
    return ended


def _workflow_id(arrival: Arrival) -> str:
    kind = "follow" if arrival.state is ArrivalState.FOLLOWING else "enhance"
    return f"{kind}:{arrival.series_instance_uid}:{arrival.generation}:{arrival.attempts}"


@contextmanager
def _alone(subject: str, number: int) -> Iterator[None]:
    """Keep the fault of one series or delivery from the others; a ledger that is away concerns them all."""
    try:
        yield
    except LedgerUnavailable:
        raise
    except Exception:
        log.exception("Not taken up by an unforeseen error", extra={subject: number})


def _has_failed(workflow_id: str) -> bool:
    status = DBOS.get_workflow_status(workflow_id)
    return status is not None and status.status in _ENDED


def _has_ended(workflow_id: str) -> bool:
    status = DBOS.get_workflow_status(workflow_id)
    return status is None or status.status in _ENDED
