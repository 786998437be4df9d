"""What a route may ask of a value: a text, a range, its negation, or that there is one at all."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, Literal, Self

import re2
from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

_DAYS = {"D": 1.0, "W": 7.0, "M": 365.25 / 12, "Y": 365.25}
_BOUND_DATE = re.compile(r"(\d{4})-(\d{2})-(\d{2})")
_BOUND_TIME = re.compile(r"(\d{2}):(\d{2})(?::(\d{2}(?:\.\d+)?))?")
_BOUND_AGE = re.compile(r"(\d{1,3})([DWMY])")
# PS3.5 6.2: a date also begins a DT, and has dots in objects of ACR-NEMA's time; a time may end after the hour.
_VALUE_DATE = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})")
_VALUE_TIME = re.compile(r"(\d{2}):?(\d{2})?:?(\d{2}(?:\.\d+)?)?")


class Measure(StrEnum):
    """What the bounds of a range count."""

    NUMBER = "number"
    DATE = "date"
    TIME = "time"
    AGE = "age"


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number and what it counts: days of an age, seconds of a day, a date as year, month and day in a row."""

    measure: Measure
    amount: float


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> Any:
    options = re2.Options()
    # What is wrong is raised; the library would also print it.
    options.log_errors = False
    return re2.compile(pattern, options)


def check_pattern(pattern: str) -> str:
    """Return `pattern`; ValueError if it is no regular expression that RE2 knows."""
    try:
        _compiled(pattern)
    except re2.error as error:
        reason = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
        raise ValueError(f"a regular expression; {pattern!r} is none ({reason})") from None
    return pattern


def matches_pattern(pattern: str, text: str) -> bool:
    """Tell whether `pattern` matches the whole of `text`; the time is proportional to the length of the text."""
    try:
        return _compiled(pattern).fullmatch(text) is not None
    except UnicodeEncodeError:
        # A lone surrogate, which no text of a data set should decode to, has no UTF-8.
        return False


def quantity_of_bound(bound: float | str) -> Quantity:
    """Return what a bound of the settings means; ValueError says how to write one."""
    if not isinstance(bound, str):
        return Quantity(measure=Measure.NUMBER, amount=bound)
    if found := _BOUND_DATE.fullmatch(bound):
        try:
            dt.date(*(int(part) for part in found.groups()))
        except ValueError as error:
            raise ValueError(f"a date of the calendar; {bound!r} is none ({error})") from None
        return Quantity(measure=Measure.DATE, amount=float("".join(found.groups())))
    if (found := _BOUND_TIME.fullmatch(bound)) and int(found[1]) < 24 and int(found[2]) < 60:
        return Quantity(measure=Measure.TIME, amount=_seconds(*found.groups()))
    if found := _BOUND_AGE.fullmatch(bound):
        return Quantity(measure=Measure.AGE, amount=int(found[1]) * _DAYS[found[2]])
    raise ValueError(
        f'a number, a date "2026-01-31", a time "08:30" or an age "18Y", "6M", "2W", "3D"; {bound!r} is none'
    )


def amount_of_value(text: str, measure: Measure) -> float | None:
    """Return what a value of a data set amounts to in `measure`; None where it is nothing of the kind."""
    if measure is Measure.NUMBER:
        try:
            return float(text)
        except ValueError:
            return None
    if measure is Measure.DATE:
        date = _VALUE_DATE.match(text)
        return float("".join(date.groups())) if date else None
    if measure is Measure.TIME:
        time = _VALUE_TIME.fullmatch(text)
        return _seconds(*time.groups()) if time else None
    age = _BOUND_AGE.fullmatch(text)
    return int(age[1]) * _DAYS[age[2]] if age else None


def _seconds(hours: str, minutes: str | None, seconds: str | None) -> float:
    return int(hours) * 3600 + int(minutes or 0) * 60 + float(seconds or 0)


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True)


class Range(_Table):
    """A condition on a number, date, time or age: both bounds are inclusive, each may be left out."""

    min: float | str | None = Field(None, description="Smallest value that matches.")
    max: float | str | None = Field(None, description="Largest value that matches.")

    @field_validator("min", "max", mode="before")
    @classmethod
    def _as_text(cls, bound: object) -> object:
        # TOML has dates and times of its own.
        return bound.isoformat() if isinstance(bound, dt.date | dt.time) else bound

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        bounds = [quantity_of_bound(bound) for bound in (self.min, self.max) if bound is not None]
        if not bounds:
            raise ValueError("min, max or both")
        if bounds[0].measure is not bounds[-1].measure:
            raise ValueError("min and max of one kind")
        if bounds[0].amount > bounds[-1].amount:
            raise ValueError("min not above max")
        return self


def _kind(value: object) -> str | None:
    match value:
        case str():
            return "pattern"
        case list() | tuple():
            return "patterns"
        case dict() if "not" in value or "not_" in value:
            return "negation"
        case dict() if "present" in value:
            return "presence"
        case dict():
            return "range"
        case Range():
            return "range"
        case Negation():
            return "negation"
        case Presence():
            return "presence"
    return None


def _kinds(allowed: str) -> Discriminator:
    return Discriminator(_kind, custom_error_type="condition", custom_error_message=allowed)


_Expression = Annotated[str, AfterValidator(check_pattern)]
Pattern = Annotated[_Expression, Tag("pattern")]
Patterns = Annotated[tuple[_Expression, ...], Field(min_length=1), Tag("patterns")]
Positive = Annotated[
    Pattern | Patterns | Annotated[Range, Tag("range")], _kinds("a regular expression, a list of them, or { min, max }")
]


class Negation(_Table):
    """A condition that holds where another one does not, an absent attribute included."""

    not_: Positive = Field(alias="not", description="The condition that must not hold.")
    present: Literal[True] | None = Field(None, description="true: and the attribute has a value.")


class Presence(_Table):
    """A condition on whether an attribute has a value, whatever it is."""

    present: bool = Field(description="true: it has one; false: it is absent or empty.")


Condition = Annotated[
    Pattern
    | Patterns
    | Annotated[Range, Tag("range")]
    | Annotated[Negation, Tag("negation")]
    | Annotated[Presence, Tag("presence")],
    _kinds("a regular expression, a list of them, { min, max }, { not } or { present }"),
]
KINDS: Mapping[str, type[BaseModel] | None] = {
    "pattern": None,
    "patterns": None,
    "range": Range,
    "negation": Negation,
    "presence": Presence,
}
"""How a fault's place names the kind of condition that was found there -> the table that it is, if it is one."""


def patterns_of(condition: Condition) -> tuple[str, ...]:
    """Return the regular expressions in a condition."""
    match condition:
        case str():
            return (condition,)
        case tuple():
            return condition
        case Negation():
            return patterns_of(condition.not_)
    return ()
