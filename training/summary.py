"""From single results to means with bootstrap intervals over patients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from training.cases import DOSES
from training.protocol import OURS_BLIND, OURS_KNOWN, Row

REAL, UNSEEN = "real sources", "unseen sources"


def bootstrap(gains: dict[str, list[float]], *, draws: int = 2000) -> tuple[float, float, float]:
    """Return mean and 95 % interval of the mean gain, patients drawn with replacement."""
    means = np.array([float(np.mean(values)) for values in gains.values()])
    rng = np.random.default_rng(0)
    drawn = means[rng.integers(0, means.size, (draws, means.size))].mean(axis=1)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return float(means.mean()), float(low), float(high)


def groups_of(row: Row, unseen_sources: frozenset[str]) -> list[str]:
    """Return the names under which a row is summarised: its source, pools of sources, the anatomy of a phantom."""
    if row.source == "phantom":
        return [row.source, row.patient.replace(":", " ")]
    return [row.source, REAL, UNSEEN] if row.source in unseen_sources else [row.source, REAL]


def summarise(rows: Iterable[Row], unseen_sources: frozenset[str] = frozenset()) -> list[dict[str, Any]]:
    """Return mean figures per source or pool, dose, kernel and method; patients count alike."""
    groups: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        for source in groups_of(row, unseen_sources):
            groups.setdefault((source, row.dose, row.kernel, row.method), []).append(row)
    return [
        {
            "source": source,
            "dose": dose,
            "kernel": kernel,
            "method": method,
            "track": members[0].track,
            "patients": len({row.patient for row in members}),
            **_interval("gain_stabilised_db", members, lambda row: row.gain_stabilised_db),
            "gain_linear_db": _mean(members, lambda row: row.gain_linear_db),
            "gain_log_db": _mean(members, lambda row: row.gain_log_db),
            "psnr_db": _mean(members, lambda row: row.psnr_db),
            "psnr_log_db": _mean(members, lambda row: row.psnr_log_db),
            "ssim": _mean(members, lambda row: row.ssim, digits=4),
            "mse_sigma2": _mean(members, lambda row: row.mse_sigma2, digits=4),
        }
        for (source, dose, kernel, method), members in sorted(groups.items())
    ]


def differences(rows: Iterable[Row], unseen_sources: frozenset[str] = frozenset()) -> list[dict[str, Any]]:
    """Return ours minus each baseline, paired by case, stabilised domain.

    With the law known ours meets the baselines of that track; blind it meets both those that are blind too and those
    that know the law.
    """
    by_method: dict[str, dict[tuple[str, str, str, str, int], Row]] = {}
    for row in rows:
        by_method.setdefault(row.method, {})[row.source, row.patient, row.dose, row.kernel, row.seed] = row
    found = []
    for ours in (OURS_KNOWN, *OURS_BLIND):
        own = by_method.get(ours, {})
        for baseline, theirs in sorted(by_method.items()):
            track = next(iter(theirs.values())).track
            if baseline in (OURS_KNOWN, *OURS_BLIND) or track == "input" or (ours == OURS_KNOWN and track == "blind"):
                continue
            groups: dict[tuple[str, str, str], dict[str, list[float]]] = {}
            for key in sorted(own.keys() & theirs.keys()):
                row = own[key]
                for source in groups_of(row, unseen_sources):
                    patients = groups.setdefault((source, row.dose, row.kernel), {})
                    difference = row.gain_stabilised_db - theirs[key].gain_stabilised_db
                    patients.setdefault(row.patient, []).append(difference)
            for (source, dose, kernel), patients in sorted(groups.items()):
                mean, low, high = bootstrap(patients)
                found.append(
                    {
                        "source": source,
                        "dose": dose,
                        "kernel": kernel,
                        "method": ours,
                        "baseline": baseline,
                        "difference_db": round(mean, 3),
                        "interval_95": [round(low, 3), round(high, 3)],
                        "patients": len(patients),
                    }
                )
    return found


def show(summary: list[dict[str, Any]], sources: Sequence[str], console: Console) -> None:
    """Print one table for the sources: a line per source, kernel and method, a column per dose."""
    table = Table(title="gain over the noisy input in dB (stabilised domain) / PSNR in dB / SSIM")
    for title in ("source", "kernel", "method", *DOSES):
        table.add_column(title, no_wrap=True)
    chosen = [line for line in summary if line["source"] in sources]
    for key in sorted({(line["source"], line["kernel"], line["method"]) for line in chosen}):
        cells = [
            f"{line['gain_stabilised_db']:.2f} / {line['psnr_db']:.1f} / {line['ssim']:.3f}"
            for dose in DOSES
            for line in chosen
            if (line["source"], line["kernel"], line["method"], line["dose"]) == (*key, dose)
        ]
        table.add_row(*key, *cells)
    console.print(table)


def _by_patient(members: list[Row], figure: Callable[[Row], float]) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {}
    for row in members:
        values.setdefault(row.patient, []).append(figure(row))
    return values


def _mean(members: list[Row], figure: Callable[[Row], float], digits: int = 3) -> float:
    by_patient = _by_patient(members, figure)
    return round(float(np.mean([np.mean(values) for values in by_patient.values()])), digits)


def _interval(name: str, members: list[Row], figure: Callable[[Row], float]) -> dict[str, Any]:
    mean, low, high = bootstrap(_by_patient(members, figure))
    return {name: round(mean, 3), "interval_95": [round(low, 3), round(high, 3)]}
