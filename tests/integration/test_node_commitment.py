"""The whole node between peers that commit: Orthanc on both sides, and a PACS that answers after a power cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.commitment import MockCommitmentPacs, bring_report, report_dataset
from tests.support.node import RunningNode, default_routes, destination
from tests.support.peers import LOOPBACK, Orthanc, find_free_port, requires_dcmtk, requires_orthanc, wait_until
from tests.support.radiographs import write_radiographs

pytestmark = [requires_dcmtk]

SOON = {"delay_s": 0, "wait_s": 0.5}


def source(port: int | None, ae_title: str = "XRAY1", **changes: Any) -> dict[str, Any]:
    commitment = {"host": LOOPBACK, **({"port": port} if port else {}), **changes}
    return {"name": "xray", "ae_titles": [ae_title], "hosts": ["127.0.0.0/8"], "commitment": commitment}


@requires_orthanc
def test_orthanc_asks_the_node_and_the_node_asks_orthanc(tmp_path: Path) -> None:
    node_port = find_free_port()
    known = {"DicomModalities": {"node": {"AET": "LOWDOSE", "Host": LOOPBACK, "Port": node_port}}}
    known["DicomModalities"]["node"]["AllowStorageCommitment"] = True
    with (
        Orthanc(tmp_path / "pacs", ae_title="PACS", configuration=known) as pacs,
        Orthanc(tmp_path / "modality", ae_title="XRAY1", configuration=known) as modality,
    ):
        node = RunningNode(
            tmp_path / "node",
            destinations=[destination("pacs", pacs.port, commitment=SOON)],
            routes=default_routes("pacs", send=["original", "enhanced"]),
            node={"port": node_port},
            sources=[source(modality.port)],
        )
        node.port = node_port
        with node:
            paths = write_radiographs(tmp_path / "study", 2)
            ids = [modality.upload(path) for path in paths]
            job = json.loads(
                modality._get(
                    "/modalities/node/store",
                    json.dumps({"Resources": ids, "StorageCommitment": True, "Synchronous": True}).encode(),
                )
            )
            transaction = job["StorageCommitmentTransactionUID"]
            path = f"/storage-commitment/{transaction}"

            def answer() -> dict[str, Any]:
                return dict(json.loads(modality._get(path)))

            wait_until(lambda: answer()["Status"] != "Pending", timeout_s=90, what="the node's answer to Orthanc")
            found = answer()
            assert found["Status"] == "Success", found
            assert found["RemoteAET"] == "LOWDOSE"
            assert len(found["Success"]) == 2
            assert node.rows("SELECT DISTINCT state FROM delivery") == [("committed",)]
            # Originals and enhanced images.
            assert len(pacs.instances()) == 4
            assert node.rows("SELECT count(*) FROM delivery_item WHERE committed_at IS NULL") == [(0,)]
            assert node.command("commitment", "list", "--all")["deliveries"][0]["committed"] == 4
            assert node.command("commitment", "requests", "--all")["requests"][0]["state"] == "reported"
            assert node.command("status")["commitment"]["committed"] == 1

            # What the node has never seen.
            other = modality.upload(write_radiographs(tmp_path / "other", 1, series=9)[0])
            request = json.loads(
                modality._get("/modalities/node/storage-commitment", json.dumps({"Resources": [other]}).encode())
            )
            path = f"/storage-commitment/{request['ID']}"
            wait_until(lambda: answer()["Status"] != "Pending", timeout_s=60, what="the node's answer to Orthanc")
            assert answer()["Status"] == "Failure"
            assert answer()["Failures"][0]["Description"].endswith("was not available")


def test_a_power_cut_between_request_and_report_loses_nothing_and_what_failed_goes_again(tmp_path: Path) -> None:
    with (
        MockCommitmentPacs() as pacs,
        RunningNode(
            tmp_path / "node",
            destinations=[destination("pacs", pacs.port, commitment=SOON)],
            retention={"keep_h": 0},
        ) as node,
    ):
        assert node.send(*write_radiographs(tmp_path / "study", 1)).returncode == 0
        asked = pacs.wait_for(0)
        node.kill_everything()
        node.start()
        report = report_dataset(asked.transaction_uid, failed=dict.fromkeys(asked.instances, 0x0112))
        assert bring_report(node.port, report) == 0x0000
        second = pacs.wait_for(1)
        assert second.instances == asked.instances
        assert second.transaction_uid != asked.transaction_uid
        assert len(pacs.stored) == 2
        assert node.rows("SELECT DISTINCT state FROM instance") == [("stored",)]
        assert node.verify().ok
        assert bring_report(node.port, report_dataset(second.transaction_uid, second.instances)) == 0x0000
        assert node.rows("SELECT state FROM delivery") == [("committed",)]
        found = node.verify()
        assert found.ok
        assert (found.balance.total.received, found.balance.total.delivered) == (1, 1)
