"""Copies of objects on this machine's disk: bounded in bytes, the longest unused go first, shared by its processes."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dicom_node.object_keeping import FILE_MODE, FOLDER_MODE

GRACE_S: Final = 30.0
"""A copy is not removed this soon after it was asked for: whoever asked is about to open it."""


class ObjectCache:
    """Copies by key. Losing any of them, or all, costs only the time to fetch them again.

    A file that is open when its copy is removed stays readable. What must stay longer is held by a second link to it,
    which the removal of the first does not touch; so no process needs to know what others use.

    Parameters
    ----------
    folder
        Of the copies; made if absent.
    links
        Folder for the second links, on the same file system, swept of what a crash leaves.
    limit_bytes
        Sum of the copies' sizes. Held ones and those within `GRACE_S` come on top of it.
    """

    def __init__(self, folder: Path, links: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._links = links
        self._limit_bytes = limit_bytes
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        links.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)

    def find(self, key: str) -> Path | None:
        """Return the copy of an object, which counts as used now; None if there is none."""
        path = self.place(key)
        try:
            os.utime(path)
        except FileNotFoundError:
            return None
        return path

    def place(self, key: str) -> Path:
        """Return where the copy of an object belongs."""
        return self._folder / f"{key}.dcm"

    @contextlib.contextmanager
    def filling(self, key: str) -> Iterator[int]:
        """Open a new file for an object; it becomes the copy when the block ends without an error."""
        begun = self._links / f"fetch-{secrets.token_hex(8)}"
        descriptor = os.open(begun, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        try:
            try:
                yield descriptor
            finally:
                os.close(descriptor)
            self.adopt(begun, key)
        finally:
            begun.unlink(missing_ok=True)

    def adopt(self, path: Path, key: str) -> None:
        """Take over a file as the copy of an object, and make room."""
        os.utime(path)
        os.rename(path, self.place(key))
        self.make_room()

    def hold(self, path: Path) -> Path:
        """Return a second link to a copy, to be removed by the caller; FileNotFoundError if the copy is gone."""
        link = self._links / f"hold-{secrets.token_hex(8)}.dcm"
        os.link(path, link)
        return link

    def drop(self, key: str) -> None:
        """Remove a copy."""
        self.place(key).unlink(missing_ok=True)

    def make_room(self) -> None:
        """Remove copies, the longest unused first, until they fit the limit."""
        found = []
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        excess = sum(size for _, size, _ in found) - self._limit_bytes
        newest = time.time() - GRACE_S
        for used_at, size, path in sorted(found):
            if excess <= 0 or used_at > newest:
                return
            path.unlink(missing_ok=True)
            excess -= size
