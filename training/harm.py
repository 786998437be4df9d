"""Do no harm: ``python -m training.harm --weights lite --output outputs/harm [--data DIR] [--quick]``."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.denoiser import Denoiser
from training.cases import FULL_DOSE_QUANTA, SIDE, validation_images
from training.clean import CleanImage
from training.detection import EXPECTED_D, contrast_detail
from training.fidelity import CONTRASTS_PERCENT, bias, edge_transfer, noise_texture, phantom_image
from training.quality_phantoms import quality_phantoms

DEFAULT_STRENGTH = 0.7
MOST_IMAGES = 2
"""Real images of which the bias is measured; each costs 20 exposures per dose."""

DOSE_EQUIVALENCE = 1.8
HOTELLING_RATIO = 0.98
TTF50_LOSS = 0.03
NPS_SHIFT = 0.20
OBJECT_LOSS = 0.03


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How much is measured."""

    doses: tuple[str, ...]
    kernels: tuple[str, ...]
    anatomies: tuple[tuple[str, int], ...]
    realisations: int = 20
    pairs: int
    edge_repeats: int
    faint_edge_repeats: int
    detection_images: int
    bootstrap_draws: int


FULL = Extent(
    doses=("1/2", "1/4", "1/10"),
    kernels=("csi", "white", "soft"),
    anatomies=(("chest", 1), ("pelvis", 2)),
    pairs=4,
    edge_repeats=12,
    faint_edge_repeats=36,
    detection_images=120,
    bootstrap_draws=200,
)
QUICK = Extent(
    doses=("1/4",),
    kernels=("csi",),
    anatomies=(("chest", 1),),
    pairs=2,
    edge_repeats=4,
    faint_edge_repeats=8,
    detection_images=40,
    bootstrap_draws=50,
)


def harm_report(
    denoiser: Denoiser,
    *,
    quick: bool,
    output: Path,
    images: Sequence[CleanImage] = (),
    data: Path | None = None,
) -> dict[str, Any]:
    """Measure what denoising costs: bias, noise texture, edges, detection of discs, objects of real phantoms.

    Parameters
    ----------
    denoiser
        Used as the product does: noise estimated from the image itself, guards on.
    quick
        One dose, one kernel, few exposures: a minute rather than ten.
    output
        Folder in which ``harm.json`` is written.
    images
        Real images as truth for the bias; the first of each of two sources are taken.
    data
        Data root with the quality phantoms; without it they are left out.

    Returns
    -------
    Conditions, results by part, and the targets with what was measured.
    """
    started = time.monotonic()
    extent = QUICK if quick else FULL
    chosen = [phantom_image(*anatomy) for anatomy in extent.anatomies] + ([] if quick else _first_of_sources(images))
    bias_rows, worth_in_error = bias(denoiser, chosen, extent.doses, realisations=extent.realisations)
    discs, worth_in_detection = contrast_detail(
        denoiser, extent.doses, images=extent.detection_images, draws=extent.bootstrap_draws
    )
    report: dict[str, Any] = {
        "weights": denoiser.name,
        "sha256": denoiser.digest,
        "bias": bias_rows,
        "nps": noise_texture(denoiser, extent.doses, extent.kernels, pairs=extent.pairs),
        "ttf": edge_transfer(
            denoiser, extent.doses, repeats=extent.edge_repeats, faint_repeats=extent.faint_edge_repeats
        ),
        "contrast_detail": discs,
        "dose_equivalence": worth_in_detection + worth_in_error,
        "phantoms": quality_phantoms(denoiser, data) if data is not None else [],
    }
    report["targets"] = targets(report)
    report["conditions"] = _conditions(extent, quick=quick, seconds=time.monotonic() - started)
    output.mkdir(parents=True, exist_ok=True)
    (output / "harm.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def _first_of_sources(images: Sequence[CleanImage]) -> list[CleanImage]:
    by_source: dict[str, CleanImage] = {}
    for image in images:
        if not image.source.startswith("phantom"):
            by_source.setdefault(image.source, image)
    return list(by_source.values())[:MOST_IMAGES]


def _conditions(extent: Extent, *, quick: bool, seconds: float) -> dict[str, Any]:
    return {
        "quick": quick,
        "seconds": round(seconds, 1),
        "side_px": SIDE,
        "full_dose_quanta": FULL_DOSE_QUANTA,
        "doses": list(extent.doses),
        "kernels": list(extent.kernels),
        "path": "blind: noise estimated from each image, guards on; strength 1 computed, the others follow from it",
        "bias": f"{extent.realisations} exposures of one truth, in units of the noise variance of each pixel; bias "
        "squared is corrected for the residual variance over the number of exposures; air, collimation and pixels "
        "below 3 sigma of exposure left out",
        "noise_power": f"differences of {extent.pairs} pairs over the root of 2, in sigma, Hann-windowed regions of "
        "64 px, radial mean without the axes; mean frequency as in AAPM TG-233",
        "edges": f"stripes of 48 px tilted by 3 degrees at {', '.join(f'{c:g}' for c in CONTRASTS_PERCENT)} % "
        f"contrast of exposure, blurred to an MTF50 of 0.184 per pixel; {extent.edge_repeats} exposures, "
        f"{extent.faint_edge_repeats} of edges up to 5 %; transfer not scaled to 1 at zero frequency; loss against "
        "the truth's own TTF50",
        "discs": f"16 discs in a chest phantom, {extent.detection_images} exposures with and as many without; d' = "
        "sqrt(2) z(AUC), signal and background known; 95 % intervals from resampled images; contrasts for an expected "
        "NPWE d' in the noisy image by diameter: "
        + ", ".join(f"{low:g} and {high:g} at {diameter} px" for diameter, (low, high) in EXPECTED_D.items()),
        "npwe": "template of the true disc, eye filter f^1.3 exp(-b f^2) with its peak at 4 cycles per degree "
        "(48.8 px per degree), no internal noise",
        "hotelling": "6 Laguerre-Gauss channels of width diameter + 8 px, trained on one half of the images, tested "
        "on the other, both ways",
    }


def targets(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Compare results at the standard strength with the targets; the worst case counts unless the name says else."""
    at: dict[str, list[dict[str, Any]]] = {
        part: [row for row in report[part] if row["strength"] == DEFAULT_STRENGTH]
        for part in ("nps", "ttf", "contrast_detail", "dose_equivalence", "phantoms")
    }
    worth = {
        measure: min(row["factor"] for row in at["dose_equivalence"] if row["measure"] == measure)
        for measure in ("npwe", "rmse")
    }
    hotelling = [row["ratio"] for row in at["contrast_detail"] if row["observer"] == "hotelling"]
    clear = [row["loss"] for row in at["ttf"] if row["contrast_percent"] >= 10.0]
    found = [
        _at_least("dose equivalence by NPWE d', mean over discs, worst dose", DOSE_EQUIVALENCE, worth["npwe"]),
        _at_least("dose equivalence by squared error, worst scene", DOSE_EQUIVALENCE, worth["rmse"]),
        _at_least("Hotelling d' over that of the noisy image, mean", HOTELLING_RATIO, sum(hotelling) / len(hotelling)),
        _at_least("Hotelling d' over that of the noisy image, worst disc", HOTELLING_RATIO, min(hotelling)),
        _at_most("TTF50 loss, edges of 10 % and more", TTF50_LOSS, max(clear)),
        _at_most("TTF50 loss, all edges", TTF50_LOSS, max(row["loss"] for row in at["ttf"])),
    ]
    for background in ("flat", "anatomy"):
        shifts = [abs(row["shift"]) for row in at["nps"] if row["background"] == background]
        found.append(_at_most(f"shift of the mean noise frequency, {background}", NPS_SHIFT, max(shifts)))
    if at["phantoms"]:
        lost = [row for row in at["phantoms"] if row["ratio"] < 1 - max(OBJECT_LOSS, 2 * row["error"])]
        name = f"objects of real phantoms ({len(at['phantoms'])}) that lose more than 3 % and 2 standard errors"
        found.append(_at_most(name, 0.0, float(len(lost))))
    return found


def _at_least(name: str, target: float, measured: float) -> dict[str, Any]:
    return {
        "name": f"{name}, strength {DEFAULT_STRENGTH:g}",
        "target": f">= {target:g}",
        "measured": round(measured, 4),
        "met": bool(measured >= target),
    }


def _at_most(name: str, target: float, measured: float) -> dict[str, Any]:
    return {
        "name": f"{name}, strength {DEFAULT_STRENGTH:g}",
        "target": f"<= {target:g}",
        "measured": round(measured, 4),
        "met": bool(measured <= target),
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure and write ``harm.json``; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.harm", description=__doc__)
    parser.add_argument("--weights", default="lite", help="published name or path of a .safetensors file")
    parser.add_argument("--data", type=Path, default=None, help="data root of the settings; without it phantoms alone")
    parser.add_argument("--config", type=Path, default=Path("config/training/lite.toml"))
    parser.add_argument("--output", type=Path, default=Path("outputs/harm"))
    parser.add_argument("--quick", action="store_true", help="one dose, one kernel, few exposures")
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    denoiser = Denoiser.load(options.weights, device="auto")
    images = [] if options.quick else validation_images(options.data, options.config, most_per_source=1)
    harm_report(denoiser, quick=options.quick, output=options.output, images=images, data=options.data)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
