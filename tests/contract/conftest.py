"""The ledger on each database that it supports, with a clock that tests move."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dicom_node.ledger.arrivals import (
    ArrivalLedger,
    DerivedInstance,
    EnhancementDecision,
    EnhancementRecord,
)
from dicom_node.ledger.balance import BalanceLedger
from dicom_node.ledger.database import Database, ledger_url
from dicom_node.ledger.deliveries import DeliveryLedger
from dicom_node.ledger.destinations import DestinationLedger
from dicom_node.ledger.operations import OperationLedger
from dicom_node.ledger.reception import ReceivedInstance, ReceptionLedger, Recorded
from dicom_node.ledger.retention import RetentionLedger

CR = "1.2.840.10008.5.1.4.1.1.1"
EXPLICIT = "1.2.840.10008.1.2.1"


@dataclass
class Clock:
    """Seconds since the epoch, moved by the tests alone."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


@dataclass
class Ledger:
    """All sides of one ledger, and short ways to what tests need."""

    url: str
    clock: Clock
    database: Database = field(init=False)

    def __post_init__(self) -> None:
        self.database = Database(self.url, self.clock)
        self.database.create()
        self.reception = ReceptionLedger(self.database, "test:receiver")
        self.arrivals = ArrivalLedger(self.database)
        self.deliveries = DeliveryLedger(self.database)
        self.operations = OperationLedger(self.database)
        self.standings = DestinationLedger(self.database)
        self.balance = BalanceLedger(self.database)
        self.retention = RetentionLedger(self.database)

    def associate(self) -> int:
        """Open an association."""
        return self.reception.open_association(
            calling_ae_title="XRAY1", called_ae_title="LOWDOSE", host="127.0.0.1", port=4711
        )

    def release(self, association: int, acknowledged: int) -> None:
        """End an association in order."""
        self.reception.close_association(association, outcome="released", acknowledged=acknowledged)

    def receive(self, association: int, number: int = 1, *, series: str = "1", content: str = "a") -> Recorded:
        """Record an object."""
        return self.reception.record_received(received(association, number, series=series, content=content))

    def complete(self, count: int = 1, *, series: str = "1", first: int = 1, content: str = "a") -> int:
        """Record `count` objects on one association and complete their arrival; returns its number."""
        association = self.associate()
        for number in range(first, first + count):
            self.receive(association, number, series=series, content=content)
        self.release(association, count)
        idle = {
            entry.arrival_id: entry
            for entry in self.arrivals.idle()
            if self.arrivals.get(entry.arrival_id).series_instance_uid == f"1.2.{series}"
        }
        (entry,) = idle.values()
        assert self.arrivals.complete(entry.arrival_id, last_activity_at=entry.last_activity_at)
        return entry.arrival_id

    def enhance(self, instance_id: int) -> None:
        """Decide that an image was enhanced."""
        record = EnhancementRecord(decision=EnhancementDecision.ENHANCED, strength=0.7)
        assert self.arrivals.decide(instance_id, record, derived(instance_id))

    def pass_through(self, instance_id: int, reason: str = "not an image") -> None:
        """Decide that an image is passed through."""
        record = EnhancementRecord(decision=EnhancementDecision.PASSED_THROUGH, reason=reason)
        assert self.arrivals.decide(instance_id, record)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with self.database.read() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(query)]


def received(association: int, number: int = 1, *, series: str = "1", content: str = "a") -> ReceivedInstance:
    """Return an object to record; `content` stands for the bytes of its data set."""
    return ReceivedInstance(
        association_id=association,
        sop_class_uid=CR,
        sop_instance_uid=f"1.2.{series}.{number}",
        study_instance_uid="1.2",
        series_instance_uid=f"1.2.{series}",
        transfer_syntax_uid=EXPLICIT,
        key=f"key-{association}-{series}-{number}-{content}",
        size=1000,
        dataset_offset=300,
        digest=content * 64,
    )


def derived(source: int) -> DerivedInstance:
    """Return what was derived from an instance."""
    return DerivedInstance(
        sop_class_uid=CR,
        sop_instance_uid=f"2.25.{source}",
        study_instance_uid="1.2",
        series_instance_uid="2.25.1000",
        transfer_syntax_uid=EXPLICIT,
        key=f"derived-{source}",
        size=900,
        dataset_offset=300,
        digest="d" * 64,
    )


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    """Return an empty ledger on SQLite, and on PostgreSQL."""
    if request.param == "sqlite":
        url = ledger_url("", tmp_path)
    else:
        url = ledger_url(request.getfixturevalue("postgres").create_database(), tmp_path)
    found = Ledger(url, Clock())
    yield found
    found.database.close()
