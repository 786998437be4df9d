"""The card is of the weights that were measured, short, and says what is met and what is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from model.manifest import find_manifest
from tests.support.reports import full_report
from training.findings import BLIND
from training.model_card import main, write_card

MANIFEST: dict[str, Any] = json.loads(find_manifest("lite").read_text(encoding="utf-8"))


def report_of(folder: Path, name: str = "hip") -> dict[str, Any]:
    return {**full_report(folder, name), "sha256": MANIFEST["sha256"]}


def test_an_evaluation_of_other_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="other weights"):
        write_card(MANIFEST, full_report(tmp_path))


def test_the_card_gives_figures_with_intervals_and_verdicts(tmp_path: Path) -> None:
    card = write_card(MANIFEST, report_of(tmp_path))
    assert MANIFEST["sha256"] in card
    assert "| bm3d | **+7.58** (7.27 to 8.00); 37.6, 0.900 |" in card
    assert "**not met** +0.23 dB (+0.11 to +0.37)" in card
    assert "| hip | ≥ 1.8 | 2.13 | **met** |" in card
    assert f"| csi, {BLIND} |" in card
    assert "| hip (3 patients) | **+7.78** (7.47 to 8.20); +0.23 dB (+0.11 to +0.37) |" in card
    assert "d′ of faint discs (hotelling), worst ratio to the noisy image: 0.972 (4 px, dose 1/4)" in card
    assert "dose equivalence (npwe): 2.13 to 2.13" in card
    assert "Of 40 images that should pass, 1 were passed through unchanged and 3 got a lower strength" in card
    assert "Worst condition for ours: hip (+4.3 %)." in card
    assert "simulated noise against hip: variance −0.3 %, noise spectrum +1.0 % in the median ring" in card
    assert "6.31" in card


def test_the_card_tells_each_run_that_made_the_weights(tmp_path: Path) -> None:
    first = {"steps": 100, "gigapixels": 1.5, "elapsed_s": 3600, "cpu_s": None}
    last = {"steps": 200, "gigapixels": 2.5, "elapsed_s": 7200, "cpu_s": 12600}
    card = write_card({**MANIFEST, "training": {**last, "history": [first]}}, report_of(tmp_path))
    assert "- run 1: trained 60 minutes by the clock, 100 steps, 1.5 gigapixels" in card
    assert "- run 2: trained 120 minutes by the clock, 3.5 hours of processor time, 200 steps, 2.5 gigapixels" in card
    alone = write_card({**MANIFEST, "training": {**first, "history": []}}, report_of(tmp_path))
    assert "- trained 60 minutes by the clock, 100 steps, 1.5 gigapixels" in alone


def test_the_card_stays_short(tmp_path: Path) -> None:
    report = report_of(tmp_path)
    some = [line for line in report["summary"] if line["source"] == "hip"]
    report["summary"] += [{**line, "source": f"source {i}"} for i in range(12) for line in some]
    assert len(write_card(MANIFEST, report).splitlines()) <= 150


def test_what_was_not_measured_is_said_and_has_no_heading(tmp_path: Path) -> None:
    report = report_of(tmp_path)
    complete = write_card(MANIFEST, report)
    bare = write_card(MANIFEST, {key: report[key] for key in ("sha256", "seeds", "full_dose_quanta", "summary")})
    for heading in ("### Harm", "### Blind noise estimate", "### Guards", "### Real noise"):
        assert heading in complete
        assert heading not in bare
    assert "Not measured in this run" not in complete
    assert "Not measured in this run: differences to each classical filter" in bare
    assert bare.count("**not measured**") == 6


def test_guards_that_did_not_do_as_expected_are_listed(tmp_path: Path) -> None:
    report = report_of(tmp_path)
    assert "not as expected" not in write_card(MANIFEST, report)
    report["guards"]["cases"][0] |= {"decision": "enhanced", "as_expected": False, "strength": 0.7}
    card = write_card(MANIFEST, report)
    assert "0 were treated as expected" in card
    assert "| hip | refused | enhanced | 0.7 |" in card


def test_names_from_the_data_can_not_break_a_table(tmp_path: Path) -> None:
    card = write_card(MANIFEST, report_of(tmp_path, "a|b <script>"))
    row = next(line for line in card.splitlines() if line.startswith("| a\\|b &lt;script> (3 patients)"))
    assert row.replace("\\|", "").count("|") == 5
    assert "| a|b" not in card


def test_the_command_writes_the_card(tmp_path: Path) -> None:
    report = report_of(tmp_path)
    (tmp_path / "evaluation.json").write_text(json.dumps(report))
    card = tmp_path / "card.md"
    assert main(["--evaluation", str(tmp_path / "evaluation.json"), "--output", str(card)]) == 0
    assert card.read_text(encoding="utf-8") == write_card(MANIFEST, report)
