"""Settings from environment variables, which stand above the file: where many machines share one file.

``LOWDOSE_NODE__NAME`` is ``name`` in ``[node]``: the prefix, the table, two underscores, the setting, in capitals. They
are for single settings of tables that occur once; sources, destinations and routes are the file's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PREFIX = "LOWDOSE_"


def variable(table: str, setting: str) -> str:
    """Return the name of the variable for a setting."""
    return f"{PREFIX}{table}__{setting}".upper()


def with_environment(raw: Mapping[str, Any], environment: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Put variables of the environment over parsed TOML.

    Returns
    -------
    The settings, not validated yet; and for each path that came from the environment, such as ``node.name``, the
    variable; a table that only the environment names is a path too. A variable for a table that is a list stays out
    of the settings, and is among the paths.
    """
    merged = {key: dict(value) if isinstance(value, Mapping) else value for key, value in raw.items()}
    paths: dict[str, str] = {}
    for name, value in sorted(environment.items()):
        table, separator, setting = name.removeprefix(PREFIX).lower().partition("__")
        if not name.startswith(PREFIX) or not separator:
            continue
        paths[f"{table}.{setting}"] = name
        if table not in raw:
            paths.setdefault(table, name)
        entries = merged.setdefault(table, {})
        if isinstance(entries, dict):
            entries[setting] = value
    return merged, paths
