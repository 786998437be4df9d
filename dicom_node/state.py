"""What the node keeps, opened: its ledger and its instance store, or a clear word why not."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from config.settings import Settings
from dicom_node.disk_space import RESERVE_FILE, Reserve, measure
from dicom_node.errors import LedgerOutdated, LedgerUnavailable, NodeError
from dicom_node.instance_store import InstanceStore
from dicom_node.ledger.balance import BalanceLedger
from dicom_node.ledger.database import Database, ledger_url
from dicom_node.ledger.deliveries import DeliveryLedger
from dicom_node.ledger.destinations import DestinationLedger
from dicom_node.ledger.operations import OperationLedger
from dicom_node.object_cache import ObjectCache
from dicom_node.object_keeping import FolderKeeper, StoreUnavailable

log = logging.getLogger(__name__)
# SQLite opens its log's index with 32 KB, and the log itself a page at a time.
_NO_ROOM = 1 << 20

RESTORING = "restore-unfinished"
"""File in the data folder while a backup is brought back; left behind by a restore that was interrupted."""
_DATA_DIR_ADVICE = {
    errno.ENOSPC: "make room on its disk",
    errno.EDQUOT: "make room on its disk",
    errno.EACCES: "give it to the user that runs the node",
    errno.EPERM: "give it to the user that runs the node",
    errno.EROFS: "mount its file system for writing, or name another node.data_dir",
    errno.EEXIST: "what lies there is no folder; name another node.data_dir",
    errno.ENOTDIR: "what lies there is no folder; name another node.data_dir",
    errno.EIO: "its disk fails: see the kernel's log",
}

EXIT_OK = 0
EXIT_FOUND_FAULTS = 1
EXIT_USAGE = 2
EXIT_PORT = 3
EXIT_LEDGER = 4
EXIT_DATA_DIR = 5
FATAL_CODES = frozenset({EXIT_USAGE, EXIT_PORT, EXIT_LEDGER, EXIT_DATA_DIR})


class StartRefused(NodeError):
    """A role can't start; `exit_code` says why to scripts, the message to people."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, kw_only=True)
class State:
    """What the node keeps: its ledger and its objects."""

    settings: Settings
    database: Database
    store: InstanceStore

    @property
    def balance(self) -> BalanceLedger:
        """The ledger's side that counts."""
        return BalanceLedger(self.database)

    @property
    def deliveries(self) -> DeliveryLedger:
        """The ledger's side that delivers."""
        return DeliveryLedger(self.database)

    @property
    def standings(self) -> DestinationLedger:
        """The ledger's side that knows how destinations stand."""
        return DestinationLedger(self.database)

    @property
    def operations(self) -> OperationLedger:
        """The ledger's side that an operator works on."""
        return OperationLedger(self.database)


def _close_to_others(data_dir: Path) -> None:
    """Take a data folder that was there before away from everybody but its owner: files of libraries lie in it too."""
    # Who is not the owner was let in by whoever is.
    with suppress(OSError):
        if stat.S_IMODE(data_dir.stat().st_mode) & 0o077:
            data_dir.chmod(0o700)
            log.warning("The data folder was open to others than its owner", extra={"data_dir": str(data_dir)})


def open_store(settings: Settings) -> InstanceStore:
    """Open the instance store where the settings say.

    Raises
    ------
    OSError
        If a folder can't be made or written.
    StoreUnavailable
        If the bucket does not answer.
    """
    root, storage = settings.node.data_dir, settings.storage
    if storage.objects == "s3":
        # The client of S3 is an extra of the product.
        from dicom_node.object_bucket import BucketKeeper, BucketPlace, open_bucket

        place = BucketPlace(
            bucket=storage.bucket, prefix=storage.prefix, region=storage.region, endpoint=storage.endpoint
        )
        cache = ObjectCache(root / "cache", root / "incoming", storage.cache_mb << 20)
        bucket = BucketKeeper(open_bucket(place), cache)
        bucket.check()
        return InstanceStore(root, bucket)
    if storage.folder is not None:
        # A file is renamed into place only within a file system; each node sweeps what it left itself.
        keeper = FolderKeeper(storage.folder)
        return InstanceStore(root, keeper, storage.folder / "incoming" / settings.node.name)
    return InstanceStore(root)


@contextmanager
def open_state(
    settings: Settings, *, thorough: bool = False, database_timeout_s: float | None = None
) -> Iterator[State]:
    """Open the ledger and the instance store, creating what is missing.

    Parameters
    ----------
    thorough
        Also have the database look for damage, which reads all of a SQLite file.
    database_timeout_s
        Longest wait for an answer of the database, in seconds, where that of the settings is too short.

    Raises
    ------
    StartRefused
        If the data folder can't be written, the database can't be reached, or its tables are of another version.
    """
    data_dir = settings.node.data_dir
    if os.path.exists(data_dir / RESTORING):
        raise StartRefused(f"{data_dir} holds half a backup: do `dicom-node restore` again, to its end", EXIT_DATA_DIR)
    try:
        store = open_store(settings)
        _close_to_others(data_dir)
    except StoreUnavailable as error:
        place = f"bucket {settings.storage.bucket}"
        raise StartRefused(
            f"{error} ({place} does not answer): check [storage], and the credentials in the environment", EXIT_DATA_DIR
        ) from error
    except OSError as error:
        advice = _DATA_DIR_ADVICE.get(error.errno or 0, "correct node.data_dir")
        raise StartRefused(
            f"{error.filename or data_dir} can't be written ({error.strerror}): {advice}", EXIT_DATA_DIR
        ) from error
    database = Database(
        ledger_url(settings.node.database_url, data_dir),
        timeout_s=database_timeout_s or settings.node.database_timeout_s,
    )
    try:
        _open(database, data_dir)
        if thorough:
            database.check()
    except LedgerUnavailable as error:
        raise StartRefused(f"{error}: {_ledger_advice(settings)}", EXIT_LEDGER) from error
    except LedgerOutdated as error:
        raise StartRefused(str(error), EXIT_LEDGER) from error
    try:
        yield State(settings=settings, database=database, store=store)
    finally:
        database.close()


def _open(database: Database, data_dir: Path) -> None:
    try:
        database.create()
    except LedgerUnavailable:
        # A node that ended over its full disk must start again, or nobody would make room on it.
        if measure(data_dir).free_bytes >= _NO_ROOM or not Reserve(data_dir / RESERVE_FILE, 0).release():
            raise
        database.create()


def _ledger_advice(settings: Settings) -> str:
    url = settings.node.database_url
    if url.startswith("postgresql"):
        return "check node.database_url, and that the database runs"
    path = url.removeprefix("sqlite:///") if url else settings.node.data_dir / "ledger.sqlite"
    return (
        f"the ledger is the file {path}; see that the node's user may write it and its folder, and that the disk has "
        "room; if it is damaged, keep it and the objects and restore it as docs/storage.md says"
    )
