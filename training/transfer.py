"""Noise power spectra and task transfer functions; frequencies in cycles per pixel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import signal, special

FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

REGION_PX = 64
"""Side of the regions whose periodograms are averaged; they overlap by half."""

EDGE_SPACING_PX = 48.0
EDGE_TILT_DEGREES = 3.0
EDGE_BLUR_PX = 1.02
"""Standard deviation of the detector blur of the edges: MTF50 at 0.184 cycles per pixel, which is 1.29 /mm at 143 um
(Marshall 2011)."""
ESF_STEP_PX = 0.25
ESF_REACH_PX = 20.0
TRANSFER_FREQUENCIES: DoubleArray = np.arange(0.0, 0.401, 0.01)


def noise_power(noise: NDArray[np.floating], valid: BoolArray | None = None) -> DoubleArray:
    """Return the two-dimensional noise power spectrum of zero-mean noise, as ``numpy.fft.fft2`` orders it.

    Hann-windowed regions of 64 x 64 that overlap by half: without a window the strong low frequencies that a denoiser
    leaves would leak over the weak high ones.

    Parameters
    ----------
    noise
        Shape ``(images, rows, columns)``, no smaller than a region.
    valid
        Shape ``(rows, columns)``; only regions that are valid throughout count.

    Returns
    -------
    Shape ``(64, 64)``; white noise of variance 1 gives 1 at every frequency.

    Raises
    ------
    ValueError
        If no region is valid.
    """
    line = signal.windows.hann(REGION_PX, sym=False)
    window = np.outer(line, line)
    total = np.zeros((REGION_PX, REGION_PX))
    count = 0
    for rows, columns in _regions((noise.shape[1], noise.shape[2])):
        if valid is not None and not valid[rows, columns].all():
            continue
        total += np.sum(np.abs(np.fft.fft2(noise[:, rows, columns] * window)) ** 2, axis=0)
        count += len(noise)
    if count == 0:
        raise ValueError(f"no region of {REGION_PX} x {REGION_PX} pixels is valid throughout")
    return np.asarray(total / (count * np.sum(window**2)), dtype=np.float64)


def _regions(shape: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    step = REGION_PX // 2
    for y in range(0, shape[0] - REGION_PX + 1, step):
        for x in range(0, shape[1] - REGION_PX + 1, step):
            yield slice(y, y + REGION_PX), slice(x, x + REGION_PX)


def radial_spectrum(power: DoubleArray) -> tuple[DoubleArray, DoubleArray]:
    """Return frequency and mean power on rings one frequency step wide, up to 0.5 cycles per pixel.

    The axes are left out, as row and column noise sits there (IEC 62220-1 leaves them out as well).
    """
    f = np.fft.fftfreq(power.shape[0])
    radius = np.hypot(f[:, None], f[None, :])
    ring = np.rint(radius * power.shape[0]).astype(np.int64)
    off_axis = (f[:, None] != 0) & (f[None, :] != 0)
    rings = np.arange(1, power.shape[0] // 2 + 1)
    mean = np.array([power[off_axis & (ring == k)].mean() for k in rings])
    return rings / power.shape[0], mean


def mean_frequency(frequency: DoubleArray, power: DoubleArray) -> float:
    """Return the mean frequency of a radial spectrum (the f_av of AAPM TG-233, Samei 2019)."""
    return float(np.sum(frequency * power) / np.sum(power))


@dataclass(frozen=True, kw_only=True)
class Edges:
    """Parallel slanted edges: ``cover`` rises from 0 to 1, ``distance`` is signed, in pixels, positive where bright."""

    cover: FloatArray
    distance: DoubleArray


def slanted_edges(rows: int, columns: int, *, blur_px: float = EDGE_BLUR_PX) -> Edges:
    """Draw bright and dark stripes 48 pixels wide, tilted by 3 degrees, with a Gaussian blur."""
    tilt = np.deg2rad(EDGE_TILT_DEGREES)
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float64)
    across = (x - columns / 2) * np.cos(tilt) + (y - rows / 2) * np.sin(tilt)
    stripe = np.rint(across / EDGE_SPACING_PX)
    distance = (across - stripe * EDGE_SPACING_PX) * np.where(stripe % 2 == 0, 1.0, -1.0)
    cover = special.ndtr(distance / blur_px)
    return Edges(cover=cover.astype(np.float32), distance=distance)


def edge_spread(image: NDArray[np.floating], distance: DoubleArray) -> DoubleArray:
    """Return the mean value over the distance to the edge, in steps of 0.25 px from -20 to 20 px."""
    edges = np.arange(-ESF_REACH_PX, ESF_REACH_PX + ESF_STEP_PX / 2, ESF_STEP_PX)
    near = np.abs(distance) < ESF_REACH_PX
    total, _ = np.histogram(distance[near], bins=edges, weights=np.asarray(image, dtype=np.float64)[near])
    count, _ = np.histogram(distance[near], bins=edges)
    return np.asarray(total / count, dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Transfer over `TRANSFER_FREQUENCIES`.

    ``relative`` is what the processing kept of the truth, ``system`` the same times the transfer of the truth's own
    blur. Neither is scaled to 1 at zero frequency: lost contrast counts as lost.
    """

    relative: DoubleArray
    system: DoubleArray


def transfer_function(result: DoubleArray, truth: DoubleArray) -> Transfer:
    """Compare two edge spread functions.

    The line spread functions are tapered from 10 to 20 px. The edge's place is known, so the part in phase is taken:
    the modulus would turn noise into transfer.
    """
    spectra = [_line_spectrum(esf) for esf in (result, truth)]
    own = np.abs(spectra[1])
    relative = np.real(spectra[0] * np.conj(spectra[1])) / own**2
    return Transfer(relative=relative, system=relative * own / own[0])


def _line_spectrum(esf: DoubleArray) -> NDArray[np.complex128]:
    line = np.diff(esf)
    at = (np.arange(line.size) - (line.size - 1) / 2) * ESF_STEP_PX
    taper = signal.windows.tukey(line.size, 0.5)
    wave = np.exp(-2j * np.pi * np.outer(TRANSFER_FREQUENCIES, at))
    return np.asarray(wave @ (line * taper), dtype=np.complex128)


def frequency_at_half(system: DoubleArray) -> float:
    """Return where the transfer first falls to one half (0 if it starts below), in cycles per pixel."""
    below = np.flatnonzero(system < 0.5)
    if below.size == 0:
        return float(TRANSFER_FREQUENCIES[-1])
    k = int(below[0])
    if k == 0:
        return 0.0
    part = (system[k - 1] - 0.5) / (system[k - 1] - system[k])
    return float(TRANSFER_FREQUENCIES[k - 1] + part * (TRANSFER_FREQUENCIES[k] - TRANSFER_FREQUENCIES[k - 1]))
