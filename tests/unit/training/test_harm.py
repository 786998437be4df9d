"""Do no harm: every measure finds what was put in, and the report says what was measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.denoiser import Denoiser
from model.domain import Domain
from model.noise import NoiseLaw
from training import harm
from training.cases import Case, make_case
from training.detection import (
    EXPECTED_D,
    Disc,
    disc_profile,
    dose_factor_of_ratio,
    make_chart,
    noisy_detectability,
    response_variance,
)
from training.fidelity import bias_moments, dose_factor_of_error, phantom_image
from training.images import read_grey
from training.lowdose import WANG_2014_CSI, Detector, expose, unit_energy
from training.observers import npwe_template
from training.quality_phantoms import (
    FOLDER,
    QUALITY_PHANTOMS,
    BarsAt,
    DiscAt,
    bar_modulation,
    bar_profile,
    disc_contrast,
)
from training.repeats import STRENGTHS, exposure, take
from training.transfer import REGION_PX, mean_frequency, radial_spectrum

TINY = harm.Extent(
    doses=("1/2",),
    kernels=("csi",),
    anatomies=(("pelvis", 2),),
    realisations=2,
    pairs=1,
    edge_repeats=2,
    faint_edge_repeats=2,
    detection_images=4,
    bootstrap_draws=4,
)


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    return Denoiser.load("lite", device="cpu")


def quantum_limited(case: Case) -> Case:
    """Return the case with quantum noise alone: detectability follows the root of the dose."""
    return replace(case, law=NoiseLaw(structure=0.0, quantum=case.law.quantum, electronic=0.0))


def test_every_strength_follows_from_one_run_at_full_strength(denoiser: Denoiser) -> None:
    case = make_case(phantom_image("pelvis", 2), dose="1/4", kernel="csi", seed=0)
    noisy = exposure(case.truth, case, 5)
    shot = take(denoiser, noisy)
    assert shot.allowed >= 0.4
    for strength in STRENGTHS:
        direct = denoiser.denoise(noisy[None], domain=Domain.LINEAR, strength=strength).frames[0]
        np.testing.assert_allclose(shot.at(strength), direct, rtol=1e-5, atol=1e-2)
    capped = replace(shot, allowed=0.4)
    np.testing.assert_array_equal(capped.at(1.0), shot.at(0.4))


def test_bias_is_told_from_variance_and_freed_of_its_finite_sample() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(100, 200, (200, 200)).astype(np.float32)
    sigma = np.full(truth.shape, 10.0)
    field = np.ones(truth.shape, dtype=np.bool_)
    noise = 5.0 * rng.standard_normal((5, *truth.shape))
    unbiased = bias_moments((truth + noise).astype(np.float32), truth, sigma, field)
    assert unbiased.variance == pytest.approx(0.25, abs=0.005)
    assert unbiased.bias2 == pytest.approx(0.0, abs=0.003)  # 0.05 without the correction
    shifted = bias_moments((truth + noise + 3.0).astype(np.float32), truth, sigma, field)
    assert shifted.bias2 == pytest.approx(0.09, abs=0.005)
    assert shifted.edges == pytest.approx(0.09, abs=0.01)


def test_dose_equivalence_of_quantum_noise_is_the_ratio_of_errors_or_the_square_of_that_of_d() -> None:
    case = quantum_limited(make_case(phantom_image("pelvis", 2), dose="1/4", kernel="csi", seed=0))
    assert dose_factor_of_error(case, case.field, 0.25) == pytest.approx(4.0, rel=1e-3)
    assert dose_factor_of_error(case, case.field, 1e-9) == 200.0
    disc = Disc(y=192, x=192, diameter_px=8, level=1.0, contrast=0.05)
    assert dose_factor_of_ratio([disc], case, 1.5) == pytest.approx(2.25, rel=5e-3)
    assert dose_factor_of_ratio([disc], case, 0.8) == pytest.approx(0.64, rel=5e-3)


def test_the_closed_form_of_a_response_is_that_of_exposures() -> None:
    law = NoiseLaw(structure=0.02, quantum=3.0, electronic=20.0)
    detector = Detector(law=law, kernel=WANG_2014_CSI, line_noise=0.3)
    y, x = np.mgrid[0:72, 0:72]
    truth = (400.0 + 4.0 * y + 2.0 * x).astype(np.float32)
    # A template with a mean, so that row and column noise counts.
    template = npwe_template(disc_profile(16)) + 0.02
    rng = np.random.default_rng(1)
    noise = np.stack([expose(truth, detector, rng) - truth for _ in range(2500)])[:, 4:-4, 4:-4]
    seen = np.tensordot(noise.astype(np.float64), template, axes=2)
    assert response_variance(template, truth, detector) == pytest.approx(float(seen.var()), rel=0.07)


def test_each_disc_has_the_contrast_of_its_expected_d_and_changes_nothing_else() -> None:
    chart = make_chart("1/4")
    assert {disc.diameter_px for disc in chart.discs} == set(EXPECTED_D)
    for disc in chart.discs:
        assert noisy_detectability([disc], chart.case) == pytest.approx(disc.level, rel=1e-6)
        centre = chart.present[disc.y, disc.x] / chart.case.truth[disc.y, disc.x]
        # The blur takes from the middle of the smallest disc.
        assert 0.4 * disc.contrast < 1.0 - centre < 1.001 * disc.contrast
    changed = np.abs(chart.present / chart.case.truth - 1.0) > 1e-6
    y, x = np.mgrid[0 : changed.shape[0], 0 : changed.shape[1]]
    near = np.zeros_like(changed)
    for disc in chart.discs:
        near |= np.hypot(y - disc.y, x - disc.x) < disc.diameter_px / 2 + 6
    assert not (changed & ~near).any()
    assert np.all(chart.present <= chart.case.truth)


def test_contrast_and_modulation_of_drawn_objects() -> None:
    y, x = np.mgrid[0:128, 0:128].astype(np.float64)
    plane = 500.0 + 0.7 * x - 0.3 * y
    disc = DiscAt(name="", y=60.0, x=66.0, radius=12.0)
    assert disc_contrast(plane, disc) == pytest.approx(0.0, abs=0.05)
    drawn = plane + 25.0 * (np.hypot(y - 60.0, x - 66.0) <= 12.0)
    assert disc_contrast(drawn, disc) == pytest.approx(25.0, abs=0.05)
    angle = np.deg2rad(45.0)
    wave = 40.0 * np.sin(2 * np.pi * (y * np.cos(angle) - x * np.sin(angle)) / 10.0)
    bars = BarsAt(name="", y=64.0, x=64.0, along_degrees=45.0, along=15.0, across=25.0)
    assert bar_modulation(wave, bars) == pytest.approx(40.0 / np.sqrt(2), rel=0.05)
    noise = 40.0 * np.random.default_rng(2).standard_normal(wave.shape)
    assert bar_modulation(wave + noise, bars) == pytest.approx(bar_modulation(wave, bars), rel=0.1)


@pytest.mark.parametrize("phantom", QUALITY_PHANTOMS, ids=lambda phantom: phantom.file)
def test_the_objects_of_real_phantoms_lie_where_the_table_says(phantom: Any, test_data: Path) -> None:
    path = test_data / FOLDER / phantom.file
    if not path.is_file():
        pytest.skip(f"no {path}")
    image = read_grey(path)[0]
    for disc in phantom.discs:
        empty = [disc_contrast(image, replace(disc, y=y, x=x)) for y, x in phantom.empty]
        assert disc_contrast(image, disc) - np.mean(empty) > 2.5 * np.std(empty)
    for bars in phantom.bars:
        turned = replace(bars, along_degrees=bars.along_degrees + 90.0)
        assert bar_modulation(image, bars) > 2.0 * bar_modulation(image, turned)
        profile = bar_profile(image, bars)
        crossings = np.count_nonzero(np.diff(profile > profile.mean()))
        assert crossings >= 5  # three bars or more


def target_rows(**changes: Any) -> dict[str, list[dict[str, Any]]]:
    common = {"strength": 0.7}
    found = {"ratio": 0.99, "shift": -0.1, "loss": 0.01, "npwe": 1.9, "rmse": 4.0, "kept": 1.0, **changes}
    return {
        "nps": [{**common, "background": b, "shift": found["shift"]} for b in ("flat", "anatomy")],
        "ttf": [{**common, "contrast_percent": c, "loss": found["loss"]} for c in (2.0, 50.0)],
        "contrast_detail": [{**common, "observer": "hotelling", "ratio": found["ratio"]}],
        "dose_equivalence": [{**common, "measure": m, "factor": found[m]} for m in ("npwe", "rmse")],
        "phantoms": [{**common, "ratio": found["kept"], "error": 0.01}],
    }


def test_targets_are_met_exactly_where_the_figures_meet_them() -> None:
    assert all(line["met"] for line in harm.targets(target_rows()))
    for change, missed in (
        ({"npwe": 1.7}, "NPWE"),
        ({"rmse": 1.7}, "squared error"),
        ({"ratio": 0.97}, "Hotelling"),
        ({"loss": 0.04}, "TTF50"),
        ({"shift": -0.3}, "shift"),
        ({"kept": 0.95}, "real phantoms"),
    ):
        lines = harm.targets(target_rows(**change))
        assert {line["met"] for line in lines if missed in line["name"]} == {False}
        assert all(line["met"] for line in lines if missed not in line["name"])


def test_the_report_holds_every_part_at_every_strength(
    denoiser: Denoiser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harm, "QUICK", TINY)
    report = harm.harm_report(denoiser, quick=True, output=tmp_path)
    assert json.loads((tmp_path / "harm.json").read_text()) == report
    assert report["sha256"] == denoiser.digest
    assert [row["strength"] for row in report["bias"]] == list(STRENGTHS)
    variances = [row["residual_variance_sigma2"] for row in report["bias"]]
    assert 1.0 > variances[0] > variances[1] > variances[3] > 0.0
    assert {row["contrast_percent"] for row in report["ttf"]} == {2.0, 5.0, 10.0, 20.0, 50.0}
    assert {row["background"] for row in report["nps"]} == {"flat", "anatomy"}
    kernel = np.abs(np.fft.fft2(unit_energy(WANG_2014_CSI), s=(REGION_PX, REGION_PX))) ** 2
    for row in report["nps"]:
        # A part of the noise is white, so its mean frequency lies above that of the kernel.
        above = row["mean_frequency_noisy"] - mean_frequency(*radial_spectrum(kernel))
        assert 0.0 < above < 0.02
        assert np.sum(row["denoised"]) < np.sum(row["noisy"])
    assert {row["observer"] for row in report["contrast_detail"]} == {"npwe", "hotelling"}
    assert {row["measure"] for row in report["dose_equivalence"]} == {"npwe", "rmse"}
    assert report["phantoms"] == []
    assert all(isinstance(line["met"], bool) for line in report["targets"])
