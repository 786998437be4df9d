"""What a process has claimed and not begun is found, and nothing else is."""

from __future__ import annotations

import pytest

from dicom_node.held_workflows import MISSING_FOR_S, HeldWorkflows


def test_a_claim_that_nobody_works_on_is_found_once_after_a_while() -> None:
    held = HeldWorkflows()
    assert held.missing(["deliver:1:0"], 100.0) == []
    assert held.missing(["deliver:1:0"], 100.0 + MISSING_FOR_S - 1) == []
    assert held.missing(["deliver:1:0"], 100.0 + MISSING_FOR_S) == ["deliver:1:0"]
    # It was taken up; the engine may need a moment to say so.
    assert held.missing(["deliver:1:0"], 101.0 + MISSING_FOR_S) == []


def test_what_is_in_hand_is_not_missing_however_long_it_takes() -> None:
    held = HeldWorkflows()
    with held.hold("enhance:1"):
        assert held.missing(["enhance:1"], 0.0) == []
        assert held.missing(["enhance:1"], 10 * MISSING_FOR_S) == []
    # It has just ended, and the engine has still to write that down: counted from now.
    assert held.missing(["enhance:1"], 20 * MISSING_FOR_S) == []


def test_what_was_begun_or_ended_in_between_is_counted_anew() -> None:
    held = HeldWorkflows()
    held.missing(["a", "b"], 0.0)
    with held.hold("a"):
        # b was ended elsewhere, a has begun.
        assert held.missing(["a"], MISSING_FOR_S) == []
    assert held.missing(["a", "b"], 1.5 * MISSING_FOR_S) == []
    assert held.missing(["a", "b"], 2.6 * MISSING_FOR_S) == ["a", "b"]


def test_a_workflow_held_twice_is_held_until_both_have_ended() -> None:
    held = HeldWorkflows()
    with held.hold("a"):
        with pytest.raises(ValueError, match="ended"), held.hold("a"):
            raise ValueError("ended")
        held.missing(["a"], 0.0)
        assert held.missing(["a"], 2 * MISSING_FOR_S) == []
