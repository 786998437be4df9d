"""Which processes are alive, on every database."""

from __future__ import annotations

import time

import pytest

from dicom_node.ledger.database import TAKING_OVER, Database
from dicom_node.ledger.processes import DEAD_AFTER_S, HEARTBEAT_S, NameTaken, ProcessLedger
from dicom_node.ledger.reception import ReceptionLedger
from tests.contract.conftest import Ledger


def beat(ledger: Ledger, seconds: float, *processes: ProcessLedger) -> None:
    """Let time pass while processes are heard of."""
    for _ in range(int(seconds / HEARTBEAT_S)):
        ledger.clock.advance(HEARTBEAT_S)
        for process in processes:
            process.beat()


def worker(ledger: Ledger, name: str) -> ProcessLedger:
    process = ProcessLedger(ledger.database, name=name, role="worker")
    process.join()
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


def test_a_name_belongs_to_one_machine(ledger: Ledger) -> None:
    first = ProcessLedger(ledger.database, name="a", role="worker", machine="one")
    first.join()

    def pause(seconds: float) -> None:
        ledger.clock.advance(seconds)
        first.beat()

    second = ProcessLedger(ledger.database, name="a", role="worker", machine="two")
    with pytest.raises(NameTaken, match=r"node\.name"):
        second.join(pause)
    first.beat()


def test_a_name_goes_to_who_starts_again_where_it_was(ledger: Ledger) -> None:
    ProcessLedger(ledger.database, name="a", role="worker", machine="one").join()
    again = ProcessLedger(ledger.database, name="a", role="worker", machine="one")
    again.join(lambda _: pytest.fail("it need not wait"))
    again.beat()


def test_a_name_whose_machine_is_silent_is_free_after_a_while(ledger: Ledger) -> None:
    first = ProcessLedger(ledger.database, name="a", role="worker", machine="one")
    first.join()
    second = ProcessLedger(ledger.database, name="a", role="worker", machine="two")
    second.join(ledger.clock.advance)
    with pytest.raises(NameTaken):
        first.beat()
    # Nor does its end in order take the name from the other.
    first.leave()
    second.beat()
    assert second.alive("worker") == {"a"}


def test_a_name_is_not_kept_by_a_clock_that_is_wrong(ledger: Ledger) -> None:
    first = ProcessLedger(ledger.database, name="a", role="worker", machine="one")
    ledger.clock.advance(3600)
    first.join()
    ledger.clock.advance(-3600)
    ProcessLedger(ledger.database, name="a", role="worker", machine="two").join(
        lambda _: pytest.fail("it was not heard of lately")
    )


def test_associations_of_receivers_that_are_gone_are_closed_and_those_of_others_are_not(ledger: Ledger) -> None:
    ours = ledger.associate()
    other = ReceptionLedger(ledger.database, "gone:receiver")
    theirs = other.open_association(calling_ae_title="XRAY1", called_ae_title="LOWDOSE", host="127.0.0.1", port=1)
    ledger.receive(theirs)
    assert ledger.arrivals.idle() == []
    assert ledger.reception.close_of_others({"test:receiver"}) == 1
    assert len(ledger.arrivals.idle()) == 1
    query = "SELECT outcome FROM association WHERE id = "
    assert ledger.rows(f"{query}{theirs}") == [("interrupted",)]
    assert ledger.rows(f"{query}{ours}") == [(None,)]
    # It was only cut off: its word counts.
    other.close_association(theirs, outcome="released", acknowledged=1)
    assert ledger.rows(f"{query}{theirs}") == [("released",)]


def test_only_one_process_at_a_time_takes_over(ledger: Ledger) -> None:
    if ledger.database.engine.dialect.name != "postgresql":
        pytest.skip("on SQLite all processes are of one machine")
    with ledger.database.exclusively(TAKING_OVER) as first, ledger.database.exclusively(TAKING_OVER) as second:
        assert (first, second) == (True, False)
    with ledger.database.exclusively(TAKING_OVER) as again:
        assert again


def test_all_machines_go_by_the_clock_of_the_database(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    if ledger.database.engine.dialect.name != "postgresql":
        pytest.skip("on SQLite all processes are of one machine")
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() - 600)
    slow = Database(ledger.url)
    slow.set_clock()
    assert abs(slow.now() - right()) < 60
    slow.close()
