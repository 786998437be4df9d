"""The UIDs of derived objects and reports: functions of what they were made from; the same input has the same UID."""

from __future__ import annotations

import uuid
from typing import Final

_NAMESPACE: Final = uuid.UUID("7b1c9e0e-1f0d-4b55-9c3a-52a8c1f7d6e4")

DERIVATION_REVISION: Final = 1
"""Part of every derived UID; counts up when the same input and model begin to give other pixels."""


def derived_sop_instance_uid(
    *,
    source_sop_instance_uid: str,
    source_pixel_digest: str,
    model_digest: str,
    strength: float,
    revision_digest: str = "",
) -> str:
    """Return the SOP Instance UID for what is derived from this image by this model; 2.25.<UUIDv5> (PS3.5 B.2).

    A source UID that was received before with other content, the same pixels perhaps and another header, gives its
    `revision_digest`: no derived UID stands for two contents.
    """
    revision = (revision_digest,) if revision_digest else ()
    return _uid(
        "instance", source_sop_instance_uid, source_pixel_digest, model_digest, _parameters(strength), *revision
    )


def derived_series_instance_uid(*, source_series_instance_uid: str, model_digest: str, strength: float) -> str:
    """Return the Series Instance UID for images derived from this series; a late image finds the same series."""
    return _uid("series", source_series_instance_uid, model_digest, _parameters(strength))


def report_series_instance_uid(*, source_series_instance_uid: str, model_digest: str, strength: float) -> str:
    """Return the Series Instance UID for the quality reports on what is derived from this series, late images too."""
    return _uid("report series", source_series_instance_uid, model_digest, _parameters(strength))


def report_sop_instance_uid(*, report_series_instance_uid: str, content_digest: str) -> str:
    """Return the SOP Instance UID for a quality report of this content, of which times are no part."""
    return _uid("report", report_series_instance_uid, content_digest)


def tracking_uid(source_sop_instance_uid: str) -> str:
    """Return the Tracking Unique Identifier (112040, DCM) under which reports speak of this image."""
    return _uid("tracking", source_sop_instance_uid)


def device_uid(node_name: str) -> str:
    """Return the Device Observer UID (121012, DCM) of the node of this name."""
    return _uid("device", node_name)


def _parameters(strength: float) -> str:
    return f"revision={DERIVATION_REVISION};strength={strength:.6f}"


def _uid(*parts: str) -> str:
    # A line feed is in no UID and in no digest, so different parts never join to the same name.
    return f"2.25.{uuid.uuid5(_NAMESPACE, chr(10).join(parts)).int}"
