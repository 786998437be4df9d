"""How far the memory of this process rose while something ran."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Growth:
    """Bytes that the peak of the resident memory lies above what was resident before."""

    bytes: int = 0


@contextmanager
def peak_growth() -> Iterator[Growth]:
    """Measure the peak of resident memory over the block, which a reading at its end would miss."""
    try:
        # 5 sets the high water mark back to what is resident now (Linux, proc(5)).
        _CLEAR.write_text("5")
    except OSError:
        pytest.skip("the kernel does not set back the high water mark of memory here")
    before, growth = _read("VmRSS"), Growth()
    yield growth
    growth.bytes = _read("VmHWM") - before


def _read(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1]) * 1024
