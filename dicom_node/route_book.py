"""Which route a series in work goes by, while the settings may change under it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from pydantic import ValidationError

from config.settings import Content, RouteSettings
from dicom_node.ledger.arrivals import Arrival, StoredInstance

FindRoute = Callable[[StoredInstance], RouteSettings | None]


@dataclass(frozen=True, kw_only=True)
class _Page:
    """The routes of one settings file, and what was found by it."""

    by_name: Mapping[str, RouteSettings]
    find: FindRoute
    found: dict[int, RouteSettings | None] = field(default_factory=dict)


class RouteBook:
    """Routes of series in work.

    A series keeps the route that took it, as that was then, for as long as the settings have a route of its name: so
    all images of a series are enhanced alike. Where they have none any more it goes by the one that takes it now. A
    route that sends no enhanced images any more counts at once: somebody may have lost confidence in them.

    Parameters
    ----------
    routes
        Of the settings, the fallback among them.
    find
        Route for the instance that opened an arrival.
    first_instance
        That instance, by the number of the arrival.
    """

    def __init__(
        self, routes: Sequence[RouteSettings], find: FindRoute, first_instance: Callable[[int], StoredInstance]
    ) -> None:
        self._first_instance = first_instance
        self.replace(routes, find)

    def replace(self, routes: Sequence[RouteSettings], find: FindRoute) -> None:
        """Go by other settings from now on."""
        self._page = _Page(by_name={route.name: route for route in routes}, find=find)

    def route_of(self, arrival: Arrival) -> RouteSettings | None:
        """Return the route of an arrival; None where no route takes it now."""
        page = self._page
        named = page.by_name.get(arrival.route) if arrival.route is not None else None
        if named is not None:
            taken = _as_taken(arrival.route_settings)
            return named if taken is None or not _sends_enhanced(named) else taken
        # A worker with other settings wrote it. Those of this one stay as they are until a reload: once is enough.
        if arrival.arrival_id not in page.found:
            page.found[arrival.arrival_id] = page.find(self._first_instance(arrival.arrival_id))
        return page.found[arrival.arrival_id]


def _sends_enhanced(route: RouteSettings) -> bool:
    return route.enhance and not route.shadow and Content.ENHANCED in route.send


@lru_cache(maxsize=1024)
def _as_taken(written: str | None) -> RouteSettings | None:
    if written is None:
        return None
    try:
        return RouteSettings.model_validate_json(written)
    except ValidationError:
        # Of another version of the program, whose routes had other settings.
        return None
