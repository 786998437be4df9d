"""Clean images, and how they are split between training and validation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class CleanImage:
    """A radiograph that may serve as truth.

    ``attenuation`` in nepers ``(rows, columns)``; ``own_noise`` its residual noise in nepers (0: none, as in a
    phantom); ``patient`` groups images for the split; ``source`` names where it comes from.
    """

    attenuation: NDArray[np.float32]
    own_noise: float
    patient: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Split:
    """Clean images for training and for validation; no patient is in both."""

    training: list[CleanImage]
    validation: list[CleanImage]
