"""VST + BM3D for comparison: block matching and 3-D filtering (Dabov et al. 2007) for white noise of sigma 1."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FloatArray = NDArray[np.float32]

BLOCK = 8
STEP = 3
WINDOW = 19
HARD_MATCHES, WIENER_MATCHES = 16, 32
HARD_THRESHOLD = 2.7
HARD_LIMIT, WIENER_LIMIT = 25.0, 1.5
"""Greatest distance of a match in sigma²: best of those tried at sigma 10 and 25 of 255."""
_CHUNK = 4096


def _dct(n: int) -> Tensor:
    k = torch.arange(n, dtype=torch.float32)
    basis: Tensor = torch.cos(torch.pi * (k[None, :] + 0.5) * k[:, None] / n) * (2.0 / n) ** 0.5
    basis[0] /= 2.0**0.5
    return basis


def _haar(n: int) -> Tensor:
    """Return the orthonormal Haar matrix for a power of two."""
    if n == 1:
        return torch.ones(1, 1)
    half = _haar(n // 2)
    top = torch.kron(half, torch.tensor([[1.0, 1.0]]))
    bottom = torch.kron(torch.eye(n // 2), torch.tensor([[1.0, -1.0]]))
    matrix: Tensor = torch.cat((top, bottom)) / 2.0**0.5
    return matrix


def _positions(length: int) -> Tensor:
    at = torch.arange(0, length - BLOCK + 1, STEP)
    positions: Tensor = torch.unique(torch.cat((at, torch.tensor([length - BLOCK]))))
    return positions


def _match(image: Tensor, rows: Tensor, columns: Tensor, *, matches: int, limit: float) -> list[Tensor]:
    """Find the nearest blocks of each reference block on the grid of ``rows`` and ``columns``.

    Returns
    -------
    Flat indices of upper left corners, ``(references, matches)`` each, one tensor per size of group: the greatest
    power of two of blocks whose mean squared distance stays below ``limit``.
    """
    height, width = image.shape
    grid_y, grid_x = torch.meshgrid(rows, columns, indexing="ij")
    distances, corners = [], []
    for dy in range(-WINDOW, WINDOW + 1):
        for dx in range(-WINDOW, WINDOW + 1):
            squared = (image - torch.roll(image, (-dy, -dx), dims=(0, 1))).square()
            total = torch.nn.functional.pad(squared.cumsum(0).cumsum(1), (1, 0, 1, 0))
            below, above = total[rows + BLOCK], total[rows]
            boxes = below[:, columns + BLOCK] - above[:, columns + BLOCK] - below[:, columns] + above[:, columns]
            y, x = grid_y + dy, grid_x + dx
            inside = (y >= 0) & (x >= 0) & (y <= height - BLOCK) & (x <= width - BLOCK)
            if dy == 0 and dx == 0:
                boxes = boxes - 1.0  # rounding of the sums must not put another block before the reference
            distances.append(torch.where(inside, boxes / BLOCK**2, torch.tensor(float("inf"))))
            corners.append((y.clamp(0, height - BLOCK) * width + x.clamp(0, width - BLOCK)).int())
    nearest = torch.topk(torch.stack(distances).reshape(len(distances), -1), matches, dim=0, largest=False)
    chosen = torch.gather(torch.stack(corners).reshape(len(corners), -1), 0, nearest.indices).T.long()
    count = (nearest.values < limit).sum(dim=0).clamp(min=1)
    power = torch.floor(torch.log2(count.float())).long()
    return [chosen[power == p][:, : 2**p] for p in range(int(power.max()) + 1) if bool((power == p).any())]


def _groups(image: Tensor, corners: Tensor) -> Tensor:
    """Return blocks ``(references, matches, 8, 8)``."""
    offsets = torch.arange(BLOCK)[:, None] * image.shape[1] + torch.arange(BLOCK)[None, :]
    return image.reshape(-1)[corners[..., None, None] + offsets]


def _transform(groups: Tensor, *, inverse: bool = False) -> Tensor:
    dct, haar = _dct(BLOCK), _haar(groups.shape[1])
    if inverse:
        groups = torch.einsum("km,rkij->rmij", haar, groups)
        return torch.einsum("ia,rmij,jb->rmab", dct, groups, dct)
    groups = torch.einsum("ai,rmij,bj->rmab", dct, groups, dct)
    return torch.einsum("km,rmij->rkij", haar, groups)


class _Aggregate:
    """Weighted mean of overlapping block estimates, blocks tapered by a Kaiser window."""

    def __init__(self, shape: torch.Size) -> None:
        self.shape = shape
        self.sum, self.weight = torch.zeros(shape.numel()), torch.zeros(shape.numel())
        line = torch.kaiser_window(BLOCK, periodic=False, beta=2.0)
        self.window = line[:, None] * line[None, :]

    def add(self, blocks: Tensor, weights: Tensor, corners: Tensor) -> None:
        offsets = torch.arange(BLOCK)[:, None] * self.shape[1] + torch.arange(BLOCK)[None, :]
        index = (corners[..., None, None] + offsets).reshape(-1)
        w = weights[:, None, None, None] * self.window.expand_as(blocks)
        self.sum.index_add_(0, index, (blocks * w).reshape(-1))
        self.weight.index_add_(0, index, w.reshape(-1))

    def result(self) -> Tensor:
        return (self.sum / self.weight.clamp(min=1e-12)).reshape(self.shape)


def bm3d(stabilised: FloatArray, sigma: float = 1.0) -> FloatArray:
    """Denoise an image with white noise of standard deviation ``sigma``.

    Both steps of Dabov et al. 2007: hard thresholding (8 x 8 DCT, Haar along 16 matches, 2.7 sigma), then empirical
    Wiener filtering (32 matches found in the first estimate). Search window 39 x 39, step 3.

    Parameters
    ----------
    stabilised
        Shape ``(rows, columns)``, at least 8 x 8.
    sigma
        Standard deviation of the noise.
    """
    image = torch.from_numpy(np.ascontiguousarray(stabilised, dtype=np.float32))
    rows, columns = _positions(image.shape[0]), _positions(image.shape[1])
    with torch.inference_mode():
        first = _Aggregate(image.shape)
        found = _match(image, rows, columns, matches=HARD_MATCHES, limit=HARD_LIMIT * sigma**2)
        for part in (chunk for corners in found for chunk in torch.split(corners, _CHUNK)):
            spectrum = _transform(_groups(image, part))
            keep = spectrum.abs() >= HARD_THRESHOLD * sigma
            keep[:, 0, 0, 0] = True
            kept = keep.sum(dim=(1, 2, 3)).float()
            first.add(_transform(spectrum * keep, inverse=True), 1.0 / kept, part)
        basic = first.result()
        second = _Aggregate(image.shape)
        found = _match(basic, rows, columns, matches=WIENER_MATCHES, limit=WIENER_LIMIT * sigma**2)
        for part in (chunk for corners in found for chunk in torch.split(corners, _CHUNK)):
            guide = _transform(_groups(basic, part)).square()
            wiener = guide / (guide + sigma**2)
            spectrum = _transform(_groups(image, part)) * wiener
            weights = 1.0 / wiener.square().sum(dim=(1, 2, 3)).clamp(min=1e-6)
            second.add(_transform(spectrum, inverse=True), weights, part)
        return np.asarray(second.result().numpy(), dtype=np.float32)
