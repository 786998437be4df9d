"""Pieces with a halo: complete, bounded, and without seams."""

from __future__ import annotations

import numpy as np
import pytest

from model.denoiser import Denoiser
from model.noise import NoiseLaw
from model.resnet_unet import MULTIPLE
from model.strips import HALO, plan, run_in_strips
from training.lowdose import Detector, expose
from training.phantom import phantom


@pytest.mark.parametrize(
    ("rows", "columns", "pixels"),
    [(1, 1, 10), (700, 600, 10**9), (2500, 2048, 10**6), (64, 9000, 200_000), (5000, 300, 250_000)],
)
def test_pieces_cover_every_pixel_once_and_keep_to_the_budget(rows: int, columns: int, pixels: int) -> None:
    seen = np.zeros((rows, columns), dtype=int)
    for piece in plan(rows, columns, pixels=pixels):
        seen[piece.core] += 1
        height = piece.seen[0].stop - piece.seen[0].start
        width = piece.seen[1].stop - piece.seen[1].start
        assert height * width <= max(pixels, (64 + 2 * HALO) ** 2)
        assert piece.seen[0].start % MULTIPLE == 0
        assert piece.seen[1].start % MULTIPLE == 0
    assert (seen == 1).all()


def test_an_identity_network_gives_the_image_back_in_any_cut() -> None:
    image = np.random.default_rng(0).standard_normal((517, 389)).astype(np.float32)
    np.testing.assert_array_equal(run_in_strips(image, lambda x: x, pixels=160_000), image)


def test_strips_differ_from_the_whole_image_by_less_than_a_fiftieth_of_sigma() -> None:
    truth = 6000 * phantom(640, 512, 5, anatomy="chest")
    q = float(np.median(truth)) / 100
    law = NoiseLaw(structure=0.005, quantum=q, electronic=3 * q)
    noisy = expose(truth, Detector(law=law), np.random.default_rng(3))
    curve = law.curve(float(noisy.min()), float(noisy.max()))
    valid = np.ones(noisy.shape, dtype=np.bool_)
    whole = Denoiser.load("lite", device="cpu", memory_mb=4096).remove_noise(noisy, curve, valid)[1]
    strips = Denoiser.load("lite", device="cpu", memory_mb=130).remove_noise(noisy, curve, valid)[1]
    assert len(plan(640, 512, pixels=(130 - 64) * 2**20 // (12 * 32))) > 2
    assert np.abs(strips - whole).max() < 0.02
