"""Declared dose against measured noise: quiet where they agree, a reason in plain words where they don't."""

from __future__ import annotations

import numpy as np
import pytest

from model.domain import Domain
from model.estimation import NoEstimate, NoiseEstimate, estimate_noise
from model.exposure import DeclaredDose, declared_quanta, dose_disagreements, measured_quanta
from model.noise import NoiseLaw
from training.lowdose import Detector, expose, gaussian_kernel

PIXEL_MM2 = 0.15**2
MEDIAN = 1000.0
QUANTA_PER_PIXEL = 400.0


def field(kernel_px: float = 0.0) -> NoiseEstimate:
    law = NoiseLaw(structure=0.0, quantum=MEDIAN / QUANTA_PER_PIXEL, electronic=0.1)
    flat = np.full((512, 512), MEDIAN)
    noisy = expose(flat, Detector(law=law, kernel=gaussian_kernel(kernel_px)), np.random.default_rng(3))
    found = estimate_noise(noisy, domain=Domain.LINEAR)
    assert isinstance(found, NoiseEstimate)
    return found


def found(declared: DeclaredDose | None, *, domain: Domain = Domain.LINEAR) -> tuple[str, ...]:
    return dose_disagreements(declared, field(), domain=domain, median=MEDIAN)


def index(times: float) -> DeclaredDose:
    """Return a declaration that many times the dose of `field` (100 per µGy, 30000 quanta per mm² and µGy)."""
    return DeclaredDose(
        exposure_index=times * 100.0 * QUANTA_PER_PIXEL / PIXEL_MM2 / 30_000.0, pixel_mm2=PIXEL_MM2, kvp=80.0
    )


def test_exposure_index_is_a_hundred_times_the_air_kerma() -> None:
    assert declared_quanta(DeclaredDose(exposure_index=250.0)) == pytest.approx(2.5 * 30_000.0)
    assert declared_quanta(DeclaredDose()) is None


def test_target_and_deviation_index_stand_for_the_exposure_index() -> None:
    declared = DeclaredDose(target_exposure_index=250.0, deviation_index=-3.0)
    assert declared_quanta(declared) == pytest.approx(10**-0.3 * 2.5 * 30_000.0)


def test_quanta_are_those_behind_a_white_field() -> None:
    assert measured_quanta(field(0.0), median=MEDIAN, pixel_mm2=PIXEL_MM2) == pytest.approx(
        QUANTA_PER_PIXEL / PIXEL_MM2, rel=0.15
    )


def test_declared_and_measured_that_agree_within_the_factor_give_no_reason() -> None:
    for times in (0.6, 1.0, 2.0):
        assert found(index(times)) == ()


@pytest.mark.parametrize(("times", "word"), [(60.0, "more noise than declared"), (0.02, "less noise than declared")])
def test_gross_disagreement_is_named_with_both_figures_and_what_was_declared(times: float, word: str) -> None:
    (reason,) = found(index(times))
    assert word in reason
    assert "quanta per mm² against" in reason
    assert "80 kV" in reason


def test_no_comparison_where_the_relative_noise_is_unknown() -> None:
    assert found(index(60.0), domain=Domain.DISPLAY) == ()
    assert found(DeclaredDose(exposure_index=1e6)) == ()
    assert found(None) == ()
    nothing = NoEstimate(reason="too small")
    assert dose_disagreements(index(60.0), nothing, domain=Domain.LINEAR, median=MEDIAN) == ()


def test_a_deviation_index_that_contradicts_index_and_target_is_flagged() -> None:
    (reason,) = found(DeclaredDose(exposure_index=75.0, target_exposure_index=300.0, deviation_index=3.0))
    assert "contradicts itself" in reason
    assert found(DeclaredDose(exposure_index=75.0, target_exposure_index=300.0, deviation_index=-6.0)) == ()


def test_exposures_in_both_units_must_be_the_same() -> None:
    (reason,) = found(DeclaredDose(exposure_mas=4.0, exposure_uas=40_000.0))
    assert "contradict" in reason
    assert found(DeclaredDose(exposure_mas=4.0, exposure_uas=3_600.0)) == ()
