"""Small plots as SVG, drawn here: they need no script, print well, and say in words what they show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from markupsafe import Markup, escape

_WIDTH: Final = 480
_HEIGHT: Final = 150
_LEFT: Final = 48
_RIGHT: Final = 8
_TOP: Final = 12
_BOTTOM: Final = 24


def bar_plot(values: Sequence[float], labels: Sequence[str], *, title: str, text: str, unit: str = "") -> Markup:
    """Draw one bar for each value.

    Parameters
    ----------
    values
        Not negative.
    labels
        Below the bars; empty ones are left out.
    title, text
        What it is, and what it shows, for those who don't see it.
    unit
        Behind the numbers of the axis.
    """
    top = _round_up(max(values, default=0))
    step = (_WIDTH - _LEFT - _RIGHT) / max(1, len(values))
    marks = [
        f'<rect class="plot-bar" x="{_LEFT + n * step + 2:.1f}" y="{_y(value, top):.1f}" width="{step - 4:.1f}" '
        f'height="{max(0.0, _HEIGHT - _BOTTOM - _y(value, top)):.1f}">{_tip(value, unit)}</rect>'
        for n, value in enumerate(values)
    ]
    return _plot("".join(marks), labels, step, top, title, text, unit)


def line_plot(
    values: Sequence[float | None], labels: Sequence[str], *, title: str, text: str, unit: str = ""
) -> Markup:
    """Draw a line through the values; None breaks it. Parameters as for `bar_plot`."""
    top = _round_up(max((value for value in values if value is not None), default=0))
    step = (_WIDTH - _LEFT - _RIGHT) / max(1, len(values))
    lines: list[str] = []
    dots: list[str] = []
    for n, value in enumerate(values):
        if value is None:
            continue
        x, y = _LEFT + (n + 0.5) * step, _y(value, top)
        is_joined = n > 0 and values[n - 1] is not None
        lines.append(f"{'L' if is_joined else 'M'}{x:.1f} {y:.1f}")
        dots.append(f'<circle class="plot-dot" cx="{x:.1f}" cy="{y:.1f}" r="3">{_tip(value, unit)}</circle>')
    path = f'<path class="plot-line" d="{" ".join(lines)}"></path>' if lines else ""
    return _plot(path + "".join(dots), labels, step, top, title, text, unit)


def _plot(marks: str, labels: Sequence[str], step: float, top: float, title: str, text: str, unit: str) -> Markup:
    grid = "".join(
        f'<line class="plot-grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{_y(value, top):.1f}" '
        f'y2="{_y(value, top):.1f}"></line>'
        f'<text class="plot-label" x="{_LEFT - 6}" y="{_y(value, top) + 4:.1f}" text-anchor="end">'
        f"{escape(_said(value, unit))}</text>"
        for value in (0, top / 2, top)
    )
    below = "".join(
        f'<text class="plot-label" x="{_LEFT + (n + 0.5) * step:.1f}" y="{_HEIGHT - 7}" text-anchor="middle">'
        f"{escape(label)}</text>"
        for n, label in enumerate(labels)
        if label
    )
    axis = (
        f'<line class="plot-axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{_HEIGHT - _BOTTOM}" '
        f'y2="{_HEIGHT - _BOTTOM}"></line>'
    )
    return Markup(  # noqa: S704 - every text in it was escaped above, or is a number of ours
        f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(f"{title}. {text}")}">'
        f"{grid}{marks}{axis}{below}</svg>"
    )


def _tip(value: float, unit: str) -> str:
    return f"<title>{escape(_said(value, unit))}</title>"


def _y(value: float, top: float) -> float:
    return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - min(value, top) / top)


def _round_up(value: float) -> float:
    """Return the next number of a plain scale: 1, 2, 4, 5 or 10 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1.0, 2.0, 4.0, 5.0, 10.0) if factor * power >= value)


def _said(value: float, unit: str) -> str:
    number = f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.2g}"
    return f"{number} {unit}".strip()
