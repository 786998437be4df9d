"""Read a settings file and report every fault in it at once."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from config.conditions import KINDS
from config.environment import with_environment
from config.settings import (
    FALLBACK,
    DicomDestinationSettings,
    DicomwebDestinationSettings,
    PeerTlsSettings,
    Settings,
)

DESTINATION_KINDS: Mapping[str, Any] = {"dicom": DicomDestinationSettings, "dicomweb": DicomwebDestinationSettings}


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


_TLS_FILES = ("certificate", "key", "ca", "crl")


def load_settings(file: Path, environment: Mapping[str, str] = os.environ) -> Settings:
    """Load and validate the settings in `file`; variables of the `environment` stand above it (`config.environment`).

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
        said = "it is not text in UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror or str(error)
        raise InvalidSettings(
            file, (Fault(path="(file)", value=str(file), allowed=f"the file can't be read ({said})"),)
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidSettings(
            file, (Fault(path="(file)", value=str(file), allowed=f"this is not TOML: {error}"),)
        ) from error
    merged, from_environment = with_environment(raw, environment)
    listed = [path for path in from_environment if isinstance(merged.get(path.partition(".")[0]), list)]
    if listed:
        allowed = "a table that stands in the file alone: unset this variable"
        raise InvalidSettings(
            file, tuple(Fault(path=from_environment[path], value="(environment)", allowed=allowed) for path in listed)
        )
    try:
        settings = parse_settings(merged, file)
    except InvalidSettings as error:
        # Who looks for the fault in the file would not find it there.
        named = tuple(replace(one, path=from_environment.get(one.path, one.path)) for one in error.faults)
        raise InvalidSettings(file, named) from None
    return _with_whole_paths(settings, file.resolve().parent)


def _with_whole_paths(settings: Settings, folder: Path) -> Settings:
    """Return the settings with every path from the root; destinations have the node's certificate unless their own."""

    def whole(path: Path | None) -> Path | None:
        return None if path is None else (folder / path).resolve()

    def whole_peer(peer: PeerTlsSettings) -> PeerTlsSettings:
        files = {name: whole(getattr(peer, name)) for name in _TLS_FILES}
        if peer.enabled and peer.certificate is None:
            files |= {"certificate": tls.certificate, "key": tls.key}
        return peer.model_copy(update=files)

    tls = settings.tls.model_copy(update={name: whole(getattr(settings.tls, name)) for name in _TLS_FILES})
    destinations: list[DicomDestinationSettings | DicomwebDestinationSettings] = []
    for destination in settings.destinations:
        if isinstance(destination, DicomwebDestinationSettings):
            destinations.append(destination.with_whole_paths(folder))
            continue
        asked = destination.commitment
        if asked is not None and asked.tls is not None:
            asked = asked.model_copy(update={"tls": whole_peer(asked.tls)})
        destinations.append(destination.model_copy(update={"tls": whole_peer(destination.tls), "commitment": asked}))
    sources = [
        source
        if source.commitment is None
        else source.model_copy(
            update={"commitment": source.commitment.model_copy(update={"tls": whole_peer(source.commitment.tls)})}
        )
        for source in settings.sources
    ]
    own = {name: whole(getattr(settings.node, name)) for name in ("data_dir", "identifier_key")}
    node = settings.node.model_copy(update=own)
    storage = settings.storage.model_copy(update={"folder": whole(settings.storage.folder)})
    backup = settings.backup.model_copy(update={"folder": whole(settings.backup.folder)})
    oidc = settings.console.oidc
    oidc = oidc.model_copy(update={name: whole(getattr(oidc, name)) for name in ("secret_file", "ca")})
    pair = {name: whole(getattr(settings.console, name)) for name in ("certificate", "key")}
    console = settings.console.model_copy(update={**pair, "oidc": oidc})
    of_alert = ("ca_file", "token_file", "password_file")
    alerts = [one.model_copy(update={name: whole(getattr(one, name)) for name in of_alert}) for one in settings.alerts]
    of_audit = ("ca_file", "certificate", "key")
    audit = settings.audit.model_copy(update={name: whole(getattr(settings.audit, name)) for name in of_audit})
    return settings.model_copy(
        update={
            "node": node,
            "tls": tls,
            "storage": storage,
            "backup": backup,
            "sources": tuple(sources),
            "console": console,
            "destinations": tuple(destinations),
            "alerts": tuple(alerts),
            "audit": audit,
        }
    )


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
        if detail["type"] == "too_short" and detail["input"]:
            # It has items, and each is at fault: that is told of them.
            continue
        # A union reports one error per alternative; its tail in `loc` names the alternative, not a setting.
        loc = tuple(part for part in _without_kind(detail["loc"]) if not _names_alternative(part))
        path = _dotted(loc[:-1] if detail["loc"][-1] == "[key]" else loc)
        value = "(absent)" if detail["type"] == "missing" else repr(detail["input"])
        if detail["type"] == "union_tag_invalid":
            path, value = f"{path}.kind", repr(detail["input"].get("kind"))
        elif detail["type"] == "value_error" and loc[0] == "destinations" and len(loc) == 2:
            # A rule about several settings of one table: its input is the whole table.
            value = "(these settings)"
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
    "union_tag_invalid": '"dicom" or "dicomweb"',
    "path_type": "a path in quotes",
    "bool_type": "true or false",
}


def _without_kind(loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Leave out the kind that pydantic writes behind the number of a destination."""
    return loc[:2] + loc[3:] if loc[0] == "destinations" and len(loc) > 2 else loc


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
        if loc[0] == "destinations" and part in DESTINATION_KINDS:
            model = DESTINATION_KINDS[part]
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


def _tls_faults(raw: Mapping[str, Any]) -> Iterator[Fault]:
    """Sources that ask for what the receiver does not have: TLS, or the certificates of senders."""
    tls = raw.get("tls")
    table: Mapping[str, Any] = tls if isinstance(tls, Mapping) else {}
    callers = [(f"sources[{n}].", "", entry) for n, entry in enumerate(_entries(raw, "sources"))]
    callers += [
        (f"destinations[{n}].commitment.", "report_", entry["commitment"])
        for n, entry in enumerate(_entries(raw, "destinations"))
        if isinstance(entry.get("commitment"), Mapping)
    ]
    for place, prefix, caller in callers:
        if not table.get("certificate"):
            what = "association of this source" if not prefix else "report of this destination"
            allowed = f"certificate, key and ca in [tls] first: without them every {what} is rejected"
        elif table.get("client_certificates") == "none" and caller.get(f"{prefix}certificates"):
            allowed = 'client_certificates other than "none" in [tls]: nobody is asked for a certificate'
        else:
            continue
        for name in (f"{prefix}tls", f"{prefix}certificates"):
            value = caller.get(name)
            if value and value != "optional":
                yield Fault(path=f"{place}{name}", value=repr(value), allowed=allowed)
    node = raw.get("node")
    port = node.get("port", 11112) if isinstance(node, Mapping) else 11112
    if table.get("certificate") and not table.get("only") and table.get("port", 2762) == port:
        yield Fault(path="tls.port", value=repr(port), allowed="another port than node.port; or only = true")


def _cross_faults(raw: Mapping[str, Any]) -> Iterator[Fault] | list[Fault]:
    """Faults between tables; works on raw input so that they show together with the schema's."""
    faults: list[Fault] = []
    for table in ("sources", "destinations", "routes", "alerts"):
        names = [entry.get("name") for entry in _entries(raw, table)]
        for name, count in Counter(n for n in names if isinstance(n, str)).items():
            if count > 1:
                faults.append(
                    Fault(path=f"{table}.name", value=repr(name), allowed=f"a name used once; it stands {count} times")
                )
    known = [str(entry.get("name")) for entry in _entries(raw, "destinations")]
    faults += _failover_faults(_entries(raw, "destinations"), known)
    for index, route in enumerate(_entries(raw, "routes")):
        faults += _unknown_destinations(f"routes[{index}].destinations", route, known)
        if route.get("name") == FALLBACK:
            allowed = "another name; this one is that of [fallback]"
            faults.append(Fault(path=f"routes[{index}].name", value=repr(FALLBACK), allowed=allowed))
    fallback = raw.get("fallback")
    if isinstance(fallback, Mapping):
        faults += _unknown_destinations("fallback.destinations", fallback, known)
    faults += _tls_faults(raw)
    faults += _port_faults(raw)
    return faults


def _port_faults(raw: Mapping[str, Any]) -> Iterator[Fault]:
    """The console on a port of the receiver."""
    tables = {name: table if isinstance(table := raw.get(name), Mapping) else {} for name in ("node", "tls", "console")}
    port = tables["console"].get("port", 8411)
    taken = {tables["node"].get("port", 11112): "node.port"}
    if tables["tls"].get("certificate"):
        taken[tables["tls"].get("port", 2762)] = "tls.port"
    if port in taken and tables["console"].get("enabled", True):
        yield Fault(path="console.port", value=repr(port), allowed=f"another port than {taken[port]}")


def _failover_faults(destinations: Sequence[Mapping[str, Any]], known: Sequence[str]) -> Iterator[Fault]:
    following = {str(entry.get("name")): entry.get("failover") for entry in destinations}
    for index, (name, failover) in enumerate(following.items()):
        if not isinstance(failover, str):
            continue
        path = f"destinations[{index}].failover"
        if failover not in known:
            allowed = f"the name of another destination; known are {', '.join(known)}"
            yield Fault(path=path, value=repr(failover), allowed=allowed)
            continue
        passed = [name]
        following_one: object = failover
        while isinstance(following_one, str) and following_one not in passed:
            passed.append(following_one)
            following_one = following.get(following_one)
        if following_one == name:
            around = " -> ".join([*passed, name])
            yield Fault(path=path, value=repr(failover), allowed=f"no circle, and this is one: {around}")


def _unknown_destinations(path: str, table: Mapping[str, Any], known: list[str]) -> Iterator[Fault]:
    wanted = table.get("destinations", ())
    for name in wanted if isinstance(wanted, list) else ():
        if name not in known:
            allowed = "the name of a destination: " + (", ".join(known) or "none is defined")
            yield Fault(path=path, value=repr(name), allowed=allowed)


def _entries(raw: Mapping[str, Any], table: str) -> list[Mapping[str, Any]]:
    entries = raw.get(table, ())
    return [entry for entry in entries if isinstance(entry, Mapping)] if isinstance(entries, list) else []
