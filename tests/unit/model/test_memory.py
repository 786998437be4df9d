"""Freed memory stays with the process while it denoises, and goes back when it is told to."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
from pathlib import Path

import numpy as np

from model.memory import keep_freed_memory, return_freed_memory


def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


assert keep_freed_memory()
before = resident_mb()
array = np.ones(25_000_000)
del array
kept = resident_mb() - before
return_freed_memory()
print(kept, resident_mb() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_arrays_are_kept_until_they_are_returned() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    kept, returned = map(float, done.stdout.split())
    assert kept > 190
    assert returned < 20
