"""Markdown from plain values: numbered sections, tables, references and a table of contents."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

LINE_LENGTH: Final = 120
CONTENTS: Final = "\u27e6contents\u27e7"
"""Stands for the table of contents in a section's body."""

_REFERENCE = re.compile(r"\u27e6see ([^\u27e7]+)\u27e7")
_CAPTION: Final = "\u27e6table\u27e7"


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section with its subsections; `body` holds finished blocks of Markdown."""

    title: str
    body: Sequence[str] = ()
    parts: Sequence[Section] = ()


@dataclass(frozen=True, kw_only=True)
class _Numbered:
    number: str
    depth: int
    section: Section

    @property
    def heading(self) -> str:
        return f"{self.number} {self.section.title}"

    @property
    def anchor(self) -> str:
        # As GitHub makes it: lower case, spaces to hyphens, everything else but letters and digits gone.
        return re.sub(r"[^a-z0-9 -]", "", self.heading.lower()).replace(" ", "-")


def document(title: str, introduction: Sequence[str], chapters: Sequence[Section], annexes: Sequence[Section]) -> str:
    """Return the whole text: chapters are numbered from 1, annexes lettered from A, tables counted through.

    Raises
    ------
    KeyError
        If `see` names a section that is not there.
    """
    numbered = [entry for n, s in enumerate(chapters, 1) for entry in _number(s, str(n), 0)]
    numbered += [entry for n, s in enumerate(annexes) for entry in _number(s, chr(ord("A") + n), 0)]
    blocks = [f"# {title}", *introduction]
    for entry in numbered:
        blocks += [f"{'#' * (entry.depth + 2)} {entry.heading}", *entry.section.body]
    text = "\n\n".join(blocks) + "\n"
    anchors = {entry.section.title: entry for entry in numbered}
    text = _REFERENCE.sub(lambda match: _link(anchors[" ".join(match[1].split())]), text)
    text = text.replace(CONTENTS, "\n".join(_contents(numbered)))
    counted = text.split(_CAPTION)
    return counted[0] + "".join(f"Table {n}{part}" for n, part in enumerate(counted[1:], 1))


def _number(section: Section, number: str, depth: int) -> Iterator[_Numbered]:
    yield _Numbered(number=number, depth=depth, section=section)
    for n, part in enumerate(section.parts, 1):
        yield from _number(part, f"{number}.{n}", depth + 1)


def _contents(numbered: Iterable[_Numbered]) -> Iterator[str]:
    for entry in numbered:
        if entry.depth < 2:
            yield f"{'  ' * entry.depth}- {_link(entry)}"


def _link(entry: _Numbered) -> str:
    return f"[{entry.heading}](#{entry.anchor})"


def see(title: str) -> str:
    """Return a reference to the section of this title, to be used within text."""
    return f"\u27e6see {title}\u27e7"


def paragraph(text: str) -> str:
    """Return a paragraph, its lines broken anew."""
    return _fill(text, "")


def bullets(entries: Iterable[str]) -> str:
    """Return a list."""
    return "\n".join(_fill(entry, "- ") for entry in entries)


def _fill(text: str, lead: str) -> str:
    return textwrap.fill(
        " ".join(text.split()),
        LINE_LENGTH,
        initial_indent=lead,
        subsequent_indent=" " * len(lead),
        break_long_words=False,
        break_on_hyphens=False,
    )


def drawing(text: str) -> str:
    """Return text that keeps its lines and its columns."""
    return f"```text\n{textwrap.dedent(text).strip(chr(10))}\n```"


def code(value: object) -> str:
    """Return a value as it is typed or sent."""
    text = str(value)
    return f"`{text}`" if "`" not in text else f"`` {text} ``"


def codes(values: Iterable[object]) -> str:
    """Return several values as they are typed or sent; "none" if there are none."""
    return ", ".join(code(value) for value in values) or "none"


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table under its caption; ValueError if a row is not as wide as the header, or none is there."""
    lines = [list(row) for row in rows]
    if not lines or any(len(line) != len(header) for line in lines):
        raise ValueError(f"table {caption!r} has no rows, or rows of another width than its header")
    drawn = [_row(header), "|" + "---|" * len(header), *map(_row, lines)]
    return f"**{_CAPTION}. {caption}**\n\n" + "\n".join(drawn)


def facts(caption: str, rows: Mapping[str, str]) -> str:
    """Return a table of names and values."""
    return table(caption, ("Parameter", "Value"), rows.items())


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") or "none" for cell in cells) + " |"
