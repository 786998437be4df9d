"""How full the node's disks are: high and low watermarks with hysteresis, per file system, and the ledger's reserve."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from config.settings import Settings

log = logging.getLogger(__name__)

_MB: Final = 1 << 20
RESERVE_FILE: Final = "reserve"
"""Name of the file in the data folder that holds space back for the ledger."""
DERIVED_SHARE: Final = 0.25
"""Share of `min_free_mb` that derived objects leave: the ledger and the workflows need room when images have none."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a file system has left, for a process without privileges; inodes are 0 of 0 where it does not count them."""

    free_bytes: int
    total_bytes: int
    free_inodes: int
    total_inodes: int

    @property
    def used_percent(self) -> float:
        """Share of the bytes that are in use or kept back for root, 0 to 100."""
        return 100.0 * (1 - self.free_bytes / self.total_bytes) if self.total_bytes else 0.0


@dataclass(frozen=True, kw_only=True)
class Watermarks:
    """High marks, above which nothing is taken, and low ones, below which it is taken again."""

    min_free_bytes: int
    resume_free_bytes: int
    max_used_percent: float = 100.0
    resume_used_percent: float = 100.0
    min_free_inodes: int = 0
    resume_free_inodes: int = 0

    @classmethod
    def of(cls, settings: Settings) -> Watermarks:
        """Return the marks of the settings; a low one that is not set lies a little below its high one."""
        storage, min_free = settings.storage, settings.receiver.min_free_mb
        return cls(
            min_free_bytes=min_free * _MB,
            resume_free_bytes=max(min_free, storage.resume_free_mb or min_free + min_free // 4) * _MB,
            max_used_percent=storage.max_used_percent,
            resume_used_percent=storage.resume_used_percent or max(0.0, storage.max_used_percent - 2.0),
            min_free_inodes=storage.min_free_inodes,
            resume_free_inodes=storage.min_free_inodes + storage.min_free_inodes // 4,
        )


def shortage(usage: Usage, marks: Watermarks, *, was_short: bool) -> str | None:
    """Say what a file system is short of; None if it has room.

    Parameters
    ----------
    was_short
        How it stood before: what was short stays so up to the low marks, or a disk at its limit would take every
        second association.
    """
    least = marks.resume_free_bytes if was_short else marks.min_free_bytes
    if usage.free_bytes < least:
        until = " again" if was_short else ""
        return f"{usage.free_bytes // _MB} MB free, {least // _MB} MB are needed{until}"
    if marks.max_used_percent < 100:
        most = marks.resume_used_percent if was_short else marks.max_used_percent
        if usage.used_percent > most:
            return f"{usage.used_percent:.1f} % used, {most:g} % are the most"
    if usage.total_inodes:
        least = marks.resume_free_inodes if was_short else marks.min_free_inodes
        # A file system with fewer inodes than the mark in all is one that nobody meant it for.
        if usage.free_inodes < min(least, usage.total_inodes // 20):
            return f"{usage.free_inodes} inodes free, {least} are needed"
    return None


def bytes_to_free(usage: Usage, marks: Watermarks) -> int:
    """Return how many bytes lie between a file system and its low marks; 0 if it is below them."""
    by_size = marks.resume_free_bytes - usage.free_bytes
    by_share = 0.0
    if marks.max_used_percent < 100:
        by_share = usage.total_bytes * (1 - marks.resume_used_percent / 100) - usage.free_bytes
    return max(0, by_size, int(by_share))


def measure(path: Path) -> Usage:
    """Measure the file system of `path`, or of the nearest folder above it that exists."""
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    found = os.statvfs(existing)
    return Usage(
        free_bytes=found.f_bavail * found.f_frsize,
        total_bytes=found.f_blocks * found.f_frsize,
        free_inodes=found.f_favail,
        total_inodes=found.f_files,
    )


@dataclass(frozen=True, kw_only=True)
class FileSystem:
    """A file system that the node writes to: one folder on it, and what lies there."""

    path: Path
    holds: tuple[str, ...]


def file_systems(settings: Settings) -> tuple[FileSystem, ...]:
    """Return the file systems of this machine that the node writes to, the one of the objects first."""
    data_dir = settings.node.data_dir
    shared = settings.storage.folder
    folders = [("objects", (shared or data_dir) / "objects"), ("incoming", data_dir / "incoming")]
    url = settings.node.database_url
    if not url:
        folders.append(("ledger", data_dir))
    elif url.startswith("sqlite:///"):
        folders.append(("ledger", Path(url.removeprefix("sqlite:///")).absolute().parent))
    if not url.startswith("postgresql"):
        folders.append(("workflows", data_dir))
    found: dict[int, FileSystem] = {}
    for what, folder in folders:
        with contextlib.suppress(OSError):
            existing = next(one for one in (folder, *folder.absolute().parents) if one.exists())
            device = existing.stat().st_dev
            known = found.get(device, FileSystem(path=existing, holds=()))
            found[device] = replace(known, holds=(*known.holds, what))
    return tuple(found.values())


class DiskSpace:
    """Whether there is room, with the memory that hysteresis needs; safe for any number of threads.

    Parameters
    ----------
    systems
        What is measured; `file_systems`.
    marks
        The same for each of them.
    free_bytes
        Free space for objects, where the instance store knows better than the first file system.
    """

    def __init__(
        self,
        systems: Sequence[FileSystem],
        marks: Watermarks,
        *,
        free_bytes: Callable[[], int] | None = None,
    ) -> None:
        self.systems = tuple(systems)
        self.marks = marks
        self._free_bytes = free_bytes
        self._lock = threading.Lock()
        self._short: dict[Path, str] = {}

    def change_marks(self, marks: Watermarks) -> None:
        """Go by other marks from now on."""
        with self._lock:
            self.marks = marks

    def usages(self) -> list[tuple[FileSystem, Usage]]:
        """Measure every file system now; one that does not answer counts as full."""
        return [(system, self._usage(number, system)) for number, system in enumerate(self.systems)]

    def refusal(self) -> str | None:
        """Say why nothing new can be taken now; None if there is room."""
        with self._lock:
            for system, usage in self.usages():
                before = self._short.get(system.path)
                said = shortage(usage, self.marks, was_short=before is not None)
                if said is None:
                    if before is not None:
                        del self._short[system.path]
                        log.warning("There is room again", extra=_facts(system, usage))
                    continue
                if before is None:
                    log.error(
                        "Disk is above its high watermark: nothing is taken until there is room",
                        extra={**_facts(system, usage), "reason": said},
                    )
                self._short[system.path] = said
            return next((f"{path}: {said}" for path, said in self._short.items()), None)

    def refusal_of_derived(self) -> str | None:
        """Say why no derived object should be written now; None if there is room.

        They go on for a while where nothing new is taken, for what is in work came before; but what is left then
        belongs to the ledger. The original needs no room to be sent.
        """
        least = int(self.marks.min_free_bytes * DERIVED_SHARE)
        for system, usage in self.usages():
            if usage.free_bytes < least:
                return f"disk watermark reached: {usage.free_bytes // _MB} MB free at {system.path}"
        return None

    def is_objects_short(self) -> bool:
        """True if the file system of the objects was short of something when `refusal` was asked last."""
        with self._lock:
            return self.systems[0].path in self._short

    def bytes_to_free(self) -> int:
        """Return how many bytes of objects have to go for the objects' file system to reach its low mark."""
        _, usage = self.usages()[0]
        return bytes_to_free(usage, self.marks)

    def _usage(self, number: int, system: FileSystem) -> Usage:
        try:
            usage = measure(system.path)
            return replace(usage, free_bytes=self._free_bytes()) if number == 0 and self._free_bytes else usage
        except OSError as error:
            log.error("File system does not answer", extra={"path": str(system.path), "reason": str(error)})
            return Usage(free_bytes=0, total_bytes=0, free_inodes=0, total_inodes=0)


def _facts(system: FileSystem, usage: Usage) -> dict[str, object]:
    return {"path": str(system.path), "holds": ", ".join(system.holds), "free_mb": usage.free_bytes // _MB}


class Reserve:
    """A file that holds disk space back, to be given to the ledger when nothing else is left.

    Deleting objects takes a commit of the ledger first, and a full disk would not take that: this file goes before.

    Parameters
    ----------
    path
        The file; on the file system of the ledger.
    size
        Bytes to hold back; 0 for none.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size

    @property
    def is_held(self) -> bool:
        """True if the space is taken."""
        return self._path.exists()

    def release(self) -> bool:
        """Give the space back; True if there was any."""
        try:
            self._path.unlink()
        except OSError:
            return False
        log.error("Disk is full: the ledger's reserve is given up", extra={"path": str(self._path)})
        return True

    def hold(self, free_bytes: int) -> None:
        """Take the space again, where at least four times as much is free."""
        if not self._size or self._path.exists() or free_bytes < 4 * self._size:
            return
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            # Another worker was first.
            return
        except OSError as error:
            log.warning("The ledger's reserve can't be made", extra={"reason": str(error)})
            return
        try:
            os.posix_fallocate(descriptor, 0, self._size)
        except OSError as error:
            self._path.unlink(missing_ok=True)
            log.warning("The ledger's reserve can't be made", extra={"reason": str(error)})
        finally:
            os.close(descriptor)
