"""What settings allow and hardly anybody means: routes that nothing reaches, ranges that nothing lies in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from config.attribute_paths import vr_of
from config.conditions import Measure, Negation, Range, quantity_of_bound
from config.settings import (
    SENDER_FACTS,
    Content,
    DicomDestinationSettings,
    DicomwebDestinationSettings,
    RouteSettings,
    Settings,
)

_COUNTED: Final[Mapping[str, Measure]] = {
    "AS": Measure.AGE,
    "DA": Measure.DATE,
    "TM": Measure.TIME,
    **dict.fromkeys(("DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"), Measure.NUMBER),
}
"""What a value of a VR can be compared as (PS3.5 6.2); other VRs hold what they hold."""

_WRITTEN: Final[Mapping[Measure, str]] = {
    Measure.AGE: 'an age such as "18Y"',
    Measure.DATE: 'a date such as "2026-01-31"',
    Measure.TIME: 'a time such as "08:30"',
    Measure.NUMBER: "a number such as 18",
}


def doubts(settings: Settings) -> list[str]:
    """Return one sentence for each thing in valid settings that is probably not meant."""
    return [
        *_forwards_nothing(settings),
        *_unreached(settings.routes),
        *_empty_ranges(settings.routes),
        *_open_to_all(settings),
        *_never_committed(settings),
        *_reports_in_the_clear(settings),
        *_unlisted(settings),
    ]


def _forwards_nothing(settings: Settings) -> Iterator[str]:
    if not settings.sources:
        yield "no [[sources]]: every association will be rejected"
    routes = settings.routes_in_order
    if not routes:
        yield "no [[routes]] and no [fallback]: everything received will be kept and nothing forwarded"
    elif routes[-1].match:
        yield (
            "the last of [[routes]] has conditions and there is no [fallback]: "
            "what no route matches is kept and not forwarded"
        )


def _open_to_all(settings: Settings) -> Iterator[str]:
    for entry in settings.destinations:
        if not isinstance(entry, DicomwebDestinationSettings):
            continue
        is_secure = entry.url.startswith("https:")
        if is_secure and not entry.verify:
            yield f"destination {entry.name} has verify = false: whoever answers at its address gets the objects"
        if not is_secure and (entry.token_file or entry.token_variable or entry.username or entry.oauth_url):
            yield f"destination {entry.name} has a login and no https: everybody on the way can read both"


def _never_committed(settings: Settings) -> Iterator[str]:
    """Name what makes every request for commitment of a source fail."""
    plain = {
        entry.name
        for entry in settings.destinations
        if not isinstance(entry, DicomDestinationSettings) or entry.commitment is None
    }
    for source in settings.sources:
        if source.commitment is None:
            continue
        for route in settings.routes_in_order:
            if source.commitment.counts == "committed" and (missing := plain.intersection(route.destinations)):
                yield (
                    f"source {source.name} is told that nothing on route {route.name} is committed: destinations "
                    f'{", ".join(sorted(missing))} have no commitment; set it there, or counts = "sent" at the source'
                )
            if source.commitment.originals == "required" and Content.ORIGINAL not in route.send:
                yield (
                    f"source {source.name} is told that no image that route {route.name} enhances is committed: its "
                    'original is not sent; add "original" to send, or set sources.commitment.originals = "replaced"'
                )


def _reports_in_the_clear(settings: Settings) -> Iterator[str]:
    """Name the destinations for which somebody without a key could say that they have committed."""
    if not settings.tls.enabled or settings.tls.only:
        return
    for entry in settings.dicom_destinations:
        asked = entry.commitment
        if entry.tls.enabled and asked is not None and asked.report_tls == "optional" and not asked.report_certificates:
            yield (
                f"destination {entry.name} is called over TLS, and its reports of commitment are taken without: what a "
                'forged one names is deleted here in time; set report_tls = "required" in its commitment'
            )


def _unlisted(settings: Settings) -> Iterator[str]:
    """Name the destinations that share the authorities of senders, and not their revocation lists."""
    for entry in settings.dicom_destinations if settings.tls.crl is not None else ():
        if entry.tls.enabled and entry.tls.ca == settings.tls.ca and entry.tls.crl is None:
            yield (
                f"destination {entry.name} has the same ca as [tls], and no crl: its certificate is looked up in no "
                "revocation list; add crl to its tls"
            )


def _unreached(routes: tuple[RouteSettings, ...]) -> Iterator[str]:
    place = next((place for place, route in enumerate(routes) if not route.match), len(routes))
    for route in routes[place + 1 :]:
        yield f"route {route.name} is never reached: {routes[place].name} before it takes everything"


def _empty_ranges(routes: tuple[RouteSettings, ...]) -> Iterator[str]:
    for route in routes:
        for key, condition in route.match.items():
            wanted = condition.not_ if isinstance(condition, Negation) else condition
            if isinstance(wanted, Range) and (allowed := _misfit(key, wanted)):
                yield f"route {route.name}: no value of {key} lies in this range; write {allowed}"


def _misfit(key: str, wanted: Range) -> str | None:
    """Return how a bound for this attribute is written, if the bounds of `wanted` are of another kind."""
    bound = wanted.min if wanted.min is not None else wanted.max
    if bound is None:
        return None
    measure = quantity_of_bound(bound).measure
    if key in SENDER_FACTS:
        return None
    counted = _COUNTED.get(vr_of(key) or "")
    # A date or time is digits in a row, which a number may be compared with.
    if counted is None or measure is counted or (measure is Measure.NUMBER and counted is not Measure.AGE):
        return None
    return _WRITTEN[counted]
