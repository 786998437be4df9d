"""Checkpoints that survive a kill, and the weights that a run may start from."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.errors import WeightsError
from model.manifest import find_manifest, load_network, read_manifest


@dataclass(frozen=True, kw_only=True)
class StartingWeights:
    """Weights to fine-tune: ``tensors`` by name, and the ``width`` of their network."""

    tensors: dict[str, Tensor]
    width: int


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint so that a kill at any moment leaves the old or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(path.suffix + ".tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_checkpoint(path: Path, *, device: str) -> dict[str, Any]:
    """Read a checkpoint of `training.train`.

    Raises
    ------
    WeightsError
        If the file is missing or no checkpoint of ours.
    """
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location=device)
        state["average"], state["settings"]["width"]
    except (OSError, RuntimeError, pickle.UnpicklingError, KeyError, TypeError, EOFError) as error:
        raise WeightsError(f"{path}: no checkpoint of training.train ({str(error).splitlines()[0]})") from error
    return state


def starting_weights(name_or_path: str) -> StartingWeights:
    """Return published weights by name, those of a ``.safetensors`` file, or the average of a ``.pth`` checkpoint.

    Raises
    ------
    WeightsError
        If there are none, or they do not match their manifest.
    """
    if Path(name_or_path).suffix in {".pth", ".pt"}:
        state = load_checkpoint(Path(name_or_path), device="cpu")
        return StartingWeights(tensors=state["average"], width=int(state["settings"]["width"]))
    manifest = read_manifest(find_manifest(name_or_path))
    return StartingWeights(tensors=load_network(manifest).state_dict(), width=manifest.width)
