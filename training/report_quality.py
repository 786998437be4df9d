"""Sections on image quality against a known truth: gains, differences, sources, kinds of noise."""

from __future__ import annotations

from training.findings import (
    BLIND,
    DOSES,
    KNOWN,
    MUST_AND_GOAL_DB,
    REFERENCE,
    pool_of,
    signed,
    span,
    track_of,
    with_interval,
)
from training.plots import Mark, Point, dot_panels
from training.report_parts import Line, Picture, Section, by_dose, dose_order, table_of, unique

MAIN_KERNEL = "csi"
KERNEL_WORDS = {
    "csi": "csi: caesium iodide scintillator, neighbours correlated (Wang 2014)",
    "white": "white: no correlation, as direct converters",
    "soft": "soft: Gaussian blur of 2.2 px, strongly correlated",
}


def quality_sections(report: Line) -> list[Section]:
    """Return what was measured against a known truth: gains, differences, sources, kernels."""
    summary = report.get("summary") or []
    sections = []
    if summary:
        sections.append(_gains(summary))
    if report.get("against"):
        sections.append(_differences(report["against"]))
    if summary:
        sections.append(_sources(summary, report.get("against") or []))
        if len({line["kernel"] for line in summary}) > 1:
            sections.append(_kernels(summary))
    return sections


def _gains(summary: list[Line]) -> Section:
    source, kernel = _main(summary)
    lines = [li for li in summary if (li["source"], li["kernel"]) == (source, kernel)]
    pictures = []
    for track, words in (("oracle", "noise law known"), ("blind", "noise estimated from the image alone")):
        members = _by_gain([li for li in lines if track_of(li) == track])
        if members:
            points = [_gain_point(li, row=li["method"], series=_whose(li["method"])) for li in members]
            pictures.append(
                Picture(
                    source=dot_panels(points, xlabel=_GAIN, series=(_OURS, _CLASSICAL)),
                    alt=f"Gain per dose and method, {words}",
                    caption=f"Gain over the noisy input, {words}: {source}, {kernel} noise. "
                    "Bars: 95 % interval over patients.",
                )
            )
    tables = []
    for dose in DOSES:
        members = [li for li in lines if li["dose"] == dose]
        if members:
            order = sorted(members, key=lambda li: (_TRACKS.index(track_of(li)), -li["gain_stabilised_db"]))
            tables.append(
                table_of(
                    f"Dose {dose}, {source}, {kernel} noise, {_patients(members)}",
                    [_gain_cells(li) for li in order],
                    _GAIN_COLUMNS,
                )
            )
    return Section(
        anchor="gain",
        title="Gain at each dose",
        text=(
            "A gain of 3 dB means that half of the error power is left, 6 dB a quarter, 10 dB a tenth. Error is both "
            "noise that stayed and detail that was lost. Methods that know the noise law and methods that must "
            "estimate it from the image are shown apart: only the second can be used in a clinic.",
        ),
        pictures=tuple(pictures),
        tables=tuple(tables),
    )


_GAIN = "gain over the noisy input (dB, stabilised domain)"
_OURS, _CLASSICAL = "this denoiser", "classical filter, tuned"
_TRACKS = ["input", "oracle", "blind"]
_TRACK_WORDS = {"input": "input", "oracle": "law known", "blind": "blind"}
_GAIN_COLUMNS = (
    ("method", "method"),
    ("track", "noise"),
    ("gain", "gain, stabilised (dB)"),
    ("interval", "95 % interval"),
    ("linear", "gain, linear (dB)"),
    ("log", "gain, log (dB)"),
    ("psnr", "PSNR (dB)"),
    ("psnr_log", "PSNR, log (dB)"),
    ("ssim", "SSIM"),
    ("mse", "MSE (σ²)"),
)


def _gain_cells(line: Line) -> Line:
    measured = track_of(line) != "input"
    return {
        "method": line["method"],
        "track": _TRACK_WORDS.get(track_of(line), track_of(line)),
        "gain": signed(line["gain_stabilised_db"]) if measured else None,
        "interval": _interval(line) if measured else None,
        "linear": signed(line["gain_linear_db"]) if measured else None,
        "log": signed(line["gain_log_db"]) if measured and "gain_log_db" in line else None,
        "psnr": f"{line['psnr_db']:.1f}",
        "psnr_log": f"{line['psnr_log_db']:.1f}" if "psnr_log_db" in line else None,
        "ssim": f"{line['ssim']:.3f}",
        "mse": f"{line['mse_sigma2']:.3f}",
    }


def _differences(against: list[Line]) -> Section:
    source = pool_of(against) or str(against[0]["source"])
    lines = [li for li in against if li["source"] == source]
    marks = [Mark(value=0.0, meaning="no difference")]
    marks += [
        Mark(value=must, meaning="required over BM3D", panel=f"dose {dose}", row=f"minus {REFERENCE}")
        for dose, (must, _) in MUST_AND_GOAL_DB.items()
    ]
    pictures, tables = [], []
    for method in sorted(unique(li["method"] for li in lines), key=lambda m: (m != KNOWN, m)):
        members = sorted((li for li in lines if li["method"] == method), key=_difference_order)
        points = [
            Point(
                panel=f"dose {li['dose']}",
                row=f"minus {li['baseline']}",
                series=f"{li['kernel']} noise",
                value=li["difference_db"],
                interval=_pair(li),
            )
            for li in members
        ]
        pictures.append(
            Picture(
                source=dot_panels(points, xlabel="difference of the gains (dB, stabilised domain)", marks=marks),
                alt=f"{method} minus each classical filter",
                caption=f"{method} minus each classical filter, {source}: right of zero, ours is better. Bars: 95 % "
                "interval of the difference, paired by case, over patients.",
            )
        )
        tables.append(
            by_dose(
                f"{method} minus classical filter (dB, stabilised domain), {source}",
                sorted(members, key=lambda li: _kernel_order(li["kernel"])),
                keys=(("kernel", "noise"), ("baseline", "minus")),
                cell=lambda li: with_interval(li, "difference_db"),
            )
        )
    return Section(
        anchor="differences",
        title="Ours minus the classical filters",
        text=(
            "Both methods see the same noisy images, so the difference is more certain than either gain. Classical "
            "filters get the true noise law unless their name says blind, then our estimate; ours gets the law only "
            "where the title says so.",
        ),
        pictures=tuple(pictures),
        tables=tuple(tables),
    )


def _difference_order(line: Line) -> tuple[int, bool, str, int]:
    """Doses as panels, the reference on top, kernels in their order."""
    baseline = str(line["baseline"])
    return dose_order(line["dose"]), baseline != REFERENCE, baseline, _kernel_order(line["kernel"])


def _sources(summary: list[Line], against: list[Line]) -> Section:
    _, kernel = _main(summary)
    methods = _compared(summary)
    lines = [li for li in summary if li["kernel"] == kernel and li["method"] in methods]
    lines.sort(key=lambda li: (_source_order(li["source"]), methods.index(li["method"]), dose_order(li["dose"])))
    by_panel = sorted(lines, key=lambda li: dose_order(li["dose"]))
    names = {li["source"]: f"{li['source']} ({_patients([li])})" for li in lines}
    points = [_gain_point(li, row=names[li["source"]], series=li["method"]) for li in by_panel]
    tables = [
        by_dose(
            f"Gain per source (dB, stabilised domain), {kernel} noise",
            [{**li, "named": names[li["source"]]} for li in lines],
            keys=(("named", "source"), ("method", "method")),
            cell=_gain_text,
        )
    ]
    differences = [
        {**li, "named": names.get(li["source"], li["source"])}
        for li in sorted(against, key=lambda li: (_source_order(li["source"]), li["method"] != KNOWN))
        if (li["kernel"], li["baseline"]) == (kernel, REFERENCE) and li["method"] in methods
    ]
    if differences:
        tables.append(
            by_dose(
                f"Ours minus BM3D per source (stabilised domain), {kernel} noise",
                differences,
                keys=(("named", "source"), ("method", "method")),
                cell=lambda li: with_interval(li, "difference_db"),
            )
        )
    return Section(
        anchor="sources",
        title="Each source and body part",
        text=(
            "An average hides the images on which a method does badly; here every source stands for itself. BM3D gets "
            "the true noise law.",
        ),
        pictures=(
            Picture(
                source=dot_panels(points, xlabel=_GAIN, series=methods),
                alt="Gain per source",
                caption=f"Gain per source, {kernel} noise. Bars: 95 % interval over patients (none for one patient).",
            ),
        ),
        tables=tuple(tables),
    )


def _kernels(summary: list[Line]) -> Section:
    source, _ = _main(summary)
    methods = _compared(summary)
    lines = [li for li in summary if li["source"] == source and li["method"] in methods]
    lines.sort(key=lambda li: (_kernel_order(li["kernel"]), methods.index(li["method"]), dose_order(li["dose"])))
    by_panel = sorted(lines, key=lambda li: dose_order(li["dose"]))
    points = [_gain_point(li, row=f"{li['kernel']} noise", series=li["method"]) for li in by_panel]
    kernels = unique(li["kernel"] for li in lines)
    return Section(
        anchor="kernels",
        title="Kinds of noise",
        text=("; ".join(KERNEL_WORDS.get(kernel, kernel) for kernel in kernels) + ".",),
        pictures=(
            Picture(
                source=dot_panels(points, xlabel=_GAIN, series=methods),
                alt="Gain per noise kernel",
                caption=f"Gain by correlation of the noise, {source}. Bars: 95 % interval over patients.",
            ),
        ),
        tables=(
            by_dose(
                f"Gain by correlation of the noise (dB, stabilised domain), {source}",
                lines,
                keys=(("kernel", "noise"), ("method", "method")),
                cell=_gain_text,
            ),
        ),
    )


def _gain_point(line: Line, *, row: str, series: str) -> Point:
    return Point(
        panel=f"dose {line['dose']}", row=row, series=series, value=line["gain_stabilised_db"], interval=_pair(line)
    )


def _gain_text(line: Line) -> str:
    gain = signed(line["gain_stabilised_db"])
    return gain if line.get("patients") == 1 else f"{gain} ({_interval(line)})"


def _interval(line: Line) -> str:
    return span(line["interval_95"]) if line.get("patients") != 1 else "–"


def _pair(line: Line) -> tuple[float, float] | None:
    if line.get("patients") == 1 or not line.get("interval_95"):
        return None
    low, high = line["interval_95"]
    return float(low), float(high)


def _main(summary: list[Line]) -> tuple[str, str]:
    """Return the source and the kernel that stand for the whole: all unseen or real sources, CsI."""
    source = pool_of(summary) or str(summary[0]["source"])
    kernels = [line["kernel"] for line in summary if line["source"] == source]
    return source, MAIN_KERNEL if MAIN_KERNEL in kernels else str(kernels[0])


def _compared(summary: list[Line]) -> list[str]:
    """Return the methods shown where space is short: ours, and the classical filter that is the reference."""
    present = unique(line["method"] for line in summary)
    classical = [m for m in present if not m.startswith("ours") and m != "noisy"]
    reference = [REFERENCE] if REFERENCE in classical else classical[:1]
    return [m for m in (KNOWN, BLIND) if m in present] + reference


def _by_gain(lines: list[Line]) -> list[Line]:
    """Sort for a figure: doses as panels, the best method of the middle dose on top."""
    middle = {li["method"]: li["gain_stabilised_db"] for li in lines if li["dose"] == DOSES[1]}
    return sorted(lines, key=lambda li: (dose_order(li["dose"]), -middle.get(li["method"], 0.0)))


def _whose(method: str) -> str:
    return _OURS if method.startswith("ours") else _CLASSICAL


def _patients(lines: list[Line]) -> str:
    n = max(line.get("patients", 0) for line in lines)
    kind = "phantom" if lines[0]["source"].startswith("phantom") else "patient"
    return f"{n} {kind}" if n == 1 else f"{n} {kind}s"


def _kernel_order(kernel: str) -> int:
    return list(KERNEL_WORDS).index(kernel) if kernel in KERNEL_WORDS else len(KERNEL_WORDS)


def _source_order(source: str) -> tuple[int, str]:
    """Pools first, phantoms last."""
    return (0 if source.endswith(" sources") else 2 if source.startswith("phantom") else 1, source)
