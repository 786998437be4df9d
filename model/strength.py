"""How much of the estimated noise is removed."""

from __future__ import annotations

PRESETS = {"mild": 0.4, "standard": 0.7, "strong": 0.9}


def parse_strength(text: str | float) -> float:
    """Return the strength for a preset's name or a number.

    Raises
    ------
    ValueError
        If the text is neither ``mild``, ``standard``, ``strong`` nor a number from 0 to 1.
    """
    if isinstance(text, str) and text.strip().lower() in PRESETS:
        return PRESETS[text.strip().lower()]
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"strength {text!r} is neither {', '.join(PRESETS)} nor a number from 0 to 1")
    return value
