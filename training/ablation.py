"""Networks, mixtures of pictures and families of noise under one budget: ``python -m training.ablation --data DIR``."""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from model.resnet_unet import ResnetUnet
from training.clean import Split
from training.dataset import CleanSources, MixedSource, clean_sources, load_split
from training.details import with_details
from training.pack import read_pack
from training.settings import TrainingSettings, load_settings
from training.stock_networks import StockUnet, WithoutFirstSkip, with_batch_norm
from training.synthesis import Batch, NoiseSynthesis
from training.validation import sigma_error, simulated_validation, validate


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What is different from the published recipe: the network, settings, or the range of noise."""

    network: Callable[[int], nn.Module] = lambda width: ResnetUnet(width=width)
    settings: dict[str, Any] = field(default_factory=dict)
    noise: dict[str, Any] = field(default_factory=dict)

    def of(self, settings: TrainingSettings) -> TrainingSettings:
        """Return the settings of this variant."""
        return replace(settings, **self.settings, noise=replace(settings.noise, **self.noise))


NETWORKS: dict[str, Variant] = {
    "stock": Variant(network=lambda width: StockUnet(width=width, residual=False)),
    "stock + residual output": Variant(network=lambda width: StockUnet(width=width, residual=True)),
    "ours": Variant(),
    "ours + BatchNorm": Variant(network=lambda width: with_batch_norm(ResnetUnet(width=width))),
    "ours - skip at half resolution": Variant(network=lambda width: WithoutFirstSkip(width=width)),
}
MIXTURES: dict[str, Variant] = {
    "radiographs alone": Variant(settings={"share_radiographs": 1.0, "share_phantoms": 0.0}),
    "phantoms alone": Variant(settings={"share_radiographs": 0.0, "share_phantoms": 1.0}),
    "dead leaves alone": Variant(settings={"share_radiographs": 0.0, "share_phantoms": 0.0}),
    "without faint details": Variant(settings={"share_details": 0.0}),
    "faint details everywhere": Variant(settings={"share_details": 1.0}),
}
NOISE: dict[str, Variant] = {
    "white noise alone": Variant(noise={"white_share": 1.0}),
    "kernels up to 1.2 px": Variant(noise={"kernel_fwhm_px": (0.0, 1.2)}),
    "law without error": Variant(noise={"sigma_error": 0.0}),
}
WIDTHS: dict[str, Variant] = {
    "half the channels": Variant(network=lambda width: ResnetUnet(width=width // 2)),
}
VARIANTS = NETWORKS | MIXTURES | NOISE | WIDTHS
CURVE = (0.25, 0.5, 1.0)
"""Parts of the budget after which a run is validated: its learning curve."""
WARMUP_SHARE = 0.05


def rate(step: int, steps: int, highest: float) -> float:
    """Return the learning rate: a linear warm-up, then a cosine, both by steps: a busy machine changes nothing."""
    warm = min(1.0, (step + 1) / max(1.0, WARMUP_SHARE * steps))
    return highest * warm * (0.005 + 0.995 * 0.5 * (1 + math.cos(math.pi * step / steps)))


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Fixed validation batches of unseen radiographs and of unseen phantoms."""

    radiographs: dict[str, Batch]
    phantoms: dict[str, Batch]

    def gains_db(self, network: nn.Module, device: torch.device) -> dict[str, float]:
        """Return the gain over the noisy input by kind and exposure, in dB."""
        gains: dict[str, float] = {}
        for kind, batches in (("radiographs", self.radiographs), ("phantoms", self.phantoms)):
            if batches:
                score = validate(network, batches, device)
                gains |= {f"{kind}, {exposure}": gain for exposure, gain in score.gains_db.items()}
        return gains


def judged_by(settings: TrainingSettings, split: Split) -> Judged:
    """Return what every variant is judged by, whatever it learns from."""
    settings = replace(settings, validation_phantoms=max(4, settings.validation_phantoms))
    known = bool(split.validation or split.training)
    return Judged(
        radiographs=simulated_validation(replace(settings, validation_phantoms=0), split, count=3) if known else {},
        phantoms=simulated_validation(settings, Split(training=[], validation=[]), count=3),
    )


def train_variant(
    network: nn.Module,
    settings: TrainingSettings,
    sources: CleanSources,
    *,
    steps: int,
    device: torch.device,
    look: Callable[[int, nn.Module], None],
) -> None:
    """Train a network with the recipe of `training.train`; ``look`` gets the averaged network along the `CURVE`.

    The samples follow from ``settings`` and the kind of device alone, so every network sees the same ones in the
    same order.
    """
    rng, generator = np.random.default_rng(settings.seed), torch.Generator(device=device).manual_seed(settings.seed)
    source, synthesis = MixedSource(settings, sources), NoiseSynthesis(settings.noise, generator)
    network.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    average = copy.deepcopy(network)
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99))
    marks = {max(1, round(part * steps)) for part in CURVE}
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate(step, steps, settings.learning_rate)
        crops, own_noise = source.batch(settings.batch, settings.patch, rng)
        batch = synthesis.batch(with_details(crops, generator, share=settings.share_details), own_noise)
        error = sigma_error(network, batch)
        loss = error.abs().mean() if step < settings.l1_share * steps else error.square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        keep = min(0.99, (1 + step) / (10 + step))  # short runs need a short memory
        with torch.no_grad():
            followed = average.state_dict()
            for name, value in network.state_dict().items():
                if value.is_floating_point():
                    followed[name].lerp_(value, 1 - keep)
                else:
                    followed[name].copy_(value)
        if step + 1 in marks:
            look(step + 1, average.eval())


def gmac_per_megapixel(network: nn.Module, side: int = 256) -> float:
    """Return the multiply-accumulates of one pass, in 10^9 per 10^6 pixels."""
    z = torch.zeros(1, 1, side, side)
    network.eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(z, torch.ones_like(z))
    return float(counter.get_total_flops()) / 2 / side**2 / 1e3


def run_one(
    name: str,
    settings: TrainingSettings,
    sources: CleanSources,
    judged: Judged,
    *,
    steps: int,
    device: torch.device,
) -> dict[str, Any]:
    """Train and validate one variant with one seed; returns the line of the result file."""
    torch.manual_seed(settings.seed)
    network = VARIANTS[name].network(settings.width)
    facts = {
        "variant": name,
        "seed": settings.seed,
        "steps": steps,
        "batch": settings.batch,
        "patch": settings.patch,
        "width": settings.width,
        "parameters": sum(p.numel() for p in network.parameters()),
        "gmac_per_megapixel": round(gmac_per_megapixel(network), 2),
    }
    curve: list[tuple[int, dict[str, float]]] = []
    began = time.process_time(), time.monotonic()
    train_variant(
        network,
        VARIANTS[name].of(settings),
        sources,
        steps=steps,
        device=device,
        look=lambda step, average: curve.append((step, judged.gains_db(average, device))),
    )
    used = time.process_time() - began[0], time.monotonic() - began[1]
    return facts | {
        "cpu_s": round(used[0], 1),
        "wall_s": round(used[1], 1),
        "gain_db": round(float(np.mean(list(curve[-1][1].values()))), 4),
        "gains_db": {key: round(gain, 4) for key, gain in curve[-1][1].items()},
        "curve_db": [[step, round(float(np.mean(list(gains.values()))), 4)] for step, gains in curve],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the results as Markdown: mean and standard deviation over the seeds, the curve, then the cost."""
    kinds = ("radiographs", "phantoms")
    parts = [f"at {part:.0%}" for part in CURVE[:-1]]
    head = ["variant", "seeds", "gain (dB)", *kinds, *parts, "parameters (M)", "GMAC/MP", "CPU s"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for variant in VARIANTS:
        own = [row for row in rows if row["variant"] == variant]
        if not own:
            continue
        gains = np.array([_columns(row, kinds) for row in own])
        spread = gains.std(axis=0, ddof=1) if len(own) > 1 else np.full(gains.shape[1], np.nan)
        cells = [f"{mean:.2f} ± {deviation:.2f}" for mean, deviation in zip(gains.mean(axis=0), spread, strict=True)]
        cost = [own[0]["parameters"] / 1e6, own[0]["gmac_per_megapixel"], np.mean([row["cpu_s"] for row in own])]
        cells += [f"{cost[0]:.2f}", f"{cost[1]:.1f}", f"{cost[2]:.0f}"]
        lines.append(f"| {variant} | {len(own)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _columns(row: dict[str, Any], kinds: tuple[str, ...]) -> list[float]:
    """Return the gain in all, by kind of picture (nan where there is none), and along the curve."""
    of_kind = [[gain for key, gain in row["gains_db"].items() if key.startswith(kind)] for kind in kinds]
    means = [float(np.mean(gains)) if gains else math.nan for gains in of_kind]
    return [row["gain_db"], *means, *(gain for _, gain in row["curve_db"][:-1])]


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
    parser.add_argument("--made", type=int, help="phantoms, and pictures of dead leaves, instead of the settings'")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pack", type=Path, help="clean images in one file, see training.pack")
    parser.add_argument("--stage-minutes", type=float, default=math.inf, help="start no run after this time")
    options = parser.parse_args(arguments)
    torch.set_flush_denormal(True)
    settings = replace(load_settings(options.config), batch=options.batch, patch=options.patch)
    if options.made is not None:
        settings = replace(settings, phantoms=options.made, dead_leaves=options.made)
    budget = {"steps": options.steps, "batch": options.batch, "patch": options.patch, "width": settings.width}
    results = options.output / "runs.jsonl"
    done = {(row["variant"], row["seed"]) for row in finished(results, **budget)}
    split = load_split(options.data, settings) if options.pack is None else read_pack(options.pack)
    device = torch.device(options.device)
    sources, judged = clean_sources(settings, split, device), judged_by(settings, split)
    options.output.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    for seed in range(1, options.seeds + 1):
        for variant in options.variants:
            if (variant, seed) in done or time.monotonic() - began > 60 * options.stage_minutes:
                continue
            own = replace(settings, seed=seed)
            row = run_one(variant, own, sources, judged, steps=options.steps, device=device)
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
    text = table(finished(results, **budget))
    (options.output / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
