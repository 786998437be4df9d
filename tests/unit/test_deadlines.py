"""The originals of a series go on when its route's deadline has passed, whatever becomes of other series."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from config.settings import Late, RouteSettings
from dicom_node.ledger.arrivals import Arrival, StoredInstance
from dicom_node.states import ArrivalState
from dicom_node.workflows import GIVEN_UP, LATE, Workflows

ROUTE = RouteSettings(name="r", deadline_s=100.0, destinations=("pacs",))


def arrival(number: int, *, completed_at: float, state: ArrivalState = ArrivalState.COMPLETE) -> Arrival:
    return Arrival(
        arrival_id=number,
        series_instance_uid=f"1.2.{number}",
        study_instance_uid="1.2",
        generation=1,
        state=state,
        route="r",
        attempts=0,
        completed_at=completed_at,
    )


@dataclass
class FakeArrivals:
    """Arrivals of a ledger that refuses to conclude one of them."""

    found: list[Arrival]
    broken: int = 0
    late: dict[int, str | None] = field(default_factory=dict)
    released: dict[int, bool] = field(default_factory=dict)
    given_up: dict[int, str | None] = field(default_factory=dict)

    def in_state(self, *_: ArrivalState) -> list[Arrival]:
        return self.found

    def conclude(self, arrival_id: int, *, late: str | None, **_: Any) -> ArrivalState:
        if arrival_id == self.broken:
            raise RuntimeError("nobody foresaw this")
        self.late[arrival_id] = late
        return ArrivalState.PASSED_THROUGH

    def release(self, arrival_id: int, *, shadow: bool = False, **_: Any) -> None:
        self.released[arrival_id] = shadow

    def end_following(self, arrival_id: int, *, given_up: str | None, **_: Any) -> ArrivalState:
        self.given_up[arrival_id] = given_up
        return ArrivalState.PASSED_THROUGH

    def instances(self, _: int) -> list[StoredInstance]:
        return []


@dataclass
class FakeParts:
    """What `Workflows` needs to look after deadlines at second 1000."""

    arrivals: FakeArrivals
    route: RouteSettings | None = ROUTE
    now: float = 1000.0
    ticks: float = 5.0

    def find_route(self, _: Arrival) -> RouteSettings | None:
        return self.route

    def clock(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.ticks


class Waiting(Workflows):
    """Workflows without an engine."""

    def __init__(self, parts: Any) -> None:
        self._parts = parts
        self._waits_since = {}


def test_a_series_that_can_t_be_concluded_keeps_no_other_one_past_its_deadline() -> None:
    ledger = FakeArrivals([arrival(n, completed_at=at) for n, at in ((1, 1.0), (2, 899.0), (3, 901.0))], broken=1)
    Waiting(FakeParts(ledger)).release_overdue()
    assert ledger.late == {2: LATE}


def test_a_clock_that_is_set_back_holds_no_original_past_its_deadline() -> None:
    ledger = FakeArrivals([arrival(1, completed_at=1000.0)])
    parts = FakeParts(ledger, now=1000.0)
    node = Waiting(parts)
    node.release_overdue()
    parts.now, parts.ticks = -5000.0, 104.0
    node.release_overdue()
    assert ledger.late == {}
    parts.ticks = 105.0
    node.release_overdue()
    assert ledger.late == {1: LATE}


def test_what_follows_goes_on_behind_its_originals_up_to_its_own_limit() -> None:
    found = [arrival(1, completed_at=900.0), arrival(2, completed_at=600.0, state=ArrivalState.FOLLOWING)]
    found += [arrival(3, completed_at=701.0, state=ArrivalState.FOLLOWING)]
    ledger = FakeArrivals(found)
    route = ROUTE.model_copy(update={"late": Late.FOLLOW, "follow_limit_s": 300.0})
    Waiting(FakeParts(ledger, route=route)).release_overdue()
    assert ledger.released == {1: False}
    assert ledger.given_up == {2: GIVEN_UP}
    assert ledger.late == {}


def test_a_series_in_shadow_mode_is_measured_behind_its_deadline_too() -> None:
    ledger = FakeArrivals([arrival(1, completed_at=900.0, state=ArrivalState.ENHANCING)])
    Waiting(FakeParts(ledger, route=ROUTE.model_copy(update={"shadow": True}))).release_overdue()
    assert (ledger.released, ledger.late) == ({1: True}, {})


def test_a_series_without_a_route_waits_for_one() -> None:
    ledger = FakeArrivals([arrival(1, completed_at=1.0, state=state) for state in ArrivalState])
    Waiting(FakeParts(ledger, route=None)).release_overdue()
    assert (ledger.released, ledger.late, ledger.given_up) == ({}, {}, {})
