"""Repeated exposures of one truth, as the product hands them on at any strength."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.denoiser import Denoiser
from model.domain import Domain
from training.cases import KERNELS, Case
from training.lowdose import Detector, expose, quantise

FloatArray = NDArray[np.float32]

STRENGTHS = (0.4, 0.7, 0.9, 1.0)
LINE_NOISE = 0.05
"""Row and column noise of the cases of the protocol, as a fraction of the electronic noise."""


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """One exposure and all of the noise that the blind denoiser, guards included, finds in it.

    ``allowed`` is the greatest strength that the guards leave; 0 where they refuse, and ``found`` is 0 then.
    """

    noisy: FloatArray
    found: FloatArray
    allowed: float

    def applied(self, strength: float) -> float:
        """Return the strength that the product would apply."""
        return min(strength, self.allowed)

    def at(self, strength: float) -> FloatArray:
        """Return what the product would hand on: strength only scales what is removed, guards only cap it."""
        return np.asarray(self.noisy - np.float32(self.applied(strength)) * self.found, dtype=np.float32)


def take(denoiser: Denoiser, noisy: FloatArray, *, domain: Domain = Domain.LINEAR) -> Repeat:
    """Denoise once at full strength; every other strength follows from it."""
    result = denoiser.denoise(noisy[None], domain=domain, strength=1.0)
    allowed = result.strength
    found = (noisy - result.frames[0]) / np.float32(allowed) if allowed > 0 else np.zeros_like(noisy)
    return Repeat(noisy=noisy, found=found, allowed=allowed)


def detector_of(case: Case) -> Detector:
    """Return the detector that `training.cases.make_case` exposes with."""
    return Detector(law=case.law, kernel=KERNELS[case.kernel], line_noise=LINE_NOISE)


def exposure(truth: FloatArray, case: Case, seed: int) -> FloatArray:
    """Expose a truth, which may differ from the case's own, with the case's detector; the seed fixes the noise."""
    noisy = expose(truth, detector_of(case), np.random.default_rng(seed))
    return quantise(noisy, 14).astype(np.float32)
