"""The settings that a node works with, line by line, beside what each would be by itself; pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from config.example import LISTS, default_of, toml_value
from config.settings import Settings
from dicom_node.settings_changes import MASKED, is_secret


@dataclass(frozen=True, kw_only=True)
class SettingLine:
    """One setting.

    Attributes
    ----------
    value, default
        As TOML; ``value`` is empty where nothing is set, ``default`` is None where there is none.
    meaning
        The sentence of the schema, with the unit.
    is_changed
        Whether somebody set it to something else than its default, or had to set it.
    """

    name: str
    value: str
    default: str | None
    meaning: str
    is_changed: bool


@dataclass(frozen=True, kw_only=True)
class SettingTable:
    """One table of the settings file.

    Attributes
    ----------
    heading
        As it stands in the file, such as ``[[routes]]`` or ``[destinations.tls]``.
    subject
        Name of the entry, where the table is one of several.
    """

    heading: str
    subject: str
    meaning: str
    lines: tuple[SettingLine, ...]

    @property
    def changed(self) -> tuple[SettingLine, ...]:
        """The settings that are not at their default."""
        return tuple(line for line in self.lines if line.is_changed)


def tables_of(settings: Settings) -> list[SettingTable]:
    """Return every table in the order of the schema; entries of a list in theirs."""
    found: list[SettingTable] = []
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if name in LISTS:
            for entry in value:
                subject = str(entry.name)
                found += _tables(entry, f"[[{name}]]", f"{name}[{subject}]", subject, name)
        else:
            found += _tables(value, f"[{name}]", name, "", name)
    return found


def _tables(table: BaseModel, heading: str, path: str, subject: str, dotted: str) -> Iterator[SettingTable]:
    lines: list[SettingLine] = []
    inner: list[tuple[str, BaseModel]] = []
    for name, field in type(table).model_fields.items():
        value = getattr(table, name)
        if isinstance(value, BaseModel):
            inner.append((name, value))
            continue
        default = default_of(field)
        hide = is_secret(f"{path}.{name}") and value
        lines.append(
            SettingLine(
                name=name,
                value=MASKED if hide else _shown(value),
                default=None if field.is_required() or default is None else _shown(default),
                meaning=field.description or "",
                is_changed=field.is_required() or value != default,
            )
        )
    meaning = " ".join((type(table).__doc__ or "").split())
    yield SettingTable(heading=heading, subject=subject, meaning=meaning, lines=tuple(lines))
    for name, value in inner:
        yield from _tables(value, f"[{dotted}.{name}]", f"{path}.{name}", subject, f"{dotted}.{name}")


def _shown(value: Any) -> str:
    return "" if value is None else toml_value(_plain(value))


def _plain(value: Any) -> Any:
    """Return a value of the schema as what stands in a file: conditions of routes are models by then."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True)
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value]
    return value
