"""Chapter 6: every setting, with its value in these settings, its default and its meaning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from config.example import LISTS, toml_value
from config.settings import SECRET_AND_TLS_FILES, DicomwebDestinationSettings, Settings
from dicom_node.conformance.markdown import Section, code, paragraph, table

NOT_SHOWN: Final = frozenset(
    {
        *("data_dir", "database_url", "folder", "bucket", "prefix", "endpoint"),
        *("certificate", "key", "ca", "crl", "headers"),
        *SECRET_AND_TLS_FILES,
    }
)
"""Settings whose values are nobody's business outside: paths of the machine, a database's password, HTTP headers."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A setting of a table: its name, the field that describes it, and the default as TOML."""

    name: str
    default: str
    meaning: str


def configuration(settings: Settings) -> Section:
    """Return the chapter."""
    singles = [name for name in Settings.model_fields if name not in LISTS]
    return Section(
        title="Configuration",
        body=(
            paragraph(
                "One TOML file holds every setting; it is read when the node starts. `dicom-node check -c FILE` names "
                'every fault in it. All settings are configurable by the site. A value of "not shown" is set by the '
                "site and of no interest to a peer."
            ),
        ),
        parts=(
            Section(
                title="General parameters",
                body=[block for name in singles for block in _single(name, getattr(settings, name))],
            ),
            Section(
                title="Parameters of sources, destinations and routes",
                body=[block for name in LISTS for block in _list(name, getattr(settings, name))],
            ),
        ),
    )


def settings_of(model: type[BaseModel]) -> tuple[Setting, ...]:
    """Return the settings of a table, without the tables below it."""
    return tuple(
        Setting(name=name, default=_default(field), meaning=field.description or "")
        for name, field in model.model_fields.items()
        if _below(field) is None
    )


def tables_below(model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield the tables below a table."""
    for name, field in model.model_fields.items():
        below = _below(field)
        if below is not None:
            yield name, below


def _single(path: str, table_settings: BaseModel) -> Iterator[str]:
    model = type(table_settings)
    rows = [(code(s.name), _value(table_settings, s.name), s.default, s.meaning) for s in settings_of(model)]
    yield table(f"{code(f'[{path}]')}: {_sentence(model)}", ("Setting", "Value", "Default", "Meaning"), rows)
    for name, _ in tables_below(model):
        yield from _single(f"{path}.{name}", getattr(table_settings, name))


def _list(name: str, entries: Sequence[BaseModel]) -> Iterator[str]:
    yield from _schema(f"[[{name}]]", LISTS[name])
    web = [entry for entry in entries if isinstance(entry, DicomwebDestinationSettings)]
    plain = [entry for entry in entries if entry not in web]
    if name == "destinations":
        yield from _schema(f"[[{name}]] of kind dicomweb", DicomwebDestinationSettings, below=False)
    for title, model, some in (
        (code(f"[[{name}]]"), LISTS[name], plain),
        (f"{code(f'[[{name}]]')} of kind dicomweb", DicomwebDestinationSettings, web),
    ):
        if some:
            header = ("Setting", *(code(getattr(entry, "name", n)) for n, entry in enumerate(some, 1)))
            yield table(f"Values of {title}", header, _values(model, some, ""))
    if not entries:
        yield paragraph(f"These settings have no {code(f'[[{name}]]')}.")


def _schema(title: str, model: type[BaseModel], *, below: bool = True) -> Iterator[str]:
    rows = ((code(s.name), s.default, s.meaning) for s in settings_of(model))
    yield table(f"{code(title)}: {_sentence(model)}", ("Setting", "Default", "Meaning"), rows)
    for name, table_below in tables_below(model) if below else ():
        yield from _schema(f"[{title.strip('[]')}.{name}]", table_below)


def _values(model: type[BaseModel], entries: Sequence[BaseModel], prefix: str) -> Iterator[Sequence[str]]:
    for setting in settings_of(model):
        if setting.name != "name" or prefix:
            yield code(prefix + setting.name), *(_value(entry, setting.name) for entry in entries)
    for name, below in tables_below(model):
        yield from _values(below, [getattr(entry, name) for entry in entries], f"{prefix}{name}.")


def _value(table_settings: BaseModel, name: str) -> str:
    if name in NOT_SHOWN:
        return "not shown"
    value = getattr(table_settings, name)
    return "none" if value is None else code(toml_value(_plain(value)))


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return {key: _plain(item) for key, item in value if item is not None and key not in NOT_SHOWN}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True, validated_data={})
    return "none" if default in (None, PydanticUndefined) else code(toml_value(default))


def _below(field: FieldInfo) -> type[BaseModel] | None:
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _sentence(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split()).rstrip(".")
