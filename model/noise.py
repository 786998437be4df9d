"""The noise law of an X-ray detector and the transform that makes its noise uniform."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

_KNOTS = 4096
_LARGE = 200_000
_WHOLE_RANGE = 2**18
_HERMITE_POINTS = 15


@dataclass(frozen=True, kw_only=True)
class NoiseLaw:
    """Variance of a linear detector value: ``structure² S² + quantum S + electronic²``.

    All three in the units of the stored values S (offset removed): ``structure`` is dimensionless (gain
    and structure noise), ``quantum`` the value that one effective quantum makes, ``electronic`` a
    standard deviation. Below zero exposure only the electronic part is left.
    """

    structure: float
    quantum: float
    electronic: float

    def variance(self, value: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the variance at each value, in squared units."""
        signal = np.maximum(np.asarray(value, dtype=np.float64), 0.0)
        return self.structure**2 * signal**2 + self.quantum * signal + self.electronic**2

    def sigma(self, value: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the standard deviation at each value, in the units of the value."""
        return np.sqrt(self.variance(value))

    def curve(self, low: float, high: float) -> NoiseCurve:
        """Tabulate the law between two values; knots are dense where the variance changes fast."""
        span = max(high - low, 1e-6)
        # Square-root spacing above zero: a Poisson-like sigma is smooth in the root of the value.
        root_low, root_high = np.sqrt(max(low, 0.0)), np.sqrt(max(high, 0.0))
        knots = np.linspace(root_low, root_high, 512) ** 2
        if low < 0:
            knots = np.concatenate((np.linspace(low, 0.0, 64), knots))
        knots = np.unique(np.concatenate((knots, [low, low + span])))
        return NoiseCurve(values=knots, sigmas=np.maximum(self.sigma(knots), 1e-9))


@dataclass(frozen=True, kw_only=True)
class NoiseCurve:
    """Standard deviation of the noise as a function of the value, tabulated.

    ``values`` ascending, ``sigmas`` positive, both one-dimensional and in the units of the image. Between
    knots linear, outside the first and last sigma.
    """

    values: NDArray[np.float64]
    sigmas: NDArray[np.float64]

    def sigma(self, value: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the standard deviation at each value."""
        return np.interp(np.asarray(value, dtype=np.float64), self.values, self.sigmas)

    def scaled(self, factor: float) -> NoiseCurve:
        """Return the same curve with every sigma multiplied by ``factor``."""
        return NoiseCurve(values=self.values, sigmas=self.sigmas * factor)


class Stabiliser:
    """Variance-stabilising transform of a noise curve, with its exact unbiased inverse, both tabulated.

    Forward is the integral of 1/sigma, so that the noise has a standard deviation of about 1 everywhere. The
    inverse maps the *expectation* of the transformed noisy value to the expectation of the value, computed with
    Gauss-Hermite quadrature under Gaussian noise (Makitalo and Foi 2013 do the same for Poisson-Gaussian
    noise): the algebraic inverse is biased by about ``sigma * d sigma/dS / 2``.

    Parameters
    ----------
    curve
        Noise of the image.
    low, high
        Range of values in the image; the tables reach six sigma beyond.
    """

    def __init__(self, curve: NoiseCurve, *, low: float, high: float) -> None:
        margin_low = 6.0 * float(curve.sigma(np.array([low]))[0])
        margin_high = 6.0 * float(curve.sigma(np.array([high]))[0])
        start, stop = low - 2 * margin_low, high + 2 * margin_high
        # Half the knots even in the value, the rest even in the transform: dense where sigma is small.
        even = np.linspace(start, stop, _KNOTS)
        transform = _cumulative(1.0 / curve.sigma(even), even)
        dense = np.interp(np.linspace(0.0, transform[-1], _KNOTS), transform, even)
        self._values = np.unique(
            np.concatenate((even, dense, curve.values[(curve.values > start) & (curve.values < stop)]))
        )
        self._transform = _cumulative(1.0 / curve.sigma(self._values), self._values)
        nodes, weights = np.polynomial.hermite_e.hermegauss(_HERMITE_POINTS)
        inside = (self._values >= low - margin_low) & (self._values <= high + margin_high)
        self._means = self._values[inside]
        samples = self._means[:, None] + curve.sigma(self._means)[:, None] * nodes
        expected = self.forward64(samples) @ (weights / weights.sum())
        # Strictly rising, as np.interp needs: the expectation is, up to rounding of the tables.
        self._expected = np.maximum.accumulate(expected) + 1e-9 * np.arange(expected.size)

    def forward64(self, value: NDArray[np.floating]) -> NDArray[np.float64]:
        """Stabilise in double precision; beyond the tables it goes on in a straight line."""
        return _interpolate(value, self._values, self._transform)

    def forward(self, value: NDArray[np.floating]) -> FloatArray:
        """Return the stabilised value: noise of standard deviation 1 wherever the curve is right."""
        values = np.asarray(value)
        if values.size > _LARGE:
            low, high = int(np.floor(values.min())), int(np.ceil(values.max()))
            if high - low <= _WHOLE_RANGE and np.array_equal(values, np.rint(values)):
                # Stored values are whole numbers: one table look-up each, four times as fast, the same result.
                table = self.forward64(np.arange(low, high + 1, dtype=np.float64)).astype(np.float32)
                return np.asarray(table[values.astype(np.int32) - low], dtype=np.float32)
        return self.forward64(values).astype(np.float32)

    def expectation(self, signal: NDArray[np.floating]) -> FloatArray:
        """Return the expectation of the stabilised noisy value where the signal is known: undone by `inverse`."""
        return _interpolate(signal, self._means, self._expected).astype(np.float32)

    def inverse(self, stabilised: NDArray[np.floating]) -> FloatArray:
        """Return the expected value for an estimate of the *expectation* of the stabilised value."""
        return _interpolate(stabilised, self._expected, self._means).astype(np.float32)


def _cumulative(slope: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    steps = 0.5 * (slope[1:] + slope[:-1]) * np.diff(at)
    return np.concatenate(([0.0], np.cumsum(steps)))


def _interpolate(at: NDArray[np.floating], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Interpolate linearly, and beyond the ends with the slope of the last 16 knots (single ones may coincide)."""
    k = min(16, x.size - 1)
    below = np.minimum(at - x[0], 0.0) * (y[k] - y[0]) / (x[k] - x[0])
    above = np.maximum(at - x[-1], 0.0) * (y[-1] - y[-1 - k]) / (x[-1] - x[-1 - k])
    return np.asarray(np.interp(at, x, y) + below + above, dtype=np.float64)
