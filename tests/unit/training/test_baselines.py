"""The classical filters: each takes noise out, those that know the spectrum make use of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage, signal

from training.baselines import BASELINES, WIENER_BLOCK, _windowed_power, wiener
from training.lowdose import gaussian_kernel

WHITE = np.ones((1, 1))


def _truth() -> NDArray[np.float64]:
    y, x = np.mgrid[0:96, 0:96]
    step = 6.0 * ((x - 40) ** 2 + (y - 50) ** 2 < 700)
    return np.asarray(20 + step + 3 * np.sin(x / 11) * np.cos(y / 9))


def _error(image: NDArray[np.floating], truth: NDArray[np.float64]) -> float:
    return float(np.mean(np.square(image - truth)))


@pytest.mark.parametrize("name", list(BASELINES))
def test_each_filter_leaves_less_than_a_quarter_of_white_noise(name: str) -> None:
    truth = _truth()
    noisy = (truth + np.random.default_rng(0).standard_normal(truth.shape)).astype(np.float32)
    filter_, values = BASELINES[name]
    errors = [_error(filter_(noisy, value, WHITE), truth) for value in values]
    assert min(errors) < 0.25
    assert errors[0] != errors[-1]


def test_wiener_makes_use_of_the_spectrum() -> None:
    truth, kernel = _truth(), gaussian_kernel(2.2)
    white = np.random.default_rng(1).standard_normal(truth.shape)
    noisy = (truth + ndimage.convolve(white, kernel, mode="wrap")).astype(np.float32)
    known = signal.correlate(kernel, kernel)
    best_known, best_white = (
        min(_error(wiener(noisy, value, assumed), truth) for value in BASELINES["wiener"][1])
        for assumed in (known, WHITE)
    )
    assert best_known < 0.8 * best_white


def test_power_of_windowed_noise_is_that_of_samples() -> None:
    n, kernel = WIENER_BLOCK, gaussian_kernel(2.2)
    line = torch.hann_window(n, periodic=False).double()
    window = line[:, None] * line[None, :]
    expected = _windowed_power(window, signal.correlate(kernel, kernel)).numpy()
    samples = np.random.default_rng(2).standard_normal((2000, n + 8, n + 8))
    noise = signal.fftconvolve(samples, kernel[None], mode="valid")
    measured = np.mean(np.abs(np.fft.rfft2(noise * window.numpy())) ** 2, axis=0)
    low = expected > 0.05 * expected.max()
    assert np.count_nonzero(low) > 20
    np.testing.assert_allclose(measured[low] / expected[low], 1.0, atol=0.15)
