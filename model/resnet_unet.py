"""The network: a ResNet-18 encoder and a UNet decoder that estimate the noise of a stabilised image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MULTIPLE = 32
"""Rows and columns given to the network must be multiples of this."""
Z_SCALE = 8.0
"""The network sees ``(stabilised value - median) / Z_SCALE``: noise of standard deviation 1/8."""


class BasicBlock(nn.Module):
    """The residual block of ResNet-18 without bias and normalisation: ``relu(x + conv(relu(conv(x))))``.

    Without bias and normalisation the whole network is positively homogeneous, so one set of weights
    serves every noise level. The second convolution starts at zero: the block starts as the identity.
    """

    def __init__(self, channels_in: int, channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, nonlinearity="relu")
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        # In place: at full size these passes over memory cost as much as a convolution.
        residual: Tensor = self.conv2(torch.relu_(self.conv1(x)))
        return torch.relu_(residual.add_(self.shortcut(x)))


def _stage(channels_in: int, channels: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(BasicBlock(channels_in, channels, stride=stride), BasicBlock(channels, channels))


def _up(channels_in: int, channels: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels_in, channels, 2, stride=2, bias=False)


class ResnetUnet(nn.Module):
    """Estimate the noise in ``z`` given ``z`` and the map of its standard deviation.

    ``width`` 64 is *base* (13.65 M parameters, 108 GMAC per megapixel), 32 is *lite* (3.42 M, 27.5 GMAC/MP).

    Parameters
    ----------
    width
        Channels at half resolution; the four encoder stages have 1, 2, 4 and 8 times as many.
    """

    def __init__(self, *, width: int = 64) -> None:
        super().__init__()
        w = width
        self.width = width
        self.bfloat16_body = False
        self.unshuffle = nn.PixelUnshuffle(2)
        self.stem = nn.Conv2d(8, w, 3, padding=1, bias=False)
        self.skip0 = BasicBlock(w, w)
        self.down = nn.Conv2d(w, w, 2, stride=2, bias=False)
        self.layer1 = _stage(w, w, stride=1)
        self.layer2 = _stage(w, 2 * w, stride=2)
        self.layer3 = _stage(2 * w, 4 * w, stride=2)
        self.layer4 = _stage(4 * w, 8 * w, stride=2)
        self.up3, self.dec3 = _up(8 * w, 4 * w), BasicBlock(4 * w, 4 * w)
        self.up2, self.dec2 = _up(4 * w, 2 * w), BasicBlock(2 * w, 2 * w)
        self.up1, self.dec1 = _up(2 * w, w), BasicBlock(w, w)
        self.up0 = _up(w, w)
        self.top = nn.Sequential(BasicBlock(w, w), BasicBlock(w, w))
        self.tail = nn.Conv2d(w, 4, 3, padding=1, bias=False)
        self.shuffle = nn.PixelShuffle(2)

    def body(self, features: Tensor) -> Tensor:
        """Everything between stem and tail, at half resolution; may run in bfloat16."""
        s0 = self.skip0(features)  # w, 1/2
        x = self.inner(self.down(s0))  # w, 1/4
        top: Tensor = self.top(self.up0(x).add_(s0))  # w, 1/2
        return top

    def inner(self, features: Tensor) -> Tensor:
        """All that lies below half resolution: from ``(batch, width, rows / 4, columns / 4)`` to the same shape."""
        s1 = self.layer1(features)  # w, 1/4
        s2 = self.layer2(s1)  # 2w, 1/8
        s3 = self.layer3(s2)  # 4w, 1/16
        x = self.layer4(s3)  # 8w, 1/32
        x = self.dec3(self.up3(x).add_(s3))  # 4w, 1/16
        x = self.dec2(self.up2(x).add_(s2))  # 2w, 1/8
        quarter: Tensor = self.dec1(self.up1(x).add_(s1))  # w, 1/4
        return quarter

    def forward(self, z: Tensor, sigma_map: Tensor) -> Tensor:
        """Return the noise estimate, ``z - noise`` is the denoised image.

        Parameters
        ----------
        z
            ``(batch, 1, rows, columns)``: ``(stabilised value - median) / 8``; noise standard deviation 1/8.
        sigma_map
            Same shape; 1 where the stabilised noise is nominal.

        Returns
        -------
        Same shape, same units as ``z``. Rows and columns must be multiples of 32.
        """
        x = self.unshuffle(torch.cat((z, sigma_map), dim=1))  # 8, 1/2
        x = self.stem(x)  # w, 1/2
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=self.bfloat16_body):
            x = self.body(x)
        noise: Tensor = self.shuffle(self.tail(x.float()))  # 1, 1/1
        return noise


def channels_last(network: ResnetUnet, device: torch.device) -> ResnetUnet:
    """Move a network to a device with its convolution weights in the layout that is fastest there."""
    network.to(device)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network
