"""Where durable objects lie: the port of the instance store, and its implementation on a folder, shared or not."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Protocol

from dicom_node.errors import NodeError, OutOfResources
from dicom_node.fault_points import fault_point

QUARANTINED: Final = "q-"
FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700
_KEY = re.compile(r"(q-)?[0-9a-f]{32}")


class UnknownObject(NodeError):
    """The store has no object of this key, or the text is no key."""


class StoreUnavailable(OutOfResources):
    """The place where objects lie does not answer now; what is there is safe, and trying again can help."""


class ObjectKeeper(Protocol):
    """Keeps whole files durably under their keys. Errors of the place come as OSError or OutOfResources."""

    def keep(self, staged: Path, key: str) -> None:
        """Take over a file that was synced; it is durable when this returns, and `staged` is gone."""

    def path(self, key: str) -> Path:
        """Return a file with the object's bytes, to be opened at once; it may be absent where the object is."""

    def held(self) -> AbstractContextManager[Callable[[str], Path]]:
        """Return a `path` whose files stay until the block ends."""

    def forget(self, key: str) -> bool:
        """Drop what `path` gives if that is only a copy; True if it was, so that the next one comes from the origin."""

    def size(self, key: str) -> int | None:
        """Return the bytes of the whole object; None if there is none."""

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""

    def set_apart(self, key: str, quarantined: str) -> None:
        """Move an object to its key in quarantine; UnknownObject if there is none."""

    def explain(self, key: str, reason: str) -> None:
        """Put the reason beside an object in quarantine."""

    def set_aside(self, key: str) -> None:
        """Move an object to the place for orphans; one that is not there is no error."""

    def keys(self) -> Iterator[str]:
        """Return the keys of all objects outside of quarantine."""

    def keys_older_than(self, age_s: float) -> Iterator[str]:
        """Return the keys of those that were written at least `age_s` seconds ago."""

    def quarantined_keys(self) -> Iterator[str]:
        """Return the keys of all objects in quarantine."""


class FolderKeeper:
    """Objects as files below one folder, which may be one that several machines share.

    Parameters
    ----------
    root
        Made with its folders if absent; one file system, the same as that of the staged files, with working fsync and
        rename. Over NFS a file is renamed after it was synced and closed, so another machine that opens it sees all of
        it (close-to-open consistency, RFC 1813 4.11).
    """

    def __init__(self, root: Path) -> None:
        self._objects = root / "objects"
        self._quarantine = root / "quarantine"
        self._orphans = root / "orphans"
        shards = [self._objects / f"{n:02x}" for n in range(256)]
        for folder in (root, self._objects, self._quarantine, *shards):
            folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        # The folders too must survive a power cut before the first object in them is acknowledged.
        for folder in (self._objects, root, root.parent):
            sync_folder(folder)

    def keep(self, staged: Path, key: str) -> None:
        target = self.path(key)
        fault_point("store.synced")
        try:
            os.rename(staged, target)
        except FileNotFoundError:
            # A server that did the rename, whose answer was lost, says so when it is asked again (RFC 1813 4.6).
            # Keys are never used twice, so what lies there now is this file.
            if not target.exists():
                raise
        try:
            fault_point("store.renamed")
            sync_folder(target.parent)
            fault_point("store.durable")
        except BaseException:
            # Nobody will be told that it is safe: a sender that tries for hours must not fill the disk with copies.
            # Syncing again would prove nothing (after a failed fsync the kernel may have dropped the pages), so the
            # next attempt writes another file.
            with contextlib.suppress(OSError):
                os.rename(target, staged)
            raise

    def path(self, key: str) -> Path:
        require_key(key)
        if key.startswith(QUARANTINED):
            return self._quarantine / f"{key}.dcm"
        return self._objects / key[:2] / f"{key}.dcm"

    @contextlib.contextmanager
    def held(self) -> Iterator[Callable[[str], Path]]:
        yield self.path

    def forget(self, key: str) -> bool:
        require_key(key)
        return False

    def size(self, key: str) -> int | None:
        try:
            return self.path(key).stat().st_size
        except FileNotFoundError:
            return None

    def delete(self, key: str) -> None:
        path = self.path(key)
        path.unlink(missing_ok=True)
        if key.startswith(QUARANTINED):
            path.with_suffix(".txt").unlink(missing_ok=True)

    def set_apart(self, key: str, quarantined: str) -> None:
        source = self.path(key)
        if not source.exists():
            raise UnknownObject(f"the instance store has no object {key}")
        self.keep(source, quarantined)

    def explain(self, key: str, reason: str) -> None:
        self.path(key).with_suffix(".txt").write_text(reason + "\n", encoding="utf-8")

    def set_aside(self, key: str) -> None:
        self._orphans.mkdir(mode=FOLDER_MODE, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.path(key), self._orphans / f"{key}.dcm")
            sync_folder(self._orphans)

    def keys_older_than(self, age_s: float) -> Iterator[str]:
        for key in self.keys():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - self.path(key).stat().st_mtime >= age_s:
                    yield key

    def keys(self) -> Iterator[str]:
        for shard in sorted(self._objects.iterdir()):
            yield from sorted(path.stem for path in shard.glob("*.dcm"))

    def quarantined_keys(self) -> Iterator[str]:
        yield from sorted(path.stem for path in self._quarantine.glob("*.dcm"))


def require_key(key: str) -> None:
    """Raise UnknownObject if `key` is no key of a store."""
    if not _KEY.fullmatch(key):
        raise UnknownObject(f"{key!r} is no key of the instance store")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
