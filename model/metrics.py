"""Image quality against a known truth: PSNR, SSIM, MSE."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

BoolArray = NDArray[np.bool_]
Image = NDArray[np.floating]

SSIM_SIGMA = 1.5
SSIM_RADIUS = 5
"""11 x 11 window (Wang et al. 2004)."""


def mse(image: Image, truth: Image, mask: BoolArray | None = None) -> float:
    """Return the mean squared error over the masked pixels, in squared units of the images."""
    difference = np.asarray(image, dtype=np.float64) - np.asarray(truth, dtype=np.float64)
    return float(np.mean(np.square(difference if mask is None else difference[mask])))


def data_range(truth: Image, mask: BoolArray | None = None) -> float:
    """Return P99.9 - P0.1 of the truth within the mask: the range that PSNR and SSIM refer to."""
    values = np.asarray(truth, dtype=np.float64)
    low, high = np.percentile(values if mask is None else values[mask], (0.1, 99.9))
    return float(high - low)


def psnr(image: Image, truth: Image, *, mask: BoolArray | None = None, reference: float | None = None) -> float:
    """Return the peak signal-to-noise ratio in dB.

    Parameters
    ----------
    image, truth
        Same shape and units.
    mask
        Pixels that count; None: all.
    reference
        Peak; None: `data_range` of the truth.

    Returns
    -------
    ``10 log10(reference² / MSE)``, infinite for equal images.
    """
    error = mse(image, truth, mask)
    if error == 0.0:
        return float("inf")
    peak = data_range(truth, mask) if reference is None else reference
    return float(10.0 * np.log10(max(peak, 1e-30) ** 2 / error))


def ssim(image: Image, truth: Image, *, mask: BoolArray | None = None, reference: float | None = None) -> float:
    """Return the mean structural similarity with an 11 x 11 Gaussian window, sigma 1.5.

    Constants K1 = 0.01 and K2 = 0.03 of Wang et al. 2004; covariances are those of the weighted window. Images
    smaller than the window are extended by reflection.
    """
    x, y = np.asarray(image, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    peak = data_range(truth, mask) if reference is None else reference
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2

    def blur(a: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(ndimage.gaussian_filter(a, SSIM_SIGMA, radius=SSIM_RADIUS, mode="reflect"))

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    denominator = (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    similarity = numerator / np.where(denominator == 0, 1.0, denominator)
    similarity = np.where(denominator == 0, 1.0, similarity)
    return float(np.mean(similarity if mask is None else similarity[mask]))
