"""What status and verify say about disks and files on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.text import Text

from dicom_node.ledger.checks import CheckSummary


def show_disks(console: Console, disks: Sequence[dict[str, Any]]) -> None:
    """Print one line for each file system."""
    for disk in disks:
        free, total = disk["free_bytes"] / 1e9, disk["total_bytes"] / 1e9
        line = f"Disk of {disk['path']} ({', '.join(disk['holds'])}): {free:.1f} of {total:.1f} GB free"
        if disk["full_in_h"] is not None:
            line += f", at its high watermark in {disk['full_in_h']:.0f} hours if it goes on like this"
        if disk["state"] != "ok":
            line += f"; {disk['state']}: {disk['reason']}"
        style = "bold red" if disk["state"] == "above high watermark" else ""
        console.print(Text(line, style=style), soft_wrap=True)


def show_checks(console: Console, checks: CheckSummary, now: float) -> None:
    """Print how far the reading of all objects is, and every object that is not sound."""
    oldest = (
        "" if checks.oldest_at is None else f", the one that waits longest {(now - checks.oldest_at) / 3600:.0f} h ago"
    )
    console.print(f"Files read again: {checks.checked} of {checks.objects}{oldest}", soft_wrap=True, highlight=False)
    for row in checks.findings:
        line = f"file {row['finding']}: {row['key']} ({row['origin']} {row['sop_instance_uid']}): {row['reason']}"
        console.print(Text(line, style="bold red"), soft_wrap=True)
    if checks.findings:
        console.print(Text('docs/storage.md, "Files that decay", says what to do'), soft_wrap=True)
    if checks.faults > len(checks.findings):
        more = checks.faults - len(checks.findings)
        console.print(Text(f"and {more} more: dicom-node verify --deep -c FILE", style="bold red"), soft_wrap=True)


@contextmanager
def progress(*, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on standard error, where that is a terminal; gives the function that moves it."""
    console = Console(stderr=True, quiet=not shown)
    columns = (
        TextColumn("reading"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not shown or not console.is_terminal, transient=True) as bar:
        task = bar.add_task("reading")

        def move(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield move
