"""Events of the ledger as sentences for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dicom_node.ledger.study_story import StoryEvent, StudyStory


@dataclass(frozen=True, kw_only=True)
class Told:
    """An event as a sentence.

    Attributes
    ----------
    mark
        good, bad, warn, busy or plain.
    """

    at: float
    until: float
    sentence: str
    reason: str | None
    mark: str


SERIES: Final[Mapping[str, tuple[str, str]]] = {
    "open": ("Series {n}: the first object came", "busy"),
    "complete": ("Series {n} is complete", "plain"),
    "begin": ("Series {n}: enhancement begins", "busy"),
    "begin_report": ("Series {n}: the quality report is made", "plain"),
    "no_report": ("Series {n}: there is no quality report", "warn"),
    "finish": ("Series {n} is enhanced", "good"),
    "pass_through": ("Series {n} is passed through as it came", "warn"),
    "release": ("Series {n}: the originals go on, enhancement behind them", "warn"),
    "end_following": ("Series {n}: the enhanced images follow", "good"),
    "give_up_following": ("Series {n}: nothing follows the originals", "plain"),
}
DELIVERIES: Final[Mapping[str, tuple[str, str]]] = {
    "open": ("Delivery {n} to {d} waits", "plain"),
    "begin": ("Delivery {n} to {d}: sending begins", "busy"),
    "succeed": ("Delivery {n}: {d} has it", "good"),
    "retry": ("Delivery {n} to {d} failed, and is tried again", "warn"),
    "refuse": ("Delivery {n}: {d} refused something", "bad"),
    "abandon": ("Delivery {n} to {d} was given up", "bad"),
    "hold": ("Delivery {n} to {d} is on hold", "warn"),
    "release": ("Delivery {n} to {d} is released", "plain"),
    "cancel": ("Delivery {n} to {d} is cancelled", "warn"),
    "reroute": ("Delivery {n} to {d} goes elsewhere", "warn"),
    "extend": ("Delivery {n} to {d} got more to send", "plain"),
    "requeue": ("Delivery {n} to {d} is tried again by an operator", "plain"),
    "request_commitment": ("Delivery {n}: {d} was asked to commit", "busy"),
    "commit": ("Delivery {n}: {d} has committed it", "good"),
    "drop_commitment": ("Delivery {n}: {d} is not asked to commit any more", "plain"),
    "resend": ("Delivery {n}: {d} did not commit all of it; sent again", "warn"),
}
IMAGES: Final[Mapping[str, tuple[str, str]]] = {
    "receive": ("{t} received", "plain"),
    "derive": ("{t} enhanced and stored", "good"),
    "report": ("The quality report is stored", "good"),
    "purge": ("{t} removed from this node by retention", "plain"),
    "restore": ("{t} received again: sound now", "warn"),
    "quarantine": ("{t} set aside", "bad"),
}
HOLDS: Final[Mapping[str, tuple[str, str]]] = {
    "hold": ("The study is on hold", "warn"),
    "release": ("The study is released", "plain"),
}


def tell(story: StudyStory) -> list[Told]:
    """Return the events of a study as sentences, in their order."""
    series = {part.arrival_id: n for n, part in enumerate(story.series, 1)}
    destinations = {one.delivery_id: one.destination for one in story.deliveries}
    return [_told(event, series, destinations) for event in story.events]


def _told(event: StoryEvent, series: Mapping[int, int], destinations: Mapping[int, str]) -> Told:
    times = "1 object" if event.times == 1 else f"{event.times:,} objects"
    if event.subject == "image" and event.event == "decide" and event.to_state == "enhanced":
        sentence, mark = "{t} enhanced to measure, and not kept", "plain"
    elif event.subject == "image" and event.event == "decide":
        sentence, mark = "{t} passed through as " + ("it came" if event.times == 1 else "they came"), "warn"
    else:
        tables = {"series": SERIES, "delivery": DELIVERIES, "image": IMAGES, "hold": HOLDS}
        known = tables.get(event.subject, {}).get(event.event)
        # An event that is newer than this table is told by its name.
        sentence, mark = known or (f"{event.subject} {event.number}: {event.event.replace('_', ' ')}", "plain")
    number = series.get(event.number, event.number) if event.subject == "series" else event.number
    return Told(
        at=event.at,
        until=event.until,
        sentence=sentence.format(n=number, d=destinations.get(event.number, "?"), t=times),
        reason=event.reason,
        mark=mark,
    )
