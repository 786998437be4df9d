"""Read a settings file and report every fault in it at once."""

from __future__ import annotations

import difflib
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from config.conditions import KINDS
from config.settings import FALLBACK, Settings


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault of a settings file: where it is, what stands there, and what is allowed."""

    path: str
    value: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.path} = {self.value}: {self.allowed}"


class InvalidSettings(Exception):
    """The settings file can't be used; `faults` lists everything that is wrong with it."""

    def __init__(self, file: Path, faults: tuple[Fault, ...]) -> None:
        self.file = file
        self.faults = faults
        super().__init__(f"{file}: {len(faults)} fault(s): " + "; ".join(str(fault) for fault in faults))


def load_settings(file: Path) -> Settings:
    """Load and validate the settings in `file`.

    Relative paths in it are taken from the folder of the file.

    Raises
    ------
    InvalidSettings
        With every fault, when the file is missing, is not TOML, or does not fit the schema.
    """
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidSettings(
            file,
            (Fault(path="(file)", value=str(file), allowed="there is no such file; `dicom-node init DIR` writes one"),),
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings(
            file, (Fault(path="(file)", value=str(file), allowed=f"the file can't be read ({error})"),)
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidSettings(
            file, (Fault(path="(file)", value=str(file), allowed=f"this is not TOML: {error}"),)
        ) from error
    settings = parse_settings(raw, file)
    here = file.resolve().parent
    data_dir = (here / settings.node.data_dir).resolve()
    storage = settings.storage
    if storage.folder is not None:
        storage = storage.model_copy(update={"folder": (here / storage.folder).resolve()})
    node = settings.node.model_copy(update={"data_dir": data_dir})
    return settings.model_copy(update={"node": node, "storage": storage})


def parse_settings(raw: Mapping[str, Any], file: Path = Path("(memory)")) -> Settings:
    """Validate already parsed TOML; raises `InvalidSettings` with every fault."""
    faults: list[Fault] = []
    settings: Settings | None = None
    try:
        settings = Settings.model_validate(raw)
    except ValidationError as error:
        faults = _schema_faults(error)
    faults += _cross_faults(raw)
    if faults or settings is None:
        raise InvalidSettings(file, tuple(faults))
    return settings


def _schema_faults(error: ValidationError) -> list[Fault]:
    faults: dict[tuple[str, str], Fault] = {}
    for detail in error.errors(include_url=False):
        # A union reports one error per alternative; its tail in `loc` names the alternative, not a setting.
        loc = tuple(part for part in detail["loc"] if not _names_alternative(part))
        path = _dotted(loc[:-1] if detail["loc"][-1] == "[key]" else loc)
        value = "(absent)" if detail["type"] == "missing" else repr(detail["input"])
        allowed = _allowed(detail)
        if known := faults.get((path, value)):
            allowed = f"{known.allowed}; or {allowed.removeprefix('allowed is ')}"
        faults[path, value] = Fault(path=path, value=value, allowed=allowed)
    return list(faults.values())


def _allowed(detail: ErrorDetails) -> str:
    """Return what is allowed in a place, in words of the file and not of the schema's language."""
    kind, context, value, name = detail["type"], detail.get("ctx", {}), detail["input"], detail["loc"][-1]
    if kind == "extra_forbidden":
        return "no such setting" + _known_keys(detail["loc"])
    if kind == "missing":
        return "required, and missing"
    if "error" in context:
        return f"allowed is {context['error']}"
    if kind == "tuple_type":
        return "allowed is " + (f"a list of tables: [[{name}]], not [{name}]" if isinstance(value, dict) else _LIST)
    if kind == "model_type":
        return "allowed is " + (f"one table: [{name}], not [[{name}]]" if isinstance(value, list) else "a table")
    if kind == "too_short":
        return f"allowed is a list with at least {context['min_length']} item"
    if kind == "literal_error" and context["expected"] == "True":
        return "allowed is true"
    message = _IN_WORDS.get(kind, detail["msg"].removeprefix("Input should be "))
    return f"allowed is {message}"


_LIST = 'a list in square brackets, such as ["a", "b"]'
_IN_WORDS = {
    "string_type": "a text in quotes",
    "int_parsing": "a valid integer",
    "int_type": "a valid integer",
    "int_from_float": "a valid integer",
    "float_parsing": "a number",
    "float_type": "a number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
}


def _names_alternative(part: int | str) -> bool:
    return isinstance(part, str) and (part in {"str", "float", "constrained-float", *KINDS} or "[" in part)


def _dotted(loc: tuple[int | str, ...]) -> str:
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _known_keys(loc: tuple[int | str, ...]) -> str:
    model: Any = Settings
    for part in loc[:-1]:
        if isinstance(part, int):
            continue
        if KINDS.get(part) is not None:
            model = KINDS[part]
            continue
        field = getattr(model, "model_fields", {}).get(part)
        annotation = field.annotation if field else None
        arguments = getattr(annotation, "__args__", ())
        model = next((a for a in (annotation, *arguments) if hasattr(a, "model_fields")), None)
    if model is None:
        return "; see the settings page"
    known = [field.alias or name for name, field in model.model_fields.items()]
    near = difflib.get_close_matches(str(loc[-1]), known, n=1)
    return (f"; did you mean {near[0]}?" if near else "") + "; known are " + ", ".join(known)


def _cross_faults(raw: Mapping[str, Any]) -> Iterator[Fault] | list[Fault]:
    """Faults between tables; works on raw input so that they show together with the schema's."""
    faults: list[Fault] = []
    for table in ("sources", "destinations", "routes"):
        names = [entry.get("name") for entry in _entries(raw, table)]
        for name, count in Counter(n for n in names if isinstance(n, str)).items():
            if count > 1:
                faults.append(
                    Fault(path=f"{table}.name", value=repr(name), allowed=f"a name used once; it stands {count} times")
                )
    known = [str(entry.get("name")) for entry in _entries(raw, "destinations")]
    for index, route in enumerate(_entries(raw, "routes")):
        faults += _unknown_destinations(f"routes[{index}].destinations", route, known)
        if route.get("name") == FALLBACK:
            allowed = "another name; this one is that of [fallback]"
            faults.append(Fault(path=f"routes[{index}].name", value=repr(FALLBACK), allowed=allowed))
    fallback = raw.get("fallback")
    if isinstance(fallback, Mapping):
        faults += _unknown_destinations("fallback.destinations", fallback, known)
    return faults


def _unknown_destinations(path: str, table: Mapping[str, Any], known: list[str]) -> Iterator[Fault]:
    wanted = table.get("destinations", ())
    for name in wanted if isinstance(wanted, list) else ():
        if name not in known:
            allowed = "the name of a destination: " + (", ".join(known) or "none is defined")
            yield Fault(path=path, value=repr(name), allowed=allowed)


def _entries(raw: Mapping[str, Any], table: str) -> list[Mapping[str, Any]]:
    entries = raw.get(table, ())
    return [entry for entry in entries if isinstance(entry, Mapping)] if isinstance(entries, list) else []
