"""The manifest that travels with the weights: what they are, and the SHA-256 that proves it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

from model.errors import WeightsError
from model.published import PUBLISHED, find_manifest
from model.resnet_unet import ResnetUnet

ARCHITECTURE = "resnet18-unet"


@dataclass(frozen=True, kw_only=True)
class TrainedFor:
    """The noise that the weights were trained on.

    ``quanta``: effective quanta per pixel at the median of a picture; ``kernel_fwhm_px``: blur of the quantum noise;
    ``structure``: relative structure noise; ``sigma_error``: relative error of the assumed noise.
    """

    quanta: tuple[float, float]
    kernel_fwhm_px: tuple[float, float]
    structure: tuple[float, float]
    sigma_error: float


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What stands in ``<name>.json`` beside ``<name>.safetensors``."""

    name: str
    weights: Path
    sha256: str
    width: int
    trained_for: TrainedFor


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises
    ------
    WeightsError
        If it is no JSON, lacks a key, or describes another architecture.
    """
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if raw["architecture"] != ARCHITECTURE:
            raise WeightsError(f"{path}: architecture {raw['architecture']!r} is not {ARCHITECTURE!r}")
        trained = raw["trained_for"]
        return Manifest(
            name=str(raw["name"]),
            weights=path.parent / str(raw["file"]),
            sha256=str(raw["sha256"]),
            width=int(raw["width"]),
            trained_for=TrainedFor(
                quanta=_pair(trained["quanta"]),
                kernel_fwhm_px=_pair(trained["kernel_fwhm_px"]),
                structure=_pair(trained["structure"]),
                sigma_error=float(trained["sigma_error"]),
            ),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: not a weights manifest ({error})") from error


def _pair(values: list[float]) -> tuple[float, float]:
    low, high = values
    return float(low), float(high)


def load_network(manifest: Manifest) -> ResnetUnet:
    """Return the network with verified weights, float32, in evaluation mode.

    Raises
    ------
    WeightsError
        If the file is missing, its SHA-256 differs from the manifest, or the tensors do not fit.
    """
    try:
        content = manifest.weights.read_bytes()
    except OSError as error:
        raise WeightsError(f"Weights {manifest.weights} cannot be read: {error}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != manifest.sha256:
        raise WeightsError(f"{manifest.weights}: SHA-256 is {digest}, the manifest says {manifest.sha256}")
    network = ResnetUnet(width=manifest.width)
    try:
        tensors = {name: tensor.to(torch.float32) for name, tensor in load_tensors(content).items()}
        network.load_state_dict(tensors)
    except (SafetensorError, RuntimeError) as error:
        raise WeightsError(f"{manifest.weights}: tensors do not fit the network ({error})") from error
    return network.eval()


__all__ = [
    "ARCHITECTURE",
    "PUBLISHED",
    "Manifest",
    "TrainedFor",
    "find_manifest",
    "load_network",
    "read_manifest",
]
