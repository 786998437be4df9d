"""When is a series complete: the association that carried it has ended, and a quiet period has passed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from config.settings import RouteSettings
from dicom_node.fault_points import fault_point
from dicom_node.ledger.arrivals import ArrivalLedger, StoredInstance
from dicom_node.object_keeping import StoreUnavailable
from dicom_node.observation.correlation import follow, fresh
from dicom_node.observation.definitions import STAGE_SECONDS
from dicom_node.observation.metering import observe
from dicom_node.observation.tracing import emit
from dicom_node.states import ArrivalState

log = logging.getLogger(__name__)

UNREADABLE_PAUSE_S = 5.0
NO_ROUTE = "no route matches: add [[routes]] or [fallback] for it to the settings, then `dicom-node reload`"


def is_quiet(now: float, last_activity_at: float, quiet_period_s: float) -> bool:
    """Return whether a series without an open association counts as complete."""
    return now - last_activity_at >= quiet_period_s


@dataclass(kw_only=True)
class SeriesWatch:
    """Completes arrivals; run it often.

    A guess that comes too early is harmless: an instance that arrives later opens the next generation.

    Parameters
    ----------
    ledger
        The arrivals.
    find_route
        Route for the instance that opened an arrival, or None; StoreUnavailable if that can't be known now.
    clock
        Seconds since the epoch.
    known_routes
        Names of the routes in the settings, the fallback among them.
    monotonic
        Seconds of a clock that nobody sets.
    """

    ledger: ArrivalLedger
    find_route: Callable[[StoredInstance], RouteSettings | None]
    clock: Callable[[], float]
    known_routes: frozenset[str] = frozenset()
    monotonic: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._routes: dict[int, RouteSettings | None] = {}
        # When a series whose files could not be read is looked at again.
        self._again_at: dict[int, float] = {}
        # Of each idle arrival its last activity, and when this process first saw it: the wall clock may be set back.
        self._idle_since: dict[int, tuple[float, float]] = {}

    @fresh
    def tick(self) -> list[int]:
        """Complete the arrivals that have been quiet for long enough; returns their numbers."""
        completed = []
        idle = self.ledger.idle()
        self._routes = {a.arrival_id: self._routes[a.arrival_id] for a in idle if a.arrival_id in self._routes}
        since = {a.arrival_id: (a.last_activity_at, self.monotonic()) for a in idle}
        self._idle_since = {
            number: known if (known := self._idle_since.get(number)) and known[0] == seen[0] else seen
            for number, seen in since.items()
        }
        self._again_at = {a.arrival_id: self._again_at[a.arrival_id] for a in idle if a.arrival_id in self._again_at}
        for arrival in idle:
            if self.monotonic() < self._again_at.get(arrival.arrival_id, 0.0):
                continue
            follow(arrival.study_instance_uid)
            try:
                route = self._route(arrival.arrival_id)
            except StoreUnavailable as error:
                # It may be this file alone: the other series go on.
                self._again_at[arrival.arrival_id] = self.monotonic() + UNREADABLE_PAUSE_S
                log.warning("Series waits for its files", extra={"arrival": arrival.arrival_id, "reason": str(error)})
                continue
            quiet_period_s = (
                route.quiet_period_s if route is not None else RouteSettings.model_fields["quiet_period_s"].default
            )
            watched_s = self.monotonic() - self._idle_since[arrival.arrival_id][1]
            if not (
                is_quiet(self.clock(), arrival.last_activity_at, quiet_period_s) or watched_s >= quiet_period_s > 0
            ):
                continue
            self._write_route(arrival.arrival_id, route)
            fault_point("series.routed")
            if self.ledger.complete(arrival.arrival_id, last_activity_at=arrival.last_activity_at):
                log.info(
                    "Series complete", extra={"arrival": arrival.arrival_id, "route": route.name if route else None}
                )
                observe(STAGE_SECONDS, max(0.0, self.clock() - arrival.last_activity_at), "complete")
                emit("complete", int(arrival.last_activity_at * 1e9), arrival=arrival.arrival_id)
                fault_point("series.completed")
                completed.append(arrival.arrival_id)
        return completed

    def route_waiting(self) -> None:
        """Find a route for arrivals in work that have none in the settings; at the start, as those may have changed.

        A series whose route was renamed or removed goes on by the one that takes it now; where none does, it waits.
        """
        for arrival in self.ledger.in_state(ArrivalState.COMPLETE, ArrivalState.ENHANCING, ArrivalState.FOLLOWING):
            if arrival.route is None or arrival.route not in self.known_routes:
                self._write_route(arrival.arrival_id, self.find_route(self.ledger.first_instance(arrival.arrival_id)))

    def _route(self, arrival_id: int) -> RouteSettings | None:
        # The header of the first instance is read once for each arrival, not at every tick.
        if arrival_id not in self._routes:
            self._routes[arrival_id] = self.find_route(self.ledger.first_instance(arrival_id))
        return self._routes[arrival_id]

    def _write_route(self, arrival_id: int, route: RouteSettings | None) -> None:
        # What is in it when the series is complete holds for all of the series, whatever the settings say later.
        as_taken = route.model_dump_json(exclude={"match"}) if route is not None else None
        self.ledger.assign_route(arrival_id, route.name if route else None, route_settings=as_taken)
        if route is None:
            log.warning("Series without a route is kept", extra={"arrival": arrival_id, "reason": NO_ROUTE})
