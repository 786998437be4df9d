"""Model observers of a known signal on a known background: eye-filtered matched template and channelised Hotelling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

DoubleArray = NDArray[np.float64]

EYE_PEAK_CYCLES_PER_DEGREE = 4.0
DEGREE_PX = 48.8
"""Pixels per degree: 143 um shown at their own size and seen from 40 cm."""
CHANNELS = 6
LEAST_D = 0.05
"""Ratios to a smaller d' are ratios to this: a few images may miss a weak signal altogether."""


def eye_filter(side: int) -> DoubleArray:
    """Return the contrast sensitivity ``f**1.3 exp(-b f**2)`` with its peak at 4 cycles per degree (Burgess 1994).

    Returns
    -------
    Shape ``(side, side)``, ordered as ``numpy.fft.fft2``, 1 at the peak; 0 at zero frequency.
    """
    f = np.fft.fftfreq(side) * DEGREE_PX / EYE_PEAK_CYCLES_PER_DEGREE
    radius = np.hypot(f[:, None], f[None, :])
    return np.asarray(radius**1.3 * np.exp(-0.65 * (radius**2 - 1.0)), dtype=np.float64)


def npwe_template(expected: NDArray[np.floating]) -> DoubleArray:
    """Return the template of the non-prewhitening observer with an eye filter.

    Template and image both pass the eye, so the filter acts twice. There is no internal noise.

    Parameters
    ----------
    expected
        Shape ``(side, side)``: the true signal, which the observer knows.

    Returns
    -------
    Same shape; the response is the sum of template times image.
    """
    eye = eye_filter(expected.shape[0])
    return np.asarray(np.fft.ifft2(eye**2 * np.fft.fft2(expected)).real, dtype=np.float64)


def laguerre_gauss(side: int, width_px: float, count: int = CHANNELS) -> DoubleArray:
    """Return Laguerre-Gauss channels of unit energy (Gallas and Barrett 2003), shape ``(count, side, side)``."""
    at = np.arange(side) - (side - 1) / 2
    g = 2 * np.pi * (at[:, None] ** 2 + at[None, :] ** 2) / width_px**2
    channels = np.stack([np.exp(-g / 2) * special.eval_laguerre(j, g) for j in range(count)])
    return np.asarray(channels / np.sqrt(np.sum(channels**2, axis=(1, 2), keepdims=True)), dtype=np.float64)


def responses(patches: NDArray[np.floating], templates: DoubleArray) -> DoubleArray:
    """Return the sums of template times patch: ``(images, places, side, side)`` to ``(images, places, templates)``."""
    images, places = patches.shape[:2]
    flat = patches.reshape(images * places, -1).astype(np.float64)
    return np.asarray((flat @ templates.reshape(len(templates), -1).T).reshape(images, places, -1), dtype=np.float64)


def detectability(present: DoubleArray, absent: DoubleArray) -> float:
    """Return d' of scalar responses ``(images, places)`` from the area under the ROC curve: ``sqrt(2) z(AUC)``.

    The area is the share of pairs, one with and one without the signal at the same place, that are ranked rightly. It
    equals difference over spread for Gaussian responses, and stays meaningful where a non-linear filter makes them
    skewed: a signal that is always found, but not always equally strong, counts as found.
    """
    higher = present[:, None] > absent[None, :]
    equal = present[:, None] == absent[None, :]
    pairs = higher.size
    area = float((higher.sum() + 0.5 * equal.sum()) / pairs)
    # All pairs right bounds d' from below only.
    return float(np.sqrt(2.0) * special.ndtri(np.clip(area, 0.25 / pairs, 1 - 0.25 / pairs)))


def signal_to_noise(present: DoubleArray, absent: DoubleArray) -> float:
    """Return the mean difference of responses ``(images, places)`` over their pooled spread at one place."""
    difference = float(np.mean(present.mean(axis=0) - absent.mean(axis=0)))
    spread = 0.5 * (np.mean(present.var(axis=0, ddof=1)) + np.mean(absent.var(axis=0, ddof=1)))
    return difference / float(np.sqrt(spread))


def hotelling_template(present: DoubleArray, absent: DoubleArray) -> DoubleArray:
    """Return the weights of channel responses ``(images, places, channels)``: inverse covariance times difference."""
    difference = (present.mean(axis=0) - absent.mean(axis=0)).mean(axis=0)
    covariance = sum(_covariance(v) for v in (present, absent)) / 2
    # Least squares: a handful of images leave the covariance singular.
    return np.asarray(np.linalg.lstsq(covariance, difference)[0], dtype=np.float64)


def _covariance(v: DoubleArray) -> DoubleArray:
    centred = (v - v.mean(axis=0)).reshape(-1, v.shape[2])
    return np.asarray(centred.T @ centred / ((v.shape[0] - 1) * v.shape[1]), dtype=np.float64)


def hotelling_detectability(present: DoubleArray, absent: DoubleArray) -> float:
    """Return d' of the channelised Hotelling observer, trained on one half of the images and tested on the other.

    Parameters
    ----------
    present, absent
        Channel responses ``(images, places, channels)`` with and without the signal, at least 4 images each.

    Returns
    -------
    Mean over both ways of using the halves.
    """
    scores = []
    for train, test in ((0, 1), (1, 0)):
        weights = hotelling_template(present[train::2], absent[train::2])
        scores.append(detectability(present[test::2] @ weights, absent[test::2] @ weights))
    return float(np.mean(scores))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """d' before and after processing of the same images; intervals hold 95 %."""

    before: float
    after: float
    after_interval: tuple[float, float]
    ratio: float
    ratio_interval: tuple[float, float]


def compare(
    before: tuple[DoubleArray, DoubleArray],
    after: tuple[DoubleArray, DoubleArray],
    *,
    draws: int,
    rng: np.random.Generator,
) -> Comparison:
    """Compare responses ``(images, places, channels)``, each (present, absent), before and after processing.

    One channel is a template's response, more are read by the Hotelling observer, which is trained anew in each draw.
    Images are drawn with replacement, the same ones before and after, within the halves for training and testing.
    """
    after_draws, ratios = [], []
    for _ in range(draws):
        chosen = [_draw(len(v), rng) for v in before]
        first = _score(before[0][chosen[0]], before[1][chosen[1]])
        second = _score(after[0][chosen[0]], after[1][chosen[1]])
        after_draws.append(second)
        ratios.append(second / max(first, LEAST_D))
    first, second = _score(*before), _score(*after)
    return Comparison(
        before=first,
        after=second,
        after_interval=_interval(after_draws),
        ratio=second / max(first, LEAST_D),
        ratio_interval=_interval(ratios),
    )


def _score(present: DoubleArray, absent: DoubleArray) -> float:
    if present.shape[2] == 1:
        return detectability(present[..., 0], absent[..., 0])
    return hotelling_detectability(present, absent)


def _draw(images: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw with replacement so that even places hold even images: an image never both trains and tests."""
    drawn = np.empty(images, dtype=np.int64)
    for half in (0, 1):
        members = np.arange(half, images, 2)
        drawn[half::2] = rng.choice(members, members.size)
    return drawn


def _interval(values: list[float]) -> tuple[float, float]:
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)
