"""Checks on real noise: the way of measuring on simulated scenes, and the estimate and simulator on real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model.denoiser import Denoiser
from model.domain import Domain
from model.noise import NoiseLaw
from training.lowdose import Detector, expose, gaussian_kernel
from training.real_noise import (
    Scene,
    gain_db,
    measure_scene,
    noise_by_repetition,
    open_fields,
    references_of,
    scenes,
    simulator_against,
    squared_error,
)


def still_life(frames: int = 12) -> tuple[np.ndarray, np.ndarray, Scene]:
    """Return truth, sigma and a scene of white noise whose sigma rises with the value."""
    truth = np.tile(np.linspace(100.0, 900.0, 256), (256, 1))
    sigma = np.sqrt(truth)
    noise = np.random.default_rng(5).standard_normal((frames, 256, 256)) * sigma
    stack = (truth + noise).astype(np.float32)
    return truth, sigma, Scene(name="ramp", condition="simulated", frames=stack, domain=Domain.LINEAR)


def test_noise_by_repetition_is_found_by_value() -> None:
    _, _, scene = still_life()
    values, sigmas = noise_by_repetition(scene)
    np.testing.assert_allclose(sigmas, np.sqrt(values), rtol=0.03)


def test_squared_error_is_free_of_the_noise_of_its_references() -> None:
    truth, sigma, scene = still_life()
    references = references_of(scene, 4)
    assert references is not None
    assert squared_error(truth.astype(np.float32), references) == pytest.approx(
        0.0, abs=0.02 * float(np.mean(sigma**2))
    )
    noisy = scene.frames[4]
    assert squared_error(noisy, references) == pytest.approx(float(np.mean(sigma**2)), rel=0.05)
    halfway = (0.5 * (noisy + truth)).astype(np.float32)
    assert gain_db(noisy, halfway, references) == pytest.approx(6.0, abs=0.4)


def test_references_keep_their_distance_from_a_frame() -> None:
    frames = np.zeros((9, 4, 4), np.float32)
    frames[:] = np.random.default_rng(0).standard_normal((9, 4, 4))
    scene = Scene(name="s", condition="c", frames=frames, domain=Domain.LINEAR, apart=3)
    references = references_of(scene, 4)
    assert references is not None
    for reference, part in zip(references, (frames[:2], frames[7:]), strict=True):
        np.testing.assert_allclose(reference, part.mean(axis=0) - part.mean(), atol=1e-6)
    assert references_of(scene, 1) is None


def test_scenes_are_empty_without_data(tmp_path: Path) -> None:
    assert list(scenes(tmp_path)) == []
    assert list(open_fields(tmp_path)) == []


def test_the_simulator_gives_back_variance_and_nps_of_a_field() -> None:

    law = NoiseLaw(structure=0.0, quantum=0.5, electronic=0.0)
    field = expose(
        np.full((512, 512), 5000.0), Detector(law=law, kernel=gaussian_kernel(1.6)), np.random.default_rng(2)
    )
    found = simulator_against(field)
    assert found["sigma"] == pytest.approx(50.0, rel=0.03)
    assert abs(found["variance_error"]) < 0.03
    assert found["nps_error_median"] < 0.03


def test_real_open_fields_are_simulated_within_three_percent(test_data: Path) -> None:
    fields = list(open_fields(test_data))
    if not fields:
        pytest.skip("no open fields in the data folder")
    for name, image in fields:
        found = simulator_against(image)
        assert abs(found["variance_error"]) < 0.03, name
        assert found["nps_error"] < 0.03, name


def test_real_noise_is_estimated_from_one_frame_as_repetition_measures_it(test_data: Path) -> None:
    names = ("repeat exposures", "phantom at rest IM1", "phantom at rest IM5")
    found = [scene for scene in scenes(test_data) if scene.name in names]
    if not found:
        pytest.skip("no repeated exposures in the data folder")
    denoiser = Denoiser.load("lite", device="cpu")
    for scene in found:
        row = measure_scene(denoiser, scene, frames=1)
        assert abs(row["error_at_median"]) < 0.1, row
        assert abs(row["error_over_values"]) < 0.1, row
        assert row["guard"] == "", row
        if row["gain_db"] is not None:
            assert row["gain_db"] > 4.0, row
