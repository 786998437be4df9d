"""Real objects of many makers through the whole node: nothing is silently gone."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

from tests.support.node import RunningNode, destination, running_node
from tests.support.peers import DcmtkStorescp, Orthanc, read_part10, requires_dcmtk, requires_orthanc
from tests.support.sample_run import folder_samples, send_by_dcmtk, send_by_ourselves

# What DCMTK's storescp does not take reaches it uncompressed: JPEG lossless other than first-order prediction, HTJ2K.
MOST_TRANSCODED = 3


@requires_dcmtk
@requires_orthanc
@pytest.mark.timeout(600)
def test_every_sample_is_enhanced_passed_through_or_refused_and_nothing_is_lost(
    test_data: Path, tmp_path: Path
) -> None:
    files = [sample.path for sample in folder_samples(test_data / "dicom")]
    patience = {"dimse_timeout_s": 10, "retry": {"max_age_h": 0.005}}
    with DcmtkStorescp(tmp_path / "storescp") as storescp, Orthanc(tmp_path / "orthanc") as orthanc:
        destinations = [
            destination("storescp", storescp.port, "STORESCP", **patience),
            destination("orthanc", orthanc.port, "ORTHANC", **patience),
        ]
        with running_node(tmp_path / "node", destinations=destinations) as node:
            answered = send_by_dcmtk(node, files)
            left = [path for path in files if path.name not in answered]
            rest = send_by_ourselves(node, left)
            node.wait_until_idle(timeout_s=400)

            # Every file was acknowledged, or refused for a reason that the sender was told.
            statuses = Counter(answered.values())
            print("dcmsend:", {f"{status:04X}": count for status, count in statuses.items()})
            print("not sent by dcmsend:", [path.name for path in left])
            print("of these sent by ourselves:", rest["sent"])
            assert set(statuses) <= {0x0000, 0xA900, 0xC000}
            refused = [*rest["failed"], *rest["skipped"]]
            for one in refused:
                print("refused:", Path(one["path"]).name, one["reason"])
                assert one["reason"]
            assert rest["sent"] + len(refused) == len(left)
            cut_off = node.rows("SELECT count(*) FROM instance WHERE state = 'quarantined' AND reason LIKE '%cut off%'")
            assert cut_off == [(1,)], "one sample ends in the middle of its pixel data"

            found = node.verify()
            assert found.ok, found
            total = found.balance.total
            print(total)
            assert total.in_work == total.dead_letters
            # Same bytes under the same UID are one object; no acknowledged object has none.
            assert 0 < total.received - total.quarantined <= statuses[0] + rest["sent"]
            check_decisions(node)
            check_destination(node, "orthanc", None)
            check_destination(node, "storescp", storescp)


def check_decisions(node: RunningNode) -> None:
    """Check that each received object was enhanced, or passed through for a reason."""
    decided = node.rows(
        "SELECT decision, coalesce(enhancement.reason, ''), sop_class_uid FROM instance "
        "LEFT JOIN enhancement ON instance_id = instance.id WHERE origin = 'received' AND state = 'stored'"
    )
    print(Counter(row[0] for row in decided))
    assert {row[0] for row in decided} == {"enhanced", "passed_through"}
    assert all(row[1] for row in decided if row[0] == "passed_through")


def check_destination(node: RunningNode, name: str, storescp: DcmtkStorescp | None) -> None:
    """Check that a destination has every object, bit-exact, or that a dead letter says why not."""
    rows = node.rows(
        "SELECT delivery_item.state, digest, sop_instance_uid, coalesce(delivery_item.reason, delivery.reason), key "
        "FROM delivery_item JOIN delivery ON delivery.id = delivery_id "
        f"JOIN instance ON instance.id = instance_id WHERE destination = '{name}'"
    )
    assert {row[0] for row in rows} <= {"sent", "refused", "pending"}
    for row in rows:
        if row[0] != "sent":
            print(f"dead letter at {name}:", row[2], row[3])
            assert row[3]
    sent = {row[1]: row for row in rows if row[0] == "sent"}
    print(name, "sent", len(sent), "of", len(rows))
    if storescp is None:
        return
    there = {hashlib.sha256(read_part10(path).data).hexdigest(): path for path in storescp.received_folder.iterdir()}
    transcoded = {uid: node.data_dir / "objects" / key[:2] / f"{key}.dcm" for _, uid, key in missing(sent, there)}
    assert len(transcoded) <= MOST_TRANSCODED, transcoded
    others = [dcmread(there[digest]) for digest in there.keys() - sent.keys()]
    assert sorted(ds.SOPInstanceUID for ds in others) == sorted(transcoded)
    for ds in others:
        assert np.array_equal(ds.pixel_array, dcmread(transcoded[ds.SOPInstanceUID]).pixel_array)


def missing(sent: Mapping[str, Any], there: Mapping[str, Path]) -> list[tuple[str, str, str]]:
    """Return digest, SOP Instance UID and key of what was sent and is not there byte for byte."""
    return [(row[1], row[2], row[4]) for digest, row in sent.items() if digest not in there]
