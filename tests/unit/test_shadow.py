"""The sums over what was measured in shadow mode."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from config.settings import RouteSettings
from dicom_node import shadow
from dicom_node.ledger.measurements import Measurement


def measured(number: int, **changes: Any) -> Measurement:
    values: dict[str, Any] = {
        "route": "chest",
        "series_instance_uid": "1.2",
        "generation": 1,
        "decision": "enhanced",
        "reason": None,
        "noise_before": 10.0,
        "noise_after": 10.0 - number,
        "inference_s": float(number),
        "total_s": 2.0 * number,
        "completed_at": 1000.0,
        "decided_at": 1000.0 + number,
    }
    return Measurement(**{**values, **changes})


FOUND = [
    *(measured(n) for n in range(1, 9)),
    measured(9, reason="strength reduced"),
    measured(10, decision="passed_through", reason="the guard", noise_before=None, noise_after=None),
    measured(11, decision=None, decided_at=None, generation=2),
    measured(1, route="hand"),
]


def test_each_route_has_its_sums() -> None:
    chest, hand = shadow.summarise(FOUND, {"chest": 8.0})
    assert (chest.series, chest.images, chest.enhanced, chest.passed_through, chest.waiting) == (2, 11, 9, 1, 1)
    assert chest.reasons == {"the guard": 1}
    assert chest.findings == {"strength reduced": 1}
    assert chest.inference_s == shadow.Spread(p50=5.0, p95=9.0)
    assert chest.noise_after == shadow.Spread(p50=5.0, p95=9.0)
    assert chest.noise_removed.p50 == pytest.approx(0.5)
    # 9 and 10 seconds: what is ready with the deadline itself is in time.
    assert (chest.late, hand.late) == (2, None)
    assert shadow.as_json([hand])["routes"][0]["noise_before"] == {"p50": 10.0, "p95": 10.0}


def test_without_measurements_it_says_so() -> None:
    text = io.StringIO()
    shadow.show(Console(file=text), shadow.summarise([], {}))
    assert shadow.NOTHING in text.getvalue()


def test_the_table_says_what_would_have_been() -> None:
    text = io.StringIO()
    shadow.show(Console(file=text, width=120), shadow.summarise(FOUND, {"chest": 8.0}))
    assert "9 would have been enhanced, 1 passed through, 1 wait to be measured; 2 ready after" in text.getvalue()
    assert "1 passed through: the guard" in text.getvalue()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"late": "follow", "send": ["original"]}, "nothing else could follow"),
        ({"late": "follow", "enhance": False}, "nothing else could follow"),
        ({"late": "follow", "deadline_s": 60, "follow_limit_s": 60}, "must be more than deadline_s"),
        ({"shadow": True, "enhance": False}, "nothing else to measure"),
    ],
)
def test_settings_that_contradict_each_other_are_faults(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RouteSettings.model_validate({"name": "r", "destinations": ["pacs"], **changes})
