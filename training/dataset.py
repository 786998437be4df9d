"""What training draws from: radiographs split by patient, phantoms, dead leaves; random crops of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from training.clean import CleanImage, Split
from training.crops import CPU, Planes
from training.images import clean_images
from training.phantom import ANATOMIES, phantom
from training.settings import TrainingSettings
from training.textures import dead_leaves

FloatArray = NDArray[np.float32]

SCALES = (1.0, 1.4, 2.0)
"""Radiographs are kept at these magnifications: averaged pixels are sharper than a detector's own."""


def held_back(patients: list[str], share: float, rng: np.random.Generator) -> set[str]:
    """Return about ``share`` of the patients, of four or more at least one; the others may be learned from."""
    different = sorted(set(patients))
    count = round(share * len(different))
    if share > 0 and len(different) >= 4:
        count = max(1, count)
    return {str(p) for p in rng.permutation(different)[:count]}


def split_by_patient(images: list[CleanImage], share: float, seed: int) -> Split:
    """Hold back patients of each source for validation; a source of few patients trains."""
    rng = np.random.default_rng(seed)
    held: set[str] = set()
    for source in sorted({image.source for image in images}):
        held |= held_back([image.patient for image in images if image.source == source], share, rng)
    return Split(
        training=[image for image in images if image.patient not in held],
        validation=[image for image in images if image.patient in held],
    )


def load_split(root: Path, settings: TrainingSettings) -> Split:
    """Read all folders of the settings; held-out folders go to validation whole."""
    free: list[CleanImage] = []
    held: list[CleanImage] = []
    for folder in settings.images:
        (held if folder.held_out else free).extend(clean_images(root, folder))
    split = split_by_patient(free, settings.validation_patients, settings.seed)
    return Split(training=split.training, validation=split.validation + held)


LEARNED_SEED, VALIDATION_SEED = 1000, 900
"""First seeds of the pictures made by code; evaluation takes those below 900."""
SMOOTH_LEAVES_PX = (4.0, 8.0, 16.0)
"""Smallest leaves of every second dead-leaves picture: scenes with large smooth areas."""


def phantoms_from(first_seed: int, count: int, *, size: int = 512) -> list[CleanImage]:
    """Return phantoms of all anatomies in turn."""
    kinds = sorted(ANATOMIES)
    phantoms = []
    for i in range(count):
        image = -np.log(phantom(size, size, first_seed + i, anatomy=kinds[i % len(kinds)]))
        phantoms.append(CleanImage(attenuation=image, own_noise=0.0, patient=f"phantom:{i}", source="phantom"))
    return phantoms


def made_by_code(settings: TrainingSettings, *, size: int = 512) -> tuple[list[CleanImage], list[CleanImage]]:
    """Return the phantoms and dead leaves of a run."""
    phantoms = phantoms_from(LEARNED_SEED, settings.phantoms, size=size)
    leaves = []
    for i in range(settings.dead_leaves):
        smallest_px = SMOOTH_LEAVES_PX[i // 2 % len(SMOOTH_LEAVES_PX)] if i % 2 else 1.0
        image = dead_leaves((size, size), np.random.default_rng(LEARNED_SEED + i), smallest_px=smallest_px)
        leaves.append(CleanImage(attenuation=image, own_noise=0.0, patient=f"leaves:{i}", source="dead_leaves"))
    return phantoms, leaves


class CropSource:
    """Random crops of a list of images, flipped, turned, with the contrast varied.

    Images are held as float16 attenuation relative to their median, radiographs at several magnifications.
    """

    def __init__(self, images: list[CleanImage], *, magnify: bool, device: torch.device = CPU) -> None:
        planes: list[NDArray[np.floating]] = []
        own_noise = []
        for image in images:
            centred = image.attenuation - np.median(image.attenuation)
            for scale in SCALES if magnify else (1.0,):
                plane = centred if scale == 1.0 else ndimage.zoom(centred, scale, order=3)
                # Magnified pixels share their noise: in the frequencies where it matters it stays as it was.
                planes.append(plane.astype(np.float16)[None])
                own_noise.append(image.own_noise)
        self._planes = Planes(planes, device=device, dtype=torch.float16)
        self._own_noise = np.array(own_noise)
        self._device = device

    def __len__(self) -> int:
        return len(self._planes)

    def batch(self, count: int, patch: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return crops ``(count, 1, patch, patch)`` in nepers around the picture's median, and their own noise."""
        windows, chosen = self._planes.windows(count, patch, rng)
        contrast = np.exp(rng.uniform(np.log(0.5), np.log(1.6), size=count))
        numbers = np.stack((contrast, contrast * self._own_noise[chosen])).astype(np.float32)
        factor, own_noise = torch.from_numpy(numbers).to(self._device)[:, :, None, None, None]
        return windows * factor, own_noise


@dataclass(frozen=True, kw_only=True)
class CleanSources:
    """Everything clean that a run may draw from, by kind."""

    radiographs: CropSource
    phantoms: CropSource
    leaves: CropSource


def clean_sources(settings: TrainingSettings, split: Split, device: torch.device = CPU) -> CleanSources:
    """Return the radiographs of the split, and the pictures that the settings have made by code."""
    phantoms, leaves = made_by_code(settings)
    return CleanSources(
        radiographs=CropSource(split.training, magnify=True, device=device),
        phantoms=CropSource(phantoms, magnify=False, device=device),
        leaves=CropSource(leaves, magnify=False, device=device),
    )


class MixedSource:
    """Crops from radiographs, phantoms and dead leaves in the shares of the settings."""

    def __init__(self, settings: TrainingSettings, sources: CleanSources) -> None:
        rest = 1 - settings.share_radiographs - settings.share_phantoms
        parts = [
            (sources.radiographs, settings.share_radiographs),
            (sources.phantoms, settings.share_phantoms),
            (sources.leaves, rest),
        ]
        self._parts = [(source, share) for source, share in parts if len(source) and share > 1e-9]
        total = sum(share for _, share in self._parts)
        self._shares = [share / total for _, share in self._parts]

    def batch(self, count: int, patch: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return attenuation ``(count, 1, patch, patch)`` and own noise ``(count, 1, 1, 1)``."""
        counts = rng.multinomial(count, self._shares)
        drawn = [source.batch(int(n), patch, rng) for (source, _), n in zip(self._parts, counts, strict=True) if n > 0]
        return torch.cat([crops for crops, _ in drawn]), torch.cat([own_noise for _, own_noise in drawn])
