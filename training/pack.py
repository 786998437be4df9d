"""Clean images of a split in one file, so that a machine without the image folders and their readers can train."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from training.clean import CleanImage, Split

_LEVELS = 65535
_FORMAT = 1


class PackError(ValueError):
    """The file is no pack of clean images."""


def write_pack(split: Split, path: Path) -> None:
    """Write both sides of a split, attenuation as 16-bit values.

    One step is a 65535th of an image's range: under 1e-4 nepers, far below the noise of any radiograph.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, NDArray[Any]] = {}
    index: list[dict[str, Any]] = []
    for side, images in (("training", split.training), ("validation", split.validation)):
        for image in images:
            low, high = float(image.attenuation.min()), float(image.attenuation.max())
            step = max(high - low, 1e-6) / _LEVELS
            arrays[f"image_{len(index)}"] = np.rint((image.attenuation - low) / step).astype(np.uint16)
            index.append(
                {
                    "side": side,
                    "low": low,
                    "step": step,
                    "own_noise": image.own_noise,
                    "patient": image.patient,
                    "source": image.source,
                }
            )
    text = json.dumps({"format": _FORMAT, "images": index}).encode()
    np.savez_compressed(path, allow_pickle=False, index=np.frombuffer(text, dtype=np.uint8), **arrays)


def read_pack(path: Path) -> Split:
    """Read what `write_pack` wrote.

    Raises
    ------
    PackError
        If the file is missing, damaged or of another kind.
    """
    split = Split(training=[], validation=[])
    try:
        with np.load(path, allow_pickle=False) as arrays:
            index = json.loads(arrays["index"].tobytes())
            if index["format"] != _FORMAT:
                raise PackError(f"{path}: format {index['format']}, this version reads {_FORMAT}")
            for i, facts in enumerate(index["images"]):
                values = arrays[f"image_{i}"].astype(np.float32)
                image = CleanImage(
                    attenuation=np.float32(facts["low"]) + np.float32(facts["step"]) * values,
                    own_noise=float(facts["own_noise"]),
                    patient=str(facts["patient"]),
                    source=str(facts["source"]),
                )
                (split.training if facts["side"] == "training" else split.validation).append(image)
    except (OSError, EOFError, BadZipFile, KeyError, TypeError, ValueError) as error:
        if isinstance(error, PackError):
            raise
        raise PackError(f"{path}: no pack of clean images ({error})") from error
    return split
