"""The dose that an image declares, held against the noise that it shows."""

from __future__ import annotations

from dataclasses import dataclass

from model.domain import Domain
from model.estimation import NoEstimate, NoiseEstimate

QUANTA_PER_MM2_AND_UGY = 30_000.0
"""Photons per mm² and µGy of a diagnostic beam (IEC 62220-1 gives 30174 for RQA 5); a detector counts 0.3 to 0.9."""
FACTOR = 5.0
"""Disagreement up to here is expected: beam quality, detector efficiency, binning, choice of the index's region."""
_INDEX_PER_UGY = 100.0
_DEVIATION_TOLERANCE = 1.0
_EXPOSURE_FACTOR = 2.0


@dataclass(frozen=True, kw_only=True)
class DeclaredDose:
    """What the header says of the dose; None: nothing.

    Parameters
    ----------
    exposure_index, target_exposure_index, deviation_index
        (0018,1411), (0018,1412), (0018,1413); IEC 62494-1: 100 times the air kerma at the detector in µGy, the one
        aimed at, and ``10 log10`` of their ratio.
    exposure_mas, exposure_uas
        Exposure (0018,1152) in mAs and Exposure in µAs (0018,1153).
    kvp
        Peak tube voltage (0018,0060) in kV.
    ctdi_vol_mgy
        CTDIvol (0018,9345) in mGy.
    pixel_mm2
        Area of a detector pixel, from Imager Pixel Spacing (0018,1164), in mm².
    """

    exposure_index: float | None = None
    target_exposure_index: float | None = None
    deviation_index: float | None = None
    exposure_mas: float | None = None
    exposure_uas: float | None = None
    kvp: float | None = None
    ctdi_vol_mgy: float | None = None
    pixel_mm2: float | None = None

    def words(self) -> str:
        """Return what is declared, for people; empty if nothing is."""
        named = (
            ("Exposure Index", self.exposure_index, ""),
            ("target", self.target_exposure_index, ""),
            ("Deviation Index", self.deviation_index, ""),
            ("exposure", self.exposure_mas, " mAs"),
            ("exposure", self.exposure_uas, " µAs"),
            ("tube", self.kvp, " kV"),
            ("CTDIvol", self.ctdi_vol_mgy, " mGy"),
        )
        return ", ".join(f"{name} {value:g}{unit}" for name, value, unit in named if value is not None)


def declared_quanta(declared: DeclaredDose) -> float | None:
    """Return the photons per mm² that the Exposure Index stands for, None without one."""
    index = declared.exposure_index
    if index is None and declared.target_exposure_index is not None and declared.deviation_index is not None:
        index = declared.target_exposure_index * 10.0 ** (declared.deviation_index / 10.0)
    return None if index is None or index <= 0 else index / _INDEX_PER_UGY * QUANTA_PER_MM2_AND_UGY


def measured_quanta(estimate: NoiseEstimate, *, median: float, pixel_mm2: float) -> float | None:
    """Return the effective quanta per mm² at the median value: the inverse of the noise power at low frequency.

    Blur of the detector lowers the variance of a pixel and correlates neighbours; the product of variance, pixel area
    and the sum of the autocorrelation does not change with it. The gain need not be known, as the relative noise
    alone counts.
    """
    spread = 1.0
    for correlation in (estimate.correlation_x, estimate.correlation_y):
        spread *= max(1.0 + 2.0 * sum(correlation), 0.2)
    if median <= 0 or estimate.median_sigma <= 0:
        return None
    return (median / estimate.median_sigma) ** 2 / (pixel_mm2 * spread)


def dose_disagreements(
    declared: DeclaredDose | None, estimate: NoiseEstimate | NoEstimate, *, domain: Domain, median: float
) -> tuple[str, ...]:
    """Return, in plain words, where what is declared contradicts the noise or itself; changes no pixel.

    Only LINEAR values tell the relative noise, and only with Exposure Index and pixel size is there a number to
    expect; elsewhere just the declared values are held against each other.

    Parameters
    ----------
    declared
        What the header says; None: nothing.
    estimate
        What the image tells about its noise.
    domain
        Relation of the values to exposure.
    median
        Median of the valid pixels, units of the image.
    """
    if declared is None:
        return ()
    found = _contradictions(declared)
    expected = declared_quanta(declared)
    if (
        expected is None
        or declared.pixel_mm2 is None
        or domain is not Domain.LINEAR
        or isinstance(estimate, NoEstimate)
    ):
        return found
    measured = measured_quanta(estimate, median=median, pixel_mm2=declared.pixel_mm2)
    if measured is not None and not expected / FACTOR <= measured <= expected * FACTOR:
        more = "more" if measured < expected else "less"
        found += (
            f"declared dose and noise disagree: {more} noise than declared, {_quanta(measured)} effective quanta per "
            f"mm² against {_quanta(expected)} ({declared.words()})",
        )
    return found


def _contradictions(declared: DeclaredDose) -> tuple[str, ...]:
    found: tuple[str, ...] = ()
    index, target, deviation = declared.exposure_index, declared.target_exposure_index, declared.deviation_index
    if index is not None and target is not None and deviation is not None and index > 0 and target > 0:
        ratio = declared_quanta(DeclaredDose(target_exposure_index=target, deviation_index=deviation))
        own = declared_quanta(declared)
        limit = 10.0 ** (_DEVIATION_TOLERANCE / 10.0)
        if ratio is not None and own is not None and not 1.0 / limit <= own / ratio <= limit:
            found += (f"declared dose contradicts itself: {declared.words()}",)
    mas, uas = declared.exposure_mas, declared.exposure_uas
    # Exposure is a whole number of mAs: small ones say little.
    if mas is not None and uas is not None and mas >= 2.0 and uas > 0:
        ratio_of_exposures = uas / 1000.0 / mas
        if not 1.0 / _EXPOSURE_FACTOR <= ratio_of_exposures <= _EXPOSURE_FACTOR:
            found += (f"declared exposures contradict each other: {mas:g} mAs and {uas:g} µAs",)
    return found


def _quanta(value: float) -> str:
    return f"{float(f'{value:.2g}'):,.0f}"
