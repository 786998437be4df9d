"""Writes docs/samples.md: what became of every sample that was sent through a running node, as a table.

`python -m tests.conformance.sample_table --output docs/samples.md`
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tests.support.sample_run import (
    Passage,
    Sample,
    SampleRun,
    Told,
    folder_samples,
    further_samples,
    pydicom_samples,
    run_samples,
)

INTRODUCTION: Final = """\
# Every sample through a running node

Each file was sent in an association of its own to a node that runs with its default network on a CPU, every class of
images enabled and both destinations on its route: DCMTK's `storescp`, which writes what it gets, and Orthanc. Files
whose names begin with `pydicom/` are the X-ray and CT images that ship with pydicom; the others are samples of many
makers and toolkits, with the oddities that they are known for.

- *told*: the status of the C-STORE response, or the reason why there was none. The sender is DCMTK's `dcmsend`; where
  that can't send a file, or its status came without a word, `dicom-node send`, in italics. `dcmsend` turns some
  uncompressed encodings into others: then the second transfer syntax is the one that the node received.
- *new errors*: what `dciodvfy` and `dicom-validator` find in the enhanced object, as `storescp` got it, and not in
  its source.
- *attributes*: how many differ from the source; all of them have to be in the list of what may differ.
- *pixels*: largest change of a stored value, and whether padding is what it was; for what was passed through, whether
  the data set reached `storescp` byte for byte (*same values*: it takes no such transfer syntax, so the object was
  decompressed).
- *delivered*: the transfer syntax that `storescp` got, and whether Orthanc gives back the very bytes. Orthanc keeps one
  object for each UID; it *has it* in other bytes where another file with this UID came before or it encodes anew.

This page is written by `python -m tests.conformance.sample_table --output docs/samples.md`.
"""
HEAD: Final = (
    "| file | SOP class | transfer syntax | told | decision | new errors | attributes | pixels | delivered |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def render(run: SampleRun) -> str:
    """Return the page."""
    rows = [row(passage) for passage in run.passages]
    balance = [f"| {name} | {count} |" for name, count in run.balance.items()]
    verdict = "Everything that was acknowledged is accounted for." if run.ok else "**Something is missing.**"
    return "\n".join(
        [
            INTRODUCTION,
            "## Files",
            "",
            HEAD,
            *rows,
            "",
            "## Summary",
            "",
            "| | files |",
            "|---|---|",
            *(f"| {what} | {count} |" for what, count in summary(run.passages)),
            "",
            "## Balance",
            "",
            f"What `dicom-node verify` says of the ledger and of every file in the store. {verdict}",
            "",
            "| | objects |",
            "|---|---|",
            *balance,
            "",
        ]
    )


def row(passage: Passage) -> str:
    """Return one file's row."""
    syntax = passage.transfer_syntax or "not stated"
    if passage.received_as and passage.received_as != passage.transfer_syntax:
        syntax += f" -> {passage.received_as}"
    told = passage.told.text if passage.told.program == "dcmsend" else f"*{passage.told.text}*"
    decision = passage.decision.replace("_", " ")
    cells = [
        f"`{passage.sample.name}`",
        passage.sop_class or "none",
        syntax,
        told,
        f"{decision}: {passage.reason}" if passage.reason else decision,
        errors(passage),
        attributes(passage),
        pixels(passage),
        delivered(passage),
    ]
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def errors(passage: Passage) -> str:
    """Return the numbers of new errors by `dciodvfy` and `dicom-validator`."""
    found = passage.comparison
    return f"{found.new_dciodvfy_errors}, {found.new_dicom_validator_errors}" if found else ""


def attributes(passage: Passage) -> str:
    """Return how many attributes differ."""
    found = passage.comparison
    if found is None:
        return ""
    return f"{found.differing}, {f'{found.not_allowed} not allowed' if found.not_allowed else 'all allowed'}"


def pixels(passage: Passage) -> str:
    """Return what became of the pixels."""
    found = passage.comparison
    if found is None:
        return passage.exact
    padding = f"; {found.padding} padding pixels {'kept' if found.padding_kept else 'CHANGED'}" if found.padding else ""
    return f"up to {found.change}{padding}"


def delivered(passage: Passage) -> str:
    """Return how the object reached the destinations."""
    if not passage.delivered:
        return ""
    storescp, orthanc = (passage.delivered[name] for name in ("storescp", "orthanc"))
    return storescp if storescp == orthanc else f"{storescp}; Orthanc: {orthanc}"


def summary(passages: Iterable[Passage]) -> Iterable[tuple[str, int]]:
    """Yield what is counted, and how often it is."""
    passages = list(passages)
    compared = [passage.comparison for passage in passages if passage.comparison]
    decisions = Counter(passage.decision.replace("_", " ") for passage in passages)
    yield "sent", len(passages)
    for program in ("dcmsend", "dicom-node send"):
        yield f"told 0000 by way of `{program}`", sum(p.told == Told(program=program, text="0000") for p in passages)
    for decision in sorted(decisions):
        yield decision, decisions[decision]
    classes = Counter(passage.sop_class for passage in passages if passage.decision == "enhanced")
    for sop_class in sorted(classes):
        yield f"enhanced: {sop_class}", classes[sop_class]
    yield "enhanced and compared with their source", len(compared)
    yield "of these with a new error of `dciodvfy`", sum(found.new_dciodvfy_errors > 0 for found in compared)
    yield "of these with a new error of `dicom-validator`", sum(c.new_dicom_validator_errors > 0 for c in compared)
    yield "of these with a difference that is not allowed", sum(found.not_allowed > 0 for found in compared)
    yield "of these with padding", sum(found.padding > 0 for found in compared)
    yield "of these with padding that changed", sum(not found.padding_kept for found in compared)
    exact = Counter(passage.exact for passage in passages if passage.exact)
    for what in sorted(exact):
        yield f"passed through, at `storescp` with the {what}", exact[what]


def all_samples() -> list[Sample]:
    """Return everything that is sent, in the order of the table."""
    return [*folder_samples(), *further_samples(), *pydicom_samples()]


def main() -> None:
    """Send all samples through a node, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    output: Path = parser.parse_args().output
    with tempfile.TemporaryDirectory() as folder:
        output.write_text(render(run_samples(Path(folder), all_samples())))


if __name__ == "__main__":
    main()
