"""Blind noise estimation: right on correlated, signal-dependent noise; silent where nothing can be said."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from model.domain import Domain
from model.estimation import NoEstimate, NoiseEstimate, changeable_pixels, estimate_noise, noise_ratio
from model.noise import NoiseLaw
from training.lowdose import WANG_2014_CSI, Detector, expose, gaussian_kernel
from training.phantom import phantom

WHITE = np.ones((1, 1))


def exposure(
    kernel: NDArray[np.float64], *, quanta: float = 200.0, seed: int = 3
) -> tuple[np.ndarray, np.ndarray, NoiseLaw]:
    truth = 4000.0 * phantom(600, 500, 11, anatomy="chest")
    q = float(np.median(truth)) / quanta
    law = NoiseLaw(structure=0.005, quantum=q, electronic=10**0.5 * q)
    return expose(truth, Detector(law=law, kernel=kernel), np.random.default_rng(seed)), truth, law


def immerkaer(image: np.ndarray) -> float:
    """The usual estimator for white noise (Immerkaer 1996), robust form."""
    k = np.array([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]])
    return float(np.median(np.abs(ndimage.convolve(image.astype(np.float64), k)[2:-2, 2:-2]))) / 0.6745 / 6


@pytest.mark.parametrize(
    "kernel",
    [WHITE, WANG_2014_CSI, gaussian_kernel(1.5), gaussian_kernel(3.0)],
    ids=["white", "csi", "fwhm 1.5", "fwhm 3"],
)
def test_linear_noise_is_found_within_a_tenth_whatever_its_correlation(kernel: NDArray[np.float64]) -> None:
    noisy, truth, law = exposure(kernel)
    found = estimate_noise(np.rint(noisy), domain=Domain.LINEAR)
    assert isinstance(found, NoiseEstimate)
    assert found.law is not None
    ratio = found.curve.sigma(truth) / law.sigma(truth)
    assert np.percentile(ratio, 5) > 0.9
    assert np.percentile(ratio, 95) < 1.12
    assert found.misfit < 0.15


def test_the_estimator_for_white_noise_fails_where_ours_holds() -> None:
    flat = np.full((400, 400), 1000.0)
    law = NoiseLaw(structure=0.0, quantum=10.0, electronic=0.1)
    noisy = expose(flat, Detector(law=law, kernel=gaussian_kernel(2.0)), np.random.default_rng(1))
    found = estimate_noise(noisy, domain=Domain.LINEAR)
    assert isinstance(found, NoiseEstimate)
    assert immerkaer(noisy) < 0.5 * 100.0
    assert found.median_sigma == pytest.approx(100.0, rel=0.05)


@pytest.mark.parametrize("fwhm_px", [0.0, 1.0, 2.0, 3.0])
def test_the_bias_of_the_low_percentile_is_taken_off(fwhm_px: float) -> None:
    law = NoiseLaw(structure=0.0, quantum=10.0, electronic=0.1)
    detector = Detector(law=law, kernel=gaussian_kernel(fwhm_px))
    found = estimate_noise(
        expose(np.full((800, 800), 1000.0), detector, np.random.default_rng(2)), domain=Domain.LINEAR
    )
    assert isinstance(found, NoiseEstimate)
    assert found.median_sigma == pytest.approx(100.0, rel=0.04)


def test_logarithmic_noise_is_found_without_a_law() -> None:
    noisy, truth, law = exposure(WANG_2014_CSI)
    found = estimate_noise(1000 * np.log(np.maximum(noisy, 1.0)), domain=Domain.LOG)
    assert isinstance(found, NoiseEstimate)
    assert found.law is None
    ratio = found.curve.sigma(1000 * np.log(truth)) / (1000 * law.sigma(truth) / truth)
    assert np.median(ratio) == pytest.approx(1.0, abs=0.12)


def test_autocorrelation_is_that_of_the_kernel() -> None:
    law = NoiseLaw(structure=0.0, quantum=10.0, electronic=0.1)
    kernel = gaussian_kernel(2.0)
    noisy = expose(np.full((512, 512), 1000.0), Detector(law=law, kernel=kernel), np.random.default_rng(5))
    found = estimate_noise(noisy, domain=Domain.LINEAR)
    assert isinstance(found, NoiseEstimate)
    sigma = 2.0 / 2.3548
    for lag, measured in enumerate(found.correlation_x, start=1):
        assert measured == pytest.approx(np.exp(-(lag**2) / (4 * sigma**2)), abs=0.04)


def test_white_noise_has_no_correlation_after_the_bias_of_quiet_blocks_is_taken_off() -> None:
    noisy = 1000 + 20 * np.random.default_rng(6).standard_normal((512, 512))
    found = estimate_noise(noisy, domain=Domain.LINEAR)
    assert isinstance(found, NoiseEstimate)
    assert np.abs(found.correlation_x + found.correlation_y).max() < 0.04


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.zeros((1, 1)), "smaller"),
        (np.zeros((7, 5)), "smaller"),
        (np.full((200, 200), 512.0), "valid pixels"),
        (np.repeat(np.arange(200.0)[:, None], 200, axis=1), "too few blocks"),
        (np.random.default_rng(0).integers(0, 2, (200, 200)).astype(float), "valid pixels"),
    ],
    ids=["one pixel", "tiny", "constant", "ramp", "binary"],
)
def test_an_image_that_does_not_tell_its_noise_gets_a_reason(image: np.ndarray, reason: str) -> None:
    found = estimate_noise(image, domain=Domain.LINEAR)
    assert isinstance(found, NoEstimate), found
    assert reason in found.reason


def test_padding_and_collimation_do_not_lower_the_estimate() -> None:
    rng = np.random.default_rng(8)
    image = 1000 + 30 * rng.standard_normal((500, 500))
    image[:, :150] = 0.0
    mask = np.ones(image.shape, dtype=bool)
    mask[400:] = False
    image[400:] = 65535.0
    found = estimate_noise(image, domain=Domain.LINEAR, mask=mask)
    assert isinstance(found, NoiseEstimate)
    assert found.median_sigma == pytest.approx(30.0, rel=0.05)


def test_few_grey_levels_still_give_the_standard_deviation() -> None:
    image = np.rint(20 + 1.5 * np.random.default_rng(9).standard_normal((400, 400)))
    found = estimate_noise(image, domain=Domain.DISPLAY)
    assert isinstance(found, NoiseEstimate)
    assert found.median_sigma == pytest.approx((1.5**2 + 1 / 12) ** 0.5, rel=0.06)


def test_clipped_noise_is_changed_and_clipped_areas_are_not() -> None:
    image = np.maximum(5 * np.random.default_rng(1).standard_normal((100, 100)), 0.0)
    image[:, :30] = 0.0
    changeable = changeable_pixels(image.astype(np.float32), None)
    assert not changeable[:, :30].any()
    assert changeable[:, 36:].all()


def test_noise_ratio_is_the_root_of_the_power_that_is_left() -> None:
    noise = np.random.default_rng(2).standard_normal((200, 200)).astype(np.float32)
    flat = np.ones((12, 12), dtype=bool)
    assert noise_ratio(100 + noise, 100 + 0.3 * noise, flat) == pytest.approx(0.3, rel=1e-3)
