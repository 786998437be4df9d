"""Verified weights, loaded once, that take the noise out of frames of grey values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from model.bands import run_in_bands
from model.domain import Domain
from model.errors import UnsupportedInput
from model.estimation import NoEstimate, NoiseEstimate, changeable_pixels, estimate_noise, noise_ratio
from model.exposure import DeclaredDose, dose_disagreements
from model.guard import Verdict, clamp_noise, judge_noise, judge_removed, without_low_band
from model.manifest import TrainedFor, find_manifest, load_network, read_manifest
from model.noise import NoiseCurve, Stabiliser
from model.resnet_unet import Z_SCALE, ResnetUnet, channels_last
from model.strips import run_in_strips

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

BYTES_PER_PIXEL_AND_WIDTH = 3
"""Peak memory of the network in bands per input pixel and unit of width, float32 (measured: 2.7 to 3.0 beyond the
fixed part, widths 32 and 64, 1 to 17 megapixels)."""
FIXED_MB = 64
SIGMA_AT_LEAST = 1e-6


@dataclass(frozen=True, kw_only=True)
class DenoiseResult:
    """What became of the frames.

    Parameters
    ----------
    frames
        Same shape as the input, float32; equal to it where ``enhanced`` is False.
    enhanced
        False: the guard refused every frame, the original should be forwarded.
    strength
        Applied; the least over the enhanced frames, 0 if there is none.
    noise_before, noise_after
        Standard deviation at the median value in input units, median over the frames; None without an estimate.
    reasons
        Findings of the guard in plain words, also when enhanced.
    """

    frames: FloatArray
    enhanced: bool
    strength: float
    noise_before: float | None
    noise_after: float | None
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Frame:
    values: FloatArray
    strength: float
    noise_before: float | None
    noise_after: float | None
    reasons: tuple[str, ...]


class Denoiser:
    """A network with verified weights on one device.

    Attributes
    ----------
    name
        Of the weights, for instance ``lite``.
    digest
        SHA-256 of the weights file, hexadecimal.
    trained_for
        Noise that the weights have seen.
    largest_piece
        Pixels, halo included, that the network is given at once within the memory bound.
    """

    def __init__(
        self, network: ResnetUnet, *, name: str, digest: str, trained_for: TrainedFor, device: str, memory_mb: int
    ) -> None:
        self.name = name
        self.digest = digest
        self.trained_for = trained_for
        self._device = torch.device(device)
        self._network = channels_last(network, self._device).eval()
        budget = max(memory_mb - FIXED_MB, FIXED_MB) * 2**20
        self.largest_piece = budget // (BYTES_PER_PIXEL_AND_WIDTH * network.width)

    @classmethod
    def load(
        cls,
        name_or_path: str = "lite",
        *,
        device: str = "auto",
        memory_mb: int = 1024,
        threads: int | None = None,
    ) -> Denoiser:
        """Load weights and prove them against their manifest.

        Parameters
        ----------
        name_or_path
            Published weights by name, or the path of a ``.safetensors`` file with its ``.json`` beside it.
        device
            ``cpu``, ``cuda``, ``cuda:1`` ... or ``auto``: CUDA where there is one.
        memory_mb
            Bound for the network's working memory; smaller strips beneath it.
        threads
            CPU threads of this process; None leaves PyTorch's choice.

        Raises
        ------
        WeightsError
            If weights or manifest are missing, altered or of another architecture.
        """
        manifest = read_manifest(find_manifest(name_or_path))
        network = load_network(manifest)
        if threads is not None:
            torch.set_num_threads(threads)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(
            network,
            name=manifest.name,
            digest=manifest.sha256,
            trained_for=manifest.trained_for,
            device=device,
            memory_mb=memory_mb,
        )

    def denoise(
        self,
        frames: NDArray[np.floating],
        *,
        domain: Domain,
        strength: float = 0.7,
        mask: BoolArray | None = None,
        declared: DeclaredDose | None = None,
    ) -> DenoiseResult:
        """Take a part of the noise out of each frame; the frames are handled one by one.

        Parameters
        ----------
        frames
            Shape ``(frames, rows, columns)``, any unit, from 1 x 1 pixel up.
        domain
            How values relate to exposure.
        strength
            Part of the noise that goes, 0 to 1.
        mask
            True where a pixel is valid, ``(rows, columns)`` or the shape of ``frames``; others stay as they are.
        declared
            Dose that the header declares; where it contradicts the noise, that is a reason, and changes nothing.

        Returns
        -------
        The frames and what was found; the same input gives the same bytes on one machine.

        Raises
        ------
        UnsupportedInput
            If the shape, the mask's shape or the strength is wrong, or a valid pixel is not finite.
        """
        images = np.asarray(frames, dtype=np.float32)
        _check(images, mask, strength)
        out = np.empty_like(images)
        found: list[_Frame] = []
        for i, image in enumerate(images):
            valid = None if mask is None else (mask[i] if mask.ndim == 3 else mask)
            frame = self._frame(image, valid, domain, strength, declared)
            out[i] = frame.values
            found.append(frame)
        return _summary(out, found)

    def remove_noise(
        self, image: FloatArray, curve: NoiseCurve, valid: BoolArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Run transform, network and inverse with a known noise curve; guards are not applied.

        Parameters
        ----------
        image
            Shape ``(rows, columns)``.
        curve
            Standard deviation of the noise by value.
        valid
            Pixels that count for range and median. Where a large area has none, such as beside a collimated
            field, the network does not run.

        Returns
        -------
        Denoised image in input units; noise estimate in sigma, before the clamp, 0 where the network did not run;
        denoised stabilised image.
        """
        values = image[valid]
        low, high = float(values.min()), float(values.max())
        stabiliser = Stabiliser(curve, low=low, high=high)
        # Invalid pixels may hold any padding value: the nearest value in range keeps the tables in range.
        stabilised = stabiliser.forward(np.clip(image, low, high))
        middle = np.float32(stabiliser.forward(np.array([np.median(values)]))[0])
        noise = np.float32(Z_SCALE) * run_in_strips(
            (stabilised - middle) / np.float32(Z_SCALE), self._run, pixels=self.largest_piece, needed=valid
        )
        denoised = stabilised - clamp_noise(noise)
        return stabiliser.inverse(denoised), noise, denoised

    def _run(self, z: FloatArray) -> FloatArray:
        with torch.inference_mode():
            tensor = torch.from_numpy(np.ascontiguousarray(z))[None, None].to(self._device)
            noise = run_in_bands(self._network, tensor)
            return np.asarray(noise[0, 0].cpu().numpy(), dtype=np.float32)

    def _frame(
        self,
        image: FloatArray,
        mask: BoolArray | None,
        domain: Domain,
        strength: float,
        declared: DeclaredDose | None,
    ) -> _Frame:
        valid = changeable_pixels(image, mask)
        median = float(np.median(image[valid])) if valid.any() else 0.0
        estimate = estimate_noise(image, domain=domain, mask=mask)
        before = judge_noise(
            estimate, domain=domain, strength=strength, median=median, quanta_from=self.trained_for.quanta[0]
        )
        dose = dose_disagreements(declared, estimate, domain=domain, median=median)
        before = Verdict(strength=before.strength, reasons=before.reasons + dose)
        if isinstance(estimate, NoEstimate) or before.strength == 0.0:
            sigma = None if isinstance(estimate, NoEstimate) else estimate.median_sigma
            return _Frame(values=image, strength=0.0, noise_before=sigma, noise_after=sigma, reasons=before.reasons)
        return self._enhance(image, valid, estimate, before)

    def _enhance(self, image: FloatArray, valid: BoolArray, estimate: NoiseEstimate, before: Verdict) -> _Frame:
        clean, noise, stabilised = self.remove_noise(image, estimate.curve, valid)
        after = judge_removed(noise, stabilised, valid, estimate.flat_blocks, strength=before.strength)
        reasons = before.reasons + after.reasons
        sigma = estimate.median_sigma
        if after.strength == 0.0:
            return _Frame(values=image, strength=0.0, noise_before=sigma, noise_after=sigma, reasons=reasons)
        removed = without_low_band(image - clean, valid)
        values = np.where(valid, image - np.float32(after.strength) * removed, image)
        ratio = noise_ratio(image, values, estimate.flat_blocks)
        return _Frame(
            values=values, strength=after.strength, noise_before=sigma, noise_after=sigma * ratio, reasons=reasons
        )


def _check(images: FloatArray, mask: BoolArray | None, strength: float) -> None:
    if images.ndim != 3 or images.size == 0:
        raise UnsupportedInput(f"frames must have the shape (frames, rows, columns), not {images.shape}")
    if mask is not None and mask.shape not in (images.shape, images.shape[1:]):
        raise UnsupportedInput(f"mask has the shape {mask.shape}, frames {images.shape}")
    if not 0.0 <= strength <= 1.0:
        raise UnsupportedInput(f"strength {strength} is not between 0 and 1")
    # A sum is finite only if every term is, and needs no second array; an overflow is no valid pixel either.
    finite = np.isfinite(images.sum(dtype=np.float64))
    if not finite and not np.all(np.isfinite(images) | (False if mask is None else ~mask)):
        raise UnsupportedInput("a valid pixel is not finite")


def _summary(out: FloatArray, found: list[_Frame]) -> DenoiseResult:
    enhanced = [frame for frame in found if frame.strength > 0]
    before = [frame.noise_before for frame in found if frame.noise_before is not None]
    after = [frame.noise_after for frame in found if frame.noise_after is not None]
    reasons: dict[str, None] = {}
    for i, frame in enumerate(found):
        for reason in frame.reasons:
            reasons[reason if len(found) == 1 else f"frame {i + 1}: {reason}"] = None
    return DenoiseResult(
        frames=out,
        enhanced=bool(enhanced),
        strength=min((frame.strength for frame in enhanced), default=0.0),
        noise_before=float(np.median(before)) if before else None,
        noise_after=float(np.median(after)) if after else None,
        reasons=tuple(reasons),
    )
