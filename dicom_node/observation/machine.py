"""What one machine of the node tells: its processes' metrics and health together, its disks, the ledger's figures."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from prometheus_client.metrics_core import Metric as Family

from config.settings import Settings
from dicom_node import __version__
from dicom_node.certificates import expiries
from dicom_node.disk_care import disk_report, disk_states
from dicom_node.errors import LedgerUnavailable
from dicom_node.lateness import LATE
from dicom_node.ledger.database import Database
from dicom_node.ledger.figures import FigureLedger, Figures
from dicom_node.observation import definitions as metrics
from dicom_node.observation.alarms import Alarm, Facts, alarms_of
from dicom_node.observation.definitions import Metric
from dicom_node.observation.exposition import merge, render_families
from dicom_node.observation.kept import Kept
from dicom_node.observation.listener import NOT_FOUND, SOCKETS, TEXT, Answer, ask, names_on_sockets
from dicom_node.observation.meter import family

log = logging.getLogger(__name__)

FIGURES_S: Final = 5.0
_CERTIFICATES_S: Final = 300.0
_ASKED_S: Final = 3.0
START_S: Final = 120.0
"""Time that a process has to come up, before its silence is an alarm."""


_OfLedger = tuple[Figures | None, str, Sequence[Mapping[str, Any]]]


def _no_answer(waited_s: float) -> _OfLedger:
    return None, f"no answer for {waited_s:.0f} s", ()


@dataclass(frozen=True, kw_only=True)
class ProcessReport:
    """What a process of this machine says of itself; `problem` is empty where it works."""

    name: str
    is_live: bool
    is_ready: bool
    problem: str
    checks: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return it as `/healthz` shows it."""
        said = {"problem": self.problem} if self.problem else {}
        return {"live": self.is_live, "ready": self.is_ready, **said, "checks": dict(self.checks)}


class MachineView:
    """Asks the processes of this machine and the ledger; for any number of threads.

    Parameters
    ----------
    settings
        Of the node.
    expected
        Names of the processes that should run here, and when each was started (monotonic seconds) or None; where a
        role runs by itself, those that have a socket.
    restarts
        Times that each was started again.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        *,
        expected: Callable[[], Mapping[str, float | None]] | None = None,
        restarts: Callable[[], Mapping[str, int]] = dict,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._database = database
        self._folder = settings.node.data_dir / SOCKETS
        self._expected = expected
        self._restarts = restarts
        self._monotonic = monotonic
        self._ledger = FigureLedger(
            database,
            images=settings.alarms.guard_images,
            series=settings.alarms.deadline_series,
            late_reason=LATE,
        )
        self._of_ledger = Kept(self._read_ledger, FIGURES_S, late=_no_answer, monotonic=monotonic)
        self._certificates = Kept(
            lambda: expiries(settings, time.time()), _CERTIFICATES_S, late=lambda _s: [], monotonic=monotonic
        )

    # -- processes ------------------------------------------------------------------------------

    def processes(self) -> dict[str, ProcessReport]:
        """Ask every process of this machine how it is."""
        started = self._started()
        with ThreadPoolExecutor(max(1, len(started)), thread_name_prefix="ask") as pool:
            reports = pool.map(lambda name: self._report(name, started[name]), started)
            return {report.name: report for report in reports}

    def _started(self) -> dict[str, float | None]:
        if self._expected is not None:
            return dict(self._expected())
        return dict.fromkeys(names_on_sockets(self._folder), None)

    def _report(self, name: str, started_at: float | None) -> ProcessReport:
        try:
            answer = json.loads(ask(self._folder, name, "/health", timeout_s=_ASKED_S).body)
        except (OSError, ValueError) as error:
            if started_at is not None and self._monotonic() - started_at < START_S:
                return ProcessReport(name=name, is_live=True, is_ready=False, problem="", checks={"start": "starts"})
            why = "it does not answer" if isinstance(error, TimeoutError) else "it does not run"
            return ProcessReport(name=name, is_live=False, is_ready=False, problem=why)
        wrong = "; ".join(f"{check}: {said}" for check, said in answer["checks"].items() if said != "ok")
        return ProcessReport(
            name=name,
            is_live=answer["live"],
            is_ready=answer["ready"],
            problem="" if answer["live"] else wrong,
            checks=answer["checks"],
        )

    # -- facts ----------------------------------------------------------------------------------

    def facts(self) -> Facts:
        """Return what alarms are judged by."""
        figures, trouble, disks = self._of_ledger.get()
        reports = self.processes()
        models = {name: said for name, report in reports.items() if (said := report.checks.get("model", "ok")) != "ok"}
        return Facts(
            figures=figures,
            trouble=trouble,
            disks=disks,
            certificates=self._certificates.get(),
            processes={name: report.problem for name, report in reports.items()},
            models={name: said for name, said in models.items() if said != "not looked at yet"},
        )

    def alarms(self) -> list[Alarm]:
        """Return what an operator has to look after now."""
        return alarms_of(self.facts(), self._settings)

    def _read_ledger(self) -> _OfLedger:
        disks = disk_states(self._settings)
        try:
            figures = self._ledger.figures()
            disks = disk_report(self._settings, self._database, self._settings.node.data_dir)
        except LedgerUnavailable as error:
            return None, str(error), disks
        return figures, "", disks

    # -- pages ----------------------------------------------------------------------------------

    def respond(self, path: str) -> Answer:
        """Answer a request of the outside."""
        if path == "/metrics":
            return Answer(status=200, body=self.exposition(), content_type=TEXT)
        for page, is_good in (("/healthz", _is_live), ("/readyz", _is_ready)):
            if path == page:
                reports = self.processes()
                good = bool(reports) and all(map(is_good, reports.values()))
                body = {"ok": good, "processes": {name: report.as_json() for name, report in reports.items()}}
                return Answer.of_json(200 if good else 503, body)
            name = path.removeprefix(f"{page}/")
            if name != path:
                started = self._started()
                if name not in started:
                    return Answer.of_json(404, {"error": "no such process", "processes": sorted(started)})
                report = self._report(name, started[name])
                return Answer.of_json(200 if is_good(report) else 503, {"ok": is_good(report), **report.as_json()})
        return NOT_FOUND

    def exposition(self) -> bytes:
        """Return the metrics of this machine."""
        facts = self.facts()
        pages = [render_families(self._families(facts))]
        for name in facts.processes:
            try:
                pages.append(ask(self._folder, name, "/metrics", timeout_s=_ASKED_S).body)
            except OSError as error:
                # `lowdose_process_up` says so too.
                log.debug("No metrics of a process", extra={"child": name, "reason": str(error)})
        return merge(pages)

    def _families(self, facts: Facts) -> Iterator[Family]:
        yield family(metrics.BUILD, {(__version__,): 1})
        yield family(metrics.PROCESS_UP, {(name,): float(not said) for name, said in facts.processes.items()})
        yield family(metrics.RESTARTS, {(name,): number for name, number in self._restarts().items()})
        yield family(metrics.DISK_FREE, {(",".join(d["holds"]),): d["free_bytes"] for d in facts.disks})
        yield family(metrics.DISK_TOTAL, {(",".join(d["holds"]),): d["total_bytes"] for d in facts.disks})
        yield family(
            metrics.CERTIFICATE_DAYS,
            {(one.setting,): -1 if one.days_left is None else one.days_left for one in facts.certificates},
        )
        alarms = alarms_of(facts, self._settings)
        yield family(metrics.ALARMS, {(one.kind.value, one.subject): 1 for one in alarms})
        yield family(metrics.LEDGER_UP, {(): float(facts.figures is not None)})
        if facts.figures is not None:
            yield from _of_ledger(facts.figures, self._settings)


def _is_live(report: ProcessReport) -> bool:
    return report.is_live


def _is_ready(report: ProcessReport) -> bool:
    return report.is_ready


def _of_ledger(figures: Figures, settings: Settings) -> Iterator[Family]:
    # Destinations of the settings always stand there, so that a query finds 0 and not nothing.
    names = {one.name for one in settings.destinations} | {name for name, _ in figures.deliveries}
    by_state: dict[tuple[str, ...], float] = {(name, "pending"): 0 for name in sorted(names)}
    yield family(metrics.QUEUE_DELIVERIES, by_state | dict(figures.deliveries))
    yield from (
        family(metric, {(name,): value(name) for name in sorted(names)}) for metric, value in _by_destination(figures)
    )
    yield family(metrics.HOLDS, {(scope,): figures.holds.get(scope, 0) for scope in ("destination", "study")})
    states = ("open", "complete", "enhancing", "following")
    yield family(metrics.SERIES, {(state,): figures.series.get(state, 0) for state in states})
    for metric, number in (
        (metrics.UNROUTED, figures.unrouted),
        (metrics.QUARANTINED, figures.quarantined),
        (metrics.DAMAGED, figures.damaged),
    ):
        yield family(metric, {(): number})
    seen = {s.name: [figures.seen[t] for t in s.ae_titles if t in figures.seen] for s in settings.sources}
    yield family(metrics.SOURCE_SEEN, {(name,): max(times) for name, times in seen.items() if times})
    yield family(metrics.HEARTBEAT_AGE, {(name,): figures.at - at for name, at in figures.heartbeats.items()})


def _by_destination(figures: Figures) -> tuple[tuple[Metric, Callable[[str], float]], ...]:
    return (
        (metrics.QUEUE_OBJECTS, lambda name: figures.objects.get(name, 0)),
        (metrics.QUEUE_AGE, lambda name: max(0.0, figures.at - figures.oldest.get(name, figures.at))),
        (metrics.DESTINATION_DOWN, lambda name: float(name in figures.down)),
        (metrics.UNCOMMITTED, lambda name: figures.given_up.get(name, 0)),
    )


def current_alarms(settings: Settings, database: Database) -> list[Alarm]:
    """Return what an operator has to look after now, asked from beside the running node."""
    return MachineView(settings, database).alarms()
