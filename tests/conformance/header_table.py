"""Writes docs/derived-object.md: the header of a real object before and after, for people.

`python -m tests.conformance.header_table --output docs/derived-object.md`
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from dicom_node.derivation import ALLOWED_DIFFERENCES, find_differences
from dicom_node.part10 import open_part10
from tests.support.derived import context, derive_file
from tests.support.sample_run import PYDICOM_FILES

SOURCE: Final = PYDICOM_FILES / "dicomdirtests" / "77654033" / "CR1" / "6154"
GROUPS: Final = {
    0x0008: "identification, study and series",
    0x0010: "patient",
    0x0012: "de-identification",
    0x0018: "acquisition",
    0x0020: "relationship",
    0x0028: "pixels and their display",
    0x0040: "procedure step",
    0x2020: "film",
    0x300A: "plan",
    0x300E: "approval",
}
INTRODUCTION: Final = """\
# A derived object, attribute by attribute

What the node changes in the header of an image, and what it leaves. The source is a real one: a CR image of an Agfa
ADC_5146 that ships with pydicom for tests. It says that the patient's identity was removed, and its pixels were cut
to 16 x 16; a node would pass so small an image through, so a stand-in for the network made the pixels here. Model,
noise and time are made up; everything else is what `dicom_node.derivation` writes. The reasons are those of the list
that every derived object is checked against (`dicom_node/derivation/differences.py`). An item of a sequence is in
brackets.

This page is written by `python -m tests.conformance.header_table --output docs/derived-object.md`, and a test
compares the two.
"""


def derive_header(equipment: str) -> tuple[Dataset, Dataset]:
    """Return the attributes of the source and of what is derived from it, values unconverted."""
    with tempfile.TemporaryDirectory() as folder:
        derived = derive_file(SOURCE, Path(folder) / "derived.dcm", context(equipment=equipment))
        with open_part10(SOURCE) as before, open_part10(derived) as after:
            return before.header, after.header


def render() -> str:
    """Return the page."""
    source, standard = derive_header("standard")
    _, preserve = derive_header("preserve")
    changed = [difference.tag for difference in find_differences(source, standard)]
    changed_anew = [difference.tag for difference in find_differences(standard, preserve)]
    kept = [tag for tag in sorted(source.keys()) if tag not in changed]
    why = {entry.tag: entry.why for entry in ALLOWED_DIFFERENCES}
    lines = [
        INTRODUCTION,
        "## What changes",
        "",
        'Setting `derivation.equipment = "standard"`, the default: the node is the equipment that made the image.',
        "",
        "| tag | keyword | before | after | why |",
        "|---|---|---|---|---|",
        *(f"| {tag} | {name(tag)} | {shown(source, tag)} | {shown(standard, tag)} | {why[tag]} |" for tag in changed),
        "",
        "## What stays",
        "",
        f"Beside Pixel Data, which is denoised, the source has {len(source.keys())} attributes. "
        f"{len(kept)} of them are in the derived object byte for byte:",
        "",
        "| group | attributes | which |",
        "|---|---|---|",
        *groups(kept),
        "",
        '## With `derivation.equipment = "preserve"`',
        "",
        "The equipment of the source stays, and the node is a contributor. All else is as above; these differ:",
        "",
        "| tag | keyword | before | after |",
        "|---|---|---|---|",
        *(f"| {tag} | {name(tag)} | {shown(source, tag)} | {shown(preserve, tag)} |" for tag in changed_anew),
        "",
    ]
    return "\n".join(lines)


def name(tag: BaseTag) -> str:
    """Return the keyword, or what kind of private element it is."""
    return keyword_for_tag(tag) or ("private creator" if tag.is_private_creator else "private")


def groups(tags: Iterable[BaseTag]) -> Iterable[str]:
    """Yield a row for each group of attributes that stay."""
    found = defaultdict(list)
    for tag in tags:
        found[tag.group].append(tag)
    for group, members in found.items():
        title = "private" if members[0].is_private else GROUPS[group]
        which = ", ".join(name(tag) if not tag.is_private else str(tag) for tag in members)
        yield f"| ({group:04X}) {title} | {len(members)} | {which} |"


def shown(ds: Dataset, tag: BaseTag) -> str:
    """Return a value as a cell of a table."""
    return text_of(ds[tag]) if tag in ds else "-"


def text_of(element: DataElement) -> str:
    """Return a value as text; items of a sequence in brackets, attribute by attribute."""
    if element.VR == "SQ":
        return "<br>".join(f"[{'; '.join(f'{e.keyword}: {text_of(e)}' for e in item)}]" for item in element.value)
    if element.is_empty:
        return "(empty)"
    values = element.value if element.VM > 1 else [element.value]
    return "\\".join(map(str, values)).replace("\\", "\\\\").replace("|", "\\|")


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.parse_args().output.write_text(render())


if __name__ == "__main__":
    main()
