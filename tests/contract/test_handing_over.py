"""What a worker that stops gives back: nothing is done twice, and nothing waits for somebody to miss it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dicom_node.hand_over import INTERRUPTED, hand_over
from dicom_node.ledger.arrivals import EnhancementDecision, EnhancementRecord
from dicom_node.states import DeliveryState
from tests.contract.conftest import Ledger

WORKER = "a:worker-0"


@dataclass(frozen=True)
class Claimed:
    workflow_id: str


@dataclass
class Engine:
    """The engine as far as a worker that stops needs it."""

    claimed: list[str]
    asked: list[dict[str, Any]] = field(default_factory=list)
    done: list[tuple[str, str]] = field(default_factory=list)

    def list_workflows(self, **question: Any) -> list[Claimed]:
        self.asked.append(question)
        return [Claimed(name) for name in self.claimed]

    def cancel_workflow(self, name: str) -> None:
        self.done.append(("cancel", name))

    def resume_workflow(self, name: str) -> None:
        self.done.append(("resume", name))


def give(ledger: Ledger, *claimed: str, counted: tuple[int, ...] = ()) -> Engine:
    engine = Engine(list(claimed))
    given = hand_over(
        engine,  # type: ignore[arg-type]
        WORKER,
        arrivals=ledger.arrivals,
        deliveries=ledger.deliveries,
        counted=counted,
    )
    assert given == len(claimed)
    assert engine.asked[0]["executor_id"] == WORKER
    return engine


def delivery(ledger: Ledger) -> int:
    arrival = ledger.complete(2)
    for instance_id in ledger.arrivals.begin(arrival, 0):
        ledger.pass_through(instance_id)
    ledger.arrivals.conclude(arrival, destinations=["pacs"], send_original=True, send_enhanced=True, late=None)
    (due,) = ledger.deliveries.due()
    return due.delivery_id


def test_enhancement_is_resumed_by_whoever_is_first(ledger: Ledger) -> None:
    engine = give(ledger, "enhance:1.2.1:1:0", "enhance:1.2.1:1:0-3", "follow:1.2.9:1:0")
    assert engine.done == [
        ("resume", "enhance:1.2.1:1:0"),
        ("resume", "enhance:1.2.1:1:0-3"),
        ("resume", "follow:1.2.9:1:0"),
    ]


def test_a_delivery_in_work_is_due_at_once_under_the_next_number_and_what_the_old_one_writes_is_late(
    ledger: Ledger,
) -> None:
    number = delivery(ledger)
    assert ledger.deliveries.begin(number, 0)
    assert len(ledger.deliveries.take_objects(number)) == 2
    engine = give(ledger, f"deliver:{number}:0")
    assert engine.done == [("cancel", f"deliver:{number}:0")]
    (due,) = ledger.deliveries.due()
    assert (due.delivery_id, due.attempts, due.state) == (number, 1, DeliveryState.PENDING)
    assert ledger.rows("SELECT reason FROM delivery") == [(INTERRUPTED,)]
    assert ledger.deliveries.begin(number, 1)
    # The one that was stopped has an answer after all.
    assert ledger.deliveries.settle(number, failure="late", retry_in_s=None, attempt=1) is DeliveryState.SENDING


def test_a_delivery_that_was_claimed_and_not_begun_goes_on_under_the_next_number(ledger: Ledger) -> None:
    number = delivery(ledger)
    give(ledger, f"deliver:{number}:0")
    (due,) = ledger.deliveries.due()
    assert (due.attempts, due.state) == (1, DeliveryState.PENDING)
    assert ledger.deliveries.begin(number, 1)


def test_a_delivery_that_another_one_has_begun_is_left_alone(ledger: Ledger) -> None:
    number = delivery(ledger)
    ledger.deliveries.skip_attempt(number, 0)
    assert ledger.deliveries.begin(number, 1)
    give(ledger, f"deliver:{number}:0")
    now = ledger.deliveries.get(number)
    assert (now.state, now.attempts) == (DeliveryState.SENDING, 2)


def test_a_stop_in_the_middle_of_an_image_is_no_attempt_that_killed_the_worker(ledger: Ledger) -> None:
    arrival = ledger.complete(2)
    one, other = ledger.arrivals.begin(arrival, 0)
    assert ledger.arrivals.count_attempt(one) == 1
    assert ledger.arrivals.count_attempt(other) == 1
    ledger.arrivals.decide(other, EnhancementRecord(decision=EnhancementDecision.PASSED_THROUGH, reason="no image"))
    give(ledger, counted=(one, other))
    assert ledger.arrivals.attempts_at(one) == 0
    assert ledger.rows("SELECT attempts FROM enhancement ORDER BY instance_id") == [(0,), (1,)]
    # Given back twice, it does not become negative.
    give(ledger, counted=(one,))
    assert ledger.arrivals.attempts_at(one) == 0
