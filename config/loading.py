"""Read a settings file and report every fault in it at once."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from config.conditions import KIND_NAMES
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
    data_dir = (file.resolve().parent / settings.node.data_dir).resolve()
    return settings.model_copy(update={"node": settings.node.model_copy(update={"data_dir": data_dir})})


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
    faults: dict[str, Fault] = {}
    for detail in error.errors(include_url=False):
        # A union reports one error per alternative; its tail in `loc` names the alternative, not a setting.
        path = _dotted(tuple(part for part in detail["loc"] if not _names_alternative(part)))
        message = str(detail["ctx"]["error"]) if "error" in detail.get("ctx", {}) else detail["msg"]
        if detail["type"] == "extra_forbidden":
            message = "no such setting; " + _known_keys(detail["loc"])
        elif detail["type"] == "missing":
            message = "required, and missing"
        else:
            message = f"allowed is {message}" if "error" in detail.get("ctx", {}) else message
        value = "(absent)" if detail["type"] == "missing" else repr(detail["input"])
        if path in faults:
            faults[path] = Fault(path=path, value=value, allowed=f"{faults[path].allowed}; or {message}")
        else:
            faults[path] = Fault(path=path, value=value, allowed=message)
    return list(faults.values())


def _names_alternative(part: int | str) -> bool:
    return isinstance(part, str) and (part in {"str", "float", "constrained-float"} | KIND_NAMES or "[" in part)


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
        field = getattr(model, "model_fields", {}).get(part)
        annotation = field.annotation if field else None
        arguments = getattr(annotation, "__args__", ())
        model = next((a for a in (annotation, *arguments) if hasattr(a, "model_fields")), None)
    return "known are " + ", ".join(model.model_fields) if model is not None else "see the settings page"


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
