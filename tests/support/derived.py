"""Derives objects in tests the way the node does, with a stand-in for the denoiser."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmwrite
from pydicom.dataset import Dataset

from config.settings import DerivationSettings
from dicom_node.derivation import DerivationContext, derive
from dicom_node.part10 import open_part10
from dicom_node.pixel_encoding import frame_writer
from dicom_node.pixels import from_exposure, iter_frames, read_spec, to_exposure

Filter = Callable[[NDArray[np.float32]], NDArray[np.float32]]

MODEL_DIGEST = "0123456789abcdef" * 4


def context(*, equipment: str = "standard", derivation_code: str = "private", **changes: Any) -> DerivationContext:
    """Return a derivation context with made-up circumstances."""
    settings = DerivationSettings.model_validate({"equipment": equipment, "derivation_code": derivation_code})
    values: dict[str, Any] = {
        "model_name": "lite",
        "model_digest": MODEL_DIGEST,
        "strength": 0.7,
        "applied_strength": 0.7,
        "noise_before": 12.34,
        "noise_after": 4.5,
        "node_name": "node1",
        "node_version": "0.1.0",
        "now": datetime(2026, 5, 6, 7, 8, 9, 123456, tzinfo=UTC),
        "series_time": datetime(2026, 5, 6, 7, 0, 0, tzinfo=UTC),
        "settings": settings,
    }
    return DerivationContext(**{**values, **changes})


def wobble(exposure: NDArray[np.float32]) -> NDArray[np.float32]:
    """Change every value a little, the same way each time."""
    pattern = np.sin(np.arange(exposure.size, dtype=np.float32)).reshape(exposure.shape)
    return exposure + np.float32(1.6) * pattern


def derive_file(source: Path, target: Path, circumstances: DerivationContext, change: Filter = wobble) -> Path:
    """Write what is derived from `source` to `target`."""
    with open_part10(source) as part10:
        spec = read_spec(part10.header)
        with frame_writer(spec) as writer:
            for frame in iter_frames(part10, spec):
                of_frame = spec.of_frame(frame.index)
                writer.add(frame, from_exposure(change(to_exposure(frame.values, of_frame)), frame, of_frame))
            dcmwrite(target, derive(part10.header, writer.finish(), circumstances), enforce_file_format=True)
    return target


def derive_data_set(source: Path, circumstances: DerivationContext, change: Filter = wobble) -> Dataset:
    """Return what is derived from `source`, pixel data in memory."""
    with open_part10(source) as part10:
        spec = read_spec(part10.header)
        with frame_writer(spec) as writer:
            for frame in iter_frames(part10, spec):
                of_frame = spec.of_frame(frame.index)
                writer.add(frame, from_exposure(change(to_exposure(frame.values, of_frame)), frame, of_frame))
            return derive(part10.header, writer.finish(), circumstances)
