"""A backup of a node that goes on working: its ledger of one moment, and every object that the ledger needs.

The ledger is copied first, then the objects that it names. What retention deleted in between makes the copy of the
ledger too old, so it is copied again, until the two fit. What arrives in between is in neither, and is never half in.
The workflow engine's state is left out: the ledger starts all work again (decision 4).
"""

from __future__ import annotations

import enum
import errno
import logging
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, create_engine, select, text
from sqlalchemy.exc import SQLAlchemyError

from config.settings import Settings
from dicom_node import __version__
from dicom_node.app import only_one
from dicom_node.backup_manifest import Manifest, file_entry
from dicom_node.certificate_uses import uses
from dicom_node.commitment_peers import committing
from dicom_node.database_copies import copy_sqlite, dump_postgres, sync_file, sync_folder
from dicom_node.errors import OperationRefused
from dicom_node.fault_points import fault_point
from dicom_node.identifiers import KEY_FILE, key_file
from dicom_node.integrity import Finding, examine
from dicom_node.ledger import schema
from dicom_node.ledger.balance import StoredFile
from dicom_node.ledger.database import MIGRATION_S, patiently
from dicom_node.ledger.retention import is_deletable
from dicom_node.object_keeping import QUARANTINED, StoreUnavailable
from dicom_node.state import State
from dicom_node.states import InstanceState

log = logging.getLogger(__name__)

_PASSES = 8
_FOREVER = 1e12


class Objects(enum.StrEnum):
    """Which objects a backup holds."""

    UNDELIVERED = "undelivered"  # what some destination does not have, or has yet to commit, and quarantine
    ALL = "all"
    NONE = "none"


@dataclass(frozen=True, kw_only=True)
class BackupRequest:
    """What is wanted of a backup.

    Parameters
    ----------
    settings_file
        Goes into it.
    target
        Folder of the backup; must not exist, or be empty.
    with_certificates
        Certificates and private keys that the settings name go into it too.
    """

    settings_file: Path
    target: Path
    objects: Objects = Objects.UNDELIVERED
    with_certificates: bool = False


def back_up(
    state: State,
    request: BackupRequest,
    *,
    clock: Callable[[], float] = time.time,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Manifest:
    """Make a backup and read it again; the folder has its name only when it is whole.

    Parameters
    ----------
    on_progress
        Called with the bytes of objects that were copied, and all of them.

    Raises
    ------
    OperationRefused
        If the target can't be written, holds something, or has no room, or the ledger can't be copied.
    """
    target = request.target.absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise OperationRefused(f"{target} holds something already: name a new folder for each backup")
    partial = target.with_name(target.name + ".partial")
    with only_one(state.settings.node.data_dir, "backup"), _refusing(target):
        # One that was interrupted.
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700, parents=True)
        at = clock()
        wanted, missing = _copy_ledger_and_objects(state, request.objects, partial, on_progress)
        _copy_settings(state.settings, request, partial)
        files, damaged = _read_again(partial, wanted)
        fault_point("backup.objects")
        manifest = Manifest(
            program=__version__,
            schema_version=schema.SCHEMA_VERSION,
            node=state.settings.node.name,
            at=at,
            database=state.database.engine.dialect.name,
            objects=request.objects.value,
            files=files,
            missing=tuple(sorted(missing)),
            damaged=tuple(sorted(damaged)),
        )
        manifest.write(partial)
        for path in partial.rglob("*"):
            (sync_folder if path.is_dir() else sync_file)(path)
        sync_folder(partial)
        partial.rename(target)
        sync_folder(target.parent)
    return manifest


@contextmanager
def _refusing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        advice = (
            "make room there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "name a folder that can be written"
        )
        raise OperationRefused(f"{error.filename or target} can't be written ({error.strerror}): {advice}") from error


def _copy_ledger_and_objects(
    state: State, which: Objects, partial: Path, on_progress: Callable[[int, int], None]
) -> tuple[dict[str, StoredFile], set[str]]:
    """Copy until the copied ledger names nothing that is not copied; returns what it names, and what is nowhere."""
    gone: set[str] = set()
    for _ in range(_PASSES):
        wanted = _copy_ledger(state, which, partial)
        fault_point("backup.ledger")
        before, gone = gone, _copy_objects(state, wanted, partial, on_progress)
        # Gone twice: it was not retention, the file is lost. The backup says so, and holds what there is.
        if not gone - before:
            break
    else:
        raise OperationRefused(
            "objects are deleted faster than they are copied: try again when the node has less to do"
        )
    for path in [*partial.glob("objects/*/*.dcm"), *partial.glob("quarantine/*.dcm")]:
        if path.stem not in wanted:
            path.unlink()
    return {key: file for key, file in wanted.items() if key not in gone}, gone


def _copy_ledger(state: State, which: Objects, partial: Path) -> dict[str, StoredFile]:
    """Copy the ledger; returns the objects that this copy needs, by key."""
    names = list(committing(state.settings))
    url = state.settings.node.database_url
    if state.database.engine.dialect.name == "sqlite":
        copy = partial / "ledger.sqlite"
        copy.unlink(missing_ok=True)
        copy_sqlite(Path(str(state.database.engine.url.database)), copy)
        engine = create_engine(f"sqlite:///{copy}")
        try:
            with engine.connect() as connection:
                return _needed(connection, which, names)
        finally:
            engine.dispose()
    (partial / "ledger.dump").unlink(missing_ok=True)
    try:
        reading = state.database.engine.connect().execution_options(isolation_level="REPEATABLE READ")
        with reading as connection, patiently(connection, MIGRATION_S):
            moment = connection.scalar(text("SELECT pg_export_snapshot()"))
            dump_postgres(url, partial / "ledger.dump", snapshot=moment)
            return _needed(connection, which, names)
    except SQLAlchemyError as error:
        raise OperationRefused(f"the ledger can't be read: {str(error).splitlines()[0]}") from error


def _needed(connection: Connection, which: Objects, committing_names: Collection[str]) -> dict[str, StoredFile]:
    if which is Objects.NONE:
        return {}
    instance, arrival = schema.instance, schema.arrival
    rows = connection.execute(
        select(instance.c.id, instance.c.key, instance.c.size, instance.c.dataset_offset, instance.c.digest).where(
            instance.c.state != InstanceState.PURGED.value
        )
    ).all()
    spared: set[int] = set()
    if which is Objects.UNDELIVERED:
        query = (
            select(instance.c.id)
            .join(arrival, arrival.c.id == instance.c.arrival_id)
            .where(is_deletable(_FOREVER, committing_names))
        )
        spared = set(connection.scalars(query))
    return {
        row.key: StoredFile(key=row.key, size=row.size, dataset_offset=row.dataset_offset, digest=row.digest)
        for row in rows
        if row.id not in spared
    }


def place_of(key: str) -> str:
    """Return where an object lies in a backup."""
    return f"quarantine/{key}.dcm" if key.startswith(QUARANTINED) else f"objects/{key[:2]}/{key}.dcm"


def _copy_objects(
    state: State, wanted: dict[str, StoredFile], partial: Path, on_progress: Callable[[int, int], None]
) -> set[str]:
    """Copy what is not there yet; returns the keys of objects that are not in the store."""
    total, done = sum(file.size for file in wanted.values()), 0
    left = [key for key in wanted if not (partial / place_of(key)).exists()]
    needed = sum(wanted[key].size for key in left)
    if left and not _can_link(state.store.path(left[0]), partial) and needed > shutil.disk_usage(partial).free:
        raise OperationRefused(
            f"the objects take {needed / 1e6:.0f} MB, and {shutil.disk_usage(partial).free / 1e6:.0f} MB are free in "
            f"{partial.parent}: make room, name another folder, or leave them out by --objects none"
        )
    gone = set()
    with state.store.held() as locate:
        for key in left:
            copy = partial / place_of(key)
            copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                source = locate(key)
                _link_or_copy(source, copy)
            except FileNotFoundError:
                gone.add(key)
                continue
            except StoreUnavailable as error:
                raise OperationRefused(f"an object can't be fetched: {error}; try again later") from error
            reason = source.with_suffix(".txt")
            if key.startswith(QUARANTINED) and reason.exists():
                shutil.copyfile(reason, copy.with_suffix(".txt"))
            done += wanted[key].size
            on_progress(done, total)
    return gone


def _can_link(source: Path, partial: Path) -> bool:
    try:
        return source.stat().st_dev == partial.stat().st_dev
    except OSError:
        return False


def _link_or_copy(source: Path, copy: Path) -> None:
    """Give an object a second name where both are on one file system; objects are never written to again."""
    try:
        os.link(source, copy)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            raise
        shutil.copyfile(source, copy)
        copy.chmod(0o600)


def _copy_settings(settings: Settings, request: BackupRequest, partial: Path) -> None:
    # It may hold the password of a database.
    kept = partial / "node.toml"
    kept.touch(mode=0o600)
    shutil.copyfile(request.settings_file, kept)
    # Without it the studies of the ledger are not found by patient and order any more.
    if (key := key_file(settings)).exists():
        (partial / KEY_FILE).touch(mode=0o600)
        shutil.copyfile(key, partial / KEY_FILE)
    if not request.with_certificates:
        return
    folder = partial / "certificates"
    folder.mkdir(mode=0o700)
    named = [path for use in uses(settings) for path in (use.path, use.key) if path is not None]
    for number, path in enumerate(dict.fromkeys(named)):
        copy = folder / f"{number:02d}-{path.name}"
        copy.touch(mode=0o600)
        shutil.copyfile(path, copy)


def _read_again(partial: Path, wanted: dict[str, StoredFile]) -> tuple[dict[str, tuple[int, str]], set[str]]:
    """Return size and SHA-256 of every file, and the keys of objects that are not what was received."""
    damaged = {
        key
        for key, file in wanted.items()
        if examine(partial / place_of(key), file, from_disk=True).finding is not Finding.SOUND
    }
    files = sorted(path for path in partial.rglob("*") if path.is_file())
    return {str(path.relative_to(partial)): file_entry(path) for path in files}, damaged
