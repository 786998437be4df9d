"""The viewer in a real browser: exact values under the cursor, windows, frames, keyboard, nothing of the patient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from config.settings import RoleName
from dicom_node.part10 import open_part10
from dicom_node.pixels import iter_frames, read_spec
from model.denoiser import Denoiser
from tests.support.browser import (
    PATIENCE_MS,
    Browser,
    Window,
    playwright,
    requires_axe,
    requires_chromium,
    running_browser,
)
from tests.support.console import PASSWORD, Console, console_over, console_settings, served
from tests.support.objects import dx_dataset, xa_dataset
from tests.support.viewer import enhance, receive
from training.guard_study import low_dose

pytestmark = requires_chromium
expect = playwright.expect


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as found:
        yield found


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    with console_over(console_settings(tmp_path_factory.mktemp("viewer"))) as found:
        found.add_user("anna", RoleName.VIEWER)
        yield found


@pytest.fixture(scope="module")
def radiograph(console: Console) -> int:
    """Return the number of a chest phantom at low dose, 14 bits, that was really enhanced."""
    stored = np.clip(low_dose(), 0, (1 << 14) - 1).astype(np.uint16)
    (number,) = receive(console.state, dx_dataset(stored, patient_name="Zebra^Quagga", PatientID="PID-771"))
    assert enhance(console.state, number, Denoiser.load("lite", device="cpu")) is not None
    return number


@pytest.fixture(scope="module")
def run(console: Console) -> int:
    """Return the number of an angiographic run of five frames, each of a value of its own; it was not enhanced."""
    frames = np.stack([np.full((64, 64), 100 * (n + 1), np.uint16) for n in range(5)])
    (number,) = receive(console.state, xa_dataset(frames))
    return number


def stored_values(console: Console, number: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return what lies in the files: before and after."""
    rows = "SELECT key FROM instance WHERE id = {0} OR source_id = {0} ORDER BY id"
    with console.state.database.read() as connection:
        keys = [row[0] for row in connection.exec_driver_sql(rows.format(number))]
    found = []
    for key in keys:
        with open_part10(console.state.store.path(key)) as part10:
            found.append(next(iter(iter_frames(part10, read_spec(part10.header)))).values)
    before, after = found
    return before, after


def opened(window: Window, number: int) -> Any:
    """Open an image and wait for its pixels; returns the stage."""
    window.sign_in("anna", PASSWORD)
    window.open(f"/viewer/{number}")
    stage = window.page.locator(".stage")
    # The window is set when the pixels are there.
    expect(window.page.locator("#width")).not_to_have_value("", timeout=PATIENCE_MS)
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    window.page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.5 * box["height"])
    stage.focus()
    window.page.keyboard.press("Control+ArrowRight")
    expect(window.page.locator("#before-stored")).not_to_have_text("–", timeout=PATIENCE_MS)
    return stage


def number_in(window: Window, name: str) -> float:
    return float(window.page.locator(f"#{name}").text_content().strip().replace("−", "-").replace(",", ""))


def position(window: Window) -> tuple[int, int]:
    """Return column and row under the cursor, from 0."""
    text = window.page.locator("#at").text_content()
    digits = [int(part) for part in "".join(c if c.isdigit() else " " for c in text).split()]
    return digits[0] - 1, digits[1] - 1


def test_values_under_the_cursor_are_those_of_the_files(browser: Browser, console: Console, radiograph: int) -> None:
    before, after = stored_values(console, radiograph)
    assert before.max() > 4095
    assert (before != after).mean() > 0.5
    with served(console) as url, browser.window(url) as window:
        stage = opened(window, radiograph)
        seen = set()
        box = stage.bounding_box()
        for x, y in ((0.2, 0.4), (0.25, 0.5), (0.3, 0.6), (0.7, 0.45)):
            window.page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
            window.page.keyboard.press("Control+ArrowRight")
            column, row = position(window)
            seen.add((column, row))
            assert number_in(window, "before-stored") == before[row, column]
            assert number_in(window, "after-stored") == after[row, column]
            assert number_in(window, "removed-stored") == int(before[row, column]) - int(after[row, column])
        assert len(seen) > 2


def test_dragging_and_keys_change_the_window_and_the_divider_moves(
    browser: Browser, console: Console, radiograph: int
) -> None:
    with served(console) as url, browser.window(url) as window:
        stage = opened(window, radiograph)
        width = window.page.locator("#width").input_value()
        box = stage.bounding_box()
        window.page.mouse.move(box["x"] + 100, box["y"] + 100)
        window.page.mouse.down()
        window.page.mouse.move(box["x"] + 220, box["y"] + 140, steps=4)
        window.page.mouse.up()
        dragged = window.page.locator("#width").input_value()
        assert dragged != width
        stage.focus()
        window.page.keyboard.press("Shift+ArrowRight")
        assert window.page.locator("#width").input_value() != dragged
        window.page.keyboard.press("d")
        divider = window.page.locator(".divider")
        divider.focus()
        at = divider.get_attribute("aria-valuenow")
        window.page.keyboard.press("ArrowRight")
        assert divider.get_attribute("aria-valuenow") != at
        for key, mode in (("t", "toggle"), ("n", "removed"), ("a", "all"), ("s", "side")):
            stage.focus()
            window.page.keyboard.press(key)
            expect(stage).to_have_attribute("data-mode", mode)


def test_zoom_is_told_and_one_to_one_is_one_to_one(browser: Browser, console: Console, radiograph: int) -> None:
    with served(console) as url, browser.window(url) as window:
        opened(window, radiograph)
        fitted = window.page.locator("#scale").text_content()
        window.page.keyboard.press("o")
        one = window.page.locator("#scale").text_content()
        assert fitted not in ("", one)
        assert one == "100 %"
        window.page.keyboard.press("+")
        assert window.page.locator("#scale").text_content() != one
        window.page.keyboard.press("f")
        assert window.page.locator("#scale").text_content() == fitted


def test_frames_change_by_keyboard(browser: Browser, console: Console, run: int) -> None:
    with served(console) as url, browser.window(url) as window:
        opened(window, run)
        assert number_in(window, "before-stored") == 100
        for expected in (200, 300):
            window.page.keyboard.press(".")
            expect(window.page.locator("#before-stored")).to_have_text(str(expected), timeout=PATIENCE_MS)
        window.page.keyboard.press("End")
        expect(window.page.locator("#before-stored")).to_have_text("500", timeout=PATIENCE_MS)


def test_who_may_not_see_patients_sees_nothing_of_one(browser: Browser, console: Console, radiograph: int) -> None:
    assert "Zebra" in console.signed_in(RoleName.VIEWER, sees_patients=True).get(f"/viewer/{radiograph}").text
    with served(console) as url, browser.window(url) as window:
        bodies: list[str] = []
        window.page.on("response", lambda answer: bodies.append(answer.url))
        opened(window, radiograph)
        text = window.page.content()
        assert "Zebra" not in text
        assert "PID-771" not in text
        assert any("pair.json" in address for address in bodies)
        answer = window.context.request.get(f"{url}/viewer/{radiograph}/pair.json")
        assert answer.ok
        assert "Zebra" not in answer.text()


@requires_axe
def test_axe_finds_no_serious_fault(browser: Browser, console: Console, radiograph: int) -> None:
    with served(console) as url, browser.window(url) as window:
        opened(window, radiograph)
        assert window.faults() == []
