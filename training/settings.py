"""The settings of a training run, read from TOML and checked as a whole."""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class SettingsError(ValueError):
    """A training settings file with faults; the text lists every one."""


LOSSES = ("l1-mse", "l1", "mse", "charbonnier")


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """A folder (or one file) of high-dose radiographs, path relative to the data root.

    ``relation``: ``display``, ``linear`` (grey is exposure), or ``auto``: what the DICOM attributes say, else display.
    ``reduce`` averages squares of pixels to lower the image's own noise, 0: by 2, or up to 4 until it is low;
    ``max_noise`` in nepers leaves out noisier images; ``held_out`` uses the folder for validation alone.
    """

    name: str
    folder: str
    manifest: str = ""
    relation: str = "display"
    inverted: bool = False
    span: float = 2.5
    reduce: int = 4
    max_noise: float = 0.03
    held_out: bool = False


@dataclass(frozen=True, kw_only=True)
class PairFolder:
    """Two folders with images of the same names, pixel on pixel: ``low`` dose and ``high`` dose.

    ``domain`` is ``linear``, ``log``, ``display``, or ``auto``: what the DICOM attributes say, else display. The
    high-dose image is the target as it is: where its own noise is not far below that of the low-dose one, the network
    learns to keep that part.
    """

    name: str
    low: str
    high: str
    domain: str = "linear"


@dataclass(frozen=True, kw_only=True)
class NoisyFolder:
    """A folder of low-dose images without any high-dose partner: learned from by data fission.

    ``domain`` as for pairs. The targets are noisy, and marked so: they are scored by squared error alone.
    """

    name: str
    folder: str
    domain: str = "auto"


@dataclass(frozen=True, kw_only=True)
class NoiseRange:
    """What the simulator draws from; ranges are ``(low, high)``.

    ``quanta``: effective quanta per pixel at the median of the picture, log-uniform. ``electronic_quanta``: exposure
    at which electronic and quantum variance are equal. ``sigma_error``: relative error of the assumed noise.
    """

    quanta: tuple[float, float] = (6.0, 4000.0)
    electronic_quanta: tuple[float, float] = (2.0, 40.0)
    structure: tuple[float, float] = (0.0, 0.02)
    kernel_fwhm_px: tuple[float, float] = (0.0, 3.5)
    anisotropy: float = 0.1
    white_fraction: tuple[float, float] = (0.0, 0.5)
    white_share: float = 0.12
    line_noise: tuple[float, float] = (0.0, 0.1)
    gain_map: float = 0.15
    quantisation_sigma: tuple[float, float] = (0.003, 0.7)
    presentation_share: float = 0.3
    unsharp_gain: tuple[float, float] = (0.0, 3.0)
    sigma_error: float = 0.12
    own_noise_ratio: float = 3.0


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Everything that determines a run besides the machine's speed.

    ``fine_tuning_rate`` is the learning rate of a run that starts from weights. ``loss``: ``l1-mse`` is L1 for the
    first ``l1_share`` of the budget and squared error after it. ``share_pairs`` and ``share_noisy``: parts of a batch
    that are real pairs and split noisy images, where there are any; the rest is simulated. ``share_details``: part of
    the simulated crops that get faint discs, bars and edges. ``fission_t``: see
    `training.fission`. ``share_teacher``: weight of a teacher's output in the target. ``bfloat16``: where the machine
    computes it natively.
    """

    name: str = "lite"
    width: int = 32
    seed: int = 1
    batch: int = 16
    patch: int = 128
    learning_rate: float = 1e-3
    fine_tuning_rate: float = 2e-4
    loss: str = "l1-mse"
    warmup_steps: int = 200
    ema: float = 0.999
    l1_share: float = 0.6
    bfloat16: bool = True
    validation_patients: float = 0.12
    validation_phantoms: int = 4
    checkpoint_every_s: float = 120.0
    validate_every_s: float = 300.0
    share_radiographs: float = 0.5
    share_phantoms: float = 0.3
    share_details: float = 0.0
    phantoms: int = 60
    dead_leaves: int = 60
    share_pairs: float = 0.5
    share_noisy: float = 0.5
    fission_t: float = 0.5
    share_teacher: float = 0.5
    noise: NoiseRange = field(default_factory=NoiseRange)
    images: tuple[ImageFolder, ...] = ()
    pairs: tuple[PairFolder, ...] = ()
    noisy: tuple[NoisyFolder, ...] = ()


def load_settings(path: Path) -> TrainingSettings:
    """Read and check a settings file.

    Raises
    ------
    SettingsError
        With every unknown key, every wrong type and every key that is missing at once, or if it is no TOML file.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: {error}") from error
    faults: list[str] = []
    noise = _build(NoiseRange, raw.pop("noise", {}), "noise", faults)
    folders = {
        "images": _build_all(ImageFolder, raw.pop("images", []), "images", faults),
        "pairs": _build_all(PairFolder, raw.pop("pairs", []), "pairs", faults),
        "noisy": _build_all(NoisyFolder, raw.pop("noisy", []), "noisy", faults),
    }
    top = _build(TrainingSettings, {**raw, "noise": noise, **folders}, "", faults)
    if top is not None and top.loss not in LOSSES:
        faults.append(f"loss: {top.loss!r} is none of {', '.join(LOSSES)}")
    if faults or top is None:
        raise SettingsError(f"{path}: " + "; ".join(faults))
    return top


def _build_all(kind: type[T], tables: list[dict[str, Any]], where: str, faults: list[str]) -> tuple[T | None, ...]:
    return tuple(_build(kind, table, f"{where}[{i}]", faults) for i, table in enumerate(tables))


def _build(kind: type[T], table: dict[str, Any], where: str, faults: list[str]) -> T | None:
    """Return the settings of a table; None if a key that has no default is missing."""
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in table.items():
        at = f"{where}.{key}" if where else key
        if key not in known:
            faults.append(f"{at}: unknown; allowed are {', '.join(known)}")
            continue
        default = known[key].default
        if isinstance(default, tuple) and isinstance(value, list):
            value = tuple(float(v) for v in value)
        elif isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        elif isinstance(default, (bool, int, float, str)) and type(value) is not type(default):
            faults.append(f"{at}: {value!r} is not of type {type(default).__name__}")
        values[key] = value
    missing = [f"{where}.{name}: missing" for name, f in known.items() if _required(f) and name not in values]
    faults.extend(missing)
    return None if missing else kind(**values)


def _required(f: Field[Any]) -> bool:
    return f.default is MISSING and f.default_factory is MISSING
