"""BM3D of our own: block matching against brute force, noise of groups against samples, parity with published code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage, signal
from skimage import data

from training.bm3d import BLOCK, STEP, WHITE, WINDOW, GroupNoise, _dct, _haar, _match, _transform_blocks, bm3d
from training.lowdose import gaussian_kernel

# A photograph, its part, sigma of 255 and the PSNR of the authors' bm3d 4.0.3 (PyPI) on the same noise, measured once.
PARITY = [("camera", 192, 160, 10, 33.64), ("coins", 64, 128, 25, 29.26), ("moon", 128, 128, 25, 36.64)]


def _psnr(image: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    return float(10 * np.log10(255**2 / np.mean(np.square(np.clip(image, 0, 255) - truth))))


def _photograph(name: str, start: int, side: int) -> NDArray[np.float64]:
    picture = {"camera": data.camera, "coins": data.coins, "moon": data.moon}[name]()
    return np.asarray(picture[start : start + side, start : start + side], dtype=np.float64)


@pytest.mark.parametrize(("name", "start", "side", "sigma", "authors_db"), PARITY)
def test_white_noise_is_removed_as_well_as_by_the_authors_code(
    name: str, start: int, side: int, sigma: float, authors_db: float
) -> None:
    truth = _photograph(name, start, side)
    noisy = truth + sigma * np.random.default_rng(7).standard_normal(truth.shape)
    ours = _psnr(sigma * bm3d((noisy / sigma).astype(np.float32)), truth)
    assert ours == pytest.approx(authors_db, abs=0.1)


def test_knowing_the_spectrum_helps_against_correlated_noise() -> None:
    truth = _photograph("camera", 64, 128)
    kernel = gaussian_kernel(2.2)
    white = np.random.default_rng(1).standard_normal(truth.shape)
    noisy = (truth / 25 + ndimage.convolve(white, kernel, mode="wrap")).astype(np.float32)
    known = bm3d(noisy, autocovariance=signal.correlate(kernel, kernel))
    # The best that white BM3D can do: it assumes more noise than there is.
    best_white = max(_psnr(25 * bm3d(noisy, sigma), truth) for sigma in (1.3, 1.7, 2.2))
    assert _psnr(25 * known, truth) > best_white + 0.5


def test_a_level_stays_and_every_size_comes_back_whole() -> None:
    for rows, columns in ((8, 8), (9, 31), (40, 23)):
        level = np.full((rows, columns), 7.25, dtype=np.float32)
        np.testing.assert_allclose(bm3d(level), level, atol=1e-4)


def test_matches_are_those_of_brute_force() -> None:
    image = np.random.default_rng(2).standard_normal((32, 35)).astype(np.float32)
    found = _match(torch.from_numpy(image), matches=4, limit=1e9)
    assert len(found) == 1
    rows, columns = 32 - BLOCK + 1, 35 - BLOCK + 1
    blocks = np.lib.stride_tricks.sliding_window_view(image, (BLOCK, BLOCK))
    expected = []
    for y in range(0, rows, STEP):
        for x in range(0, columns, STEP):
            distance = np.square(blocks - blocks[y, x]).sum(axis=(2, 3))
            distance[max(0, y + WINDOW + 1) :] = np.inf
            distance[:, max(0, x + WINDOW + 1) :] = np.inf
            distance[: max(0, y - WINDOW)] = np.inf
            distance[:, : max(0, x - WINDOW)] = np.inf
            expected.append(np.argsort(distance.reshape(-1))[:4])
    assert sorted(map(tuple, found[0].tolist())) == sorted(map(tuple, np.array(expected).tolist()))


def test_variance_of_a_group_of_overlapping_blocks_is_that_of_samples() -> None:
    kernel = gaussian_kernel(2.2)
    positions = torch.tensor([[0, 1, 2, 40, 41, 80, 3, 20]])
    noise = GroupNoise(_dct(), signal.correlate(kernel, kernel), width=40)
    expected = noise.of_groups(positions)[0]
    rng = np.random.default_rng(3)
    powers = []
    for _ in range(1500):
        sample = signal.fftconvolve(rng.standard_normal((10 + 8, 47 + 8)), kernel, mode="valid")
        blocks = _transform_blocks(torch.from_numpy(sample.astype(np.float32)), _dct())
        powers.append((_haar(8) @ blocks.coefficients[positions])[0].square())
    ratio = torch.stack(powers).mean(dim=0) / expected
    believed = expected > 0.05
    assert float(ratio[believed].mean()) == pytest.approx(1.0, abs=0.02)
    assert float(ratio[believed].std()) < 0.06  # sampling alone: (2 / 1500)^0.5 = 0.037


def test_white_noise_has_the_same_variance_in_every_coefficient() -> None:
    noise = GroupNoise(_dct(), WHITE, width=10)
    np.testing.assert_allclose(noise.variance.numpy(), 1.0, atol=1e-5)
