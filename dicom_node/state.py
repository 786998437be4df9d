"""What the node keeps, opened: its ledger and its instance store, or a clear word why not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from config.settings import Settings
from dicom_node.errors import LedgerUnavailable, NodeError
from dicom_node.instance_store import InstanceStore
from dicom_node.ledger.balance import BalanceLedger
from dicom_node.ledger.database import Database, ledger_url
from dicom_node.ledger.deliveries import DeliveryLedger
from dicom_node.object_cache import ObjectCache
from dicom_node.object_keeping import FolderKeeper, StoreUnavailable

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
def open_state(settings: Settings) -> Iterator[State]:
    """Open the ledger and the instance store, creating what is missing.

    Raises
    ------
    StartRefused
        If the data folder can't be written or the database can't be reached.
    """
    data_dir = settings.node.data_dir
    try:
        store = open_store(settings)
    except StoreUnavailable as error:
        place = f"bucket {settings.storage.bucket}"
        raise StartRefused(
            f"{error} ({place} does not answer): check [storage], and the credentials in the environment", EXIT_DATA_DIR
        ) from error
    except OSError as error:
        raise StartRefused(
            f"{error.filename or data_dir} can't be written ({error.strerror}): give it to the user that runs the node",
            EXIT_DATA_DIR,
        ) from error
    database = Database(ledger_url(settings.node.database_url, data_dir))
    try:
        database.create()
    except LedgerUnavailable as error:
        raise StartRefused(f"{error}: check node.database_url, and that the database runs", EXIT_LEDGER) from error
    try:
        yield State(settings=settings, database=database, store=store)
    finally:
        database.close()
