"""Real low-dose and high-dose pairs as training samples, in the domain that the network sees."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from model.domain import Domain
from model.estimation import NoEstimate, estimate_noise
from model.noise import Stabiliser
from model.resnet_unet import Z_SCALE
from training.images import SUFFIXES, read_grey
from training.settings import PairFolder
from training.synthesis import Batch

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class StabilisedPair:
    """``z`` and ``target`` in network units, ``(rows, columns)``."""

    z: FloatArray
    target: FloatArray


def stabilise_pair(low: FloatArray, high: FloatArray, domain: Domain) -> StabilisedPair | None:
    """Bring a pair into network units with the noise that the low-dose image shows; None if it shows none.

    The high-dose image is first fitted to the low-dose one by gain and offset, as their exposures differ.
    """
    estimate = estimate_noise(low, domain=domain)
    if isinstance(estimate, NoEstimate) or low.shape != high.shape:
        return None
    gain, offset = np.polyfit(high.ravel()[::7].astype(np.float64), low.ravel()[::7].astype(np.float64), 1)
    truth = (gain * high + offset).astype(np.float32)
    stabiliser = Stabiliser(estimate.curve, low=float(low.min()), high=float(low.max()))
    middle = stabiliser.forward(np.array([np.median(low)]))[0]
    z = (stabiliser.forward(low) - middle) / Z_SCALE
    target = (stabiliser.expectation(truth) - middle) / Z_SCALE
    return StabilisedPair(z=z.astype(np.float32), target=target.astype(np.float32))


def load_pairs(root: Path, folders: tuple[PairFolder, ...]) -> list[StabilisedPair]:
    """Read all pairs; files without a partner, unreadable or without a noise estimate are named on stdout."""
    pairs = []
    for folder in folders:
        for path in sorted(p for p in (root / folder.low).rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()):
            partner = root / folder.high / path.relative_to(root / folder.low)
            try:
                low, high = read_grey(path)[0], read_grey(partner)[0]
            except (OSError, RuntimeError, ValueError, AttributeError) as error:
                print(f"skipped {path.name}: {error}")
                continue
            pair = stabilise_pair(low, high, Domain(folder.domain))
            if pair is None:
                print(f"skipped {path.name}: no noise estimate, or the sizes differ")
            else:
                pairs.append(pair)
    return pairs


class PairSource:
    """Random crops of stabilised pairs, flipped and turned together."""

    def __init__(self, pairs: list[StabilisedPair]) -> None:
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def batch(self, count: int, patch: int, rng: np.random.Generator) -> Batch:
        """Return ``count`` samples of ``patch`` squared pixels; smaller images are extended by reflection."""
        z, target = [], []
        for _ in range(count):
            pair = self._pairs[int(rng.integers(len(self._pairs)))]
            both = np.stack((pair.z, pair.target))
            missing = [(0, max(0, patch - n)) for n in both.shape[1:]]
            both = np.pad(both, [(0, 0), *missing], mode="reflect")
            y = int(rng.integers(0, both.shape[1] - patch + 1))
            x = int(rng.integers(0, both.shape[2] - patch + 1))
            crop = np.rot90(both[:, y : y + patch, x : x + patch], int(rng.integers(0, 4)), axes=(1, 2))
            if rng.random() < 0.5:
                crop = crop[:, :, ::-1]
            z.append(crop[0])
            target.append(crop[1])
        stacked = torch.from_numpy(np.stack(z).copy())[:, None]
        return Batch(
            z=stacked, target=torch.from_numpy(np.stack(target).copy())[:, None], sigma_map=torch.ones_like(stacked)
        )


def joined(first: Batch, second: Batch) -> Batch:
    """Put two batches behind one another."""
    return Batch(
        z=torch.cat((first.z, second.z)),
        target=torch.cat((first.target, second.target)),
        sigma_map=torch.cat((first.sigma_map, second.sigma_map)),
    )
