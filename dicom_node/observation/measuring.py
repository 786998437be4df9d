"""What is counted of a decided image and of a finished attempt at a delivery."""

from __future__ import annotations

from dicom_node.ledger.arrivals import EnhancementDecision, EnhancementRecord
from dicom_node.observation.definitions import (
    ATTEMPTS,
    DELIVERY_SECONDS,
    IMAGE_SECONDS,
    IMAGES,
    NOISE,
    NOISE_RATIO,
    STAGE_SECONDS,
)
from dicom_node.observation.metering import count, observe


def measure_image(route: str, record: EnhancementRecord) -> None:
    """Count a decision, and what enhancing the image gave."""
    count(IMAGES, route, record.decision.value, record.cause.value)
    if record.decision is not EnhancementDecision.ENHANCED:
        return
    for part, seconds in (("inference", record.inference_s), ("total", record.total_s)):
        if seconds is not None:
            observe(IMAGE_SECONDS, seconds, part)
    before, after = record.noise_before, record.noise_after
    if before is not None and after is not None:
        observe(NOISE, before, route, "before")
        observe(NOISE, after, route, "after")
        if before > 0:
            observe(NOISE_RATIO, after / before, route)


def measure_attempt(destination: str, state: str, *, sent_after_s: float | None) -> None:
    """Count an attempt at a delivery; `sent_after_s` is its age where everything is sent now."""
    count(ATTEMPTS, destination, state)
    if sent_after_s is not None:
        observe(DELIVERY_SECONDS, max(0.0, sent_after_s), destination)
        observe(STAGE_SECONDS, max(0.0, sent_after_s), "deliver")
