"""A failover is another destination, and leads nowhere in a circle."""

from __future__ import annotations

from typing import Any

import pytest

from config.loading import InvalidSettings, parse_settings


def destinations(**failovers: str | None) -> dict[str, Any]:
    """Return settings with a destination for each name, and its failover."""
    common = {"ae_title": "PACS", "host": "127.0.0.1", "port": 104}
    return {
        "destinations": [
            {"name": name, **common, **({} if failover is None else {"failover": failover})}
            for name, failover in failovers.items()
        ]
    }


def test_a_chain_of_failovers_is_valid() -> None:
    assert parse_settings(destinations(a="b", b="c", c=None)).destination("a").failover == "b"


@pytest.mark.parametrize(
    ("failovers", "faults"),
    [
        ({"a": "z", "b": None}, {"destinations[0].failover": "known are a, b"}),
        ({"a": "a"}, {"destinations[0].failover": "a -> a"}),
        ({"a": "b", "b": "a"}, {"destinations[0].failover": "a -> b -> a", "destinations[1].failover": "b -> a -> b"}),
        # What leads into a circle is no part of it: one fault for each that is.
        ({"x": "a", "a": "b", "b": "a"}, {"destinations[1].failover": "a -> b -> a", "destinations[2].failover": "b"}),
    ],
)
def test_a_failover_that_is_unknown_or_in_a_circle_is_refused(
    failovers: dict[str, str | None], faults: dict[str, str]
) -> None:
    with pytest.raises(InvalidSettings) as refused:
        parse_settings(destinations(**failovers))
    found = {fault.path: fault.allowed for fault in refused.value.faults}
    assert found.keys() == faults.keys()
    for path, words in faults.items():
        assert words in found[path]
