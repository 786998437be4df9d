"""How far the blind noise estimate is from the truth, by condition, beside two common estimators for white noise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from model.domain import Domain
from model.estimation import NoEstimate, estimate_noise
from model.noise import NoiseLaw, Stabiliser
from training.lowdose import WANG_2014_CSI, Detector, expose, gaussian_kernel, quantise
from training.phantom import phantom
from training.textures import dead_leaves

FloatArray = NDArray[np.float32]

KERNELS = {
    "white": np.ones((1, 1)),
    "csi": WANG_2014_CSI,
    "soft 2.2 px": gaussian_kernel(2.2),
    "soft 3.2 px": gaussian_kernel(3.2),
}
QUANTA = (20.0, 150.0, 1000.0)
BACKGROUNDS = ("smooth", "chest", "dead leaves")
SIZES = (192, 256, 512, 1024)
MOST_EXPOSURE = 4000.0
STRUCTURE = 0.005
ELECTRONIC_QUANTA = 10.0
"""Exposure at which electronic and quantum noise are equal, in quanta per pixel."""
_MEDIAN_OF_NORMAL = 0.6745


def immerkaer(image: NDArray[np.floating]) -> float:
    """Return the standard deviation by the difference of two Laplacians (Immerkaer 1996)."""
    kernel = np.array([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]])
    response = ndimage.convolve(image.astype(np.float64), kernel)[1:-1, 1:-1]
    return float(np.sqrt(np.pi / 2.0) * np.mean(np.abs(response)) / 6.0)


def haar_mad(image: NDArray[np.floating]) -> float:
    """Return the standard deviation by the median of the finest diagonal Haar coefficients (Donoho and Johnstone)."""
    rows, columns = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
    a = image[:rows, :columns].astype(np.float64)
    diagonal = 0.5 * (a[::2, ::2] - a[::2, 1::2] - a[1::2, ::2] + a[1::2, 1::2])
    return float(np.median(np.abs(diagonal)) / _MEDIAN_OF_NORMAL)


def transmission(background: str, size: int, seed: int) -> FloatArray:
    """Return a noise-free scene ``(size, size)`` in ``(0, 1]``."""
    if background == "chest":
        return phantom(size, size, seed, anatomy="chest")
    if background == "dead leaves":
        return np.exp(-dead_leaves((size, size), np.random.default_rng(seed)))
    at = np.linspace(-1.0, 1.0, size)
    return np.asarray(0.3 + 0.5 * np.exp(-2.0 * (at[:, None] ** 2 + at[None, :] ** 2)), dtype=np.float32)


def exposure(scene: FloatArray, *, kernel: str, quanta: float, seed: int) -> tuple[FloatArray, FloatArray, NoiseLaw]:
    """Return stored values, noise-free values and the true law; ``quanta`` per pixel at the median."""
    truth = np.asarray(MOST_EXPOSURE * scene, dtype=np.float32)
    quantum = float(np.median(truth)) / quanta
    law = NoiseLaw(structure=STRUCTURE, quantum=quantum, electronic=ELECTRONIC_QUANTA**0.5 * quantum)
    detector = Detector(law=law, kernel=KERNELS[kernel], line_noise=0.05)
    noisy = quantise(expose(truth, detector, np.random.default_rng(seed)), 14)
    return noisy.astype(np.float32), truth, law


def errors_of(noisy: FloatArray, truth: FloatArray, law: NoiseLaw) -> dict[str, float] | None:
    """Return the relative errors of the estimated sigma, None where there is no estimate.

    Ours is read from the stored values: at the median, and over the values that occur (median of the absolute
    errors). The other two give one number for an image, so they get it with its noise made uniform by the *true* law:
    what is left against them is their own.
    """
    found = estimate_noise(noisy, domain=Domain.LINEAR)
    if isinstance(found, NoEstimate):
        return None
    middle = np.array([np.median(truth)])
    values = np.quantile(truth, np.linspace(0.05, 0.95, 19))
    low, high = float(noisy.min()), float(noisy.max())
    uniform = Stabiliser(law.curve(low, high), low=low, high=high).forward(noisy)
    return {
        "ours_error": float(found.curve.sigma(middle)[0] / law.sigma(middle)[0]) - 1.0,
        "ours_error_over_values": float(np.median(np.abs(found.curve.sigma(values) / law.sigma(values) - 1.0))),
        "immerkaer_error": immerkaer(uniform) - 1.0,
        "haar_mad_error": haar_mad(uniform) - 1.0,
    }


def measure_condition(
    background: str, *, size: int, kernel: str, quanta: float, scenes: list[FloatArray]
) -> dict[str, Any]:
    """Return one row of the study: mean relative errors over the scenes."""
    found, sigmas = [], []
    for seed, scene in enumerate(scenes):
        noisy, truth, law = exposure(scene, kernel=kernel, quanta=quanta, seed=1000 + seed)
        sigmas.append(float(law.sigma(np.array([np.median(truth)]))[0]))
        errors = errors_of(noisy, truth, law)
        if errors is not None:
            found.append(errors)
    row: dict[str, Any] = {
        "condition": f"{background}, {size} px, {quanta:g} quanta, {kernel}",
        "background": background,
        "size_px": size,
        "kernel": kernel,
        "quanta": quanta,
        "images": len(scenes),
        "without_estimate": len(scenes) - len(found),
        "true_sigma": float(np.mean(sigmas)),
    }
    for key in ("ours_error", "ours_error_over_values", "immerkaer_error", "haar_mad_error"):
        row[key] = float(np.mean([errors[key] for errors in found])) if found else None
    return row


def rows_of(*, sizes: tuple[int, ...], kernels: tuple[str, ...], seeds: int) -> Iterator[dict[str, Any]]:
    """Yield a row for every condition."""
    for size in sizes:
        for background in BACKGROUNDS:
            scenes = [transmission(background, size, seed) for seed in range(seeds)]
            for quanta in QUANTA:
                for kernel in kernels:
                    yield measure_condition(background, size=size, kernel=kernel, quanta=quanta, scenes=scenes)


def estimation_report(*, quick: bool) -> dict[str, Any]:
    """Return the study: rows by condition, the worst one and the median absolute errors.

    Parameters
    ----------
    quick
        One scene of 256 px and two kernels instead of two scenes, four sizes and four kernels.
    """
    if quick:
        rows = list(rows_of(sizes=(256,), kernels=("white", "csi"), seeds=1))
    else:
        rows = list(rows_of(sizes=SIZES, kernels=tuple(KERNELS), seeds=2))
    known = [row for row in rows if row["ours_error"] is not None]
    worst = max(known, key=lambda row: abs(row["ours_error"]))

    def median_error(chosen: list[dict[str, Any]], key: str) -> float | None:
        return float(np.median([abs(row[key]) for row in chosen])) if chosen else None

    correlated = [row for row in known if row["kernel"] != "white"]
    return {
        "rows": rows,
        "worst": {"condition": worst["condition"], "ours_error": worst["ours_error"]},
        "median_abs_error": {
            "ours": median_error(known, "ours_error"),
            "Immerkaer, correlated noise": median_error(correlated, "immerkaer_error"),
            "Haar MAD, correlated noise": median_error(correlated, "haar_mad_error"),
        },
        "how": "the other two see the image with its noise made uniform by the true law",
    }
