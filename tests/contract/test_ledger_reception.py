"""The receiver's side of the ledger, on every database."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from dicom_node.errors import LedgerUnavailable
from dicom_node.ledger.database import Database
from dicom_node.ledger.reception import RecordOutcome
from tests.contract.conftest import Ledger, received

NEW, DUPLICATE, REVISION = RecordOutcome.NEW, RecordOutcome.DUPLICATE, RecordOutcome.REVISION


def test_an_object_is_new_once_and_then_a_duplicate_of_the_same_row(ledger: Ledger) -> None:
    association = ledger.associate()
    first = ledger.receive(association)
    second = ledger.receive(association)
    assert (first.outcome, second.outcome) == (NEW, DUPLICATE)
    assert first.instance_id == second.instance_id
    assert len(ledger.rows("SELECT id FROM instance")) == 1


def test_the_same_uid_with_other_content_is_a_revision_and_both_are_kept(ledger: Ledger) -> None:
    association = ledger.associate()
    outcomes = [ledger.receive(association, content=content).outcome for content in "abbac"]
    assert outcomes == [NEW, REVISION, DUPLICATE, DUPLICATE, REVISION]
    assert ledger.rows("SELECT revision, digest FROM instance ORDER BY revision") == [
        (0, "a" * 64),
        (1, "b" * 64),
        (2, "c" * 64),
    ]
    assert ledger.rows("SELECT reason FROM instance WHERE revision = 1")[0][0].startswith("revision 1 of a SOP")


def test_objects_of_a_series_share_one_open_arrival(ledger: Ledger) -> None:
    first, second = ledger.associate(), ledger.associate()
    ledger.receive(first, 1)
    ledger.receive(second, 2)
    ledger.receive(first, 3, series="2")
    assert ledger.rows("SELECT series_instance_uid, generation, state FROM arrival ORDER BY id") == [
        ("1.2.1", 1, "open"),
        ("1.2.2", 1, "open"),
    ]


def test_a_late_object_opens_the_next_generation_of_its_series(ledger: Ledger) -> None:
    ledger.complete(2)
    association = ledger.associate()
    assert ledger.receive(association, 3).outcome is NEW
    assert ledger.rows("SELECT generation, state FROM arrival ORDER BY id") == [(1, "complete"), (2, "open")]


def test_a_late_duplicate_opens_nothing(ledger: Ledger) -> None:
    ledger.complete(2)
    assert ledger.receive(ledger.associate(), 2).outcome is DUPLICATE
    assert ledger.rows("SELECT generation FROM arrival") == [(1,)]


def test_a_quarantined_object_stands_in_the_balance_and_does_not_claim_its_uid(ledger: Ledger) -> None:
    association = ledger.associate()
    ledger.reception.record_quarantined(
        association_id=association,
        key="q-1",
        size=10,
        dataset_offset=5,
        digest="e" * 64,
        reason="no data set",
        sop_instance_uid="1.2.1.1",
    )
    assert ledger.receive(association, 1).outcome is NEW
    total = ledger.balance.balance().total
    assert (total.received, total.quarantined, total.in_work) == (2, 1, 1)


def test_all_of_a_group_are_recorded_or_none(ledger: Ledger) -> None:
    association = ledger.associate()
    group = [received(association, number) for number in (1, 2)]
    unknown_association = received(association + 1000, 3)
    with pytest.raises(LedgerUnavailable):
        ledger.reception.record_all([*group, unknown_association])
    assert ledger.rows("SELECT id FROM instance") == []
    assert [one.outcome for one in ledger.reception.record_all(group)] == [NEW, NEW]


def test_a_receiver_closes_what_its_earlier_run_left_open_and_nothing_else(ledger: Ledger) -> None:
    left = ledger.associate()
    ended = ledger.associate()
    ledger.release(ended, 7)
    assert ledger.reception.close_left_open() == 1
    assert ledger.rows("SELECT id, outcome, acknowledged FROM association ORDER BY id") == [
        (left, "interrupted", None),
        (ended, "released", 7),
    ]
    assert ledger.reception.close_left_open() == 0


def test_rejections_of_the_same_kind_share_a_row(ledger: Ledger) -> None:
    for title in ("A", "A", "B"):
        ledger.reception.record_rejection(
            calling_ae_title=title, called_ae_title="LOWDOSE", host="127.0.0.1", reason="not known"
        )
    assert ledger.rows("SELECT calling_ae_title, count FROM rejection ORDER BY calling_ae_title") == [
        ("A", 2),
        ("B", 1),
    ]


def test_of_many_threads_with_the_same_object_exactly_one_is_new(ledger: Ledger) -> None:
    association = ledger.associate()
    together = threading.Barrier(8)

    def record(_: int) -> RecordOutcome:
        together.wait(10)
        return ledger.receive(association).outcome

    for round_ in range(3):
        with ThreadPoolExecutor(8) as pool:
            outcomes = list(pool.map(record, range(8)))
        assert outcomes.count(NEW) == (1 if round_ == 0 else 0)
        assert outcomes.count(DUPLICATE) == 8 - outcomes.count(NEW)
    assert len(ledger.rows("SELECT id FROM instance")) == 1


def test_of_many_threads_with_different_content_each_gets_a_revision_of_its_own(ledger: Ledger) -> None:
    association = ledger.associate()
    together = threading.Barrier(3)

    def record(content: str) -> RecordOutcome:
        together.wait(10)
        return ledger.receive(association, content=content).outcome

    with ThreadPoolExecutor(3) as pool:
        outcomes = list(pool.map(record, "abc"))
    assert sorted(outcome.value for outcome in outcomes) == ["new", "revision", "revision"]
    assert ledger.rows("SELECT revision FROM instance ORDER BY revision") == [(0,), (1,), (2,)]
    assert len(ledger.rows("SELECT id FROM arrival")) == 1


def test_of_many_threads_that_open_the_same_series_one_arrival_comes(ledger: Ledger) -> None:
    association = ledger.associate()
    together = threading.Barrier(8)

    def record(number: int) -> RecordOutcome:
        together.wait(10)
        return ledger.receive(association, number).outcome

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(record, range(8))) == {NEW}
    assert len(ledger.rows("SELECT id FROM arrival")) == 1
    assert len(ledger.rows("SELECT id FROM instance")) == 8


def test_what_was_recorded_is_there_for_another_connection(ledger: Ledger) -> None:
    ledger.receive(ledger.associate())
    other = Database(ledger.url)
    try:
        with other.read() as connection:
            assert connection.execute(text("SELECT count(*) FROM instance")).scalar() == 1
    finally:
        other.close()


def test_every_change_is_in_the_audit(ledger: Ledger) -> None:
    ledger.receive(ledger.associate())
    assert ledger.rows("SELECT subject, from_state, to_state, event FROM event ORDER BY id") == [
        ("arrival", None, "open", "open"),
        ("instance", None, "stored", "receive"),
    ]


def test_a_commit_on_sqlite_waits_for_the_disk(ledger: Ledger) -> None:
    if not ledger.url.startswith("sqlite"):
        assert ledger.rows("SHOW fsync") == [("on",)]
        assert ledger.rows("SHOW synchronous_commit") == [("on",)]
        return
    with ledger.database.write() as connection:
        settings = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    # 2 is FULL (sqlite.org/pragma.html#pragma_synchronous).
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_of_many_rejections_the_latest_are_kept(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicom_node.ledger.reception.MAX_REJECTIONS", 3)
    for title in ("A", "B", "C", "D", "C", "E"):
        ledger.clock.advance(1)
        ledger.reception.record_rejection(calling_ae_title=title, called_ae_title="X", host="h", reason="r")
    assert ledger.rows("SELECT calling_ae_title, count FROM rejection ORDER BY calling_ae_title") == [
        ("C", 2),
        ("D", 1),
        ("E", 1),
    ]
