"""Render the schema as the commented example file and as the settings page of the documentation."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from config.observation import AlertSettings
from config.settings import (
    BreakerSettings,
    CommitmentSettings,
    DicomDestinationSettings,
    DicomwebDestinationSettings,
    OidcSettings,
    PeerTlsSettings,
    RetrySettings,
    RouteSettings,
    Settings,
    SourceCommitmentSettings,
    SourceSettings,
)

# What a first settings file needs beyond the defaults: one modality, one PACS, one route, and the PACS for the rest.
EXAMPLE_VALUES: dict[str, dict[str, Any]] = {
    "sources": {"name": "xray-room-1", "ae_titles": ["XRAY1"], "hosts": ["127.0.0.1", "192.168.10.0/24"]},
    "destinations": {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 11113},
    "routes": {"name": "radiographs", "match": {"Modality": "CR|DX|IO|XA|RF"}, "destinations": ["pacs"]},
    "fallback": {"destinations": ["pacs"]},
}
LISTS: dict[str, type[BaseModel]] = {
    "sources": SourceSettings,
    "destinations": DicomDestinationSettings,
    "routes": RouteSettings,
    "alerts": AlertSettings,
}
# Tables in these tables, each under its own heading.
INNER: dict[str, dict[str, type[BaseModel]]] = {
    "sources": {"commitment": SourceCommitmentSettings, "commitment.tls": PeerTlsSettings},
    "destinations": {
        "retry": RetrySettings,
        "breaker": BreakerSettings,
        "tls": PeerTlsSettings,
        "commitment": CommitmentSettings,
    },
    "console": {"oidc": OidcSettings},
}

OTHER_KIND = (
    'A DICOMweb server (STOW-RS) is a destination of kind "dicomweb", with url instead of AE title, host and port; '
    "see docs/dicomweb.md."
)


def render_example() -> str:
    """Return the commented settings file that `dicom-node init` writes.

    Settings at their default stand as comments, so an upgrade can change a default that nobody set.
    """
    lines = [
        "# Settings of the low-dose X-ray node.",
        "# A commented-out setting shows its default. Check what you change with: dicom-node check -c FILE",
    ]
    for name, field in Settings.model_fields.items():
        if name in LISTS:
            # A list that nobody has to fill stands as a comment as a whole.
            head = f"[[{name}]]" if name in EXAMPLE_VALUES else f"# [[{name}]]"
            lines += [
                "",
                *_comment(LISTS[name].__doc__ or ""),
                head,
                *_fields(LISTS[name], EXAMPLE_VALUES.get(name, {})),
            ]
            for inner, inner_model in INNER.get(name, {}).items():
                lines += ["", f"# [{name}.{inner}]", *_fields(inner_model, {})]
            if name == "destinations":
                lines += ["", *_comment(OTHER_KIND)]
        else:
            model = field.annotation
            assert isinstance(model, type)
            assert issubclass(model, BaseModel)
            lines += ["", *_comment(model.__doc__ or ""), f"[{name}]", *_fields(model, EXAMPLE_VALUES.get(name, {}))]
            for inner, inner_model in INNER.get(name, {}).items():
                lines += ["", *_comment(inner_model.__doc__ or ""), f"# [{name}.{inner}]", *_fields(inner_model, {})]
    return "\n".join(lines) + "\n"


def render_reference() -> str:
    """Return the settings page of the documentation (Markdown)."""
    lines = [
        "# Settings",
        "",
        "One TOML file holds every setting; `dicom-node init DIR` writes a commented one, and",
        "`dicom-node check -c FILE` names every fault in it at once. This page is made from the schema",
        "(`python -m config.example --docs`). How to write the conditions of a route: [routes.md](routes.md).",
    ]
    for name, field in Settings.model_fields.items():
        model = LISTS.get(name, field.annotation)
        assert isinstance(model, type)
        assert issubclass(model, BaseModel)
        lines += ["", f"## `[[{name}]]`" if name in LISTS else f"## `[{name}]`", "", *_reference_table(model)]
        for inner, inner_model in INNER.get(name, {}).items():
            lines += ["", f"## `[{name}.{inner}]`", "", *_reference_table(inner_model)]
        if name == "destinations":
            title = '## `[[destinations]]` with `kind = "dicomweb"`'
            lines += ["", title, "", *_reference_table(DicomwebDestinationSettings)]
            lines += ["", "What to enter on the server, and what its answers mean: [dicomweb.md](dicomweb.md)."]
    return "\n".join(lines) + "\n"


def _reference_table(model: type[BaseModel]) -> Iterator[str]:
    yield (model.__doc__ or "").strip()
    yield ""
    yield "| setting | default | meaning |"
    yield "|---|---|---|"
    for name, field in model.model_fields.items():
        if not _is_table(field):
            default = (
                "required"
                if field.is_required()
                else f"`{toml_value(default_of(field))}`"
                if default_of(field) is not None
                else "none"
            )
            yield f"| `{name}` | {default} | {field.description} |"


def _fields(model: type[BaseModel], values: dict[str, Any]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if _is_table(field):
            continue
        yield from _comment(field.description or "")
        if name in values:
            yield f"{name} = {toml_value(values[name])}"
        else:
            default = default_of(field)
            yield f"# {name} = {toml_value(default)}" if default is not None else f"# {name} ="


def _is_table(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def default_of(field: FieldInfo) -> Any:
    """Return the default of a field; None where it has none."""
    default = field.get_default(call_default_factory=True, validated_data={})
    return None if default is PydanticUndefined else default


def _comment(text: str) -> Iterator[str]:
    for line in textwrap.wrap(" ".join(text.split()), 110):
        yield f"# {line}"


def toml_value(value: Any) -> str:
    """Return `value` as TOML; JSON's strings, numbers and booleans are TOML's too."""
    if isinstance(value, Enum | Path):
        value = str(value)
    if isinstance(value, dict):
        entries = ", ".join(f"{_key(key)} = {toml_value(item)}" for key, item in value.items())
        return f"{{ {entries} }}" if value else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return json.dumps(value)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)


if __name__ == "__main__":
    import sys

    print(render_reference() if "--docs" in sys.argv else render_example(), end="")
