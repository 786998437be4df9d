"""Training on a machine that is lent for minutes: a plan of runs, in stages that go on where the last one ended."""

from __future__ import annotations

import argparse
import tomllib
from dataclasses import MISSING, dataclass, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from training import ablation, train
from training.checkpoints import load_checkpoint
from training.dataset import load_split
from training.pack import write_pack
from training.parts import PartsError, join_parts, split_file
from training.publish import publish
from training.settings import SettingsError, load_settings

DRY_RUN_MINUTES = 0.1
"""Of each run in a dry run."""
DRY_RUN: dict[str, Any] = {"batch": 2, "patch": 64, "made": 4}
"""Nothing in a dry run is there to be learned from."""
DONE_WITHIN_S = 0.01


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run of `training.train`: settings by name, wall-clock minutes in all.

    ``start``: published weights to begin from; ``teacher``: an earlier run of the plan to learn from too; ``batch``,
    ``patch`` and ``made`` (phantoms, and pictures of dead leaves) stand for those of the settings unless they are 0.
    """

    name: str
    config: str
    minutes: float
    start: str = ""
    teacher: str = ""
    batch: int = 0
    patch: int = 0
    made: int = 0


@dataclass(frozen=True, kw_only=True)
class PlannedAblation:
    """The ablation that fills what time is left; all variants unless some are named."""

    config: str
    steps: int
    batch: int
    patch: int
    seeds: int
    variants: tuple[str, ...] = ()
    made: int = 0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Runs in their order; no stage takes longer than ``stage_minutes`` and what a last validation needs."""

    stage_minutes: float
    runs: tuple[PlannedRun, ...]
    ablation: PlannedAblation | None


def load_plan(path: Path) -> Plan:
    """Read a plan.

    Raises
    ------
    SettingsError
        If it is no plan: every unknown or missing key, every teacher that is no earlier run, at once.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: {error}") from error
    faults = [f"{key}: unknown" for key in raw.keys() - {"stage_minutes", "runs", "ablation"}]
    faults += [f"{key}: missing" for key in {"stage_minutes", "runs"} - raw.keys()]
    tables: list[tuple[type[PlannedRun] | type[PlannedAblation], dict[str, Any], str]]
    tables = [(PlannedRun, table, f"runs[{i}]") for i, table in enumerate(raw.get("runs", []))]
    if "ablation" in raw:
        tables.append((PlannedAblation, raw["ablation"], "ablation"))
    for kind, table, where in tables:
        known = {f.name for f in fields(kind)}
        needed = {f.name for f in fields(kind) if f.default is MISSING}
        faults += [f"{where}.{key}: unknown" for key in sorted(table.keys() - known)]
        faults += [f"{where}.{key}: missing" for key in sorted(needed - table.keys())]
    names: list[str] = []
    for table in raw.get("runs", []):
        if table.get("teacher") and table["teacher"] not in names:
            faults.append(f"runs: the teacher {table['teacher']!r} of {table.get('name')!r} is no earlier run")
        names.append(str(table.get("name")))
    if faults:
        raise SettingsError(f"{path}: " + "; ".join(faults))
    return Plan(
        stage_minutes=float(raw["stage_minutes"]),
        runs=tuple(PlannedRun(**table) for table in raw["runs"]),
        ablation=PlannedAblation(**raw["ablation"]) if "ablation" in raw else None,
    )


def minutes_done(folder: Path) -> float:
    """Return how long the run in a folder has trained; 0 where there is none."""
    last = folder / "last.pth"
    return float(load_checkpoint(last, device="cpu")["elapsed_s"]) / 60 if last.exists() else 0.0


def next_run(plan: Plan, folder: Path) -> PlannedRun | None:
    """Return the first run that has time left; None if all are done."""
    unfinished = (run for run in plan.runs if 60 * (run.minutes - minutes_done(folder / run.name)) > DONE_WITHIN_S)
    return next(unfinished, None)


def arguments_of(run: PlannedRun, folder: Path, *, pack: Path, device: str, stage_minutes: float) -> list[str]:
    """Return the command line of `training.train` for the next stage of a run."""
    own = folder / run.name
    arguments = ["--config", run.config, "--pack", pack, "--output", own, "--device", device, "--minutes", run.minutes]
    arguments += ["--stage-minutes", stage_minutes]
    if (own / "last.pth").exists():
        arguments += ["--resume"]
    elif run.start:
        arguments += ["--from", run.start]
    arguments += ["--batch", run.batch] if run.batch else []
    arguments += ["--patch", run.patch] if run.patch else []
    arguments += ["--made", run.made] if run.made else []
    if run.teacher:
        arguments += ["--teacher", folder / run.teacher / "best_model.pth"]
    return [str(argument) for argument in arguments]


def export(run: PlannedRun, folder: Path, target: Path) -> list[Path]:
    """Publish the best weights of a run as float16 in parts small enough to be carried; returns the files."""
    manifest = publish(folder / run.name / "best_model.pth", folder / "published", name=run.name, results={}, half=True)
    weights = manifest.with_suffix(".safetensors")
    return split_file(weights, target) + split_file(manifest, target)


def run_stage(plan: Plan, folder: Path, target: Path, *, pack: Path, device: str) -> int:
    """Run the next stage, then export what it came to; returns the exit code.

    A machine that is taken back after it has lost one stage at most: the exported weights can start another run.
    """
    run = next_run(plan, folder)
    if run is None:
        return _run_ablation(plan, folder, pack=pack, device=device)
    print(f"run {run.name}: {minutes_done(folder / run.name):.1f} of {run.minutes:g} minutes are done", flush=True)
    code = train.main(arguments_of(run, folder, pack=pack, device=device, stage_minutes=plan.stage_minutes))
    if code == 0:
        print("\n".join(str(path) for path in export(run, folder, target)))
    return code


def _run_ablation(plan: Plan, folder: Path, *, pack: Path, device: str) -> int:
    planned = plan.ablation
    if planned is None:
        print("every run is done")
        return 0
    config = Path(str(files("config") / "training" / f"{planned.config}.toml"))
    budget = {"steps": planned.steps, "batch": planned.batch, "patch": planned.patch, "seeds": planned.seeds}
    arguments = ["--config", config, "--pack", pack, "--output", folder / "ablation", "--device", device]
    arguments += ["--stage-minutes", plan.stage_minutes]
    for name, value in budget.items():
        arguments += [f"--{name}", value]
    arguments += ["--variants", *planned.variants] if planned.variants else []
    arguments += ["--made", planned.made] if planned.made else []
    return ablation.main([str(argument) for argument in arguments])


def dry_run(plan: Plan, folder: Path, target: Path, *, pack: Path, device: str) -> int:
    """Run every kind of stage for seconds: start, resumption, distillation, export, ablation; returns the exit code."""
    short = Plan(
        stage_minutes=DRY_RUN_MINUTES / 2,
        runs=tuple(replace(run, minutes=DRY_RUN_MINUTES, **DRY_RUN) for run in plan.runs if run.name != "measure"),
        ablation=plan.ablation and replace(plan.ablation, steps=2, seeds=1, variants=("stock", "ours"), **DRY_RUN),
    )
    while True:
        was_last = next_run(short, folder) is None
        code = run_stage(short, folder, target, pack=pack, device=device)
        if code != 0 or was_last:
            break
    for index in sorted(target.glob("*.parts.json")):
        print(join_parts(index, folder / "joined"))
    return code


def main(arguments: list[str] | None = None) -> int:
    """Run a command of the campaign; returns the exit code: 0 done, 2 wrong plan, pack or parts."""
    parser = argparse.ArgumentParser(prog="python -m training.campaign", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (
        ("pack", "read and split the images of --config once, into one file"),
        ("dry-run", "every kind of stage for seconds, on any machine"),
        ("stage", "the next stage; again and again until it says that every run is done"),
        ("join", "put exported parts together and verify them"),
    ):
        command = commands.add_parser(name, help=what, description=what)
        command.add_argument("--plan", type=Path, default=Path(str(files("config") / "training" / "campaign.toml")))
        command.add_argument("--folder", type=Path, default=Path("outputs/campaign"), help="of all runs")
        command.add_argument("--pack", type=Path, help="default: FOLDER/images.npz")
        command.add_argument("--parts", type=Path, help="where exported parts are; default: FOLDER/parts")
        command.add_argument("--data", type=Path, default=Path("data"), help="what image folders are relative to")
        command.add_argument("--config", default="lite", help="settings whose images are packed")
        command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    pack, parts = options.pack or options.folder / "images.npz", options.parts or options.folder / "parts"
    try:
        if options.command == "pack":
            settings = load_settings(Path(str(files("config") / "training" / f"{options.config}.toml")))
            split = load_split(options.data, settings)
            write_pack(split, pack)
            print(f"{pack}: {len(split.training)} images to train on, {len(split.validation)} to validate on")
            return 0
        if options.command == "join":
            for index in sorted(parts.glob("*.parts.json")):
                print(join_parts(index, options.folder / "joined"))
            return 0
        plan = load_plan(options.plan)
        run = dry_run if options.command == "dry-run" else run_stage
        folder = options.folder / "dry-run" if options.command == "dry-run" else options.folder
        target = folder / "parts" if options.command == "dry-run" else parts
        return run(plan, folder, target, pack=pack, device=options.device)
    except (SettingsError, PartsError) as error:
        print(error)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
