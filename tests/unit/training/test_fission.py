"""Data fission: independent halves, the image's own noise, and a network that learns from noisy images alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.domain import Domain
from model.noise import NoiseLaw
from training.clean import Split
from training.fission import FissionSource, NoisyImage, correlated_noise, noise_covariance, stabilise_noisy
from training.lowdose import Detector, correlated, expose, gaussian_kernel
from training.material import Material, Sources
from training.phantom import phantom
from training.settings import TrainingSettings
from training.train import Trainer
from training.validation import WITHOUT_TRUTH, sigma_error, validate, validation_batches

LAW = NoiseLaw(structure=0.003, quantum=4.0, electronic=12.0)


def autocorrelation(noise: np.ndarray, lag: int, axis: int) -> float:
    return float(np.mean(noise * np.roll(noise, lag, axis=axis)) / np.mean(noise**2))


def noisy_phantom(seed: int, *, fwhm_px: float, size: int = 320) -> tuple[NoisyImage, np.ndarray]:
    """Return a noisy phantom in network units and what it would be without noise."""
    truth = (4000 * phantom(size, size, seed, anatomy="pelvis")).astype(np.float32)
    noise = Detector(law=LAW, kernel=gaussian_kernel(fwhm_px))
    image = expose(truth, noise, np.random.default_rng(seed))
    found = stabilise_noisy(image, Domain.LINEAR, patient=str(seed))
    assert found is not None
    return found, truth


@pytest.mark.parametrize("fwhm_px", [0.0, 1.5, 2.5])
def test_noise_is_made_again_with_the_correlation_that_flat_blocks_show(fwhm_px: float) -> None:
    rng = np.random.default_rng(3)
    original = correlated((512, 512), gaussian_kernel(fwhm_px), rng)
    covariance = noise_covariance(original, np.ones((32, 32), dtype=np.bool_))
    again = correlated_noise(torch.from_numpy(covariance)[None], 256, torch.Generator().manual_seed(1))[0, 0].numpy()
    assert again.std() == pytest.approx(1.0, abs=0.02)
    for axis in (0, 1):
        for lag in (1, 2, 3, 6):
            expected = autocorrelation(original, lag, axis)
            # The widest kernels come out a little narrower: a block of 16 pixels holds few of their grains.
            assert autocorrelation(again, lag, axis) == pytest.approx(expected, abs=0.1)


def test_input_and_target_of_a_split_image_have_independent_noise() -> None:
    # Nothing but noise, of variance 1 after stabilisation: the two halves must not share any of it.
    noise = correlated((512, 512), gaussian_kernel(2.0), np.random.default_rng(5))
    covariance = noise_covariance(noise, np.ones((32, 32), dtype=np.bool_))
    image = NoisyImage(z=noise / 8, covariance=covariance)
    source = FissionSource([image], torch.Generator().manual_seed(2), t=0.5)
    batch = source.batch(40, 128, np.random.default_rng(1))
    first, second = 8 * batch.z, 8 * batch.target
    assert float(first.var()) == pytest.approx(1.25, rel=0.06)
    assert float(second.var()) == pytest.approx(5.0, rel=0.06)
    assert float(batch.target_noise[0]) == pytest.approx(5.0)
    for shift in ((0, 0), (0, 1), (1, 1), (2, 0)):
        shared = float((first * torch.roll(second, shift, dims=(-2, -1))).mean())
        assert abs(shared) < 0.06, f"at {shift} the halves share {shared:.3f} of the noise"


def test_estimated_gain_of_noisy_validation_agrees_with_the_true_one() -> None:
    # White noise, a network that keeps the mean over 4 x 4 pixels: true error in flat noise is 1/16 of sigma².
    noise = np.random.default_rng(5).standard_normal((512, 512)).astype(np.float32)
    image = NoisyImage(z=noise / 8, covariance=noise_covariance(noise, np.ones((32, 32), dtype=np.bool_)))
    batch = FissionSource([image], torch.Generator().manual_seed(2), t=0.5).batch(24, 128, np.random.default_rng(1))

    class Average(torch.nn.Module):
        def forward(self, z: torch.Tensor, sigma_map: torch.Tensor) -> torch.Tensor:
            mean = torch.nn.functional.avg_pool2d(z, 4)
            return z - torch.nn.functional.interpolate(mean, scale_factor=4.0)

    score = validate(Average(), {"own": batch}, torch.device("cpu"))
    assert score.mse_sigma2 == pytest.approx(1 / 16, abs=0.03)


def test_an_image_without_an_estimate_is_left_out() -> None:
    assert stabilise_noisy(np.ones((128, 128), np.float32), Domain.LINEAR) is None


def test_samples_of_both_kinds_stand_in_one_batch_and_are_told_apart() -> None:
    image, _ = noisy_phantom(1, fwhm_px=1.0, size=256)
    settings = TrainingSettings(width=8, batch=6, patch=64, phantoms=1, dead_leaves=1, share_noisy=0.5)
    material = Material(
        split=Split(training=[], validation=[]), pairs=[], pairs_held=[], noisy=[image], noisy_held=[image]
    )
    sources = Sources(settings, material, torch.Generator().manual_seed(1))
    batch = sources.batch(np.random.default_rng(1))
    assert batch.target_noise.flatten().tolist() == [0.0, 0.0, 0.0, 5.0, 5.0, 5.0]
    assert list(validation_batches(settings, material, patch=64)) == [WITHOUT_TRUTH]


def test_noisy_images_alone_teach_a_network_their_noise() -> None:
    images = [noisy_phantom(seed, fwhm_px=2.0)[0] for seed in range(3)]
    settings = TrainingSettings(
        width=8,
        batch=4,
        patch=64,
        phantoms=1,
        dead_leaves=1,
        ema=0.9,
        share_noisy=1.0,
        learning_rate=3e-3,
        warmup_steps=5,
        bfloat16=False,
    )
    material = Material(split=Split(training=[], validation=[]), pairs=[], pairs_held=[], noisy=images, noisy_held=[])
    trainer = Trainer(settings, device="cpu", budget_s=1e6)
    sources = Sources(settings, material, trainer.generator)
    for _ in range(160):
        trainer.train_step(sources.batch(trainer.rng))
    # Against the truth of another image, which the network has never seen in any form.
    held, truth = noisy_phantom(9, fwhm_px=2.0)
    clean = stabilised_truth(held, truth)
    z = torch.from_numpy(held.z)[None, None]
    batch = replace(
        FissionSource([held], torch.Generator(), t=0.5).batch(1, 320, np.random.default_rng(0)),
        z=z,
        target=torch.from_numpy(clean)[None, None],
        sigma_map=torch.ones_like(z),
    )
    with torch.inference_mode():
        error = float(sigma_error(trainer.averaged(), batch).square().mean())
    assert error < 0.6, "four tenths of the noise power are gone without one clean image"


def stabilised_truth(image: NoisyImage, truth: np.ndarray) -> np.ndarray:
    """Return the truth in the network units of an image, by the curve through means of noisy values."""
    order = np.argsort(truth.ravel())
    low, high = (np.asarray(x.ravel()[order], dtype=np.float64) for x in (truth, image.z))
    groups = np.array_split(np.arange(low.size), 200)
    at = np.array([low[group].mean() for group in groups])
    means = np.array([high[group].mean() for group in groups])
    return np.interp(truth, at, means).astype(np.float32)
