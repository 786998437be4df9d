"""The pages that scripts of this folder write: they are there, whole, and say nothing of the machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conformance import header_table, sample_table
from tests.support.node import REPOSITORY
from tests.support.sample_run import (
    Comparison,
    Passage,
    Sample,
    SampleRun,
    Told,
    folder_samples,
    further_samples,
    pydicom_samples,
    without_address,
)
from tests.support.samples import requires_dicom_samples

SAMPLES = REPOSITORY / "docs" / "samples.md"
CR = "Computed Radiography Image Storage"
LITTLE = "Explicit VR Little Endian"


def passage(name: str, decision: str, *, text: str = "0000", program: str = "dcmsend", **changes: object) -> Passage:
    values: dict[str, object] = {
        "sample": Sample(name=name, path=Path(name)),
        "sop_class": CR,
        "transfer_syntax": LITTLE,
        "received_as": LITTLE,
        "told": Told(program=program, text=text),
        "decision": decision,
        "reason": "",
        "comparison": None,
        "exact": "",
        "delivered": {},
    }
    return Passage(**{**values, **changes})  # type: ignore[arg-type]


ENHANCED = passage(
    "a|b",
    "enhanced",
    transfer_syntax="Explicit VR Big Endian",
    comparison=Comparison(
        new_dciodvfy_errors=1,
        new_dicom_validator_errors=0,
        differing=22,
        not_allowed=2,
        change=17,
        padding=5,
        padding_kept=False,
    ),
    delivered={"storescp": LITTLE, "orthanc": "refused: A900"},
)
PASSED = passage(
    "c",
    "passed_through",
    reason="it is a quality control image",
    exact="same bytes",
    delivered={"storescp": LITTLE, "orthanc": LITTLE},
)
REFUSED = passage("d", "refused", text="a DICOMDIR", program="dicom-node send", received_as="", transfer_syntax="")


@pytest.mark.parametrize(
    ("what", "row"),
    [
        (
            ENHANCED,
            f"| `a/b` | {CR} | Explicit VR Big Endian -> {LITTLE} | 0000 | enhanced | 1, 0 | 22, 2 not allowed "
            f"| up to 17; 5 padding pixels CHANGED | {LITTLE}; Orthanc: refused: A900 |",
        ),
        (
            PASSED,
            f"| `c` | {CR} | {LITTLE} | 0000 | passed through: it is a quality control image |  |  | same bytes "
            f"| {LITTLE} |",
        ),
        (REFUSED, f"| `d` | {CR} | not stated | *a DICOMDIR* | refused |  |  |  |  |"),
    ],
)
def test_a_row_says_what_became_of_a_file(what: Passage, row: str) -> None:
    assert sample_table.row(what) == row


@pytest.mark.parametrize(
    ("reason", "left"),
    [
        ("LOWDOSE at 127.0.0.1:33891 answered A900", "answered A900"),
        ("'orthanc' (ORTHANC at 127.0.0.1:58447) answered C000", "answered C000"),
        ("'storescp' (STORESCP at 127.0.0.1:53611): the association was lost", "the association was lost"),
        ("it is not an image", "it is not an image"),
    ],
)
def test_reasons_are_shown_without_the_peer(reason: str, left: str) -> None:
    assert without_address(reason) == left


def test_the_summary_counts_what_went_wrong() -> None:
    run = SampleRun(passages=(ENHANCED, PASSED, REFUSED), balance={"received": 2, "delivered": 2}, ok=False)
    counts = dict(sample_table.summary(run.passages))
    assert counts["sent"] == 3
    assert counts["told 0000 by way of `dcmsend`"] == 2
    assert counts["told 0000 by way of `dicom-node send`"] == 0
    assert counts["of these with a new error of `dciodvfy`"] == 1
    assert counts["of these with a new error of `dicom-validator`"] == 0
    assert counts["of these with a difference that is not allowed"] == 1
    assert counts["of these with padding that changed"] == 1
    assert counts["passed through, at `storescp` with the same bytes"] == 1
    assert "**Something is missing.**" in sample_table.render(run)
    assert "| received | 2 |" in sample_table.render(run)


@requires_dicom_samples
def test_the_page_of_samples_names_every_file_of_the_folder() -> None:
    text = SAMPLES.read_text()
    samples = [*folder_samples(), *further_samples()]
    assert [sample.name for sample in samples if f"| `{sample.name}` |" not in text] == []


def test_the_page_of_samples_names_every_x_ray_and_ct_image_of_pydicom() -> None:
    text = SAMPLES.read_text()
    assert [sample.name for sample in pydicom_samples() if f"| `{sample.name}` |" not in text] == []
    assert len(pydicom_samples()) > 50


def test_no_enhanced_sample_has_a_new_error_or_a_difference_that_is_not_allowed() -> None:
    text = SAMPLES.read_text()
    for what in ("a new error of `dciodvfy`", "a new error of `dicom-validator`", "a difference that is not allowed"):
        assert f"| of these with {what} | 0 |" in text
    assert "| of these with padding that changed | 0 |" in text
    assert "Everything that was acknowledged is accounted for." in text


@pytest.mark.parametrize("page", ["samples.md", "derived-object.md"])
def test_pages_say_nothing_of_the_machine(page: str) -> None:
    text = (REPOSITORY / "docs" / page).read_text()
    assert not re.search(r"127\.0\.0\.1|localhost|/tmp|/home|site-packages", text)


def test_the_page_of_a_derived_object_is_what_is_derived_now() -> None:
    assert (REPOSITORY / "docs" / "derived-object.md").read_text() == header_table.render()
