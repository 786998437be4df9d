"""A real browser without a window: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (extra test)")

CHROMIUM = shutil.which("chromium")
REPOSITORY = Path(__file__).resolve().parents[2]
AXE = REPOSITORY / "build" / "console-assets" / "axe.min.js"

requires_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian package chromium)")
requires_axe = pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not there: scripts/console-assets makes it")

# A browser takes its time on machines that have other things to do.
PATIENCE_MS = 60_000


@dataclass
class Window:
    """A window of the browser with cookies of its own, and what went wrong in it."""

    page: Any
    context: Any
    url: str
    troubles: list[str] = field(default_factory=list)

    def open(self, path: str) -> None:
        """Go to a page of the console."""
        self.page.goto(self.url + path)

    def sign_in(self, name: str, password: str) -> None:
        """Fill in the form of the sign-in."""
        self.open("/login")
        self.page.get_by_label("Name").fill(name)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Sign in", exact=True).click()
        self.page.wait_for_url(lambda address: "/login" not in address)

    def faults(self, include: str | None = None) -> list[str]:
        """Return what axe-core finds on the page that is serious or critical.

        The policy of the page forbids scripts of others, so the script goes in by the debugger.
        """
        self.page.evaluate(AXE.read_text(encoding="utf-8"))
        found = self.page.evaluate(
            "async (only) => (await axe.run(only || document, {resultTypes: ['violations']})).violations", include
        )
        return [
            f"{one['impact']} {one['id']}: {json.dumps([node['html'][:200] for node in one['nodes'][:3]])}"
            for one in found
            if one["impact"] in ("serious", "critical")
        ]

    def scrolls_sideways(self) -> bool:
        """Tell whether the page is wider than the window."""
        return bool(self.page.evaluate("document.documentElement.scrollWidth > window.innerWidth"))

    def focused(self) -> dict[str, Any]:
        """Return what has the focus: its text, and whether that can be seen."""
        return dict(
            self.page.evaluate(
                """() => {
                    const one = document.activeElement;
                    const style = getComputedStyle(one), box = one.getBoundingClientRect();
                    return {
                        text: (one.getAttribute("aria-label") || one.innerText || one.name || "").trim(),
                        outlined: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
                        shown: box.width > 0 && box.height > 0 && box.bottom > 0 && box.right > 0,
                    };
                }"""
            )
        )


@dataclass
class Browser:
    """A running browser."""

    chromium: Any

    @contextlib.contextmanager
    def window(self, url: str, **options: Any) -> Iterator[Window]:
        """Open a window; at the end nothing may have gone wrong in it that the test has not taken from `troubles`."""
        context = self.chromium.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        try:
            page = context.new_page()
            page.set_default_timeout(PATIENCE_MS)
            window = Window(page=page, context=context, url=url)
            page.on("console", lambda message: _note(window, message))
            page.on("pageerror", lambda error: window.troubles.append(f"error: {error}"))
            page.on("requestfailed", lambda request: _note_failure(window, request))
            yield window
            assert not window.troubles, window.troubles
        finally:
            context.close()


def _note(window: Window, message: Any) -> None:
    # What drawing without graphics hardware has to say of pictures that a test takes.
    if message.type in ("error", "warning") and "GPU stall due to ReadPixels" not in message.text:
        window.troubles.append(f"{message.type}: {message.text}")


def _note_failure(window: Window, request: Any) -> None:
    # Whoever leaves a page ends what it was asking for.
    if "ERR_ABORTED" not in str(request.failure):
        window.troubles.append(f"failed: {request.url} {request.failure}")


@contextlib.contextmanager
def running_browser() -> Iterator[Browser]:
    """Start a browser."""
    with playwright.sync_playwright() as driver:
        # Chromium refuses its sandbox to root.
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield Browser(chromium=chromium)
        finally:
            chromium.close()
