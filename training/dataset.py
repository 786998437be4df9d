"""What training draws from: radiographs split by patient, phantoms, dead leaves; random crops of them."""

from __future__ import annotations

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


def made_by_code(settings: TrainingSettings, *, size: int = 512) -> tuple[list[CleanImage], list[CleanImage]]:
    """Return phantoms and dead leaves; their seeds are above 1000, evaluation takes those below."""
    kinds = sorted(ANATOMIES)
    phantoms = []
    for i in range(settings.phantoms):
        image = -np.log(phantom(size, size, 1000 + i, anatomy=kinds[i % len(kinds)]))
        phantoms.append(CleanImage(attenuation=image, own_noise=0.0, patient=f"phantom:{i}", source="phantom"))
    leaves = []
    for i in range(settings.dead_leaves):
        image = dead_leaves((size, size), np.random.default_rng(1000 + i))
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


class MixedSource:
    """Crops from radiographs, phantoms and dead leaves in fixed shares."""

    def __init__(self, settings: TrainingSettings, split: Split, device: torch.device = CPU) -> None:
        phantoms, leaves = made_by_code(settings)
        parts = [
            (CropSource(split.training, magnify=True, device=device), settings.share_radiographs),
            (CropSource(phantoms, magnify=False, device=device), settings.share_phantoms),
            (
                CropSource(leaves, magnify=False, device=device),
                1 - settings.share_radiographs - settings.share_phantoms,
            ),
        ]
        self._parts = [(source, share) for source, share in parts if len(source) and share > 0]
        total = sum(share for _, share in self._parts)
        self._shares = [share / total for _, share in self._parts]

    def batch(self, count: int, patch: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return attenuation ``(count, 1, patch, patch)`` and own noise ``(count, 1, 1, 1)``."""
        counts = rng.multinomial(count, self._shares)
        drawn = [source.batch(int(n), patch, rng) for (source, _), n in zip(self._parts, counts, strict=True) if n > 0]
        return torch.cat([crops for crops, _ in drawn]), torch.cat([own_noise for _, own_noise in drawn])
