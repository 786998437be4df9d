"""Noise power and transfer against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from training.lowdose import WANG_2014_CSI, correlated, unit_energy
from training.transfer import (
    REGION_PX,
    TRANSFER_FREQUENCIES,
    edge_spread,
    frequency_at_half,
    mean_frequency,
    noise_power,
    radial_spectrum,
    slanted_edges,
    transfer_function,
)


def test_white_noise_has_power_one_at_every_frequency() -> None:
    noise = np.random.default_rng(0).standard_normal((24, 256, 256))
    _, power = radial_spectrum(noise_power(noise))
    np.testing.assert_allclose(power[2:], 1.0, atol=0.03)  # the two lowest rings hold a dozen frequencies
    assert power.mean() == pytest.approx(1.0, abs=0.01)


def test_noise_of_a_known_kernel_has_the_kernels_spectrum() -> None:
    rng = np.random.default_rng(1)
    noise = np.stack([correlated((256, 256), WANG_2014_CSI, rng) for _ in range(40)])
    expected = np.abs(np.fft.fft2(unit_energy(WANG_2014_CSI), s=(REGION_PX, REGION_PX))) ** 2
    _, power = radial_spectrum(noise_power(noise))
    _, wanted = radial_spectrum(expected)
    np.testing.assert_allclose(power[4:] / wanted[4:], 1.0, atol=0.03)  # lower rings hold few frequencies


def test_row_and_column_noise_stays_on_the_axes() -> None:
    rng = np.random.default_rng(2)
    white = rng.standard_normal((8, 192, 192))
    lines = 0.15 * (rng.standard_normal((8, 192, 1)) + rng.standard_normal((8, 1, 192)))
    _, without = radial_spectrum(noise_power(white))
    _, with_lines = radial_spectrum(noise_power(white + lines))
    # The window spreads a line over its neighbours, so the rings see a little of it.
    np.testing.assert_allclose(with_lines[8:] / without[8:], 1.0, atol=0.08)
    assert noise_power(white + lines)[0, 8:24].mean() > 1.6


def test_only_regions_that_are_valid_throughout_count() -> None:
    noise = np.random.default_rng(3).standard_normal((4, 128, 192))
    noise[:, :, 130:] *= 100
    valid = np.ones((128, 192), dtype=np.bool_)
    valid[:, 130:] = False
    assert noise_power(noise, valid).mean() == pytest.approx(1.0, abs=0.05)
    with pytest.raises(ValueError, match="no region"):
        noise_power(noise, np.zeros_like(valid))


def test_mean_frequency_weighs_by_power() -> None:
    assert mean_frequency(np.array([0.1, 0.3]), np.array([3.0, 1.0])) == pytest.approx(0.15)


def test_an_edge_that_is_not_changed_has_transfer_one() -> None:
    edges = slanted_edges(256, 256)
    truth = edge_spread(edges.cover, edges.distance)
    transfer = transfer_function(truth, truth)
    np.testing.assert_allclose(transfer.relative, 1.0, atol=1e-9)
    # MTF50 of a Gaussian blur of 1.02 px: sqrt(ln 2 / 2) / (pi 1.02).
    assert frequency_at_half(transfer.system) == pytest.approx(np.sqrt(np.log(2) / 2) / (np.pi * 1.02), rel=0.01)


def test_a_gaussian_blur_has_its_transfer_within_two_percent() -> None:
    edges = slanted_edges(256, 256)
    blurred = ndimage.gaussian_filter(edges.cover.astype(np.float64), 0.8)
    inside = np.s_[8:-8, 8:-8]
    truth = edge_spread(edges.cover[inside], edges.distance[inside])
    relative = transfer_function(edge_spread(blurred[inside], edges.distance[inside]), truth).relative
    shown = TRANSFER_FREQUENCIES <= 0.3
    expected = np.exp(-2 * np.pi**2 * 0.8**2 * TRANSFER_FREQUENCIES**2)
    np.testing.assert_allclose(relative[shown], expected[shown], atol=0.02)


def test_lost_contrast_counts_as_lost_transfer() -> None:
    edges = slanted_edges(256, 256)
    truth = edge_spread(edges.cover, edges.distance)
    half = edge_spread(0.45 * edges.cover + 0.2, edges.distance)
    transfer = transfer_function(half, truth)
    np.testing.assert_allclose(transfer.relative, 0.45, atol=1e-6)
    assert frequency_at_half(transfer.system) == 0.0


def test_edges_of_both_directions_fold_into_one() -> None:
    edges = slanted_edges(256, 256)
    rising = np.diff(edges.cover[128]) > 0.1
    falling = np.diff(edges.cover[128]) < -0.1
    assert rising.any()
    assert falling.any()
    assert np.abs(np.diff(edges.cover[128])).max() < 0.45  # blurred everywhere, no step between two stripes
    spread = edge_spread(edges.cover, edges.distance)
    assert np.all(np.diff(spread) > -1e-6)
    assert spread[0] < 0.01
    assert spread[-1] > 0.99
