"""Block matching and 3-D filtering (Dabov et al. 2007) for comparison, for white and for correlated noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

FloatArray = NDArray[np.float32]

BLOCK = 8
STEP = 3
WINDOW = 19
"""Greatest distance of a match along each axis: search window of 39 x 39."""
HARD_MATCHES, WIENER_MATCHES = 16, 32
HARD_THRESHOLD = 2.5
HARD_LIMIT, WIENER_LIMIT = 25.0, 2.0
"""Greatest mean squared distance of a match in sigma². All three: best of those tried at sigma 10 and 25 of 255."""
WHITE = np.ones((1, 1))
LEAST_VARIANCE = 0.01
"""Below it a coefficient's noise is not believed: the autocovariance may be an estimate."""
_TILE = 8
_CHUNK = 2048


def _dct() -> Tensor:
    k = torch.arange(BLOCK, dtype=torch.float32)
    basis: Tensor = torch.cos(torch.pi * (k[None, :] + 0.5) * k[:, None] / BLOCK) * (2.0 / BLOCK) ** 0.5
    basis[0] /= 2.0**0.5
    return basis


def _bior15() -> Tensor:
    """Return the biorthogonal spline wavelet 1.5 of three levels (Cohen et al. 1992), rows of unit norm."""
    low = np.array([3, -3, -22, 22, 128, 128, 22, -22, -3, 3]) / 256 * 2**0.5
    high = np.array([0, 0, 0, 0, -1, 1, 0, 0, 0, 0]) / 2**0.5
    matrix = np.eye(BLOCK)
    size = BLOCK
    while size > 1:
        level = np.zeros((size, size))
        for i in range(size // 2):
            for tap in range(10):
                level[i, (2 * i + tap - 4) % size] += low[tap]
                level[size // 2 + i, (2 * i + tap - 4) % size] += high[tap]
        matrix[:size] = level @ matrix[:size]
        size //= 2
    return torch.from_numpy(matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).float()


def _haar(n: int) -> Tensor:
    """Return the orthonormal Haar matrix for a power of two."""
    if n == 1:
        return torch.ones(1, 1)
    half = _haar(n // 2)
    top = torch.kron(half, torch.tensor([[1.0, 1.0]]))
    bottom = torch.kron(torch.eye(n // 2), torch.tensor([[1.0, -1.0]]))
    matrix: Tensor = torch.cat((top, bottom)) / 2.0**0.5
    return matrix


class GroupNoise:
    """Noise variance of each coefficient of a group of blocks.

    Blocks of a group overlap or lie near each other, and their noise is then alike: along the group it adds up in the
    sums and cancels in the differences. So the covariance of the same coefficient of two blocks is tabulated by their
    displacement, and summed over the pairs of blocks that a Haar function joins.

    Parameters
    ----------
    transform
        ``(8, 8)``, one basis function per row, used along both axes.
    autocovariance
        Of the noise, sides odd, lag 0 in the middle; beyond it the noise is uncorrelated.
    width
        Positions per row, to tell row and column of a position.
    """

    def __init__(self, transform: Tensor, autocovariance: NDArray[np.floating], width: int) -> None:
        self._width = width
        self._white = np.asarray(autocovariance).size == 1
        r = torch.from_numpy(np.asarray(autocovariance, dtype=np.float64))[None, None]
        rows = transform.double()[:, None]
        own = functional.conv1d(rows.transpose(0, 1), rows, padding=BLOCK - 1, groups=BLOCK)[0]
        pairs = torch.einsum("iy,jx->ijyx", own, own).reshape(BLOCK**2, 1, 2 * BLOCK - 1, 2 * BLOCK - 1)
        # One displacement more on each side than any correlation reaches: those further away are clamped to it.
        covariance = functional.conv2d(r, pairs, padding=2 * BLOCK - 1)[0]
        self._reach = (covariance.shape[1] // 2, covariance.shape[2] // 2)
        self._columns = covariance.shape[2]
        self._table = covariance.permute(1, 2, 0).reshape(-1, BLOCK**2).float().contiguous()
        self.variance = covariance[:, self._reach[0], self._reach[1]].float().clamp(min=LEAST_VARIANCE)
        """Shape ``(64,)``: of the coefficients of a single block, vertical frequency first."""

    def of_groups(self, positions: Tensor) -> Tensor:
        """Return the variances ``(groups or 1, matches, 64)`` after the Haar transform along the matches."""
        count = positions.shape[1]
        if self._white or count == 1:
            # The classical filter: blocks count as independent.
            return self.variance.expand(1, count, -1)
        first, second, weights, starts = _haar_pairs(count)
        y, x = positions // self._width, positions % self._width
        dy = (y[:, first] - y[:, second]).clamp(-self._reach[0], self._reach[0]) + self._reach[0]
        dx = (x[:, first] - x[:, second]).clamp(-self._reach[1], self._reach[1]) + self._reach[1]
        groups = positions.shape[0]
        offsets = torch.arange(groups)[:, None] * first.numel() + starts
        crossed = functional.embedding_bag(
            (dy * self._columns + dx).reshape(-1),
            self._table,
            offsets.reshape(-1),
            mode="sum",
            per_sample_weights=weights.repeat(groups),
        )
        return (crossed.reshape(groups, count, -1) + self.variance).clamp(min=LEAST_VARIANCE)


def _haar_pairs(n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the pairs of blocks that each Haar function joins: both indices, twice the product, start of each row."""
    haar = _haar(n)
    a, b = torch.triu_indices(n, n, offset=1)
    firsts, seconds, weights, starts = [], [], [], [0]
    for row in haar:
        product = 2.0 * row[a] * row[b]
        used = product != 0
        firsts.append(a[used])
        seconds.append(b[used])
        weights.append(product[used])
        starts.append(starts[-1] + int(used.sum()))
    return torch.cat(firsts), torch.cat(seconds), torch.cat(weights), torch.tensor(starts[:-1])


@dataclass(frozen=True, kw_only=True)
class _Blocks:
    """Transform coefficients of the blocks at every position.

    ``coefficients`` is ``(positions, 64)``, ``shape`` the rows and columns of positions.
    """

    coefficients: Tensor
    shape: tuple[int, int]


def _transform_blocks(image: Tensor, transform: Tensor) -> _Blocks:
    along_rows = image.unfold(1, BLOCK, 1) @ transform.T  # (H, C, 8)
    both = torch.einsum("rcja,ia->rcij", along_rows.unfold(0, BLOCK, 1), transform)
    return _Blocks(coefficients=both.reshape(-1, BLOCK**2), shape=(both.shape[0], both.shape[1]))


def _match(image: Tensor, *, matches: int, limit: float) -> list[Tensor]:
    """Find the nearest blocks of each reference block, the references being ``STEP`` apart.

    Returns
    -------
    Positions (row * columns + column of the upper left corner), ``(references, matches)`` each, one tensor per size of
    group: the greatest power of two of blocks whose mean squared distance stays below ``limit``.
    """
    height, width = image.shape[0] - BLOCK + 1, image.shape[1] - BLOCK + 1
    bordered = functional.pad(image, (WINDOW,) * 4)
    blocks = bordered.unfold(0, BLOCK, 1).unfold(1, BLOCK, 1)
    norms = torch.full(blocks.shape[:2], float("inf"))
    inside = blocks[WINDOW : WINDOW + height, WINDOW : WINDOW + width]
    norms[WINDOW : WINDOW + height, WINDOW : WINDOW + width] = inside.square().sum(dim=(2, 3))
    span = 2 * WINDOW + 1
    found, near = [], []
    for y0 in range(0, height, STEP * _TILE):
        for x0 in range(0, width, STEP * _TILE):
            rows, columns = (min(_TILE, (n - at - 1) // STEP + 1) for n, at in ((height, y0), (width, x0)))
            reach_y, reach_x = STEP * (rows - 1) + span, STEP * (columns - 1) + span
            area = (slice(y0, y0 + reach_y), slice(x0, x0 + reach_x))
            candidates = blocks[area].reshape(reach_y, reach_x, -1)
            own = (slice(WINDOW, WINDOW + STEP * rows, STEP), slice(WINDOW, WINDOW + STEP * columns, STEP))
            references = candidates[own].reshape(rows * columns, -1)
            # |a - b|² = |a|² + |b|² - 2ab; the reference's own norm is added after the search.
            distances = torch.addmm(
                norms[area].reshape(1, -1), references, candidates.reshape(-1, BLOCK**2).T, alpha=-2.0
            )
            # Each reference sees the window around it alone: STEP further for the next row, STEP for the next column.
            plane = reach_y * reach_x
            strides = (columns * plane + STEP * reach_x, plane + STEP, reach_x, 1)
            windows = distances.as_strided((rows, columns, span, span), strides).reshape(rows * columns, -1)
            windows[:, span * WINDOW + WINDOW] = -float("inf")  # no rounding puts another block before the reference
            nearest = torch.topk(windows, matches, dim=1, largest=False)
            at = nearest.indices.reshape(rows, columns, -1)
            y = y0 + STEP * torch.arange(rows)[:, None, None] + at // span - WINDOW
            x = x0 + STEP * torch.arange(columns)[:, None] + at % span - WINDOW
            found.append((y * width + x).reshape(rows * columns, -1))
            near.append(nearest.values + norms[area][own].reshape(-1, 1))
    positions, distance = torch.cat(found), torch.cat(near)
    count = (distance < limit * BLOCK**2).sum(dim=1).clamp(min=1)
    power = torch.floor(torch.log2(count.float())).long()
    return [positions[power == p][:, : 2**p] for p in range(int(power.max()) + 1) if bool((power == p).any())]


class _Aggregate:
    """Weighted mean of overlapping block estimates, blocks tapered by a Kaiser window.

    Blocks are summed as coefficients, and transformed back once per position.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self.sum = torch.zeros(shape[0] * shape[1], BLOCK**2)
        self.weight = torch.zeros(shape[0] * shape[1])

    def add(self, coefficients: Tensor, weights: Tensor, positions: Tensor) -> None:
        """Add groups ``(groups, matches, 64)`` with one weight each."""
        at = positions.reshape(-1)
        self.sum.index_add_(0, at, (coefficients * weights[:, None, None]).reshape(-1, BLOCK**2))
        self.weight.index_add_(0, at, weights[:, None].expand(positions.shape).reshape(-1))

    def result(self, inverse: Tensor) -> Tensor:
        """Return the image; ``inverse`` is the inverse of the blocks' transform."""
        line = torch.kaiser_window(BLOCK, periodic=False, beta=2.0)
        window = line[:, None] * line[None, :]
        blocks = torch.einsum("ai,pij,bj->abp", inverse, self.sum.reshape(-1, BLOCK, BLOCK), inverse)
        size = (self.shape[0] + BLOCK - 1, self.shape[1] + BLOCK - 1)
        total = functional.fold((blocks * window[..., None]).reshape(1, BLOCK**2, -1), size, BLOCK)
        weight = functional.conv_transpose2d(self.weight.reshape(1, 1, *self.shape), window[None, None])
        return (total / weight)[0, 0]


def bm3d(stabilised: FloatArray, sigma: float = 1.0, *, autocovariance: NDArray[np.floating] = WHITE) -> FloatArray:
    """Denoise an image.

    Both steps of Dabov et al. 2007: hard thresholding (8 x 8 biorthogonal wavelet, Haar along up to 16 matches), then
    empirical Wiener filtering (8 x 8 DCT, Haar along up to 32 matches found in the first estimate). Search window 39 x
    39, step 3. With an autocovariance, thresholds and Wiener gains follow the noise variance of each coefficient of the
    group (as Makinen, Azzari and Foi 2020 proposed).

    Parameters
    ----------
    stabilised
        Shape ``(rows, columns)``, at least 8 x 8.
    sigma
        Standard deviation of the noise.
    autocovariance
        Of noise of variance 1, sides odd, lag 0 in the middle; ``[[1]]`` is white noise.
    """
    with torch.inference_mode():
        image = torch.from_numpy(np.ascontiguousarray(stabilised, dtype=np.float32))
        # Whole steps up to the border; mirrored pixels are cut off again.
        more = [(BLOCK - n) % STEP for n in image.shape]
        middle = image.median()
        image = functional.pad((image - middle)[None], (0, more[1], 0, more[0]), mode="reflect")[0]
        result = _wiener(image, _hard(image, sigma, autocovariance), sigma, autocovariance) + middle
        return np.ascontiguousarray(result[: stabilised.shape[0], : stabilised.shape[1]].numpy(), dtype=np.float32)


def _chunks(found: list[Tensor]) -> list[Tensor]:
    return [chunk for positions in found for chunk in torch.split(positions, _CHUNK)]


def _hard(image: Tensor, sigma: float, autocovariance: NDArray[np.floating]) -> Tensor:
    transform = _bior15()
    blocks = _transform_blocks(image, transform)
    noise = GroupNoise(transform, autocovariance, blocks.shape[1])
    estimate = _Aggregate(blocks.shape)
    for part in _chunks(_match(image, matches=HARD_MATCHES, limit=HARD_LIMIT * sigma**2)):
        haar = _haar(part.shape[1])
        variance = noise.of_groups(part) * sigma**2
        spectrum = haar @ blocks.coefficients[part]
        keep = spectrum.square() >= HARD_THRESHOLD**2 * variance
        keep[:, 0, 0] = True
        weights = 1.0 / (keep * variance).sum(dim=(1, 2))
        estimate.add(haar.T @ (spectrum * keep), weights, part)
    return estimate.result(torch.linalg.inv(transform))


def _wiener(image: Tensor, basic: Tensor, sigma: float, autocovariance: NDArray[np.floating]) -> Tensor:
    transform = _dct()
    blocks, guide = _transform_blocks(image, transform), _transform_blocks(basic, transform)
    noise = GroupNoise(transform, autocovariance, blocks.shape[1])
    estimate = _Aggregate(blocks.shape)
    for part in _chunks(_match(basic, matches=WIENER_MATCHES, limit=WIENER_LIMIT * sigma**2)):
        haar = _haar(part.shape[1])
        variance = noise.of_groups(part) * sigma**2
        power = (haar @ guide.coefficients[part]).square()
        gain = power / (power + variance)
        weights = 1.0 / (gain.square() * variance).sum(dim=(1, 2)).clamp(min=1e-6)
        estimate.add(haar.T @ (gain * (haar @ blocks.coefficients[part])), weights, part)
    return estimate.result(transform.T)
