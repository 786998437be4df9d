"""The network on one large image in bands: the same output as in one pass, in a third of the memory.

Most of the memory, and half of the arithmetic, is at half resolution, where the network sees only a few pixels around
each. So that part runs in bands of rows that overlap by these few, and only what lies below half resolution, a quarter
of the size, runs on the whole image. Bands are small enough for the processor's cache and for the allocator to hand
the same memory out again: on large arrays the system clears new pages for every layer, which costs half as much as
the arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from model.resnet_unet import ResnetUnet

BAND_ELEMENTS = 3 * 2**20
"""Elements of one layer at half resolution in a band: 12 MB."""
_QUARTER = 4
ENCODER_REACH = 8
"""Pixels that stem and first block see beyond a band: three 3 x 3 convolutions at half resolution are 6."""
DECODER_REACH = 12
"""The same for last blocks and tail: five such convolutions are 10."""


def run_in_bands(network: ResnetUnet, z: Tensor, *, elements: int = BAND_ELEMENTS) -> Tensor:
    """Return what ``network(z, ones)`` returns, value for value.

    Parameters
    ----------
    network
        In evaluation mode.
    z
        Shape ``(1, 1, rows, columns)``, sides multiples of 32.
    elements
        Elements of one layer in a band; larger bands repeat less at their borders.
    """
    rows, columns = z.shape[2:]
    height = max(1, elements // (network.width * columns)) * _QUARTER
    skip = _empty(network, z, 2)
    features = _empty(network, z, _QUARTER)
    for start, stop in _bands(rows, height):
        first, last = max(0, start - ENCODER_REACH), min(rows, stop + ENCODER_REACH)
        band = _encode(network, z[:, :, first:last])[:, :, (start - first) // 2 : (stop - first) // 2]
        skip[:, :, start // 2 : stop // 2] = band
        features[:, :, start // _QUARTER : stop // _QUARTER] = network.down(band)
    features = network.inner(features)
    noise = torch.empty_like(z)
    for start, stop in _bands(rows, height):
        first, last = max(0, start - DECODER_REACH), min(rows, stop + DECODER_REACH)
        x = network.up0(features[:, :, first // _QUARTER : last // _QUARTER])
        x = network.top(x.add_(skip[:, :, first // 2 : last // 2]))
        noise[:, :, start:stop] = network.shuffle(network.tail(x))[:, :, start - first : stop - first]
    return noise


def _encode(network: ResnetUnet, z: Tensor) -> Tensor:
    both = torch.cat((z, torch.ones_like(z)), dim=1)
    features: Tensor = network.skip0(network.stem(network.unshuffle(both)))
    return features


def _empty(network: ResnetUnet, z: Tensor, divisor: int) -> Tensor:
    shape = (z.shape[0], network.width, z.shape[2] // divisor, z.shape[3] // divisor)
    return torch.empty(shape, dtype=z.dtype, device=z.device, memory_format=torch.channels_last)


def _bands(rows: int, height: int) -> Iterator[tuple[int, int]]:
    for start in range(0, rows, height):
        yield start, min(start + height, rows)
