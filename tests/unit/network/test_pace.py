"""How fast the objects of a source may come."""

from __future__ import annotations

import pytest

from dicom_node.pace import LONGEST_WAIT_S, Pace


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_minutes_worth_comes_at_once_and_the_rest_at_the_pace() -> None:
    clock = Clock()
    pace = Pace(60, clock)
    assert [pace.take() for _ in range(60)] == [0.0] * 60
    # Each that waits has its own turn behind the one before.
    assert [pace.take() for _ in range(10)] == pytest.approx(range(1, 11))
    assert pace.take() is None
    assert pace.take() is None, "who is turned away takes no turn"
    clock.now += 1
    assert pace.take() == pytest.approx(LONGEST_WAIT_S)
    clock.now += 11
    assert pace.take() == pytest.approx(0.0)


def test_what_is_not_used_is_not_saved_up_for_ever() -> None:
    clock = Clock()
    pace = Pace(30, clock)
    clock.now += 86_400
    assert [pace.take() for _ in range(30)] == [0.0] * 30
    assert pace.take() == pytest.approx(2.0)
