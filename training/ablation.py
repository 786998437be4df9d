"""Ours against the stock UNet under one budget: ``python -m training.ablation --data DIR --output DIR``."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from model.resnet_unet import ResnetUnet
from training.dataset import MixedSource, load_split
from training.pack import read_pack
from training.settings import TrainingSettings, load_settings
from training.stock_networks import StockUnet, WithoutFirstSkip, with_batch_norm
from training.synthesis import Batch, NoiseSynthesis
from training.validation import VALIDATION_DOSES_QUANTA, sigma_error, simulated_validation, validate

VARIANTS: dict[str, Callable[[int], nn.Module]] = {
    "stock": lambda width: StockUnet(width=width, residual=False),
    "stock + residual output": lambda width: StockUnet(width=width, residual=True),
    "ours": lambda width: ResnetUnet(width=width),
    "ours + BatchNorm": lambda width: with_batch_norm(ResnetUnet(width=width)),
    "ours - skip at half resolution": lambda width: WithoutFirstSkip(width=width),
}
WARMUP_SHARE = 0.05


def rate(step: int, steps: int, highest: float) -> float:
    """Return the learning rate: a linear warm-up, then a cosine, both by steps: a busy machine changes nothing."""
    warm = min(1.0, (step + 1) / max(1.0, WARMUP_SHARE * steps))
    return highest * warm * (0.005 + 0.995 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def train_variant(
    network: nn.Module, settings: TrainingSettings, source: MixedSource, *, steps: int, device: torch.device
) -> nn.Module:
    """Train a network with the recipe of `training.train`; returns the averaged network.

    The samples follow from ``settings.seed`` and the kind of device alone, so every variant sees the same ones in the
    same order.
    """
    rng = np.random.default_rng(settings.seed)
    synthesis = NoiseSynthesis(settings.noise, torch.Generator(device=device).manual_seed(settings.seed))
    network.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99))
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate(step, steps, settings.learning_rate)
        batch = synthesis.batch(*source.batch(settings.batch, settings.patch, rng))
        error = sigma_error(network, batch)
        loss = error.abs().mean() if step < settings.l1_share * steps else error.square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        keep = min(0.99, (1 + step) / (10 + step))  # short runs need a short memory
        with torch.no_grad():
            for name, value in network.state_dict().items():
                if value.is_floating_point():
                    average[name].lerp_(value, 1 - keep)
                else:
                    average[name].copy_(value)
    network.load_state_dict(average)
    return network.eval()


def gmac_per_megapixel(network: nn.Module, side: int = 256) -> float:
    """Return the multiply-accumulates of one pass, in 10^9 per 10^6 pixels."""
    z = torch.zeros(1, 1, side, side)
    network.eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(z, torch.ones_like(z))
    return float(counter.get_total_flops()) / 2 / side**2 / 1e3


def run_one(
    variant: str,
    settings: TrainingSettings,
    source: MixedSource,
    batches: dict[str, Batch],
    *,
    steps: int,
    device: torch.device,
) -> dict[str, Any]:
    """Train and validate one variant with one seed; returns the line of the result file."""
    torch.manual_seed(settings.seed)
    network = VARIANTS[variant](settings.width)
    facts = {
        "variant": variant,
        "seed": settings.seed,
        "steps": steps,
        "batch": settings.batch,
        "patch": settings.patch,
        "width": settings.width,
        "parameters": sum(p.numel() for p in network.parameters()),
        "gmac_per_megapixel": round(gmac_per_megapixel(network), 2),
    }
    began = time.process_time(), time.monotonic()
    trained = train_variant(network, settings, source, steps=steps, device=device)
    used = time.process_time() - began[0], time.monotonic() - began[1]
    score = validate(trained, batches, device)
    return facts | {
        "cpu_s": round(used[0], 1),
        "wall_s": round(used[1], 1),
        "gain_db": round(score.gain_db, 4),
        "gain_by_exposure_db": [round(gain, 4) for gain in score.gains_db.values()],
        "mse_sigma2": round(score.mse_sigma2, 5),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the results as Markdown: mean and standard deviation over the seeds, then the cost."""
    exposures = [f"{low:g}-{high:g} quanta" for low, high in VALIDATION_DOSES_QUANTA]
    head = ["variant", "seeds", "gain (dB)", *exposures, "parameters (M)", "GMAC/MP", "CPU s"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for variant in VARIANTS:
        own = [row for row in rows if row["variant"] == variant]
        if not own:
            continue
        gains = np.array([[row["gain_db"], *row["gain_by_exposure_db"]] for row in own])
        spread = gains.std(axis=0, ddof=1) if len(own) > 1 else np.full(gains.shape[1], np.nan)
        cells = [f"{mean:.2f} ± {deviation:.2f}" for mean, deviation in zip(gains.mean(axis=0), spread, strict=True)]
        cost = [own[0]["parameters"] / 1e6, own[0]["gmac_per_megapixel"], np.mean([row["cpu_s"] for row in own])]
        cells += [f"{cost[0]:.2f}", f"{cost[1]:.1f}", f"{cost[2]:.0f}"]
        lines.append(f"| {variant} | {len(own)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def finished(results: Path, **budget: int) -> list[dict[str, Any]]:
    """Return the lines of the result file that were made with this budget."""
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    return [row for row in map(json.loads, lines) if all(row[key] == value for key, value in budget.items())]


def main(arguments: list[str] | None = None) -> int:
    """Run what is missing in the result file and print the table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.ablation", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("config/training/lite.toml"))
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder that image folders are relative to")
    parser.add_argument("--output", type=Path, default=Path("outputs/ablation"))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=8, help="patches in a step")
    parser.add_argument("--patch", type=int, default=96, help="pixels")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pack", type=Path, help="clean images in one file, see training.pack")
    parser.add_argument("--stage-minutes", type=float, default=math.inf, help="start no run after this time")
    options = parser.parse_args(arguments)
    torch.set_flush_denormal(True)
    settings = replace(load_settings(options.config), batch=options.batch, patch=options.patch)
    budget = {"steps": options.steps, "batch": options.batch, "patch": options.patch, "width": settings.width}
    results = options.output / "runs.jsonl"
    done = {(row["variant"], row["seed"]) for row in finished(results, **budget)}
    split = load_split(options.data, settings) if options.pack is None else read_pack(options.pack)
    device = torch.device(options.device)
    source, batches = MixedSource(settings, split, device), simulated_validation(settings, split)
    options.output.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    for seed in range(1, options.seeds + 1):
        for variant in options.variants:
            if (variant, seed) in done or time.monotonic() - began > 60 * options.stage_minutes:
                continue
            own = replace(settings, seed=seed)
            row = run_one(variant, own, source, batches, steps=options.steps, device=device)
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
    text = table(finished(results, **budget))
    (options.output / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
