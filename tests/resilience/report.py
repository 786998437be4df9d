"""Run the resilience scenarios and write what was tried, how often, and what was lost: docs/reliability.md.

    python -m tests.resilience.report --long --output docs/reliability.md
    python -m tests.resilience.report --only random-kills

Results are kept as JSON beside the page, so one scenario can be run again without the others.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dicom_node import __version__
from tests.support.database_outages import DATABASE_OUTAGES
from tests.support.dcmtk_peers import DCMTK
from tests.support.department import DEPARTMENT
from tests.support.disk_errors import DISK_ERRORS
from tests.support.handing_over import HAND_OVER
from tests.support.kill_matrix import KILL_MATRIX
from tests.support.locked_databases import LOCKED_DATABASES
from tests.support.many_associations import MANY_ASSOCIATIONS
from tests.support.networked_cluster import NAMESPACES
from tests.support.pdu_faults import PDU_FAULTS
from tests.support.random_kills import RANDOM_KILLS
from tests.support.scenarios import Result, Scenario
from tests.support.status_answers import STATUSES
from tests.support.unforeseen_errors import UNFORESEEN_ERRORS

SCENARIOS: tuple[Scenario, ...] = (
    KILL_MATRIX,
    RANDOM_KILLS,
    UNFORESEEN_ERRORS,
    DISK_ERRORS,
    LOCKED_DATABASES,
    DATABASE_OUTAGES,
    HAND_OVER,
    NAMESPACES,
    PDU_FAULTS,
    STATUSES,
    DCMTK,
    MANY_ASSOCIATIONS,
    DEPARTMENT,
)
"""In the order of the page. A new scenario is a module with a `Scenario` and a line here."""

_INTRODUCTION = """\
# Reliability

What was done to a running node, how often, and what was lost. Made by `python -m tests.resilience.report`; the same
scenarios run in small in the test suite.

Each scenario ends with the same check, once the node has nothing to do any more: every object whose sender was
answered with success is at the destination or is a dead letter with its reason; originals are bit-exact in the node
and at the destination; no UID stands for two contents; no image is there under two UIDs; `verify --deep` closes.
"Acknowledged" and what follows count objects. An object may arrive twice (its answer was lost), with the same bytes.
Orphan files are no loss: nobody was told that they are safe (a crash came between the file and the ledger's row).
"""


def run(scenario: Scenario, *, share: float, folder: Path) -> dict[str, Any]:
    """Run one scenario; returns its entry of the JSON file."""
    begin = time.monotonic()
    try:
        result = scenario.run(folder, share)
    except Exception as error:  # noqa: BLE001 - a scenario that can't come to its end is a line of the report
        traceback.print_exc()
        result = Result(broken=[f"{type(error).__name__}: {str(error)[:300]}"])
    return {
        **result.as_json(),
        "share": share,
        "seconds": round(time.monotonic() - begin),
        "date": datetime.now(UTC).date().isoformat(),
        "version": __version__,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}, Python "
        f"{platform.python_version()}",
    }


def render(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page."""
    head = ("scenario", "tried", "acknowledged", "delivered", "lost", "changed", "two contents", "two UIDs", "held")
    lines = [_INTRODUCTION, _row(head), _row(["---", *["---:"] * 7, "---"])]
    for scenario in SCENARIOS:
        entry = entries.get(scenario.name)
        if entry is None:
            lines.append(_row([scenario.name, "not run", *[""] * 7]))
            continue
        counts = [entry[key] for key in ("acknowledged", "delivered", "lost", "changed", "doubled", "renamed")]
        tried = f"{entry['tried']} {scenario.unit}"
        lines.append(_row([scenario.name, tried, *counts, "yes" if entry["ok"] else "**no**"]))
    for scenario in SCENARIOS:
        lines += ["", f"## {scenario.name}", "", scenario.tries]
        entry = entries.get(scenario.name)
        if entry is None:
            continue
        form = _form(entry["share"])
        lines += ["", f"{form}, {entry['seconds']} s, {entry['date']}, version {entry['version']}, {entry['machine']}."]
        lines += [""] if entry["figures"] or entry["broken"] else []
        lines += [f"- {name}: {_plain(value)}" for name, value in entry["figures"].items()]
        lines += [f"- **Broken**: {text}" for text in entry["broken"]]
    return "\n".join(lines) + "\n"


def _form(share: float) -> str:
    if share == 0:
        return "Short form"
    return "Long form" if share == 1 else f"Long form with {share:.0%} of its counts, for want of a quiet machine"


def _row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {number}" for key, number in value.items())
    if isinstance(value, list):
        return " → ".join(_plain(each) if not isinstance(each, list) else ", ".join(map(str, each)) for each in value)
    return str(value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the scenarios that are asked for; returns 1 if an invariant was broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="the page; its results lie beside it as .json")
    parser.add_argument("--only", action="append", choices=[s.name for s in SCENARIOS], help="may be given again")
    parser.add_argument("--long", action="store_true", help="as often as the published page says")
    parser.add_argument("--share", type=float, default=1.0, help="of the long form's counts, on a slow machine")
    parser.add_argument("--render", action="store_true", help="run nothing: make the page from the results")
    options = parser.parse_args(arguments)
    file = options.output.with_suffix(".json") if options.output else None
    entries = json.loads(file.read_text()) if file is not None and file.exists() else {}
    is_ok = True
    for scenario in SCENARIOS:
        if options.render or (options.only and scenario.name not in options.only):
            continue
        folder = Path(tempfile.mkdtemp(prefix=f"{scenario.name}-"))
        entry = run(scenario, share=options.share if options.long else 0.0, folder=folder)
        entries[scenario.name] = entry
        is_ok &= entry["ok"]
        print(json.dumps({scenario.name: entry}), flush=True)
        if entry["ok"]:
            shutil.rmtree(folder, ignore_errors=True)
        if file is not None:
            file.write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n")
    if options.output:
        options.output.write_text(render(entries))
    return 0 if is_ok else 1


if __name__ == "__main__":
    sys.exit(main())
