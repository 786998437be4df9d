"""What denoising does to the mean, to the texture of the noise and to edges, over repeated exposures of one truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from scipy import ndimage, optimize

from model.denoiser import Denoiser
from training.cases import SIDE, Case, make_case
from training.clean import CleanImage
from training.phantom import phantom
from training.repeats import STRENGTHS, exposure, take
from training.transfer import (
    TRANSFER_FREQUENCIES,
    DoubleArray,
    edge_spread,
    frequency_at_half,
    mean_frequency,
    noise_power,
    radial_spectrum,
    slanted_edges,
    transfer_function,
)

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

CONTRASTS_PERCENT = (2.0, 5.0, 10.0, 20.0, 50.0)
FAINT_PERCENT = 5.0
"""Edges of up to this contrast are exposed more often: their noise is a large part of the step."""
CLIPPED_SIGMAS = 3.0
"""Pixels with a truth below this many sigma are left out of the bias: clipping at 0 shifts the noisy mean itself."""
EDGE_STRENGTHS = (0.7, 1.0)
_GROUPS = 4
_HIGHEST_FACTOR = 200.0


def phantom_image(anatomy: str, seed: int) -> CleanImage:
    """Return the middle of a phantom, without its collimated border."""
    side = SIDE + 128
    transmission = phantom(side, side, seed, anatomy=anatomy)[64:-64, 64:-64]
    return CleanImage(
        attenuation=-np.log(transmission), own_noise=0.0, patient=f"phantom:{anatomy}", source=f"phantom {anatomy}"
    )


def _flat_image() -> CleanImage:
    return CleanImage(attenuation=-np.log(_falling_off()), own_noise=0.0, patient="flat", source="flat")


def _falling_off() -> FloatArray:
    """Return an exposure that falls off by 15 % towards the corners, as the heel effect and distance make it."""
    at = np.linspace(-1.0, 1.0, SIDE, dtype=np.float32)
    return np.asarray(1.0 - 0.075 * (at[:, None] ** 2 + at[None, :] ** 2), dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class BiasMoments:
    """Bias and variance of repeated results; all in units of the noise variance of a pixel.

    ``bias2`` is corrected for the part that the finite number of results adds, so it may be slightly negative.
    ``edges`` is the same over the tenth of the pixels with the steepest truth.
    """

    bias2: float
    edges: float
    variance: float


def bias_moments(results: FloatArray, truth: FloatArray, sigma: NDArray[np.floating], field: BoolArray) -> BiasMoments:
    """Separate the error of repeated results into bias and variance.

    Parameters
    ----------
    results
        Shape ``(realisations, rows, columns)``, at least 2 realisations.
    truth, sigma
        Shape ``(rows, columns)``: noise-free values and the standard deviation of the noise before denoising.
    field
        Pixels that count.
    """
    deviation = (results - truth) / sigma
    mean = deviation.mean(axis=0, dtype=np.float64)
    variance = deviation.var(axis=0, ddof=1, dtype=np.float64)
    bias2 = mean**2 - variance / len(results)
    steepness = ndimage.gaussian_gradient_magnitude(truth / sigma, 1.0)
    steep = field & (steepness >= np.percentile(steepness[field], 90.0))
    return BiasMoments(
        bias2=float(bias2[field].mean()), edges=float(bias2[steep].mean()), variance=float(variance[field].mean())
    )


def bias(
    denoiser: Denoiser, images: Sequence[CleanImage], doses: tuple[str, ...], *, realisations: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Measure bias and residual variance; returns rows of ``bias`` and rows of ``dose_equivalence`` by error."""
    rows: list[dict[str, Any]] = []
    worth: list[dict[str, Any]] = []
    plan = [(image, dose) for image in images for dose in doses]
    for image, dose in track(plan, description="bias", transient=True):
        case = make_case(image, dose=dose, kernel="csi", seed=0)
        sigma = case.law.sigma(case.truth)
        field = case.field & (case.truth > CLIPPED_SIGMAS * sigma)
        shots = [take(denoiser, exposure(case.truth, case, 10_000 + k)) for k in range(realisations)]
        for strength in STRENGTHS:
            moments = bias_moments(np.stack([shot.at(strength) for shot in shots]), case.truth, sigma, field)
            rows.append(
                {
                    "strength": strength,
                    "dose": dose,
                    "bias2_over_residual_variance": round(moments.bias2 / moments.variance, 4),
                    "bias2_sigma2": round(moments.bias2, 5),
                    "bias2_edges_sigma2": round(moments.edges, 5),
                    "residual_variance_sigma2": round(moments.variance, 5),
                    "realisations": realisations,
                    "applied": round(float(np.mean([shot.applied(strength) for shot in shots])), 3),
                    "source": image.source,
                    "patient": image.patient,
                }
            )
            if strength in EDGE_STRENGTHS:
                worth.append(_worth(case, field, strength, moments.bias2 + moments.variance, image.source))
    return rows, worth


def dose_factor_of_error(case: Case, field: BoolArray, error: float) -> float:
    """Return by what factor the dose must rise until the noisy image's error is ``error``, at most 200.

    Both as mean squared error relative to the exposure, in units of the variance at the case's dose: structure noise
    rises with the exposure and sets a floor.
    """
    truth = case.truth[field].astype(np.float64)
    now = case.law.variance(truth)

    def excess(log_factor: float) -> float:
        factor = float(np.exp(log_factor))
        return float(np.mean(case.law.variance(truth * factor) / factor**2 / now)) - error

    limit = float(np.log(_HIGHEST_FACTOR))
    if excess(limit) > 0:
        return _HIGHEST_FACTOR
    return float(np.exp(optimize.brentq(excess, -limit, limit, xtol=1e-4)))


def _worth(case: Case, field: BoolArray, strength: float, error: float, source: str) -> dict[str, Any]:
    return {
        "strength": strength,
        "dose": case.dose,
        "measure": "rmse",
        "source": source,
        "factor": round(dose_factor_of_error(case, field, error), 3),
        "how": "factor by which the dose of the noisy image must rise until its mean squared error, relative to the "
        "exposure, is that of the denoised image (bias and residual variance together)",
    }


def noise_texture(
    denoiser: Denoiser, doses: tuple[str, ...], kernels: tuple[str, ...], *, pairs: int
) -> list[dict[str, Any]]:
    """Compare noise power spectra before and after, on a flat field and on anatomy, from differences of pairs."""
    rows: list[dict[str, Any]] = []
    images = (_flat_image(), phantom_image("chest", 1))
    plan = [(image, dose, kernel) for image in images for dose in doses for kernel in kernels]
    for image, dose, kernel in track(plan, description="noise power", transient=True):
        case = make_case(image, dose=dose, kernel=kernel, seed=0)
        sigma = case.law.sigma(case.truth).astype(np.float32)
        valid = case.truth > CLIPPED_SIGMAS * sigma if image.source != "flat" else None
        shots = [take(denoiser, exposure(case.truth, case, 20_000 + k)) for k in range(2 * pairs)]
        frequency, noisy = radial_spectrum(noise_power(_differences([shot.noisy for shot in shots], sigma), valid))
        before = mean_frequency(frequency, noisy)
        for strength in STRENGTHS:
            left = _differences([shot.at(strength) for shot in shots], sigma)
            _, denoised = radial_spectrum(noise_power(left, valid))
            after = mean_frequency(frequency, denoised)
            rows.append(
                {
                    "strength": strength,
                    "dose": dose,
                    "kernel": kernel,
                    "background": "flat" if image.source == "flat" else "anatomy",
                    "frequency_per_px": _rounded(frequency),
                    "noisy": _rounded(noisy),
                    "denoised": _rounded(denoised),
                    "mean_frequency_noisy": round(before, 4),
                    "mean_frequency_denoised": round(after, 4),
                    "shift": round(after / before - 1.0, 4),
                    "applied": round(float(np.mean([shot.applied(strength) for shot in shots])), 3),
                }
            )
    return rows


def _differences(images: list[FloatArray], sigma: FloatArray) -> FloatArray:
    """Return the noise of pairs in sigma: differences over the root of 2, so that all that is not noise drops out."""
    return np.stack(
        [(a - b) / (np.sqrt(np.float32(2.0)) * sigma) for a, b in zip(images[::2], images[1::2], strict=True)]
    )


def edge_transfer(
    denoiser: Denoiser, doses: tuple[str, ...], *, repeats: int, faint_repeats: int
) -> list[dict[str, Any]]:
    """Measure the transfer of slanted edges of five contrasts before and after."""
    rows: list[dict[str, Any]] = []
    plan = [(dose, percent) for dose in doses for percent in CONTRASTS_PERCENT]
    for dose, percent in track(plan, description="edges", transient=True):
        rows += _one_edge(denoiser, dose, percent, faint_repeats if percent <= FAINT_PERCENT else repeats)
    return rows


def _one_edge(denoiser: Denoiser, dose: str, percent: float, repeats: int) -> list[dict[str, Any]]:
    edges = slanted_edges(SIDE, SIDE)
    contrast = percent / 100
    light = _falling_off()
    scene = light * (1.0 - contrast * (1.0 - edges.cover))
    image = CleanImage(attenuation=-np.log(scene), own_noise=0.0, patient="edges", source="edges")
    case = make_case(image, dose=dose, kernel="csi", seed=0)
    # Rounding of the scene's brightest pixel apart, truth = open * light * (1 - contrast (1 - cover)).
    open_field = case.truth / scene

    def spread(values: FloatArray) -> DoubleArray:
        return edge_spread((values / (open_field * light) - (1.0 - contrast)) / contrast, edges.distance)

    truth = edge_spread(edges.cover, edges.distance)
    noisy, cleaned, allowed = [], [], []
    for k in range(repeats):
        shot = take(denoiser, exposure(case.truth, case, 30_000 + k))
        noisy.append(spread(shot.noisy))
        cleaned.append(spread(shot.at(1.0)))
        allowed.append(shot.allowed)
    ttf50_truth = frequency_at_half(transfer_function(truth, truth).system)
    ttf50_noisy = frequency_at_half(transfer_function(np.mean(noisy, axis=0), truth).system)
    rows = []
    for strength in EDGE_STRENGTHS:
        # The mean of what is handed on: noisy images have the truth as their mean, so only the cleaned part is
        # averaged; the noise of the noisy part would cover a faint edge.
        parts = [min(strength, a) / a if a > 0 else 0.0 for a in allowed]
        results = np.stack([truth + p * (c - truth) if p > 0 else truth for p, c in zip(parts, cleaned, strict=True)])
        transfer = transfer_function(results.mean(axis=0), truth)
        ttf50 = frequency_at_half(transfer.system)
        rows.append(
            {
                "strength": strength,
                "dose": dose,
                "contrast_percent": percent,
                "contrast_sigma": round(contrast * float(np.median(case.truth / case.law.sigma(case.truth))), 3),
                "frequency_per_px": _rounded(TRANSFER_FREQUENCIES),
                "ttf": _rounded(transfer.system),
                "ttf_relative": _rounded(transfer.relative),
                "ttf50_truth": round(ttf50_truth, 4),
                "ttf50_noisy": round(ttf50_noisy, 4),
                "ttf50": round(ttf50, 4),
                "loss": round(1.0 - ttf50 / ttf50_truth, 4),
                "loss_error": round(_jackknife(results, truth) / ttf50_truth, 4),
                "repeats": repeats,
                "applied": round(float(np.mean([min(strength, a) for a in allowed])), 3),
            }
        )
    return rows


def _jackknife(results: DoubleArray, truth: DoubleArray) -> float:
    """Return the standard error of the frequency at half, from leaving out one of four groups at a time."""
    groups = min(_GROUPS, len(results))
    group = np.arange(len(results)) % groups
    halves = [
        frequency_at_half(transfer_function(results[group != g].mean(axis=0), truth).system) for g in range(groups)
    ]
    return float(np.sqrt((groups - 1) * np.var(halves)))


def _rounded(values: DoubleArray) -> list[float]:
    return [round(float(v), 5) for v in values]
