"""Contrast-detail discs in anatomy: what model observers detect before and after denoising, and what dose it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from scipy import ndimage, optimize

from model.denoiser import Denoiser
from training.cases import SIDE, Case, make_case
from training.clean import CleanImage
from training.lowdose import Detector, unit_energy
from training.observers import Comparison, compare, laguerre_gauss, npwe_template, responses
from training.phantom import phantom
from training.repeats import Repeat, detector_of, exposure, take
from training.transfer import EDGE_BLUR_PX

FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]

EXPECTED_D = {4: (1.5, 3.0), 8: (1.5, 3.0), 16: (1.3, 2.6), 32: (0.8, 1.6)}
"""By diameter in pixels, d' that the NPWE observer reaches in the noisy image: the contrast of each disc is chosen for
it. Lower for large discs: the Hotelling observer sees these so much better that it would find them all."""
DIAMETERS_PX = tuple(EXPECTED_D)
PLACES = 2
DETECTION_STRENGTHS = (0.7, 1.0)
PATCH_PX = 64
_MARGIN_PX = 4
_MOST_FACTOR = 50.0
_PHANTOM_SEED = 1
HOW_NPWE = (
    "factor by which the dose of the noisy image must rise until its NPWE d' (closed form of the known noise) is that "
    "of the denoised image; geometric mean over the discs. Highest possible: the same factor for the Hotelling d' "
    "of the noisy image, about the most that can be read from it"
)


@dataclass(frozen=True, kw_only=True)
class Disc:
    """A disc of an expected d' at a place; ``contrast`` is the fraction of the exposure that it takes away."""

    y: int
    x: int
    diameter_px: int
    level: float
    contrast: float


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A case with discs: the truth without (``case.truth``) and with them, alike in all else."""

    case: Case
    present: FloatArray
    discs: tuple[Disc, ...]


def disc_profile(diameter_px: int) -> DoubleArray:
    """Return a disc of height 1 blurred by the detector, shape ``(64, 64)``, its centre at (32, 32)."""
    at = np.arange(PATCH_PX) - PATCH_PX // 2
    distance = np.hypot(at[:, None], at[None, :])
    cover = np.clip(diameter_px / 2 - distance + 0.5, 0.0, 1.0)
    return np.asarray(ndimage.gaussian_filter(cover, EDGE_BLUR_PX), dtype=np.float64)


def _cut(image: NDArray[np.floating], y: int, x: int, margin: int = 0) -> NDArray[np.floating]:
    half = PATCH_PX // 2 + margin
    return image[y - half : y + half, x - half : x + half]


def response_variance(template: DoubleArray, truth: NDArray[np.floating], detector: Detector) -> float:
    """Return the variance of the sum of template times noise, in closed form.

    Parameters
    ----------
    template
        Shape ``(64, 64)``.
    truth
        Shape ``(72, 72)``: noise-free values under the template and 4 pixels around it.
    detector
        The noise: its law, correlation, row and column noise.
    """
    law = detector.law
    wide = np.pad(template, _MARGIN_PX)
    # Noise is white noise shaped by the signal, then blurred: the template sees it through the mirrored kernel.
    seen = ndimage.correlate(wide, unit_energy(detector.kernel), mode="constant")
    signal = np.maximum(truth.astype(np.float64), 0.0)
    quantum = law.quantum * float(np.sum(signal * seen**2))
    structure = law.structure**2 * float(np.sum((signal * wide) ** 2))
    lines = float(np.sum(template.sum(axis=0) ** 2) + np.sum(template.sum(axis=1) ** 2))
    electronic = law.electronic**2 * (float(np.sum(template**2)) + detector.line_noise**2 * lines)
    return quantum + structure + electronic


def noisy_detectability(discs: list[Disc], case: Case, dose_factor: float = 1.0) -> float:
    """Return the NPWE d' of noisy images at ``dose_factor`` times the case's dose, in closed form."""
    profile = disc_profile(discs[0].diameter_px)
    template = npwe_template(profile)
    detector = detector_of(case)
    differences, variances = [], []
    for disc in discs:
        truth = _cut(case.truth, disc.y, disc.x).astype(np.float64)
        sigma = _sigma(case, disc)
        lost = dose_factor * disc.contrast * profile * truth
        differences.append(float(np.sum(template * lost)) / sigma)
        wide = dose_factor * _cut(case.truth, disc.y, disc.x, _MARGIN_PX)
        variances.append(response_variance(template, wide, detector) / sigma**2)
    return float(np.mean(differences) / np.sqrt(np.mean(variances)))


def _sigma(case: Case, disc: Disc) -> float:
    return float(case.law.sigma(case.truth[disc.y, disc.x]))


def make_chart(dose: str, kernel: str = "csi") -> Chart:
    """Put 16 discs, 64 px apart, into a chest phantom: four diameters, two expected d', two places each.

    Of 25 places the brightest are taken: behind the spine a disc of 4 px would need all of the exposure to be seen.
    """
    side = SIDE + 128  # the middle part alone, without the collimator
    transmission = phantom(side, side, _PHANTOM_SEED, anatomy="chest", inserts=False)[64:-64, 64:-64]
    image = CleanImage(attenuation=-np.log(transmission), own_noise=0.0, patient="phantom:chest", source="phantom")
    case = make_case(image, dose=dose, kernel=kernel, seed=0)
    present = case.truth.copy()
    grid = [(y, x) for y in range(64, SIDE - 63, 64) for x in range(64, SIDE - 63, 64)]
    kinds = [(diameter, EXPECTED_D[diameter][k]) for k in (0, 1) for diameter in DIAMETERS_PX]
    brightest = sorted(grid, key=lambda at: -float(_cut(case.truth, *at).mean()))[: PLACES * len(kinds)]
    discs = []
    for k, (y, x) in enumerate(brightest):
        diameter, level = kinds[k % len(kinds)]
        unit = Disc(y=y, x=x, diameter_px=diameter, level=level, contrast=1.0)
        contrast = level / noisy_detectability([unit], case)
        discs.append(Disc(y=y, x=x, diameter_px=diameter, level=level, contrast=contrast))
        _cut(present, y, x)[...] *= (1.0 - contrast * disc_profile(diameter)).astype(np.float32)
    return Chart(case=case, present=present, discs=tuple(discs))


@dataclass(frozen=True, kw_only=True)
class _Readings:
    """Responses of the template (first) and the channels at every disc, ``(images, discs, 1 + channels)``.

    ``applied`` is the mean strength that the guards let through.
    """

    present: DoubleArray
    absent: DoubleArray
    applied: float

    def at(self, places: list[int], parts: slice) -> tuple[DoubleArray, DoubleArray]:
        return self.present[:, places, parts], self.absent[:, places, parts]


def _read(image: FloatArray, chart: Chart) -> DoubleArray:
    """Read one image at every disc; what is darker than the known background counts as positive."""
    rows = []
    for disc in chart.discs:
        background = _cut(chart.case.truth, disc.y, disc.x)
        patch = (background - _cut(image, disc.y, disc.x)) / _sigma(chart.case, disc)
        rows.append(responses(patch[None, None], _TEMPLATES[disc.diameter_px])[0, 0])
    return np.stack(rows)


_TEMPLATES = {
    diameter: np.concatenate(
        (npwe_template(disc_profile(diameter))[None], laguerre_gauss(PATCH_PX, float(diameter + 8)))
    )
    for diameter in DIAMETERS_PX
}


def _expose_and_read(denoiser: Denoiser, chart: Chart, images: int, *, first_seed: int) -> dict[float, _Readings]:
    """Return readings by strength (0: not denoised); every image has noise of its own."""
    read: dict[tuple[float, bool], list[DoubleArray]] = {}
    applied: dict[float, list[float]] = {}
    for i in track(range(2 * images), description=f"discs, dose {chart.case.dose}", transient=True):
        with_discs = i % 2 == 0
        truth = chart.present if with_discs else chart.case.truth
        shot: Repeat = take(denoiser, exposure(truth, chart.case, first_seed + i))
        for strength in (0.0, *DETECTION_STRENGTHS):
            read.setdefault((strength, with_discs), []).append(_read(shot.at(strength), chart))
            applied.setdefault(strength, []).append(shot.applied(strength))
    return {
        strength: _Readings(
            present=np.stack(read[strength, True]),
            absent=np.stack(read[strength, False]),
            applied=float(np.mean(applied[strength])),
        )
        for strength in (0.0, *DETECTION_STRENGTHS)
    }


def dose_factor_of_ratio(discs: list[Disc], case: Case, ratio: float) -> float:
    """Return the dose factor at which the noisy d' is ``ratio`` times that of the case, between 1/50 and 50."""
    wanted = ratio * noisy_detectability(discs, case)

    def excess(log_factor: float) -> float:
        return noisy_detectability(discs, case, float(np.exp(log_factor))) - wanted

    limit = float(np.log(_MOST_FACTOR))
    if excess(limit) < 0:
        return _MOST_FACTOR
    if excess(-limit) > 0:
        return 1 / _MOST_FACTOR
    return float(np.exp(optimize.brentq(excess, -limit, limit, xtol=1e-3)))


def contrast_detail(
    denoiser: Denoiser, doses: tuple[str, ...], *, images: int, draws: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Measure d' of every kind of disc before and after denoising.

    Parameters
    ----------
    denoiser
        Used as the product does: blind, with guards.
    doses
        Keys of ``training.cases.DOSES``.
    images
        Images with and as many without discs.
    draws
        Of the bootstrap.

    Returns
    -------
    Rows of ``contrast_detail`` and rows of ``dose_equivalence`` by NPWE.
    """
    rows: list[dict[str, Any]] = []
    worth: list[dict[str, Any]] = []
    rng = np.random.default_rng(7)
    for k, dose in enumerate(doses):
        chart = make_chart(dose)
        readings = _expose_and_read(denoiser, chart, images, first_seed=40_000 + 1_000 * k)
        for strength in DETECTION_STRENGTHS:
            factors: list[_Factor] = []
            for diameter in DIAMETERS_PX:
                for level in EXPECTED_D[diameter]:
                    places = [i for i, d in enumerate(chart.discs) if (d.diameter_px, d.level) == (diameter, level)]
                    discs = [chart.discs[i] for i in places]
                    found = {}
                    for observer, parts in (("npwe", slice(0, 1)), ("hotelling", slice(1, None))):
                        pair = (readings[s].at(places, parts) for s in (0.0, strength))
                        found[observer] = compare(*pair, draws=draws, rng=rng)
                        row = _row(discs, chart.case, strength, observer, found[observer])
                        rows.append({**row, "applied": round(readings[strength].applied, 3)})
                    factors.append(_factor(discs, chart.case, found["npwe"], best=found["hotelling"].before))
            worth.append(_mean_factor(factors, dose, strength))
    return rows, worth


def _row(discs: list[Disc], case: Case, strength: float, observer: str, found: Comparison) -> dict[str, Any]:
    row: dict[str, Any] = {
        "strength": strength,
        "dose": case.dose,
        "diameter_px": discs[0].diameter_px,
        "contrast_percent": round(100 * float(np.mean([disc.contrast for disc in discs])), 3),
        "observer": observer,
        "d_noisy": round(found.before, 3),
        "d_denoised": round(found.after, 3),
        "d_denoised_interval_95": [round(v, 3) for v in found.after_interval],
        "ratio": round(found.ratio, 4),
        "ratio_interval_95": [round(v, 4) for v in found.ratio_interval],
    }
    if observer == "npwe":
        row["d_noisy_closed_form"] = round(noisy_detectability(discs, case), 3)
    return row


@dataclass(frozen=True, kw_only=True)
class _Factor:
    """Logarithms of the dose factor of one kind of disc, its standard error, and the greatest that there can be."""

    log: float
    error: float
    log_limit: float


def _factor(discs: list[Disc], case: Case, found: Comparison, *, best: float) -> _Factor:
    """Return the dose factor of one kind of disc; ``best`` is the Hotelling d' of the noisy image."""
    ratios = (found.ratio, *found.ratio_interval, best / found.before)
    log, low, high, limit = (float(np.log(dose_factor_of_ratio(discs, case, ratio))) for ratio in ratios)
    return _Factor(log=log, error=(high - low) / 3.92, log_limit=limit)


def _mean_factor(factors: list[_Factor], dose: str, strength: float) -> dict[str, Any]:
    mean = float(np.mean([f.log for f in factors]))
    error = float(np.sqrt(np.sum([f.error**2 for f in factors]))) / len(factors)
    return {
        "strength": strength,
        "dose": dose,
        "measure": "npwe",
        "factor": round(float(np.exp(mean)), 3),
        "interval_95": [round(float(np.exp(mean + z * error)), 3) for z in (-1.96, 1.96)],
        "lowest_of_discs": round(float(np.exp(min(f.log for f in factors))), 3),
        "highest_possible": round(float(np.exp(np.mean([f.log_limit for f in factors]))), 3),
        "how": HOW_NPWE,
    }
