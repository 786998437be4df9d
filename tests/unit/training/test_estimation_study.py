"""The study of the noise estimate: ours near the truth, the two for white noise at half of it on correlated noise."""

from __future__ import annotations

import numpy as np
import pytest

from training.estimation_study import estimation_report, haar_mad, immerkaer, measure_condition, transmission


def test_the_common_estimators_are_right_on_white_noise() -> None:
    white = 1000.0 + 20.0 * np.random.default_rng(0).standard_normal((400, 400))
    assert immerkaer(white) == pytest.approx(20.0, rel=0.03)
    assert haar_mad(white) == pytest.approx(20.0, rel=0.03)


@pytest.mark.parametrize(("kernel", "least", "most"), [("csi", -0.35, -0.1), ("soft 2.2 px", -0.95, -0.5)])
def test_on_correlated_noise_they_see_too_little_and_ours_does_not(kernel: str, least: float, most: float) -> None:
    scenes = [transmission("chest", 512, seed) for seed in (1,)]
    row = measure_condition("chest", size=512, kernel=kernel, quanta=150.0, scenes=scenes)
    assert abs(row["ours_error"]) < 0.1
    assert least < row["haar_mad_error"] < most
    assert least < row["immerkaer_error"] < most


@pytest.mark.parametrize("background", ["smooth", "chest", "dead leaves"])
def test_small_images_are_estimated_within_a_quarter(background: str) -> None:
    scenes = [transmission(background, 256, seed) for seed in (1, 2)]
    row = measure_condition(background, size=256, kernel="csi", quanta=150.0, scenes=scenes)
    assert abs(row["ours_error"]) < 0.25


def test_report_has_a_row_for_each_condition_and_names_the_worst() -> None:
    report = estimation_report(quick=True)
    assert len(report["rows"]) == 3 * 3 * 2
    worst = max(report["rows"], key=lambda row: abs(row["ours_error"]))
    assert report["worst"]["condition"] == worst["condition"]
    assert report["median_abs_error"]["ours"] < 0.1
    assert report["median_abs_error"]["Haar MAD, correlated noise"] > report["median_abs_error"]["ours"]
