"""The worker's composition: the engine, the workflows, the jobs and what they work with."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from dbos import DBOS, DBOSClient
from pydicom.dataset import Dataset
from sqlalchemy import Engine, create_engine

from config.settings import RouteSettings, Settings, SourceSettings
from dicom_node.admission import resolve_hosts
from dicom_node.app import heartbeat, ledger_check, machine_alone, machine_of, only_one, stop_event
from dicom_node.association_policy import host_names
from dicom_node.audit import audited
from dicom_node.backup_schedule import schedule_backup
from dicom_node.commitment_jobs import CommitmentJobs
from dicom_node.commitment_peers import committing
from dicom_node.delivery import NOT_IN_SETTINGS, Courier
from dicom_node.destination_book import DestinationBook
from dicom_node.destinations.kinds import make_destination
from dicom_node.disk_care import DiskCare
from dicom_node.disk_space import DiskSpace, Watermarks, file_systems
from dicom_node.enhancement import ImageEnhancer, LoadedModel, ModelAtHand, NoModel
from dicom_node.errors import IllegalTransition, LedgerUnavailable, OperationRefused, UnsupportedPixels, describe
from dicom_node.fault_points import fault_point
from dicom_node.hand_over import hand_over
from dicom_node.housekeeping import Housekeeping, Pulse, schedule_jobs
from dicom_node.instance_store import InstanceStore
from dicom_node.ledger.arrivals import ArrivalLedger, StoredInstance
from dicom_node.ledger.database import bounded_engine_options, bounded_url, reopen_after_faults
from dicom_node.ledger.deliveries import DeliveryLedger
from dicom_node.ledger.destinations import DestinationLedger
from dicom_node.ledger.operations import OperationLedger
from dicom_node.ledger.outcomes import OutcomeLedger
from dicom_node.ledger.processes import ProcessLedger
from dicom_node.ledger.reception import ReceptionLedger
from dicom_node.ledger.retention import RetentionLedger
from dicom_node.ledger.settings_changes import SettingsChangeLedger
from dicom_node.logs import configure_logging
from dicom_node.model_loading import load_guarded
from dicom_node.object_keeping import StoreUnavailable
from dicom_node.observation.definitions import MODEL_LOADED
from dicom_node.observation.health import Check, Health
from dicom_node.observation.metering import show
from dicom_node.observation.reporting import reporting
from dicom_node.observation.tracing import traced
from dicom_node.part10 import open_part10, read_beginning
from dicom_node.reloading import Reloader, reload_event
from dicom_node.reporting import Reporter
from dicom_node.route_book import RouteBook
from dicom_node.routing import SenderFacts, match_route, source_name
from dicom_node.sameness import are_same as are_same_image
from dicom_node.series_watch import SeriesWatch
from dicom_node.standing import StandingWatch
from dicom_node.state import EXIT_OK, State, open_state
from dicom_node.states import DeliveryState
from dicom_node.workflows import WorkflowParts, Workflows
from model.errors import ModelError
from model.memory import keep_freed_memory

log = logging.getLogger(__name__)

# Fixed, so that an upgraded node takes up what the old one left. To be raised with a workflow whose steps changed.
WORKFLOW_VERSION = "1"
_MOST_JOBS = 100
_UNREADABLE_FOR_S = 3600.0
# For each of the last parts of a stop; the supervisor waits 10 s longer than for the drain.
_END_S = 4.0


class UnreadableNow(StoreUnavailable):
    """Files that are there can't be read, for trouble of this machine or of the folder."""


def run_worker(settings: Settings, number: int, file: Path, digest: str, *, supervised: bool = False) -> int:
    """Run a worker until SIGTERM or SIGINT; returns the exit code. SIGHUP has it read its settings `file` again.

    What it has in hand when the drain time is over is taken up at the next start.
    """
    configure_logging(settings.logging, f"worker-{number}")
    stop, asked = stop_event(), reload_event()
    with open_state(settings) as state, only_one(settings.node.data_dir, f"worker-{number}"):
        name = f"{settings.node.name}:worker-{number}"
        processes = ProcessLedger(
            state.database,
            name=name,
            role="worker",
            machine=machine_of(settings),
            dead_after_s=settings.node.dead_after_s,
        )
        processes.settings_digest = digest
        # The workflow engine's database too: what it can't write it then tries again, instead of failing the workflow.
        reopen_after_faults(Engine)
        DBOS(
            config={
                "name": "lowdose-node",
                "system_database_url": workflow_database_url(settings),
                "db_engine_kwargs": bounded_engine_options(
                    workflow_database_url(settings), settings.node.database_timeout_s
                ),
                "application_version": WORKFLOW_VERSION,
                "executor_id": name,
                "log_level": "ERROR",
                "enable_otlp": False,
            }
        )
        # The engine installs a handler of its own; its lines shall look like ours.
        logging.getLogger("dbos").handlers.clear()
        live = _Live.of(state)
        courier = _courier(state, live.destinations)
        mark = settings.node.data_dir / f"worker-{number}.loading"
        model = load_guarded(mark, lambda: load_model(settings))
        workflows = _workflows(state, courier, live, model)
        pulse = Pulse()
        with (
            heartbeat(state.database, processes),
            audited(settings, f"worker-{number}"),
            traced(settings.tracing, f"worker-{number}", settings.node.name),
            machine_alone(settings, supervised=supervised),
            reporting(settings, f"worker-{number}", Health(checks=_checks(state, model, pulse))),
        ):
            _show_model(model)
            DBOS.launch()
            workflows.register_queues()
            fault_point("start.launched")
            housekeeping = _housekeeping(state, workflows, courier, processes)
            # A job may wait for a peer that is dead: each has a thread, beside those for everything else. They are
            # made as they are needed; other settings may have more peers.
            threads = _MOST_JOBS + len(housekeeping.commitment.jobs() if housekeeping.commitment else ())
            scheduler = BackgroundScheduler(timezone="UTC", executors={"default": ThreadPoolExecutor(threads)})
            schedule_jobs(scheduler, housekeeping, pulse)
            if number == 0:
                schedule_backup(scheduler, state, file)
            scheduler.start()
            take_up_again(state, list(live.destinations.settings))

            def change(new: Settings) -> None:
                changed = replace(state, settings=new)
                added = live.change(changed)
                # Those that run end by the old settings; each may run beside itself.
                scheduler.remove_all_jobs()
                schedule_jobs(scheduler, _housekeeping(changed, workflows, courier, processes), pulse)
                if number == 0:
                    schedule_backup(scheduler, changed, file)
                take_up_again(changed, added)

            log.info("Worker runs", extra={"weights": settings.model.weights})
            Reloader(
                file=file,
                settings=settings,
                role=f"worker-{number}",
                processes=processes,
                history=SettingsChangeLedger(state.database, settings.node.name),
                apply=change,
            ).work_until(stop, asked)
            # Whatever waits for a database that is away must not hold up the end.
            _within(settings.node.drain_s, "the jobs", lambda: scheduler.shutdown(wait=True))
            if not workflows.finish_in_hand(settings.node.drain_s):
                log.warning("Stopped with work in hand; others take it up, or the next start")
            _within(_END_S, "the workflow engine", DBOS.destroy)
            _within(_END_S, "the handing over", lambda: _hand_over(settings, state, name, workflows.counted))
    logging.shutdown()
    # Threads of the engine that still work, or wait for a turn, would hold up the end of the interpreter.
    sys.stderr.flush()
    os._exit(EXIT_OK)


@dataclass(frozen=True, kw_only=True)
class _Live:
    """What a worker goes by and other settings replace; the periodic jobs are put together anew."""

    destinations: DestinationBook
    routes: RouteBook
    disks: DiskSpace

    @classmethod
    def of(cls, state: State) -> _Live:
        settings = state.settings
        make = partial(make_destination, node_ae_title=settings.node.ae_title, scratch_folder=state.store.scratch)
        return cls(
            destinations=DestinationBook(make, settings.destinations),
            routes=RouteBook(
                settings.routes_in_order, route_finder(state), ArrivalLedger(state.database).first_instance
            ),
            disks=DiskSpace(file_systems(settings), Watermarks.of(settings), free_bytes=state.store.free_bytes),
        )

    def change(self, state: State) -> list[str]:
        """Go by the settings of `state`; returns the names of destinations that are new."""
        # Before the routes, which may lead to them.
        added = self.destinations.replace(state.settings.destinations)
        self.routes.replace(state.settings.routes_in_order, route_finder(state))
        self.disks.change_marks(Watermarks.of(state.settings))
        return added


def take_up_again(state: State, names: Sequence[str]) -> None:
    """Try again what was refused because its destination was not in the settings, for destinations that now are."""
    for name in names:
        for line in state.deliveries.lines(states=[DeliveryState.REFUSED], destination=name):
            if line.reason is not None and line.reason.startswith(NOT_IN_SETTINGS):
                try:
                    state.operations.retry(line.delivery_id, "its destination is in the settings again")
                except (OperationRefused, IllegalTransition) as error:
                    # Another worker, or an operator, was first.
                    log.info("Not taken up again", extra={"delivery": line.delivery_id, "reason": str(error)})


def _within(seconds: float, what: str, end: Callable[[], object]) -> None:
    """Run a part of the stop, and go on without it where it takes too long or fails: nothing depends on it."""

    def run() -> None:
        try:
            end()
        except Exception as error:  # noqa: BLE001 - the top of this thread
            # What is left undone is found by others, by this worker's absence.
            log.warning("A part of the stop failed", extra={"part": what, "reason": describe(error)})

    thread = threading.Thread(target=run, name=f"stop-{what}", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        log.warning("A part of the stop took too long", extra={"part": what, "seconds": seconds})


def _hand_over(settings: Settings, state: State, executor: str, counted: Collection[int]) -> None:
    engine = workflow_engine(settings)
    try:
        client = DBOSClient(system_database_engine=engine, retry_connection_errors=False)
        hand_over(
            client,
            executor,
            arrivals=ArrivalLedger(state.database),
            deliveries=DeliveryLedger(state.database),
            counted=counted,
        )
    finally:
        engine.dispose()


def workflow_engine(settings: Settings) -> Engine:
    """Return connections to the workflow engine's database, for those who are not the engine."""
    url = workflow_database_url(settings)
    return create_engine(url, **bounded_engine_options(url, settings.node.database_timeout_s))


def _checks(state: State, model: ModelAtHand, pulse: Pulse) -> tuple[Check, ...]:
    return (
        Check(name="scheduler", look=pulse.trouble, is_vital=True),
        Check(name="model", look=lambda: model.reason if isinstance(model, NoModel) else None),
        ledger_check(state.database),
    )


def _show_model(model: ModelAtHand) -> None:
    if isinstance(model, LoadedModel):
        show(MODEL_LOADED, 1, model.denoiser.name, model.denoiser.digest[:12])
    else:
        show(MODEL_LOADED, 0, "", "")


def workflow_database_url(settings: Settings) -> str:
    """Return where the workflow engine keeps its state: a SQLite file in the data folder, or the same PostgreSQL."""
    url = settings.node.database_url
    if not url.startswith("postgresql"):
        return f"sqlite:///{settings.node.data_dir / 'workflows.sqlite'}"
    return bounded_url(url.replace("postgresql://", "postgresql+psycopg://", 1))


def route_finder(state: State) -> Callable[[StoredInstance], RouteSettings | None]:
    """Return the function that finds the route of the instance that opened an arrival.

    It raises `StoreUnavailable` while no file of the arrival can be read, for an hour at most: then the route that asks
    for nothing has to do.
    """
    unreadable_since: dict[int, float] = {}

    def header_of(stored: StoredInstance) -> Dataset | None:
        try:
            header = _header_to_route_by(state, stored)
        except UnreadableNow as error:
            since = unreadable_since.setdefault(stored.arrival_id, time.monotonic())
            if time.monotonic() - since < _UNREADABLE_FOR_S:
                raise
            log.error("Series is routed without its header", extra={"arrival": stored.arrival_id, "reason": str(error)})
            header = None
        unreadable_since.pop(stored.arrival_id, None)
        return header

    def find(stored: StoredInstance) -> RouteSettings | None:
        # The first instance of a series decides for all of it, for those that come late too: they belong to the same
        # derived series.
        earlier = ArrivalLedger(state.database).earlier_route(stored.arrival_id)
        if earlier is not None:
            with contextlib.suppress(KeyError):
                return state.settings.route(earlier)
        sender = SenderFacts(
            calling_ae_title=stored.calling_ae_title,
            called_ae_title=stored.called_ae_title,
            source=_source_of(stored, state.settings.sources),
        )
        route, _ = match_route(state.settings.routes_in_order, header_of(stored), sender)
        return route

    return find


def _source_of(stored: StoredInstance, sources: Sequence[SourceSettings]) -> str:
    titled = [source for source in sources if stored.calling_ae_title in source.ae_titles]
    # Names are looked up only where the AE title alone does not tell the sources apart.
    addresses = resolve_hosts(host_names(titled)) if len(titled) > 1 else {}
    return source_name(titled, stored.calling_ae_title, stored.host, addresses)


def _header_to_route_by(state: State, stored: StoredInstance) -> Dataset | None:
    try:
        return _readable_header(state, stored)
    except (LedgerUnavailable, StoreUnavailable):
        # The header is there: without it the series would take a route that is not its own.
        raise
    except Exception:
        # The top of this series: an error that nobody foresaw must not keep all others from being completed.
        log.exception("Header can't be read by an unforeseen error", extra={"instance": stored.instance_id})
        return None


def _readable_header(state: State, stored: StoredInstance) -> Dataset | None:
    """Return the header of `stored`; where that is broken, of the first instance of its arrival that is not."""
    header, fault = _read_header(state.store, stored)
    if header is not None:
        return header
    for other in ArrivalLedger(state.database).instances(stored.arrival_id):
        header, other_fault = _read_header(state.store, other)
        if header is not None:
            return header
        fault = fault or other_fault
    if fault is not None:
        # A disk or a folder that fails now, and not the object: another route's destinations may be wrong for it, and
        # what can't be read can't be sent to any.
        raise UnreadableNow(f"storage failed: {fault.strerror or fault}") from fault
    # It is passed through, but to the destinations that its Modality and the like are meant for, as far as they are
    # there; a route that asks for something behind them can't take it.
    try:
        return read_beginning(state.store.path(stored.key))
    except OSError as error:
        raise UnreadableNow(f"storage failed: {error.strerror or error}") from error


def _read_header(store: InstanceStore, stored: StoredInstance) -> tuple[Dataset | None, OSError | None]:
    try:
        with open_part10(store.path(stored.key), folder=store.scratch) as part10:
            return part10.header, None
    except (UnsupportedPixels, OSError) as error:
        log.warning(
            "Header can't be read",
            extra={
                "instance": stored.instance_id,
                "sop_instance_uid": stored.sop_instance_uid,
                "reason": describe(error),
            },
        )
        return None, error if isinstance(error, OSError) and error.errno is not None else None


def _courier(state: State, book: DestinationBook) -> Courier:
    return Courier(
        ledger=DeliveryLedger(state.database),
        standings=DestinationLedger(state.database),
        store=state.store,
        settings=book.settings,
        destinations=book.destinations,
        clock=state.database.now,
        rng=random.Random(),
        ae_title=state.settings.node.ae_title,
    )


def _workflows(state: State, courier: Courier, live: _Live, model: ModelAtHand) -> Workflows:
    settings = state.settings
    arrivals = ArrivalLedger(state.database)

    def are_same(one: StoredInstance, other: StoredInstance) -> bool:
        return are_same_image(state.store.path(one.key), state.store.path(other.key), folder=state.store.scratch)

    return Workflows(
        WorkflowParts(
            settings=settings,
            arrivals=arrivals,
            deliveries=DeliveryLedger(state.database),
            enhancer=ImageEnhancer(
                store=state.store,
                model=model,
                derivation=settings.derivation,
                node_name=settings.node.name,
                no_room=live.disks.refusal_of_derived,
                clock=state.database.now,
            ),
            outcomes=OutcomeLedger(state.database),
            reporter=Reporter(
                store=state.store, model=model, derivation=settings.derivation, node_name=settings.node.name
            ),
            courier=courier,
            find_route=live.routes.route_of,
            are_same=are_same,
            clock=state.database.now,
        )
    )


def _housekeeping(state: State, workflows: Workflows, courier: Courier, processes: ProcessLedger) -> Housekeeping:
    watch = SeriesWatch(
        ledger=ArrivalLedger(state.database),
        find_route=route_finder(state),
        clock=state.database.now,
        known_routes=frozenset(route.name for route in state.settings.routes_in_order),
    )
    return Housekeeping(
        watch=watch,
        workflows=workflows,
        database=state.database,
        processes=processes,
        retention=RetentionLedger(state.database, list(committing(state.settings))),
        standing=StandingWatch(
            standings=courier.standings,
            deliveries=courier.ledger,
            operations=OperationLedger(state.database),
            settings=courier.settings,
            destinations=courier.destinations,
            clock=courier.clock,
        ),
        reception=ReceptionLedger(state.database, state.settings.node.name),
        store=state.store,
        keep_s=state.settings.retention.keep_h * 3600,
        care=DiskCare.of(state.settings, state.database, state.store),
        commitment=CommitmentJobs(state.settings, state.database, rng=random.Random()),
    )


def load_model(settings: Settings) -> ModelAtHand:
    """Load the denoiser; without usable weights, or PyTorch, the originals go on, and every one says why."""
    keep_freed_memory()
    try:
        # Here and not above: a worker whose PyTorch is broken still delivers, and keeps every deadline.
        from model.denoiser import Denoiser
    except Exception as error:  # noqa: BLE001 - whatever a half installed library raises
        reason = f"PyTorch can't be imported ({describe(error)}): install the node again"
        log.error("No model: every image is passed through", extra={"reason": reason})
        return NoModel(reason=f"the model can't be used: {reason}")
    try:
        denoiser = Denoiser.load(
            settings.model.weights,
            device=settings.model.device,
            memory_mb=settings.model.memory_mb,
            threads=settings.model.threads or None,
        )
    except ModelError as error:
        log.error("No usable weights: every image is passed through", extra={"reason": str(error)})
        return NoModel(reason=f"the model can't be used: {error}")
    return LoadedModel(denoiser=denoiser)
