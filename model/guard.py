"""The guards at run time: what the network may change, and when its result is not used."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from model.domain import Domain
from model.estimation import BLOCK, NoEstimate, NoiseEstimate

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

SIGMA_LIMIT = 3.5
"""Removed noise never exceeds this many sigma: what is statistically certain can be neither removed nor made."""
LOW_BAND_PX = 64
"""Structures wider than this keep the values of the input."""
_COARSE = 8

POOR_MISFIT, WEAK_MISFIT = 0.5, 0.3
COARSE_CORRELATION, WIDE_CORRELATION = 0.5, 0.13
"""Correlation at 4 px, inferred: at most 0.085 in good images; noise blurred by 3.5 px, the widest trained, has up to
0.12, by 4 px 0.10 to 0.16, a photographed texture 0.17 and more."""
MILD = 0.4
MUCH_ANATOMY = 0.4
"""Share of what looks like noise that grows with distance: at most 0.3 in radiographs at low dose, 0.4 and more in
noise coarser than trained, in streaks, in filtered images and in photographs of textures."""
FAR_PX = 6
FAR_GRAIN = 0.08
"""Correlation over 6 px of what would be removed: at most 0.03 where it is noise of the trained kinds."""
RECOGNISED_POWER = 0.4
"""The network finds 0.4 to 1.3 sigma² of noise of the trained kinds in flat areas (in 320 of 324 good images), 0.33 of
images that were filtered before, 0.5 and less of noise much coarser than trained."""
LEAST_POWER = 0.25
"""Drawings without noise and pictures of gravel stay below."""
LEAST_COVERAGE = 0.35
FEWEST_SHARE = 1 / 3


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a gate decides: the strength that is left (0: the original goes on) and why, in plain words."""

    strength: float
    reasons: tuple[str, ...]


def clamp_noise(noise: FloatArray) -> FloatArray:
    """Limit a noise estimate, given in sigma, to ±3.5."""
    return np.clip(noise, -SIGMA_LIMIT, SIGMA_LIMIT)


def without_low_band(removed: FloatArray, valid: BoolArray) -> FloatArray:
    """Return ``removed`` less its own low band, so that the low band of the image stays the input's.

    Parameters
    ----------
    removed
        Shape ``(rows, columns)``: what would be taken from the image, any unit.
    valid
        Pixels that count; the band is the weighted mean of these alone, so a collimated edge does not leak.

    Returns
    -------
    Same shape; 0 where not valid.
    """
    rows, columns = removed.shape
    weight = valid.astype(np.float32)
    kept = np.where(valid, removed, np.float32(0.0))
    coarse_sum, coarse_weight = _coarse(kept), _coarse(weight)
    # A Gaussian whose response is one half at a period of 64 px.
    sigma = LOW_BAND_PX * float(np.sqrt(2 * np.log(2))) / (2 * np.pi) / _COARSE
    total = ndimage.gaussian_filter(coarse_sum, sigma, mode="nearest", truncate=3.0)
    share = ndimage.gaussian_filter(coarse_weight, sigma, mode="nearest", truncate=3.0)
    band = (total / np.maximum(share, 1e-6)).astype(np.float32)
    return np.where(valid, removed - _fine(band, rows, columns), np.float32(0.0)).astype(np.float32)


def _coarse(image: FloatArray) -> FloatArray:
    """Average squares of 8 pixels, the last ones over what is there."""
    rows, columns = image.shape
    edges_y, edges_x = np.arange(0, rows, _COARSE), np.arange(0, columns, _COARSE)
    sums = np.add.reduceat(np.add.reduceat(image, edges_y, axis=0), edges_x, axis=1)
    height = np.diff(np.append(edges_y, rows))[:, None]
    width = np.diff(np.append(edges_x, columns))[None, :]
    return np.asarray(sums / (height * width), dtype=np.float32)


def _fine(coarse: FloatArray, rows: int, columns: int) -> FloatArray:
    """Interpolate linearly between the centres of the squares of 8 pixels."""
    y = np.clip((np.arange(rows) + 0.5) / _COARSE - 0.5, 0, coarse.shape[0] - 1)
    x = np.clip((np.arange(columns) + 0.5) / _COARSE - 0.5, 0, coarse.shape[1] - 1)
    y0, x0 = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    y1, x1 = np.minimum(y0 + 1, coarse.shape[0] - 1), np.minimum(x0 + 1, coarse.shape[1] - 1)
    fy, fx = (y - y0).astype(np.float32)[:, None], (x - x0).astype(np.float32)[None, :]
    along = coarse[:, x0] * (1 - fx) + coarse[:, x1] * fx
    return np.asarray(along[y0] * (1 - fy) + along[y1] * fy, dtype=np.float32)


def judge_noise(
    estimate: NoiseEstimate | NoEstimate, *, domain: Domain, strength: float, median: float, quanta_from: float
) -> Verdict:
    """Decide before the network runs, by what is known of the noise.

    Parameters
    ----------
    estimate
        What the image tells about its noise.
    domain
        Relation of the values to exposure.
    strength
        Asked for, 0 to 1.
    median
        Median of the valid pixels, units of the image.
    quanta_from
        Least effective quanta per pixel that the weights were trained on.
    """
    if isinstance(estimate, NoEstimate):
        return Verdict(strength=0.0, reasons=(f"no noise estimate: {estimate.reason}",))
    reasons: list[str] = []
    far = max(estimate.correlation_x[-1], estimate.correlation_y[-1])
    if estimate.misfit > POOR_MISFIT:
        return Verdict(strength=0.0, reasons=(f"the noise follows no curve (misfit {estimate.misfit:.2f})",))
    if far > COARSE_CORRELATION:
        reason = f"what looks like noise is coarser than noise (correlation {far:.2f} at 4 px)"
        return Verdict(strength=0.0, reasons=(reason,))
    if domain is Domain.LINEAR and estimate.law is not None and estimate.law.quantum > 0:
        quanta = median / estimate.law.quantum
        if quanta < FEWEST_SHARE * quanta_from:
            reason = f"only {quanta:.1f} quanta per pixel, trained from {quanta_from:g} up"
            return Verdict(strength=0.0, reasons=(reason,))
    if estimate.misfit > WEAK_MISFIT:
        strength = min(strength, MILD)
        reasons.append(f"strength lowered: the noise follows its curve poorly (misfit {estimate.misfit:.2f})")
    if far > WIDE_CORRELATION:
        strength = min(strength, MILD)
        reasons.append(f"strength lowered: the noise is coarser than trained (correlation {far:.2f} at 4 px)")
    if estimate.anatomy > MUCH_ANATOMY:
        strength = min(strength, MILD)
        reasons.append(
            f"strength lowered: {estimate.anatomy:.0%} of what looks like noise grows with distance, as structure does "
            "and noise coarser than trained"
        )
    if estimate.coverage < LEAST_COVERAGE:
        strength = min(strength, MILD)
        reasons.append(f"strength lowered: the estimate covers {estimate.coverage:.0%} of the pixels")
    return Verdict(strength=strength, reasons=tuple(reasons))


def judge_removed(
    removed: FloatArray, denoised: FloatArray, valid: BoolArray, flat_blocks: BoolArray, *, strength: float
) -> Verdict:
    """Decide after the network ran, by what it would take away.

    Parameters
    ----------
    removed
        Noise estimate in sigma before the clamp, ``(rows, columns)``.
    denoised
        Stabilised denoised image, the place of its edges.
    valid
        Pixels that count.
    flat_blocks
        Blocks of 16 x 16 that hold noise alone.
    strength
        What is left after `judge_noise`.
    """
    reasons: list[str] = []
    beyond = float(np.mean(np.abs(removed[valid]) > SIGMA_LIMIT)) if valid.any() else 0.0
    if beyond > 0.05:
        return Verdict(strength=0.0, reasons=(f"{beyond:.1%} of the pixels would change by more than 3.5 sigma",))
    if beyond > 0.01:
        strength = min(strength, MILD)
        reasons.append(f"strength lowered: {beyond:.1%} of the pixels at the 3.5 sigma limit")
    flat, edges = flat_and_edge_power(removed, denoised, valid, flat_blocks)
    if flat > 2.0:
        reason = f"more would be removed from flat areas than their noise ({flat:.1f} sigma²)"
        return Verdict(strength=0.0, reasons=(reason,))
    if flat < LEAST_POWER and flat_blocks.any():
        reason = f"only {flat:.2f} of what looks like noise is of a kind that was trained"
        return Verdict(strength=0.0, reasons=(reason,))
    if flat < RECOGNISED_POWER and flat_blocks.any():
        strength = min(strength, MILD)
        reasons.append(f"strength lowered: only {flat:.2f} of the noise power is of a kind that was trained")
    if edges > 2.0 * max(flat, 0.25):
        strength = min(strength, MILD)
        powers = f"{edges:.1f} against {flat:.1f} sigma²"
        reasons.append(f"strength lowered: more is removed at edges than in flat areas ({powers})")
    grain = far_correlation(removed, valid, flat_blocks)
    if abs(grain) > FAR_GRAIN:
        strength = min(strength, MILD)
        reasons.append(f"strength lowered: what would be removed is coarse (correlation {grain:.2f} at {FAR_PX} px)")
    return Verdict(strength=strength, reasons=tuple(reasons))


def far_correlation(removed: FloatArray, valid: BoolArray, flat_blocks: BoolArray) -> float:
    """Return the autocorrelation of what is removed at 6 px, mean over both directions, in the flat blocks.

    Noise of a detector has none at that distance; structure that was taken for noise has.
    """
    flat = np.zeros(removed.shape, dtype=np.bool_)
    blocks = np.repeat(np.repeat(flat_blocks, BLOCK, axis=0), BLOCK, axis=1)
    flat[: blocks.shape[0], : blocks.shape[1]] = blocks
    rows, columns = max(0, removed.shape[0] - FAR_PX), max(0, removed.shape[1] - FAR_PX)
    here = removed[:rows, :columns]
    below, right = (slice(FAR_PX, None), slice(columns)), (slice(rows), slice(FAR_PX, None))
    used = (flat & valid)[:rows, :columns] & valid[below] & valid[right]
    power = float(np.sum(here[used] ** 2, dtype=np.float64))
    if power == 0.0:
        return 0.0
    return sum(float(np.sum(here[used] * removed[at][used], dtype=np.float64)) for at in (below, right)) / (2 * power)


def flat_and_edge_power(
    removed: FloatArray, denoised: FloatArray, valid: BoolArray, flat_blocks: BoolArray
) -> tuple[float, float]:
    """Return the power of what is removed, in sigma², in flat blocks and in the tenth of blocks with most structure."""
    shape = flat_blocks.shape
    if not flat_blocks.any():
        return 0.0, 0.0
    rows, columns = shape[0] * BLOCK, shape[1] * BLOCK

    def per_block(image: NDArray[np.floating]) -> NDArray[np.float64]:
        cut = image[:rows, :columns].reshape(shape[0], BLOCK, shape[1], BLOCK)
        return np.asarray(cut.mean(axis=(1, 3), dtype=np.float64))

    whole = per_block(valid.astype(np.float32)) > 0.999
    power = per_block(removed * removed)
    mean = per_block(denoised)
    structure = per_block(denoised * denoised) - mean**2
    if not (whole & flat_blocks).any():
        return 0.0, 0.0
    busiest = whole & (structure >= np.percentile(structure[whole], 90.0))
    return float(power[whole & flat_blocks].mean()), float(np.median(power[busiest]))
