"""Random windows of many images at once, gathered on the device where the images lie."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CPU = torch.device("cpu")


class Planes:
    """Images of the same number of channels, laid end to end on one device.

    Only a few numbers per window come from the processor, so that a GPU is not kept waiting for pixels.

    Parameters
    ----------
    planes
        Each ``(channels, rows, columns)``, at least 2 x 2 pixels, of any size.
    dtype
        How values are held; windows are float32.
    """

    def __init__(self, planes: list[NDArray[np.floating]], *, device: torch.device, dtype: torch.dtype) -> None:
        self._sizes = np.array([plane.shape[1:] for plane in planes], dtype=np.int64).reshape(-1, 2)
        pixels = self._sizes.prod(axis=1)
        self._starts = np.concatenate(([0], np.cumsum(pixels)[:-1])).astype(np.int64)[: len(planes)]
        flat = [torch.from_numpy(np.ascontiguousarray(p)).to(dtype).reshape(p.shape[0], -1) for p in planes]
        self._flat = torch.cat(flat, dim=1).to(device) if flat else torch.zeros((1, 0), device=device)
        # By side, not by area: a large image is seen more often, but does not crowd out the small ones.
        sides = np.sqrt(pixels.astype(np.float64))
        self._chances = sides / sides.sum() if len(planes) else sides

    def __len__(self) -> int:
        return len(self._sizes)

    def windows(
        self, count: int, patch: int, rng: np.random.Generator, *, turned: bool = True
    ) -> tuple[Tensor, NDArray[np.int64]]:
        """Return ``(count, channels, patch, patch)`` and the index of the image of each.

        Images smaller than the patch are extended by reflection. ``turned``: flip and turn at random.
        """
        chosen = rng.choice(len(self._sizes), size=count, p=self._chances)
        rows, columns = self._sizes[chosen].T
        y = rng.integers(0, np.maximum(rows - patch, 0) + 1)
        x = rng.integers(0, np.maximum(columns - patch, 0) + 1)
        flips = rng.integers(0, 2 if turned else 1, size=(3, count))
        numbers = np.stack((self._starts[chosen], rows, columns, y, x, *flips))
        values = torch.from_numpy(numbers).to(self._flat.device)[:, :, None, None]
        start, height, width, top, left, upside, mirrored, transposed = values
        along = torch.arange(patch, device=self._flat.device)
        i, j = along[None, :, None], along[None, None, :]
        i, j = torch.where(transposed == 1, j, i), torch.where(transposed == 1, i, j)
        i = torch.where(upside == 1, patch - 1 - i, i)
        j = torch.where(mirrored == 1, patch - 1 - j, j)
        index = start + _reflected(top + i, height) * width + _reflected(left + j, width)
        return self._flat[:, index].float().movedim(0, 1).contiguous(), chosen


def _reflected(at: Tensor, size: Tensor) -> Tensor:
    """Fold indexes beyond the end back into ``0 .. size - 1``, the border pixel not repeated."""
    period = 2 * (size - 1)
    at = at % period
    return torch.where(at >= size, period - at, at)
