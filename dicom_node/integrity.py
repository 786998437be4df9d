"""Whether a stored file is still what the ledger says: there, of its size, and with its SHA-256."""

from __future__ import annotations

import contextlib
import enum
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_CHUNK = 1 << 20


class Finding(enum.StrEnum):
    """What looking at a file gave."""

    SOUND = "sound"
    MISSING = "missing"
    DAMAGED = "damaged"
    UNREADABLE = "unreadable"  # the disk gave an error; the bytes may be there


@dataclass(frozen=True, kw_only=True)
class Examined:
    """What looking at a file gave, and in words where it is not sound."""

    finding: Finding
    reason: str = ""
    read_bytes: int = 0

    @property
    def is_sound(self) -> bool:
        """True if the file is what was stored."""
        return self.finding is Finding.SOUND


class Expected(Protocol):
    """What the ledger knows of a file."""

    @property
    def size(self) -> int: ...

    @property
    def dataset_offset(self) -> int: ...

    @property
    def digest(self) -> str: ...


def examine(path: Path, expected: Expected, *, deep: bool = True, from_disk: bool = False) -> Examined:
    """Compare a file with what the ledger says of it.

    Parameters
    ----------
    deep
        Read the data set and compare its SHA-256; otherwise the size alone.
    from_disk
        Ask the kernel to forget what it has of the file in memory first, and afterwards: reading that back would say
        nothing of the disk, and the files that are in use would lose their place in memory.
    """
    read = 0
    try:
        with path.open("rb", buffering=0) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size != expected.size:
                reason = f"the file has {size} bytes, not {expected.size}"
                return Examined(finding=Finding.DAMAGED, reason=reason)
            if not deep:
                return Examined(finding=Finding.SOUND)
            if from_disk:
                _forget(stream.fileno())
            digest = hashlib.sha256()
            stream.seek(expected.dataset_offset)
            while chunk := stream.read(_CHUNK):
                read += len(chunk)
                digest.update(chunk)
            if from_disk:
                _forget(stream.fileno())
    except FileNotFoundError:
        return Examined(finding=Finding.MISSING, reason="the file is not there")
    except OSError as error:
        reason = f"the file can't be read: {error.strerror or error}"
        return Examined(finding=Finding.UNREADABLE, reason=reason, read_bytes=read)
    if digest.hexdigest() != expected.digest:
        reason = "the file's SHA-256 is not that of what was stored"
        return Examined(finding=Finding.DAMAGED, reason=reason, read_bytes=read)
    return Examined(finding=Finding.SOUND, read_bytes=read)


def _forget(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
