"""Write the evaluation as one HTML page without network: ``python -m training.report --evaluation evaluation.json``."""

from __future__ import annotations

import argparse
import base64
import json
import os
from itertools import zip_longest
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from training.findings import (
    BLIND,
    DOSES,
    KNOWN,
    Met,
    Verdict,
    estimation_words,
    figure,
    gain_verdicts,
    guard_words,
    harm_verdicts,
    limits,
    not_measured,
    pool_of,
    pool_words,
    signed,
    track_of,
)
from training.report_harm import harm_section
from training.report_parts import Picture, Section, Table, by_dose
from training.report_quality import KERNEL_WORDS, MAIN_KERNEL, quality_sections
from training.report_safety import estimation_section, guards_section, real_noise_section

MOST_STRIPS = 12
MOST_STRIP_BYTES = 4_500_000
"""A page that mail and browsers take: base64 adds a third, figures about one megabyte."""
DEFAULT_STRENGTH = "ours, blind, strength 0.7"


def write_report(report: dict[str, Any], folder: Path) -> Path:
    """Write ``report.html`` into a folder.

    Parameters
    ----------
    report
        What ``training.evaluate`` measured. A part that is missing leaves its section out, and the summary says so.
    folder
        Where the page goes and where the files of ``strips`` lie.

    Returns
    -------
    The path of the page. The same report and strips give the same bytes.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    gains, harms = gain_verdicts(report), harm_verdicts(report)
    page = environment.get_template("report_template.html").render(
        weights=str(report.get("weights", "unnamed")),
        digest=str(report.get("sha256", "unknown")),
        date=report.get("date"),
        quick=bool(report.get("quick")),
        sentences=summary_sentences(report),
        counts=_counts(gains + harms),
        pool=pool_words(report.get("against") or []),
        gain_targets={v.dose: v.target for v in gains},
        gains={name: [v for v in gains if v.name == name] for name in dict.fromkeys(v.name for v in gains)},
        harms=harms,
        in_short=in_short(report),
        missing=not_measured(report),
        sections=_sections(report, folder),
        limits=limits(report),
    )
    path = folder / "report.html"
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(page, encoding="utf-8")
    os.replace(temporary, path)
    return path


def summary_sentences(report: dict[str, Any]) -> list[str]:
    """Return in plain sentences what was measured and what came out."""
    summary = report.get("summary") or []
    result = []
    if summary:
        result.append(_scope(report))
    result += estimation_words(report.get("estimation") or {})[:2]
    result += guard_words(report.get("guards") or {})
    return result


def _scope(report: dict[str, Any]) -> str:
    summary = report["summary"]
    # Pools and single anatomies of phantoms count their members again.
    groups = {line["source"] for line in summary}
    sources = sorted(s for s in groups if not s.endswith(" sources") and not s.startswith("phantom "))
    doses = [dose for dose in DOSES if any(line["dose"] == dose for line in summary)]
    kernels = sorted({line["kernel"] for line in summary})
    patients = sum(max(line["patients"] for line in summary if line["source"] == source) for source in sources)
    quanta = f" of {report['full_dose_quanta']:g} effective quanta per pixel" if "full_dose_quanta" in report else ""
    seeds = f", {report['seeds']} noise seed(s) per image" if "seeds" in report else ""
    return (
        f"Measured on {patients} patients or phantoms of {len(sources)} source(s) ({', '.join(sources)}), at dose "
        f"{', '.join(doses)} of a full dose{quanta}, with {', '.join(kernels)} noise{seeds}. Low dose is simulated, so "
        "the truth is known."
    )


def in_short(report: dict[str, Any]) -> Table | None:
    """Return per dose what an image gains as delivered, at full strength, and beside the best classical filter."""
    summary = report.get("summary") or []
    source = pool_of(summary) or (str(summary[0]["source"]) if summary else "")
    lines = [li for li in summary if (li["source"], li["kernel"]) == (source, MAIN_KERNEL)]
    rows = []
    for dose in DOSES:
        by_method = {li["method"]: li for li in lines if li["dose"] == dose}
        classical = [
            li for li in by_method.values() if track_of(li) == "oracle" and not li["method"].startswith("ours")
        ]
        best = max(classical, key=lambda li: float(li["gain_stabilised_db"]), default=None)
        cells = [_gain_and_rest(by_method.get(method)) for method in (DEFAULT_STRENGTH, BLIND, KNOWN)]
        rows.append((dose, *cells, f"{_gain_and_rest(best)}: {best['method']}" if best else "–"))
    if not lines:
        return None
    return Table(
        caption=f"Gain over the noisy image (and error power that is left): {source}, {MAIN_KERNEL} noise",
        columns=(
            "dose",
            "as delivered: blind, strength 0.7",
            "blind, full",
            "noise law known",
            "best classical, law known",
        ),
        rows=tuple(rows),
    )


def _gain_and_rest(line: dict[str, Any] | None) -> str:
    if line is None:
        return "–"
    gain = float(line["gain_stabilised_db"])
    return f"{signed(gain)} dB ({100 * 10 ** (-gain / 10):.0f} %)"


def _counts(verdicts: list[Verdict]) -> str:
    """Count the verdicts in words."""
    return ", ".join(f"{sum(v.met is met for v in verdicts)} {met.value}" for met in Met)


def _sections(report: dict[str, Any], folder: Path) -> list[Section]:
    sections = quality_sections(report)
    if report.get("strips"):
        sections.append(_strips_section(report["strips"], folder))
    for key, build in (
        ("harm", harm_section),
        ("estimation", estimation_section),
        ("guards", guards_section),
        ("real_noise", real_noise_section),
    ):
        if report.get(key):
            sections.append(build(report[key]))
    sections.append(_method_section(report))
    return sections


def choose_strips(strips: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return strips in the order of their turn: one of each source, then the second of each, lowest dose first."""
    by_source: dict[str, list[dict[str, Any]]] = {}
    for strip in strips:
        by_source.setdefault(str(strip.get("source")), []).append(strip)
    for members in by_source.values():
        members.sort(key=_strip_order)
    rounds = zip_longest(*(by_source[source] for source in sorted(by_source)))
    return [strip for turn in rounds for strip in turn if strip is not None]


def _strip_order(strip: dict[str, Any]) -> tuple[bool, int]:
    dose = strip.get("dose")
    return strip.get("kernel") != MAIN_KERNEL, -DOSES.index(dose) if dose in DOSES else 0


def _strips_section(strips: list[dict[str, Any]], folder: Path) -> Section:
    """Embed strips up to the limits; what is not shown is counted."""
    pictures: list[Picture] = []
    size = 0
    for strip in choose_strips(strips):
        path = folder / str(strip["file"])
        # A report names files of its own folder alone.
        if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
            continue
        content = path.read_bytes()
        if len(pictures) == MOST_STRIPS or size + len(content) > MOST_STRIP_BYTES:
            break
        size += len(content)
        label = f"{strip.get('source')}, dose {strip.get('dose')}, {strip.get('kernel')} noise"
        pictures.append(
            Picture(
                source="data:image/png;base64," + base64.b64encode(content).decode("ascii"),
                alt=f"Images side by side: {label}",
                caption=f"{label}. {strip.get('caption', '')}".strip(),
            )
        )
    return Section(
        anchor="pictures",
        title="Pictures",
        text=(
            f"{len(pictures)} of {len(strips)} strips are shown, chosen by rule and not by looks: one of each source "
            "in turn, lowest dose first. The others lie beside this page. All tiles of a strip have the same window.",
        ),
        pictures=tuple(pictures),
    )


def _method_section(report: dict[str, Any]) -> Section:
    text = [
        "Stabilised domain: values transformed so that the noise has the same standard deviation σ everywhere; one dB "
        "counts the same in dark and bright parts. Linear: detector values. Log: logarithm of the detector values, as "
        "images are displayed.",
        "PSNR refers to the range P99.9 − P0.1 of the exposed field; SSIM (11 x 11 Gaussian, sigma 1.5) to the log "
        "image. Air and what lies behind the collimator are left out.",
        "Intervals: 95 %, patients drawn with replacement, so many images of one patient do not count as many.",
        "Noise: " + "; ".join(KERNEL_WORDS.values()) + ".",
    ]
    if "seconds" in report:
        text.append(f"The run took {float(report['seconds']) / 60:.0f} minutes.")
    tables = [_tuned(report), _own_noise(report.get("own_noise") or [])]
    return Section(
        anchor="method",
        title="How it was measured",
        text=tuple(text),
        tables=tuple(table for table in tables if table.rows),
    )


def _tuned(report: dict[str, Any]) -> Table:
    by_kernel = report.get("tuned_by_kernel") or {"": report.get("tuned") or {}}
    return Table(
        caption="Tuned parameter of each classical filter",
        columns=("noise", "filter", *(f"dose {dose}" for dose in DOSES)),
        rows=tuple(
            (kernel, method, *(figure(by_dose.get(dose)) for dose in DOSES))
            for kernel, tuned in by_kernel.items()
            for method, by_dose in sorted(tuned.items())
        ),
    )


def _own_noise(lines: list[dict[str, Any]]) -> Table:
    return by_dose(
        "Noise that the truths themselves hold (power in σ² of the simulated noise): what no method can remove",
        lines,
        keys=(("source", "source"), ("images", "images")),
        cell=lambda line: f"{line['own_noise_sigma2']:.3f}",
    )


def main(arguments: list[str] | None = None) -> int:
    """Write the page again from a saved evaluation; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.report", description=__doc__)
    parser.add_argument("--evaluation", type=Path, default=Path("outputs/evaluation/evaluation.json"))
    options = parser.parse_args(arguments)
    report = json.loads(options.evaluation.read_text(encoding="utf-8"))
    print(write_report(report, options.evaluation.parent))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
