"""The model: what it is, what was measured of it, and what it and its guards did here lately."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median
from typing import Final

from fastapi import APIRouter, Depends, Request
from markupsafe import Markup
from starlette.responses import Response

from dicom_node.console.access import require
from dicom_node.console.permissions import Permission
from dicom_node.console.plots import bar_plot, line_plot
from dicom_node.console.rendering import render
from dicom_node.ledger.model_figures import MOST_SAMPLES, DayOfGuards, ModelFigures, NoiseSample
from dicom_node.model_card import ModelCard, read_model_card
from dicom_node.routing import source_name
from dicom_node.state import State
from model.errors import WeightsError

router = APIRouter()

DAYS: Final = 30


@dataclass(frozen=True, kw_only=True)
class NoiseOfDay:
    """Medians of a source's enhanced images of one day."""

    day: str
    images: int
    before: float
    after: float


@dataclass(frozen=True, kw_only=True)
class NoiseOfSource:
    """Noise of a source: its days with images, the latest first, and what is left of it as a plot, in percent."""

    source: str
    images: int
    before: float
    after: float
    days: tuple[NoiseOfDay, ...]
    plot: Markup


@router.get("/model", dependencies=[Depends(require(Permission.VIEW))])
def show_model(request: Request) -> Response:
    """Show the card of the weights, what the guards decided, and the noise of each source."""
    node: State = request.app.state.node
    card: ModelCard | None = None
    fault = ""
    try:
        card = read_model_card(node.settings.model.weights)
    except WeightsError as error:
        fault = str(error)
    begins = days_before(node.database.now())
    ledger = ModelFigures(node.database)
    days, samples = ledger.days(begins), ledger.noise(begins)
    names = [_date(begin) for begin in begins]
    return render(
        request,
        "model.html",
        card=card,
        fault=fault,
        used=ledger.models(begins[0]),
        days=list(zip(names, days, strict=True))[::-1],
        judged=sum(day.judged for day in days),
        refused=sum(day.refused for day in days),
        plots=_plots(names, days),
        noise=_noise(node, names, samples),
        is_cut=len(samples) == MOST_SAMPLES,
    )


def days_before(now: float) -> list[float]:
    """Return when each of the last days began by the clock of this machine, today last."""
    # Without a zone: a day before is the same hour by the clock, whether clocks were changed or not.
    today = datetime.fromtimestamp(now).astimezone().replace(tzinfo=None, hour=0, minute=0, second=0, microsecond=0)
    return [(today - timedelta(days=back)).timestamp() for back in range(DAYS - 1, -1, -1)]


def _date(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d")


def _labels(names: Sequence[str]) -> list[str]:
    return [name[5:] if number % 7 == 0 else "" for number, name in enumerate(names)]


def _plots(names: Sequence[str], days: Sequence[DayOfGuards]) -> list[tuple[str, Markup]]:
    labels = _labels(names)
    found = []
    for title, values in (
        ("Images that the guards refused", [day.refused for day in days]),
        ("Enhanced with a remark of the guards", [day.remarked for day in days]),
        ("Images enhanced", [day.enhanced for day in days]),
    ):
        most = max(values)
        text = f"{sum(values):,} in {DAYS} days, most on {names[values.index(most)]}: {most:,}." if most else "None."
        found.append((title, bar_plot(values, labels, title=f"{title}, by day", text=text)))
    return found


def _noise(node: State, names: Sequence[str], samples: Sequence[NoiseSample]) -> list[NoiseOfSource]:
    by_source: dict[str, dict[int, list[NoiseSample]]] = {}
    for sample in samples:
        # One that the settings don't have any more is told by its AE title.
        source = source_name(node.settings.sources, sample.calling_ae_title) or sample.calling_ae_title
        by_source.setdefault(source, {}).setdefault(sample.day, []).append(sample)
    return [_noise_of(source, by_source[source], names) for source in sorted(by_source)]


def _noise_of(source: str, of_days: dict[int, list[NoiseSample]], names: Sequence[str]) -> NoiseOfSource:
    every = [sample for samples in of_days.values() for sample in samples]
    shares = {
        day: 100 * median(one.after / one.before for one in samples if one.before > 0)
        for day, samples in of_days.items()
        if any(one.before > 0 for one in samples)
    }
    text = f"Between {min(shares.values()):.0f} and {max(shares.values()):.0f} %." if shares else "Not known."
    plotted = [shares.get(day) for day in range(len(names))]
    return NoiseOfSource(
        source=source,
        images=len(every),
        before=median(one.before for one in every),
        after=median(one.after for one in every),
        days=tuple(
            NoiseOfDay(
                day=names[day],
                images=len(of_days[day]),
                before=median(one.before for one in of_days[day]),
                after=median(one.after for one in of_days[day]),
            )
            for day in sorted(of_days, reverse=True)
        ),
        plot=line_plot(plotted, _labels(names), title=f"Noise of {source} that is left, by day", text=text, unit="%"),
    )
