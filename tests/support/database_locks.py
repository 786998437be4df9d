"""Another program that locks a SQLite database, as a backup, or somebody with a shell of SQLite, may do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_PROGRAM = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
connection.execute("ROLLBACK")
"""


@contextmanager
def locked(*files: Path) -> Iterator[None]:
    """Hold an exclusive lock on each database for the block, in a process of its own."""
    with ExitStack() as stack:
        for file in files:
            stack.enter_context(_locked(file))
        yield


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if process.stdout.readline() != b"locked\n":
            raise RuntimeError(f"{file} could not be locked")
        yield
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()
