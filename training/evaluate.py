"""The evaluation protocol: ``python -m training.evaluate --weights lite --data DIR --output outputs/evaluation``."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from model.denoiser import Denoiser
from model.domain import Domain
from model.noise import NoiseLaw, Stabiliser
from training.baselines import BASELINES
from training.dataset import load_split
from training.images import CleanImage
from training.lowdose import WANG_2014_CSI, Detector, expose, gaussian_kernel, quantise
from training.metrics import psnr, ssim
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
TUNING_SIDE = 256


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


@dataclass(frozen=True, kw_only=True)
class Row:
    """Figures of one method on one case; gains in dB over the noisy input."""

    source: str
    patient: str
    dose: str
    kernel: str
    method: str
    mse_sigma2: float
    gain_stabilised_db: float
    gain_linear_db: float
    psnr_db: float
    ssim: float


def make_case(image: CleanImage, *, dose: str, kernel: str, seed: int, side: int = SIDE) -> Case:
    """Expose the central part of a clean image; the seed fixes the noise."""
    a = image.attenuation
    y0, x0 = max(0, (a.shape[0] - side) // 2), max(0, (a.shape[1] - side) // 2)
    a = a[y0 : y0 + side, x0 : x0 + side]
    transmission = np.exp(-np.clip(a - a.min(), 0.0, 6.0)).astype(np.float32)
    factor = DOSES[dose]
    value_per_quantum = OPEN_FIELD * float(np.median(transmission)) / FULL_DOSE_QUANTA
    law = NoiseLaw(structure=0.005, quantum=value_per_quantum, electronic=value_per_quantum * 10.0**0.5)
    truth = (OPEN_FIELD * factor * transmission).astype(np.float32)
    detector = Detector(law=law, kernel=KERNELS[kernel], line_noise=0.05)
    noisy = quantise(expose(truth, detector, np.random.default_rng(seed)), 14).astype(np.float32)
    # Air and what lies behind the collimator are left out.
    field = (transmission < 0.98) & (transmission > 0.01)
    if field.mean() < 0.2:
        field = np.ones_like(field)
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


def measure(case: Case, method: str, result: FloatArray) -> Row:
    """Compare a result with the truth."""
    sigma = case.law.sigma(case.truth)

    def power(image: FloatArray) -> float:
        return float(np.mean(np.square((image - case.truth) / sigma)[case.field]))

    before = case.noisy
    log_truth, log_result = _log(case.truth), _log(result)
    return Row(
        source=case.source,
        patient=case.patient,
        dose=case.dose,
        kernel=case.kernel,
        method=method,
        mse_sigma2=power(result),
        gain_stabilised_db=10 * float(np.log10(power(before) / power(result))),
        gain_linear_db=psnr(result, case.truth, mask=case.field) - psnr(before, case.truth, mask=case.field),
        psnr_db=psnr(result, case.truth, mask=case.field),
        ssim=ssim(log_result, log_truth, mask=case.field),
    )


def _log(values: FloatArray) -> FloatArray:
    return np.log(np.maximum(values, 1.0)).astype(np.float32)


def stabiliser_of(case: Case) -> Stabiliser:
    """Return the transform of the true law."""
    low, high = float(case.noisy.min()), float(case.noisy.max())
    return Stabiliser(case.law.curve(low, high), low=low, high=high)


def tune(cases: list[Case], name: str) -> dict[str, float]:
    """Return, per dose, the parameter of a baseline with the least mean error over the cases."""
    filter_, values = BASELINES[name]
    best: dict[str, float] = {}
    for dose in DOSES:
        chosen = [case for case in cases if case.dose == dose]
        if not chosen:
            continue
        totals = []
        for value in values:
            errors = []
            for case in chosen:
                transform = stabiliser_of(case)
                result = transform.inverse(filter_(transform.forward(case.noisy), value))
                errors.append(measure(case, name, result).mse_sigma2)
            totals.append(float(np.mean(errors)))
        best[dose] = values[int(np.argmin(totals))]
    return best


def run_methods(case: Case, denoiser: Denoiser, tuned: dict[str, dict[str, float]]) -> dict[str, FloatArray]:
    """Return the result of every method on one case."""
    results = {"noisy": case.noisy}
    low, high = float(case.noisy.min()), float(case.noisy.max())
    everywhere = np.ones(case.noisy.shape, dtype=np.bool_)
    results["ours, law known"] = denoiser.remove_noise(case.noisy, case.law.curve(low, high), everywhere)[0]
    for label, strength in (("ours, blind", 1.0), ("ours, blind, strength 0.7", 0.7)):
        results[label] = denoiser.denoise(case.noisy[None], domain=Domain.LINEAR, strength=strength).frames[0]
    transform = stabiliser_of(case)
    stabilised = transform.forward(case.noisy)
    for name, by_dose in tuned.items():
        results[name] = transform.inverse(BASELINES[name][0](stabilised, by_dose[case.dose]))
    return results


def validation_images(data: Path | None, config: Path, *, most_per_source: int) -> list[CleanImage]:
    """Return unseen images: patients and sources kept from training, and phantoms with seeds below 1000."""
    images: list[CleanImage] = []
    if data is not None and data.is_dir():
        by_source: dict[str, list[CleanImage]] = {}
        for image in load_split(data, load_settings(config)).validation:
            by_source.setdefault(image.source, []).append(image)
        for source in sorted(by_source):
            images += sorted(by_source[source], key=lambda image: image.own_noise)[:most_per_source]
    for i, anatomy in enumerate(sorted(ANATOMIES)[:most_per_source]):
        truth = -np.log(phantom(SIDE, SIDE, i, anatomy=anatomy))
        images.append(CleanImage(attenuation=truth, own_noise=0.0, patient=f"phantom:{anatomy}", source="phantom"))
    return images


def bootstrap(gains: dict[str, list[float]], *, draws: int = 2000) -> tuple[float, float, float]:
    """Return mean and 95 % interval of the mean gain, patients drawn with replacement."""
    means = np.array([float(np.mean(values)) for values in gains.values()])
    rng = np.random.default_rng(0)
    drawn = means[rng.integers(0, means.size, (draws, means.size))].mean(axis=1)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return float(means.mean()), float(low), float(high)


def summarise(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Return mean figures per source, dose, kernel and method, and over all real sources together."""
    groups: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        for source in (row.source, "real sources" if row.source != "phantom" else ""):
            if source:
                groups.setdefault((source, row.dose, row.kernel, row.method), []).append(row)
    summary = []
    for (source, dose, kernel, method), members in sorted(groups.items()):
        gains: dict[str, list[float]] = {}
        for row in members:
            gains.setdefault(row.patient, []).append(row.gain_stabilised_db)
        mean, low, high = bootstrap(gains)
        summary.append(
            {
                "source": source,
                "dose": dose,
                "kernel": kernel,
                "method": method,
                "patients": len(gains),
                "gain_stabilised_db": round(mean, 3),
                "interval_95": [round(low, 3), round(high, 3)],
                "gain_linear_db": round(float(np.mean([r.gain_linear_db for r in members])), 3),
                "psnr_db": round(float(np.mean([r.psnr_db for r in members])), 3),
                "ssim": round(float(np.mean([r.ssim for r in members])), 4),
                "mse_sigma2": round(float(np.mean([r.mse_sigma2 for r in members])), 4),
            }
        )
    return summary


def show(summary: list[dict[str, Any]], console: Console) -> None:
    """Print one table: a line per source, kernel and method, a column per dose."""
    table = Table(title="gain over the noisy input in dB (stabilised domain) / PSNR in dB / SSIM")
    for title in ("source", "kernel", "method", *DOSES):
        table.add_column(title, no_wrap=True)
    keys = sorted({(line["source"], line["kernel"], line["method"]) for line in summary})
    for source, kernel, method in keys:
        cells = [
            f"{line['gain_stabilised_db']:.2f} / {line['psnr_db']:.1f} / {line['ssim']:.3f}"
            for dose in DOSES
            for line in summary
            if (line["source"], line["kernel"], line["method"], line["dose"]) == (source, kernel, method, dose)
        ]
        table.add_row(source, kernel, method, *cells)
    console.print(table)


def save_strip(case: Case, results: dict[str, FloatArray], path: Path) -> None:
    """Write noisy, ours (blind, 0.7), ours (blind), the tuned Gaussian and the truth side by side, same window."""
    names = ("noisy", "ours, blind, strength 0.7", "ours, blind", "gaussian")
    tiles = [_log(results[name]) for name in names if name in results] + [_log(case.truth)]
    low, high = np.percentile(tiles[-1][case.field], (0.5, 99.5))
    grey = 255 - np.clip((np.hstack(tiles) - low) / max(float(high - low), 1e-6), 0, 1) * 255
    sitk.WriteImage(sitk.GetImageFromArray(grey.astype(np.uint8)), str(path))


def evaluate(
    denoiser: Denoiser,
    images: list[CleanImage],
    *,
    seeds: int,
    kernels: Iterable[str],
    baselines: Iterable[str],
    output: Path,
) -> dict[str, Any]:
    """Run the protocol and write ``evaluation.json`` and image strips; returns the report."""
    output.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    plan = [
        (image, dose, kernel, seed) for image in images for dose in DOSES for kernel in kernels for seed in range(seeds)
    ]
    tuning = [
        make_case(image, dose=dose, kernel="csi", seed=900, side=TUNING_SIDE) for image in images[::3] for dose in DOSES
    ]
    tuned = {name: tune(tuning, name) for name in baselines}
    rows: list[Row] = []
    for image, dose, kernel, seed in track(plan, description="evaluating"):
        case = make_case(image, dose=dose, kernel=kernel, seed=seed)
        results = run_methods(case, denoiser, tuned)
        rows += [measure(case, method, result) for method, result in results.items()]
        if seed == 0 and kernel == "csi" and dose != "1/2":
            safe = case.patient.replace(":", "_").replace("/", "_")
            save_strip(case, results, output / f"{safe}_{dose.replace('/', 'of')}.png")
    report = {
        "weights": denoiser.name,
        "sha256": denoiser.digest,
        "full_dose_quanta": FULL_DOSE_QUANTA,
        "seeds": seeds,
        "tuned": tuned,
        "seconds": round(time.monotonic() - started, 1),
        "summary": summarise(rows),
        "rows": [asdict(row) for row in rows],
    }
    (output / "evaluation.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def main(arguments: list[str] | None = None) -> int:
    """Evaluate; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("--weights", default="lite", help="published name or path of a .safetensors file")
    parser.add_argument("--data", type=Path, default=None, help="data root of the settings; without it phantoms alone")
    parser.add_argument("--config", type=Path, default=Path("config/training/lite.toml"))
    parser.add_argument("--output", type=Path, default=Path("outputs/evaluation"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--images-per-source", type=int, default=8)
    parser.add_argument("--kernels", nargs="+", choices=sorted(KERNELS), default=sorted(KERNELS))
    parser.add_argument("--baselines", nargs="*", choices=sorted(BASELINES), default=sorted(BASELINES))
    parser.add_argument("--quick", action="store_true", help="few images, one seed, CsI kernel, Gaussian only")
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    denoiser = Denoiser.load(options.weights, device="auto")
    most = 2 if options.quick else options.images_per_source
    images = validation_images(options.data, options.config, most_per_source=most)
    report = evaluate(
        denoiser,
        images,
        seeds=1 if options.quick else options.seeds,
        kernels=("csi",) if options.quick else options.kernels,
        baselines=("gaussian",) if options.quick else options.baselines,
        output=options.output,
    )
    shown = [line for line in report["summary"] if options.quick or line["source"] in ("real sources", "phantom")]
    show(shown, Console())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
