"""The report is one page that stands alone, tells what was left out, and executes nothing."""

from __future__ import annotations

import base64
import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.support.reports import DIGEST, PIXEL, full_report
from training import report_harm, report_quality, report_safety
from training.findings import BLIND, KNOWN
from training.plots import Curve, Mark, Point, curve_panels, dot_panels
from training.report import MOST_STRIP_BYTES, MOST_STRIPS, choose_strips, main, write_report
from training.report_parts import Table

EVIL = "<script>alert('x')</script> \"><img src=x onerror=alert(1)> $\\frac{ $ --> & 'q'"
SECTIONS = {
    "summary": {"gain", "sources"},
    "against": {"differences"},
    "strips": {"pictures"},
    "harm": {"harm"},
    "estimation": {"estimation"},
    "guards": {"guards"},
    "real_noise": {"real-noise"},
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """Return a page with real figures, names from the data hostile."""
    folder = tmp_path_factory.mktemp("drawn")
    return Page(write_report({**full_report(folder, EVIL), "weights": EVIL, "date": EVIL}, folder))


@pytest.fixture(autouse=True)
def _figures_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take seconds; `drawn` has them."""
    for module, name in (
        (report_quality, "dot_panels"),
        (report_safety, "dot_panels"),
        (report_harm, "dot_panels"),
        (report_harm, "curve_panels"),
    ):
        monkeypatch.setattr(module, name, lambda *_, **__: "data:image/svg+xml;base64,")


class Page(HTMLParser):
    """What a browser would see: tags, links, ids, text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.style = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "style":
            self.style += data
        else:
            self.text += data

    def values(self, name: str) -> list[str]:
        return [value or "" for key, value in self.attributes if key == name]


def svgs(page: Page) -> list[str]:
    found = [src.removeprefix("data:image/svg+xml;base64,") for src in page.values("src") if "svg" in src[:20]]
    return [base64.b64decode(content).decode() for content in found]


def test_the_page_needs_no_network_and_runs_no_script(drawn: Page) -> None:
    page = drawn
    assert page.tags.isdisjoint({"script", "link", "iframe", "object", "embed", "base", "form"})
    assert all(source.startswith("data:") for source in page.values("src"))
    assert all(target.startswith("#") for target in page.values("href"))
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page.values("content")
    assert "url(" not in page.style
    assert "@import" not in page.style
    assert "@media print" in page.style
    assert len(svgs(page)) >= 8


def test_names_from_the_data_are_text_wherever_they_stand(drawn: Page) -> None:
    page = drawn
    assert "script" not in page.tags
    assert not [key for key, _ in page.attributes if key.startswith("on")]
    assert all(source.startswith("data:") for source in page.values("src"))
    # Weights twice (title, heading), date, scope, sources, caption, harm, estimation, guards, scenes.
    assert page.text.count(EVIL) >= 12
    for svg in svgs(page):
        tags = {element.tag.rpartition("}")[2] for element in ET.fromstring(svg).iter()}
        assert tags.isdisjoint({"script", "img", "image", "a", "foreignObject"})


def test_title_weights_and_date_come_from_the_report(tmp_path: Path) -> None:
    report = full_report(tmp_path)
    assert "Run of" not in Page(write_report(report, tmp_path)).text
    page = Page(write_report({**report, "date": "2026-11-20"}, tmp_path))
    assert "Run of 2026-11-20" in page.text
    assert DIGEST in page.text
    assert 'Evaluation of the denoiser "lite"' in page.text


def test_the_same_report_gives_the_same_bytes(tmp_path: Path) -> None:
    first = write_report(full_report(tmp_path), tmp_path).read_bytes()
    assert write_report(full_report(tmp_path), tmp_path).read_bytes() == first


@pytest.mark.parametrize("key", sorted(SECTIONS))
def test_a_part_that_was_not_measured_is_left_out_and_named(tmp_path: Path, key: str) -> None:
    report = full_report(tmp_path)
    del report[key]
    page = Page(write_report(report, tmp_path))
    everything = set.union(*SECTIONS.values()) | {"kernels", "method", "limits"}
    missing = SECTIONS[key] | ({"kernels"} if key == "summary" else set())
    assert set(page.values("id")) == everything - missing
    # In the summary and among the limits.
    assert page.text.count("Not measured in this run:") == 2


def test_a_complete_report_names_nothing_as_left_out(tmp_path: Path) -> None:
    page = Page(write_report(full_report(tmp_path), tmp_path))
    assert "Not measured in this run" not in page.text
    assert set.union(*SECTIONS.values()) < set(page.values("id"))


def test_figures_stand_in_the_page_as_measured(tmp_path: Path) -> None:
    text = Page(write_report(full_report(tmp_path), tmp_path)).text
    assert "+7.78 dB (17 %)" in text  # gain blind, and what is left of the error: 10^-0.778
    assert "+7.58 dB (17 %): bm3d" in text
    assert "7.51 to 8.24" in text  # interval of the gain with the law known
    assert "+0.23 dB (+0.11 to +0.37)" in text
    assert "0.972; 2.00 → 1.94" in text
    assert "−18.0 % (0.270 → 0.220)" in text
    assert "2.8 % (0.360 → 0.350)" in text
    assert "Of 40 images that should pass, 1 were passed through unchanged and 3 got a lower strength (10.0%" in text
    assert "+4.3 / −49.0 / −44.0" in text
    assert "Of 1 images made to set off a guard or not, 1 were treated as expected" in text
    assert "6 not met, 0 not measured" in text


def test_a_quick_run_warns(tmp_path: Path) -> None:
    report = full_report(tmp_path)
    assert "A quick run" not in Page(write_report(report, tmp_path)).text
    assert "A quick run" in Page(write_report({**report, "quick": True}, tmp_path)).text


def test_the_two_tracks_have_figures_of_their_own(drawn: Page) -> None:
    known, blind = svgs(drawn)[:2]
    # Matplotlib notes each drawn text in a comment.
    assert f"<!-- {KNOWN} -->" in known
    assert "<!-- bm3d -->" in known
    assert BLIND not in known
    assert f"<!-- {BLIND} -->" in blind
    assert "bm3d" not in blind


def test_strips_take_turns_by_source_lowest_dose_first() -> None:
    strips = [{"source": s, "dose": d, "kernel": "csi"} for s in ("b", "a") for d in ("1/4", "1/10")]
    strips.insert(0, {"source": "a", "dose": "1/10", "kernel": "white"})
    assert [(s["source"], s["dose"], s["kernel"]) for s in choose_strips(strips)] == [
        ("a", "1/10", "csi"),
        ("b", "1/10", "csi"),
        ("a", "1/4", "csi"),
        ("b", "1/4", "csi"),
        ("a", "1/10", "white"),
    ]


def test_few_strips_are_embedded_and_the_others_counted(tmp_path: Path) -> None:
    report = full_report(tmp_path)
    report["strips"] = [copy.copy(report["strips"][0]) for _ in range(MOST_STRIPS + 3)]
    page = Page(write_report(report, tmp_path))
    assert sum("image/png" in source[:20] for source in page.values("src")) == MOST_STRIPS
    assert f"{MOST_STRIPS} of {MOST_STRIPS + 3} strips are shown" in page.text
    (tmp_path / "strip.png").write_bytes(PIXEL + bytes(MOST_STRIP_BYTES // 2))
    page = Page(write_report(report, tmp_path))
    assert sum("image/png" in source[:20] for source in page.values("src")) == 1


def test_only_strips_beside_the_page_are_embedded(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    report = full_report(folder)
    (tmp_path / "outside.png").write_bytes(PIXEL)
    report["strips"] = [{**report["strips"][0], "file": file} for file in ("../outside.png", "absent.png", "strip.png")]
    assert "1 of 3 strips are shown" in Page(write_report(report, folder)).text


def test_the_page_can_be_made_again_from_the_saved_evaluation(tmp_path: Path) -> None:
    report = full_report(tmp_path)
    page = write_report(report, tmp_path).read_bytes()
    (tmp_path / "report.html").unlink()
    saved = tmp_path / "evaluation.json"
    saved.write_text(json.dumps(report))
    assert main(["--evaluation", str(saved)]) == 0
    assert (tmp_path / "report.html").read_bytes() == page


def test_a_report_of_the_older_format_is_read(tmp_path: Path) -> None:
    older = {key: full_report(tmp_path)[key] for key in ("weights", "sha256", "seeds", "summary")}
    for line in older["summary"]:
        for key in ("track", "gain_log_db", "psnr_log_db"):
            del line[key]
    page = Page(write_report(older, tmp_path))
    assert {"gain", "sources", "kernels"} < set(page.values("id"))
    assert "PSNR, log" not in page.text


def test_columns_of_figures_are_told_from_columns_of_words() -> None:
    row = ("1/4", "+0.23 dB (+0.11 to +0.37)", "−0.5", "–", "12 px", "bm3d", "3x")
    table = Table(caption="", columns=row, rows=(row, ("–",) * len(row)))
    assert table.words == (True, False, False, False, False, True, True)


def test_dots_without_a_value_are_not_drawn_and_rows_keep_their_order() -> None:
    points = [
        Point(panel="p", row=row, series="s", value=value)
        for row, value in (("second", 2.0), ("first", 1.0), ("none", float("nan")))
    ]
    marks = [Mark(value=1.5, meaning="limit", row="absent")]
    uri = dot_panels(points, xlabel="x", marks=marks)
    assert dot_panels(points, xlabel="x", marks=marks) == uri
    svg = base64.b64decode(uri.partition(",")[2]).decode()
    assert "none -->" not in svg
    assert svg.index("<!-- second -->") < svg.index("<!-- first -->")
    assert "limit" not in svg


def test_curves_are_told_apart_by_line_and_colour() -> None:
    curves = [Curve(panel="p", label=str(i), x=[1, 2], y=[i, i]) for i in range(5)]
    svg = base64.b64decode(curve_panels(curves, xlabel="x", ylabel="y").partition(",")[2]).decode()
    styles = set(re.findall(r'id="line2d_\d+">\s*<path d="[^"]*" clip-path="[^"]*" style="([^"]*)"', svg))
    drawn = {style for style in styles if "stroke-width: 1.6" in style}
    assert len(drawn) == 5
    assert len({re.sub(r"stroke: #\w+", "", style) for style in drawn}) == 5
