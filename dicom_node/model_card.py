"""What the manifest of the weights says of them, read without PyTorch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from model.errors import WeightsError
from model.published import find_manifest


@dataclass(frozen=True, kw_only=True)
class Result:
    """A measurement of the manifest: gain over the noisy image in dB, with the interval of 95 %."""

    source: str
    dose: str
    method: str
    patients: int
    gain_db: float
    interval_db: tuple[float, float]
    ssim: float


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """The facts of the manifest.

    Attributes
    ----------
    trouble
        Why these weights are not used as they lie there; empty where nothing is wrong.
    trained_for
        What the noise was in training, with how much of it.
    results
        Measured on images that training has not seen, for the network and for what it is compared with.
    """

    name: str
    architecture: str
    parameters: int | None
    sha256: str
    trouble: str
    trained_for: tuple[tuple[str, str], ...]
    data: str
    note: str
    results: tuple[Result, ...]


def read_model_card(weights: str) -> ModelCard:
    """Return the card of weights by name or path.

    Raises
    ------
    WeightsError
        If there is no manifest, or it can't be understood.
    """
    path = find_manifest(weights)
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        trained, found = raw["trained_for"], raw.get("results") or {}
        return ModelCard(
            name=str(raw["name"]),
            architecture=str(raw["architecture"]),
            parameters=int(raw["parameters"]) if raw.get("parameters") else None,
            sha256=str(raw["sha256"]),
            trouble=_trouble(path.parent / str(raw["file"]), str(raw["sha256"])),
            trained_for=(
                ("Effective quanta per pixel", _range(trained["quanta"])),
                ("Blur of the quantum noise (FWHM)", f"{_range(trained['kernel_fwhm_px'])} pixels"),
                ("Structure noise, relative", _range(trained["structure"])),
                ("Error of the assumed noise", f"{float(trained['sigma_error']):.0%}"),
            ),
            data=str(raw.get("data", "")),
            note=str(found.get("note", "")),
            results=tuple(_result(one) for one in found.get("summary", ())),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: not a weights manifest ({type(error).__name__})") from error


def _trouble(weights: Any, expected: str) -> str:
    try:
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    except OSError as error:
        return f"the weights can't be read ({error.strerror})"
    return "" if digest == expected else f"the file of the weights has another SHA-256 ({digest}): it is not loaded"


def _range(pair: list[float]) -> str:
    low, high = pair
    return f"{float(low):g} to {float(high):g}"


def _result(raw: dict[str, Any]) -> Result:
    low, high = raw["interval_95"]
    return Result(
        source=str(raw["source"]),
        dose=str(raw["dose"]),
        method=str(raw["method"]),
        patients=int(raw["patients"]),
        gain_db=float(raw["gain_stabilised_db"]),
        interval_db=(float(low), float(high)),
        ssim=float(raw["ssim"]),
    )
