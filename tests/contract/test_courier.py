"""One attempt to deliver, on every database: what stops it half-way, and what it says of its destination."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from config.settings import DicomDestinationSettings
from dicom_node.delivery import LONGEST_PAUSE_S, Courier
from dicom_node.destinations.base import DeliveryItem, ItemOutcome, Outcome, ProbeStep, Silence
from dicom_node.instance_store import InstanceStore
from dicom_node.integrity import Examined, Finding
from dicom_node.states import BreakerState, DeliveryState
from tests.contract.conftest import Ledger
from tests.contract.test_ledger_deliveries import open_deliveries


class FakeDestination:
    """Answers each object as it is told, after `before` has been called."""

    name = "pacs"

    def __init__(self, outcome: Outcome, silence: Silence | None, before: Callable[[], object]) -> None:
        self._outcome = (outcome, silence)
        self._before = before
        self.offered = 0

    def deliver(self, items: Sequence[DeliveryItem], *, on_outcome: Callable[[ItemOutcome], None]) -> None:
        outcome, silence = self._outcome
        status = 0 if outcome is Outcome.SENT else None
        for item in items:
            self.offered += 1
            self._before()
            on_outcome(
                ItemOutcome(instance_id=item.instance_id, outcome=outcome, status=status, reason="why", silence=silence)
            )

    def probe(self) -> list[ProbeStep]:
        raise AssertionError("nobody probes here")


def attempt(
    ledger: Ledger,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    outcome: Outcome = Outcome.SENT,
    silence: Silence | None = None,
    before: Callable[[], object] = lambda: None,
    **settings: object,
) -> tuple[DeliveryState, FakeDestination, list[float]]:
    """Make an attempt at the one delivery; returns its state, the destination, and the pauses that were made."""
    monkeypatch.setattr("dicom_node.instance_store.examine", lambda *_, **__: Examined(finding=Finding.SOUND))
    monkeypatch.setattr(InstanceStore, "path", lambda self, key: folder / key)
    monkeypatch.setattr("dicom_node.object_keeping.FolderKeeper.path", lambda self, key: folder / key)
    destination, pauses = FakeDestination(outcome, silence, before), list[float]()
    own = DicomDestinationSettings.model_validate(
        {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104, **settings}
    )
    courier = Courier(
        ledger=ledger.deliveries,
        standings=ledger.standings,
        store=InstanceStore(folder),
        settings={"pacs": own},
        destinations={"pacs": destination},
        clock=ledger.clock,
        rng=random.Random(0),
        pause=lambda seconds: (pauses.append(seconds), ledger.clock.advance(seconds))[0],
    )
    ((delivery_id, attempts),) = ledger.rows("SELECT id, attempts FROM delivery")
    assert ledger.deliveries.begin(delivery_id, attempts)
    return courier.attempt(delivery_id), destination, pauses


def test_objects_are_spaced_by_the_rate(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_deliveries(ledger, 3)
    state, destination, pauses = attempt(ledger, tmp_path, monkeypatch, objects_per_minute=30)
    # None behind the last: whoever comes next waits for his own.
    assert (state, destination.offered, pauses) == (DeliveryState.SENT, 3, [2.0, 2.0])


def test_where_the_next_turn_is_far_the_association_ends_and_nothing_is_in_doubt(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (delivery_id,) = open_deliveries(ledger, 3)
    state, destination, pauses = attempt(ledger, tmp_path, monkeypatch, objects_per_minute=1)
    assert LONGEST_PAUSE_S < 60
    assert (state, destination.offered, pauses) == (DeliveryState.PENDING, 1, [])
    assert ledger.deliveries.due() == []
    ledger.clock.advance(61)
    assert [found.delivery_id for found in ledger.deliveries.due()] == [delivery_id]
    assert [item.in_doubt for item in ledger.deliveries.take_objects(delivery_id)] == [False, False]


def test_a_hold_in_the_middle_stops_the_attempt(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (delivery_id,) = open_deliveries(ledger, 3)

    def hold() -> None:
        if ledger.deliveries.get(delivery_id).state is DeliveryState.SENDING:
            ledger.operations.hold(delivery_id, "asked for")

    state, destination, _ = attempt(ledger, tmp_path, monkeypatch, before=hold)
    assert (state, destination.offered) == (DeliveryState.HELD, 1)


@pytest.mark.parametrize(
    ("silence", "expected"), [(Silence.UNREACHED, BreakerState.OPEN), (None, None)], ids=["peer", "own fault"]
)
def test_only_what_the_peer_is_silent_about_closes_a_destination(
    ledger: Ledger,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    silence: Silence | None,
    expected: BreakerState | None,
) -> None:
    open_deliveries(ledger, 2)
    state, _, _ = attempt(
        ledger, tmp_path, monkeypatch, outcome=Outcome.RETRY, silence=silence, breaker={"failures": 1}
    )
    assert state is DeliveryState.PENDING
    assert [line.state for line in ledger.standings.lines()] == ([] if expected is None else [expected])


@pytest.mark.parametrize("change", ["hold", "cancel"])
def test_what_is_stopped_with_its_last_object_on_its_way_is_sent(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    (delivery_id,) = open_deliveries(ledger, 1)
    state, _, pauses = attempt(
        ledger,
        tmp_path,
        monkeypatch,
        before=lambda: getattr(ledger.operations, change)(delivery_id, "asked for"),
        objects_per_minute=1,
    )
    assert (state, pauses) == (DeliveryState.SENT, [])
