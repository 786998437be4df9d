"""What a running node takes of changed settings, what has to wait for its next start, and what changed; pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from config.settings import Settings

TAKEN_AT_ONCE: Final = frozenset(
    {"sources", "destinations", "routes", "fallback", "receiver", "retention", "storage", "backup", "logging"}
)
"""Tables that a running node takes; everything else counts from its next start."""

PLACE_OF_OBJECTS: Final = ("objects", "folder", "bucket", "prefix", "region", "endpoint", "cache_mb")
"""Settings of [storage] that count from the next start."""

MASKED: Final = "(not shown)"
# The address of a webhook is often the secret itself.
_SECRET = re.compile(r"(^|[._])(database_url|password|secret|token|api_key|webhook)s?$|^alerts\[.*\]\.url$")


@dataclass(frozen=True, kw_only=True)
class Change:
    """One setting that differs; None where it is not in one of the two."""

    path: str
    old: Any
    new: Any

    def as_json(self) -> dict[str, Any]:
        """Return the fields by their names."""
        return {"path": self.path, "old": self.old, "new": self.new}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What becomes of changed settings.

    Parameters
    ----------
    effective
        What the node works with from now on.
    taken
        Changes that are in it.
    later
        Changes that count from the next start.
    """

    effective: Settings
    taken: tuple[Change, ...]
    later: tuple[Change, ...]


def plan_change(running: Settings, wanted: Settings) -> Plan:
    """Return what a node with the settings `running` makes of `wanted`."""
    fixed: dict[str, Any] = {
        name: getattr(running, name) for name in type(running).model_fields if name not in TAKEN_AT_ONCE
    }
    place = {name: getattr(running.storage, name) for name in PLACE_OF_OBJECTS}
    fixed["storage"] = wanted.storage.model_copy(update=place)
    effective = wanted.model_copy(update=fixed)
    return Plan(
        effective=effective,
        taken=tuple(changes_between(running, effective)),
        later=tuple(changes_between(effective, wanted)),
    )


def changes_between(old: Settings, new: Settings) -> Iterator[Change]:
    """Yield each setting that differs, by its path; secrets without their values."""
    before, after = flatten(old), flatten(new)
    for path in dict.fromkeys((*before, *after)):
        was, now = before.get(path), after.get(path)
        if was != now:
            hide = is_secret(path)
            yield Change(path=path, old=_shown(was, hide=hide), new=_shown(now, hide=hide))


def is_secret(path: str) -> bool:
    """Tell whether the value of the setting at `path` is shown to nobody."""
    return _SECRET.search(path) is not None


def _shown(value: Any, *, hide: bool) -> Any:
    return MASKED if hide and value else value


def flatten(settings: Settings) -> dict[str, Any]:
    """Return every setting by its path, tables that stand in a list by their names: `routes[chest].strength`.

    The order of routes decides, so it is a setting of its own.
    """
    tree = settings.model_dump(mode="json")
    return {**dict(_leaves(tree, "")), "routes (in order)": [route["name"] for route in tree["routes"]]}


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and value and all(isinstance(one, Mapping) and "name" in one for one in value):
        for one in value:
            yield from _leaves(one, f"{path}[{one['name']}]")
    elif not (isinstance(value, list | Mapping) and not value and "[" not in path and "." not in path):
        yield path, value
