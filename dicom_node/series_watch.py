"""When is a series complete: the association that carried it has ended, and a quiet period has passed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from config.settings import RouteSettings
from dicom_node.fault_points import fault_point
from dicom_node.ledger.arrivals import ArrivalLedger, StoredInstance
from dicom_node.states import ArrivalState

log = logging.getLogger(__name__)

NO_ROUTE = "no route matches: add [[routes]] or [fallback] for it to the settings and restart the worker"


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
        Route for the instance that opened an arrival, or None.
    clock
        Seconds since the epoch.
    """

    ledger: ArrivalLedger
    find_route: Callable[[StoredInstance], RouteSettings | None]
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        self._routes: dict[int, RouteSettings | None] = {}

    def tick(self) -> list[int]:
        """Complete the arrivals that have been quiet for long enough; returns their numbers."""
        completed = []
        idle = self.ledger.idle()
        self._routes = {a.arrival_id: self._routes[a.arrival_id] for a in idle if a.arrival_id in self._routes}
        for arrival in idle:
            route = self._route(arrival.arrival_id)
            quiet_period_s = (
                route.quiet_period_s if route is not None else RouteSettings.model_fields["quiet_period_s"].default
            )
            if not is_quiet(self.clock(), arrival.last_activity_at, quiet_period_s):
                continue
            self._write_route(arrival.arrival_id, route)
            fault_point("series.routed")
            if self.ledger.complete(arrival.arrival_id, last_activity_at=arrival.last_activity_at):
                log.info(
                    "Series complete", extra={"arrival": arrival.arrival_id, "route": route.name if route else None}
                )
                fault_point("series.completed")
                completed.append(arrival.arrival_id)
        return completed

    def route_waiting(self) -> None:
        """Try again to find a route for complete arrivals without one; at the start, as settings may have changed."""
        for arrival in self.ledger.in_state(ArrivalState.COMPLETE):
            if arrival.route is None:
                self._write_route(arrival.arrival_id, self.find_route(self.ledger.first_instance(arrival.arrival_id)))

    def _route(self, arrival_id: int) -> RouteSettings | None:
        # The header of the first instance is read once for each arrival, not at every tick.
        if arrival_id not in self._routes:
            self._routes[arrival_id] = self.find_route(self.ledger.first_instance(arrival_id))
        return self._routes[arrival_id]

    def _write_route(self, arrival_id: int, route: RouteSettings | None) -> None:
        self.ledger.assign_route(arrival_id, route.name if route else None)
        if route is None:
            log.warning("Series without a route is kept", extra={"arrival": arrival_id, "reason": NO_ROUTE})
