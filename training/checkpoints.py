"""Checkpoints that survive a kill, and the weights that a run may start from."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.errors import WeightsError
from model.manifest import find_manifest, load_network, read_manifest


@dataclass(frozen=True, kw_only=True)
class Training:
    """What one run of training came to; ``cpu_s`` is None where it was not measured."""

    steps: int
    gigapixels: float
    elapsed_s: float
    cpu_s: float | None

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Training:
        """Return what a manifest or a checkpoint says of a run."""
        cpu_s = facts.get("cpu_s")
        return cls(
            steps=int(facts["steps"]),
            gigapixels=float(facts["gigapixels"]),
            elapsed_s=float(facts["elapsed_s"]),
            cpu_s=None if cpu_s is None else float(cpu_s),
        )


def own_training(state: Mapping[str, Any]) -> Training:
    """Return what the run of a checkpoint came to."""
    cpu_s = state.get("cpu_s")
    return Training(
        steps=int(state["step"]),
        gigapixels=round(int(state["pixels"]) / 1e9, 3),
        elapsed_s=round(float(state["elapsed_s"])),
        cpu_s=None if cpu_s is None else round(float(cpu_s)),
    )


def earlier_training(state: Mapping[str, Any]) -> tuple[Training, ...]:
    """Return the runs that made the weights which the run of a checkpoint started from."""
    return tuple(Training.of(run) for run in json.loads(state.get("history", "[]")))


@dataclass(frozen=True, kw_only=True)
class StartingWeights:
    """Weights to fine-tune: ``tensors`` by name, the ``width`` of their network, and what made them."""

    tensors: dict[str, Tensor]
    width: int
    history: tuple[Training, ...]


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
        history = (*earlier_training(state), own_training(state))
        return StartingWeights(tensors=state["average"], width=int(state["settings"]["width"]), history=history)
    path = find_manifest(name_or_path)
    manifest = read_manifest(path)
    training = json.loads(path.read_text(encoding="utf-8")).get("training", {})
    runs = [*training.get("history", []), training] if training else []
    return StartingWeights(
        tensors=load_network(manifest).state_dict(),
        width=manifest.width,
        history=tuple(Training.of(run) for run in runs),
    )
