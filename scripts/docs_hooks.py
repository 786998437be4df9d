"""Keeps the site from asking the internet for anything: the theme's helper for search from disk is one of our own."""

from __future__ import annotations

import re
from typing import Any

_FETCHED = re.compile(r'<script src="https://unpkg\.com/iframe-worker/shim"></script>')


def _from_its_own_folder(output: str, url: str) -> str:
    up = "../" * url.count("/")
    return _FETCHED.sub(f'<script src="{up}assets/file-worker.js"></script>', output)


def on_post_page(output: str, page: Any, config: Any) -> str:  # noqa: ARG001
    """Return a page with scripts from the site alone."""
    return _from_its_own_folder(output, page.url)


def on_post_template(output: str, template_name: str, config: Any) -> str:  # noqa: ARG001
    """Return a page without a source, such as 404.html, in the same way."""
    return _from_its_own_folder(output, template_name)
