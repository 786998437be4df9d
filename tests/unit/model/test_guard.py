"""Each guard fires on a case made for it and stays quiet on good ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from model.denoiser import Denoiser
from model.domain import Domain
from model.estimation import NoEstimate, NoiseEstimate
from model.exposure import DeclaredDose
from model.guard import clamp_noise, judge_noise, judge_removed, without_low_band
from model.noise import NoiseCurve, NoiseLaw
from training.lowdose import WANG_2014_CSI, Detector, expose, gaussian_kernel, quantise, unit_energy
from training.phantom import ANATOMIES, phantom

GOOD = NoiseEstimate(
    curve=NoiseCurve(values=np.array([0.0, 100.0]), sigmas=np.array([1.0, 10.0])),
    law=NoiseLaw(structure=0.0, quantum=1.0, electronic=1.0),
    correlation_x=(0.3, 0.1, 0.0, 0.0),
    correlation_y=(0.3, 0.1, 0.0, 0.0),
    misfit=0.05,
    coverage=0.95,
    blocks=1000,
    median_sigma=10.0,
    anatomy=0.05,
    flat_blocks=np.ones((10, 10), dtype=np.bool_),
)


def verdict(estimate: NoiseEstimate | NoEstimate, *, median: float = 100.0) -> tuple[float, str]:
    found = judge_noise(estimate, domain=Domain.LINEAR, strength=0.7, median=median, quanta_from=6.0)
    return found.strength, " ".join(found.reasons)


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    return Denoiser.load("lite", device="cpu")


def low_dose(anatomy: str, *, quanta: float = 150.0, kernel: np.ndarray = WANG_2014_CSI, size: int = 512) -> np.ndarray:
    truth = 4000.0 * phantom(size, size, 21, anatomy=anatomy)
    q = float(np.median(truth)) / quanta
    detector = Detector(law=NoiseLaw(structure=0.005, quantum=q, electronic=3 * q), kernel=kernel)
    return quantise(expose(truth, detector, np.random.default_rng(4)), 14).astype(np.float32)


def test_removed_noise_never_exceeds_three_and_a_half_sigma() -> None:
    np.testing.assert_array_equal(
        clamp_noise(np.array([-9.0, -1.0, 3.4, 4.0], dtype=np.float32)),
        np.array([-3.5, -1.0, 3.4, 3.5], dtype=np.float32),
    )


def test_low_band_of_what_is_removed_is_nothing() -> None:
    rng = np.random.default_rng(0)
    slow = ndimage.gaussian_filter(rng.standard_normal((400, 300)), 60).astype(np.float32)
    slow /= slow.std()
    fine = rng.standard_normal((400, 300)).astype(np.float32)
    valid = np.ones(slow.shape, dtype=np.bool_)
    assert without_low_band(slow, valid)[40:-40, 40:-40].std() < 0.1
    assert without_low_band(fine, valid).std() == pytest.approx(1.0, abs=0.01)


def test_low_band_does_not_leak_across_a_collimated_edge() -> None:
    removed = np.full((200, 200), 5.0, dtype=np.float32)
    removed[:, :100] = 1000.0
    valid = np.ones(removed.shape, dtype=np.bool_)
    valid[:, :100] = False
    kept = without_low_band(removed, valid)
    np.testing.assert_allclose(kept, 0.0, atol=1e-3)


def test_a_good_estimate_keeps_the_strength_without_a_word() -> None:
    assert verdict(GOOD) == (0.7, "")


@pytest.mark.parametrize(
    ("estimate", "strength", "reason"),
    [
        (NoEstimate(reason="too small"), 0.0, "too small"),
        (replace(GOOD, misfit=0.6), 0.0, "no curve"),
        (replace(GOOD, misfit=0.4), 0.4, "poorly"),
        (replace(GOOD, correlation_x=(0.9, 0.8, 0.7, 0.6)), 0.0, "coarser than noise"),
        (replace(GOOD, correlation_y=(0.9, 0.8, 0.5, 0.35)), 0.4, "coarser than trained"),
        # Noise of 4 px at 600 quanta; the widest trained has 3.5 px.
        (replace(GOOD, correlation_x=(0.9, 0.73, 0.42, 0.15)), 0.4, "coarser than trained"),
        (replace(GOOD, coverage=0.3), 0.4, "covers 30%"),
        (replace(GOOD, anatomy=0.55), 0.4, "55% of what looks like noise grows"),
        (replace(GOOD, law=NoiseLaw(structure=0.0, quantum=80.0, electronic=1.0)), 0.0, "only 1.2 quanta"),
    ],
    ids=["none", "misfit", "weak", "coarse", "wide", "a little wide", "coverage", "anatomy", "quanta"],
)
def test_a_poor_estimate_lowers_or_refuses_with_its_reason(
    estimate: NoiseEstimate | NoEstimate, strength: float, reason: str
) -> None:
    left, words = verdict(estimate)
    assert left == strength
    assert reason in words


def judged(removed: np.ndarray, denoised: np.ndarray | None = None) -> tuple[float, str]:
    shape = removed.shape
    found = judge_removed(
        removed.astype(np.float32),
        np.zeros(shape, np.float32) if denoised is None else denoised,
        np.ones(shape, np.bool_),
        np.ones((shape[0] // 16, shape[1] // 16), np.bool_),
        strength=0.7,
    )
    return found.strength, " ".join(found.reasons)


def test_what_is_removed_is_judged_by_its_power_and_its_place() -> None:
    rng = np.random.default_rng(0)
    noise = 0.9 * rng.standard_normal((320, 320))
    assert judged(noise) == (0.7, "")
    assert judged(2.0 * noise)[0] == 0.0
    assert "would change by more than 3.5 sigma" in judged(4.0 * noise)[1]
    assert judged(0.6 * noise) == (0.4, judged(0.6 * noise)[1])
    assert "of a kind that was trained" in judged(0.6 * noise)[1]
    assert judged(0.3 * noise)[0] == 0.0
    edges = np.zeros((320, 320), np.float32)
    edges[:, 128:160] = np.tile([0.0, 9.0], 16)
    at_edges = np.where(edges.any(axis=0), 2.0, 0.75) * noise
    assert judged(at_edges, edges)[0] == 0.4


def test_what_is_removed_must_not_be_coarse() -> None:
    rng = np.random.default_rng(1)
    coarse = ndimage.gaussian_filter(rng.standard_normal((320, 320)), 4.0)
    strength, words = judged(0.9 * coarse / coarse.std())
    assert strength == 0.4
    assert "coarse (correlation" in words


def test_a_declared_dose_that_the_noise_contradicts_is_a_reason_and_changes_nothing(denoiser: Denoiser) -> None:
    image = low_dose("chest")[None]
    declared = DeclaredDose(exposure_index=5000.0, pixel_mm2=0.15**2)
    without = denoiser.denoise(image, domain=Domain.LINEAR)
    found = denoiser.denoise(image, domain=Domain.LINEAR, declared=declared)
    assert "declared dose and noise disagree" in " ".join(found.reasons)
    assert without.reasons == ()
    np.testing.assert_array_equal(found.frames, without.frames)


@pytest.mark.parametrize("kernel", [gaussian_kernel(8.0), unit_energy(np.ones((1, 15)))], ids=["8 px", "streaks"])
def test_noise_of_a_kernel_that_was_never_trained_is_not_given_full_strength(
    denoiser: Denoiser, kernel: np.ndarray
) -> None:
    result = denoiser.denoise(low_dose("chest", kernel=kernel)[None], domain=Domain.LINEAR, strength=0.7)
    assert result.strength <= 0.4
    assert "grows with distance" in " ".join(result.reasons)


@pytest.mark.parametrize("anatomy", sorted(ANATOMIES))
@pytest.mark.parametrize("quanta", [20.0, 200.0])
def test_no_alarm_on_good_low_dose_images(denoiser: Denoiser, anatomy: str, quanta: float) -> None:
    result = denoiser.denoise(low_dose(anatomy, quanta=quanta)[None], domain=Domain.LINEAR, strength=0.7)
    assert result.reasons == ()
    assert result.strength == 0.7


def test_an_image_that_was_denoised_before_is_not_given_full_strength(denoiser: Denoiser) -> None:
    once = denoiser.denoise(low_dose("chest")[None], domain=Domain.LINEAR, strength=1.0).frames
    assert denoiser.denoise(np.rint(once), domain=Domain.LINEAR, strength=0.7).strength <= 0.4
    blurred = ndimage.gaussian_filter(low_dose("chest"), 2.0)
    assert denoiser.denoise(blurred[None], domain=Domain.LINEAR, strength=0.7).strength <= 0.4


def test_a_noise_free_drawing_goes_on_as_it_is(denoiser: Denoiser) -> None:
    drawing = np.rint(4000 * phantom(512, 512, 21, anatomy="chest"))[None].astype(np.float32)
    result = denoiser.denoise(drawing, domain=Domain.DISPLAY)
    assert not result.enhanced
    np.testing.assert_array_equal(result.frames, drawing)


def test_text_burned_in_stays_within_a_tenth_of_its_contrast(denoiser: Denoiser) -> None:
    image = low_dose("chest")
    glyphs = np.zeros(image.shape, dtype=np.bool_)
    for k in range(12):  # bars like the strokes of letters, 3 pixels wide
        glyphs[40:70, 60 + 9 * k : 63 + 9 * k] = True
    image[glyphs] = 12000.0
    out = denoiser.denoise(image[None], domain=Domain.LINEAR, strength=0.9).frames[0]
    between = np.zeros_like(glyphs)
    between[40:70, 64:65] = True
    assert abs(float(out[glyphs].mean()) - 12000.0) < 50.0
    assert float(np.median(out[between])) < float(np.median(image[between])) + 0.1 * 12000.0
