"""The section on harm: noise spectrum, edges, detection of discs, bias, dose equivalence, real phantoms."""

from __future__ import annotations

from collections.abc import Sequence

from training.findings import figure, percent, span
from training.plots import Curve, Mark, Point, curve_panels, dot_panels
from training.report_parts import Line, Picture, Section, Table, by_dose, dose_order, unique

MOST_PANELS = 9
"""Of spectra in one figure; with more, the first kernel alone is drawn and the table has the others."""


def harm_section(harm: Line) -> Section:
    """Return the do-no-harm tests: spectrum, edges, detectability, bias, dose equivalence, real phantoms."""
    pictures = [
        *_spectra(harm.get("nps") or []),
        *_edges(harm.get("ttf") or []),
        *_detectability(harm.get("contrast_detail") or []),
        *_bias(harm.get("bias") or []),
    ]
    tables = [
        by_dose(
            "Noise spectrum: shift of the mean frequency (before → after, 1/px)",
            [{"background": "", **li} for li in harm.get("nps") or []],
            keys=(("background", "background"), ("kernel", "noise"), ("strength", "strength")),
            cell=lambda li: (
                f"{percent(li['shift'])} ({li['mean_frequency_noisy']:.3f} → {li['mean_frequency_denoised']:.3f})"
            ),
        ),
        by_dose(
            "Edges: loss of the frequency at which the response falls to one half (TTF50, 1/px)",
            [{**li, "edge": _edge(li)} for li in harm.get("ttf") or []],
            keys=(("edge", "contrast"), ("strength", "strength")),
            cell=_edge_loss,
        ),
        _discs(harm.get("contrast_detail") or []),
        by_dose(
            "Bias² over the variance of the noise left (bias² / variance, σ²)",
            harm.get("bias") or [],
            keys=(("source", "source"), ("strength", "strength")),
            cell=_bias_cell,
        ),
        by_dose(
            "Dose equivalence: the noisy image would need this many times the dose",
            [{"measure": "", "source": "", **li} for li in harm.get("dose_equivalence") or []],
            keys=(("measure", "measure"), ("source", "scene"), ("strength", "strength")),
            cell=lambda li: f"{li['factor']:.2f}{_range(li.get('interval_95'))}",
        ),
        _phantoms(harm.get("phantoms") or []),
        Table(
            caption="Conditions of these tests",
            columns=("what", "how"),
            rows=tuple((name, figure(value)) for name, value in (harm.get("conditions") or {}).items()),
        ),
    ]
    text = [
        "Less noise is worthless if structure goes with it. These tests look for what a gain in dB does not show.",
        *(
            f"Dose equivalence{f' ({measure})' if measure else ''}: {how}."
            for measure, how in unique(
                (li.get("measure", ""), li["how"]) for li in harm.get("dose_equivalence") or [] if li.get("how")
            )
        ),
    ]
    return Section(
        anchor="harm",
        title="Does it do harm?",
        text=tuple(text),
        pictures=tuple(pictures),
        tables=tuple(table for table in tables if table.rows),
    )


def _spectra(lines: list[Line]) -> list[Picture]:
    panels = unique(_spectrum_panel(li) for li in lines)
    if len(panels) > MOST_PANELS:
        lines = [li for li in lines if li["kernel"] == lines[0]["kernel"]]
    curves: dict[tuple[str, str], Curve] = {}
    for li in lines:
        panel = _spectrum_panel(li)
        for label, key in (("noisy", "noisy"), (f"denoised, strength {li['strength']:g}", "denoised")):
            x, y = _positive(li["frequency_per_px"], li[key])
            curves.setdefault((panel, label), Curve(panel=panel, label=label, x=x, y=y))
    if not curves:
        return []
    ordered = sorted(curves.values(), key=lambda c: c.label != "noisy")
    return [
        Picture(
            source=curve_panels(
                ordered,
                xlabel="spatial frequency (1/px)",
                ylabel="noise power (white noise of σ: 1)",
                scales="y",
            ),
            alt="Noise power spectra before and after",
            caption="Noise power spectrum before and after. A curve that falls in parallel keeps the noise's look; "
            "one that falls more at high frequencies leaves coarse, blotchy noise.",
        )
    ]


def _spectrum_panel(line: Line) -> str:
    background = f"{line['background']}, " if line.get("background") else ""
    return f"{background}dose {line['dose']}, {line['kernel']} noise"


def _edge(line: Line) -> str:
    return f"{line['contrast_percent']:g} %" if "contrast_percent" in line else f"{line['contrast_sigma']:g} σ"


def _edges(lines: list[Line]) -> list[Picture]:
    curves = [
        Curve(
            panel=f"strength {li['strength']:g}, dose {li['dose']}",
            label=f"contrast {_edge(li)}",
            x=li["frequency_per_px"],
            y=li["ttf"],
        )
        for li in sorted(lines, key=lambda li: float(li["strength"]))
    ]
    if not curves:
        return []
    return [
        Picture(
            source=curve_panels(
                curves,
                xlabel="spatial frequency (1/px)",
                ylabel="edge response (1 = kept)",
                marks=[(0.5, "one half")],
            ),
            alt="Task transfer function at several edge contrasts",
            caption="Edge response (TTF) for edges of several contrasts. A filter that is not linear may keep strong "
            "edges and blur faint ones.",
        )
    ]


def _edge_loss(line: Line) -> str:
    error = f" ± {100 * line['loss_error']:.1f}" if line.get("loss_error") is not None else ""
    before = line.get("ttf50_truth", line["ttf50_noisy"])
    return f"{100 * line['loss']:.1f}{error} % ({before:.3f} → {line['ttf50']:.3f})".replace("-", "−")


def _detectability(lines: list[Line]) -> list[Picture]:
    groups: dict[tuple[str, str], list[Line]] = {}
    for li in _with_levels(lines):
        panel = f"{_observer(li)} observer, dose {li['dose']}"
        groups.setdefault((panel, f"strength {li['strength']:g}, {li['level']}".removesuffix(", ")), []).append(li)
    curves = []
    for (panel, label), group in groups.items():
        members = sorted(group, key=lambda li: float(li["diameter_px"]))
        x, y = [float(li["diameter_px"]) for li in members], [float(li["ratio"]) for li in members]
        curves.append(Curve(panel=panel, label=label, x=x, y=y))
    if not curves:
        return []
    return [
        Picture(
            source=curve_panels(
                curves,
                xlabel="diameter of the disc (px)",
                ylabel="d′ denoised / d′ noisy",
                marks=[(1.0, "as without denoising"), (0.98, "required of the Hotelling observer")],
                scales="x",
            ),
            alt="Ratio of detectability after and before denoising by disc diameter",
            caption="Detectability of faint discs after denoising, relative to the noisy image. The Hotelling observer "
            "reads all there is in an image: no processing can raise it much, a loss means that something was removed.",
        )
    ]


def _with_levels(lines: list[Line]) -> list[Line]:
    """Name the discs of one diameter by their contrast where there are several."""
    contrasts: dict[tuple[str, float], list[float]] = {}
    for li in lines:
        known = contrasts.setdefault((str(li["dose"]), float(li["diameter_px"])), [])
        if li["contrast_percent"] not in known:
            known.append(li["contrast_percent"])
    named = []
    for li in lines:
        known = sorted(contrasts[str(li["dose"]), float(li["diameter_px"])])
        words = {1: ("",), 2: ("fainter disc", "clearer disc")}.get(len(known))
        place = known.index(li["contrast_percent"])
        named.append({**li, "level": words[place] if words else f"contrast {place + 1}"})
    return named


def _discs(lines: list[Line]) -> Table:
    """Return detectabilities with a column per diameter."""
    diameters = sorted({float(li["diameter_px"]) for li in lines})
    rows: dict[tuple[str, ...], dict[float, str]] = {}
    for li in sorted(_with_levels(lines), key=lambda li: (str(li["observer"]), dose_order(li["dose"]), li["strength"])):
        ratio = f"{li['ratio']:.3f}{_range(li.get('ratio_interval_95'))}"
        key = (_observer(li), str(li["dose"]), li["level"] or "–", figure(li["strength"]))
        cells = rows.setdefault(key, {})
        cells[float(li["diameter_px"])] = f"{ratio}; {li['d_noisy']:.2f} → {li['d_denoised']:.2f}"
    return Table(
        caption="Discs: ratio of d′ after and before; d′ noisy → denoised, by diameter",
        columns=("observer", "dose", "disc", "strength", *(f"{diameter:g} px" for diameter in diameters)),
        rows=tuple((*key, *(cells.get(d, "–") for d in diameters)) for key, cells in rows.items()),
    )


def _observer(line: Line) -> str:
    return {"npwe": "NPWE", "hotelling": "Hotelling"}.get(line["observer"], str(line["observer"]))


def _bias(lines: list[Line]) -> list[Picture]:
    points = [
        Point(
            panel=f"dose {li['dose']}",
            row=str(li.get("source", "all")),
            series=f"strength {li['strength']:g}",
            value=float(li["bias2_over_residual_variance"]),
        )
        for li in sorted(lines, key=lambda li: (dose_order(li["dose"]), li["strength"]))
    ]
    if not points:
        return []
    return [
        Picture(
            source=dot_panels(
                points, xlabel="bias² / variance of the noise left", marks=[Mark(value=1.0, meaning="equal")]
            ),
            alt="Squared bias over residual variance",
            caption="Systematic error (detail lost or made) against the random error left, over repeated noise. "
            "Left of 1 noise dominates, right of 1 structure was changed by more than the noise that stayed.",
        )
    ]


def _bias_cell(line: Line) -> str:
    ratio = figure(float(line["bias2_over_residual_variance"]))
    if "bias2_sigma2" not in line:
        return ratio
    lowered = line.get("applied", line["strength"]) < line["strength"] - 0.005
    guards = f", guards left {line['applied']:g}" if lowered else ""
    return f"{ratio} ({figure(line['bias2_sigma2'])} / {figure(line['residual_variance_sigma2'])}{guards})"


def _phantoms(lines: list[Line]) -> Table:
    """Return for each image of a quality phantom how much contrast its objects keep."""
    groups: dict[tuple[str, float, float], list[Line]] = {}
    for li in lines:
        groups.setdefault((li["file"], li["strength"], li["applied"]), []).append(li)
    rows = []
    for (file, strength, applied), members in groups.items():
        worst = min(members, key=lambda li: float(li["ratio"]))
        mean = sum(float(li["ratio"]) for li in members) / len(members)
        lowest = f"{worst['ratio']:.3f} ± {worst['error']:.3f} ({worst['object']})"
        rows.append((file, f"{strength:g}", f"{applied:g}", str(len(members)), f"{mean:.3f}", lowest))
    return Table(
        caption="Real quality phantoms: contrast or modulation of objects, after over before",
        columns=("image", "strength", "applied", "objects", "mean ratio", "lowest ratio"),
        rows=tuple(rows),
    )


def _range(interval: Sequence[float] | None) -> str:
    return f" ({span(interval)})" if interval else ""


def _positive(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    kept = [(a, b) for a, b in zip(x, y, strict=True) if b > 0]
    return [a for a, _ in kept], [b for _, b in kept]
