"""Classical filters that get the same noise knowledge: they work on the stabilised image, noise sigma 1."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage import restoration
from torch.nn import functional

from training.bm3d import bm3d

FloatArray = NDArray[np.float32]
Autocovariance = NDArray[np.float64]
Filter = Callable[[FloatArray, float, Autocovariance], FloatArray]
"""From the stabilised image ``(rows, columns)``, the parameter and the noise's autocovariance to the denoised image."""

WIENER_BLOCK, WIENER_STEP = 16, 4


def gaussian(stabilised: FloatArray, sigma_px: float, _autocovariance: Autocovariance) -> FloatArray:
    """Blur with a Gaussian of ``sigma_px`` pixels."""
    return np.asarray(ndimage.gaussian_filter(stabilised, sigma_px), dtype=np.float32)


def non_local_means(stabilised: FloatArray, strength: float, _autocovariance: Autocovariance) -> FloatArray:
    """Buades, Coll and Morel 2005: patches of 5, window of 13, ``h = strength`` sigma."""
    result = restoration.denoise_nl_means(
        stabilised, patch_size=5, patch_distance=6, h=strength, sigma=1.0, fast_mode=True, preserve_range=True
    )
    return np.asarray(result, dtype=np.float32)


def wavelet(stabilised: FloatArray, sigma: float, _autocovariance: Autocovariance) -> FloatArray:
    """BayesShrink (Chang, Yu and Vetterli 2000) for an assumed noise of ``sigma``."""
    low, high = float(stabilised.min()), float(stabilised.max())
    scale = max(high - low, 1e-6)
    result = restoration.denoise_wavelet(
        (stabilised - low) / scale, sigma=sigma / scale, method="BayesShrink", mode="soft", rescale_sigma=False
    )
    return np.asarray(result * scale + low, dtype=np.float32)


def total_variation(stabilised: FloatArray, weight: float, _autocovariance: Autocovariance) -> FloatArray:
    """Rudin, Osher and Fatemi 1992 by Chambolle's algorithm; ``weight`` in sigma."""
    result = restoration.denoise_tv_chambolle(stabilised, weight=weight)  # type: ignore[no-untyped-call]
    return np.asarray(result, dtype=np.float32)


def curvature_flow(stabilised: FloatArray, iterations: float, _autocovariance: Autocovariance) -> FloatArray:
    """Level-set curvature flow (Sethian 1996) of SimpleITK, time step 0.0625."""
    image = sitk.GetImageFromArray(stabilised)
    flowed = sitk.CurvatureFlow(image, timeStep=0.0625, numberOfIterations=int(iterations))  # type: ignore[no-untyped-call]
    return np.asarray(sitk.GetArrayFromImage(flowed), dtype=np.float32)


def bilateral(stabilised: FloatArray, range_sigma: float, _autocovariance: Autocovariance) -> FloatArray:
    """Tomasi and Manduchi 1998 by SimpleITK: 1.8 pixels in the plane, ``range_sigma`` noise sigma in value."""
    image = sitk.GetImageFromArray(stabilised)
    smoothed = sitk.Bilateral(  # type: ignore[no-untyped-call]
        image, domainSigma=1.8, rangeSigma=range_sigma, numberOfRangeGaussianSamples=200
    )
    return np.asarray(sitk.GetArrayFromImage(smoothed), dtype=np.float32)


def wiener(stabilised: FloatArray, subtraction: float, autocovariance: Autocovariance) -> FloatArray:
    """Short-space Wiener filter by subtraction of the known noise spectrum (after Lim 1980).

    Blocks of 16 x 16 every 4 pixels under a Hann window; the gain of each frequency is
    ``1 - subtraction * noise power / power of the block``, not below 0.
    """
    n = WIENER_BLOCK
    line = torch.hann_window(n, periodic=False).double()
    window = line[:, None] * line[None, :]
    noise = _windowed_power(window, autocovariance)
    more = [n + (-size) % WIENER_STEP for size in stabilised.shape]
    image = np.pad(stabilised, ((n, more[0]), (n, more[1])), mode="symmetric")
    with torch.inference_mode():
        blocks = functional.unfold(torch.from_numpy(image)[None, None], n, stride=WIENER_STEP)[0].T.reshape(-1, n, n)
        means = blocks.mean(dim=(1, 2), keepdim=True)
        spectrum = torch.fft.rfft2((blocks - means) * window.float())
        gain = (1.0 - subtraction * noise / spectrum.abs().square().clamp(min=1e-9)).clamp(min=0.0)
        # The mean was taken out before and comes back under the same window: flat areas stay level.
        clean = torch.fft.irfft2(spectrum * gain, s=(n, n)) + means * window.float()
        total, weight = (
            functional.fold(part.reshape(-1, n * n).T[None], image.shape, n, stride=WIENER_STEP)[0, 0]
            for part in (clean, window.float().expand_as(clean))
        )
        result = (total / weight.clamp(min=1e-6)).numpy()
    return np.asarray(result[n : n + stabilised.shape[0], n : n + stabilised.shape[1]], dtype=np.float32)


def _windowed_power(window: torch.Tensor, autocovariance: Autocovariance) -> torch.Tensor:
    """Return the expected power of windowed noise at each frequency of ``rfft2``."""
    n = window.shape[0]
    own = torch.fft.irfft2(torch.fft.rfft2(window, s=(2 * n, 2 * n)).abs().square(), s=(2 * n, 2 * n))
    lags = torch.zeros(n, n, dtype=torch.float64)
    for y, x in np.ndindex(autocovariance.shape):
        dy, dx = y - autocovariance.shape[0] // 2, x - autocovariance.shape[1] // 2
        if max(abs(dy), abs(dx)) < n:
            lags[dy % n, dx % n] += float(autocovariance[y, x]) * own[dy % (2 * n), dx % (2 * n)]
    power: torch.Tensor = torch.fft.rfft2(lags).real.clamp(min=0.0).float()
    return power


def bm3d_white(stabilised: FloatArray, sigma: float, _autocovariance: Autocovariance) -> FloatArray:
    """BM3D that takes the noise for white."""
    return bm3d(stabilised, sigma)


def bm3d_psd(stabilised: FloatArray, sigma: float, autocovariance: Autocovariance) -> FloatArray:
    """BM3D that knows the noise's power spectrum."""
    return bm3d(stabilised, sigma, autocovariance=autocovariance)


BASELINES: dict[str, tuple[Filter, tuple[float, ...]]] = {
    "gaussian": (gaussian, (0.5, 0.6, 0.8, 1.0, 1.2, 1.5, 1.8, 2.2, 2.7, 3.3)),
    "total variation": (total_variation, (0.3, 0.5, 0.7, 1.0, 1.5, 2.2)),
    "wavelet": (wavelet, (0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 2.7)),
    "curvature flow": (curvature_flow, (3, 6, 10, 16, 25, 40, 60)),
    "bilateral": (bilateral, (1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 10.0)),
    "wiener": (wiener, (1.0, 1.5, 2.0, 3.0, 4.0, 5.5)),
    "nlm": (non_local_means, (0.3, 0.45, 0.6, 0.9, 1.3)),
    "bm3d": (bm3d_white, (0.9, 1.15, 1.5, 2.0, 2.6)),
    "bm3d psd": (bm3d_psd, (0.8, 0.9, 1.0, 1.12, 1.25)),
}
"""Name to filter and the values of its one parameter among which tuning chooses."""
