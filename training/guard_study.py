"""How often the guards hold back a good image, and what they do with images made to set them off."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from model.denoiser import Denoiser
from model.domain import Domain
from model.exposure import DeclaredDose
from model.noise import NoiseLaw
from training.cases import DOSES, KERNELS, make_case
from training.clean import CleanImage
from training.lowdose import WANG_2014_CSI, Detector, expose, gaussian_kernel, quantise, unit_energy
from training.phantom import phantom
from training.textures import dead_leaves

FloatArray = NDArray[np.float32]

STRENGTH = 0.7
SIDE = 512
QUANTA = 150.0
DISPLAY_TOP = 4095.0


def in_domain(exposure: FloatArray, domain: Domain) -> FloatArray:
    """Return the stored values that a modality would make of an exposure: as it is, its logarithm, or a tone curve."""
    if domain is Domain.LINEAR:
        return exposure
    logarithm = np.log(np.maximum(exposure, 1.0))
    if domain is Domain.LOG:
        return np.asarray(np.rint(1000.0 * logarithm), dtype=np.float32)
    low, high = np.percentile(logarithm, (0.5, 99.5))
    grey = np.clip((high - logarithm) / max(float(high - low), 1e-6), 0.0, 1.0)
    curve = 1.0 / (1.0 + np.exp(-6.0 * (grey - 0.5)))
    return np.asarray(np.rint(DISPLAY_TOP * curve), dtype=np.float32)


def false_alarms(denoiser: Denoiser, images: list[CleanImage], *, quick: bool) -> dict[str, Any]:
    """Count the good images that are refused or lowered: each image at each dose, kernel and domain.

    Dose reasons can't occur (nothing is declared), so every reason is an alarm. Images below 384 px, which say little
    of their noise, are counted as they are.
    """
    doses = ("1/4",) if quick else tuple(DOSES)
    kernels = ("csi",) if quick else tuple(KERNELS)
    by_domain = {domain.name: {"images": 0, "refused": 0, "lowered": 0} for domain in Domain}
    reasons: dict[str, int] = {}
    for number, image in enumerate(images):
        for dose in doses:
            for kernel in kernels:
                noisy = make_case(image, dose=dose, kernel=kernel, seed=number).noisy
                for domain in Domain:
                    result = denoiser.denoise(in_domain(noisy, domain)[None], domain=domain, strength=STRENGTH)
                    count = by_domain[domain.name]
                    count["images"] += 1
                    count["refused"] += not result.enhanced
                    count["lowered"] += result.enhanced and result.strength < STRENGTH
                    for reason in result.reasons:
                        kind = f"{domain.name}: {_without_figures(reason)}"
                        reasons[kind] = reasons.get(kind, 0) + 1
    total = {key: sum(count[key] for count in by_domain.values()) for key in ("images", "refused", "lowered")}
    held_back = total["refused"] + total["lowered"]
    return {**total, "rate": held_back / max(total["images"], 1), "by_domain": by_domain, "reasons": reasons}


def _without_figures(reason: str) -> str:
    return reason.split("(")[0].rstrip("0123456789.% ")


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """An image made to set a guard off; ``expected`` names what may become of it, ``declared`` its header."""

    case: str
    expected: str
    image: FloatArray
    domain: Domain = Domain.LINEAR
    declared: DeclaredDose | None = None


def low_dose(kernel: NDArray[np.float64] = WANG_2014_CSI, *, quanta: float = QUANTA) -> FloatArray:
    """Return a chest phantom at low dose, 512 px."""
    truth = 4000.0 * phantom(SIDE, SIDE, 21, anatomy="chest")
    quantum = float(np.median(truth)) / quanta
    law = NoiseLaw(structure=0.005, quantum=quantum, electronic=3.0 * quantum)
    return quantise(expose(truth, Detector(law=law, kernel=kernel), np.random.default_rng(4)), 14).astype(np.float32)


def with_text(image: FloatArray) -> FloatArray:
    """Return the image with rows of strokes 3 px wide burned in, like letters."""
    written = image.copy()
    for row in range(40, 200, 40):
        for column in range(60, 400, 9):
            written[row : row + 24, column : column + 3] = 12000.0
    return written


def alarms(denoiser: Denoiser) -> Iterator[Alarm]:
    """Yield one image for each guard, and two good ones to compare with."""
    held = "lowered or refused"
    good = low_dose()
    rng = np.random.default_rng(9)
    yield Alarm(case="low-dose chest", expected="enhanced", image=good)
    yield Alarm(case="text burned in", expected="enhanced", image=with_text(good))
    yield Alarm(case="noise of 8 px", expected=held, image=low_dose(gaussian_kernel(8.0)))
    yield Alarm(case="noise in streaks of 15 px", expected=held, image=low_dose(unit_energy(np.ones((1, 15)))))
    once = denoiser.denoise(good[None], domain=Domain.LINEAR, strength=1.0).frames[0]
    yield Alarm(case="denoised before", expected=held, image=np.rint(once))
    yield Alarm(
        case="smoothed before (Gaussian, 2 px)", expected=held, image=np.rint(ndimage.gaussian_filter(good, 2.0))
    )
    yield Alarm(case="1.5 quanta per pixel", expected=held, image=low_dose(quanta=1.5))
    yield Alarm(
        case="page of text",
        expected=held,
        image=np.rint(with_text(np.full((SIDE, SIDE), 200.0, dtype=np.float32)) / 60.0),
        domain=Domain.DISPLAY,
    )
    yield Alarm(case="picture of a texture", expected=held, image=texture(rng), domain=Domain.DISPLAY)
    drawing = np.rint(4000.0 * np.exp(-dead_leaves((SIDE, SIDE), np.random.default_rng(5)))).astype(np.float32)
    yield Alarm(case="drawing without noise", expected=held, image=drawing, domain=Domain.DISPLAY)
    yield Alarm(case="empty image", expected="refused", image=np.zeros((SIDE, SIDE), dtype=np.float32))
    yield Alarm(case="constant image", expected="refused", image=np.full((SIDE, SIDE), 512.0, dtype=np.float32))
    tiny = good[:24, :24]
    yield Alarm(case="image of 24 px", expected="refused", image=tiny)
    # 150 quanta per pixel of 0.143 mm are 7300 per mm²: 0.24 µGy, not 10.
    declared = DeclaredDose(exposure_index=1000.0, pixel_mm2=0.143**2)
    yield Alarm(case="Exposure Index 40 times too high", expected="flagged", image=good, declared=declared)


def texture(rng: np.random.Generator) -> FloatArray:
    """Return a picture of fine grain in 8 bit, as of gravel or cloth: no noise, all structure."""
    grain = ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), 1.8)
    coarse = ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), 6.0)
    image = 128.0 + 30.0 * grain / grain.std() + 25.0 * coarse / coarse.std()
    return np.asarray(np.clip(np.rint(image), 0, 255), dtype=np.float32)


def judge_alarm(denoiser: Denoiser, alarm: Alarm) -> dict[str, Any]:
    """Return what becomes of one image: decision, strength and reasons."""
    result = denoiser.denoise(alarm.image[None], domain=alarm.domain, strength=STRENGTH, declared=alarm.declared)
    decision = "refused" if not result.enhanced else "lowered" if result.strength < STRENGTH else "enhanced"
    if decision == "enhanced" and any("declared" in reason for reason in result.reasons):
        decision = "flagged"
    return {
        "case": alarm.case,
        "expected": alarm.expected,
        "decision": decision,
        "as_expected": decision in alarm.expected,
        "strength": result.strength,
        "reasons": "; ".join(result.reasons),
    }


def guard_report(denoiser: Denoiser, images: list[CleanImage], *, quick: bool) -> dict[str, Any]:
    """Return the rate of false alarms over good images and the table of cases made to fire.

    Parameters
    ----------
    denoiser
        With its guards, as the product uses it.
    images
        Clean images; each is exposed at every dose and kernel and shown in every domain.
    quick
        A quarter of the dose and the CsI kernel alone.
    """
    return {
        "false_alarms": false_alarms(denoiser, images, quick=quick),
        "cases": [judge_alarm(denoiser, alarm) for alarm in alarms(denoiser)],
        "strength": STRENGTH,
    }
