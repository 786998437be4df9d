"""Retention dies between the ledger's mark and the deletion: nothing that is wanted goes, and what is left is named."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from dicom_node.instance_store import InstanceStore
from dicom_node.ledger.arrivals import ArrivalLedger
from dicom_node.ledger.balance import BalanceLedger
from dicom_node.ledger.database import Database, ledger_url
from dicom_node.ledger.deliveries import DeliveryLedger
from dicom_node.ledger.reception import ReceivedInstance, ReceptionLedger
from dicom_node.states import ItemState
from dicom_node.verification import verify
from tests.support.fault_points import FaultFolder
from tests.support.node import PYTHON, REPOSITORY

_PURGE = """
import sys
from pathlib import Path
from dicom_node.housekeeping import Housekeeping
from dicom_node.instance_store import InstanceStore
from dicom_node.ledger.database import Database, ledger_url
from dicom_node.ledger.retention import RetentionLedger

folder = Path(sys.argv[1])
Housekeeping(
    watch=None, workflows=None, database=None, processes=None, reception=None, standing=None, care=None,
    store=InstanceStore(folder), keep_s=0.0,
    retention=RetentionLedger(Database(ledger_url("", folder))),
).purge()
"""


def purge(folder: Path, faults: FaultFolder) -> int:
    """Run retention in a process of its own; returns its exit code."""
    environment = {**os.environ, **faults.environment, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run([PYTHON, "-c", _PURGE, str(folder)], env=environment, check=False, timeout=60).returncode


def keep_series(folder: Path, series: int, *, is_delivered: bool) -> list[str]:
    """Store a series of two objects, pass it through, and deliver it or not; returns its keys."""
    store, database = InstanceStore(folder), Database(ledger_url("", folder))
    database.create()
    reception, arrivals, deliveries = ReceptionLedger(database, "r"), ArrivalLedger(database), DeliveryLedger(database)
    association = reception.open_association(calling_ae_title="A", called_ae_title="B", host="127.0.0.1", port=1)
    keys = []
    for number in range(2):
        uid = f"1.2.{series}.{number}"
        incoming = store.create(
            sop_class_uid="1.2", sop_instance_uid=uid, transfer_syntax_uid="1.2.840.10008.1.2", source_ae_title="A"
        )
        incoming.write(memoryview(f"object {uid}".encode()))
        stored = incoming.commit()
        reception.record_all(
            [
                ReceivedInstance(
                    association_id=association,
                    sop_class_uid="1.2",
                    sop_instance_uid=uid,
                    study_instance_uid=f"1.3.{series}",
                    series_instance_uid=f"1.4.{series}",
                    transfer_syntax_uid="1.2.840.10008.1.2",
                    key=stored.key,
                    size=stored.size,
                    dataset_offset=stored.dataset_offset,
                    digest=stored.digest,
                )
            ]
        )
        keys.append(stored.key)
    reception.close_association(association, outcome="released", acknowledged=2)
    (arrival,) = arrivals.idle()
    assert arrivals.complete(arrival.arrival_id, last_activity_at=arrival.last_activity_at)
    arrivals.conclude(
        arrival.arrival_id, destinations=("pacs",), send_original=True, send_enhanced=False, late="late", report=None
    )
    (delivery,) = deliveries.due()
    deliveries.begin(delivery.delivery_id, delivery.attempts)
    taken = deliveries.take_objects(delivery.delivery_id)
    state, failure = (ItemState.SENT, None) if is_delivered else (ItemState.PENDING, "no answer")
    for obj in taken:
        deliveries.record_item(delivery.delivery_id, obj.instance_id, state, status=0, reason=None)
    deliveries.settle(delivery.delivery_id, failure=failure, retry_in_s=3600.0)
    database.close()
    return keys


@pytest.mark.parametrize("point", ["retention.marked", "retention.deleted"])
def test_retention_that_dies_on_its_way_deletes_nothing_that_is_undelivered(tmp_path: Path, point: str) -> None:
    folder, faults = tmp_path / "data", FaultFolder(tmp_path / "faults")
    delivered = keep_series(folder, 1, is_delivered=True)
    waiting = keep_series(folder, 2, is_delivered=False)
    faults.arm(point)
    assert purge(folder, faults) == -signal.SIGKILL
    assert purge(folder, faults) == 0
    store, database = InstanceStore(folder), Database(ledger_url("", folder))
    found = verify(BalanceLedger(database), store, deep=True)
    database.close()
    assert found.ok, found
    assert set(waiting) <= set(store.keys())
    # Marked and not deleted: files that the ledger wants no more, and `verify` names each of them.
    left = set(store.keys()) - set(waiting)
    assert left == set(found.orphans) <= set(delivered)
