"""What must hold at a PACS whatever was killed on the way."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

from pydicom import dcmread

from tests.support.node import RunningNode
from tests.support.peers import ReceivedObject, read_part10


def check_pacs(objects: Iterable[ReceivedObject], sent: Iterable[Path], node: RunningNode | None) -> None:
    """Check that every image is there, under one UID, and no UID stands for two contents.

    An object may have come twice (the PACS had it, its answer was lost), but then with the same bytes. What the node
    keeps is looked at where it is given.
    """
    contents: dict[str, set[bytes]] = {}
    represented: dict[str, set[str]] = {}
    for obj in objects:
        contents.setdefault(obj.sop_instance_uid, set()).add(obj.data)
        ds = dcmread(io.BytesIO(obj.data), force=True, specific_tags=["SourceImageSequence"])
        sources = ds.get("SourceImageSequence")
        source = str(sources[0].ReferencedSOPInstanceUID) if sources else obj.sop_instance_uid
        represented.setdefault(source, set()).add(obj.sop_instance_uid)
    doubled = {uid for uid, found in contents.items() if len(found) > 1}
    assert not doubled, f"UIDs with two contents: {doubled}"
    originals = {obj.sop_instance_uid: obj.data for obj in map(read_part10, sent)}
    assert set(represented) == set(originals), "images are missing, or others came"
    renamed = {source: uids for source, uids in represented.items() if len(uids) > 1}
    assert not renamed, f"images under two UIDs: {renamed}"
    for uid, found in contents.items():
        if uid in originals:
            assert found == {originals[uid]}, f"{uid} is not bit-exact"
    if node is not None:
        check_originals(originals, node)


def check_originals(originals: dict[str, bytes], node: RunningNode) -> None:
    """Check that the node keeps every original as it was sent."""
    rows = node.rows("SELECT sop_instance_uid, key, dataset_offset FROM instance WHERE origin = 'received'")
    kept = {}
    for uid, key, offset in rows:
        assert uid not in kept, f"{uid} was recorded twice"
        kept[uid] = (node.data_dir / "objects" / key[:2] / f"{key}.dcm").read_bytes()[offset:]
    assert kept == originals
