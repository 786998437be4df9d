"""Model observers against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from training.observers import (
    DEGREE_PX,
    EYE_PEAK_CYCLES_PER_DEGREE,
    compare,
    detectability,
    eye_filter,
    hotelling_detectability,
    hotelling_template,
    laguerre_gauss,
    npwe_template,
    responses,
    signal_to_noise,
)

SIDE = 32


def disc(height: float, radius: float) -> NDArray[np.float64]:
    at = np.arange(SIDE) - SIDE // 2
    return height * (np.hypot(at[:, None], at[None, :]) <= radius).astype(np.float64)


def noisy(signal: NDArray[np.float64], images: int, seed: int, sigma: float = 2.0) -> NDArray[np.float64]:
    white = np.random.default_rng(seed).standard_normal((images, 2, SIDE, SIDE))
    return signal + sigma * white


def test_a_matched_template_in_white_noise_sees_the_energy_of_the_signal() -> None:
    signal = disc(0.5, 5.0)
    present, absent = noisy(signal, 1500, 0), noisy(0 * signal, 1500, 1)
    expected = np.sqrt(np.sum(signal**2)) / 2.0
    found = [responses(patches, signal[None])[..., 0] for patches in (present, absent)]
    assert signal_to_noise(*found) == pytest.approx(expected, rel=0.04)
    assert detectability(*found) == pytest.approx(expected, rel=0.04)


def test_the_eye_filtered_template_has_its_closed_form() -> None:
    signal = disc(1.0, 3.0)
    template = npwe_template(signal)
    expected = np.sum(template * signal) / (2.0 * np.sqrt(np.sum(template**2)))
    found = [responses(p, template[None])[..., 0] for p in (noisy(signal, 1500, 2), noisy(0 * signal, 1500, 3))]
    assert detectability(*found) == pytest.approx(expected, rel=0.04)
    assert expected < np.sqrt(np.sum(signal**2)) / 2.0  # the eye does not see all of the signal


def test_the_eye_filter_peaks_at_its_frequency_and_ignores_the_mean() -> None:
    side = 256
    line = eye_filter(side)[0, : side // 2]
    assert line[0] == 0.0
    assert np.argmax(line) / side == pytest.approx(EYE_PEAK_CYCLES_PER_DEGREE / DEGREE_PX, abs=1 / side)
    assert line.max() == pytest.approx(1.0, abs=1e-3)
    assert abs(npwe_template(disc(1.0, 4.0)).sum()) < 1e-9


def test_laguerre_gauss_channels_are_orthonormal() -> None:
    channels = laguerre_gauss(96, 20.0)
    flat = channels.reshape(6, -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(6), atol=1e-3)
    # The first is a Gaussian exp(-pi r**2 / width**2); these two pixels lie at r**2 = 0.5 and 110.5.
    assert channels[0, 48, 58] / channels[0, 48, 48] == pytest.approx(np.exp(-np.pi * 110.0 / 20.0**2))


def gaussian_responses(
    mean: NDArray[np.float64], covariance: NDArray[np.float64], images: int, seed: int
) -> NDArray[np.float64]:
    places = np.array([0.0, 7.0])[None, :, None]  # each place has a background of its own
    return places + np.random.default_rng(seed).multivariate_normal(mean, covariance, (images, 2))


def test_hotelling_is_the_mahalanobis_distance() -> None:
    mean = np.array([1.0, 0.2, -0.5])
    covariance = np.array([[1.0, 0.6, 0.0], [0.6, 1.5, 0.3], [0.0, 0.3, 0.8]])
    expected = float(np.sqrt(mean @ np.linalg.solve(covariance, mean)))
    present = gaussian_responses(mean, covariance, 2000, 4)
    absent = gaussian_responses(0 * mean, covariance, 2000, 5)
    assert hotelling_detectability(present, absent) == pytest.approx(expected, rel=0.04)
    template = hotelling_template(present, absent)
    expected_template = np.linalg.solve(covariance, mean)
    np.testing.assert_allclose(template, expected_template, atol=0.1)


def test_hotelling_finds_nothing_where_nothing_is() -> None:
    present, absent = (gaussian_responses(np.zeros(8), np.eye(8), 24, seed) for seed in (6, 7))
    weights = hotelling_template(present, absent)
    on_its_own_images = detectability(present @ weights, absent @ weights)
    assert on_its_own_images > 0.6
    assert abs(hotelling_detectability(present, absent)) < 0.35


def test_detectability_depends_on_the_order_of_responses_alone() -> None:
    rng = np.random.default_rng(8)
    present, absent = rng.standard_normal((400, 2)) + 1.5, rng.standard_normal((400, 2))
    plain = detectability(present, absent)
    assert plain == pytest.approx(1.5, abs=0.12)
    assert detectability(np.exp(present), np.exp(absent)) == plain
    assert signal_to_noise(np.exp(present), np.exp(absent)) < 0.8 * plain


def test_responses_that_never_overlap_give_a_finite_lower_bound() -> None:
    high, low = np.full((10, 2), 5.0), np.zeros((10, 2))
    assert 3.0 < detectability(high, low) < 5.0
    assert detectability(low, high) == pytest.approx(-detectability(high, low))


def test_a_comparison_with_itself_is_one_and_added_noise_lowers_it() -> None:
    rng = np.random.default_rng(9)
    before = (rng.standard_normal((200, 2, 1)) + 1.5, rng.standard_normal((200, 2, 1)))
    same = compare(before, before, draws=50, rng=rng)
    assert same.ratio == 1.0
    assert same.ratio_interval == (1.0, 1.0)
    after = tuple(v + rng.standard_normal(v.shape) for v in before)
    found = compare(before, (after[0], after[1]), draws=200, rng=rng)
    # Twice the variance: d' falls by the root of 2.
    assert found.ratio_interval[0] < np.sqrt(0.5) < found.ratio_interval[1]
    assert found.ratio_interval[1] < 1.0
    assert found.after_interval[0] < found.after < found.after_interval[1]
