"""Test cases with a known truth: clean images exposed at fractions of a dose, with fixed noise seeds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from model.noise import NoiseLaw, Stabiliser
from training.clean import CleanImage
from training.dataset import load_split
from training.lowdose import WANG_2014_CSI, Detector, expose, gaussian_kernel, quantise, unit_energy
from training.phantom import ANATOMIES, phantom
from training.settings import load_settings

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

FULL_DOSE_QUANTA = 600.0
"""Effective quanta per pixel at the median of a picture at full dose: between open field and dense anatomy of the
six CsI detectors of Marshall 2011 (1440 per 143 um pixel at 2.57 uGy)."""
DOSES = {"1/2": 0.5, "1/4": 0.25, "1/10": 0.1}
KERNELS: dict[str, NDArray[np.float64]] = {
    "csi": WANG_2014_CSI,
    "white": np.ones((1, 1)),
    "soft": gaussian_kernel(2.2),
}
OPEN_FIELD = 12000.0
SIDE = 384
OWN_NOISE_CAP = 0.06
"""Greatest share of the truth's own noise in the power of the simulated noise at a quarter of the dose."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One low-dose image with its truth, both in stored values."""

    source: str
    patient: str
    dose: str
    kernel: str
    noisy: FloatArray
    truth: FloatArray
    law: NoiseLaw
    field: BoolArray


def make_case(image: CleanImage, *, dose: str, kernel: str, seed: int, side: int = SIDE) -> Case:
    """Expose the central part of a clean image; the seed fixes the noise."""
    truth, law, field = _without_noise(image, dose, side)
    detector = Detector(law=law, kernel=KERNELS[kernel], line_noise=0.05)
    noisy = quantise(expose(truth, detector, np.random.default_rng(seed)), 14).astype(np.float32)
    return Case(
        source=image.source,
        patient=image.patient,
        dose=dose,
        kernel=kernel,
        noisy=noisy,
        truth=truth,
        law=law,
        field=field,
    )


def _without_noise(image: CleanImage, dose: str, side: int) -> tuple[FloatArray, NoiseLaw, BoolArray]:
    a = image.attenuation
    y0, x0 = max(0, (a.shape[0] - side) // 2), max(0, (a.shape[1] - side) // 2)
    a = a[y0 : y0 + side, x0 : x0 + side]
    transmission = np.exp(-np.clip(a - a.min(), 0.0, 6.0)).astype(np.float32)
    value_per_quantum = OPEN_FIELD * float(np.median(transmission)) / FULL_DOSE_QUANTA
    law = NoiseLaw(structure=0.005, quantum=value_per_quantum, electronic=value_per_quantum * 10.0**0.5)
    truth = (OPEN_FIELD * DOSES[dose] * transmission).astype(np.float32)
    # Air and what lies behind the collimator are left out.
    field = (transmission < 0.98) & (transmission > 0.01)
    return truth, law, field if field.mean() >= 0.2 else np.ones_like(field)


def own_noise_power(image: CleanImage, *, dose: str, side: int = SIDE) -> float:
    """Return the mean power of the truth's own noise in sigma² of the simulated noise: a floor of the error."""
    truth, law, field = _without_noise(image, dose, side)
    return float(np.mean(np.square(image.own_noise * truth / law.sigma(truth))[field]))


def stabiliser_of(case: Case) -> Stabiliser:
    """Return the transform of the true law."""
    low, high = float(case.noisy.min()), float(case.noisy.max())
    return Stabiliser(case.law.curve(low, high), low=low, high=high)


def noise_autocovariance(case: Case) -> NDArray[np.float64]:
    """Return the autocovariance of the stabilised noise: the kernel's for the quantum part, the rest white.

    Sides odd, lag 0 in the middle and 1. The quantum part is that of the mean over the field; row and column offsets,
    a few thousandths of the variance, are left out.
    """
    quantum = case.law.quantum * case.truth / case.law.variance(case.truth)
    share = float(np.mean(quantum[case.field]))
    kernel = unit_energy(KERNELS[case.kernel])
    autocovariance = share * signal.correlate(kernel, kernel)
    autocovariance[autocovariance.shape[0] // 2, autocovariance.shape[1] // 2] += 1.0 - share
    return np.asarray(autocovariance)


@dataclass(frozen=True, kw_only=True)
class ProtocolImages:
    """What is reported, what the baselines are tuned on, and which sources training has never seen."""

    reported: list[CleanImage]
    tuning: list[CleanImage]
    unseen_sources: frozenset[str]


def protocol_images(data: Path | None, config: Path, *, most_per_source: int) -> ProtocolImages:
    """Choose the images of the protocol.

    Reported are patients and sources kept from training, the cleanest first, and only those whose own noise has at
    most `OWN_NOISE_CAP` of the power of the noise at a quarter of the dose; and phantoms with seeds below 1000, one of
    each anatomy. For tuning each source gives its cleanest image of a patient that is not reported; a source without
    one gives another crop of a reported image (noise seeds differ in any case). Phantoms for tuning have other seeds.
    """
    reported: list[CleanImage] = []
    tuning: list[CleanImage] = []
    unseen: frozenset[str] = frozenset()
    if data is not None and data.is_dir():
        settings = load_settings(config)
        split = load_split(data, settings)
        unseen = frozenset(folder.name for folder in settings.images if folder.held_out)
        for source in sorted({image.source for image in split.validation}):
            held = _cleanest(split.validation, source)
            clean = [image for image in held if own_noise_power(image, dose="1/4") <= OWN_NOISE_CAP]
            chosen = clean[:most_per_source]
            if not chosen:
                continue
            patients = {image.patient for image in chosen}
            others = [i for i in _cleanest(split.training, source) + held if i.patient not in patients]
            reported += chosen
            tuning.append(others[0] if others else _upper_part(chosen[0]))
    anatomies = sorted(ANATOMIES)
    reported += [_phantom(i, anatomy) for i, anatomy in enumerate(anatomies[:most_per_source])]
    tuning += [_phantom(100 + i, anatomy) for i, anatomy in enumerate(anatomies[:2])]
    return ProtocolImages(reported=reported, tuning=tuning, unseen_sources=unseen)


def validation_images(data: Path | None, config: Path, *, most_per_source: int) -> list[CleanImage]:
    """Return the reported images of `protocol_images`."""
    return protocol_images(data, config, most_per_source=most_per_source).reported


def _cleanest(images: list[CleanImage], source: str) -> list[CleanImage]:
    return sorted((image for image in images if image.source == source), key=lambda image: image.own_noise)


def _upper_part(image: CleanImage) -> CleanImage:
    rows = image.attenuation.shape[0] // 2
    return replace(image, attenuation=image.attenuation[:rows])


def _phantom(seed: int, anatomy: str) -> CleanImage:
    truth = -np.log(phantom(SIDE, SIDE, seed, anatomy=anatomy))
    return CleanImage(attenuation=truth, own_noise=0.0, patient=f"phantom:{anatomy}", source="phantom")
