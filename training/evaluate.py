"""The evaluation protocol: ``python -m training.evaluate --weights lite --data DIR --output outputs/evaluation``."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import SimpleITK as sitk
import torch
from rich.console import Console
from rich.progress import track

from model.denoiser import Denoiser
from training.baselines import BASELINES
from training.cases import (
    DOSES,
    FULL_DOSE_QUANTA,
    KERNELS,
    SIDE,
    ProtocolImages,
    make_case,
    own_noise_power,
    protocol_images,
)
from training.clean import CleanImage
from training.estimation_study import estimation_report
from training.guard_study import guard_report
from training.harm import harm_report
from training.protocol import (
    OURS_BLIND,
    Row,
    Task,
    Tuned,
    TuningTask,
    classical,
    evaluate_case,
    load_denoiser,
    log_values,
    ours_blind,
    tune,
)
from training.real_noise import real_noise_report
from training.report import write_report
from training.summary import REAL, UNSEEN, differences, show, summarise

PROTOCOL = "2"
"""Raised whenever results of the baselines are no longer comparable with earlier ones."""
PARTS = ("protocol", "harm", "estimation", "guards", "real")
QUICK_IMAGES = 2
SAME_DB = 0.01
"""Greatest difference of a reused result when it is computed again."""

In = TypeVar("In")
Out = TypeVar("Out")


class OtherProtocol(Exception):
    """An earlier evaluation whose baselines can't stand for this one; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is evaluated; ``seeds`` per kernel."""

    weights: str
    images: ProtocolImages
    seeds: dict[str, int]
    baselines: tuple[str, ...]
    processes: int = 2

    def conditions(self) -> dict[str, Any]:
        """Return all that the figures of the baselines depend on."""
        return {
            "protocol": PROTOCOL,
            "side": SIDE,
            "full_dose_quanta": FULL_DOSE_QUANTA,
            "seeds": dict(sorted(self.seeds.items())),
            "doses": list(DOSES),
            "baselines": sorted(self.baselines),
            "images": [_facts(image) for image in self.images.reported],
            "tuning_images": [_facts(image) for image in self.images.tuning],
        }

    def tasks(self, weights: str | None, tuned: Tuned) -> list[Task]:
        """Return one task per image, kernel, dose and seed."""
        return [
            Task(image=image, dose=dose, kernel=kernel, seed=seed, weights=weights, tuned=tuned)
            for image in self.images.reported
            for kernel, seeds in self.seeds.items()
            for dose in DOSES
            for seed in range(seeds)
        ]


def _facts(image: CleanImage) -> list[Any]:
    return [image.source, image.patient, list(image.attenuation.shape), round(float(image.attenuation.mean()), 5)]


@contextmanager
def _workers(processes: int) -> Iterator[Callable[[Callable[[In], Out], Iterable[In]], Iterator[Out]]]:
    """Yield a map that keeps the order of its input: over processes of one thread each, or in this process."""
    if processes > 1:
        with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
            yield pool.map
    else:
        yield map


def tune_all(plan: Plan) -> dict[str, dict[str, dict[str, float]]]:
    """Choose each baseline's parameter per kernel and dose on the tuning images."""
    tasks = [
        TuningTask(images=tuple(plan.images.tuning), name=name, kernel=kernel, dose=dose)
        for name in plan.baselines
        for kernel in plan.seeds
        for dose in DOSES
    ]
    tuned: dict[str, dict[str, dict[str, float]]] = {kernel: {} for kernel in plan.seeds}
    with _workers(plan.processes) as over:
        for task, value in zip(
            tasks, track(over(tune, tasks), description="tuning baselines", total=len(tasks)), strict=True
        ):
            tuned[task.kernel].setdefault(task.name, {})[task.dose] = value
    return tuned


def reused(plan: Plan, path: Path) -> tuple[dict[str, dict[str, dict[str, float]]], list[Row]]:
    """Take the parameters and rows of the baselines from an earlier report.

    Raises
    ------
    OtherProtocol
        If the report was made under other conditions, or the baselines of one case come out differently now.
    """
    earlier = json.loads(path.read_text(encoding="utf-8"))
    now, then = json.loads(json.dumps(plan.conditions())), earlier.get("conditions", {})
    different = sorted(key for key in now.keys() | then.keys() if now.get(key) != then.get(key))
    if different:
        raise OtherProtocol(f"{path} was made under other conditions: {', '.join(different)} differ; run without it")
    tuned = earlier["tuned_by_kernel"]
    rows = [Row(**row) for row in earlier["rows"]]
    rows = [row for row in rows if row.method in BASELINES or row.method.removesuffix(", blind") in BASELINES]
    known = {(row.source, row.patient, row.dose, row.kernel, row.seed, row.method): row for row in rows}
    for row in evaluate_case(plan.tasks(None, tuned)[0]):
        before = known.get((row.source, row.patient, row.dose, row.kernel, row.seed, row.method))
        if before is None or abs(before.gain_stabilised_db - row.gain_stabilised_db) > SAME_DB:
            raise OtherProtocol(f"{path}: {row.method} gives another result now; run without it")
    return tuned, rows


def run_protocol(plan: Plan, output: Path, *, baselines_from: Path | None, console: Console) -> dict[str, Any]:
    """Run every method on every case; returns the part of the report."""
    rows: list[Row] = []
    if baselines_from is None:
        tuned = tune_all(plan)
        tasks = plan.tasks(plan.weights, tuned)
    else:
        tuned, rows = reused(plan, baselines_from)
        tasks = plan.tasks(plan.weights, {})
    denoiser = load_denoiser(plan.weights)
    evaluate_case(replace(tasks[0], tuned={}))  # the first call is slower and would mislead
    started = time.monotonic()
    rows += evaluate_case(tasks[0])
    pace = time.monotonic() - started
    minutes = pace * len(tasks) / plan.processes / 60
    console.print(f"{len(tasks)} cases, {pace:.1f} s each, {plan.processes} processes: about {minutes:.0f} minutes")
    with _workers(plan.processes) as over:
        for found in track(over(evaluate_case, tasks[1:]), description="evaluating", total=len(tasks) - 1):
            rows += found
    unseen = plan.images.unseen_sources
    return {
        "seeds": max(plan.seeds.values()),
        "conditions": plan.conditions(),
        "tuned": next(iter(tuned.values()), {}),
        "tuned_by_kernel": tuned,
        "own_noise": own_noise(plan.images.reported),
        "summary": summarise(rows, unseen),
        "against": differences(rows, unseen),
        "strips": save_strips(plan, denoiser, tuned, output),
        "rows": [asdict(row) for row in rows],
    }


def own_noise(images: list[CleanImage]) -> list[dict[str, Any]]:
    """Return per source and dose the mean power of the truths' own noise in sigma²: what no method can remove."""
    return [
        {
            "source": source,
            "dose": dose,
            "images": len(chosen),
            "own_noise_sigma2": round(float(np.mean([own_noise_power(image, dose=dose) for image in chosen])), 4),
        }
        for source in sorted({image.source for image in images})
        for chosen in [[image for image in images if image.source == source]]
        for dose in DOSES
    ]


def save_strips(plan: Plan, denoiser: Denoiser, tuned: Tuned, output: Path) -> list[dict[str, str]]:
    """Write noisy, ours at strength 0.7 and 1, BM3D and the truth side by side, in the window of the truth."""
    strips = []
    kernel = next(iter(plan.seeds))
    for image in plan.images.reported:
        for dose in ("1/4", "1/10"):
            case = make_case(image, dose=dose, kernel=kernel, seed=0)
            tiles = {"noisy": case.noisy}
            tiles |= {name: ours_blind(case, denoiser, OURS_BLIND[name]) for name in reversed(OURS_BLIND)}
            if "bm3d" in tuned.get(kernel, {}):
                tiles["bm3d, law known"] = classical(case, "bm3d", tuned[kernel]["bm3d"][dose])
            tiles["truth"] = case.truth
            log_tiles = [log_values(tile) for tile in tiles.values()]
            low, high = np.percentile(log_tiles[-1][case.field], (0.5, 99.5))
            grey = 255 - np.clip((np.hstack(log_tiles) - low) / max(float(high - low), 1e-6), 0, 1) * 255
            name = f"{image.patient}_{dose}".replace(":", "_").replace("/", "of")
            (output / "strips").mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(grey.astype(np.uint8)), str(output / "strips" / f"{name}.png"))
            strips.append(
                {
                    "file": f"strips/{name}.png",
                    "source": image.source,
                    "dose": dose,
                    "kernel": kernel,
                    "caption": f"{image.patient}, dose {dose}, {kernel} noise: {', '.join(tiles)}",
                }
            )
    return strips


def run_parts(
    parts: Iterable[str], plan: Plan, output: Path, *, data: Path | None, quick: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run the parts beside the protocol; yields the name of each in the report and its figures."""
    denoiser = load_denoiser(plan.weights)
    if "harm" in parts:
        yield "harm", harm_report(denoiser, quick=quick, output=output, images=plan.images.reported, data=data)
    if "estimation" in parts:
        yield "estimation", estimation_report(quick=quick)
    if "guards" in parts:
        yield "guards", guard_report(denoiser, plan.images.reported, quick=quick)
    if "real" in parts and data is not None:
        yield "real_noise", real_noise_report(denoiser, data, quick=quick)


def plan_of(options: argparse.Namespace) -> Plan:
    """Choose images, seeds and baselines for the options."""
    most = QUICK_IMAGES if options.quick else options.images_per_source
    kernels = ("csi",) if options.quick else options.kernels
    seeds = {kernel: options.seeds if kernel == "csi" and not options.quick else 1 for kernel in kernels}
    return Plan(
        weights=options.weights,
        images=protocol_images(options.data, options.config, most_per_source=most),
        seeds=seeds,
        baselines=("gaussian", "bm3d") if options.quick else tuple(options.baselines),
        processes=options.processes,
    )


def main(arguments: list[str] | None = None) -> int:
    """Evaluate; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("--weights", default="lite", help="published name or path of a .safetensors file")
    parser.add_argument("--data", type=Path, default=None, help="data root of the settings; without it phantoms alone")
    parser.add_argument("--config", type=Path, default=Path("config/training/lite.toml"))
    parser.add_argument("--output", type=Path, default=Path("outputs/evaluation"))
    parser.add_argument("--seeds", type=int, default=5, help="noise seeds with the CsI kernel; others have one")
    parser.add_argument("--images-per-source", type=int, default=4)
    parser.add_argument("--kernels", nargs="+", choices=list(KERNELS), default=list(KERNELS))
    parser.add_argument("--baselines", nargs="*", choices=list(BASELINES), default=list(BASELINES))
    parser.add_argument("--baselines-from", type=Path, default=None, help="evaluation.json to take the baselines from")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="few images, one seed, CsI kernel, Gaussian and BM3D only")
    options = parser.parse_args(arguments)
    console = Console()
    started = time.monotonic()
    options.output.mkdir(parents=True, exist_ok=True)
    plan = plan_of(options)
    denoiser = load_denoiser(options.weights)
    report: dict[str, Any] = {
        "weights": denoiser.name,
        "sha256": denoiser.digest,
        "full_dose_quanta": FULL_DOSE_QUANTA,
        "images_per_source": QUICK_IMAGES if options.quick else options.images_per_source,
        "quick": options.quick,
    }
    threads = torch.get_num_threads()
    try:
        if "protocol" in options.parts:
            report |= run_protocol(plan, options.output, baselines_from=options.baselines_from, console=console)
    except OtherProtocol as error:
        console.print(f"error: {error}")
        return 2
    finally:
        torch.set_num_threads(threads)  # cases run on one thread, the other parts on all
    report |= dict(run_parts(options.parts, plan, options.output, data=options.data, quick=options.quick))
    report["seconds"] = round(time.monotonic() - started, 1)
    (options.output / "evaluation.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    page = write_report(report, options.output)
    if "summary" in report:
        show(report["summary"], (REAL, UNSEEN, "phantom"), console)
    console.print(f"written: {options.output / 'evaluation.json'}, {page}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
