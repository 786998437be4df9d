"""One large image through the network in pieces with a halo, so that memory has a bound."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.resnet_unet import MULTIPLE

FloatArray = NDArray[np.float32]

HALO = 192
"""Pixels beyond a piece that the network sees too, a multiple of 32. Largest difference from the whole image with the
published weights: 0.05 sigma at 128, 0.010 at 160, 0.002 at 192."""
SMALLEST_CORE = 64


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A rectangle of the image: ``core`` is what it yields, ``seen`` what the network is shown."""

    core: tuple[slice, slice]
    seen: tuple[slice, slice]


def _spans(length: int, core: int) -> Iterator[tuple[slice, slice]]:
    for start in range(0, length, core):
        stop = min(start + core, length)
        yield slice(start, stop), slice(max(0, start - HALO), min(length, stop + HALO))


def plan(rows: int, columns: int, *, pixels: int) -> list[Piece]:
    """Cut an image into pieces of at most about ``pixels`` pixels each, the halo included.

    Strips over the full width where the budget allows, tiles otherwise. Starts are multiples of 32, so
    that every piece meets the network's grid as the whole image does. A very small budget is exceeded
    rather than refused: a piece is never smaller than 64 x 64 and its halo.
    """
    if rows * columns <= pixels:
        whole = (slice(0, rows), slice(0, columns))
        return [Piece(core=whole, seen=whole)]
    width = columns
    if (SMALLEST_CORE + 2 * HALO) * columns > pixels:
        width = _multiple(int(pixels**0.5) - 2 * HALO)
    seen_width = columns if width >= columns else width + 2 * HALO
    height = _multiple(pixels // seen_width - 2 * HALO)
    return [
        Piece(core=(core_y, core_x), seen=(seen_y, seen_x))
        for core_y, seen_y in _spans(rows, height)
        for core_x, seen_x in _spans(columns, width)
    ]


def _multiple(length: int) -> int:
    return max(SMALLEST_CORE, length // MULTIPLE * MULTIPLE)


def pad_to_multiple(image: FloatArray) -> FloatArray:
    """Reflect at the lower and right edge up to the next multiple of 32; works from 1 x 1 up."""
    missing = [-n % MULTIPLE for n in image.shape]
    return np.pad(image, [(0, missing[0]), (0, missing[1])], mode="reflect")


def run_in_strips(image: FloatArray, network: Callable[[FloatArray], FloatArray], *, pixels: int) -> FloatArray:
    """Apply ``network`` to ``image`` piece by piece.

    Parameters
    ----------
    image
        Shape ``(rows, columns)``.
    network
        Maps an array whose sides are multiples of 32 to one of the same shape.
    pixels
        Largest piece with its halo.

    Returns
    -------
    Same shape as ``image``.
    """
    out = np.empty_like(image)
    for piece in plan(image.shape[0], image.shape[1], pixels=pixels):
        seen = image[piece.seen]
        result = network(pad_to_multiple(seen))
        y0 = piece.core[0].start - piece.seen[0].start
        x0 = piece.core[1].start - piece.seen[1].start
        height, width = out[piece.core].shape
        out[piece.core] = result[y0 : y0 + height, x0 : x0 + width]
    return out
