"""Training, top to bottom: ``python -m training.train --images DIR --from lite --minutes 30 --output outputs/mine``."""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from model.errors import WeightsError
from model.resnet_unet import ResnetUnet, channels_last
from training.arguments import own_settings, parse_arguments
from training.checkpoints import (
    StartingWeights,
    Training,
    earlier_training,
    load_checkpoint,
    save_atomically,
    starting_weights,
)
from training.journal import Journal, forecast
from training.material import Sources, describe, load_material
from training.pack import PackError
from training.samples import sample_sheet
from training.settings import SettingsError, TrainingSettings
from training.synthesis import Batch
from training.validation import WITHOUT_TRUTH, fingerprint, sigma_error, validate, validation_batches

CHARBONNIER_SIGMA = 0.1
"""Errors well below this many sigma count by their square, those well above it by their magnitude."""
FORECAST_AFTER_S = 8.0
VALIDATIONS_AT_LEAST = 8
VALIDATION_SHARE = 0.1
"""Of the time, at most: on a slow machine validation is rarer than the settings say."""


def loss_of(error: Tensor, target_noise: Tensor, kind: str) -> Tensor:
    """Return the mean loss; samples with a noisy target are scored by squared error, over their target's variance."""
    if kind == "mse":
        each = error.square()
    elif kind == "l1":
        each = error.abs()
    else:
        each = (error.square() + CHARBONNIER_SIGMA**2).sqrt() - CHARBONNIER_SIGMA
    return torch.where(target_noise > 0, error.square() / (1 + target_noise), each).mean()


def native_bfloat16(device: torch.device) -> bool:
    """Tell whether the machine computes in bfloat16; emulation would be slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


class Trainer:
    """Model, average, optimiser and random state of one run: everything that a checkpoint holds."""

    def __init__(self, settings: TrainingSettings, *, device: str, budget_s: float) -> None:
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.device = torch.device(device)
        self.budget_s = budget_s
        self.network = channels_last(ResnetUnet(width=settings.width), self.device)
        self.network.bfloat16_body = settings.bfloat16 and native_bfloat16(self.device)
        self.average = {name: p.detach().clone() for name, p in self.network.state_dict().items()}
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99))
        self.generator = torch.Generator(device=self.device).manual_seed(settings.seed)
        self.rng = np.random.default_rng(settings.seed)
        self.step, self.elapsed_s, self.cpu_s, self.pixels = 0, 0.0, 0.0, 0
        self.history: tuple[Training, ...] = ()
        self.best, self.best_gain_db = float("inf"), float("nan")
        self.start_gain_db = float("nan")
        self.judged_by = ""
        self.teacher: ResnetUnet | None = None

    def learning_rate(self) -> float:
        """Return the rate now: linear warm-up by steps, then a cosine over the wall-clock budget."""
        done = min(1.0, self.elapsed_s / self.budget_s)
        warm = min(1.0, (self.step + 1) / self.settings.warmup_steps)
        return self.settings.learning_rate * warm * (0.005 + 0.995 * 0.5 * (1 + float(np.cos(np.pi * done))))

    def loss_kind(self) -> str:
        """Return the loss now: ``l1-mse`` changes in the course of the run."""
        if self.settings.loss != "l1-mse":
            return self.settings.loss
        return "l1" if self.elapsed_s < self.settings.l1_share * self.budget_s else "mse"

    def train_step(self, batch: Batch) -> Tensor:
        """Make one step; returns the loss in sigma (L1, Charbonnier) or sigma² (MSE), still on the device."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate()
        batch = self._taught(batch.to(self.device))
        loss = loss_of(sigma_error(self.network, batch), batch.target_noise, self.loss_kind())
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self._follow_average()
        self.step += 1
        self.pixels += batch.z.numel()
        return loss.detach()

    def _taught(self, batch: Batch) -> Batch:
        """Draw the target towards what the teacher makes of the sample: it knows less than the truth, but no noise."""
        if self.teacher is None:
            return batch
        with torch.no_grad():
            taught = batch.z - self.teacher(batch.z, batch.sigma_map)
        return replace(batch, target=torch.lerp(batch.target, taught, self.settings.share_teacher))

    def _follow_average(self) -> None:
        keep = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                self.average[name].lerp_(value, 1 - keep)

    def averaged(self) -> ResnetUnet:
        """Return a copy of the network with the averaged weights, in float32."""
        network = ResnetUnet(width=self.settings.width).to(self.device)
        network.load_state_dict(self.average)
        return network.eval()

    def state(self) -> dict[str, Any]:
        """Return everything that is needed to go on after a stop."""
        return {
            "settings": asdict(self.settings),
            "network": self.network.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "rng": json.dumps(self.rng.bit_generator.state),
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "cpu_s": self.cpu_s,
            "history": json.dumps([asdict(run) for run in self.history]),
            "pixels": self.pixels,
            "best": self.best,
            "best_gain_db": self.best_gain_db,
            "start_gain_db": self.start_gain_db,
            "judged_by": self.judged_by,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up where ``state`` was; one of an earlier version lacks the last facts."""
        self.network.load_state_dict(state["network"])
        self.average = {name: value.to(self.device) for name, value in state["average"].items()}
        self.optimiser.load_state_dict(state["optimiser"])
        try:
            self.generator.set_state(state["generator"].cpu())
        except RuntimeError:
            # From another kind of device, whose generator is another one: go on with fresh numbers.
            self.generator.manual_seed(self.settings.seed + int(state["step"]))
        self.rng.bit_generator.state = json.loads(state["rng"])
        self.step, self.elapsed_s = int(state["step"]), float(state["elapsed_s"])
        self.pixels, self.best = int(state["pixels"]), float(state["best"])
        self.cpu_s, self.history = float(state.get("cpu_s", 0.0)), earlier_training(state)
        self.best_gain_db = float(state.get("best_gain_db", "nan"))
        self.start_gain_db = float(state.get("start_gain_db", "nan"))
        self.judged_by = str(state.get("judged_by", ""))

    def warm_start(self, weights: StartingWeights) -> None:
        """Begin a new run from the weights of another (fine-tuning)."""
        self.network.load_state_dict(weights.tensors)
        self.history = weights.history
        self.average = {name: value.detach().clone() for name, value in self.network.state_dict().items()}


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where a run writes, by what it is judged and when it stops: after ``budget_s`` in all, ``stage_s`` this time."""

    folder: Path
    budget_s: float
    stage_s: float
    batches: dict[str, Batch]
    journal: Journal


def train(trainer: Trainer, sources: Sources, run: Run) -> None:
    """Run until the wall-clock budget or this stage of it is used; checkpoint and validate on the way."""
    settings = trainer.settings
    until_s = min(run.budget_s, trainer.elapsed_s + run.stage_s)
    validate_every_s = min(settings.validate_every_s, run.budget_s / VALIDATIONS_AT_LEAST)
    began = last = shown = time.monotonic()
    cpu_s = time.process_time() - trainer.cpu_s
    saved = validated = trainer.elapsed_s
    first_step, first_pixels, told = trainer.step, trainer.pixels, False
    loss = torch.tensor(float("nan"))
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task("training", total=run.budget_s, completed=round(trainer.elapsed_s))
        while trainer.elapsed_s < until_s:
            loss = trainer.train_step(sources.batch(trainer.rng))
            now = time.monotonic()
            trainer.elapsed_s += now - last
            trainer.cpu_s = time.process_time() - cpu_s
            last = now
            if now - shown >= 1.0:  # reading the loss makes a GPU wait
                shown = now
                text = f"step {trainer.step} loss {float(loss):.4f}"
                progress.update(bar, completed=trainer.elapsed_s, description=text)
                rate = trainer.learning_rate()
                run.journal.scalars(trainer.step, {f"loss/{trainer.loss_kind()}": float(loss), "learning_rate": rate})
            if not told and now - began >= FORECAST_AFTER_S:
                told = True
                remaining_s = run.budget_s - trainer.elapsed_s
                steps, pixels = trainer.step - first_step, trainer.pixels - first_pixels
                text = forecast(steps, now - began, pixels, remaining_s)
                progress.console.print(text, soft_wrap=True)
            if trainer.elapsed_s - validated >= validate_every_s:
                progress.console.print(record(trainer, run, float(loss)), soft_wrap=True)
                validate_every_s = max(validate_every_s, (time.monotonic() - now) / VALIDATION_SHARE)
                validated = trainer.elapsed_s + time.monotonic() - now
            if trainer.elapsed_s - saved >= settings.checkpoint_every_s:
                saved = trainer.elapsed_s
                save_atomically(trainer.state(), run.folder / "last.pth")
    print(record(trainer, run, float(loss) if trainer.step > first_step else None))
    save_atomically(trainer.state(), run.folder / "last.pth")


def record(trainer: Trainer, run: Run, loss: float | None) -> str:
    """Validate the averaged weights, write the figures down, keep the weights if they are the best; returns a line."""
    network = trainer.averaged()
    score = validate(network, run.batches, trainer.device)
    facts = {
        "step": trainer.step,
        "elapsed_s": round(trainer.elapsed_s, 1),
        "gigapixels": round(trainer.pixels / 1e9, 4),
        "loss": None if loss is None else round(loss, 5),
        "validation_mse_sigma2": round(score.mse_sigma2, 5),
        "validation_gain_db": round(score.gain_db, 4),
        "validation_gains_db": {name: round(gain, 4) for name, gain in score.gains_db.items()},
    }
    run.journal.validation(facts, score.gains_db, sample_sheet(network, run.batches, trainer.device))
    if score.mse_sigma2 < trainer.best:
        trainer.best, trainer.best_gain_db = score.mse_sigma2, score.gain_db
        state = trainer.state()
        state.pop("optimiser")
        save_atomically(state, run.folder / "best_model.pth")
    gains = ", ".join(f"{name} {gain:.2f}" for name, gain in score.gains_db.items())
    return f"step {trainer.step}: validation gain {score.gain_db:.2f} dB ({gains})"


def prepare(options: argparse.Namespace, settings: TrainingSettings) -> tuple[Trainer, bool]:
    """Return the trainer at its first step, from weights, or where it stopped, and whether it goes on.

    Raises
    ------
    SettingsError
        If the output folder holds another run.
    WeightsError
        If weights or checkpoint can't be read.
    """
    last, budget_s = options.output / "last.pth", options.minutes * 60
    if last.exists() and not options.resume:
        raise SettingsError(f"{options.output} holds a run: go on with --resume, or name another --output")
    if last.exists():
        state = load_checkpoint(last, device=options.device)
        kept = {key: state["settings"][key] for key in ("width", "learning_rate")}
        trainer = Trainer(replace(settings, **kept), device=options.device, budget_s=budget_s)
        trainer.restore(state)
        return trainer, True
    if options.start is None:
        return Trainer(settings, device=options.device, budget_s=budget_s), False
    weights = starting_weights(options.start)
    settings = replace(settings, width=weights.width, learning_rate=settings.fine_tuning_rate)
    trainer = Trainer(settings, device=options.device, budget_s=budget_s)
    trainer.warm_start(weights)
    return trainer, False


def teacher_of(name_or_path: str, device: torch.device) -> ResnetUnet:
    """Return a network with the weights to learn from, on the device; its width may be another.

    Raises
    ------
    WeightsError
        If the weights can't be read.
    """
    weights = starting_weights(name_or_path)
    teacher = channels_last(ResnetUnet(width=weights.width), device)
    teacher.load_state_dict(weights.tensors)
    teacher.bfloat16_body = native_bfloat16(device)
    return teacher.eval()


def main(arguments: list[str] | None = None) -> int:
    """Train; returns the exit code: 0 done, 2 wrong settings, folders or weights, 130 interrupted."""
    options = parse_arguments(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    torch.backends.cudnn.benchmark = True  # every batch has the same shape
    try:
        settings = own_settings(options)
        trainer, resumed = prepare(options, settings)
        if options.teacher is not None:
            trainer.teacher = teacher_of(options.teacher, trainer.device)
        material = load_material(options.data, trainer.settings, pack=options.pack)
        named = (options.images, options.low, options.noisy)
        if any(named) and not (material.split.training or material.pairs or material.noisy):
            raise SettingsError(f"no usable image in {', '.join(str(path) for path in named if path)}")
    except (SettingsError, WeightsError, PackError) as error:
        print(error)
        return 2
    print("\n".join(describe(material)), flush=True)
    run = Run(
        folder=options.output,
        budget_s=trainer.budget_s,
        stage_s=60 * options.stage_minutes if options.stage_minutes else math.inf,
        batches=validation_batches(trainer.settings, material, patch=min(256, 2 * trainer.settings.patch)),
        journal=Journal(options.output, first_step=trainer.step),
    )
    judged_by = fingerprint(run.batches)
    if trainer.judged_by != judged_by:
        # Another set of images is another scale: the best on the old one says nothing here.
        trainer.judged_by, trainer.best = judged_by, float("inf")
    if options.start is not None and not resumed:
        print(record(trainer, run, None), "with the starting weights", flush=True)
        trainer.start_gain_db = trainer.best_gain_db
    sources = Sources(trainer.settings, material, trainer.generator)
    try:
        train(trainer, sources, run)
    except KeyboardInterrupt:
        save_atomically(trainer.state(), options.output / "last.pth")
        print("stopped; the same command with --resume goes on")
        return 130
    finally:
        run.journal.close()
    print(outcome(trainer, options.output, run.batches))
    return 0


def outcome(trainer: Trainer, folder: Path, batches: dict[str, Batch]) -> str:
    """Return what the run came to, and what to do with it."""
    line = f"{folder / 'best_model.pth'}: validation gain {trainer.best_gain_db:.2f} dB"
    if np.isfinite(trainer.start_gain_db):
        line += f", {trainer.best_gain_db - trainer.start_gain_db:+.2f} dB against the starting weights"
    if WITHOUT_TRUTH in batches:
        line += " (estimated without truth, which overstates it: judge by the pictures in samples/, or by pairs)"
    publish = f"python -m training.publish --checkpoint {folder / 'best_model.pth'} --name mine --folder {folder}"
    return f"{line}\nto use it: {publish}"


if __name__ == "__main__":
    raise SystemExit(main())
