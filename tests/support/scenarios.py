"""What the resilience suite tries, how often, and what was lost: a registry, and the invariants that each checks."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydicom import dcmread

from dicom_node.verification import Verification
from tests.support.peers import ReceivedObject, read_part10


class Checked(Protocol):
    """A node or a cluster; objects lie in `objects` below `data_dir`."""

    @property
    def data_dir(self) -> Path: ...

    def rows(self, query: str) -> list[Any]: ...

    def verify(self, *, deep: bool) -> Verification: ...


@dataclass(kw_only=True)
class Result:
    """What one scenario found.

    Attributes
    ----------
    tried
        How often the fault happened.
    acknowledged
        Objects for which a sender was told that they are safe.
    delivered
        Those among them that the destination had at the end, as they are or derived.
    lost, changed, doubled, renamed
        Acknowledged and nowhere; not bit-exact; one UID with two contents; one image under two UIDs.
    broken
        Sentences on everything else that must not be.
    figures
        Further measured values, by name and unit.
    """

    tried: int = 0
    acknowledged: int = 0
    delivered: int = 0
    lost: int = 0
    changed: int = 0
    doubled: int = 0
    renamed: int = 0
    broken: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """True if every invariant holds."""
        return not (self.lost or self.changed or self.doubled or self.renamed or self.broken)

    def as_json(self) -> dict[str, Any]:
        """Return the result for the report's file."""
        return {"ok": self.ok, **asdict(self)}

    def check(
        self,
        node: Checked,
        received: Iterable[ReceivedObject],
        acknowledged: Iterable[Path],
        *,
        refused: Iterable[str] = (),
    ) -> None:
        """Compare what senders were told with ledger, store and destination; to be called when the node is idle.

        Parameters
        ----------
        received
            Everything the destination stored, in the order in which it came.
        acknowledged
            Files whose senders were answered with success.
        refused
            UIDs of objects that the destination refused for good: a dead letter with its original kept.
        """
        originals = {obj.sop_instance_uid: obj.data for obj in map(read_part10, acknowledged)}
        contents: dict[str, set[bytes]] = {}
        under: dict[str, set[str]] = {}
        for obj in received:
            contents.setdefault(obj.sop_instance_uid, set()).add(obj.data)
            under.setdefault(_source(obj), set()).add(obj.sop_instance_uid)
        found = node.verify(deep=True)
        kept = _kept(node)
        self.acknowledged, self.delivered = len(originals), len(under.keys() & originals.keys())
        self.lost = len(originals.keys() - under.keys() - set(refused))
        self.changed = sum(kept.get(uid) != {data} for uid, data in originals.items())
        self.changed += sum(found != {originals[uid]} for uid, found in contents.items() if uid in originals)
        self.doubled = sum(len(found) > 1 for found in contents.values())
        self.renamed = sum(len(uids) > 1 for uids in under.values())
        if not found.ok:
            self.broken.append(f"verify: {found.missing} {found.damaged} {found.balance.findings}")
        if found.balance.total.in_work != found.balance.total.dead_letters:
            self.broken.append(f"the node is not idle: {found.balance.total}")
        self.figures["orphan files"] = len(found.orphans)


def _source(obj: ReceivedObject) -> str:
    ds = dcmread(io.BytesIO(obj.data), force=True, specific_tags=["SourceImageSequence"])
    sources = ds.get("SourceImageSequence")
    return str(sources[0].ReferencedSOPInstanceUID) if sources else obj.sop_instance_uid


def _kept(node: Checked) -> dict[str, set[bytes]]:
    kept: dict[str, set[bytes]] = {}
    for uid, key, offset in node.rows(
        "SELECT sop_instance_uid, key, dataset_offset FROM instance WHERE origin = 'received' AND state = 'stored'"
    ):
        data = (node.data_dir / "objects" / key[:2] / f"{key}.dcm").read_bytes()[offset:]
        kept.setdefault(uid, set()).add(data)
    return kept


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One line of the report.

    Parameters
    ----------
    name
        For ``--only``.
    tries
        What is tried, as one sentence.
    unit
        What `Result.tried` counts.
    run
        Takes a folder for its files and the share of the long form's counts that is asked for: 1 for all of them, 0
        for the short form that the test suite runs.
    """

    name: str
    tries: str
    unit: str
    run: Callable[[Path, float], Result]
