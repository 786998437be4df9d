"""Targets are judged by the figure and its interval, never by the mean alone."""

from __future__ import annotations

from typing import Any

import pytest

from training.findings import (
    KNOWN,
    MUST_AND_GOAL_DB,
    PARTS,
    Met,
    figure,
    gain_verdicts,
    harm_verdicts,
    limits,
    not_measured,
    pool_of,
    pool_words,
    signed,
    span,
    with_interval,
)


def line(difference: float, low: float, high: float, **others: Any) -> dict[str, Any]:
    """Return one difference to BM3D at a quarter of the dose."""
    facts = {"source": "real sources", "dose": "1/4", "kernel": "csi", "method": KNOWN, "baseline": "bm3d"}
    return {**facts, "difference_db": difference, "interval_95": [low, high], "patients": 6, **others}


def verdict_at_a_quarter(*lines: dict[str, Any]) -> Met:
    verdicts = gain_verdicts({"against": list(lines)})
    return next(v.met for v in verdicts if v.dose == "1/4" and "known" in v.name)


@pytest.mark.parametrize(
    ("difference", "low", "patients", "met"),
    [
        (0.90, 0.80, 6, Met.YES),
        (0.90, 0.79, 6, Met.ON_AVERAGE),
        (0.90, 0.90, 1, Met.ON_AVERAGE),
        (0.79, 0.70, 6, Met.NO),
    ],
)
def test_a_target_is_met_only_if_the_whole_interval_reaches_it(
    difference: float, low: float, patients: int, met: Met
) -> None:
    assert MUST_AND_GOAL_DB["1/4"][0] == 0.8
    assert verdict_at_a_quarter(line(difference, low, 1.2, patients=patients)) is met


def test_only_the_pooled_sources_against_bm3d_with_correlated_noise_count() -> None:
    others = [
        line(2.0, 1.9, 2.1, baseline="gaussian"),
        line(2.0, 1.9, 2.1, kernel="white"),
        line(2.0, 1.9, 2.1, source="hip"),
    ]
    assert verdict_at_a_quarter(*others, line(0.1, 0.0, 0.2)) is Met.NO
    assert verdict_at_a_quarter(*others[:2]) is Met.UNKNOWN


def test_unseen_sources_are_judged_before_all_real_sources() -> None:
    lines = [line(0.9, 0.85, 1.0), line(0.1, 0.0, 0.2, source="unseen sources")]
    assert pool_of(lines) == "unseen sources"
    assert verdict_at_a_quarter(*lines) is Met.NO
    assert "trained on" in pool_words(lines[:1])
    assert pool_words(lines) == "unseen sources"


def test_every_dose_and_track_has_a_verdict_even_if_nothing_was_measured() -> None:
    verdicts = gain_verdicts({})
    assert [v.met for v in verdicts] == [Met.UNKNOWN] * 6
    assert {v.dose for v in verdicts} == {"1/2", "1/4", "1/10"}


def test_harm_targets_are_taken_as_judged() -> None:
    targets = [{"name": "a", "target": 0.98, "measured": 0.9, "met": met} for met in (True, False, None)]
    assert [v.met for v in harm_verdicts({"harm": {"targets": targets}})] == [Met.YES, Met.NO, Met.UNKNOWN]
    assert harm_verdicts({}) == []


def test_what_was_not_measured_stands_first_among_the_limits() -> None:
    assert "do-no-harm" in limits({"summary": [1]})[0]
    complete = {key: {"x": 1} for key in ("summary", "against", "strips", "harm", "estimation", "guards")}
    assert not_measured({**complete, "real_noise": {"scenes": [1, 2]}}) == []
    assert not_measured({**complete, "real_noise": {"scenes": [], "open_fields": []}}) == [PARTS["real_noise"]]
    assert "apart from 2 scene(s)" in limits({**complete, "real_noise": {"scenes": [1, 2]}})[0]


def test_figures_read_well() -> None:
    assert signed(-0.001) == "+0.00"
    assert signed(-1.5) == "−1.50"
    assert [figure(v) for v in (None, float("nan"), 0.12345, 12345.6, True, 3, [0.5, "a"], {"k": -0.5})] == [
        "–",
        "–",
        "0.123",
        "12346",
        "yes",
        "3",
        "0.5, a",
        "k: −0.5",
    ]
    assert with_interval(line(0.5, 0.25, 0.75), "difference_db") == "+0.50 dB (+0.25 to +0.75)"
    assert with_interval(line(0.5, 0.5, 0.5, patients=1), "difference_db") == "+0.50 dB (no interval)"
    assert span((-0.051, 4)) == "−0.05 to 4.00"
