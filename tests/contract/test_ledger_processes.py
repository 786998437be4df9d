"""Which processes are alive, on every database."""

from __future__ import annotations

from dicom_node.ledger.processes import DEAD_AFTER_S, HEARTBEAT_S, ProcessLedger
from tests.contract.conftest import Ledger


def beat(ledger: Ledger, seconds: float, *processes: ProcessLedger) -> None:
    """Let time pass while processes are heard of."""
    for _ in range(int(seconds / HEARTBEAT_S)):
        ledger.clock.advance(HEARTBEAT_S)
        for process in processes:
            process.beat()


def worker(ledger: Ledger, name: str) -> ProcessLedger:
    process = ProcessLedger(ledger.database, name=name, role="worker")
    process.beat()
    return process


def test_a_worker_that_was_silent_for_long_is_dead(ledger: Ledger) -> None:
    first, second = worker(ledger, "a"), worker(ledger, "b")
    beat(ledger, DEAD_AFTER_S, first, second)
    assert first.alive("worker") == {"a", "b"}
    beat(ledger, DEAD_AFTER_S + HEARTBEAT_S, first)
    assert first.alive("worker") == {"a"}
    assert first.can_judge()


def test_a_worker_that_ended_in_order_is_not_alive(ledger: Ledger) -> None:
    first, second = worker(ledger, "a"), worker(ledger, "b")
    second.leave()
    assert first.alive("worker") == {"a"}
    assert first.alive("receiver") == {"a"}


def test_nobody_is_taken_for_dead_because_the_ledger_was_away(ledger: Ledger) -> None:
    first, second = worker(ledger, "a"), worker(ledger, "b")
    beat(ledger, DEAD_AFTER_S, first, second)
    assert first.can_judge()
    # Neither could write.
    ledger.clock.advance(DEAD_AFTER_S * 3)
    assert not first.can_judge()
    first.beat()
    assert first.alive("worker") == {"a"}
    assert not first.can_judge()
    beat(ledger, DEAD_AFTER_S, first, second)
    assert first.can_judge()
    assert first.alive("worker") == {"a", "b"}


def test_a_process_is_alive_to_itself(ledger: Ledger) -> None:
    first = worker(ledger, "a")
    ledger.clock.advance(DEAD_AFTER_S * 2)
    assert first.alive("worker") == {"a"}
