"""What training draws from: radiographs split by patient, phantoms, dead leaves; random crops of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from training.images import CleanImage, clean_images
from training.phantom import ANATOMIES, phantom
from training.settings import TrainingSettings
from training.textures import dead_leaves

FloatArray = NDArray[np.float32]

SCALES = (1.0, 1.4, 2.0)
"""Radiographs are kept at these magnifications: averaged pixels are sharper than a detector's own."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Clean images for training and for validation; no patient is in both."""

    training: list[CleanImage]
    validation: list[CleanImage]


def split_by_patient(images: list[CleanImage], share: float, seed: int) -> Split:
    """Put about ``share`` of the patients of each source into validation; a source of one patient trains."""
    rng = np.random.default_rng(seed)
    held: set[str] = set()
    for source in sorted({image.source for image in images}):
        patients = sorted({image.patient for image in images if image.source == source})
        count = round(share * len(patients))
        held.update(str(p) for p in rng.permutation(patients)[:count])
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

    def __init__(self, images: list[CleanImage], *, magnify: bool) -> None:
        self._planes: list[tuple[NDArray[np.float16], float]] = []
        for image in images:
            centred = image.attenuation - np.median(image.attenuation)
            for scale in SCALES if magnify else (1.0,):
                plane = centred if scale == 1.0 else ndimage.zoom(centred, scale, order=3)
                # Magnified pixels share their noise: in the frequencies where it matters it stays as it was.
                self._planes.append((plane.astype(np.float16), image.own_noise))
        sizes = np.array([plane.size for plane, _ in self._planes], dtype=np.float64) ** 0.5
        self._chances = sizes / sizes.sum() if len(sizes) else sizes

    def __len__(self) -> int:
        return len(self._planes)

    def crop(self, patch: int, rng: np.random.Generator) -> tuple[FloatArray, float]:
        """Return one crop ``(patch, patch)`` in nepers around the picture's median, and its own noise."""
        plane, own_noise = self._planes[int(rng.choice(len(self._planes), p=self._chances))]
        if min(plane.shape) < patch:
            missing = [max(0, patch - n) for n in plane.shape]
            plane = np.pad(plane, [(0, missing[0]), (0, missing[1])], mode="reflect")
        y = int(rng.integers(0, plane.shape[0] - patch + 1))
        x = int(rng.integers(0, plane.shape[1] - patch + 1))
        crop = plane[y : y + patch, x : x + patch].astype(np.float32)
        crop = np.rot90(crop, int(rng.integers(0, 4)))
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        contrast = float(np.exp(rng.uniform(np.log(0.5), np.log(1.6))))
        return np.ascontiguousarray(crop * np.float32(contrast)), own_noise * contrast


class MixedSource:
    """Crops from radiographs, phantoms and dead leaves in fixed shares."""

    def __init__(self, settings: TrainingSettings, split: Split) -> None:
        phantoms, leaves = made_by_code(settings)
        parts = [
            (CropSource(split.training, magnify=True), settings.share_radiographs),
            (CropSource(phantoms, magnify=False), settings.share_phantoms),
            (CropSource(leaves, magnify=False), 1 - settings.share_radiographs - settings.share_phantoms),
        ]
        self._parts = [(source, share) for source, share in parts if len(source) and share > 0]
        total = sum(share for _, share in self._parts)
        self._shares = [share / total for _, share in self._parts]

    def batch(self, count: int, patch: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return attenuation ``(count, 1, patch, patch)`` and own noise ``(count, 1, 1, 1)``."""
        crops, noises = [], []
        for part in rng.choice(len(self._parts), size=count, p=self._shares):
            crop, own_noise = self._parts[int(part)][0].crop(patch, rng)
            crops.append(crop)
            noises.append(own_noise)
        stacked = torch.from_numpy(np.stack(crops))[:, None]
        return stacked, torch.tensor(noises, dtype=torch.float32).reshape(-1, 1, 1, 1)
