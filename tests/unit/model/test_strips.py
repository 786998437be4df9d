"""Pieces with a halo: complete, bounded, without seams, and none where nothing can change."""

from __future__ import annotations

import numpy as np
import pytest

from model.denoiser import Denoiser
from model.domain import Domain
from model.estimation import changeable_pixels
from model.noise import NoiseCurve, NoiseLaw
from model.resnet_unet import MULTIPLE
from model.strips import HALO, Piece, bounds, plan, run_in_strips
from training.lowdose import Detector, expose, quantise
from training.phantom import phantom


def seen_pixels(piece: Piece) -> int:
    y, x = piece.seen
    return int((y.stop - y.start) * (x.stop - x.start))


def noisy_chest(rows: int, columns: int) -> tuple[np.ndarray, NoiseCurve]:
    truth = 6000 * phantom(rows, columns, 5, anatomy="chest")
    q = float(np.median(truth)) / 100
    law = NoiseLaw(structure=0.005, quantum=q, electronic=3 * q)
    noisy = expose(truth, Detector(law=law), np.random.default_rng(3))
    return noisy, law.curve(float(noisy.min()), float(noisy.max()))


@pytest.mark.parametrize(
    ("rows", "columns", "pixels"),
    [(1, 1, 10), (700, 600, 10**9), (2500, 2048, 10**6), (64, 9000, 200_000), (5000, 300, 250_000), (900, 900, 1)],
)
def test_pieces_cover_every_pixel_once_and_keep_to_the_budget(rows: int, columns: int, pixels: int) -> None:
    seen = np.zeros((rows, columns), dtype=int)
    for piece in plan(rows, columns, pixels=pixels):
        seen[piece.core] += 1
        assert seen_pixels(piece) <= max(pixels, (64 + 2 * HALO) ** 2)
        assert piece.seen[0].start % MULTIPLE == 0
        assert piece.seen[1].start % MULTIPLE == 0
    assert (seen == 1).all()


@pytest.mark.parametrize(
    ("rows", "columns", "pixels", "most"),
    [
        # Two strips of 1280 and a halo each; as many full strips as fit would be 1088 and 1472.
        (2560, 2048, 3_100_000, 1.16),
        # Six tiles, where strips would see more than twice the image.
        (4096, 4096, 4_000_000, 1.45),
        # A long strip is cut across its length alone.
        (320, 9000, 1_000_000, 1.15),
    ],
)
def test_pieces_are_cut_so_that_little_is_seen_twice(rows: int, columns: int, pixels: int, most: float) -> None:
    pieces = plan(rows, columns, pixels=pixels)
    assert sum(map(seen_pixels, pieces)) <= most * rows * columns
    assert max(map(seen_pixels, pieces)) <= pixels


def test_an_identity_network_gives_the_image_back_in_any_cut() -> None:
    image = np.random.default_rng(0).standard_normal((517, 389)).astype(np.float32)
    np.testing.assert_array_equal(run_in_strips(image, lambda x: x, pixels=160_000), image)


@pytest.mark.parametrize("pixels", [10**9, 250_000])
def test_the_network_is_shown_the_needed_rectangle_and_its_halo_alone(pixels: int) -> None:
    image = np.random.default_rng(0).standard_normal((1400, 1100)).astype(np.float32)
    needed = np.zeros(image.shape, dtype=np.bool_)
    needed[601:700, 501:640] = True
    shown = []

    def identity(piece: np.ndarray) -> np.ndarray:
        shown.append(piece.shape)
        return piece

    out = run_in_strips(image, identity, pixels=pixels, needed=needed)
    np.testing.assert_array_equal(out[needed], image[needed])
    assert not out[:576].any()
    assert sum(rows * columns for rows, columns in shown) < 2 * (124 + 2 * HALO) * (160 + 2 * HALO)


def test_a_piece_that_holds_nothing_needed_is_skipped() -> None:
    needed = np.zeros((2000, 256), dtype=np.bool_)
    needed[:64] = needed[-64:] = True
    pieces = len(plan(2000, 256, pixels=256 * 600))
    shown = []
    run_in_strips(
        np.zeros(needed.shape, dtype=np.float32),
        lambda piece: shown.append(1) or piece,
        pixels=256 * 600,
        needed=needed,
    )
    assert pieces > 4
    assert len(shown) == 2


def test_without_a_needed_pixel_the_network_never_runs() -> None:
    image = np.ones((100, 90), dtype=np.float32)
    assert bounds(np.zeros(image.shape, dtype=np.bool_)) is None
    out = run_in_strips(image, lambda piece: 1 / 0, pixels=10**6, needed=np.zeros(image.shape, dtype=np.bool_))
    assert not out.any()


def test_strips_differ_from_the_whole_image_by_less_than_a_fiftieth_of_sigma() -> None:
    noisy, curve = noisy_chest(1024, 512)
    valid = np.ones(noisy.shape, dtype=np.bool_)
    whole, strips = (Denoiser.load("lite", device="cpu") for _ in range(2))
    strips.largest_piece = 300_000
    assert len(plan(1024, 512, pixels=whole.largest_piece)) == 1
    assert len(plan(1024, 512, pixels=strips.largest_piece)) > 2
    difference = strips.remove_noise(noisy, curve, valid)[1] - whole.remove_noise(noisy, curve, valid)[1]
    assert np.abs(difference).max() < 0.02


def test_inside_a_collimated_field_the_result_is_that_of_the_full_run() -> None:
    noisy, _ = noisy_chest(1120, 1024)
    noisy = quantise(noisy, 14).astype(np.float32)
    field = np.zeros(noisy.shape, dtype=np.bool_)
    field[330:760, 300:700] = True
    noisy[~field] = 0.0
    valid = changeable_pixels(noisy, None)
    # Next to the field a few dark pixels may stay changeable; far from it none.
    assert not valid[:300].any()
    denoiser = Denoiser.load("lite", device="cpu")
    sizes = []
    run = denoiser._run
    denoiser._run = lambda z: sizes.append(z.size) or run(z)
    curve = NoiseLaw(structure=0.005, quantum=20.0, electronic=60.0).curve(0.0, float(noisy.max()))
    cropped = denoiser.remove_noise(noisy, curve, valid)[1]
    # The corners count too, so that the network sees the whole image.
    corners = valid.copy()
    corners[0, 0] = corners[-1, -1] = True
    full = denoiser.remove_noise(noisy, curve, corners)[1]
    assert np.abs(full - cropped)[valid].max() < 0.02
    assert full[valid].std() > 0.3
    assert sizes[0] < 0.75 * sizes[1]


def test_outside_a_collimated_field_every_pixel_stays_as_it_is() -> None:
    noisy, _ = noisy_chest(640, 640)
    noisy = np.maximum(quantise(noisy, 14), 1).astype(np.float32)
    noisy[:200] = 0.0
    result = Denoiser.load("lite", device="cpu").denoise(noisy[None], domain=Domain.LINEAR)
    assert result.enhanced
    np.testing.assert_array_equal(result.frames[0, :200], noisy[:200])
    assert (result.frames[0, 200:] != noisy[200:]).mean() > 0.9
