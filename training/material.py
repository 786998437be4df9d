"""What a run learns from: clean images to simulate from, real pairs, noisy images; and what it never sees."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from training.clean import Split
from training.dataset import MixedSource, clean_sources, held_back, load_split
from training.details import with_details
from training.fission import FissionSource, NoisyImage, load_noisy
from training.pack import read_pack
from training.pairs import PairSource, StabilisedPair, load_pairs
from training.settings import TrainingSettings
from training.synthesis import Batch, NoiseSynthesis, joined


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a run learns from, and what it is judged by: no patient is in both."""

    split: Split
    pairs: list[StabilisedPair]
    pairs_held: list[StabilisedPair]
    noisy: list[NoisyImage]
    noisy_held: list[NoisyImage]


def load_material(root: Path, settings: TrainingSettings, *, pack: Path | None = None) -> Material:
    """Read everything that the settings name, and hold patients back for validation.

    Parameters
    ----------
    root
        What folders of the settings are relative to.
    pack
        Clean images that were read and split elsewhere, instead of ``settings.images``.
    """
    rng = np.random.default_rng(settings.seed)
    split = load_split(root, settings) if pack is None else read_pack(pack)
    pairs, noisy = load_pairs(root, settings.pairs), load_noisy(root, settings.noisy)
    held = held_back([pair.patient for pair in pairs], settings.validation_patients, rng)
    held |= held_back([image.patient for image in noisy], settings.validation_patients, rng)
    return Material(
        split=split,
        pairs=[pair for pair in pairs if pair.patient not in held],
        pairs_held=[pair for pair in pairs if pair.patient in held],
        noisy=[image for image in noisy if image.patient not in held],
        noisy_held=[image for image in noisy if image.patient in held],
    )


def describe(material: Material) -> list[str]:
    """Return lines that say how much there is to learn from and to be judged by."""
    parts = (
        ("high-dose images", material.split.training, material.split.validation),
        ("pairs", material.pairs, material.pairs_held),
        ("noisy images", material.noisy, material.noisy_held),
    )
    lines = []
    for name, learned, held in parts:
        if learned or held:
            lines.append(f"{name}: {len(learned)} to train on, {len(held)} of other patients to validate on")
        if learned and not held:
            lines.append(f"{name}: too few patients to hold one back, so the validation shows no more than the fit")
    return lines or ["no images: training on phantoms and dead leaves alone"]


class Sources:
    """Random samples of all kinds, made on one device.

    Parameters
    ----------
    material
        What to draw from.
    generator
        Draws the noise; its device is where samples are made.
    """

    def __init__(self, settings: TrainingSettings, material: Material, generator: torch.Generator) -> None:
        self._settings = settings
        self._clean = MixedSource(settings, clean_sources(settings, material.split, generator.device))
        self._generator = generator
        self._synthesis = NoiseSynthesis(settings.noise, generator)
        self._pairs = PairSource(material.pairs, generator.device)
        self._noisy = FissionSource(material.noisy, generator, t=settings.fission_t)

    def batch(self, rng: np.random.Generator) -> Batch:
        """Return a batch: pairs and split noisy images in their shares where there are any, the rest simulated."""
        settings = self._settings
        pairs = round(settings.share_pairs * settings.batch) if len(self._pairs) else 0
        noisy = round(settings.share_noisy * settings.batch) if len(self._noisy) else 0
        simulated = settings.batch - pairs - noisy
        batches = []
        if simulated > 0:
            crops, own_noise = self._clean.batch(simulated, settings.patch, rng)
            crops = with_details(crops, self._generator, share=settings.share_details)
            batches.append(self._synthesis.batch(crops, own_noise))
        if pairs:
            batches.append(self._pairs.batch(pairs, settings.patch, rng))
        if noisy:
            batches.append(self._noisy.batch(noisy, settings.patch, rng))
        return joined(batches)
