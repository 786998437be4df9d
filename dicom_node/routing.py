"""Which route takes a series: the conditions of the settings against the attributes of its first instance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as Items

from config.attribute_paths import PathStep, parse_path
from config.conditions import (
    Condition,
    Negation,
    Presence,
    Range,
    amount_of_value,
    matches_pattern,
    patterns_of,
    quantity_of_bound,
)
from config.settings import SENDER_FACTS, RouteSettings, SourceSettings
from dicom_node.association_policy import find_source
from dicom_node.part10 import UNREADABLE, detached_view

PASSES_THROUGH: Final = "the route passes everything through"
"""Why nothing is enhanced on a route with ``enhance = false``."""

MAX_TEXT: Final = 10_240
"""Longest value that a condition looks at, in characters: what LT holds (PS3.5 6.2). The time that a pattern takes
grows with the text, and a longer one is no name, code or number."""


@dataclass(frozen=True, kw_only=True)
class ConditionResult:
    """One condition of a route, what the object has there, and whether that satisfies it."""

    key: str
    condition: str
    value: str
    holds: bool


@dataclass(frozen=True, kw_only=True)
class RouteTrial:
    """One route that was tried, with its conditions; it matches when all of them hold."""

    route: str
    conditions: tuple[ConditionResult, ...]

    @property
    def matches(self) -> bool:
        """True if every condition holds; a route without conditions matches everything."""
        return all(condition.holds for condition in self.conditions)


@dataclass(frozen=True, kw_only=True)
class SenderFacts:
    """What routes may ask of the association that brought the object."""

    calling_ae_title: str = ""
    called_ae_title: str = ""
    source: str = ""


def match_route(
    routes: Sequence[RouteSettings], header: Dataset | None, sender: SenderFacts
) -> tuple[RouteSettings | None, tuple[RouteTrial, ...]]:
    """Return the first route whose conditions all hold, and every trial made until then; never raises over values.

    Parameters
    ----------
    routes
        In the order of the settings; the first match wins.
    header
        Attributes of the series' first instance, left as they are; pixel data is not needed. None if they can't be
        read: no condition on an attribute holds then, not even that it is absent.
    sender
        The association that brought it.
    """
    view = None if header is None else detached_view(header)
    trials = []
    for route in routes:
        trial = RouteTrial(
            route=route.name,
            conditions=tuple(_try(key, condition, view, sender) for key, condition in route.match.items()),
        )
        trials.append(trial)
        if trial.matches:
            return route, tuple(trials)
    return None, tuple(trials)


def source_name(
    sources: Sequence[SourceSettings],
    calling_ae_title: str,
    host: str = "",
    addresses: Mapping[str, frozenset[str]] = MappingProxyType({}),
) -> str:
    """Return the name of the source that called, or nothing if none has its AE title.

    Parameters
    ----------
    host
        Address that it called from. Of several sources with the AE title the first that has the host is meant; where
        none has it, after a change of the settings, or it is not known, the first.
    addresses
        Of each host name in the sources, what it resolves to.
    """
    titled = [source for source in sources if calling_ae_title in source.ae_titles]
    found = find_source(calling_ae_title, host, titled, addresses) if host else None
    return next((source.name for source in (found, *titled) if source is not None), "")


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What an object has where a condition looks: its values as text, and whether there is anything at all."""

    values: tuple[str, ...] = ()
    is_present: bool = False
    shown: str = "(absent)"


def _try(key: str, condition: Condition, header: Dataset | None, sender: SenderFacts) -> ConditionResult:
    if key in SENDER_FACTS:
        fact = getattr(sender, key)
        found = _Found(values=(fact,), is_present=bool(fact), shown=fact)
    elif header is None:
        return ConditionResult(key=key, condition=condition_in_words(condition), value="(unreadable)", holds=False)
    else:
        found = _look_up(parse_path(key), header)
    return ConditionResult(
        key=key, condition=condition_in_words(condition), value=found.shown, holds=_holds(condition, found)
    )


def _look_up(path: Sequence[PathStep], header: Dataset) -> _Found:
    finds = list(_walk(path, header))
    if not finds:
        return _Found()
    return _Found(
        values=tuple(value for find in finds for value in find.values),
        is_present=any(find.is_present for find in finds),
        shown="\\".join(find.shown for find in finds),
    )


def _walk(path: Sequence[PathStep], ds: Dataset) -> Iterator[_Found]:
    """Yield what stands at the end of `path`, once for each item on the way; what can't be decoded is said to be so."""
    step, *rest = path
    try:
        tag = _tag(step, ds)
        if tag is None or tag not in ds:
            return
        value = ds[tag].value
        if not rest:
            yield _read(value)
            return
        items = list(value) if isinstance(value, Items) else []
    except (*UNREADABLE, OSError):
        # pydicom raises OSError over sequences that are cut off; everything is in memory here.
        yield _Found(is_present=True, shown="(unreadable)")
        return
    for item in items:
        yield from _walk(rest, item)


def _tag(step: PathStep, ds: Dataset) -> int | None:
    """Return the tag of `step` in `ds`; None where its creator has reserved no block there (PS3.5 7.8.1)."""
    if not step.creator:
        return (step.group << 16) + step.element
    try:
        return int(ds.private_block(step.group, step.creator).get_tag(step.element))
    except KeyError:
        return None


def _read(value: Any) -> _Found:
    if isinstance(value, Items):
        return _Found(is_present=len(value) > 0, shown=f"({len(value)} items)")
    if isinstance(value, bytes):
        # A private element that came in implicit VR has no VR that says that it is text.
        value = value.decode("ascii").rstrip(" \0").split("\\")
    texts = [str(one) for one in (value if isinstance(value, list | MultiValue) else [value]) if one is not None]
    if not any(texts):
        return _Found(shown="(empty)")
    if sum(map(len, texts)) > MAX_TEXT:
        return _Found(is_present=True, shown="(too long)")
    return _Found(values=tuple(texts), is_present=True, shown="\\".join(texts))


def _holds(condition: Condition, found: _Found) -> bool:
    match condition:
        case Presence():
            return found.is_present == condition.present
        case Negation():
            return not _holds(condition.not_, found) and (found.is_present or condition.present is None)
        case Range():
            return any(_is_within(value, condition) for value in found.values)
    return any(matches_pattern(pattern, value.strip()) for value in found.values for pattern in patterns_of(condition))


def _is_within(value: str, wanted: Range) -> bool:
    low, high = (None if bound is None else quantity_of_bound(bound) for bound in (wanted.min, wanted.max))
    known = low or high
    amount = None if known is None else amount_of_value(value.strip(), known.measure)
    if amount is None:
        return False
    return (low is None or amount >= low.amount) and (high is None or amount <= high.amount)


def condition_in_words(condition: Condition) -> str:
    """Return what a condition asks of a value, for people."""
    match condition:
        case Presence():
            return "present" if condition.present else "absent"
        case Negation():
            return ("present and " if condition.present else "") + f"not {condition_in_words(condition.not_)}"
        case Range():
            bounds = (("from", condition.min), ("up to" if condition.min is None else "to", condition.max))
            return " ".join(
                f"{word} {bound if isinstance(bound, str) else f'{bound:g}'}"
                for word, bound in bounds
                if bound is not None
            )
    return " or ".join(patterns_of(condition))
