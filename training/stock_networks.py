"""The networks that ours is compared with: the stock segmentation UNet, and ours with one choice undone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.resnet_unet import BasicBlock, ResnetUnet


class NormalisedBlock(nn.Module):
    """The residual block of ResNet-18 (He et al. 2016) with BatchNorm after each convolution."""

    def __init__(self, channels_in: int, channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            projection = nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        residual = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(residual + self.shortcut(x))


class UpBlock(nn.Module):
    """A step of the stock decoder: nearest-neighbour doubling, the skip concatenated, two normalised convolutions."""

    def __init__(self, channels_in: int, skip: int, channels: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels_in + skip, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        x = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
        if skip is not None:
            x = torch.cat((x, skip), dim=1)
        out: Tensor = self.convolutions(x)
        return out


class StockUnet(nn.Module):
    """UNet with a ResNet-18 encoder as segmentation libraries ship it, with two input channels and one output.

    Stem 7 x 7 with stride 2 and max-pool, so that the first full stage works at quarter resolution; no skip at full
    resolution; BatchNorm everywhere; bias in the last convolution alone.

    Parameters
    ----------
    width
        Channels of the stem; 64 is the library's network (14.3 M parameters).
    residual
        True: the output is the noise. False: it is the clean image, as in segmentation it is the mask.
    """

    def __init__(self, *, width: int, residual: bool) -> None:
        super().__init__()
        w = width
        self.residual = residual
        self.stem = nn.Sequential(
            nn.Conv2d(2, w, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(w), nn.ReLU(inplace=True)
        )
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = nn.Sequential(NormalisedBlock(w, w), NormalisedBlock(w, w))
        self.layer2 = nn.Sequential(NormalisedBlock(w, 2 * w, stride=2), NormalisedBlock(2 * w, 2 * w))
        self.layer3 = nn.Sequential(NormalisedBlock(2 * w, 4 * w, stride=2), NormalisedBlock(4 * w, 4 * w))
        self.layer4 = nn.Sequential(NormalisedBlock(4 * w, 8 * w, stride=2), NormalisedBlock(8 * w, 8 * w))
        self.up4 = UpBlock(8 * w, 4 * w, 4 * w)
        self.up3 = UpBlock(4 * w, 2 * w, 2 * w)
        self.up2 = UpBlock(2 * w, w, w)
        self.up1 = UpBlock(w, w, w // 2)
        self.up0 = UpBlock(w // 2, 0, w // 4)
        self.head = nn.Conv2d(w // 4, 1, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        # The head has no ReLU behind it, and a small start suits either output.
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias if self.head.bias is not None else torch.zeros(1))

    def forward(self, z: Tensor, sigma_map: Tensor) -> Tensor:
        """Return the noise estimate, as `model.resnet_unet.ResnetUnet` does."""
        s0 = self.stem(torch.cat((z, sigma_map), dim=1))  # w, 1/2
        s1 = self.layer1(self.pool(s0))  # w, 1/4
        s2 = self.layer2(s1)  # 2w, 1/8
        s3 = self.layer3(s2)  # 4w, 1/16
        x = self.up4(self.layer4(s3), s3)  # 4w, 1/16
        x = self.up2(self.up3(x, s2), s1)  # w, 1/4
        x = self.up0(self.up1(x, s0), None)  # w/4, 1/1
        out: Tensor = self.head(x)
        return out if self.residual else z - out


class WithoutFirstSkip(ResnetUnet):
    """Ours without the skip at half resolution: what the decoder knows has passed quarter resolution."""

    def body(self, features: Tensor) -> Tensor:
        s1 = self.layer1(self.down(self.skip0(features)))
        s2 = self.layer2(s1)
        s3 = self.layer3(s2)
        x = self.dec3(self.up3(self.layer4(s3)) + s3)
        x = self.dec2(self.up2(x) + s2)
        x = self.dec1(self.up1(x) + s1)
        top: Tensor = self.top(self.up0(x))
        return top


def with_batch_norm(network: ResnetUnet) -> ResnetUnet:
    """Put a BatchNorm behind each convolution of the residual blocks; each block still starts as the identity."""
    for block in [module for module in network.modules() if isinstance(module, BasicBlock)]:
        first, second = block.conv1, block.conv2
        # A zero convolution under BatchNorm is 0/0: the norm's own scale starts at zero instead.
        nn.init.kaiming_normal_(second.weight, nonlinearity="relu")
        last = nn.BatchNorm2d(second.out_channels)
        nn.init.zeros_(last.weight)
        block.conv1 = nn.Sequential(first, nn.BatchNorm2d(first.out_channels))  # type: ignore[assignment]
        block.conv2 = nn.Sequential(second, last)  # type: ignore[assignment]
    return network
