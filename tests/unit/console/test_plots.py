"""Plots are well-formed, say in words what they show, and hide nothing."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from dicom_node.console.plots import bar_plot, line_plot

SVG = "{http://www.w3.org/2000/svg}"


def drawn(text: str) -> ET.Element:
    return ET.fromstring(str(text).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def test_bars_stand_on_the_axis_and_are_as_high_as_their_values() -> None:
    picture = drawn(bar_plot([0, 5, 10], ["a", "", "c"], title="Objects <b>", text="15 & more"))
    bars = picture.findall(f"{SVG}rect")
    heights = [float(bar.get("height") or 0) for bar in bars]
    assert heights[0] == 0
    assert heights[2] == pytest.approx(2 * heights[1], abs=0.2)
    assert [bar.findtext(f"{SVG}title") for bar in bars] == ["0", "5", "10"]
    assert picture.get("role") == "img"
    assert picture.get("aria-label") == "Objects <b>. 15 & more"
    assert [text.text for text in picture.findall(f"{SVG}text")] == ["0", "5", "10", "a", "c"]


def test_a_line_breaks_where_nothing_is_known() -> None:
    picture = drawn(line_plot([1.0, 2.0, None, 4.0], [""] * 4, title="t", text="x", unit="s"))
    (path,) = picture.findall(f"{SVG}path")
    assert [step[0] for step in (path.get("d") or "").split() if step[0] in "ML"] == ["M", "L", "M"]
    assert len(picture.findall(f"{SVG}circle")) == 3


@pytest.mark.parametrize("values", [[], [0, 0], [None, None]])
def test_nothing_is_drawn_of_nothing(values: list[None]) -> None:
    assert drawn(line_plot(values, [""] * len(values), title="t", text="x")).findall(f"{SVG}path") == [] or values == [
        0,
        0,
    ]
    assert drawn(bar_plot([value or 0 for value in values], [""] * len(values), title="t", text="x")) is not None


def test_no_style_and_no_script_is_in_a_plot() -> None:
    text = str(bar_plot([1], ["<script>"], title='"><script>', text="x", unit="<i>"))
    assert "<script" not in text
    assert "style=" not in text
    assert "<i>" not in text
