"""Discs and bar groups of quality phantoms on real detectors, measured before and after denoising."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from model.denoiser import Denoiser
from model.domain import Domain
from training.images import read_grey
from training.repeats import take

FloatArray = NDArray[np.float32]

FOLDER = Path("more") / "flat_panel_phantoms"
PHANTOM_STRENGTHS = (0.7, 1.0)
_CORE = 0.7
"""Part of a disc's radius that is averaged: its blurred border is left out."""


@dataclass(frozen=True, kw_only=True)
class DiscAt:
    """A disc, or an empty place, in pixels."""

    name: str
    y: float
    x: float
    radius: float


@dataclass(frozen=True, kw_only=True)
class BarsAt:
    """A bar group: centre, direction along the bars (degrees, x towards y), half lengths along and across."""

    name: str
    y: float
    x: float
    along_degrees: float
    along: float
    across: float


@dataclass(frozen=True, kw_only=True)
class QualityPhantom:
    """A file and where its objects lie; ``empty`` places hold the background alone."""

    file: str
    domain: Domain
    discs: tuple[DiscAt, ...] = ()
    empty: tuple[tuple[float, float], ...] = ()
    bars: tuple[BarsAt, ...] = ()


# Read off the enlarged pictures to a pixel. The 18 discs of the Leeds phantom lie on a circle, the right ones strong;
# the faint discs of the Las Vegas phantom continue the rows and columns of the strong ones.
_LEEDS_DISCS = (
    *((621, 184), (670, 220), (708, 267), (732, 323), (740, 384), (733, 445), (710, 501), (674, 549), (626, 587)),
    *((395, 590), (347, 553), (309, 506), (285, 450), (276, 390), (283, 330), (306, 273), (342, 224), (390, 186)),
)
_LEEDS_CENTRE = (508.0, 387.0)
_LEEDS_BARS = (
    *((482, 336.0, 6.0), (482, 373.0, 4.3), (482, 398.6, 3.1), (482, 419.0, 2.2)),
    *((530, 335.8, 6.9), (530, 372.4, 4.9), (530, 398.0, 3.5), (530, 417.2, 2.5)),
    *((579, 334.6, 7.7), (579, 371.6, 5.4), (579, 397.0, 3.9), (579, 417.0, 2.8)),
)
_LAS_VEGAS_COLUMNS = ((517.5, 4.5), (561.5, 9.0), (613.8, 15.2), (679.7, 22.0), (744.5, 32.7))
_LAS_VEGAS_ROWS = (463.5, 550.8, 638.1, 725.9, 813.2)
_QC3_6MV = ((271.2, 399.5), (327.1, 458.8), (384.7, 514.7), (437.2, 575.7))
_QC3_2P5MV = ((546.0, 550.7), (593.7, 596.0), (641.3, 642.7), (692.0, 688.0))


def _inwards(y: float, x: float) -> tuple[float, float]:
    """Return the place three quarters of the way from the centre of the Leeds phantom: nothing lies there."""
    cx, cy = _LEEDS_CENTRE
    return cy + 0.75 * (y - cy), cx + 0.75 * (x - cx)


def _qc3(centres: tuple[tuple[float, float], ...], along_degrees: float) -> tuple[BarsAt, ...]:
    return tuple(
        BarsAt(name=f"bars {i + 1}", y=y, x=x, along_degrees=along_degrees, along=16.0, across=26.0)
        for i, (y, x) in enumerate(centres)
    )


QUALITY_PHANTOMS = (
    QualityPhantom(
        # Rescaled by a record system so that values rise with attenuation: no longer linear.
        file="leeds_kv.dcm",
        domain=Domain.DISPLAY,
        discs=tuple(DiscAt(name=f"disc {i + 1}", y=y, x=x, radius=15.0) for i, (x, y) in enumerate(_LEEDS_DISCS)),
        empty=tuple(_inwards(y, x) for x, y in _LEEDS_DISCS),
        bars=tuple(
            BarsAt(name=f"bars of {period:g} px", y=y, x=x, along_degrees=-0.8, along=14.0, across=2.2 * period)
            for x, y, period in _LEEDS_BARS
        ),
    ),
    QualityPhantom(
        file="lasvegas_mv.dcm",
        domain=Domain.LINEAR,
        discs=tuple(
            DiscAt(name=f"disc row {i + 1}, {2 * radius:g} px", y=y, x=x, radius=radius)
            for i, y in enumerate(_LAS_VEGAS_ROWS)
            for x, radius in _LAS_VEGAS_COLUMNS
            if radius < 30 or i >= 2
        ),
        empty=tuple((y, x) for x in (420.0, 845.0) for y in (450.0, 530.0, 610.0, 690.0, 770.0, 850.0)),
    ),
    QualityPhantom(file="qc3_mv.dcm", domain=Domain.LINEAR, bars=_qc3(_QC3_6MV, 43.8)),
    QualityPhantom(file="qc3_2p5mv.dcm", domain=Domain.LINEAR, bars=_qc3(_QC3_2P5MV, 45.0)),
)


def disc_contrast(image: NDArray[np.floating], disc: DiscAt) -> float:
    """Return the mean of the inner disc less the mean of a ring 4 to 9 px outside it."""
    reach = int(disc.radius + 10)
    y0, x0 = int(disc.y) - reach, int(disc.x) - reach
    part = image[y0 : y0 + 2 * reach + 1, x0 : x0 + 2 * reach + 1].astype(np.float64)
    y, x = np.mgrid[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]]
    distance = np.hypot(y - disc.y, x - disc.x)
    ring = (distance >= disc.radius + 4) & (distance < disc.radius + 9)
    return float(part[distance <= max(_CORE * disc.radius, 1.5)].mean() - part[ring].mean())


def bar_profile(image: NDArray[np.floating], bars: BarsAt, *, part: slice = slice(None)) -> NDArray[np.float64]:
    """Return the values across the bars in steps of half a pixel, averaged along them; ``part`` picks samples along."""
    angle = np.deg2rad(bars.along_degrees)
    along = np.arange(-bars.along, bars.along + 0.5, 1.0)[part]
    across = np.arange(-bars.across, bars.across + 0.25, 0.5)
    y = bars.y + along[None, :] * np.sin(angle) + across[:, None] * np.cos(angle)
    x = bars.x + along[None, :] * np.cos(angle) - across[:, None] * np.sin(angle)
    values = ndimage.map_coordinates(image.astype(np.float64), (y, x), order=1)
    return np.asarray(values.mean(axis=1), dtype=np.float64)


def bar_modulation(image: NDArray[np.floating], bars: BarsAt, *, part: slice = slice(None)) -> float:
    """Return the standard deviation of the profile across the bars; the average along them keeps the noise out."""
    return float(bar_profile(image, bars, part=part).std())


def quality_phantoms(denoiser: Denoiser, data: Path) -> list[dict[str, Any]]:
    """Measure every object of the phantoms that are present, at strengths 0.7 and 1.

    Parameters
    ----------
    denoiser
        Used as the product does: blind, with guards.
    data
        Data root; files that are not there are left out.

    Returns
    -------
    Rows with ``before``, ``after``, their ``ratio`` and its standard ``error``. Of discs the error is the spread of
    the same change at empty places, relative to the contrast; of bars half the difference of both ends' ratios.
    """
    rows: list[dict[str, Any]] = []
    for phantom in QUALITY_PHANTOMS:
        path = data / FOLDER / phantom.file
        if not path.is_file():
            continue
        shot = take(denoiser, read_grey(path)[0], domain=phantom.domain)
        for strength in PHANTOM_STRENGTHS:
            after = shot.at(strength)
            common = {"file": phantom.file, "strength": strength, "applied": round(shot.applied(strength), 2)}
            objects = (*_discs(phantom, shot.noisy, after), *_bars(phantom, shot.noisy, after))
            rows += [{**common, **row} for row in objects]
    return rows


def _discs(phantom: QualityPhantom, before: FloatArray, after: FloatArray) -> Iterator[dict[str, Any]]:
    for disc in phantom.discs:
        empty = [DiscAt(name="", y=y, x=x, radius=disc.radius) for y, x in phantom.empty]
        change = [disc_contrast(after, place) - disc_contrast(before, place) for place in empty]
        noise = float(np.std([disc_contrast(before, place) for place in empty], ddof=1))
        contrast = disc_contrast(before, disc)
        yield _row(
            disc.name,
            contrast,
            disc_contrast(after, disc),
            error=float(np.std(change, ddof=1)) / abs(contrast),
            contrast_to_noise=abs(contrast) / noise,
        )


def _bars(phantom: QualityPhantom, before: FloatArray, after: FloatArray) -> Iterator[dict[str, Any]]:
    for bars in phantom.bars:
        half = int(bars.along)
        ends = [
            bar_modulation(after, bars, part=part) / bar_modulation(before, bars, part=part)
            for part in (slice(None, half), slice(half + 1, None))
        ]
        yield _row(
            bars.name, bar_modulation(before, bars), bar_modulation(after, bars), error=abs(ends[0] - ends[1]) / 2
        )


def _row(
    name: str, before: float, after: float, *, error: float, contrast_to_noise: float | None = None
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "object": name,
        "before": round(before, 3),
        "after": round(after, 3),
        "ratio": round(after / before, 4),
        "error": round(error, 4),
    }
    if contrast_to_noise is not None:
        row["contrast_to_noise"] = round(contrast_to_noise, 1)
    return row
