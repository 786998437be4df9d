"""PSNR, SSIM and MSE on values known beforehand."""

from __future__ import annotations

import numpy as np
import pytest

from training.metrics import mse, psnr, ssim


def test_psnr_of_a_known_error() -> None:
    truth = np.linspace(0, 100, 10_000).reshape(100, 100)
    assert mse(truth + 2, truth) == pytest.approx(4.0)
    assert psnr(truth + 2, truth, reference=200.0) == pytest.approx(40.0)
    assert psnr(truth, truth) == float("inf")


def test_masked_pixels_do_not_count() -> None:
    truth = np.zeros((20, 20))
    image = truth.copy()
    image[:10] = 50.0
    mask = np.zeros(truth.shape, dtype=np.bool_)
    mask[10:] = True
    assert mse(image, truth, mask) == 0.0


def test_ssim_agrees_with_scikit_image() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    rng = np.random.default_rng(0)
    truth = np.cumsum(rng.standard_normal((96, 80)), axis=1)
    image = truth + rng.standard_normal(truth.shape)
    ours = ssim(image, truth, reference=30.0)
    full = metrics.structural_similarity(
        image, truth, data_range=30.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )[1]
    assert ours == pytest.approx(float(full.mean()), abs=1e-3)
    assert ssim(truth, truth) == pytest.approx(1.0)


def test_ssim_works_on_images_smaller_than_its_window() -> None:
    assert ssim(np.zeros((3, 3)), np.zeros((3, 3))) == 1.0
