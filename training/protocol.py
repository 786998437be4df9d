"""One test case under every method: ours and the classical filters, with the noise known and blind."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from model.denoiser import Denoiser
from model.domain import Domain
from model.estimation import NoEstimate, estimate_noise
from model.noise import Stabiliser
from training.baselines import BASELINES
from training.cases import Case, make_case, noise_autocovariance, stabiliser_of
from training.clean import CleanImage
from training.metrics import psnr, ssim

FloatArray = NDArray[np.float32]
Tuned = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Kernel to baseline to dose to the chosen parameter."""

OURS_KNOWN = "ours, law known"
OURS_BLIND = {"ours, blind": 1.0, "ours, blind, strength 0.7": 0.7}
"""Method to strength."""
ALSO_BLIND = ("bm3d", "bm3d psd")
"""Baselines that also run with our blind estimate of the noise instead of the truth."""
TUNING_SIDE = 256
TUNING_SEED = 900


@dataclass(frozen=True, kw_only=True)
class Row:
    """Figures of one method on one case; gains in dB over the noisy input.

    ``track``: ``input`` the noisy image, ``oracle`` the true noise law given, ``blind`` nothing given. The gain in the
    stabilised domain is that of the error in units of the true sigma.
    """

    source: str
    patient: str
    dose: str
    kernel: str
    seed: int
    method: str
    track: str
    mse_sigma2: float
    gain_stabilised_db: float
    gain_linear_db: float
    gain_log_db: float
    psnr_db: float
    psnr_log_db: float
    ssim: float


@dataclass(frozen=True, kw_only=True)
class Task:
    """One case to evaluate: an image with dose, kernel and noise seed, and the methods to run.

    ``weights`` None leaves ours out; ``tuned`` holds the baselines.
    """

    image: CleanImage
    dose: str
    kernel: str
    seed: int
    weights: str | None
    tuned: Tuned


def log_values(values: FloatArray) -> FloatArray:
    """Return the logarithm of stored values, those below 1 as 1."""
    return np.log(np.maximum(values, 1.0)).astype(np.float32)


def measure(case: Case, method: str, result: FloatArray, *, track: str = "oracle", seed: int = 0) -> Row:
    """Compare a result with the truth, within the field."""
    sigma = case.law.sigma(case.truth)

    def power(image: FloatArray) -> float:
        return float(np.mean(np.square((image - case.truth) / sigma)[case.field]))

    log_truth, log_result, log_noisy = (log_values(image) for image in (case.truth, result, case.noisy))
    linear_db = psnr(result, case.truth, mask=case.field)
    log_db = psnr(log_result, log_truth, mask=case.field)
    return Row(
        source=case.source,
        patient=case.patient,
        dose=case.dose,
        kernel=case.kernel,
        seed=seed,
        method=method,
        track=track,
        mse_sigma2=power(result),
        gain_stabilised_db=10 * float(np.log10(power(case.noisy) / power(result))),
        gain_linear_db=linear_db - psnr(case.noisy, case.truth, mask=case.field),
        gain_log_db=log_db - psnr(log_noisy, log_truth, mask=case.field),
        psnr_db=linear_db,
        psnr_log_db=log_db,
        ssim=ssim(log_result, log_truth, mask=case.field),
    )


@functools.cache
def load_denoiser(weights: str) -> Denoiser:
    """Load weights once per process."""
    return Denoiser.load(weights, device="auto")


def use_one_thread() -> None:
    """Keep this process to one thread, so that results do not depend on the number of processes."""
    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # type: ignore[no-untyped-call]


def ours_known(case: Case, denoiser: Denoiser) -> FloatArray:
    """Return our result with the true noise law; guards and strength left out."""
    curve = case.law.curve(float(case.noisy.min()), float(case.noisy.max()))
    return denoiser.remove_noise(case.noisy, curve, np.ones(case.noisy.shape, dtype=np.bool_))[0]


def ours_blind(case: Case, denoiser: Denoiser, strength: float) -> FloatArray:
    """Return our result as the product gives it: estimated noise, guards, strength."""
    frames = denoiser.denoise(case.noisy[None], domain=Domain.LINEAR, strength=strength).frames
    return np.asarray(frames[0])


def classical(case: Case, name: str, parameter: float) -> FloatArray:
    """Return the result of a baseline with the true law and autocovariance."""
    transform = stabiliser_of(case)
    filtered = BASELINES[name][0](transform.forward(case.noisy), parameter, noise_autocovariance(case))
    return transform.inverse(filtered)


def classical_blind(case: Case, name: str, parameter: float) -> FloatArray:
    """Return the result of a baseline with our blind estimate of noise curve and correlation."""
    estimate = estimate_noise(case.noisy, domain=Domain.LINEAR)
    if isinstance(estimate, NoEstimate):
        return case.noisy
    transform = Stabiliser(estimate.curve, low=float(case.noisy.min()), high=float(case.noisy.max()))
    # The estimate knows the two axes; between them the autocovariance is taken as their product.
    along_y, along_x = (
        np.concatenate((lags[::-1], (1.0,), lags)) for lags in (estimate.correlation_y, estimate.correlation_x)
    )
    filtered = BASELINES[name][0](transform.forward(case.noisy), parameter, np.outer(along_y, along_x))
    return transform.inverse(filtered)


def evaluate_case(task: Task) -> list[Row]:
    """Run every method of a task."""
    use_one_thread()
    case = make_case(task.image, dose=task.dose, kernel=task.kernel, seed=task.seed)

    def row(method: str, result: FloatArray, track: str) -> Row:
        return measure(case, method, result, track=track, seed=task.seed)

    rows = []
    if task.weights is not None:
        denoiser = load_denoiser(task.weights)
        rows = [row("noisy", case.noisy, "input"), row(OURS_KNOWN, ours_known(case, denoiser), "oracle")]
        rows += [row(name, ours_blind(case, denoiser, strength), "blind") for name, strength in OURS_BLIND.items()]
    for name, by_dose in task.tuned.get(task.kernel, {}).items():
        rows.append(row(name, classical(case, name, by_dose[task.dose]), "oracle"))
        if name in ALSO_BLIND:
            rows.append(row(f"{name}, blind", classical_blind(case, name, by_dose[task.dose]), "blind"))
    return rows


@dataclass(frozen=True, kw_only=True)
class TuningTask:
    """The choice of one baseline's parameter for one kernel and dose."""

    images: tuple[CleanImage, ...]
    name: str
    kernel: str
    dose: str


def tune(task: TuningTask) -> float:
    """Return the parameter with the greatest mean gain in the stabilised domain over the tuning images."""
    use_one_thread()
    cases = [
        make_case(image, dose=task.dose, kernel=task.kernel, seed=TUNING_SEED + i, side=TUNING_SIDE)
        for i, image in enumerate(task.images)
    ]
    values = BASELINES[task.name][1]
    gains = [
        np.mean([measure(case, "", classical(case, task.name, value)).gain_stabilised_db for case in cases])
        for value in values
    ]
    return float(values[int(np.argmax(gains))])
