"""Templates to pages: what every template may use, and what every page has."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

from fastapi import Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from starlette.responses import HTMLResponse

from dicom_node import __version__
from dicom_node.console.access import SignedIn
from dicom_node.console.permissions import Permission

FOLDER: Final = Path(__file__).parent
STATIC: Final = FOLDER / "static"


@dataclass(frozen=True, kw_only=True)
class MenuEntry:
    """A page of the menu; shown to those who may open it."""

    label: str
    path: str
    permission: Permission


def render(
    request: Request, template: str, *, status_code: int = 200, headers: dict[str, str] | None = None, **context: Any
) -> HTMLResponse:
    """Return a page.

    Parameters
    ----------
    template
        File in the folder of templates; most extend ``base.html``.
    context
        What the template shows, beside what every one has: ``request``, ``signed_in`` (or None), ``csrf``, ``menu``,
        ``may`` (does the user have this permission), ``Permission``, ``settings``, ``now``.
    """
    signed_in: SignedIn | None = getattr(request.state, "signed_in", None)
    menu: Sequence[MenuEntry] = request.app.state.menu
    text = (
        _environment()
        .get_template(template)
        .render(
            request=request,
            signed_in=signed_in,
            csrf=signed_in.csrf if signed_in else "",
            menu=[entry for entry in menu if signed_in and signed_in.may(entry.permission)],
            may=lambda permission: bool(signed_in and signed_in.may(permission)),
            Permission=Permission,
            settings=request.app.state.node.settings,
            now=request.app.state.node.database.now(),
            version=__version__,
            **context,
        )
    )
    return HTMLResponse(text, status_code=status_code, headers=headers)


def is_fragment_wanted(request: Request) -> bool:
    """Tell whether htmx asks for a part of the page, and not to go back in the history."""
    return "hx-request" in request.headers and "hx-history-restore-request" not in request.headers


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        clock=clock, iso=iso, ago=ago, duration=duration, size=size, count=count, words=words, short_uid=short_uid
    )
    environment.globals["static"] = static_url
    environment.globals["has_static"] = has_static
    return environment


@cache
def static_url(name: str) -> str:
    """Return the address of a static file, with a digest of its content, so that it may be kept for ever."""
    path = STATIC / name
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.is_file() else "absent"
    return f"/static/{name}?v={digest}"


@cache
def has_static(name: str) -> bool:
    """Tell whether a static file is there; those of `scripts/console-assets` may be absent."""
    return (STATIC / name).is_file()


def clock(at: float | None) -> str:
    """Return a time of the epoch in the time zone of this machine."""
    return "" if at is None else datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def iso(at: float) -> str:
    """Return a time of the epoch for machines."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def duration(seconds: float | None) -> str:
    """Return a duration in the unit that suits it, such as ``3.2 s``, ``12 min``, ``4 h`` or ``3 days``."""
    if seconds is None:
        return ""
    if seconds < 0.9995:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    for limit, unit, factor in ((10, "s", 1.0), (120, "s", 1.0), (7200, "min", 60.0), (172_800, "h", 3600.0)):
        if seconds < limit:
            return f"{seconds / factor:.{1 if limit == 10 else 0}f} {unit}"
    return f"{seconds / 86_400:.0f} days"


def ago(at: float, now: float) -> str:
    """Return how long ago something was, or how far ahead it is."""
    if abs(now - at) < 1:
        return "now"
    return f"in {duration(at - now)}" if at > now else f"{duration(now - at)} ago"


def size(number_of_bytes: float) -> str:
    """Return a number of bytes, such as ``18.3 MB``."""
    value = float(number_of_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def count(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun, such as ``1 image`` and ``1,204 images``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def words(name: str) -> str:
    """Return a name of the code as words."""
    return name.replace("_", " ").replace("-", " ")


def short_uid(uid: str) -> str:
    """Return a UID that fits a column: its end, which tells neighbours apart."""
    return uid if len(uid) <= 26 else "…" + uid[-24:]
