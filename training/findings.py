"""What an evaluation says in words: targets met or not, what was left out, and the limits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

DOSES = ("1/2", "1/4", "1/10")
KNOWN, BLIND = "ours, law known", "ours, blind"
REFERENCE = "bm3d"
CORRELATED = ("csi", "soft")
POOLS = ("unseen sources", "real sources")
"""Sources taken together, the stricter first."""
MUST_AND_GOAL_DB = {"1/2": (0.6, 1.0), "1/4": (0.8, 1.3), "1/10": (1.0, 1.6)}
"""Over VST + BM3D for white noise with the true sigma, on unseen sources with correlated noise."""
PARTS = {
    "summary": "image quality against a known truth",
    "against": "differences to each classical filter with intervals",
    "strips": "pictures",
    "harm": "do-no-harm tests (bias, noise spectrum, edges, detectability)",
    "estimation": "accuracy of the blind noise estimate",
    "guards": "false alarms and refusals of the guards",
    "real_noise": "real noise of repeated exposures",
}


class Met(StrEnum):
    """How a figure stands to its target."""

    YES = "met"
    ON_AVERAGE = "met on average only"
    NO = "not met"
    UNKNOWN = "not measured"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One target, the figure measured, and how they compare, all in words; ``dose`` is "" where none is fixed."""

    name: str
    dose: str = ""
    target: str
    measured: str
    met: Met


def gain_verdicts(report: dict[str, Any]) -> list[Verdict]:
    """Compare the gain over BM3D with what is required, per kernel, dose and track."""
    lines = report.get("against") or []
    source = pool_of(lines)
    found = {
        (li["kernel"], li["dose"], li["method"]): li
        for li in lines
        if li["source"] == source and li["baseline"] == REFERENCE
    }
    kernels = [kernel for kernel in CORRELATED if any(key[0] == kernel for key in found)] or CORRELATED[:1]
    result = []
    for method, track in ((KNOWN, "noise law known"), (BLIND, "blind")):
        for kernel in kernels:
            for dose in DOSES:
                must, goal = MUST_AND_GOAL_DB[dose]
                line = found.get((kernel, dose, method))
                result.append(
                    Verdict(
                        name=f"ours ({track}), {kernel} noise",
                        dose=dose,
                        target=f"must {must:+.1f} dB, goal {goal:+.1f} dB",
                        measured=with_interval(line, "difference_db") if line else "–",
                        met=_met(line, must) if line else Met.UNKNOWN,
                    )
                )
    return result


def _met(line: dict[str, Any], must: float) -> Met:
    if line["difference_db"] < must:
        return Met.NO
    return Met.YES if line["interval_95"][0] >= must and line.get("patients", 1) > 1 else Met.ON_AVERAGE


def harm_verdicts(report: dict[str, Any]) -> list[Verdict]:
    """Return the targets of the do-no-harm tests as these tests judged them."""
    targets = (report.get("harm") or {}).get("targets") or []
    return [
        Verdict(
            name=str(t["name"]),
            target=figure(t["target"]).replace(">=", "≥").replace("<=", "≤"),
            measured=figure(t["measured"]),
            met=Met.UNKNOWN if t.get("met") is None else Met.YES if t["met"] else Met.NO,
        )
        for t in targets
    ]


def pool_of(lines: Iterable[dict[str, Any]]) -> str:
    """Return the pooled source that is judged, "" without one."""
    present = {line["source"] for line in lines}
    return next((pool for pool in POOLS if pool in present), "")


def pool_words(lines: Iterable[dict[str, Any]]) -> str:
    """Say which sources a comparison pools, and that some are no unseen ones where that is so."""
    pool = pool_of(lines)
    if pool == POOLS[1]:
        return f"{pool} (also other patients of sources that were trained on: easier than the unseen sources required)"
    return pool or POOLS[0]


def not_measured(report: dict[str, Any]) -> list[str]:
    """Return in words the parts of the protocol that the report lacks."""
    measured = {**report, "real_noise": _scenes(report)}
    return [words for key, words in PARTS.items() if not measured.get(key)]


def _scenes(report: dict[str, Any]) -> list[dict[str, Any]]:
    return (report.get("real_noise") or {}).get("scenes") or []


def track_of(line: dict[str, Any]) -> str:
    """Return "input", "oracle" (the noise law is given) or "blind"; older reports only imply it."""
    if "track" in line:
        return str(line["track"])
    return "input" if line["method"] == "noisy" else "blind" if "blind" in line["method"] else "oracle"


def with_interval(line: dict[str, Any], key: str) -> str:
    """Write a difference in dB with its 95 % interval; one patient gives none."""
    text = f"{signed(line[key])} dB"
    interval = line.get("interval_95")
    if interval is None:
        return text
    if line.get("patients") == 1:
        return f"{text} (no interval)"
    return f"{text} ({signed(interval[0])} to {signed(interval[1])})"


def span(interval: Sequence[float]) -> str:
    """Write an interval of gains in dB."""
    low, high = interval
    return f"{low:.2f} to {high:.2f}".replace("-", "−")


def signed(value: float) -> str:
    """Write dB with two digits and a sign that is no hyphen; nothing rounds to minus zero."""
    return f"{round(float(value), 2) + 0.0:+.2f}".replace("-", "−")


def percent(value: float) -> str:
    """Write a fraction as a signed percentage."""
    return f"{round(100 * float(value), 1) + 0.0:+.1f} %".replace("-", "−")


def figure(value: Any, digits: int = 3) -> str:
    """Write a value for reading: numbers with few digits, a dash for what is missing."""
    if value is None or value != value:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return (f"{value:.{digits}g}" if abs(value) < 1000 else f"{value:.0f}").replace("-", "−")
    if isinstance(value, (list, tuple)):
        return ", ".join(figure(v, digits) for v in value) or "–"
    if isinstance(value, dict):
        return ", ".join(f"{k}: {figure(v, digits)}" for k, v in value.items()) or "–"
    return str(value)


def estimation_words(estimation: dict[str, Any]) -> list[str]:
    """Return in sentences how far the noise estimates are from the truth."""
    medians = {name: value for name, value in (estimation.get("median_abs_error") or {}).items() if value is not None}
    worst = estimation.get("worst") or {}
    without = sum(row.get("without_estimate", 0) for row in estimation.get("rows") or [])
    result = []
    if medians:
        figures = "; ".join(f"{name.replace('_', ' ')} {100 * value:.1f} %" for name, value in medians.items())
        result.append(f"Median of the absolute errors of the noise estimate: {figures}.")
    if worst:
        result.append(f"Worst condition for ours: {worst['condition']} ({percent(worst['ours_error'])}).")
    if without:
        result.append(f"No estimate, so nothing is changed: {without} images.")
    return result


def guard_words(guards: dict[str, Any]) -> list[str]:
    """Return in sentences how often the guards erred."""
    alarms, cases = guards.get("false_alarms") or {}, guards.get("cases") or []
    result = []
    if alarms:
        result.append(
            f"Of {alarms['images']} images that should pass, {alarms['refused']} were passed through unchanged and "
            f"{alarms['lowered']} got a lower strength ({alarms['rate']:.1%} false alarms)."
        )
    if cases:
        right = sum(bool(case["as_expected"]) for case in cases)
        result.append(f"Of {len(cases)} images made to set off a guard or not, {right} were treated as expected.")
    return result


def limits(report: dict[str, Any]) -> list[str]:
    """Return what the figures can't show and where the denoiser is weak."""
    scenes = len(_scenes(report))
    apart = f", apart from {scenes} scene(s) of repeated exposures" if scenes else ""
    tuned_apart = "tuned_by_kernel" in report
    result = [
        f"There is no raw FOR PROCESSING data in training. Low dose is simulated by a detector model{apart}; the "
        "truth is a reduced radiograph, which holds a little noise of its own (gains at high dose are understated, and "
        f"texture near that noise may be lost{_own_noise(report)}), or a procedural phantom.",
        "The images measured here are kept from training, whole sources among them, but the checkpoint was chosen on "
        "images of the same validation sources. The one parameter of each classical filter was tuned on "
        + (
            "other images, or other parts of an image where a source has one patient."
            if tuned_apart
            else "a part of the images reported."
        )
        + " An independent test on your own detector is worth more than this page.",
        "Our BM3D is not its authors' program: on white noise it is up to 0.12 dB below (three pictures, sigma 10 to "
        "50 of 255). Subtract that from any lead over BM3D.",
        "Only chest is plentiful among the radiographs; other body parts stand on few images, phantoms and synthetic "
        "texture. Intervals are over patients and mean little where there are few.",
        "Texture finer than about 6 pixels whose contrast is below the noise (trabeculae) is partly taken with the "
        "noise at full strength; presets keep a share of it.",
        "Images that were filtered before, noise coarser than 3.5 pixels, photographs and drawings are refused or get "
        "the mild preset; not every such image is recognised.",
        "Images below about 250 pixels a side have few flat blocks: the blind estimate is then uncertain, mostly too "
        "high, and fine structure is lost.",
        "In FOR PRESENTATION images noise depends on more than the value; the estimate is the flattest areas' at each "
        "value.",
        "No reader has judged the images. PSNR, spectra and model observers don't replace a reader study.",
    ]
    unmeasured = not_measured(report)
    if unmeasured:
        result.insert(0, "Not measured in this run: " + "; ".join(unmeasured) + ".")
    return result


def _own_noise(report: dict[str, Any]) -> str:
    lines = [line for line in report.get("own_noise") or [] if line["own_noise_sigma2"] >= 0.005]
    if not lines:
        return ""
    most = max(lines, key=lambda line: float(line["own_noise_sigma2"]))
    return (
        f"; at most {100 * most['own_noise_sigma2']:.0f} % of the power of the simulated noise: {most['source']}, "
        f"dose {most['dose']}"
    )
