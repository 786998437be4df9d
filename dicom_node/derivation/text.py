"""Texts and times of derived objects, within what their VR and the data set's character set allow."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone, tzinfo

from pydicom.dataset import Dataset

from dicom_node.derivation.context import DerivationContext
from dicom_node.derivation.terms import PRODUCT

LO_CHARACTERS = 64
ST_CHARACTERS = 1024
SH_CHARACTERS = 16
_OFFSET = re.compile(r"([+-])(\d\d)(\d\d)")


def series_description(source: str, suffix: str) -> str:
    """Return the source's text, cut so that text and suffix fit LO (PS3.5 6.2: 64 characters)."""
    text = source.strip(" \0")
    if not text:
        return suffix.strip()[:LO_CHARACTERS]
    return text[: LO_CHARACTERS - len(suffix)].rstrip() + suffix


def derivation_description(context: DerivationContext, former: str) -> str:
    """Return the sentence for Derivation Description (0008,2111), ST; what the source said of itself follows.

    The sentence is ASCII, so it fits every character set.
    """
    noise = "the noise could not be estimated"
    if context.noise_before is not None and context.noise_after is not None:
        noise = (
            f"estimated noise {context.noise_before:.4g} before and {context.noise_after:.4g} after in stored values"
        )
    lowered = ""
    if round(context.applied_strength, 2) != round(context.strength, 2):
        lowered = f" (lowered from {context.strength:.2f})"
    sentence = (
        f"Denoised by {PRODUCT} {context.node_version} with model {context.model_name} "
        f"(SHA-256 {context.model_digest[:12]}), strength {context.applied_strength:.2f}{lowered}; {noise}."
    )
    former = former.strip(" \0")
    return f"{sentence} Source: {former}"[:ST_CHARACTERS].rstrip() if former else sentence[:ST_CHARACTERS]


def zone_of(ds: Dataset) -> tzinfo | None:
    """Return the zone that Timezone Offset From UTC (0008,0201) states; None where it says nothing usable."""
    match = _OFFSET.fullmatch(str(ds.get("TimezoneOffsetFromUTC") or "").strip())
    if match is None:
        return None
    sign, hours, minutes = match.groups()
    offset = timedelta(hours=int(hours), minutes=int(minutes))
    if offset >= timedelta(hours=24):
        return None
    return timezone(-offset if sign == "-" else offset)


def date_and_time(moment: datetime, zone: tzinfo | None) -> tuple[str, str]:
    """Return DA and TM of `moment` in `zone`, or in its own zone."""
    local = moment.astimezone(zone) if zone is not None else moment
    return local.strftime("%Y%m%d"), local.strftime("%H%M%S.%f")
