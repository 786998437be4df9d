"""Learning from noisy images alone: each one is split into a noisier input and an independent target."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.domain import Domain
from model.estimation import BLOCK, LAG, PERCENTILE, NoEstimate, estimate_noise
from model.noise import Stabiliser
from model.resnet_unet import Z_SCALE
from training.crops import Planes
from training.images import SMALLEST, UNREADABLE, picture_files, read_grey, read_header
from training.settings import NoisyFolder
from training.synthesis import Batch

FloatArray = NDArray[np.float32]
FEWEST_FLAT = 16
"""Flat blocks that a noise spectrum must rest on."""
_CALIBRATION_SIDE = 512


@dataclass(frozen=True, kw_only=True)
class NoisyImage:
    """A low-dose image that has no high-dose partner.

    Parameters
    ----------
    z
        ``(rows, columns)`` in network units.
    covariance
        ``(BLOCK, BLOCK)`` autocovariance of its own noise in sigma², 1 at ``[0, 0]``, negative lags at the end.
    patient
        Groups images for the split.
    """

    z: FloatArray
    covariance: FloatArray
    patient: str = ""


def noise_covariance(stabilised: FloatArray, flat_blocks: NDArray[np.bool_]) -> FloatArray:
    """Return the autocovariance of stabilised noise from the blocks without structure, scaled to variance 1.

    What blocks, window and the removed plane do to the spectrum is measured on noise made with it, and undone.
    """
    seen = _block_power(stabilised, flat_blocks)
    power = seen
    every = np.ones((_CALIBRATION_SIDE // BLOCK, _CALIBRATION_SIDE // BLOCK), dtype=np.bool_)
    for _ in range(4):
        tried = torch.from_numpy(_covariance(power))[None]
        made = correlated_noise(tried, _CALIBRATION_SIDE, torch.Generator().manual_seed(20240229))
        # As a factor, not as a difference: a power stays positive.
        power = power * np.clip(seen / _block_power(made[0, 0].numpy(), every), 0.5, 2.0)
    return _without_anatomy(_covariance(power))


def _without_anatomy(covariance: FloatArray) -> FloatArray:
    """Take off what is left at lags that no detector's blur reaches: slow anatomy, which must not be made as noise."""
    lag = np.abs(np.fft.fftfreq(BLOCK, 1 / BLOCK))
    far = np.maximum(lag[:, None], lag[None, :]) > LAG
    level = np.float32(np.clip(np.median(covariance[far]), 0.0, 0.5))
    return np.asarray(np.where(far, 0.0, (covariance - level) / (1 - level)), dtype=np.float32)


def _covariance(power: NDArray[np.float64]) -> FloatArray:
    covariance = np.fft.ifft2(power).real
    return np.asarray(covariance / covariance[0, 0], dtype=np.float32)


def _block_power(image: FloatArray, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return a low percentile of the windowed periodograms of some blocks, a plane removed; the mean is 1.

    Of noise it is the same part of the mean at each frequency; the mean itself would count the anatomy of many blocks.
    """
    at = np.arange(BLOCK) - (BLOCK - 1) / 2
    plane = np.stack((np.ones((BLOCK, BLOCK)), *np.meshgrid(at, at, indexing="ij"))).reshape(3, -1)
    plane /= np.linalg.norm(plane, axis=1, keepdims=True)
    rows, columns = chosen.shape
    cut = image[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK).swapaxes(1, 2)
    blocks = cut[chosen].reshape(-1, BLOCK * BLOCK).astype(np.float64)
    blocks -= blocks @ plane.T @ plane
    line = np.sin(np.pi * (np.arange(BLOCK) + 0.5) / BLOCK)
    windowed = blocks.reshape(-1, BLOCK, BLOCK) * np.outer(line, line)
    power = np.percentile(np.abs(np.fft.fft2(windowed)) ** 2, PERCENTILE, axis=0)
    power = 0.5 * (power + np.roll(power[::-1, ::-1], 1, axis=(0, 1)))  # of a real image: even
    return np.asarray(power / power.mean(), dtype=np.float64)


def correlated_noise(covariance: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Return noise of variance 1 with the given autocovariances.

    Parameters
    ----------
    covariance
        ``(count, BLOCK, BLOCK)`` as in `NoisyImage`, one for each sample.
    side
        Rows and columns, at least ``BLOCK``.

    Returns
    -------
    ``(count, 1, side, side)``.
    """
    half = BLOCK // 2
    wide = covariance.new_zeros((covariance.shape[0], side, side))
    for rows in (slice(0, half), slice(-half, None)):
        for columns in (slice(0, half), slice(-half, None)):
            wide[:, rows, columns] = covariance[:, rows, columns]
    power = torch.fft.fft2(wide).real.clamp(min=0)
    power = power / power.mean(dim=(-2, -1), keepdim=True)
    white = torch.randn(wide.shape, generator=generator, device=generator.device)
    noise: Tensor = torch.fft.ifft2(torch.fft.fft2(white) * power.sqrt()).real[:, None]
    return noise


def stabilise_noisy(image: FloatArray, domain: Domain, *, patient: str = "") -> NoisyImage | None:
    """Bring a noisy image into network units with the noise that it shows; None if it shows none."""
    estimate = estimate_noise(image, domain=domain)
    if isinstance(estimate, NoEstimate) or int(estimate.flat_blocks.sum()) < FEWEST_FLAT:
        return None
    stabiliser = Stabiliser(estimate.curve, low=float(image.min()), high=float(image.max()))
    stabilised = stabiliser.forward(image)
    middle = np.float32(stabiliser.forward(np.array([np.median(image)]))[0])
    covariance = noise_covariance(stabilised, estimate.flat_blocks)
    return NoisyImage(z=(stabilised - middle) / np.float32(Z_SCALE), covariance=covariance, patient=patient)


def load_noisy(root: Path, folders: tuple[NoisyFolder, ...]) -> list[NoisyImage]:
    """Read all noisy images; unreadable ones and those without a noise estimate are named on stdout."""
    images = []
    for folder in folders:
        for path in picture_files(root / folder.folder):
            try:
                image, header = read_grey(path)[0], read_header(path)
            except UNREADABLE as error:
                print(f"skipped {path.name}: {error}")
                continue
            domain = header.domain if folder.domain == "auto" else Domain(folder.domain)
            patient = f"{folder.name}:{header.patient or path.stem}"
            noisy = stabilise_noisy(image, domain, patient=patient) if min(image.shape) >= SMALLEST else None
            if noisy is None:
                print(f"skipped {path.name}: no noise estimate, or smaller than {SMALLEST} pixels")
            else:
                images.append(noisy)
    return images


class FissionSource:
    """Crops of noisy images, each split in two with independent noise.

    With ``y = x + n`` and ``w`` of the same covariance as ``n`` but independent of it, ``y + t w`` and ``y - w / t``
    have uncorrelated noise and the same expectation: a network that predicts the second from the first learns ``x``
    (recorrupted-to-recorrupted, Pang et al. 2021). The squared error is then its error against ``x`` plus a constant.

    Parameters
    ----------
    images
        What is split.
    t
        Small: an input much like the image and a very noisy target. Large: the other way round.
    generator
        Draws ``w``; its device is where samples are made.
    """

    def __init__(self, images: list[NoisyImage], generator: torch.Generator, *, t: float) -> None:
        self._generator = generator
        self._t = t
        planes: list[NDArray[np.floating]] = [image.z[None] for image in images]
        self._planes = Planes(planes, device=generator.device, dtype=torch.float32)
        covariances = np.stack([image.covariance for image in images]) if images else np.zeros((0, BLOCK, BLOCK))
        self._covariances = torch.from_numpy(covariances).float().to(generator.device)

    def __len__(self) -> int:
        return len(self._planes)

    def batch(self, count: int, patch: int, rng: np.random.Generator) -> Batch:
        """Return ``count`` samples of ``patch`` squared pixels whose targets are marked as noisy."""
        # Not turned: the noise would turn with the image, and its covariance would no longer be known.
        z, chosen = self._planes.windows(count, patch, rng, turned=False)
        t = self._t
        w = correlated_noise(self._covariances[torch.from_numpy(chosen).to(z.device)], patch, self._generator)
        return Batch(
            z=z + t * w / Z_SCALE,
            target=z - w / (t * Z_SCALE),
            sigma_map=torch.full_like(z, (1 + t * t) ** 0.5),
            target_noise=z.new_full((count, 1, 1, 1), 1 + 1 / (t * t)),
        )
