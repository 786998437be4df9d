"""Images made by chance alone: dead leaves and 1/f fields, as attenuation in nepers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

FloatArray = NDArray[np.float32]


def power_law_field(shape: tuple[int, int], exponent: float, rng: np.random.Generator) -> FloatArray:
    """Return a Gaussian field with spectrum ``1/f**exponent``, mean 0 and standard deviation 1."""
    fy = np.fft.fftfreq(shape[0])[:, None]
    fx = np.fft.rfftfreq(shape[1])[None, :]
    f = np.hypot(fy, fx)
    f[0, 0] = np.inf
    white = np.fft.rfft2(rng.standard_normal(shape))
    image = np.fft.irfft2(white * f ** (-exponent / 2), s=shape)
    return np.asarray(image / max(float(image.std()), 1e-12), dtype=np.float32)


def dead_leaves(
    shape: tuple[int, int], rng: np.random.Generator, *, additive: float = 0.5, smallest_px: float = 1.0
) -> FloatArray:
    """Return a dead-leaves image: discs, bars and polygons of all sizes, occluding or adding up.

    Radii follow ``r**-3`` (scale invariance of natural scenes; Achddou, Gousseau and Ladjal 2021) from ``smallest_px``
    on: few large leaves make the large smooth areas of limbs and quality phantoms. X-ray shadows add rather than
    occlude: a share ``additive`` of the leaves does so.

    Returns
    -------
    Attenuation in nepers, shape as asked, between 0 and about 4.
    """
    rows, columns = shape
    image = np.full(shape, rng.uniform(0.3, 2.0), dtype=np.float32)
    largest = 0.4 * min(shape)
    sharp = rng.uniform(0.3, 2.5)
    for _ in range(int(rng.uniform(0.5, 1.5) * rows * columns / (260 * smallest_px**2))):
        radius = _radius(smallest_px, largest, rng)
        _leaf(image, radius, rng, additive=bool(rng.random() < additive), softness=sharp * rng.uniform(0.3, 1.5))
    if rng.random() < 0.6:
        smoothest = 3.0 if smallest_px == 1.0 else 4.0
        image += np.float32(rng.uniform(0.005, 0.06)) * power_law_field(
            shape, rng.uniform(smoothest - 2, smoothest), rng
        )
    image = ndimage.gaussian_filter(image, rng.uniform(0.3, 1.0))
    return np.asarray(np.clip(image, 0.0, 6.0), dtype=np.float32)


def _radius(smallest: float, largest: float, rng: np.random.Generator) -> float:
    # Inverse of the cumulative distribution of p(r) ~ r**-3 between the two limits.
    u = rng.random()
    return float((smallest**-2 - u * (smallest**-2 - largest**-2)) ** -0.5)


def _leaf(image: FloatArray, radius: float, rng: np.random.Generator, *, additive: bool, softness: float) -> None:
    rows, columns = image.shape
    cy, cx = rng.uniform(0, rows), rng.uniform(0, columns)
    stretch = rng.choice([1.0, 1.0, 2.0, 5.0])
    reach = int(radius * stretch + 3 * softness + 2)
    y0, y1 = max(0, int(cy) - reach), min(rows, int(cy) + reach + 1)
    x0, x1 = max(0, int(cx) - reach), min(columns, int(cx) + reach + 1)
    if y0 >= y1 or x0 >= x1:
        return
    yy, xx = np.ogrid[y0:y1, x0:x1]
    angle = rng.uniform(0, np.pi)
    u = (xx - cx) * np.cos(angle) + (yy - cy) * np.sin(angle)
    v = -(xx - cx) * np.sin(angle) + (yy - cy) * np.cos(angle)
    if rng.random() < 0.6:
        distance = radius - np.hypot(u / stretch, v)
    else:
        distance = np.minimum(radius * stretch - np.abs(u), radius - np.abs(v))
    cover = np.clip(distance / max(softness, 0.3) + 0.5, 0.0, 1.0).astype(np.float32)
    if rng.random() < 0.25:  # a body rather than a sheet: the path through an ellipsoid
        cover = np.sqrt(np.clip(distance / radius, 0.0, 1.0)).astype(np.float32)
    region = image[y0:y1, x0:x1]
    if additive:
        region += cover * np.float32(rng.normal(0.0, 0.25) * min(1.0, (radius / 8.0) ** 0.3))
    else:
        region += cover * (np.float32(rng.uniform(0.1, 3.0)) - region)
