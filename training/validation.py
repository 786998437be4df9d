"""What a run is judged by: fixed samples of patients that it does not learn from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from model.resnet_unet import Z_SCALE
from training.clean import Split
from training.dataset import VALIDATION_SEED, CropSource, phantoms_from
from training.fission import FissionSource
from training.material import Material
from training.pairs import PairSource
from training.settings import TrainingSettings
from training.synthesis import Batch, NoiseSynthesis

WITHOUT_TRUTH = "own noise, without truth"
"""Batch whose gain is an estimate from noisy targets: good for comparing weights, too high as a figure."""
VALIDATION_DOSES_QUANTA = ((200.0, 400.0), (80.0, 160.0), (20.0, 60.0))


@dataclass(frozen=True, kw_only=True)
class Score:
    """Validation result: mean error in sigma², mean gain over the noisy input in dB, and that gain by batch."""

    mse_sigma2: float
    gain_db: float
    gains_db: dict[str, float]


def sigma_error(network: nn.Module, batch: Batch) -> Tensor:
    """Return denoised minus target in units of the sample's own sigma; `Z_SCALE` undoes the network's scale."""
    z = batch.z.contiguous(memory_format=torch.channels_last)
    error: Tensor = Z_SCALE * (z - network(z, batch.sigma_map) - batch.target) / batch.sigma_map
    return error


def simulated_validation(
    settings: TrainingSettings, split: Split, *, patch: int = 256, count: int = 6
) -> dict[str, Batch]:
    """Return fixed batches at three exposures: unseen patients and sources, unseen phantoms."""
    rng = np.random.default_rng(12345)
    generator = torch.Generator().manual_seed(12345)
    images = split.validation or split.training
    phantoms = settings.validation_phantoms if images else max(4, settings.validation_phantoms)
    made = phantoms_from(VALIDATION_SEED, phantoms)
    sources = [CropSource(part, magnify=False) for part in (images, made) if part]
    batches = {}
    for low, high in VALIDATION_DOSES_QUANTA:
        ranges = replace(
            settings.noise, quanta=(low, high), sigma_error=0.0, presentation_share=0.15, own_noise_ratio=0.0
        )
        crops = torch.cat([source.batch(2 * count // len(sources), patch, rng)[0] for source in sources])
        synthesis = NoiseSynthesis(ranges, generator)
        batches[f"{low:g} to {high:g} quanta"] = synthesis.batch(crops, torch.full((len(crops), 1, 1, 1), 1e-6))
    return batches


def validation_batches(settings: TrainingSettings, material: Material, *, patch: int = 256) -> dict[str, Batch]:
    """Return the fixed batches that a run is judged by; always the same for the same material."""
    rng = np.random.default_rng(12345)
    generator = torch.Generator().manual_seed(12345)
    batches: dict[str, Batch] = {}
    own = material.split.training or material.split.validation
    if own or not (material.pairs or material.noisy):
        batches |= simulated_validation(settings, material.split, patch=patch)
    if material.pairs:
        batches["real pairs"] = PairSource(material.pairs_held or material.pairs).batch(12, patch, rng)
    if material.noisy:
        held = FissionSource(material.noisy_held or material.noisy, generator, t=settings.fission_t)
        batches[WITHOUT_TRUTH] = held.batch(12, patch, rng)
    return batches


def fingerprint(batches: dict[str, Batch]) -> str:
    """Return what tells one set of validation batches from another."""
    digest = hashlib.sha256()
    for name, batch in batches.items():
        digest.update(name.encode() + batch.z.numpy().tobytes())
    return digest.hexdigest()[:16]


def validate(network: nn.Module, batches: dict[str, Batch], device: torch.device) -> Score:
    """Return the mean squared error over all samples in sigma², and the gain in dB.

    Where targets are noisy, the variance of their noise is taken off: an estimate, free of truth.
    """
    errors: list[float] = []
    gains: dict[str, list[float]] = {name: [] for name in batches}
    with torch.inference_mode():
        for name, batch in batches.items():
            for i in range(batch.z.shape[0]):
                one = batch.part(slice(i, i + 1)).to(device)
                of_target = float((one.target_noise / one.sigma_map.square()).mean())
                error = float(sigma_error(network, one).square().mean()) - of_target
                noise = float((Z_SCALE * (one.z - one.target) / one.sigma_map).square().mean()) - of_target
                errors.append(error)
                gains[name].append(10 * float(np.log10(max(noise, 1e-3) / max(error, 1e-3))))
    return Score(
        mse_sigma2=float(np.mean(errors)),
        gain_db=float(np.mean([gain for of_batch in gains.values() for gain in of_batch])),
        gains_db={name: float(np.mean(of_batch)) for name, of_batch in gains.items()},
    )
