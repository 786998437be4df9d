"""Faint discs, bars and edges laid over clean crops, where nothing else is: what a denoiser must not smear."""

from __future__ import annotations

import math

import torch
from torch import Tensor

PER_CROP = 4
CONTRAST_NEPERS = (0.004, 0.4)
"""From far below the noise of one pixel to a bone's edge, log-uniform."""
RADIUS_PX = (1.5, 40.0)
BAR_HALF_WIDTH_PX = (0.7, 8.0)
BAR_HALF_LENGTH_PX = (6.0, 80.0)
SOFTNESS_PX = (0.8, 2.5)
DISC, BAR = 0, 1
KINDS = 3


def with_details(attenuation: Tensor, generator: torch.Generator, *, share: float) -> Tensor:
    """Add up to four objects of random kind, place, size and contrast to a share of the crops.

    Edges, discs and bars that stand alone on a smooth ground are rare in radiographs, and a network that is judged by
    its mean error learns to smear what it rarely meets.

    Parameters
    ----------
    attenuation
        ``(batch, 1, rows, columns)`` in nepers, on the generator's device.
    share
        Of the crops that get details, 0 to 1.

    Returns
    -------
    A new tensor of the same shape.
    """
    if share <= 0:
        return attenuation
    n, _, rows, columns = attenuation.shape
    device = generator.device

    def chance() -> Tensor:
        return torch.rand((n, PER_CROP, 1, 1), generator=generator, device=device)

    def log_uniform(low: float, high: float) -> Tensor:
        return torch.exp(math.log(low) + math.log(high / low) * chance())

    y = torch.arange(rows, device=device, dtype=torch.float32)[:, None] - rows * chance()
    x = torch.arange(columns, device=device, dtype=torch.float32)[None, :] - columns * chance()
    angle = math.pi * chance()
    u, v = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    disc = log_uniform(*RADIUS_PX) - torch.hypot(u, v)
    bar = torch.minimum(log_uniform(*BAR_HALF_WIDTH_PX) - u.abs(), log_uniform(*BAR_HALF_LENGTH_PX) - v.abs())
    kind = torch.floor(KINDS * chance())
    inside = torch.where(kind == DISC, disc, torch.where(kind == BAR, bar, u))
    softness = SOFTNESS_PX[0] + (SOFTNESS_PX[1] - SOFTNESS_PX[0]) * chance()
    cover = (inside / softness + 0.5).clamp(0.0, 1.0)
    contrast = log_uniform(*CONTRAST_NEPERS) * torch.where(chance() < 0.5, -1.0, 1.0)
    present = (chance() < 0.6) & (chance()[:, :1] < share)
    return attenuation + (cover * contrast * present).sum(dim=1, keepdim=True)
