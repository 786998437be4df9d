"""When a series counts as complete, and by which route a series goes whose route is no longer in the settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from config.settings import RouteSettings
from dicom_node.ledger.arrivals import Arrival, ArrivalLedger, IdleArrival
from dicom_node.object_keeping import StoreUnavailable
from dicom_node.series_watch import UNREADABLE_PAUSE_S, SeriesWatch
from dicom_node.states import ArrivalState

ROUTE = RouteSettings(name="new", quiet_period_s=3.0, destinations=("pacs",))


@dataclass
class FakeArrivals:
    """A ledger with one idle arrival, and some in work."""

    last_activity_at: float = 1000.0
    in_work: list[Arrival] = field(default_factory=list)
    completed: list[int] = field(default_factory=list)
    routes: dict[int, str | None] = field(default_factory=dict)

    def idle(self) -> list[IdleArrival]:
        return [IdleArrival(arrival_id=1, route=None, last_activity_at=self.last_activity_at)]

    def complete(self, arrival_id: int, **_: Any) -> bool:
        self.completed.append(arrival_id)
        return True

    def first_instance(self, _: int) -> None:
        return None

    def assign_route(self, arrival_id: int, route: str | None, *, route_settings: str | None) -> None:
        assert (route is None) == (route_settings is None)
        self.routes[arrival_id] = route

    def in_state(self, *states: ArrivalState) -> list[Arrival]:
        return [one for one in self.in_work if one.state in states]


@dataclass
class Clocks:
    """The wall clock, and one that nobody sets."""

    now: float = 1000.0
    ticks: float = 0.0


def watch(ledger: FakeArrivals, clocks: Clocks, route: RouteSettings | None = ROUTE) -> SeriesWatch:
    return SeriesWatch(
        ledger=cast(ArrivalLedger, ledger),
        find_route=lambda _: route,
        clock=lambda: clocks.now,
        known_routes=frozenset({"new"}),
        monotonic=lambda: clocks.ticks,
    )


def test_a_clock_that_is_set_back_keeps_no_series_open() -> None:
    ledger, clocks = FakeArrivals(), Clocks(now=-5000.0)
    node = watch(ledger, clocks)
    node.tick()
    clocks.ticks = 2.9
    # Something came meanwhile: the silence begins anew.
    ledger.last_activity_at = 1001.0
    node.tick()
    clocks.ticks = 5.8
    node.tick()
    assert ledger.completed == []
    clocks.ticks = 5.9
    node.tick()
    assert ledger.completed == [1]


@pytest.mark.parametrize("route", [ROUTE, None])
@pytest.mark.parametrize("state", [ArrivalState.COMPLETE, ArrivalState.ENHANCING, ArrivalState.FOLLOWING])
def test_a_series_in_work_whose_route_was_removed_goes_by_the_one_that_matches_now(
    state: ArrivalState, route: RouteSettings | None
) -> None:
    names = {1: "removed", 2: "new", 3: None}
    in_work = [
        Arrival(
            arrival_id=number,
            series_instance_uid=f"1.{number}",
            study_instance_uid="1",
            generation=1,
            state=state,
            route=name,
            attempts=0,
            completed_at=1.0,
        )
        for number, name in names.items()
    ]
    ledger = FakeArrivals(in_work=in_work)
    watch(ledger, Clocks(), route).route_waiting()
    found = None if route is None else "new"
    assert ledger.routes == {1: found, 3: found}


def test_a_series_whose_files_can_not_be_read_waits_and_holds_up_no_other() -> None:
    class TwoIdle(FakeArrivals):
        def idle(self) -> list[IdleArrival]:
            return [IdleArrival(arrival_id=n, route=None, last_activity_at=900.0) for n in (1, 2)]

        def first_instance(self, arrival_id: int) -> int:  # type: ignore[override]
            return arrival_id

    asked: list[int] = []
    is_broken = True

    def find(stored: Any) -> RouteSettings:
        asked.append(stored)
        if stored == 1 and is_broken:
            raise StoreUnavailable("storage failed: Input/output error")
        return ROUTE

    ledger, clocks = TwoIdle(), Clocks()
    watching = watch(ledger, clocks)
    watching.find_route = find
    assert watching.tick() == [2]
    # Not at every tick, or the log would be full of it.
    watching.tick()
    assert asked.count(1) == 1
    is_broken = False
    clocks.ticks += UNREADABLE_PAUSE_S
    watching.tick()
    assert 1 in ledger.completed
    assert ledger.routes[1] == "new"
