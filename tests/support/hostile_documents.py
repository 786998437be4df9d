"""Writes docs/hostile-input.md from the hostile corpus: `python -m tests.support.hostile_documents > FILE`."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from tests.support.hostile import ENHANCED, STORED, HostileObject, objects
from tests.support.hostile_associations import streams

_TITLES = {
    "lengths": "Lengths, and where the data set ends",
    "identifiers": "Identifiers",
    "structure": "Sequences, VRs, order and foreign elements",
    "text": "Character sets, text and numbers in text",
    "deflated": "Deflated data sets",
    "dimensions": "Dimensions and bits",
    "compressed": "Compressed pixel data",
    "large": "Large",
    "no association": "Instead of an association request",
    "association request": "In the association request",
    "PDUs on an association": "PDUs on an association",
    "messages": "Messages",
}

_HEAD = """# Hostile input

What the node was sent to see that it does no harm, and what it answers. This page is made from the corpus of the
tests (`python -m tests.support.hostile_documents > docs/hostile-input.md`); each line is sent over a socket to a
running receiver by `tests/resilience/test_hostile_objects.py` or `test_hostile_associations.py`. After each the same
receiver serves a C-ECHO and a good C-STORE, no file is left over, `verify` balances, and memory has grown by less than
32 MB in the receiver and 384 MB in the worker's code. `tests/resilience/test_fuzz.py` adds damage drawn at random.

## The bounds

| what | bound | beyond it |
|---|---|---|
| an object, and what a deflated one inflates to | `receiver.max_object_mb` | A700 |
| a UID | 64 printable ASCII characters, one value | A900 in the command, C000 in the data set |
| elements before Series Instance UID | 100 000, sequences of undefined length 32 deep | C000 |
| values of attributes in the worker, bulk data apart | 128 MB | passed through |
| elements and items in the worker | 200 000 reads: about 100 000 elements | passed through |
| a frame that is decoded | 134 217 728 pixels, and the dimensions in its own codestream | passed through |
| a compressed frame | twice the uncompressed one and 1 MB | passed through |
| fragments of pixel data | 1 000 000 | passed through |
| a deflated data set in the worker | 2 GB, in a file of the data folder | passed through |
| a command set | 64 KB | A-ABORT |
| an association request | 1 MB, `receiver.acse_timeout_s` | A-ABORT |
| a message | `receiver.network_timeout_s` and its size at 16 KB/s | A-ABORT |
| rejected senders that are remembered | the latest 1000 | forgotten |

The store names files at random, so nothing in an object leads to a path. What is answered C000 lies in `quarantine/`
with its reason. A codec that ends the process all the same ends the worker, which is started again; an image that did
so twice is passed through.
"""


def document() -> str:
    """Return the page."""
    parts = [_HEAD]
    for group, cases in _grouped(objects()):
        parts.append(f"\n## {_TITLES[group]}\n\n| data set | answer | what the node does |\n|---|---|---|\n")
        parts += [f"| {case.name} | {case.status:04X} | {_treatment(case)} |\n" for case in cases]
    for group in dict.fromkeys(case.group for case in streams()):
        parts.append(f"\n## {_TITLES[group]}\n\n| sent | answers |\n|---|---|\n")
        for stream in streams():
            if stream.group == group:
                parts.append(f"| {stream.name} | {', '.join(stream.answers) or 'none, the connection is closed'} |\n")
    return "".join(parts)


def _grouped(cases: Iterable[HostileObject]) -> Iterable[tuple[str, list[HostileObject]]]:
    found: dict[str, list[HostileObject]] = {}
    for case in cases:
        found.setdefault(case.group, []).append(case)
    return found.items()


def _treatment(case: HostileObject) -> str:
    if case.status != STORED:
        kept = {0xC000: "a copy is quarantined", 0xA900: "not kept", 0xA700: "not kept"}[case.status]
        return f"{kept}: {case.reason}" if case.reason else kept
    if case.outcome == ENHANCED:
        return "stored, enhanced"
    return f"stored, passed through: {case.outcome}" if case.outcome else "stored, enhanced or passed through"


if __name__ == "__main__":
    sys.stdout.write(document())
