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
"""Distance of the differences in pixels: detector blur does not reach that far, anatomy hardly changes."""
WIDE_LAG = 10
"""Distance at which noise has nothing new to add, so that what grows between the two is anatomy."""
NEAR_LAGS = (1, 2, 3, 4)
"""Distances at which the autocorrelation is measured."""
GROWTH = 3.0
"""Power that anatomy adds at `WIDE_LAG` over that at `LAG` (procedural chests and dead leaves: 2.4 to 3.5)."""
MOST_ANATOMY = 0.6
"""Share of the power in the quiet blocks up to which anatomy is taken off; beyond, the growth is too uncertain."""
PERCENTILE = 15.0
"""Of the block variances in one intensity bin; anatomy inflates the upper ones."""
FEWEST_BLOCKS = 24
FEWEST_BINS = 8
"""Below, the curve alone says nothing of whether it is right."""
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
    anatomy
        Share of the power in the quiet blocks that grows with distance, median over the bins: anatomy, or noise
        coarser than any detector's. It is taken off; up to 0.2 is usual, 0.6 the most.
    flat_blocks
        Shape ``((rows - 10) // 16, (columns - 10) // 16)``: the blocks taken as flat.
    """

    curve: NoiseCurve
    law: NoiseLaw | None
    correlation_x: tuple[float, ...]
    correlation_y: tuple[float, ...]
    misfit: float
    coverage: float
    blocks: int
    median_sigma: float
    anatomy: float
    flat_blocks: BoolArray


@dataclass(frozen=True, kw_only=True)
class NoEstimate:
    """The image does not tell its noise; ``reason`` says why in plain words."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class _Blocks:
    """Statistics of all whole blocks, each ``(rows // BLOCK, columns // BLOCK)``."""

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]  # of crossed differences at LAG, that of uncorrelated noise kept
    wide: NDArray[np.float64]  # the same at WIDE_LAG
    near_x: NDArray[np.float64]  # (len(NEAR_LAGS), ...): at short lags along a row, at LAG down the columns
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


def _difference(frame: FloatArray, lag: int, axis: int) -> FloatArray:
    """Return the differences at a lag down the columns (axis 0) or along the rows (axis 1)."""
    if axis == 0:
        return np.asarray(frame[lag:] - frame[:-lag])
    return np.asarray(frame[:, lag:] - frame[:, :-lag])


def _power(crossed: FloatArray, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return per block the variance of a difference of differences; uncorrelated noise keeps its own."""
    cut = crossed[: shape[0] * BLOCK, : shape[1] * BLOCK]
    mean = _block_mean(cut, shape)
    return np.maximum(_block_mean(cut * cut, shape) - mean**2, 0.0) / 4.0


def _whole_blocks(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return rows and columns of blocks; the differences reach WIDE_LAG pixels beyond a block."""
    return max(0, (shape[0] - WIDE_LAG) // BLOCK), max(0, (shape[1] - WIDE_LAG) // BLOCK)


def _statistics(frame: FloatArray, usable: BoolArray) -> _Blocks:
    shape = _whole_blocks(frame.shape)
    clean = np.where(usable, frame, 0.0).astype(np.float32)
    clean -= np.float32(np.median(frame[usable][:: max(1, usable.sum() // 65536)]))  # keeps squares exact
    whole = _block_mean(usable.astype(np.float32), shape) > 0.999
    below, right = usable[WIDE_LAG:], usable[:, WIDE_LAG:]
    reach = below[:, :-WIDE_LAG] & below[:, WIDE_LAG:] & right[:-WIDE_LAG]
    whole &= _block_mean(reach.astype(np.float32), shape) > 0.999
    # A difference of differences: planes, and edges along rows or columns, cancel in it.
    down, across = _difference(clean, LAG, 0), _difference(clean, LAG, 1)
    far = _power(_difference(down, LAG, 1), shape)
    wide = _power(_difference(_difference(clean, WIDE_LAG, 0), WIDE_LAG, 1), shape)
    near_x = np.stack([_power(_difference(down, lag, 1), shape) for lag in NEAR_LAGS])
    near_y = np.stack([_power(_difference(across, lag, 0), shape) for lag in NEAR_LAGS])
    mean = _block_mean(np.where(usable, frame, 0.0), shape)
    return _Blocks(
        mean=mean,
        variance=far,
        wide=wide,
        near_x=near_x,
        near_y=near_y,
        usable=whole & (far > 0),
    )


def _bins(blocks: _Blocks) -> NDArray[np.int64]:
    """Return the bin of each block (-1: unusable): equal numbers of blocks by rising mean value."""
    index = np.full(blocks.mean.shape, -1, dtype=np.int64)
    means = blocks.mean[blocks.usable]
    count = int(np.clip(means.size // 40, 1, 64))
    order = np.argsort(np.argsort(means, kind="stable"), kind="stable")
    index[blocks.usable] = order * count // means.size
    return index


@dataclass(frozen=True, kw_only=True)
class _Quiet:
    """What the bins, by rising value, say of their quiet blocks."""

    values: Curve
    variances: Curve  # low percentile of the block variances
    growth: Curve  # of the power from LAG to WIDE_LAG, median over the quiet blocks
    flat: BoolArray  # the quiet blocks, a quarter of each bin


def _quiet_blocks(blocks: _Blocks, index: NDArray[np.int64]) -> _Quiet:
    count = int(index.max()) + 1
    values, variances, growth = np.zeros(count), np.zeros(count), np.zeros(count)
    flat = np.zeros(index.shape, dtype=np.bool_)
    for b in range(count):
        inside = index == b
        variance = blocks.variance[inside]
        quiet = inside & (blocks.variance <= np.percentile(variance, 25.0))
        # The value of the quiet blocks, not of the bin: in a wide bin these are the darker ones.
        values[b] = blocks.mean[quiet].mean()
        variances[b] = np.percentile(variance, PERCENTILE)
        growth[b] = np.median(blocks.wide[quiet] / blocks.variance[quiet])
        flat |= quiet
    order = np.argsort(values, kind="stable")
    return _Quiet(
        values=values[order],
        variances=variances[order],
        growth=growth[order],
        flat=flat,
    )


def _relative_power(blocks: _Blocks, flat: BoolArray) -> tuple[Curve, Curve]:
    """Return the power of the differences at short lags over that at LAG, along rows and down columns."""
    far = blocks.variance[flat]
    # Ratios per block, then the mean: dark and bright blocks weigh the same.
    return np.mean(blocks.near_x[:, flat] / far, axis=1), np.mean(blocks.near_y[:, flat] / far, axis=1)


def _anatomy(growth: Curve, of_noise: float) -> Curve:
    """Return per bin the share of the power that is anatomy, by how much more it grows than noise does."""
    at = np.arange(growth.size, dtype=np.float64)
    near = np.exp(-0.5 * ((at[:, None] - at[None, :]) / max(1.0, growth.size / 16.0)) ** 2)
    smooth = np.exp(near @ np.log(np.maximum(growth, 1e-3)) / near.sum(axis=1))
    # A little below zero: chance works both ways, and cutting one of them off would bias the rest.
    share = (smooth - of_noise) / max(GROWTH - of_noise, 0.5)
    return np.asarray(np.clip(share, -0.15, MOST_ANATOMY), dtype=np.float64)


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


@dataclass(frozen=True, kw_only=True)
class _Calibrated:
    """What the quiet blocks say once the bias of choosing them is known."""

    factor: float  # the low percentile of the block variances where the noise has variance 1
    scatter: float  # relative standard deviation of that percentile in a bin
    anatomy: Curve  # share of the power per bin
    rho_x: Curve
    rho_y: Curve


def _calibrate(blocks: _Blocks, quiet: _Quiet) -> _Calibrated:
    """Undo the bias of choosing quiet blocks, by the same procedure on simulated noise.

    The noise that is simulated takes its correlation from the image, less what anatomy adds to it; how much that
    is follows from the growth of the simulated noise: a few rounds settle it.
    """
    raw_x, raw_y = _relative_power(blocks, quiet.flat)
    in_bin = max(8, int(blocks.usable.sum()) // quiet.values.size)
    grown = (np.array(NEAR_LAGS) / LAG) ** (0.5 * np.log2(GROWTH))
    share, anatomy = 0.0, np.zeros(quiet.values.size)
    bias_x = bias_y = np.zeros(len(NEAR_LAGS))
    factor, scatter = 1.0, 0.0
    for _ in range(4):
        seen_x, seen_y = (1.0 - np.maximum(raw - share * grown, 0.0) / (1.0 - share) for raw in (raw_x, raw_y))
        # The bias found on noise of nearly this correlation is taken off the measured one.
        rho_x, rho_y = seen_x - bias_x, seen_y - bias_y
        noise = _simulated(np.clip(rho_x, -0.6, 0.97), np.clip(rho_y, -0.6, 0.97))
        simulated = _statistics(noise, np.ones(noise.shape, dtype=np.bool_))
        found = _quiet_blocks(simulated, np.where(simulated.usable, 0, -1))
        factor = float(found.variances[0])
        scatter = _scatter(simulated.variance[simulated.usable], in_bin)
        near_x, near_y = _relative_power(simulated, found.flat)
        actual_x, actual_y = _true_correlation(noise)
        bias_x, bias_y = (1.0 - near_x) - actual_x, (1.0 - near_y) - actual_y
        anatomy = _anatomy(quiet.growth, float(found.growth[0]))
        share = max(0.0, float(np.median(anatomy)))
    return _Calibrated(
        factor=factor,
        scatter=scatter,
        anatomy=anatomy,
        rho_x=seen_x - bias_x,
        rho_y=seen_y - bias_y,
    )


def _scatter(variances: Curve, in_bin: int) -> float:
    """Return the relative standard deviation of the low percentile of ``in_bin`` block variances."""
    groups = max(8, variances.size // in_bin)
    drawn = np.random.default_rng(1).choice(variances, size=(groups, in_bin))
    percentiles = np.percentile(drawn, PERCENTILE, axis=1)
    return float(percentiles.std() / percentiles.mean())


def _true_correlation(
    noise: FloatArray,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
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
        weights = np.where(
            excess > 0,
            1.0 / (1.0 + (excess / 0.15) ** 2),
            1.0 / (1.0 + (excess / 0.5) ** 2),
        )
    law = NoiseLaw(
        structure=float(np.sqrt(parameters[2])) / scale if parameters.size > 2 else 0.0,
        quantum=float(parameters[1]) / scale,
        electronic=float(np.sqrt(parameters[0])),
    )
    return law, float(np.median(np.abs(excess)))


def _kept_up(curve: NoiseCurve, *, darkest: float) -> NoiseCurve:
    """Return the curve of a law without its fall to nothing below the darkest bin, where no block tells the noise.

    A fit without electronic noise says 0 at no exposure; a pixel there would count as infinitely certain.
    """
    least = 0.5 * float(curve.sigma(np.array([darkest]))[0])
    return NoiseCurve(values=curve.values, sigmas=np.maximum(curve.sigmas, least))


def _smooth_curve(values: Curve, variances: Curve) -> tuple[NoiseCurve, float]:
    """Return the lower envelope of the bins as a smooth curve, and its misfit: straight lines through neighbours."""
    log_sigma = 0.5 * np.log(np.maximum(variances, 1e-24))
    ranks = np.arange(values.size, dtype=np.float64)
    off = ranks[None, :] - ranks[:, None]
    near = np.exp(-0.5 * (off / max(1.2, values.size / 12.0)) ** 2)
    weights = np.ones_like(log_sigma)
    smooth = log_sigma
    for _ in range(8):
        w = near * weights[None, :]
        total, first, second = (
            w.sum(axis=1),
            (w * off).sum(axis=1),
            (w * off**2).sum(axis=1),
        )
        level, slope = w @ log_sigma, (w * off) @ log_sigma
        # A little ridge, so that one bin alone gives a level.
        smooth = ((second + 1e-6) * level - first * slope) / (total * (second + 1e-6) - first**2)
        excess = log_sigma - smooth
        weights = np.where(excess > 0, 1.0 / (1.0 + (excess / 0.08) ** 2), 1.0)
    keep = np.concatenate(([True], np.diff(values) > 1e-9 * max(1.0, float(np.ptp(values)))))
    curve = NoiseCurve(values=values[keep], sigmas=np.exp(smooth[keep]))
    return curve, float(np.median(np.abs(np.expm1(2 * (log_sigma - smooth)))))


def estimate_noise(
    frame: NDArray[np.floating], *, domain: Domain, mask: BoolArray | None = None
) -> NoiseEstimate | NoEstimate:
    """Estimate the noise of one image from itself.

    Variance of differences of differences at lag 5, down and along, in blocks of 16 x 16; blocks are binned by
    value; a low percentile of each bin stands for the flat blocks, and its bias is measured on simulated noise of
    the autocorrelation found. What the variance gains from lag 5 to 10 more than noise does is anatomy, of which
    lag 5 holds a third: it is taken off. LINEAR: a non-negative fit of structure, quantum and electronic noise,
    robust against bins that anatomy inflates; where it fails, and in the other domains, a smooth curve.

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
    if min(image.shape) <= WIDE_LAG + BLOCK:
        return NoEstimate(reason=f"the image is smaller than {WIDE_LAG + BLOCK + 1} pixels")
    usable = usable_pixels(image, mask)
    if np.count_nonzero(usable) < FEWEST_BLOCKS * BLOCK**2:
        return NoEstimate(reason="too few valid pixels that are not at a limit of the range")
    blocks = _statistics(image, usable)
    if int(blocks.usable.sum()) < FEWEST_BLOCKS:
        return NoEstimate(reason="too few blocks with noise in them")
    step = _quantisation_step(image[usable])
    quiet = _quiet_blocks(blocks, _bins(blocks))
    if float(np.median(quiet.variances)) < (0.3 * step) ** 2:
        return NoEstimate(reason="the noise is smaller than the step between grey values")
    calibrated = _calibrate(blocks, quiet)
    variances = quiet.variances * (1.0 - calibrated.anatomy) / calibrated.factor
    valid = image[usable][:: max(1, int(usable.sum()) // 500_000)]
    low, high = float(valid.min()), float(valid.max())
    curve, misfit = _smooth_curve(quiet.values, variances)
    law: NoiseLaw | None = None
    if domain is Domain.LINEAR:
        fitted, law_misfit = _fit_law(quiet.values, variances)
        # Few bins fit any curve: there the law is the safer one, and its misfit the one to judge.
        if quiet.values.size < FEWEST_BINS or law_misfit <= max(0.25, 2.0 * misfit):
            law, misfit = fitted, law_misfit
            curve = _kept_up(fitted.curve(low, high), darkest=float(quiet.values[0]))
    return NoiseEstimate(
        curve=curve,
        law=law,
        correlation_x=tuple(float(r) for r in calibrated.rho_x),
        correlation_y=tuple(float(r) for r in calibrated.rho_y),
        # What chance alone scatters is no misfit; 0.67: from a standard deviation to a median.
        misfit=float(np.sqrt(max(0.0, misfit**2 - (0.67 * calibrated.scatter) ** 2))),
        coverage=min(1.0, float(blocks.usable.sum()) * BLOCK**2 / float(usable.sum())),
        blocks=int(blocks.usable.sum()),
        median_sigma=float(curve.sigma(np.array([np.median(valid)]))[0]),
        anatomy=float(np.median(calibrated.anatomy)),
        flat_blocks=quiet.flat,
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
        power.append(_power(_difference(_difference(centred, LAG, 0), LAG, 1), shape)[flat_blocks])
    ratios = power[1] / np.maximum(power[0], 1e-30)
    return float(np.sqrt(np.median(ratios)))
