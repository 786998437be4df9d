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
from training.crops import CPU, Planes
from training.images import UNREADABLE, picture_files, read_grey, read_header
from training.settings import PairFolder
from training.synthesis import Batch

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class StabilisedPair:
    """``z`` and ``target`` in network units, ``(rows, columns)``; ``patient`` groups pairs for the split."""

    z: FloatArray
    target: FloatArray
    patient: str = ""


def stabilise_pair(low: FloatArray, high: FloatArray, domain: Domain, *, patient: str = "") -> StabilisedPair | None:
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
    return StabilisedPair(z=z.astype(np.float32), target=target.astype(np.float32), patient=patient)


def load_pairs(root: Path, folders: tuple[PairFolder, ...]) -> list[StabilisedPair]:
    """Read all pairs; files without a partner, unreadable or without a noise estimate are named on stdout."""
    pairs = []
    for folder in folders:
        base = root / folder.low
        for path in picture_files(base):
            try:
                low, high = read_grey(path)[0], read_grey(root / folder.high / path.relative_to(base))[0]
                header = read_header(path)
            except UNREADABLE as error:
                print(f"skipped {path.name}: {error}")
                continue
            domain = header.domain if folder.domain == "auto" else Domain(folder.domain)
            patient = f"{folder.name}:{header.patient or path.stem}"
            pair = stabilise_pair(low, high, domain, patient=patient)
            if pair is None:
                print(f"skipped {path.name}: no noise estimate, or the sizes differ")
            else:
                pairs.append(pair)
    return pairs


class PairSource:
    """Random crops of stabilised pairs, flipped and turned together."""

    def __init__(self, pairs: list[StabilisedPair], device: torch.device = CPU) -> None:
        both: list[NDArray[np.floating]] = [np.stack((pair.z, pair.target)) for pair in pairs]
        # float32: in a deep shadow or a bright field a float16 step is a tenth of a sigma.
        self._planes = Planes(both, device=device, dtype=torch.float32)

    def __len__(self) -> int:
        return len(self._planes)

    def batch(self, count: int, patch: int, rng: np.random.Generator) -> Batch:
        """Return ``count`` samples of ``patch`` squared pixels; smaller images are extended by reflection."""
        windows, _ = self._planes.windows(count, patch, rng)
        z, target = windows[:, :1].contiguous(), windows[:, 1:].contiguous()
        return Batch(z=z, target=target, sigma_map=torch.ones_like(z), target_noise=z.new_zeros((count, 1, 1, 1)))
