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
from dicom_node.ledger.destinations import DestinationLedger
from dicom_node.ledger.operations import OperationLedger

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
        store = InstanceStore(data_dir)
    except OSError as error:
        raise StartRefused(
            f"data_dir {data_dir} can't be written ({error.strerror}): give it to the user that runs the node",
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
