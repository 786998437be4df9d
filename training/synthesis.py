"""Batches for training, made on the fly: clean attenuation in, stabilised noisy image and target out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from model.resnet_unet import Z_SCALE
from training.settings import NoiseRange


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples as the network sees them.

    Parameters
    ----------
    z, target
        In network units, ``(batch, 1, rows, columns)``.
    sigma_map
        Noise of ``z`` relative to the nominal, same shape.
    target_noise
        ``(batch, 1, 1, 1)``: variance of the target's own noise in sigma². 0 marks a clean target; above 0 the
        target is right only on average, so that squared error alone may be used.
    """

    z: Tensor
    target: Tensor
    sigma_map: Tensor
    target_noise: Tensor

    def part(self, chosen: slice) -> Batch:
        """Return some of the samples."""
        return self._each(lambda tensor: tensor[chosen])

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device; nothing is copied where it is there already."""
        return self._each(lambda tensor: tensor.to(device))

    def _each(self, of: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(
            z=of(self.z),
            target=of(self.target),
            sigma_map=of(self.sigma_map),
            target_noise=of(self.target_noise),
        )


def joined(batches: list[Batch]) -> Batch:
    """Put batches behind one another."""
    return Batch(
        z=torch.cat([batch.z for batch in batches]),
        target=torch.cat([batch.target for batch in batches]),
        sigma_map=torch.cat([batch.sigma_map for batch in batches]),
        target_noise=torch.cat([batch.target_noise for batch in batches]),
    )


class NoiseSynthesis:
    """Draw detectors and doses at random and expose clean images with them.

    Per sample: expected quanta ``S = N exp(-(a - median a))``; quantum noise blurred by a kernel of unit energy,
    part of it white; electronic noise with row and column offsets; structure noise; slow gain; quantisation;
    the stabilising transform of a law with a random error; for a share of the samples the unsharp mask of a
    presentation image.

    Everything is drawn and computed on the device of ``generator``; the same seed on the same kind of device gives the
    same samples.
    """

    def __init__(self, ranges: NoiseRange, generator: torch.Generator) -> None:
        self.ranges = ranges
        self.g = generator
        self.device = generator.device

    def uniform(self, n: int, low: float, high: float) -> Tensor:
        """Return ``(n, 1, 1, 1)`` uniform numbers."""
        return low + (high - low) * self._chance(n)

    def log_uniform(self, n: int, low: float, high: float | Tensor) -> Tensor:
        """Return ``(n, 1, 1, 1)`` numbers whose logarithm is uniform; ``high`` may differ by sample."""
        top = torch.as_tensor(high, dtype=torch.float32, device=self.device).clamp(min=low)
        u = self._chance(n)
        return torch.exp(math.log(low) * (1 - u) + torch.log(top) * u)

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal numbers."""
        return torch.randn(shape, generator=self.g, device=self.device)

    def _chance(self, n: int) -> Tensor:
        return torch.rand((n, 1, 1, 1), generator=self.g, device=self.device)

    def batch(self, attenuation: Tensor, own_noise: Tensor) -> Batch:
        """Expose a batch.

        Parameters
        ----------
        attenuation
            ``(batch, 1, rows, columns)`` in nepers relative to the median of the whole picture.
        own_noise
            ``(batch, 1, 1, 1)``: noise of the clean picture in nepers; caps the simulated exposure.
        """
        r, n = self.ranges, attenuation.shape[0]
        # A picture is truth only where its own noise stays below 1/own_noise_ratio of the simulated.
        cap = (1.0 / (r.own_noise_ratio * own_noise.clamp(min=1e-6)) ** 2).clamp(max=r.quanta[1])
        quanta = self.log_uniform(n, r.quanta[0], cap)
        signal = quanta * torch.exp(-attenuation)
        electronic = self.log_uniform(n, *r.electronic_quanta).sqrt()
        structure = self.uniform(n, *r.structure)
        noisy, electronic = self._expose(signal, quanta, electronic, structure)
        clean_t, noise, median = self._stabilise(signal, noisy, quanta, electronic, structure)
        clean_t, noise, median = self._presentation(clean_t, noise, median)
        sigma_map = self._sigma_map(n, attenuation.shape[-2:])
        noise = noise * sigma_map
        target = (clean_t - median) / Z_SCALE
        clean = torch.zeros((n, 1, 1, 1), device=self.device)
        return Batch(z=target + noise / Z_SCALE, target=target, sigma_map=sigma_map, target_noise=clean)

    def _expose(self, signal: Tensor, quanta: Tensor, electronic: Tensor, structure: Tensor) -> tuple[Tensor, Tensor]:
        """Return the noisy exposure in quanta and the electronic sigma that includes quantisation."""
        r, n = self.ranges, signal.shape[0]
        gain = torch.exp(self._smooth(n, signal.shape[-2:]) * (r.gain_map * self._chance(n)))
        root = (signal * gain).sqrt()
        white = self.uniform(n, *r.white_fraction) * (self._chance(n) < 0.7)
        # Direct converters (selenium) and counting detectors have white noise: a share of the samples too.
        white = torch.where(self._chance(n) < r.white_share, torch.ones((), device=self.device), white)
        blurred = self._blur(root * self.normal(*signal.shape))
        noise = (1 - white).sqrt() * blurred + white.sqrt() * root * self.normal(*signal.shape)
        noise = noise + structure * signal * self.normal(*signal.shape)
        lines = self.uniform(n, *r.line_noise)
        rows = self.normal(n, 1, signal.shape[-2], 1) + self.normal(n, 1, 1, signal.shape[-1])
        noise = noise + electronic * (gain * self.normal(*signal.shape) + lines * rows)
        sigma = (quanta + electronic**2).sqrt()
        step = sigma * self.log_uniform(n, *r.quantisation_sigma)
        noisy = torch.round((signal + noise) / step) * step
        return noisy, (electronic**2 + step**2 / 12).sqrt()

    def _blur(self, white: Tensor) -> Tensor:
        r, n = self.ranges, white.shape[0]
        rows, columns = white.shape[-2:]
        fy = torch.fft.fftfreq(rows, device=self.device)[:, None]
        fx = torch.fft.rfftfreq(columns, device=self.device)[None, :]
        mix = self._chance(n)
        mtf = torch.zeros((n, 1, rows, columns // 2 + 1), device=self.device)
        stretch = self.uniform(n, 1 - r.anisotropy, 1 + r.anisotropy)
        for weight in (mix, 1 - mix):
            sigma = self.uniform(n, *r.kernel_fwhm_px) / 2.3548
            f2 = (fy * stretch) ** 2 + (fx / stretch) ** 2
            mtf = mtf + weight * torch.exp(-2 * torch.pi**2 * sigma**2 * f2)
        full = torch.cat((mtf, mtf[..., 1 : columns - columns // 2]), dim=-1)  # both halves count in the energy
        mtf = mtf / full.square().mean(dim=(-2, -1), keepdim=True).sqrt()
        blurred: Tensor = torch.fft.irfft2(torch.fft.rfft2(white) * mtf, s=(rows, columns))
        return blurred

    def _stabilise(
        self, signal: Tensor, noisy: Tensor, quanta: Tensor, electronic: Tensor, structure: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return stabilised expectation, noise and median under a law that is a little wrong."""
        n, e = signal.shape[0], self.ranges.sigma_error
        quantum = torch.exp(self.normal(n, 1, 1, 1) * e)
        electronic = electronic * torch.exp(self.normal(n, 1, 1, 1) * e)
        structure = (structure * torch.exp(self.normal(n, 1, 1, 1) * e)).clamp(min=1e-3)
        scale = torch.exp(self.normal(n, 1, 1, 1) * e)

        def f(y: Tensor) -> Tensor:
            return scale * stabilise(y, structure, quantum, electronic)

        positive = signal.clamp(min=0)
        variance = structure**2 * positive**2 + quantum * positive + electronic**2
        # The expectation of f(y) lies below f(S) by sigma'(S)/2: what the unbiased inverse expects.
        slope = (2 * structure**2 * positive + quantum) / (2 * variance.sqrt())
        expected = f(signal) - scale * slope / 2
        return expected, f(noisy) - expected, f(quanta)

    def _presentation(self, clean: Tensor, noise: Tensor, median: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sharpen a share of the samples as a presentation image is; the noise is renormalised after it."""
        r, n = self.ranges, clean.shape[0]
        chosen = self._chance(n).flatten() < r.presentation_share
        count = int(chosen.sum())
        if count == 0:
            return clean, noise, median
        gain = self.uniform(count, *r.unsharp_gain)
        sigma = self.log_uniform(count, 1.0, 12.0)
        rows, columns = clean.shape[-2:]
        fy = torch.fft.fftfreq(rows, device=self.device)[:, None]
        f2 = fy**2 + torch.fft.rfftfreq(columns, device=self.device)[None, :] ** 2
        transfer = 1 + gain * (1 - torch.exp(-2 * torch.pi**2 * sigma**2 * f2))

        def sharpen(x: Tensor) -> Tensor:
            result: Tensor = torch.fft.irfft2(torch.fft.rfft2(x) * transfer, s=(rows, columns))
            return result

        sharp = sharpen(noise[chosen])
        ratio = sharp.std(dim=(-2, -1), keepdim=True) / noise[chosen].std(dim=(-2, -1), keepdim=True)
        clean, noise, median = clean.clone(), noise.clone(), median.clone()
        clean[chosen] = sharpen(clean[chosen]) / ratio
        noise[chosen] = sharp / ratio
        median[chosen] = median[chosen] / ratio
        return clean, noise, median

    def _smooth(self, n: int, shape: torch.Size) -> Tensor:
        coarse = self.normal(n, 1, 4, 4)
        return torch.nn.functional.interpolate(coarse, size=tuple(shape), mode="bicubic", align_corners=True)

    def _sigma_map(self, n: int, shape: torch.Size) -> Tensor:
        """Return 1 for most samples, another level for some, a slow gradient for a few."""
        kind = self._chance(n)
        level = self.log_uniform(n, 0.6, 1.6)
        wave = torch.exp(0.2 * self._smooth(n, shape))
        ones = torch.ones((n, 1, *shape), device=self.device)
        return torch.where(kind < 0.6, ones, torch.where(kind < 0.9, level * ones, level * wave))


def stabilise(value: Tensor, structure: Tensor, quantum: Tensor, electronic: Tensor) -> Tensor:
    """Closed form of the integral of 1/sigma from 0: what ``model.noise.Stabiliser`` tabulates.

    Below zero the law has only the electronic part, so the transform goes on with slope ``1/electronic``.
    ``structure`` must be at least 1e-3, where the closed form is still well conditioned in single precision.
    """
    y = value.clamp(min=0)
    root = (structure**2 * y**2 + quantum * y + electronic**2).sqrt()
    top = 2 * structure * root + 2 * structure**2 * y + quantum
    bottom = 2 * structure * electronic + quantum
    return torch.log(top / bottom) / structure + value.clamp(max=0) / electronic
