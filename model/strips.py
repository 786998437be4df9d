"""One large image through the network in pieces with a halo, so that memory has a bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.resnet_unet import MULTIPLE

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Region = tuple[slice, slice]

HALO = 192
"""Pixels beyond a piece that the network sees too, a multiple of 32. Largest difference from the whole image with the
published weights: 0.05 sigma at 128, 0.010 at 160, 0.002 at 192."""
SMALLEST_CORE = 64


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A rectangle of the image: ``core`` is what it yields, ``seen`` what the network is shown."""

    core: Region
    seen: Region


@dataclass(frozen=True, kw_only=True)
class _Cut:
    """One side of an image cut into equal spans; ``longest`` and ``total`` count what is seen of it."""

    spans: list[tuple[slice, slice]]
    longest: int
    total: int


def plan(rows: int, columns: int, *, pixels: int, needed: Region | None = None) -> list[Piece]:
    """Cut an image into pieces of at most ``pixels`` pixels each, the halo included, so that least is seen twice.

    Pieces are equal in size but for the last. Starts are multiples of 32, so that every piece meets the network's
    grid as the whole image does. A very small budget is exceeded rather than refused: a piece is never smaller than
    64 x 64 and its halo.

    Parameters
    ----------
    rows, columns
        Of the image.
    pixels
        Largest piece with its halo.
    needed
        The rectangle to cover; None: the whole image.
    """
    y, x = needed or (slice(0, rows), slice(0, columns))
    in_rows, in_columns = _cuts(y, rows), _cuts(x, columns)
    best = (in_rows[-1], in_columns[-1])
    least = None
    for across in in_columns:
        # Cuts go from coarse to fine, so the first that fits sees least.
        down = next((cut for cut in in_rows if cut.longest * across.longest <= pixels), None)
        if down is not None and (least is None or down.total * across.total < least):
            best, least = (down, across), down.total * across.total
    return [
        Piece(core=(core_y, core_x), seen=(seen_y, seen_x))
        for core_y, seen_y in best[0].spans
        for core_x, seen_x in best[1].spans
    ]


def _cuts(part: slice, length: int) -> list[_Cut]:
    """Return every way to cut ``part`` of a side into equal spans, from one span to spans of 64 pixels."""
    start = part.start // MULTIPLE * MULTIPLE
    cuts = []
    for count in range(1, -(-(part.stop - start) // SMALLEST_CORE) + 1):
        core = max(SMALLEST_CORE, -(-(part.stop - start) // (count * MULTIPLE)) * MULTIPLE)
        spans = []
        for first in range(start, part.stop, core):
            last = min(first + core, part.stop)
            spans.append((slice(first, last), slice(max(0, first - HALO), min(length, last + HALO))))
        seen = [span.stop - span.start for _, span in spans]
        cuts.append(_Cut(spans=spans, longest=max(seen), total=sum(seen)))
    return cuts


def bounds(needed: BoolArray) -> Region | None:
    """Return the smallest rectangle that holds every True, or None where there is none."""
    rows, columns = np.flatnonzero(needed.any(axis=1)), np.flatnonzero(needed.any(axis=0))
    if not rows.size:
        return None
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def pad_to_multiple(image: FloatArray) -> FloatArray:
    """Reflect at the lower and right edge up to the next multiple of 32; works from 1 x 1 up."""
    missing = [-n % MULTIPLE for n in image.shape]
    return np.pad(image, [(0, missing[0]), (0, missing[1])], mode="reflect")


def run_in_strips(
    image: FloatArray, network: Callable[[FloatArray], FloatArray], *, pixels: int, needed: BoolArray | None = None
) -> FloatArray:
    """Apply ``network`` to ``image`` piece by piece.

    Parameters
    ----------
    image
        Shape ``(rows, columns)``.
    network
        Maps an array whose sides are multiples of 32 to one of the same shape.
    pixels
        Largest piece with its halo.
    needed
        True where the output counts, ``(rows, columns)``. Outside the rectangle around these, and in pieces that
        hold none, the network does not run and the output is 0. None: everywhere.

    Returns
    -------
    Same shape as ``image``.
    """
    out = np.zeros_like(image)
    region = None if needed is None else bounds(needed)
    for piece in plan(image.shape[0], image.shape[1], pixels=pixels, needed=region):
        if needed is not None and not needed[piece.core].any():
            continue
        seen = image[piece.seen]
        result = network(pad_to_multiple(seen))
        y0 = piece.core[0].start - piece.seen[0].start
        x0 = piece.core[1].start - piece.seen[1].start
        height, width = out[piece.core].shape
        out[piece.core] = result[y0 : y0 + height, x0 : x0 + width]
    return out
