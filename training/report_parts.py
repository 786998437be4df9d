"""What a report is made of: sections, tables, pictures, and how lists of results become tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from training.findings import DOSES, figure, percent

Line = dict[str, Any]
Columns = Sequence[tuple[str, str]]

_FIGURE = re.compile(r"[+−]?\d[\d.]*(?![\w/])|–$")


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table as it is read."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def words(self) -> tuple[bool, ...]:
        """Per column: does it hold words, which stand left, or figures, which stand right?"""
        return tuple(any(not _FIGURE.match(row[i]) for row in self.rows) for i in range(len(self.columns)))


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure or an image as a data URI; ``alt`` is read where it is not seen."""

    source: str
    alt: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading with what stands under it."""

    anchor: str
    title: str
    text: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()


def table_of(caption: str, lines: list[Line], columns: Columns) -> Table:
    """Return a table of the columns that any line has; under a title that ends in (%) fractions become percentages."""
    present = [(key, title) for key, title in columns if any(line.get(key) is not None for line in lines)]
    rows = tuple(tuple(_cell(line.get(key), title) for key, title in present) for line in lines)
    return Table(caption=caption, columns=tuple(title for _, title in present), rows=rows)


def _cell(value: Any, title: str) -> str:
    if title.endswith("(%)") and isinstance(value, (int, float)):
        return percent(value).removesuffix(" %")
    return figure(value)


def by_dose(caption: str, lines: list[Line], *, keys: Columns, cell: Callable[[Line], str]) -> Table:
    """Return a table with a column per dose; lines with equal keys share a row."""
    doses = sorted(unique(line["dose"] for line in lines), key=dose_order)
    return across(caption, lines, keys=keys, over="dose", columns={dose: f"dose {dose}" for dose in doses}, cell=cell)


def across(
    caption: str, lines: list[Line], *, keys: Columns, over: str, columns: dict[Any, str], cell: Callable[[Line], str]
) -> Table:
    """Return a table with a column per value of the key ``over``; ``columns`` holds the values and their titles."""
    rows: dict[tuple[str, ...], dict[Any, str]] = {}
    for line in lines:
        rows.setdefault(tuple(str(line[key]) or "–" for key, _ in keys), {})[line[over]] = cell(line)
    return Table(
        caption=caption,
        columns=(*(title for _, title in keys), *columns.values()),
        rows=tuple((*names, *(cells.get(value, "–") for value in columns)) for names, cells in rows.items()),
    )


def dose_order(dose: Any) -> int:
    return DOSES.index(dose) if dose in DOSES else len(DOSES)


def unique(names: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(names))
