"""The picture of samples that a run writes at each validation."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from model.resnet_unet import Z_SCALE
from training.synthesis import Batch

REMOVED_WINDOW = 4.0
"""Half width in sigma of the grey scale of the removed noise: the same in every picture, so that they compare."""


def sample_sheet(network: nn.Module, batches: dict[str, Batch], device: torch.device) -> NDArray[np.uint8]:
    """Return one row per validation batch: noisy, denoised, target, removed noise; 8 bit.

    The window of a row is that of its target, which does not change in a run; dark is little attenuation.
    """
    rows = []
    for batch in batches.values():
        one = batch.part(slice(0, 1)).to(device)
        with torch.inference_mode():
            noise = network(one.z, one.sigma_map)
        noisy, denoised, target, removed = (_plane(x) for x in (one.z, one.z - noise, one.target, noise))
        low, high = np.percentile(target, (1.0, 99.0))
        images = [255 * (high - x) / max(float(high - low), 1e-6) for x in (noisy, denoised, target)]
        images.append(127.5 * (1 + Z_SCALE * removed / REMOVED_WINDOW))
        rows.append(np.hstack(images))
    return np.asarray(np.clip(np.vstack(rows), 0, 255), dtype=np.uint8)


def write_sheet(sheet: NDArray[np.uint8], path: Path) -> None:
    """Write a picture as PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name("writing.png")
    Image.fromarray(sheet).save(temporary)
    os.replace(temporary, path)


def _plane(x: Tensor) -> NDArray[np.float32]:
    return np.asarray(x[0, 0].float().cpu().numpy(), dtype=np.float32)
