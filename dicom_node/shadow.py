"""What would have been: the sums over images that were measured in shadow mode, by route."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dicom_node.ledger.measurements import Measurement

NOTHING = "Nothing was received on a route with shadow = true."


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Median and 95th percentile, by the nearest rank; None without values."""

    p50: float | None
    p95: float | None

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread:
        """Return those of the values that are there."""
        known = sorted(value for value in values if value is not None)
        return cls(p50=_percentile(known, 0.5), p95=_percentile(known, 0.95))


@dataclass(frozen=True, kw_only=True)
class ShadowSummary:
    """What one route would have done.

    Attributes
    ----------
    series, images
        Received.
    enhanced, passed_through, waiting
        Of the images; the last are still to be measured.
    reasons
        How many images were passed through, by reason, the most frequent first.
    findings
        How many images were enhanced with a remark of the guards, by remark.
    noise_before, noise_after
        Standard deviation in stored values, of the enhanced images.
    noise_removed
        Share of it, 0 to 1.
    inference_s, total_s
        For each enhanced image, in seconds: in the denoiser, and with reading, waiting for the denoiser and writing.
    ready_s
        From the completion of the series to each image's decision, in seconds. In shadow mode images wait for all that
        is in time on other routes, so this is more than it would be.
    late
        Images that were ready after the deadline of the route; None where the settings have no such route any more.
    """

    route: str
    series: int
    images: int
    enhanced: int
    passed_through: int
    waiting: int
    reasons: dict[str, int]
    findings: dict[str, int]
    noise_before: Spread
    noise_after: Spread
    noise_removed: Spread
    inference_s: Spread
    total_s: Spread
    ready_s: Spread
    late: int | None


def summarise(measurements: Sequence[Measurement], deadlines_s: Mapping[str, float]) -> list[ShadowSummary]:
    """Return the sums of each route, by name; `deadlines_s` are those of the settings."""
    routes = sorted({m.route for m in measurements})
    return [_summary(r, [m for m in measurements if m.route == r], deadlines_s.get(r)) for r in routes]


def _summary(route: str, found: Sequence[Measurement], deadline_s: float | None) -> ShadowSummary:
    enhanced = [m for m in found if m.decision == "enhanced"]
    passed = [m for m in found if m.decision == "passed_through"]
    ready = [m.decided_at - m.completed_at for m in found if m.decided_at is not None]
    return ShadowSummary(
        route=route,
        series=len({(m.series_instance_uid, m.generation) for m in found}),
        images=len(found),
        enhanced=len(enhanced),
        passed_through=len(passed),
        waiting=len(found) - len(enhanced) - len(passed),
        reasons=_counts(passed),
        findings=_counts(enhanced),
        noise_before=Spread.of(m.noise_before for m in enhanced),
        noise_after=Spread.of(m.noise_after for m in enhanced),
        noise_removed=Spread.of(_removed(m) for m in enhanced),
        inference_s=Spread.of(m.inference_s for m in enhanced),
        total_s=Spread.of(m.total_s for m in enhanced),
        ready_s=Spread.of(ready),
        late=None if deadline_s is None else sum(at > deadline_s for at in ready),
    )


def _counts(found: Iterable[Measurement]) -> dict[str, int]:
    return dict(Counter(m.reason for m in found if m.reason).most_common())


def _removed(measurement: Measurement) -> float | None:
    before, after = measurement.noise_before, measurement.noise_after
    return 1.0 - after / before if before and after is not None else None


def _percentile(ordered: Sequence[float], share: float) -> float | None:
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else None


def as_json(summaries: Sequence[ShadowSummary]) -> dict[str, Any]:
    """Return the object that `dicom-node shadow --json` prints: ``routes``, each as a `ShadowSummary`."""
    return {"routes": [asdict(summary) for summary in summaries]}


def show(console: Console, summaries: Sequence[ShadowSummary]) -> None:
    """Print what `dicom-node shadow` found."""
    if not summaries:
        console.print(NOTHING)
    for summary in summaries:
        console.print(Text(f"Route {summary.route}", style="bold"))
        late = "" if summary.late is None else f"; {summary.late} ready after the deadline"
        _say(
            console,
            f"  {summary.images} images in {summary.series} series: {summary.enhanced} would have been enhanced, "
            f"{summary.passed_through} passed through, {summary.waiting} wait to be measured{late}",
        )
        table = Table("", "p50", "p95", box=None, header_style="bold")
        for name, spread, unit in (
            ("noise before", summary.noise_before, ""),
            ("noise after", summary.noise_after, ""),
            ("noise removed", summary.noise_removed, ""),
            ("in the denoiser", summary.inference_s, " s"),
            ("image in all", summary.total_s, " s"),
            ("ready after completion", summary.ready_s, " s"),
        ):
            table.add_row(name, *("-" if v is None else f"{v:.3g}{unit}" for v in (spread.p50, spread.p95)))
        console.print(table)
        for what, counts in (("passed through", summary.reasons), ("enhanced, with a remark", summary.findings)):
            for reason, number in counts.items():
                _say(console, f"  {number} {what}: {reason}")


def _say(console: Console, sentence: str) -> None:
    # Text, as a reason may quote an object; in one piece, for those who search or cut lines.
    console.print(Text(sentence), soft_wrap=True)
