"""The command line of training, and the settings that follow from it."""

from __future__ import annotations

import argparse
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import torch

from training.settings import (
    ImageFolder,
    NoisyFolder,
    PairFolder,
    SettingsError,
    TrainingSettings,
    load_settings,
)

DESCRIPTION = "Train or fine-tune the network, from the command line or a settings file; see docs/training.md."


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m training.train", description=DESCRIPTION)
    parser.add_argument("--images", type=Path, help="your own folder of high-dose radiographs; low dose is simulated")
    parser.add_argument("--low", type=Path, help="your own folder of low-dose images, with --high")
    parser.add_argument("--high", type=Path, help="their high-dose partners, with the same names")
    parser.add_argument("--noisy", type=Path, help="your own folder of low-dose images without partners")
    parser.add_argument("--from", dest="start", help="fine-tune: published weights by name, or a file of weights")
    parser.add_argument("--minutes", type=float, default=60.0, help="wall-clock budget")
    parser.add_argument(
        "--stage-minutes", type=float, help="stop after this time; --resume goes on with the same curve"
    )
    parser.add_argument("--teacher", help="learn also from what these weights make of each sample (distillation)")
    parser.add_argument("--output", type=Path, default=Path("outputs/checkpoints"), help="where checkpoints go")
    parser.add_argument("--resume", action="store_true", help="go on from OUTPUT/last.pth")
    parser.add_argument("--config", help="settings: lite, own, or a TOML file; own by default for own folders")
    parser.add_argument("--data", type=Path, default=Path("data"), help="what folders in the settings are relative to")
    parser.add_argument("--pack", type=Path, help="clean images of the settings in one file, see training.pack")
    parser.add_argument("--batch", type=int, help="samples in a step, instead of those of the settings")
    parser.add_argument("--patch", type=int, help="their side in pixels, likewise")
    parser.add_argument("--made", type=int, help="phantoms, and pictures of dead leaves, likewise")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=None)
    return parser.parse_args(arguments)


def own_settings(options: argparse.Namespace) -> TrainingSettings:
    """Return the settings named or shipped, with the folders of the command line in them.

    Raises
    ------
    SettingsError
        If they are wrong, or a folder of the command line is none.
    """
    own = [path for path in (options.images, options.low, options.high, options.noisy) if path is not None]
    missing = [str(path) for path in own if not path.exists()]
    if missing:
        raise SettingsError(f"no such folder: {', '.join(missing)}")
    if (options.low is None) != (options.high is None):
        raise SettingsError("--low and --high belong together")
    name = options.config or ("own" if own else "lite")
    path = Path(name) if name.endswith(".toml") else Path(str(files("config") / "training" / f"{name}.toml"))
    settings = load_settings(path)
    settings = replace(settings, batch=options.batch or settings.batch, patch=options.patch or settings.patch)
    if options.made is not None:
        settings = replace(settings, phantoms=options.made, dead_leaves=options.made)
    if own:
        settings = replace(settings, images=(), pairs=(), noisy=())
    if options.images is not None:
        folder = str(options.images.resolve())
        images = ImageFolder(name="own", folder=folder, relation="auto", reduce=0, max_noise=1.0)
        settings = replace(settings, images=(images,))
    if options.low is not None:
        low, high = str(options.low.resolve()), str(options.high.resolve())
        settings = replace(settings, pairs=(PairFolder(name="own", low=low, high=high, domain="auto"),))
    if options.noisy is not None:
        settings = replace(settings, noisy=(NoisyFolder(name="own", folder=str(options.noisy.resolve())),))
    return settings
