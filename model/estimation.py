"""Blind estimation of signal-dependent, correlated noise from one image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize

from model.domain import Domain
from model.noise import NoiseCurve, NoiseLaw

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Curve = NDArray[np.float64]

BLOCK = 16
"""Side of the blocks in pixels."""
LAG = 5
"""Distance of the half-differences in pixels: detector blur does not reach that far, anatomy hardly changes."""
NEAR_LAGS = (1, 2, 3, 4)
"""Distances at which the autocorrelation is measured."""
PERCENTILE = 15.0
"""Of the block variances in one intensity bin; anatomy inflates the upper ones."""
FEWEST_BLOCKS = 24
MOST_STRUCTURE = 0.03
"""Relative structure noise that a flat-field corrected detector may have (trained: up to 0.02)."""
_CALIBRATION_SIDE = 512


@dataclass(frozen=True, kw_only=True)
class NoiseEstimate:
    """What one image tells about its noise.

    Parameters
    ----------
    curve
        Standard deviation as a function of the value, in the units of the image.
    law
        The three parameters where they describe the bins well, else None (``curve`` then stands alone).
    correlation_x, correlation_y
        Autocorrelation at lags 1 to 4 along columns and along rows.
    misfit
        Median relative deviation of the binned variances from the curve; 0.1 is good, above 0.5 poor.
    coverage
        Share of the valid area that lies in whole blocks without a clipped pixel.
    blocks
        Number of blocks that the estimate rests on.
    median_sigma
        Standard deviation at the median of the valid pixels, in the units of the image.
    flat_blocks
        Shape ``(rows // 16, columns // 16)``: the blocks taken as flat.
    """

    curve: NoiseCurve
    law: NoiseLaw | None
    correlation_x: tuple[float, ...]
    correlation_y: tuple[float, ...]
    misfit: float
    coverage: float
    blocks: int
    median_sigma: float
    flat_blocks: BoolArray


@dataclass(frozen=True, kw_only=True)
class NoEstimate:
    """The image does not tell its noise; ``reason`` says why in plain words."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class _Blocks:
    """Statistics of all whole blocks, each ``(rows // BLOCK, columns // BLOCK)``."""

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]  # of half-differences at LAG, plane removed
    near_x: NDArray[np.float64]  # (len(NEAR_LAGS), ...): the same at short lags, along columns
    near_y: NDArray[np.float64]
    usable: BoolArray


def usable_pixels(frame: FloatArray, mask: BoolArray | None) -> BoolArray:
    """Return the pixels that may carry noise: valid, finite, not at a limit of the range where many sit."""
    usable = np.isfinite(frame)
    if mask is not None:
        usable &= mask
    if not usable.any():
        return usable
    values = frame[usable]
    for limit in (values.min(), values.max()):
        at_limit = frame == limit
        # One pixel in 2000 at the very limit: clipping, collimator or background, not chance.
        if int(np.count_nonzero(at_limit & usable)) > max(4, values.size // 2000):
            usable &= ~at_limit
    return usable


def changeable_pixels(frame: FloatArray, mask: BoolArray | None) -> BoolArray:
    """Return the pixels that may be changed: valid, finite, not in an area that is constant at a limit of the range.

    A single pixel clipped by noise is changed, or dark areas would keep their salt and pepper; what spans 5 x 5
    pixels is collimator, background or saturation and stays as it is.
    """
    changeable = np.isfinite(frame)
    if mask is not None:
        changeable &= mask
    if not changeable.any():
        return changeable
    values = frame[changeable]
    for limit in (values.min(), values.max()):
        at_limit = (frame == limit) & changeable
        if int(np.count_nonzero(at_limit)) >= 25:
            # Mirrored at the frame's border, so that an area that touches it is kept whole.
            bordered = np.pad(at_limit, 4, mode="symmetric")
            area = ndimage.binary_opening(bordered, structure=np.ones((5, 5)))[4:-4, 4:-4]
            changeable &= ~area
    return changeable


def _block_mean(values: NDArray[np.floating], shape: tuple[int, int]) -> NDArray[np.float64]:
    rows, columns = shape
    cut = values[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK)
    return np.asarray(cut.mean(axis=(1, 3), dtype=np.float64))


def _lagged(frame: FloatArray, lag: int, axis: int, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return per block the variance of half-differences at a lag, the mean (a plane's slope) removed."""
    rows, columns = shape
    right = frame[lag:] if axis == 0 else frame[:, lag:]
    left = frame[:-lag] if axis == 0 else frame[:, :-lag]
    d = np.zeros((rows * BLOCK, columns * BLOCK), dtype=np.float32)
    view = (right - left)[: d.shape[0], : d.shape[1]]
    d[: view.shape[0], : view.shape[1]] = view
    mean = _block_mean(d, shape)
    return np.maximum(0.5 * (_block_mean(d * d, shape) - mean**2), 0.0)


def _statistics(frame: FloatArray, usable: BoolArray) -> _Blocks:
    # One block less on each side: the differences reach LAG pixels beyond a block.
    shape = (max(0, (frame.shape[0] - LAG) // BLOCK), max(0, (frame.shape[1] - LAG) // BLOCK))
    clean = np.where(usable, frame, 0.0).astype(np.float32)
    clean -= np.float32(np.median(frame[usable][:: max(1, usable.sum() // 65536)]))  # keeps squares exact
    whole = _block_mean(usable.astype(np.float32), shape) > 0.999
    reach = np.zeros((shape[0] * BLOCK, shape[1] * BLOCK), dtype=np.float32)
    reach[...] = (usable[:-LAG, :-LAG] & usable[LAG:, :-LAG] & usable[:-LAG, LAG:])[: reach.shape[0], : reach.shape[1]]
    whole &= _block_mean(reach, shape) > 0.999
    far = 0.5 * (_lagged(clean, LAG, 0, shape) + _lagged(clean, LAG, 1, shape))
    near_x = np.stack([_lagged(clean, lag, 1, shape) for lag in NEAR_LAGS])
    near_y = np.stack([_lagged(clean, lag, 0, shape) for lag in NEAR_LAGS])
    mean = _block_mean(np.where(usable, frame, 0.0), shape)
    return _Blocks(mean=mean, variance=far, near_x=near_x, near_y=near_y, usable=whole & (far > 0))


def _bins(blocks: _Blocks) -> NDArray[np.int64]:
    """Return the bin of each block (-1: unusable): equal numbers of blocks by rising mean value."""
    index = np.full(blocks.mean.shape, -1, dtype=np.int64)
    means = blocks.mean[blocks.usable]
    count = int(np.clip(means.size // 40, 1, 64))
    order = np.argsort(np.argsort(means, kind="stable"), kind="stable")
    index[blocks.usable] = order * count // means.size
    return index


def _flat_blocks(blocks: _Blocks, index: NDArray[np.int64]) -> tuple[Curve, Curve, BoolArray]:
    """Return per bin the mean value and low percentile of the variance, and the blocks below the bin's quarter."""
    count = int(index.max()) + 1
    values, variances = np.zeros(count), np.zeros(count)
    flat = np.zeros(index.shape, dtype=np.bool_)
    for b in range(count):
        inside = index == b
        variance = blocks.variance[inside]
        quiet = inside & (blocks.variance <= np.percentile(variance, 25.0))
        # The value of the quiet blocks, not of the bin: in a wide bin these are the darker ones.
        values[b] = blocks.mean[quiet].mean()
        variances[b] = np.percentile(variance, PERCENTILE)
        flat |= quiet
    order = np.argsort(values, kind="stable")
    return values[order], variances[order], flat


def _correlation(blocks: _Blocks, flat: BoolArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the raw autocorrelations in the flat blocks; the choice of blocks biases them, see `_calibrate`."""
    far = blocks.variance[flat]
    # Ratios per block, then the mean: dark and bright blocks weigh the same.
    x = 1.0 - np.mean(blocks.near_x[:, flat] / far, axis=1)
    y = 1.0 - np.mean(blocks.near_y[:, flat] / far, axis=1)
    return x, y


def _simulated(rho_x: NDArray[np.float64], rho_y: NDArray[np.float64]) -> FloatArray:
    """Return Gaussian noise of variance 1 with separable autocorrelation, always the same random numbers."""
    n = _CALIBRATION_SIDE
    white = np.random.default_rng(20240229).standard_normal((n, n), dtype=np.float32)
    spectrum = np.fft.rfft2(white)
    lags = np.arange(1, len(rho_x) + 1)
    window = 0.5 * (1 + np.cos(np.pi * lags / (LAG + 1)))  # a truncated series would go negative
    for rho, f, axis in ((rho_y, np.fft.fftfreq(n), 0), (rho_x, np.fft.rfftfreq(n), 1)):
        power = 1 + 2 * np.cos(2 * np.pi * np.outer(f, lags)) @ (rho * np.sqrt(window))
        root = np.sqrt(np.maximum(power, 0.0))
        spectrum *= root[:, None] if axis == 0 else root[None, :]
    noise = np.fft.irfft2(spectrum, s=(n, n))
    return np.asarray(noise / noise.std(), dtype=np.float32)


def _calibrate(raw_x: Curve, raw_y: Curve) -> tuple[float, Curve, Curve]:
    """Undo the bias of choosing quiet blocks, by the same procedure on simulated noise.

    Returns
    -------
    What the low percentile of the block variance is to noise of variance 1, and the unbiased autocorrelations.
    """
    rho_x, rho_y = raw_x.copy(), raw_y.copy()
    factor = 1.0
    for _ in range(3):
        noise = _simulated(np.clip(rho_x, -0.6, 0.97), np.clip(rho_y, -0.6, 0.97))
        blocks = _statistics(noise, np.ones(noise.shape, dtype=np.bool_))
        index = np.where(blocks.usable, 0, -1)
        _, variances, flat = _flat_blocks(blocks, index)
        factor = float(variances[0])
        seen_x, seen_y = _correlation(blocks, flat)
        actual_x, actual_y = _true_correlation(noise)
        # The bias found on noise of nearly this correlation is taken off the measured one.
        rho_x, rho_y = raw_x - (seen_x - actual_x), raw_y - (seen_y - actual_y)
    return factor, rho_x, rho_y


def _true_correlation(noise: FloatArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x = [float(np.mean(noise[:, lag:] * noise[:, :-lag])) for lag in NEAR_LAGS]
    y = [float(np.mean(noise[lag:] * noise[:-lag])) for lag in NEAR_LAGS]
    return np.array(x), np.array(y)


def _fit_law(values: NDArray[np.float64], variances: NDArray[np.float64]) -> tuple[NoiseLaw, float]:
    """Fit the three non-negative parameters to the lower envelope of the bins; returns law and misfit."""
    signal = np.maximum(values, 0.0)
    scale = max(float(signal.max()), 1e-9)
    design = np.stack((np.ones_like(signal), signal / scale, (signal / scale) ** 2), axis=1)
    law, misfit = _fit_parameters(design, variances, scale)
    if law.structure > MOST_STRUCTURE:
        # No flat-fielded detector has that much: anatomy bent the curve, and its dark end would follow it.
        law, misfit = _fit_parameters(design[:, :2], variances, scale)
    return law, misfit


def _fit_parameters(design: Curve, variances: Curve, scale: float) -> tuple[NoiseLaw, float]:
    """Fit with weights that fall with the excess over the fit; ``design`` has two or three columns."""
    model = np.maximum(variances, 1e-12)
    weights = np.ones_like(variances)
    parameters = np.zeros(design.shape[1])
    excess = np.zeros_like(variances)
    for _ in range(12):
        w = weights / model
        parameters, _ = optimize.nnls(design * w[:, None], variances * w)
        model = np.maximum(design @ parameters, 1e-3 * float(np.median(variances)))
        excess = variances / model - 1.0
        # Anatomy only ever adds: what lies above counts less and less.
        weights = np.where(excess > 0, 1.0 / (1.0 + (excess / 0.15) ** 2), 1.0 / (1.0 + (excess / 0.5) ** 2))
    law = NoiseLaw(
        structure=float(np.sqrt(parameters[2])) / scale if parameters.size > 2 else 0.0,
        quantum=float(parameters[1]) / scale,
        electronic=float(np.sqrt(parameters[0])),
    )
    return law, float(np.median(np.abs(excess)))


def _smooth_curve(values: NDArray[np.float64], variances: NDArray[np.float64]) -> tuple[NoiseCurve, float]:
    """Return the lower envelope of the bins as a smooth curve, and its misfit."""
    log_sigma = 0.5 * np.log(np.maximum(variances, 1e-24))
    ranks = np.arange(values.size, dtype=np.float64)
    width = max(2.0, values.size / 12.0)
    near = np.exp(-0.5 * ((ranks[:, None] - ranks[None, :]) / width) ** 2)
    weights = np.ones_like(log_sigma)
    smooth = log_sigma
    for _ in range(8):
        w = near * weights[None, :]
        smooth = (w @ log_sigma) / w.sum(axis=1)
        excess = log_sigma - smooth
        weights = np.where(excess > 0, 1.0 / (1.0 + (excess / 0.08) ** 2), 1.0)
    keep = np.concatenate(([True], np.diff(values) > 1e-9 * max(1.0, float(np.ptp(values)))))
    curve = NoiseCurve(values=values[keep], sigmas=np.exp(smooth[keep]))
    return curve, float(np.median(np.abs(np.expm1(2 * (log_sigma - smooth)))))


def estimate_noise(
    frame: NDArray[np.floating], *, domain: Domain, mask: BoolArray | None = None
) -> NoiseEstimate | NoEstimate:
    """Estimate the noise of one image from itself.

    Variance of half-differences at lag 5 in blocks of 16 x 16 with the plane removed; blocks are binned by value;
    a low percentile of each bin stands for the flat blocks, and its bias is measured on simulated noise of the
    autocorrelation found. LINEAR: a non-negative fit of structure, quantum and electronic noise, robust against
    bins that anatomy inflates; where it fails, and in the other domains, a smooth curve.

    Parameters
    ----------
    frame
        Shape ``(rows, columns)``, any unit.
    domain
        Whether the parametric law may be tried.
    mask
        True where a pixel is valid; None: all are.

    Returns
    -------
    The estimate, or the reason why there is none (too small, constant, noise below the quantisation).
    """
    image = np.asarray(frame, dtype=np.float32)
    if min(image.shape) <= LAG + BLOCK:
        return NoEstimate(reason=f"the image is smaller than {LAG + BLOCK + 1} pixels")
    usable = usable_pixels(image, mask)
    if np.count_nonzero(usable) < FEWEST_BLOCKS * BLOCK**2:
        return NoEstimate(reason="too few valid pixels that are not at a limit of the range")
    blocks = _statistics(image, usable)
    if int(blocks.usable.sum()) < FEWEST_BLOCKS:
        return NoEstimate(reason="too few blocks with noise in them")
    step = _quantisation_step(image[usable])
    index = _bins(blocks)
    values, variances, flat = _flat_blocks(blocks, index)
    if float(np.median(variances)) < (0.3 * step) ** 2:
        return NoEstimate(reason="the noise is smaller than the step between grey values")
    factor, rho_x, rho_y = _calibrate(*_correlation(blocks, flat))
    variances = variances / factor
    return _finish(
        image,
        usable,
        domain,
        _Binned(values=values, variances=variances, flat=flat, blocks=blocks, rho_x=rho_x, rho_y=rho_y),
    )


@dataclass(frozen=True, kw_only=True)
class _Binned:
    values: NDArray[np.float64]
    variances: NDArray[np.float64]
    flat: BoolArray
    blocks: _Blocks
    rho_x: NDArray[np.float64]
    rho_y: NDArray[np.float64]


def _finish(image: FloatArray, usable: BoolArray, domain: Domain, found: _Binned) -> NoiseEstimate:
    valid = image[usable][:: max(1, int(usable.sum()) // 500_000)]
    low, high = float(valid.min()), float(valid.max())
    curve, misfit = _smooth_curve(found.values, found.variances)
    law: NoiseLaw | None = None
    if domain is Domain.LINEAR:
        fitted, law_misfit = _fit_law(found.values, found.variances)
        if law_misfit <= max(0.25, 2.0 * misfit):
            law, misfit, curve = fitted, law_misfit, fitted.curve(low, high)
    return NoiseEstimate(
        curve=curve,
        law=law,
        correlation_x=tuple(float(r) for r in found.rho_x),
        correlation_y=tuple(float(r) for r in found.rho_y),
        misfit=misfit,
        coverage=min(1.0, float(found.blocks.usable.sum()) * BLOCK**2 / float(usable.sum())),
        blocks=int(found.blocks.usable.sum()),
        median_sigma=float(curve.sigma(np.array([np.median(valid)]))[0]),
        flat_blocks=found.flat,
    )


def _quantisation_step(values: FloatArray) -> float:
    """Return the smallest step between grey values that occur."""
    levels = np.unique(values[:: max(1, values.size // 200_000)])
    return float(np.min(np.diff(levels))) if levels.size > 1 else 0.0


def noise_ratio(before: FloatArray, after: FloatArray, flat_blocks: BoolArray) -> float:
    """Return the standard deviation left in the flat blocks, relative to what was there (1: nothing changed).

    The median over the blocks: in a bin without flat areas the quietest blocks still hold an edge.
    """
    if not flat_blocks.any():
        return 1.0
    shape = (flat_blocks.shape[0], flat_blocks.shape[1])
    power = []
    for image in (before, after):
        centred = (image - image[0, 0]).astype(np.float32)
        power.append(sum(_lagged(centred, LAG, axis, shape)[flat_blocks] for axis in (0, 1)))
    ratios = power[1] / np.maximum(power[0], 1e-30)
    return float(np.sqrt(np.median(ratios)))
