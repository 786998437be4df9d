"""Training, top to bottom: ``python -m training.train --config config/training/lite.toml --data DIR --minutes N``."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from model.resnet_unet import ResnetUnet, channels_last
from training.dataset import CropSource, MixedSource, Split, load_split, made_by_code
from training.pairs import PairSource, joined, load_pairs
from training.settings import ImageFolder, TrainingSettings, load_settings
from training.synthesis import Batch, NoiseSynthesis

VALIDATION_DOSES_QUANTA = ((200.0, 400.0), (80.0, 160.0), (20.0, 60.0))


@dataclass(frozen=True, kw_only=True)
class Score:
    """Validation result: mean error in sigma² and the gain over the noisy input in dB."""

    mse_sigma2: float
    gain_db: float


class Trainer:
    """Model, average, optimiser and random state of one run: everything that a checkpoint holds."""

    def __init__(self, settings: TrainingSettings, *, device: str, budget_s: float) -> None:
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.device = torch.device(device)
        self.budget_s = budget_s
        self.network = channels_last(ResnetUnet(width=settings.width), self.device)
        self.network.bfloat16_body = settings.bfloat16
        self.average = {name: p.detach().clone() for name, p in self.network.state_dict().items()}
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99))
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.rng = np.random.default_rng(settings.seed)
        self.synthesis = NoiseSynthesis(settings.noise, self.generator)
        self.step, self.elapsed_s, self.pixels = 0, 0.0, 0
        self.best = float("inf")

    def learning_rate(self) -> float:
        """Return the rate now: linear warm-up by steps, then a cosine over the wall-clock budget."""
        done = min(1.0, self.elapsed_s / self.budget_s)
        warm = min(1.0, (self.step + 1) / self.settings.warmup_steps)
        return self.settings.learning_rate * warm * (0.005 + 0.995 * 0.5 * (1 + float(np.cos(np.pi * done))))

    def train_step(self, batch: Batch) -> float:
        """Make one step; returns the loss in sigma (L1) or sigma² (MSE)."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate()
        z = batch.z.to(self.device, memory_format=torch.channels_last)
        noise = self.network(z, batch.sigma_map.to(self.device))
        # Error in units of the sample's own sigma; 8 undoes the network's scale.
        error = 8.0 * (z - noise - batch.target.to(self.device)) / batch.sigma_map.to(self.device)
        absolute = self.elapsed_s < self.settings.l1_share * self.budget_s
        loss = error.abs().mean() if absolute else error.square().mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self._follow_average()
        self.step += 1
        self.pixels += batch.z.numel()
        return float(loss.detach())

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
            "pixels": self.pixels,
            "best": self.best,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up where ``state`` was."""
        self.network.load_state_dict(state["network"])
        self.average = {name: value.to(self.device) for name, value in state["average"].items()}
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["generator"])
        self.rng.bit_generator.state = json.loads(state["rng"])
        self.step, self.elapsed_s = int(state["step"]), float(state["elapsed_s"])
        self.pixels, self.best = int(state["pixels"]), float(state["best"])

    def warm_start(self, state: dict[str, Any]) -> None:
        """Begin a new run from the averaged weights of another (fine-tuning)."""
        weights = state.get("average", state)
        self.network.load_state_dict(weights)
        self.average = {name: value.detach().clone().to(self.device) for name, value in weights.items()}


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint so that a kill at any moment leaves the old or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(path.suffix + ".tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def validation_batches(settings: TrainingSettings, split: Split, *, patch: int = 256, count: int = 6) -> list[Batch]:
    """Return fixed validation batches: three exposures, unseen patients and sources, unseen phantoms."""
    rng = np.random.default_rng(12345)
    generator = torch.Generator().manual_seed(12345)
    phantoms, _ = made_by_code(replace(settings, seed=settings.seed, phantoms=4, dead_leaves=0))
    images = split.validation or split.training
    sources = [CropSource(images, magnify=False)] if images else []
    sources.append(CropSource(phantoms, magnify=False))
    batches = []
    for quanta in VALIDATION_DOSES_QUANTA:
        ranges = replace(settings.noise, quanta=quanta, sigma_error=0.0, presentation_share=0.15, own_noise_ratio=0.0)
        crops = [sources[i % len(sources)].crop(patch, rng) for i in range(2 * count)]
        stacked = torch.from_numpy(np.stack([crop for crop, _ in crops]))[:, None]
        synthesis = NoiseSynthesis(ranges, generator)
        batches.append(synthesis.batch(stacked, torch.full((len(crops), 1, 1, 1), 1e-6)))
    return batches


def validate(network: ResnetUnet, batches: list[Batch], device: torch.device) -> Score:
    """Return the mean squared error over the batches in sigma², and the gain in dB."""
    errors, noises = [], []
    with torch.inference_mode():
        for batch in batches:
            for i in range(batch.z.shape[0]):
                z, s = batch.z[i : i + 1].to(device), batch.sigma_map[i : i + 1].to(device)
                target = batch.target[i : i + 1].to(device)
                errors.append(float((8 * (z - network(z, s) - target) / s).square().mean()))
                noises.append(float((8 * (z - target) / s).square().mean()))
    gain = 10 * np.log10(np.array(noises) / np.array(errors))
    return Score(mse_sigma2=float(np.mean(errors)), gain_db=float(gain.mean()))


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where a run writes and when it stops."""

    folder: Path
    budget_s: float
    log: Callable[[dict[str, Any]], None]


def next_batch(trainer: Trainer, source: MixedSource, pairs: PairSource) -> Batch:
    """Return simulated samples, and real pairs in their share where there are any."""
    settings = trainer.settings
    real = round(settings.share_pairs * settings.batch) if len(pairs) else 0
    attenuation, own_noise = source.batch(max(1, settings.batch - real), settings.patch, trainer.rng)
    simulated = trainer.synthesis.batch(attenuation, own_noise)
    return joined(simulated, pairs.batch(real, settings.patch, trainer.rng)) if real else simulated


def train(trainer: Trainer, source: MixedSource, pairs: PairSource, batches: list[Batch], run: Run) -> None:
    """Run until the wall-clock budget is used; checkpoint and validate on the way."""
    settings = trainer.settings
    last, saved, validated = time.monotonic(), trainer.elapsed_s, trainer.elapsed_s
    loss = float("nan")
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task("training", total=run.budget_s, completed=round(trainer.elapsed_s))
        while trainer.elapsed_s < run.budget_s:
            loss = trainer.train_step(next_batch(trainer, source, pairs))
            now = time.monotonic()
            trainer.elapsed_s += now - last
            last = now
            progress.update(bar, completed=trainer.elapsed_s, description=f"step {trainer.step} loss {loss:.4f}")
            if trainer.elapsed_s - validated >= settings.validate_every_s:
                validated = trainer.elapsed_s
                record(trainer, batches, run, loss)
            if trainer.elapsed_s - saved >= settings.checkpoint_every_s:
                saved = trainer.elapsed_s
                save_atomically(trainer.state(), run.folder / "last.pth")
    record(trainer, batches, run, loss)
    save_atomically(trainer.state(), run.folder / "last.pth")


def record(trainer: Trainer, batches: list[Batch], run: Run, loss: float) -> None:
    """Validate the averaged weights, log the figures, keep them if they are the best so far."""
    score = validate(trainer.averaged(), batches, trainer.device)
    run.log(
        {
            "step": trainer.step,
            "elapsed_s": round(trainer.elapsed_s, 1),
            "gigapixels": round(trainer.pixels / 1e9, 4),
            "loss": round(loss, 5),
            "validation_mse_sigma2": round(score.mse_sigma2, 5),
            "validation_gain_db": round(score.gain_db, 4),
        }
    )
    if score.mse_sigma2 < trainer.best:
        trainer.best = score.mse_sigma2
        state = trainer.state()
        state.pop("optimiser")
        save_atomically(state, run.folder / "best_model.pth")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="TOML settings")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder that image folders are relative to")
    parser.add_argument("--images", type=Path, default=None, help="your own folder of high-dose radiographs instead")
    parser.add_argument("--minutes", type=float, default=60.0, help="wall-clock budget")
    parser.add_argument("--output", type=Path, default=Path("outputs/checkpoints"), help="where checkpoints go")
    parser.add_argument("--resume", action="store_true", help="go on from OUTPUT/last.pth")
    parser.add_argument("--from", dest="start", type=Path, default=None, help="fine-tune from this checkpoint")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=None)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Train; returns the exit code."""
    options = parse_arguments(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    settings = load_settings(options.config)
    if options.images is not None:
        own = ImageFolder(name=options.images.name, folder=str(options.images.resolve()), reduce=2, max_noise=1.0)
        settings = replace(settings, images=(own,))
    split = load_split(options.data, settings)
    print(f"{len(split.training)} images to train on, {len(split.validation)} to validate on")
    budget_s = options.minutes * 60
    trainer = Trainer(settings, device=options.device, budget_s=budget_s)
    if options.resume and (options.output / "last.pth").exists():
        trainer.restore(torch.load(options.output / "last.pth", weights_only=True, map_location=options.device))
    elif options.start is not None:
        trainer.warm_start(torch.load(options.start, weights_only=True, map_location=options.device))
    options.output.mkdir(parents=True, exist_ok=True)

    def log(facts: dict[str, Any]) -> None:
        with (options.output / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(facts) + "\n")
        print(facts, flush=True)

    source = MixedSource(settings, split)
    batches = validation_batches(settings, split)
    pairs = PairSource(load_pairs(options.data, settings.pairs))
    train(trainer, source, pairs, batches, Run(folder=options.output, budget_s=budget_s, log=log))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
