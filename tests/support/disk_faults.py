"""A disk that fails on command inside real processes: a library before libc's, switched by the test while they run."""

from __future__ import annotations

import contextlib
import errno
import mmap
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

_SOURCE = Path(__file__).with_name("disk_faults.c")
# "open" is for writing; "truncate" also gives a file its size, and "read" does it at any place.
_NAMES = ("write", "fsync", "rename", "open", "unlink", "mkdir", "read", "truncate", "open to read", "map")
_CALLS = {name: number for number, name in enumerate(_NAMES, 1)}

requires_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed (Debian package gcc)")


class FailingDisk:
    """Switches the calls of processes that run with its `environment`.

    Parameters
    ----------
    folder
        For the library and the switch.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        library = folder / "disk_faults.so"
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(_SOURCE), "-ldl"], check=True, timeout=60
        )
        switch = folder / "switch"
        switch.write_bytes(bytes(4096))
        with switch.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), 4096)
        self.environment = {"LD_PRELOAD": str(library), "DISK_FAULTS": str(switch)}

    @property
    def failed(self) -> int:
        """Calls that were failed since the switch was thrown last."""
        return int(struct.unpack_from("<i", self._page, 16)[0])

    @contextlib.contextmanager
    def failing(
        self,
        call: str,
        *,
        path: str = "",
        process: str = "",
        number: int = errno.EIO,
        skip: int = 0,
        times: int = -1,
    ) -> Iterator[None]:
        """Fail `times` calls (-1: all) of a kind, on paths with `path`, in processes with `process`, but the first."""
        struct.pack_into("<i", self._page, 0, 0)
        self._page[32:640] = bytes(608)
        self._page[32 : 32 + len(process)] = process.encode()
        self._page[128 : 128 + len(path)] = path.encode()
        struct.pack_into("<iiii", self._page, 4, number, skip, times, 0)
        struct.pack_into("<i", self._page, 0, _CALLS[call])
        try:
            yield
        finally:
            struct.pack_into("<i", self._page, 0, 0)
