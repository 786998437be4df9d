"""Reads the conformance statement as a person does: tables by their caption, cells as text; shares no code with it."""

from __future__ import annotations

import re

Row = dict[str, str]


def tables(text: str) -> dict[str, list[Row]]:
    """Return the rows of each table, by its caption without the number."""
    found: dict[str, list[Row]] = {}
    pattern = r"^\*\*Table \d+\. (?P<caption>.+)\*\*\n\n(?P<body>(?:\|.*\n?)+)"
    for match in re.finditer(pattern, text, re.MULTILINE):
        header, _, *rows = (_cells(line) for line in match["body"].strip().split("\n"))
        assert match["caption"] not in found, match["caption"]
        found[match["caption"]] = [dict(zip(header, row, strict=True)) for row in rows]
    return found


def headings(text: str) -> list[str]:
    """Return all headings, with their numbers."""
    return re.findall(r"^#+ (.+)$", text, re.MULTILINE)


def _cells(line: str) -> list[str]:
    cells = re.split(r"(?<!\\)\|", line)[1:-1]
    return [cell.strip().replace("\\|", "|") for cell in cells]


def plain(cell: str) -> str:
    """Return a cell without the marks of code."""
    return cell.replace("`", "")
