"""Batches for training, made on the fly: clean attenuation in, stabilised noisy image and target out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.resnet_unet import Z_SCALE
from training.settings import NoiseRange


@dataclass(frozen=True, kw_only=True)
class Batch:
    """``z`` and ``target`` in network units, ``sigma_map`` relative, each ``(batch, 1, rows, columns)``."""

    z: Tensor
    target: Tensor
    sigma_map: Tensor


class NoiseSynthesis:
    """Draw detectors and doses at random and expose clean images with them.

    Per sample: expected quanta ``S = N exp(-(a - median a))``; quantum noise blurred by a kernel of unit energy,
    part of it white; electronic noise with row and column offsets; structure noise; slow gain; quantisation;
    the stabilising transform of a law with a random error; for a share of the samples the unsharp mask of a
    presentation image.
    """

    def __init__(self, ranges: NoiseRange, generator: torch.Generator) -> None:
        self.ranges = ranges
        self.g = generator

    def uniform(self, n: int, low: float, high: float) -> Tensor:
        """Return ``(n, 1, 1, 1)`` uniform numbers."""
        return low + (high - low) * torch.rand((n, 1, 1, 1), generator=self.g)

    def log_uniform(self, n: int, low: float, high: float | Tensor) -> Tensor:
        """Return ``(n, 1, 1, 1)`` numbers whose logarithm is uniform; ``high`` may differ by sample."""
        top = torch.as_tensor(high, dtype=torch.float32).clamp(min=low)
        u = torch.rand((n, 1, 1, 1), generator=self.g)
        return torch.exp(torch.log(torch.tensor(low)) * (1 - u) + torch.log(top) * u)

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal numbers."""
        return torch.randn(shape, generator=self.g)

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
        return Batch(z=target + noise / Z_SCALE, target=target, sigma_map=sigma_map)

    def _expose(self, signal: Tensor, quanta: Tensor, electronic: Tensor, structure: Tensor) -> tuple[Tensor, Tensor]:
        """Return the noisy exposure in quanta and the electronic sigma that includes quantisation."""
        r, n = self.ranges, signal.shape[0]
        gain = torch.exp(self._smooth(n, signal.shape[-2:]) * (r.gain_map * torch.rand((n, 1, 1, 1), generator=self.g)))
        root = (signal * gain).sqrt()
        white = self.uniform(n, *r.white_fraction) * (torch.rand((n, 1, 1, 1), generator=self.g) < 0.7)
        # Direct converters (selenium) and counting detectors have white noise: a share of the samples too.
        white = torch.where(torch.rand((n, 1, 1, 1), generator=self.g) < r.white_share, torch.ones(()), white)
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
        fy = torch.fft.fftfreq(rows)[:, None]
        fx = torch.fft.rfftfreq(columns)[None, :]
        mix = torch.rand((n, 1, 1, 1), generator=self.g)
        mtf = torch.zeros((n, 1, rows, columns // 2 + 1))
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
        chosen = torch.rand((n,), generator=self.g) < r.presentation_share
        count = int(chosen.sum())
        if count == 0:
            return clean, noise, median
        gain = self.uniform(count, *r.unsharp_gain)
        sigma = self.log_uniform(count, 1.0, 12.0)
        rows, columns = clean.shape[-2:]
        f2 = torch.fft.fftfreq(rows)[:, None] ** 2 + torch.fft.rfftfreq(columns)[None, :] ** 2
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
        kind = torch.rand((n, 1, 1, 1), generator=self.g)
        level = self.log_uniform(n, 0.6, 1.6)
        wave = torch.exp(0.2 * self._smooth(n, shape))
        ones = torch.ones((n, 1, *shape))
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
