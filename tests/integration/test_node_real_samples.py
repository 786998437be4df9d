"""Real objects of many makers through the whole node: nothing is silently gone."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dicom_node.sending import NotSendable, read_item
from tests.support.node import PYTHON, REPOSITORY, CALLING, destination, running_node
from tests.support.peers import LOOPBACK, DcmtkStorescp, Orthanc, read_part10, requires_dcmtk, requires_orthanc

# DCMTK's dcmsend reads these wrongly or not at all (no SOP Instance UID, damaged, a DICOMDIR ...): our own sender is
# asked for them instead, and says of each what is wrong.



@requires_dcmtk
@requires_orthanc
@pytest.mark.timeout(600)
def test_every_sample_is_enhanced_passed_through_or_refused_and_nothing_is_lost(
    test_data: Path, tmp_path: Path, record_property: Any
) -> None:
    with (test_data / "dicom" / "MANIFEST.csv").open(newline="") as stream:
        names = [row["file"] for row in csv.DictReader(stream)]
    files = sorted(test_data / "dicom" / name for name in names)
    assert files
    with DcmtkStorescp(tmp_path / "storescp") as storescp, Orthanc(tmp_path / "orthanc") as orthanc:
        destinations = [
            destination("storescp", storescp.port, "STORESCP"),
            destination("orthanc", orthanc.port, "ORTHANC"),
        ]
        with running_node(tmp_path / "node", destinations=destinations) as node:
            sent = node.send(*files)
            answered = Counter(line.strip() for line in sent.stdout.splitlines() if "Received Store Response" in line)
            report = run_send(node.port, files)
            print(answered, report)
            total = node.verify(deep=False).balance.total
            found = node.verify(deep=False)
            node.wait_until_idle(timeout_s=400)
            found = node.verify()
            assert found.ok, found
            total = found.balance.total
            print(total)
            for letter in node.command("queue", "list")["deliveries"]:
                print(letter["destination"], letter["series_instance_uid"], letter["refused"], letter["reason"])
            for row in node.rows(
                "SELECT instance.sop_class_uid, instance.transfer_syntax_uid, decision, enhancement.reason "
                "FROM enhancement JOIN instance ON instance.id = instance_id ORDER BY 3, 4"
            ):
                print(*row)
