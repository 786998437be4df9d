"""What a derivation needs to know beyond the source object; time and identity come in, nothing is looked up."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from config.settings import DerivationSettings


@dataclass(frozen=True, kw_only=True)
class DerivationContext:
    """The circumstances of one derivation.

    Attributes
    ----------
    model_name, model_digest
        Name of the weights and the SHA-256 of their file, in hexadecimal.
    strength
        Strength that the route asks for, 0 to 1; part of the derived UIDs, so the same for all images of a series.
    applied_strength
        What the guards of the denoiser left of it for this image.
    noise_before, noise_after
        Median standard deviation of the noise in stored values, where it could be estimated.
    node_name, node_version
        Station Name of the node, and the version of its software.
    now
        Time of processing, with its time zone.
    series_time
        When the derived series was begun, with its time zone: all images of a series, late ones too, share Series Date
        and Time. None takes `now`.
    revision_digest
        SHA-256 of the source's data set where its SOP Instance UID was received before with other content.
    """

    model_name: str
    model_digest: str
    strength: float
    applied_strength: float
    noise_before: float | None
    noise_after: float | None
    node_name: str
    node_version: str
    now: datetime
    series_time: datetime | None
    settings: DerivationSettings
    revision_digest: str = ""
