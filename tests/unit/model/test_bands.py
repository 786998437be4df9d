"""Bands at half resolution: the network's own output, in far less memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from model.bands import DECODER_REACH, ENCODER_REACH, run_in_bands
from model.resnet_unet import ResnetUnet, channels_last


def network(width: int) -> ResnetUnet:
    torch.manual_seed(3)
    made = ResnetUnet(width=width)
    for module in made.modules():
        if isinstance(module, nn.Conv2d):
            # New blocks start as the identity, and would hide what lies in the next band.
            nn.init.kaiming_normal_(module.weight)
    return channels_last(made, torch.device("cpu")).eval()


@pytest.mark.parametrize("rows_of_a_band", [4, 36, 64, 10_000])
@pytest.mark.parametrize(("rows", "columns"), [(32, 32), (160, 96), (224, 64)])
def test_bands_give_what_the_network_gives_on_the_whole_image(rows_of_a_band: int, rows: int, columns: int) -> None:
    net = network(8)
    z = torch.randn(1, 1, rows, columns)
    with torch.inference_mode():
        whole = net(z, torch.ones_like(z))
        bands = run_in_bands(net, z, elements=8 * columns * rows_of_a_band // 4)
    assert whole.std() > 0
    torch.testing.assert_close(bands, whole, rtol=1e-5, atol=1e-6 * float(whole.abs().max()))


def test_layers_at_half_resolution_never_see_more_than_a_band() -> None:
    net = network(8)
    heights: list[int] = []
    for layer in (net.stem, net.skip0, net.up0, net.top, net.tail):
        layer.register_forward_hook(lambda _, __, out: heights.append(out.shape[2]))
    with torch.inference_mode():
        run_in_bands(net, torch.randn(1, 1, 640, 64), elements=8 * 64 * 32 // 4)
    assert max(heights) <= (32 + 2 * max(ENCODER_REACH, DECODER_REACH)) // 2
