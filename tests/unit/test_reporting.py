"""Reports are made in bounded time or not at all, and the ledger and the store agree about them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from config.settings import DerivationSettings, RouteSettings
from dicom_node import quality_report
from dicom_node.enhancement import NoModel
from dicom_node.errors import IllegalTransition, LedgerUnavailable, NodeError, OutOfResources
from dicom_node.instance_store import InstanceStore
from dicom_node.ledger.arrivals import Arrival, DerivedInstance
from dicom_node.ledger.outcomes import ImageOutcome
from dicom_node.reporting import MAX_IMAGES, Reporter
from dicom_node.states import ArrivalState
from dicom_node.workflows import MAX_REPORT_ATTEMPTS, Workflows
from tests.support.quality_reports import SERIES, STUDY, enhanced, passed_through, radiograph

ARRIVAL = Arrival(
    arrival_id=1,
    series_instance_uid=SERIES,
    study_instance_uid=STUDY,
    generation=2,
    state=ArrivalState.ENHANCING,
    route="radiographs",
    attempts=0,
    completed_at=1_767_348_700.0,
)


@pytest.fixture
def store(tmp_path: Path) -> InstanceStore:
    return InstanceStore(tmp_path / "store")


@pytest.fixture
def outcomes(store: InstanceStore) -> list[ImageOutcome]:
    """Return an image that was passed through and one that was enhanced, whose source is in the store."""
    found = enhanced(1)
    source = replace(found.source, key=store.save(radiograph()).key)
    return [passed_through(2, "guard"), replace(found, source=source)]


def reporter(store: InstanceStore, **changes: Any) -> Reporter:
    values: dict[str, Any] = {"model": NoModel(reason="none"), "derivation": DerivationSettings(), "node_name": "node1"}
    return Reporter(store=store, **{**values, **changes})


def make(store: InstanceStore, outcomes: list[ImageOutcome], **changes: Any) -> DerivedInstance | str:
    return reporter(store, **changes).make(ARRIVAL, outcomes, strength=0.7, series_at=1_767_348_000.0)


def test_a_report_is_safe_in_the_store_as_its_row_says(store: InstanceStore, outcomes: list[ImageOutcome]) -> None:
    made = make(store, outcomes)
    assert isinstance(made, DerivedInstance)
    path = store.path(made.key)
    ds = dcmread(path)
    assert (made.sop_class_uid, made.sop_instance_uid) == (ds.SOPClassUID, ds.SOPInstanceUID)
    assert (made.study_instance_uid, made.series_instance_uid) == (STUDY, ds.SeriesInstanceUID)
    assert made.size == path.stat().st_size
    assert (ds.InstanceNumber, ds.SeriesNumber) == (2, 2001)
    # When the last image was decided, which the ledger knows, not when the report was made.
    assert (ds.ContentDate, ds.ContentTime) == ("20260102", "101322.000000")
    assert (ds.SeriesDate, ds.SeriesTime) == ("20260102", "100000.000000")


def test_a_report_that_is_made_again_has_the_same_bytes(store: InstanceStore, outcomes: list[ImageOutcome]) -> None:
    first, second = make(store, outcomes), make(store, outcomes)
    assert isinstance(first, DerivedInstance)
    assert isinstance(second, DerivedInstance)
    assert first.key != second.key
    assert first.digest == second.digest


def test_a_series_of_too_many_images_has_no_report(store: InstanceStore, outcomes: list[ImageOutcome]) -> None:
    many = [*outcomes, *(passed_through(number, "guard") for number in range(3, MAX_IMAGES + 2))]
    assert make(store, many) == f"a report tells of {MAX_IMAGES} images at most, these are {MAX_IMAGES + 1}"
    assert len(list(store.keys())) == 1


def test_a_report_that_takes_too_long_is_given_up(
    store: InstanceStore, outcomes: list[ImageOutcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality_report, "build_report", lambda *_: time.sleep(1.5))
    begin = time.monotonic()
    assert make(store, outcomes, limit_s=0.1) == "the report was not ready after 0.1 s"
    assert time.monotonic() - begin < 1.0


def test_a_source_that_can_t_be_read_is_a_reason(store: InstanceStore, outcomes: list[ImageOutcome]) -> None:
    store.delete(outcomes[1].source.key)
    made = make(store, outcomes)
    assert isinstance(made, str)
    assert made.startswith("unforeseen FileNotFoundError")


def test_a_full_disk_is_a_reason(
    store: InstanceStore, outcomes: list[ImageOutcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(_: object) -> None:
        raise OutOfResources("storage failed: No space left on device")

    monkeypatch.setattr(store, "save", save)
    assert make(store, outcomes) == "storage failed: No space left on device"


@pytest.mark.parametrize("module", ["dicom_node.receiver", "dicom_node.cli", "dicom_node.worker"])
def test_no_process_pays_for_reports_that_nobody_wants(module: str) -> None:
    code = f"import sys, {module}; sys.exit('highdicom' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0


# -- conclusion -------------------------------------------------------------------------------------


@dataclass
class FakeLedger:
    """An arrival in some state."""

    state: ArrivalState

    def get(self, _: int) -> Arrival:
        return replace(ARRIVAL, state=self.state)

    def first_completed_at(self, _: str) -> float:
        return 1_767_348_700.0


@dataclass
class FakeOutcomes:
    """What became of the images of one arrival, and how often its report was begun."""

    found: list[ImageOutcome]
    begun: int = 0

    def outcomes(self, _: int) -> list[ImageOutcome]:
        return self.found

    def count_attempt(self, _: int) -> int:
        self.begun += 1
        return self.begun


@dataclass
class FakeParts:
    """What `Workflows` needs to conclude with a report."""

    arrivals: FakeLedger
    reporter: Reporter
    outcomes: FakeOutcomes | None = None
    clock: Callable[[], float] = lambda: 0.0
    monotonic: Callable[[], float] = lambda: 0.0

    def find_route(self, _: Arrival) -> RouteSettings:
        return RouteSettings(name="radiographs", report=True, destinations=("pacs",))


class Concluding(Workflows):
    """Workflows whose conclusion fails in a given way."""

    def __init__(self, parts: Any, error: NodeError) -> None:
        self._parts = parts
        self._error = error
        self._begun_reports: dict[int, int] = {}
        self._waits_since: dict[int, float] = {}
        self.reports: list[DerivedInstance | str | None] = []

    def conclude(self, *_: Any, report: DerivedInstance | str | None = None, **__: Any) -> str:
        self.reports.append(report)
        raise self._error


@pytest.mark.parametrize(
    ("error", "state", "is_kept", "outcome"),
    [
        (IllegalTransition("deadline"), ArrivalState.ENHANCED, False, "enhanced"),
        (IllegalTransition("no route any more"), ArrivalState.ENHANCING, False, IllegalTransition),
        (LedgerUnavailable("locked"), ArrivalState.ENHANCING, False, LedgerUnavailable),
        # The row may be there: then the file must be.
        (LedgerUnavailable("lost", may_be_committed=True), ArrivalState.ENHANCED, True, LedgerUnavailable),
    ],
)
def test_the_file_of_a_report_goes_where_the_ledger_does_not_know_it(
    store: InstanceStore,
    outcomes: list[ImageOutcome],
    error: NodeError,
    state: ArrivalState,
    is_kept: bool,
    outcome: str | type[NodeError],
) -> None:
    made = make(store, outcomes)
    assert isinstance(made, DerivedInstance)
    workflows = Concluding(FakeParts(FakeLedger(state), reporter(store)), error)
    if isinstance(outcome, str):
        assert workflows._conclude_with(ARRIVAL, made) == outcome
    else:
        with pytest.raises(outcome):
            workflows._conclude_with(ARRIVAL, made)
    assert store.path(made.key).exists() is is_kept


def test_only_an_attempt_that_ended_the_process_counts_against_a_report(
    store: InstanceStore, outcomes: list[ImageOutcome]
) -> None:
    begun = FakeOutcomes(outcomes)
    parts = FakeParts(FakeLedger(ArrivalState.ENHANCING), reporter(store), begun)
    for process in range(1, MAX_REPORT_ATTEMPTS + 1):
        workflows = Concluding(parts, LedgerUnavailable("locked"))
        for _ in range(MAX_REPORT_ATTEMPTS + 1):
            # The step is tried again in the same process.
            with pytest.raises(LedgerUnavailable):
                Workflows._conclude.__wrapped__(workflows, 1)  # type: ignore[attr-defined]
        assert all(isinstance(report, DerivedInstance) for report in workflows.reports)
        assert begun.begun == process
    last = Concluding(parts, LedgerUnavailable("locked"))
    with pytest.raises(LedgerUnavailable):
        Workflows._conclude.__wrapped__(last, 1)  # type: ignore[attr-defined]
    assert last.reports == ["making it was begun 2 times and never ended"]
