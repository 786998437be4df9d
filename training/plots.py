"""Figures of the evaluation report: SVG as data URIs, so that a page needs no second file."""

from __future__ import annotations

import base64
import io
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#333333", "#56B4E9")
"""Okabe and Ito 2008: told apart by colour-blind readers; each goes with a marker and a line of its own for print."""
MARKERS = "os^DvPX"
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))

_WIDTH_IN = 10.0
_LEGEND_LETTERS = 130
"""Letters of a legend that fit into the width; each entry takes about 8 for its mark."""
_STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure on every machine
    "font.size": 10,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    # Same report, same bytes.
    "svg.hashsalt": "evaluation report",
    # Outlines of letters instead of fonts that a reader may lack.
    "svg.fonttype": "path",
    # A name with dollar signs is a name.
    "text.parse_math": False,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
}


@dataclass(frozen=True, kw_only=True)
class Point:
    """One value with its interval; ``panel``, ``row`` and ``series`` say where it is drawn."""

    panel: str
    row: str
    series: str
    value: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line in a panel."""

    panel: str
    label: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A vertical line at a value that means something; "" stands for every panel or row."""

    value: float
    meaning: str
    panel: str = ""
    row: str = ""


def dot_panels(points: Sequence[Point], *, xlabel: str, marks: Sequence[Mark] = (), series: Sequence[str] = ()) -> str:
    """Draw values as dots with intervals: a panel beside the other, the same rows in each.

    Parameters
    ----------
    points
        Panels, rows and series are drawn in the order of their first appearance.
    xlabel
        Quantity and unit.
    marks
        Vertical lines, explained in the legend.
    series
        Series in the order of their colours, where the first appearance would not do.

    Returns
    -------
    A data URI.
    """
    shown = [point for point in points if math.isfinite(point.value)]
    panels, rows, found = (_unique([getattr(p, key) for p in shown]) for key in ("panel", "row", "series"))
    series = [name for name in series if name in found] or found
    panels = panels or [""]
    beside = {row: [name for name in series if any(p.row == row and p.series == name for p in shown)] for row in rows}
    height = 1.25 + len(rows) * max(0.27, 0.17 * max(map(len, beside.values()), default=0) + 0.1)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH_IN, height), layout="constrained")
        axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
        for axis, panel in zip(axes, panels, strict=True):
            axis.set_title(panel)
            for i, name in enumerate(series):
                members = [p for p in shown if p.panel == panel and p.series == name]
                heights = [rows.index(p.row) + _offset(beside[p.row], name) for p in members]
                _draw_points(axis, members, heights, style=i, label=name)
            axis.grid(axis="y", visible=False)
        meanings = _unique([mark.meaning for mark in marks])
        for mark in marks:
            for axis, panel in zip(axes, panels, strict=True):
                if mark.panel in ("", panel):
                    _draw_mark(axis, mark, rows, line=LINES[meanings.index(mark.meaning) % len(LINES)])
        axes[0].set_yticks(range(len(rows)), [textwrap.fill(row, 46) for row in rows])
        axes[0].set_ylim(len(rows) - 0.5, -0.5)
        figure.supxlabel(xlabel, fontsize=10)
        _legend(figure, axes, least=2)
        return _data_uri(figure)


def curve_panels(
    curves: Sequence[Curve], *, xlabel: str, ylabel: str, marks: Sequence[tuple[float, str]] = (), scales: str = ""
) -> str:
    """Draw curves, up to three panels side by side with common axes.

    Parameters
    ----------
    curves
        Panels and labels in the order of their first appearance; a label looks the same in all panels.
    xlabel, ylabel
        Quantity and unit.
    marks
        Horizontal lines: value and what it means (legend).
    scales
        Axes that are logarithmic: "x", "y" or both.

    Returns
    -------
    A data URI.
    """
    panels, labels = _unique([c.panel for c in curves]), _unique([c.label for c in curves])
    columns = min(3, len(panels))
    lines = math.ceil(len(panels) / columns)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH_IN, 0.8 + 2.7 * lines), layout="constrained")
        axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for axis, panel in zip(axes, panels, strict=False):
            axis.set_title(textwrap.fill(panel, 38))
            for curve in (c for c in curves if c.panel == panel):
                i = labels.index(curve.label) % len(COLOURS)
                marker = MARKERS[i] if len(curve.x) <= 12 else None
                axis.plot(
                    curve.x,
                    curve.y,
                    color=COLOURS[i],
                    linestyle=LINES[i],
                    linewidth=1.6,
                    marker=marker,
                    markersize=4.5,
                    label=curve.label,
                )
            for i, (value, meaning) in enumerate(marks):
                axis.axhline(value, color="#555555", linewidth=1.0, linestyle=LINES[i % 3], label=meaning)
            if "x" in scales:
                axis.set_xscale("log", base=2)
                axis.xaxis.set_major_formatter(FormatStrFormatter("%g"))
            if "y" in scales:
                axis.set_yscale("log")
                axis.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        figure.supxlabel(xlabel, fontsize=10)
        figure.supylabel(ylabel, fontsize=10)
        _legend(figure, list(axes[: len(panels)]), least=1)
        return _data_uri(figure)


def _offset(beside: list[str], name: str) -> float:
    """Spread the series of one row over seven tenths of its height."""
    return (beside.index(name) - (len(beside) - 1) / 2) * 0.7 / len(beside)


def _draw_points(axis: Axes, points: Sequence[Point], heights: Sequence[float], *, style: int, label: str) -> None:
    colour, marker = COLOURS[style % len(COLOURS)], MARKERS[style % len(MARKERS)]
    for point, y in zip(points, heights, strict=True):
        if point.interval is not None:
            axis.plot(point.interval, (y, y), color=colour, linewidth=1.6, solid_capstyle="butt")
    values = [point.value for point in points]
    axis.plot(values, heights, color=colour, marker=marker, markersize=6, linestyle="none", label=label)


def _draw_mark(axis: Axes, mark: Mark, rows: list[str], *, line: Any) -> None:
    if mark.row and mark.row not in rows:
        return
    middle = rows.index(mark.row) if mark.row else 0
    span = (middle - 0.5, middle + 0.5) if mark.row else (-0.5, len(rows) - 0.5)
    axis.plot((mark.value, mark.value), span, color="#555555", linewidth=1.2, linestyle=line, label=mark.meaning)


def _legend(figure: Figure, axes: Sequence[Axes], *, least: int) -> None:
    """One legend above all panels, each name once; none where there is nothing to tell apart."""
    entries: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if len(entries) >= least:
        columns = max(1, _LEGEND_LETTERS // (max(map(len, entries)) + 8))
        figure.legend(list(entries.values()), list(entries), loc="outside upper center", ncols=columns)


def _unique(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _data_uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
