"""A file that decayed in the store is never sent as if it were the image, and a resend heals it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.modality import ModalityAssociation
from tests.support.node import RunningNode, destination, running_node
from tests.support.peers import MockScp, find_free_port, read_part10, requires_dcmtk, wait_until
from tests.support.radiographs import CT, write_radiographs

pytestmark = requires_dcmtk


def damage(node: RunningNode, uid: str) -> Path:
    """Change one bit of the stored pixels."""
    ((key,),) = node.rows(f"SELECT key FROM instance WHERE sop_instance_uid = '{uid}'")
    path = node.data_dir / "objects" / key[:2] / f"{key}.dcm"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    return path


def test_a_damaged_original_is_not_sent_and_a_resend_heals_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # CT is passed through by the routes of the tests.
    bad_path, good_path, gone_path = write_radiographs(tmp_path / "in", 3, sop_class=CT)
    bad, good, gone = map(read_part10, (bad_path, good_path, gone_path))
    port = find_free_port()
    with running_node(tmp_path / "node", destinations=[destination("pacs", port)]) as node:
        with ModalityAssociation(node.port) as association:
            assert {association.store_object(obj) for obj in (bad, good, gone)} == {0}
            association.release()
        node.wait_for_rows("SELECT 1 FROM delivery WHERE attempts > 0")
        damage(node, bad.sop_instance_uid)
        missing = damage(node, gone.sop_instance_uid)
        missing.rename(tmp_path / "elsewhere")
        found = node.command("verify", "--deep", exit_codes=(1,))
        assert [len(found[name]) for name in ("damaged_files", "missing_files")] == [1, 1]
        assert node.command("status")["object_checks"]["faults"] == 2
        with MockScp(port=port) as pacs:
            wait_until(lambda: len(pacs.objects) == 1, what="the sound one")
            # The rest of the delivery waits for the file that is gone; the damaged one is refused.
            rows = "SELECT 1 FROM delivery_item WHERE state = 'refused' AND reason LIKE '%SHA-256%'"
            node.wait_for_rows(rows)
            with ModalityAssociation(node.port) as association:
                assert {association.store_object(obj) for obj in (bad, gone)} == {0}
                association.release()
            assert node.command("verify", "--deep")["ok"]
            node.wait_for_rows("SELECT 1 FROM delivery WHERE state = 'refused'")
            node.command("queue", "retry", "--destination", "pacs")
            node.wait_balanced(3)
            assert {obj.sop_instance_uid: obj.data for obj in pacs.objects} == {
                obj.sop_instance_uid: obj.data for obj in (bad, good, gone)
            }
        # Gone on where it was: nothing is read twice within the hour.
        again = node.command("verify", "--deep", "--skip-checked-h", "1")
        assert (again["read_bytes"], again["skipped_files"]) == (0, 3)
        assert node.command("status")["disks"][0]["state"] == "ok"
