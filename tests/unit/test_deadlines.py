"""The originals of a series go on when its route's deadline has passed, whatever becomes of other series."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from config.settings import RouteSettings
from dicom_node.ledger.arrivals import Arrival
from dicom_node.states import ArrivalState
from dicom_node.workflows import LATE, Workflows


def arrival(number: int, *, completed_at: float) -> Arrival:
    return Arrival(
        arrival_id=number,
        series_instance_uid=f"1.2.{number}",
        study_instance_uid="1.2",
        generation=1,
        state=ArrivalState.COMPLETE,
        route="r",
        attempts=0,
        completed_at=completed_at,
    )


@dataclass
class FakeArrivals:
    """Arrivals of a ledger that refuses to conclude one of them."""

    found: list[Arrival]
    broken: int
    late: dict[int, str | None] = field(default_factory=dict)

    def in_state(self, *_: ArrivalState) -> list[Arrival]:
        return self.found

    def conclude(self, arrival_id: int, *, late: str | None, **_: Any) -> ArrivalState:
        if arrival_id == self.broken:
            raise RuntimeError("nobody foresaw this")
        self.late[arrival_id] = late
        return ArrivalState.PASSED_THROUGH


@dataclass
class FakeParts:
    """What `Workflows` needs to look after deadlines at second 1000."""

    arrivals: FakeArrivals

    def find_route(self, _: Arrival) -> RouteSettings:
        return RouteSettings(name="r", deadline_s=100.0, destinations=("pacs",))

    def clock(self) -> float:
        return 1000.0

    def monotonic(self) -> float:
        return 5.0


class Waiting(Workflows):
    """Workflows without an engine."""

    def __init__(self, parts: Any) -> None:
        self._parts = parts
        self._waits_since = {}


def test_a_series_that_can_t_be_concluded_keeps_no_other_one_past_its_deadline() -> None:
    ledger = FakeArrivals([arrival(n, completed_at=at) for n, at in ((1, 1.0), (2, 899.0), (3, 901.0))], broken=1)
    Waiting(FakeParts(ledger)).release_overdue()
    assert ledger.late == {2: LATE}
