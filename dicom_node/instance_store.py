"""Durable Part 10 files: written in a folder for what is incoming, synced, renamed into place, the folder synced.

::

    incoming/        being written; whatever lies here after a crash was never acknowledged
    objects/xx/      durable objects, spread by the first two digits of their key
    quarantine/      objects that could not be taken as what they claim to be, each with its reason
    orphans/         objects that the ledger does not know, found and set aside; made when there is one

Durable objects may lie elsewhere: on a folder that machines share, or in S3 (`object_keeping`).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import mmap
import os
import secrets
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pydicom
from pydicom.uid import UID

from dicom_node.errors import OutOfResources
from dicom_node.fault_points import fault_point
from dicom_node.integrity import Examined, Expected, examine
from dicom_node.negotiation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.object_keeping import (
    FILE_MODE,
    FOLDER_MODE,
    QUARANTINED,
    FolderKeeper,
    ObjectKeeper,
    UnknownObject,
    require_key,
)

__all__ = ["IncomingObject", "InstanceStore", "StoredObject", "UnknownObject", "build_file_meta"]

log = logging.getLogger(__name__)

_META_BEGIN: Final = 132
_META_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """A durable object.

    Parameters
    ----------
    key
        Names the object in the store; made at random, never from DICOM attributes.
    size
        Bytes of the whole file.
    dataset_offset
        Bytes before the data set: preamble and file meta information.
    digest
        SHA-256 of the data set's bytes, in hexadecimal digits.
    """

    key: str
    size: int
    dataset_offset: int
    digest: str


class InstanceStore:
    """Durable objects by key; the store never looks into them.

    Parameters
    ----------
    root
        Folder of this node, made if absent; on one file system, which must have working fsync and rename.
    keeper
        Where durable objects lie; below `root` if absent.
    incoming
        Folder for objects being written, of this node alone; in `root` if absent. A keeper that is a folder needs it on
        its own file system.
    """

    def __init__(self, root: Path, keeper: ObjectKeeper | None = None, incoming: Path | None = None) -> None:
        self._incoming = incoming or root / "incoming"
        self.scratch = root / "incoming"
        """Folder for temporary files of any size, on this machine's disk; what a crash leaves in it is swept."""
        for folder in (root, self.scratch, self._incoming):
            folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        self._keeper: ObjectKeeper = keeper or FolderKeeper(root)

    def create(
        self, *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, source_ae_title: str
    ) -> IncomingObject:
        """Begin an object: a new file with preamble and file meta information (PS3.10 7.1), ready for the data set.

        Raises
        ------
        OutOfResources
            If the file can't be made or written.
        """
        meta = build_file_meta(
            sop_class_uid=sop_class_uid,
            sop_instance_uid=sop_instance_uid,
            transfer_syntax_uid=transfer_syntax_uid,
            source_ae_title=source_ae_title,
        )
        with _out_of_resources():
            fault_point("store.creating")
            incoming = IncomingObject(self, _new_key(), self._incoming)
        incoming.write_meta(meta)
        return incoming

    def save(self, dataset: pydicom.Dataset) -> StoredObject:
        """Store a data set with its file meta information; the same data set gives the same bytes.

        Parameters
        ----------
        dataset
            Its `file_meta` names SOP class, SOP instance and transfer syntax; the implementation's UID and name are
            added where they are absent.

        Raises
        ------
        OutOfResources
        """
        dataset.file_meta.setdefault("ImplementationClassUID", UID(IMPLEMENTATION_CLASS_UID))
        dataset.file_meta.setdefault("ImplementationVersionName", IMPLEMENTATION_VERSION_NAME)
        key = _new_key()
        path = self._incoming / key
        try:
            with _out_of_resources():
                with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, FILE_MODE), "wb") as file:
                    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
                    file.flush()
                    fault_point("store.written")
                    os.fsync(file.fileno())
                stored = _measure(path, key)
                self._move(path, key)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return stored

    def path(self, key: str) -> Path:
        """Return a file with the object's bytes, whether or not it exists, to be opened at once.

        Raises
        ------
        UnknownObject
            If `key` is no key.
        StoreUnavailable
            If the object is not on this machine and can't be fetched now.
        """
        return self._keeper.path(key)

    def held(self) -> AbstractContextManager[Callable[[str], Path]]:
        """Return a `path` whose files stay on this machine until the block ends."""
        return self._keeper.held()

    def forget(self, key: str) -> bool:
        """Drop this machine's copy of an object that lies elsewhere; False if there is none to drop.

        Copies may be damaged by a power cut or a bad disk, and the object itself be sound.
        """
        return self._keeper.forget(key)

    def examine(
        self, key: str, expected: Expected, *, locate: Callable[[str], Path] | None = None, from_disk: bool = False
    ) -> tuple[Path, Examined]:
        """Read an object and compare it with what the ledger says of it; a copy that is not sound is fetched again.

        Parameters
        ----------
        locate
            What `held` gives; `path` if absent.
        from_disk
            As for `integrity.examine`.

        Raises
        ------
        UnknownObject, StoreUnavailable
            As `path` does.
        """
        locate = locate or self.path
        path = locate(key)
        found = examine(path, expected, from_disk=from_disk)
        if not found.is_sound and self.forget(key):
            path = locate(key)
            found = examine(path, expected, from_disk=from_disk)
        return path, found

    def size(self, key: str) -> int | None:
        """Return the bytes of a whole object, which is not fetched for that; None if there is none."""
        return self._keeper.size(key)

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error, and one that can't be removed is left to the sweep."""
        try:
            self._keeper.delete(key)
        except (OSError, OutOfResources) as error:
            # What it was removed for is done: an object that is safe must not be answered as if it were not.
            log.error("An object can't be deleted", extra={"key": key, "reason": str(error)})

    def quarantine(self, subject: str | IncomingObject, reason: str) -> StoredObject:
        """Move an object into quarantine, durably, with `reason` in a text file beside it.

        Parameters
        ----------
        subject
            An incoming object, or the key of a stored one, which changes.

        Raises
        ------
        OutOfResources
        UnknownObject
            If there is no object of this key.
        """
        if isinstance(subject, IncomingObject):
            stored = subject.settle(QUARANTINED + subject.key)
        else:
            with _out_of_resources():
                try:
                    stored = _measure(self.path(subject), QUARANTINED + subject.removeprefix(QUARANTINED))
                except FileNotFoundError as error:
                    raise UnknownObject(f"the instance store has no object {subject}") from error
                self._keeper.set_apart(subject, stored.key)
        fault_point("quarantine.moved")
        try:
            self._keeper.explain(stored.key, reason)
        except (OSError, OutOfResources) as error:
            # The ledger has the reason too; a sender that is told to try again would fill quarantine with copies.
            log.error("No reason could be put beside an object", extra={"key": stored.key, "reason": str(error)})
        return stored

    def take_in(self, source: Path, key: str) -> None:
        """Store a copy of a whole file under the key that it had, durably; for objects of a backup.

        Raises
        ------
        UnknownObject
            If `key` is no key.
        OutOfResources
        """
        require_key(key)
        staged = self._incoming / key
        with _out_of_resources():
            try:
                shutil.copyfile(source, staged)
                staged.chmod(FILE_MODE)
                with staged.open("rb") as stream:
                    os.fsync(stream.fileno())
                self._move(staged, key)
            except BaseException:
                staged.unlink(missing_ok=True)
                raise

    def explain(self, key: str, reason: str) -> None:
        """Put the reason beside an object in quarantine; raises `OutOfResources`."""
        with _out_of_resources():
            self._keeper.explain(key, reason)

    def keys(self) -> Iterator[str]:
        """Return the keys of all objects outside of quarantine."""
        return self._keeper.keys()

    def quarantined_keys(self) -> Iterator[str]:
        """Return the keys of all objects in quarantine."""
        return self._keeper.quarantined_keys()

    def keys_older_than(self, age_s: float) -> Iterator[str]:
        """Return the keys of the objects outside of quarantine that were written at least `age_s` seconds ago."""
        return self._keeper.keys_older_than(age_s)

    def set_aside(self, key: str) -> None:
        """Move an object into the folder for orphans, durably; one that is not there is no error.

        Raises
        ------
        OutOfResources
        """
        with _out_of_resources():
            self._keeper.set_aside(key)

    def sweep_incoming(self, older_than_s: float) -> int:
        """Remove what lies in the incoming folder and was not written to for this time; return how many.

        Such files are of associations that a crash cut off: their senders never got a success for them.
        """
        removed = 0
        # Other nodes on a shared folder have incoming folders of their own, which are theirs to sweep.
        for path in [path for folder in {self._incoming, self.scratch} for path in folder.iterdir()]:
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime >= older_than_s:
                    path.unlink()
                    removed += 1
        return removed

    def free_bytes(self) -> int:
        """Return the free space of the file system, in bytes, for a process without privileges."""
        statistics = os.statvfs(self._incoming)
        return statistics.f_bavail * statistics.f_frsize

    def _move(self, path: Path, key: str) -> None:
        self._keeper.keep(path, key)


class IncomingObject:
    """An object being written; ends with exactly one of `commit`, `discard` or the store's `quarantine`."""

    def __init__(self, store: InstanceStore, key: str, folder: Path) -> None:
        self.key = key
        self._store = store
        self._path = folder / key
        self._digest = hashlib.sha256()
        self._dataset_offset = 0
        self._dataset_bytes = 0
        self._is_settled = False
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)

    @property
    def dataset_bytes(self) -> int:
        """Bytes of the data set so far."""
        return self._dataset_bytes

    def write_meta(self, encoded: bytes) -> None:
        """Write what precedes the data set; before the first `write`."""
        with self._discarding():
            _write_all(self._descriptor, memoryview(encoded))
        self._dataset_offset = len(encoded)

    def write(self, data: memoryview) -> None:
        """Append a piece of the data set.

        Raises
        ------
        OutOfResources
            The object is discarded then.
        """
        with self._discarding():
            _write_all(self._descriptor, data)
        self._digest.update(data)
        self._dataset_bytes += len(data)

    def read_beginning(self, count: int) -> bytes:
        """Return the first `count` bytes of the data set, or fewer if it is shorter."""
        with self._discarding():
            return os.pread(self._descriptor, count, self._dataset_offset)

    @contextlib.contextmanager
    def mapped(self) -> Iterator[memoryview]:
        """Map the data set into memory for reading; it must not be empty.

        Raises
        ------
        OutOfResources
            If that can't be done; the object is discarded then.
        """
        with self._discarding():
            mapping = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)
        with (
            mapping as mapped,
            memoryview(mapped) as whole,
            whole[self._dataset_offset :] as data_set,
        ):
            yield data_set

    def commit(self) -> StoredObject:
        """Make the object durable under its key: fsync of the file, rename, fsync of the folder.

        Raises
        ------
        OutOfResources
            The object is discarded then.
        """
        return self.settle(self.key)

    def settle(self, key: str) -> StoredObject:
        """Do what `commit` does, under any key of the store."""
        with self._discarding():
            fault_point("store.written")
            os.fsync(self._descriptor)
            self._close()
            self._store._move(self._path, key)
            self._is_settled = True
        return StoredObject(
            key=key,
            size=self._dataset_offset + self._dataset_bytes,
            dataset_offset=self._dataset_offset,
            digest=self._digest.hexdigest(),
        )

    def discard(self) -> None:
        """Remove the object; safe to call again, and without effect after `commit`."""
        # What the disk refuses to remove stays in the incoming folder, which is swept.
        with contextlib.suppress(OSError):
            self._close()
        if not self._is_settled:
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    @contextlib.contextmanager
    def _discarding(self) -> Iterator[None]:
        try:
            with _out_of_resources():
                yield
        except OutOfResources:
            with contextlib.suppress(OSError):
                self.discard()
            raise


def build_file_meta(
    *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, source_ae_title: str
) -> bytes:
    """Build preamble, prefix and File Meta Information of an object (PS3.10 7.1), ready to precede its data set."""
    elements = (
        struct.pack("<HH2sHI", 2, 1, b"OB", 0, 2)
        + b"\0\1"
        + _text_element(0x0002, b"UI", sop_class_uid)
        + _text_element(0x0003, b"UI", sop_instance_uid)
        + _text_element(0x0010, b"UI", transfer_syntax_uid)
        + _text_element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID)
        + _text_element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME)
        + _text_element(0x0016, b"AE", source_ae_title)
    )
    return bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(elements)) + elements


def _text_element(element: int, vr: bytes, text: str) -> bytes:
    value = text.encode("latin-1", "replace")
    if len(value) % 2:
        value += b"\0" if vr == b"UI" else b" "
    return struct.pack("<HH2sH", 2, element, vr, len(value)) + value


def _measure(path: Path, key: str) -> StoredObject:
    """Read offset and digest back from a Part 10 file."""
    with path.open("rb") as file:
        beginning = file.read(_META_BEGIN + 12)
        offset = _META_BEGIN + 12 + _META_LENGTH.unpack_from(beginning, _META_BEGIN + 8)[0]
        file.seek(offset)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.seek(0, os.SEEK_END)
    return StoredObject(key=key, size=size, dataset_offset=offset, digest=digest)


def _new_key() -> str:
    return secrets.token_hex(16)


def _write_all(descriptor: int, data: memoryview) -> None:
    written = os.write(descriptor, data)
    while written < len(data):
        written += os.write(descriptor, data[written:])


@contextlib.contextmanager
def _out_of_resources() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # pydicom wraps errors of the disk in others without a number, with a traceback in their text.
        cause = error.__cause__ if error.errno is None and isinstance(error.__cause__, OSError) else error
        said = os.strerror(cause.errno) if cause.errno else (str(error).splitlines() or ["no reason"])[0]
        raise OutOfResources(f"storage failed: {said}") from error
