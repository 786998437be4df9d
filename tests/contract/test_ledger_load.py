"""What runs again and again must neither keep others from writing nor cost more with every object."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import event

from dicom_node.ledger.checks import CheckLedger
from dicom_node.ledger.commitment_requests import AnsweringPolicy, CommitmentRequestLedger
from dicom_node.ledger.commitments import CommitmentLedger
from dicom_node.ledger.database import Database
from tests.contract.conftest import CR, Ledger
from tests.contract.test_ledger_deliveries import deliver, open_deliveries

POLICY = AnsweringPolicy(
    committing=frozenset({"pacs"}), sent_counts=False, originals_may_be_replaced=True, wait_s=3600.0
)


def ask(ledger: Ledger, uid: str, numbers: range) -> int:
    """Record a request of a modality; returns its number."""
    return CommitmentRequestLedger(ledger.database).record(
        transaction_uid=uid,
        calling_ae_title="XRAY1",
        host="127.0.0.1",
        source="room-1",
        references=[(CR, f"1.2.1.{number}") for number in numbers],
    )


@contextmanager
def statements(ledger: Ledger) -> Iterator[list[str]]:
    """Collect what is asked of the database."""
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    event.listen(ledger.database.engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(ledger.database.engine, "before_cursor_execute", note)


def test_looking_whether_a_request_is_decided_waits_for_nobody_who_writes(ledger: Ledger) -> None:
    deliver(ledger, open_deliveries(ledger, 2)[0])
    request_id = ask(ledger, "2.25.1", range(1, 3))
    with ledger.database.write():
        assert not CommitmentRequestLedger(ledger.database).decide(request_id, POLICY)


def test_retention_that_finds_nothing_waits_for_nobody_who_writes(ledger: Ledger) -> None:
    open_deliveries(ledger, 2)
    with ledger.database.write():
        assert ledger.retention.purge_delivered(0.0) == []


def test_deciding_a_request_costs_no_more_statements_with_every_object(ledger: Ledger) -> None:
    deliver(ledger, open_deliveries(ledger, 9)[0])
    found = []
    for uid, numbers in (("2.25.1", range(1, 3)), ("2.25.2", range(1, 10))):
        request_id = ask(ledger, uid, numbers)
        with statements(ledger) as seen:
            assert not CommitmentRequestLedger(ledger.database).decide(request_id, POLICY)
        found.append(len(seen))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("look", "expected"),
    [
        (lambda database: CheckLedger(database).known(["0" * 32]), "(key=?)"),
        (lambda database: CommitmentLedger(database).due("pacs", 5.0), "(destination=? AND state=?)"),
    ],
    ids=["keys", "to be committed"],
)
def test_what_is_looked_up_often_has_an_index(
    ledger: Ledger, look: Callable[[Database], object], expected: str
) -> None:
    with statements(ledger) as seen:
        look(ledger.database)
    if ledger.database.engine.dialect.name != "sqlite":
        pytest.skip("PostgreSQL reads small tables whole whatever there is")
    query = next(s for s in seen if s.startswith("SELECT"))
    with ledger.database.read() as connection:
        values = ("1",) * query.count("?")
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", values).fetchall()
    assert any(expected in row[3] for row in plan), plan


def test_the_counts_of_commitments_are_those_of_its_lines(ledger: Ledger) -> None:
    commitments = CommitmentLedger(ledger.database)
    first, second = (open_deliveries(ledger, 1, series=series)[0] for series in ("1", "2"))
    deliver(ledger, first)
    assert commitments.counts(["pacs"]) == (0, 1, ())
    deliver(ledger, second)
    assert commitments.counts(["pacs"]) == (0, len(commitments.lines(["pacs"])), ())
    assert commitments.counts(["other"]) == (0, 0, ())
