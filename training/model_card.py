"""Write ``docs/model-card.md`` from the manifest of the weights and the report of the evaluation."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from model.manifest import find_manifest
from training.findings import (
    BLIND,
    DOSES,
    KNOWN,
    REFERENCE,
    estimation_words,
    figure,
    gain_verdicts,
    guard_words,
    harm_verdicts,
    limits,
    percent,
    pool_of,
    pool_words,
    signed,
    span,
    with_interval,
)

INTENDED = """\
## Intended use

Reduction of quantum and electronic noise in low-dose projection radiographs between modality and PACS. The original
is kept and can always be forwarded. It is no medical device by itself, has seen no reader study, and a site should
test it with its own detectors and doses before clinical use.

## How it works

ResNet-18 encoder and UNet decoder estimate the *noise* of an image whose noise was made uniform first (variance
stabilising transform of a noise curve that is estimated blindly from each image). What is removed is limited:
never more than 3.5 standard deviations of a pixel, nothing coarser than 64 pixels, a preset share of it (mild 0.4,
standard 0.7, strong 0.9), and nothing at all where the noise estimate is poor.
"""

Line = dict[str, Any]

SCENE = (
    ("name", "scene"),
    ("condition", "condition"),
    ("frames", "frames"),
    ("noise_sigma_measured", "σ by repetition"),
    ("noise_sigma_estimated", "σ estimated"),
    ("gain_db_0.7", "gain, 0.7 (dB)"),
    ("gain_db", "gain, full (dB)"),
)
STANDARD = 0.7
"""The strength that images are delivered with unless a rule says else."""


def _trained(training: Line) -> list[str]:
    """Say how long the weights were trained, run by run: a run may start from the weights of another."""
    runs = [*training.get("history", []), training]
    lines = []
    for number, run in enumerate(runs, start=1):
        which = f"run {number}: " if len(runs) > 1 else ""
        cpu = f", {run['cpu_s'] / 3600:.1f} hours of processor time" if run.get("cpu_s") else ""
        minutes = f"{run['elapsed_s'] / 60:.0f} minutes by the clock{cpu}"
        lines.append(f"- {which}trained {minutes}, {run['steps']} steps, {run['gigapixels']:.1f} gigapixels")
    return lines


def write_card(manifest: Line, report: Line) -> str:
    """Return the model card as Markdown.

    Raises
    ------
    ValueError
        If the report is of other weights than the manifest.
    """
    if report["sha256"] != manifest["sha256"]:
        raise ValueError("the evaluation is of other weights than the manifest")
    training = manifest["training"]
    trained = manifest["trained_for"]
    lines = [
        f"# Model card: {manifest['name']}",
        "",
        "Written by `python -m training.model_card` from the weights' manifest and the evaluation; do not edit.",
        "",
        f"- architecture {manifest['architecture']}, width {manifest['width']}, {manifest['parameters'] / 1e6:.2f} M "
        f"parameters, stored as {manifest['precision']}",
        f"- SHA-256 `{manifest['sha256']}`",
        *_trained(training),
        f"- trained for {trained['quanta'][0]:g} to {trained['quanta'][1]:g} effective quanta per pixel at the median, "
        f"noise kernels of {trained['kernel_fwhm_px'][0]:g} to {trained['kernel_fwhm_px'][1]:g} px, "
        f"structure noise up to "
        f"{trained['structure'][1]:.0%}, noise assumed within {trained['sigma_error']:.0%}",
        "",
        INTENDED,
        "## Data",
        "",
        manifest["data"],
        "",
        "## Measured",
        "",
        *_conditions(report),
        *_targets(report),
        *_quality(report),
        *_harm(report.get("harm") or {}),
        *_estimation(report.get("estimation") or {}),
        *_guards(report.get("guards") or {}),
        *_real_noise(report.get("real_noise") or {}),
        "",
        "## Limits, plainly",
        "",
        *(f"- {limit}" for limit in limits(report)),
        "",
    ]
    return "\n".join(lines)


def _conditions(report: Line) -> list[str]:
    quick = "**A quick run, no basis for a decision.** " if report.get("quick") else ""
    date = f"Run of {report['date']}. " if report.get("date") else ""
    return [
        f"{quick}{date}Full dose is {report['full_dose_quanta']:g} effective quanta per pixel at the median of the "
        f"picture; {report['seeds']} noise seed(s). Gains over the noisy input in dB in the stabilised domain, with "
        'the 95 % interval over patients. "Law known": the true noise is given, as it is to all classical filters, '
        'whose one parameter is tuned. "Blind": nothing is given.'
    ]


def _targets(report: Line) -> list[str]:
    """Return the targets as two tables: gain over BM3D, harm."""
    gains = gain_verdicts(report)
    doses = {v.dose: v.target for v in gains}
    lines = [
        "",
        "### Targets",
        "",
        "Gain over VST + BM3D (white, true noise law, tuned) where noise is correlated, "
        + pool_words(report.get("against") or []),
        "",
        *_table(
            ["ours", *(f"{dose}: {target}" for dose, target in doses.items())],
            [
                [name, *(f"**{v.met}** {v.measured}" for v in gains if v.name == name)]
                for name in _unique(v.name for v in gains)
            ],
        ),
    ]
    harms = harm_verdicts(report)
    if harms:
        rows = [[v.name, v.target, v.measured, f"**{v.met}**"] for v in harms]
        lines += ["", *_table(["do no harm", "required", "measured", "result"], rows)]
    return lines


def _quality(report: Line) -> list[str]:
    summary = report.get("summary") or []
    if not summary:
        return []
    source = pool_of(summary) or summary[0]["source"]
    kernels = _unique(li["kernel"] for li in summary if li["source"] == source)
    kernel = "csi" if "csi" in kernels else kernels[0]
    main = [li for li in summary if (li["source"], li["kernel"]) == (source, kernel)]
    lines = [
        "",
        f"### Per dose: {source}, {kernel} noise ({_patients(main[0])})",
        "",
        "Gain in dB with interval; PSNR in dB (range P99.9 − P0.1 of the field); SSIM of the log image.",
        "",
        *_by_dose("method", main, key="method", cell=_figures),
    ]
    if len(kernels) > 1:
        lines += ["", f"### Per kind of noise: {source}", ""]
        chosen = [
            {**li, "named": f"{li['kernel']}, {li['method']}"}
            for li in sorted(summary, key=lambda li: (li["kernel"], _order(li["method"])))
            if li["source"] == source and li["method"] in (KNOWN, BLIND, REFERENCE)
        ]
        lines += _by_dose("noise, method", chosen, key="named", cell=_gain)
    differences = {
        (li["source"], li["dose"]): li
        for li in report.get("against") or []
        if (li["kernel"], li["method"], li["baseline"]) == (kernel, BLIND, REFERENCE)
    }
    blind = [
        {**li, "named": f"{li['source']} ({_patients(li)})", "against": differences.get((li["source"], li["dose"]))}
        for li in summary
        if (li["kernel"], li["method"]) == (kernel, BLIND)
    ]
    lines += ["", f"### Per source: blind, {kernel} noise", "", "Gain in dB; after it the difference to BM3D.", ""]
    return lines + _by_dose("source", blind, key="named", cell=_gain_and_difference)


def _harm(harm: Line) -> list[str]:
    if not harm:
        return []
    at = {
        part: [line for line in harm.get(part) or [] if line["strength"] == STANDARD]
        for part in ("bias", "contrast_detail", "dose_equivalence")
    }
    lines = ["", f"### Harm at strength {STANDARD}", ""]
    bias = [float(line["bias2_over_residual_variance"]) for line in at["bias"]]
    if bias:
        lines.append(f"- bias² over the variance of the noise left: {figure(min(bias))} to {figure(max(bias))}")
    for observer in _unique(line["observer"] for line in at["contrast_detail"]):
        ratios = [line for line in at["contrast_detail"] if line["observer"] == observer]
        worst = min(ratios, key=lambda line: float(line["ratio"]))
        lines.append(
            f"- d′ of faint discs ({observer}), worst ratio to the noisy image: {figure(worst['ratio'])} "
            f"({figure(worst['diameter_px'])} px, dose {worst['dose']})"
        )
    for measure in _unique(line.get("measure", "") for line in at["dose_equivalence"]):
        factors = [float(li["factor"]) for li in at["dose_equivalence"] if li.get("measure", "") == measure]
        lines.append(f"- dose equivalence ({measure}): {figure(min(factors))} to {figure(max(factors))}")
    return lines


def _estimation(estimation: Line) -> list[str]:
    if not estimation:
        return []
    sentences = [f"- {sentence}" for sentence in estimation_words(estimation)]
    conditions = f"- conditions measured: {len(estimation.get('rows') or [])}"
    return ["", "### Blind noise estimate", "", *sentences, conditions]


def _guards(guards: Line) -> list[str]:
    if not guards:
        return []
    lines = ["", "### Guards", "", " ".join(guard_words(guards))]
    wrong = [case for case in guards.get("cases") or [] if not case["as_expected"]]
    if wrong:
        rows = [[figure(case.get(key)) for key in ("case", "expected", "decision", "strength")] for case in wrong]
        lines += ["", *_table(["not as expected", "expected", "decision", "strength"], rows)]
    return lines


def _real_noise(real_noise: Line) -> list[str]:
    scenes = real_noise.get("scenes") or []
    fields = real_noise.get("open_fields") or []
    lines = ["", "### Real noise", ""] if scenes or fields else []
    if scenes:
        present = [(key, title) for key, title in SCENE if any(scene.get(key) is not None for scene in scenes)]
        rows = [[figure(scene.get(key)) for key, _ in present] for scene in scenes]
        lines += _table([title for _, title in present], rows)
    lines += ["", *(f"- {_field(field)}" for field in fields)] if fields else []
    return lines


def _field(field: Line) -> str:
    return (
        f"simulated noise against {field['name']}: variance {percent(field['variance_error'])}, noise spectrum "
        f"{percent(field['nps_error_median'])} in the median ring, {percent(field['nps_error'])} in the worst"
    )


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a Markdown table; a bar or an angle bracket in a cell stays a sign."""

    def plain(cell: str) -> str:
        return cell.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")

    head = "| " + " | ".join(map(plain, columns)) + " |"
    return [head, "|---" * len(columns) + "|", *("| " + " | ".join(map(plain, row)) + " |" for row in rows)]


def _by_dose(title: str, lines: list[Line], *, key: str, cell: Any) -> list[str]:
    cells: dict[str, dict[str, str]] = {}
    for line in sorted(lines, key=lambda li: _order(li["method"])):
        cells.setdefault(line[key], {})[line["dose"]] = cell(line)
    rows = [[name, *(by_dose.get(dose, "–") for dose in DOSES)] for name, by_dose in cells.items()]
    return _table([title, *(f"dose {dose}" for dose in DOSES)], rows)


def _order(method: str) -> tuple[int, str]:
    return (0 if method == "noisy" else 2 if method.startswith("ours") else 1, method)


def _figures(line: Line) -> str:
    figures = f"{line['psnr_db']:.1f}, {line['ssim']:.3f}"
    return figures if line["method"] == "noisy" else f"{_gain(line)}; {figures}"


def _gain(line: Line) -> str:
    gain = f"**{signed(line['gain_stabilised_db'])}**"
    if line["patients"] == 1:
        return gain
    return f"{gain} ({span(line['interval_95'])})"


def _gain_and_difference(line: Line) -> str:
    against = line["against"]
    return _gain(line) + (f"; {with_interval(against, 'difference_db')}" if against else "")


def _patients(line: Line) -> str:
    kind = "phantom" if line["source"].startswith("phantom") else "patient"
    return f"1 {kind}" if line["patients"] == 1 else f"{line['patients']} {kind}s"


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def main(arguments: list[str] | None = None) -> int:
    """Write the card; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.model_card", description=__doc__)
    parser.add_argument("--weights", default="lite")
    parser.add_argument("--evaluation", type=Path, default=Path("outputs/evaluation/evaluation.json"))
    parser.add_argument("--output", type=Path, default=Path("docs/model-card.md"))
    options = parser.parse_args(arguments)
    manifest = json.loads(find_manifest(options.weights).read_text(encoding="utf-8"))
    report = json.loads(options.evaluation.read_text(encoding="utf-8"))
    options.output.write_text(write_card(manifest, report), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
