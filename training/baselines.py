"""Classical filters that get the same noise knowledge: they work on the stabilised image, noise sigma 1."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import restoration

from training.bm3d import bm3d

FloatArray = NDArray[np.float32]
Filter = Callable[[FloatArray, float], FloatArray]


def gaussian(stabilised: FloatArray, sigma_px: float) -> FloatArray:
    """Blur with a Gaussian of ``sigma_px`` pixels."""
    return np.asarray(ndimage.gaussian_filter(stabilised, sigma_px), dtype=np.float32)


def non_local_means(stabilised: FloatArray, strength: float) -> FloatArray:
    """Buades, Coll and Morel 2005: patches of 5, window of 13, ``h = strength`` sigma."""
    result = restoration.denoise_nl_means(
        stabilised, patch_size=5, patch_distance=6, h=strength, sigma=1.0, fast_mode=True, preserve_range=True
    )
    return np.asarray(result, dtype=np.float32)


def wavelet(stabilised: FloatArray, sigma: float) -> FloatArray:
    """BayesShrink (Chang, Yu and Vetterli 2000) for an assumed noise of ``sigma``."""
    low, high = float(stabilised.min()), float(stabilised.max())
    scale = max(high - low, 1e-6)
    result = restoration.denoise_wavelet(
        (stabilised - low) / scale, sigma=sigma / scale, method="BayesShrink", mode="soft", rescale_sigma=False
    )
    return np.asarray(result * scale + low, dtype=np.float32)


def total_variation(stabilised: FloatArray, weight: float) -> FloatArray:
    """Rudin, Osher and Fatemi 1992 by Chambolle's algorithm; ``weight`` in sigma."""
    result = restoration.denoise_tv_chambolle(stabilised, weight=weight)  # type: ignore[no-untyped-call]
    return np.asarray(result, dtype=np.float32)


BASELINES: dict[str, tuple[Filter, tuple[float, ...]]] = {
    "gaussian": (gaussian, (0.6, 0.8, 1.0, 1.2, 1.5, 1.8, 2.2, 2.7, 3.3)),
    "total variation": (total_variation, (0.3, 0.5, 0.7, 1.0, 1.5, 2.2)),
    "wavelet": (wavelet, (0.4, 0.6, 0.8, 1.0, 1.5, 2.0)),
    "bm3d": (bm3d, (0.8, 1.0, 1.3, 1.7, 2.2)),
    "nlm": (non_local_means, (0.3, 0.45, 0.6, 0.9, 1.3)),
}
"""Name to filter and the values of its one parameter among which validation chooses."""
