"""The network: its size, its cost, and what follows from having no bias."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from model.resnet_unet import MULTIPLE, ResnetUnet


def multiply_accumulates(network: ResnetUnet, side: int) -> int:
    """Count the multiply-accumulates of all convolutions for one image of ``side`` squared pixels."""
    total = 0

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(module, (nn.Conv2d, nn.ConvTranspose2d))
        places = output if isinstance(module, nn.Conv2d) else inputs[0]
        total += module.weight.numel() * places.shape[-1] * places.shape[-2]

    hooks = [
        m.register_forward_hook(count) for m in network.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))
    ]
    with torch.inference_mode():
        network(torch.zeros(1, 1, side, side), torch.ones(1, 1, side, side))
    for hook in hooks:
        hook.remove()
    return total


@pytest.mark.parametrize(("width", "parameters", "gmac"), [(64, 13_654_784, 108.446), (32, 3_415_424, 27.488)])
def test_size_and_cost_are_those_of_the_model_card(width: int, parameters: int, gmac: float) -> None:
    network = ResnetUnet(width=width)
    assert sum(p.numel() for p in network.parameters()) == parameters
    side = 256
    assert multiply_accumulates(network, side) / side**2 / 1e3 == pytest.approx(gmac, rel=0.01)  # GMAC per megapixel


def test_network_is_positively_homogeneous_so_that_one_set_of_weights_serves_every_noise_level() -> None:
    torch.manual_seed(0)
    network = ResnetUnet(width=8)
    for p in network.parameters():  # the zero-initialised convolutions too
        nn.init.normal_(p, std=0.05)
    z, m = torch.randn(1, 1, 64, 64), torch.ones(1, 1, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(network(3 * z, 3 * m), 3 * network(z, m), rtol=1e-4, atol=1e-5)


def test_a_fresh_residual_block_is_the_identity_on_positive_features() -> None:
    block = ResnetUnet(width=8).skip0
    x = torch.rand(1, 8, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(block(x), x)


def test_output_has_the_shape_of_the_input_at_multiples_of_32() -> None:
    z = torch.randn(2, 1, MULTIPLE, 3 * MULTIPLE)
    with torch.inference_mode():
        assert ResnetUnet(width=8)(z, torch.ones_like(z)).shape == z.shape
