"""Procedural radiographs: bounded, seeded, with the details that they claim."""

from __future__ import annotations

import numpy as np
import pytest

from training.phantom import ANATOMIES, DARKEST, phantom
from training.textures import dead_leaves, power_law_field


@pytest.mark.parametrize("anatomy", sorted(ANATOMIES))
@pytest.mark.parametrize("shape", [(16, 16), (300, 200)])
def test_transmission_lies_between_leakage_and_the_open_beam(anatomy: str, shape: tuple[int, int]) -> None:
    image = phantom(*shape, 3, anatomy=anatomy)
    assert image.shape == shape
    assert image.dtype == np.float32
    assert image.min() >= np.float32(DARKEST)
    assert image.max() <= 1.0


def test_the_seed_decides_the_picture() -> None:
    np.testing.assert_array_equal(phantom(128, 128, 5), phantom(128, 128, 5))
    assert np.abs(phantom(128, 128, 5) - phantom(128, 128, 6)).max() > 0.1


def test_inserts_add_line_pairs_and_discs() -> None:
    difference = np.log(phantom(400, 400, 8, inserts=False)) - np.log(phantom(400, 400, 8, inserts=True))
    changed = np.abs(difference) > 0.01
    assert 0.002 < changed.mean() < 0.2


def test_a_phantom_has_contrast_and_structure_at_every_scale() -> None:
    image = -np.log(phantom(512, 512, 8, anatomy="chest"))
    power = np.abs(np.fft.rfft2(image - image.mean())) ** 2
    f = np.hypot(np.fft.fftfreq(512)[:, None], np.fft.rfftfreq(512)[None, :])
    octaves = [power[(f >= low) & (f < 2 * low)].mean() for low in (0.01, 0.03, 0.1)]
    assert octaves[0] > octaves[1] > octaves[2] > 0
    assert np.ptp(image) > 1.0


def test_power_law_field_has_its_exponent() -> None:
    image = power_law_field((512, 512), 2.5, np.random.default_rng(0))
    power = np.abs(np.fft.rfft2(image)) ** 2
    f = np.hypot(np.fft.fftfreq(512)[:, None], np.fft.rfftfreq(512)[None, :])
    low, high = (power[(f > c / 1.2) & (f < c * 1.2)].mean() for c in (0.02, 0.2))
    assert np.log10(low / high) == pytest.approx(2.5, abs=0.15)


def test_large_leaves_leave_large_smooth_areas() -> None:
    def flat_share(smallest_px: float) -> float:
        image = dead_leaves((256, 256), np.random.default_rng(3), smallest_px=smallest_px)
        steps = np.hypot(*np.gradient(image))
        return float((steps < 0.02).mean())

    assert flat_share(8.0) > flat_share(1.0) + 0.1
    assert flat_share(8.0) > 0.85


def test_dead_leaves_are_attenuation_and_repeat_by_seed() -> None:
    first, second = (dead_leaves((150, 150), np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.min() >= 0.0
    assert first.std() > 0.05
