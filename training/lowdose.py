"""The dose-reduction simulator: what a detector would have recorded with fewer quanta."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from model.noise import NoiseLaw

FloatArray = NDArray[np.float32]

WANG_2014_CSI = np.array([[0.03, 0.06, 0.02], [0.11, 0.98, 0.11], [0.02, 0.06, 0.03]])
"""Noise kernel of a caesium iodide detector (Wang et al. 2014), before normalisation to unit energy."""


def gaussian_kernel(fwhm_px: float) -> NDArray[np.float64]:
    """Return a Gaussian of unit *energy* (sum of squares 1): it correlates noise and keeps its variance.

    ``fwhm_px`` is the full width at half maximum in pixels; below 0.2 px the kernel is a single 1.
    """
    if fwhm_px < 0.2:
        return np.ones((1, 1))
    sigma = fwhm_px / 2.3548
    radius = max(1, int(np.ceil(3.5 * sigma)))
    at = np.arange(-radius, radius + 1)
    line = np.exp(-0.5 * (at / sigma) ** 2)
    return unit_energy(np.outer(line, line))


def unit_energy(kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale a kernel so that white noise keeps its variance: sum of squares 1."""
    return np.asarray(kernel / np.sqrt(np.sum(kernel**2)), dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class Detector:
    """How a flat-panel detector turns expected exposure into stored values.

    Parameters
    ----------
    law
        Structure, quantum and electronic noise, in stored values.
    kernel
        Blur of the quantum noise by the scintillator; scaled to unit energy when used.
    white_fraction
        Part of the quantum variance that the blur does not reach (direct absorption, secondary noise), 0 to 1.
    line_noise
        Standard deviation of row and of column offsets, as a fraction of ``law.electronic``.
    gain_map
        Relative standard deviation of the slow gain map that flat-field correction removed; the noise keeps
        its trace: after the correction sigma follows the root of the gain.
    bits_stored
        Stored values are rounded and clipped to ``0 .. 2**bits_stored - 1``.
    """

    law: NoiseLaw
    kernel: NDArray[np.float64] = field(default_factory=lambda: WANG_2014_CSI)
    white_fraction: float = 0.0
    line_noise: float = 0.0
    gain_map: float = 0.0
    bits_stored: int = 14


def correlated(shape: tuple[int, int], kernel: NDArray[np.float64], rng: np.random.Generator) -> FloatArray:
    """Return noise of mean 0 and variance 1 with the correlation of ``kernel``."""
    white = rng.standard_normal(shape, dtype=np.float32)
    if kernel.size == 1:
        return white
    return np.asarray(ndimage.convolve(white, unit_energy(kernel).astype(np.float32), mode="wrap"))


def quantum_noise(variance: NDArray[np.floating], detector: Detector, rng: np.random.Generator) -> FloatArray:
    """Return noise with the given variance map; its correlated part is blurred by the detector's kernel.

    Gaussian stands for Poisson: at ten quanta per pixel the skewness is 0.3, and blur lowers it further.
    """
    root = np.sqrt(np.maximum(variance, 0.0)).astype(np.float32)
    shape = root.shape
    assert len(shape) == 2
    w = detector.white_fraction
    kernel = unit_energy(detector.kernel).astype(np.float32)
    white = rng.standard_normal(shape, dtype=np.float32) * root
    noise = ndimage.convolve(white, kernel, mode="reflect") if kernel.size > 1 else white
    if w > 0:
        noise = np.sqrt(1 - w) * noise + np.sqrt(w) * root * rng.standard_normal(shape, dtype=np.float32)
    return np.asarray(noise, dtype=np.float32)


def electronic_noise(sigma: float, shape: tuple[int, int], detector: Detector, rng: np.random.Generator) -> FloatArray:
    """Return white noise of standard deviation ``sigma`` with row and column offsets on top."""
    noise = sigma * rng.standard_normal(shape, dtype=np.float32)
    if detector.line_noise > 0:
        offset = np.float32(sigma * detector.line_noise)
        noise += offset * rng.standard_normal((shape[0], 1), dtype=np.float32)
        noise += offset * rng.standard_normal((1, shape[1]), dtype=np.float32)
    return np.asarray(noise, dtype=np.float32)


def slow_gain(shape: tuple[int, int], relative_sigma: float, rng: np.random.Generator) -> FloatArray:
    """Return a smooth map around 1, as the gain of a panel before flat-field correction."""
    if relative_sigma <= 0:
        return np.ones(shape, dtype=np.float32)
    coarse = rng.standard_normal((6, 6))
    zoom = (shape[0] / 6, shape[1] / 6)
    smooth = ndimage.zoom(coarse, zoom, order=3, mode="grid-constant", grid_mode=True)
    smooth = smooth[: shape[0], : shape[1]] / max(float(smooth.std()), 1e-9)
    return np.asarray(np.exp(relative_sigma * smooth), dtype=np.float32)


def expose(signal: NDArray[np.floating], detector: Detector, rng: np.random.Generator) -> FloatArray:
    """Return one noisy exposure of a known expected signal, before quantisation.

    Parameters
    ----------
    signal
        Shape ``(rows, columns)``: noise-free linear detector values, >= 0.
    detector
        Noise law and correlation.
    rng
        Source of the noise; the same state gives the same exposure.

    Returns
    -------
    Shape ``(rows, columns)``: ``signal`` plus structure, quantum and electronic noise.
    """
    s = np.asarray(signal, dtype=np.float32)
    shape = (s.shape[0], s.shape[1])
    law = detector.law
    gain = slow_gain(shape, detector.gain_map, rng)
    noise = quantum_noise(law.quantum * s * gain, detector, rng)
    noise += electronic_noise(law.electronic, shape, detector, rng) * gain
    if law.structure > 0:
        noise += law.structure * s * rng.standard_normal(shape, dtype=np.float32)
    return s + noise


def reduce_dose(
    exposure: NDArray[np.floating], dose: float, detector: Detector, rng: np.random.Generator
) -> FloatArray:
    """Simulate the exposure that a fraction ``dose`` of the quanta would have given.

    The measured image scaled by d has too little noise: quantum ``d² q S`` instead of ``d q S``, electronic
    ``d² e²`` instead of ``e²``; both differences are injected. Structure noise scales with the signal and needs
    nothing. The quantum variance is taken from the measured image itself (Bath 2005, Veldkamp 2009), the
    electronic part after Svalkvist and Bath 2010.

    Parameters
    ----------
    exposure
        Shape ``(rows, columns)``: linear detector values at full dose, offset removed.
    dose
        Fraction d of the dose, above 0 and at most 1.
    detector
        Noise law and correlation of the detector that took the image.
    rng
        Source of the noise.

    Returns
    -------
    Shape ``(rows, columns)``: values around ``d * exposure``, not quantised.

    Raises
    ------
    ValueError
        If the dose is out of range.
    """
    if not 0.0 < dose <= 1.0:
        raise ValueError(f"dose must be above 0 and at most 1, not {dose}")
    y = np.asarray(exposure, dtype=np.float32)
    law = detector.law
    missing_quantum = law.quantum * np.maximum(y, 0.0) * dose * (1.0 - dose)
    noise = quantum_noise(missing_quantum, detector, rng)
    missing_electronic = law.electronic * float(np.sqrt(1.0 - dose**2))
    noise += electronic_noise(missing_electronic, (y.shape[0], y.shape[1]), detector, rng)
    return np.asarray(dose * y + noise, dtype=np.float32)


def quantise(values: NDArray[np.floating], bits_stored: int) -> NDArray[np.uint16]:
    """Round to stored values and clip to ``0 .. 2**bits_stored - 1``."""
    top = 2**bits_stored - 1
    return np.asarray(np.clip(np.rint(values), 0, top), dtype=np.uint16)


def low_dose_stored(
    transmission: NDArray[np.floating],
    *,
    dose: float,
    detector: Detector,
    open_field: float,
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint16], FloatArray]:
    """Make the stored values of a low-dose radiograph from a transmission image with known truth.

    Parameters
    ----------
    transmission
        Shape ``(rows, columns)``, in ``(0, 1]``.
    dose
        Fraction of the full dose.
    detector
        Noise law (stored values), correlation and bit depth.
    open_field
        Stored value of the unattenuated beam at full dose.
    rng
        Source of the noise.

    Returns
    -------
    Stored values, and the noise-free values in the same units.
    """
    truth = (np.asarray(transmission, dtype=np.float32) * np.float32(open_field * dose)).astype(np.float32)
    return quantise(expose(truth, detector, rng), detector.bits_stored), truth
