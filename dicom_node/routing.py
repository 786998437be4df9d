"""Which route takes a series: the conditions of the settings against the attributes of its first instance."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from config.settings import Condition, Range, RouteSettings, SourceSettings
from dicom_node.errors import UnsupportedPixels
from dicom_node.part10 import readable


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
    routes: Sequence[RouteSettings], header: Dataset, sender: SenderFacts
) -> tuple[RouteSettings | None, tuple[RouteTrial, ...]]:
    """Return the first route whose conditions all hold, and every trial made until then.

    Parameters
    ----------
    routes
        In the order of the settings; the first match wins.
    header
        Attributes of the series' first instance; pixel data is not needed.
    sender
        The association that brought it.
    """
    trials = []
    for route in routes:
        trial = RouteTrial(
            route=route.name,
            conditions=tuple(_try(key, condition, header, sender) for key, condition in route.match.items()),
        )
        trials.append(trial)
        if trial.matches:
            return route, tuple(trials)
    return None, tuple(trials)


def source_name(sources: Sequence[SourceSettings], calling_ae_title: str) -> str:
    """Return the name of the first source that has this AE title, or nothing."""
    return next((source.name for source in sources if calling_ae_title in source.ae_titles), "")


def _try(key: str, condition: Condition, header: Dataset, sender: SenderFacts) -> ConditionResult:
    values = _values(key, header, sender)
    return ConditionResult(
        key=key,
        condition=_in_words(condition),
        value="\\".join(values) if values else "(absent)",
        holds=any(_satisfies(value, condition) for value in values),
    )


def _values(key: str, header: Dataset, sender: SenderFacts) -> list[str]:
    facts: Mapping[str, str] = {
        "calling_ae_title": sender.calling_ae_title,
        "called_ae_title": sender.called_ae_title,
        "source": sender.source,
    }
    if key in facts:
        return [facts[key]]
    tag = int(key[1:5] + key[6:10], 16) if key.startswith("(") else tag_for_keyword(key)
    if tag is None or tag not in header:
        return []
    try:
        with readable(key):
            value = header[tag].value
    except UnsupportedPixels:
        return []  # one object whose value can't be read must not hold up the routing of all others
    if value is None or (isinstance(value, Sequence) and not isinstance(value, str | bytes | MultiValue)):
        return []  # zero length, or a sequence: conditions on items are not offered
    many = value if isinstance(value, MultiValue) else [value]
    return [str(one) for one in many]


def _satisfies(value: str, condition: Condition) -> bool:
    if isinstance(condition, Range):
        try:
            number = float(value)
        except ValueError:
            return False
        above = condition.min is None or number >= condition.min
        return above and (condition.max is None or number <= condition.max)
    patterns = (condition,) if isinstance(condition, str) else condition
    return any(re.fullmatch(pattern, value.strip()) is not None for pattern in patterns)


def _in_words(condition: Condition) -> str:
    if isinstance(condition, Range):
        bounds = [
            f"{word} {bound:g}" for word, bound in (("from", condition.min), ("to", condition.max)) if bound is not None
        ]
        return " ".join(bounds)
    return condition if isinstance(condition, str) else " or ".join(condition)
