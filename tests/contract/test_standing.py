"""The care for destinations that are down: what a probe has to find, and that no failover gets round a hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.settings import DicomDestinationSettings
from dicom_node.destinations.base import Outcome, ProbeStep, Silence, StepState
from dicom_node.ledger.destinations import HoldScope
from dicom_node.standing import StandingWatch
from dicom_node.states import BreakerState, DeliveryState
from tests.contract.conftest import Ledger
from tests.contract.test_courier import FakeDestination, attempt
from tests.contract.test_ledger_deliveries import open_deliveries


class Probed(FakeDestination):
    """A destination whose probe ends as it is told; takes no objects."""

    def __init__(self, *steps: tuple[str, StepState]) -> None:
        super().__init__(Outcome.RETRY, Silence.UNREACHED, lambda: None)
        self.steps = steps

    def probe(self) -> list[ProbeStep]:
        return [ProbeStep(name=name, state=state, sentence=f"{name} {state}") for name, state in self.steps]


def watch(ledger: Ledger, destination: FakeDestination, **settings: object) -> StandingWatch:
    """Return the watch over one destination named pacs."""
    own = DicomDestinationSettings.model_validate(
        {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104, **settings}
    )
    return StandingWatch(
        standings=ledger.standings,
        deliveries=ledger.deliveries,
        operations=ledger.operations,
        settings={"pacs": own},
        destinations={"pacs": destination},
        clock=ledger.clock,
    )


def fall_silent(ledger: Ledger, delivery_id: int) -> None:
    """Let pacs be down, and its probe be due."""
    ledger.standings.note_silence("pacs", delivery_id, "refused", sent_something=False, limit=1, probe_in_s=0.0)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ((("tcp", StepState.OK), ("association", StepState.OK), ("echo", StepState.OK)), BreakerState.CLOSED),
        # An archive that takes CT alone, say: what it is asked about here, it need not take.
        (
            (("association", StepState.OK), ("contexts", StepState.FAILED), ("echo", StepState.OK)),
            BreakerState.CLOSED,
        ),
        ((("tcp", StepState.OK), ("association", StepState.FAILED)), BreakerState.OPEN),
        ((("association", StepState.OK), ("echo", StepState.FAILED)), BreakerState.OPEN),
    ],
    ids=["all", "other classes", "rejected", "no echo"],
)
def test_a_destination_is_back_when_it_answers_whatever_it_takes(
    ledger: Ledger, steps: tuple[tuple[str, StepState], ...], expected: BreakerState
) -> None:
    (delivery_id,) = open_deliveries(ledger, 1)
    fall_silent(ledger, delivery_id)
    watch(ledger, Probed(*steps)).probe()
    (line,) = ledger.standings.lines()
    assert line.state is expected
    if expected is BreakerState.OPEN:
        # What is wrong now, not what was wrong at first.
        assert line.reason == f"{steps[-1][0]} failed"


def test_an_operators_hold_of_a_destination_is_not_got_round_by_its_failover(ledger: Ledger) -> None:
    (delivery_id,) = open_deliveries(ledger, 1)
    fall_silent(ledger, delivery_id)
    ledger.standings.hold(HoldScope.DESTINATION, "pacs", "asked for")
    ledger.clock.advance(3600)
    care = watch(ledger, Probed(), failover="other")
    care.give_up_and_turn()
    assert ledger.deliveries.get(delivery_id).state is DeliveryState.PENDING
    ledger.standings.release(HoldScope.DESTINATION, "pacs", "asked for")
    care.give_up_and_turn()
    assert ledger.deliveries.get(delivery_id).state is DeliveryState.REROUTED


def test_an_object_that_no_peer_takes_says_nothing_of_its_destination(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_deliveries(ledger, 1)
    state, _, _ = attempt(
        ledger, tmp_path, monkeypatch, outcome=Outcome.REFUSED, silence=Silence.LOST, breaker={"failures": 1}
    )
    assert state is DeliveryState.REFUSED
    assert ledger.standings.lines() == []
