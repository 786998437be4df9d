"""What a backup holds: each file with its size and SHA-256, written last, so that a folder without it is no backup."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dicom_node.errors import OperationRefused

NAME: Final = "manifest.json"
FORMAT: Final = 1
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The table of contents of a backup.

    Parameters
    ----------
    program, schema_version
        Versions of the program and of the ledger's tables.
    node
        Name of the node.
    at
        The moment that the ledger is of, in seconds since the epoch.
    database
        sqlite or postgresql.
    objects
        Which objects are in it: undelivered, all or none.
    files
        Path below the backup -> size in bytes and SHA-256 in hexadecimal digits.
    missing, damaged
        Keys of objects that the node itself did not have, or not as they were received.
    """

    program: str
    schema_version: int
    node: str
    at: float
    database: str
    objects: str
    files: dict[str, tuple[int, str]]
    missing: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()
    format: int = field(default=FORMAT)

    def write(self, folder: Path) -> None:
        """Write it into the folder of the backup; the caller syncs it."""
        written = dataclasses.asdict(self)
        (folder / NAME).write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(size for size, _ in self.files.values())


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a backup; raises `OperationRefused` if the folder is none."""
    try:
        read: dict[str, Any] = json.loads((folder / NAME).read_text(encoding="utf-8"))
        if read["format"] != FORMAT:
            raise OperationRefused(f"{folder} was made by another version of dicom-node: restore it with that one")
        files = {str(path): (int(size), str(digest)) for path, (size, digest) in read.pop("files").items()}
        missing, damaged = tuple(read.pop("missing")), tuple(read.pop("damaged"))
        return Manifest(**read, files=files, missing=missing, damaged=damaged)
    except FileNotFoundError:
        raise OperationRefused(
            f"{folder} holds no {NAME}: it is no backup, or one that was interrupted; name another folder"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OperationRefused(
            f"{folder / NAME} can't be read ({type(error).__name__}): name another backup"
        ) from error


def file_entry(path: Path) -> tuple[int, str]:
    """Return size and SHA-256 of a file, read from the disk."""
    digest = hashlib.sha256()
    size = 0
    with path.open("rb", buffering=0) as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


def faults_of(folder: Path, manifest: Manifest) -> list[str]:
    """Return what is wrong with the files of a backup; nothing where all are there as they were written."""
    found = []
    for name, (size, digest) in manifest.files.items():
        path = folder / name
        if path.is_symlink() or not path.resolve().is_relative_to(folder.resolve()):
            found.append(f"{name} leads out of the backup")
            continue
        try:
            actual = file_entry(path)
        except OSError as error:
            found.append(f"{name} can't be read ({error.strerror})")
            continue
        if actual != (size, digest):
            found.append(f"{name} is not what was written")
    return found
