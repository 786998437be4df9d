"""The worker's code for one image with a stand-in for the network, and routes that ask for all kinds of values."""

from __future__ import annotations

from typing import cast

import numpy as np

from config.settings import DerivationSettings, RouteSettings
from dicom_node.enhancement import ImageEnhancer, LoadedModel
from dicom_node.instance_store import InstanceStore
from model.denoiser import Denoiser, DenoiseResult

ROUTES = tuple(
    RouteSettings.model_validate({"name": name, "match": match, "destinations": ["pacs"]})
    for name, match in (
        ("frames", {"NumberOfFrames": {"min": 2}, "SeriesDescription": "x+y"}),
        ("sequence", {"DerivationCodeSequence": "x", "Rows": {"max": 1}}),
        ("rows", {"Rows": {"max": 1}}),
        ("modality", {"Modality": "NONE|OTHER"}),
        ("rest", {}),
    )
)


class _Wobble:
    """Stands in for the network: changes every value a little."""

    name, digest = "stand-in", "ab" * 32

    def denoise(self, frames: np.ndarray, **_: object) -> DenoiseResult:
        return DenoiseResult(
            frames=frames + np.float32(2), enhanced=True, strength=0.7, noise_before=9.0, noise_after=3.0, reasons=()
        )


def stand_in_enhancer(store: InstanceStore) -> ImageEnhancer:
    """Return an enhancer whose network takes no time."""
    return ImageEnhancer(
        store=store,
        model=LoadedModel(denoiser=cast(Denoiser, _Wobble())),
        derivation=DerivationSettings(),
        node_name="test",
    )
