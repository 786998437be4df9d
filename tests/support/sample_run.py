"""Real objects through a node that runs: one file after another in, and for each what became of it on the way out."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pydicom
import pydicom.data
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

from dicom_node.derivation import find_differences, unexpected_differences
from dicom_node.derivation.eligibility import SOP_CLASSES
from dicom_node.errors import UnsupportedPixels
from dicom_node.part10 import open_part10
from dicom_node.pixels import iter_frames, read_spec
from tests.support.node import CALLING, PYTHON, REPOSITORY, RunningNode, destination, running_node
from tests.support.peers import LOOPBACK, DcmtkStorescp, Orthanc, read_part10
from tests.support.samples import DICOM_SAMPLES, SAMPLE_DATA
from tests.support.validators import new_dciodvfy_errors, new_dicom_validator_errors

PYDICOM_FILES: Final = Path(pydicom.data.__file__).parent / "test_files"
FURTHER_FOLDERS: Final = (
    SAMPLE_DATA / "radiographs" / "highbit_dicom",
    SAMPLE_DATA / "more" / "fluoroscopy_static_phantom",
)
NO_MATCH: Final = 0xA900
X_RAY_OR_CT: Final = re.compile(r"(X-Ray|XA|XRF|Radiograph|\bCT\b|Breast).*Image Storage")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A file to send, under the name that tables show."""

    name: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class Told:
    """What the program that sent a file says: the status of the response, or why there was none."""

    program: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How a delivered object differs from its source; `change` is None for an object that was passed through."""

    new_dciodvfy_errors: int
    new_dicom_validator_errors: int
    differing: int
    not_allowed: int
    change: int
    padding: int
    padding_kept: bool


@dataclass(frozen=True, kw_only=True)
class Passage:
    """What became of one file; texts are sentences for people, in the words of the ledger."""

    sample: Sample
    sop_class: str
    transfer_syntax: str
    received_as: str
    told: Told
    decision: str
    reason: str
    comparison: Comparison | None
    exact: str
    delivered: Mapping[str, str]


def folder_samples(folder: Path = DICOM_SAMPLES) -> list[Sample]:
    """Return every file of the folder of samples that its manifest names; AssertionError if one is not there."""
    with (folder / "MANIFEST.csv").open(newline="") as stream:
        names = {row["file"] for row in csv.DictReader(stream)}
    files = sorted(path for path in folder.iterdir() if {path.name, path.stem} & names)
    assert len(files) == len(names)
    return [Sample(name=path.name, path=path) for path in files]


def further_samples() -> list[Sample]:
    """Return real radiographs and angiographic cines that lie beside the folder of samples."""
    return [
        Sample(name=f"{folder.name}/{path.name}", path=path)
        for folder in FURTHER_FOLDERS
        for path in sorted(folder.glob("*.dcm"))
    ]


def pydicom_samples() -> list[Sample]:
    """Return the X-ray and CT images that ship with pydicom."""
    return [
        Sample(name=f"pydicom/{path.relative_to(PYDICOM_FILES).as_posix()}", path=path)
        for path in sorted(PYDICOM_FILES.rglob("*"))
        if path.is_file() and X_RAY_OR_CT.search(sop_class_name(path))
    ]


def sop_class_name(path: Path) -> str:
    """Return the name of a file's SOP class; empty if it is no DICOM file."""
    try:
        header = pydicom.dcmread(path, specific_tags=["SOPClassUID"], force=True)
        return UID(str(header.get("SOPClassUID", ""))).name
    except (InvalidDicomError, OSError, ValueError, EOFError):
        return ""


def transfer_syntax_name(path: Path) -> str:
    """Return the name of the transfer syntax that a file states; empty if it states none."""
    try:
        meta = pydicom.filereader.read_file_meta_info(path)
    except (InvalidDicomError, OSError, ValueError, EOFError):
        return ""
    return UID(str(meta.get("TransferSyntaxUID", ""))).name


def send_by_dcmtk(node: RunningNode, files: Sequence[Path]) -> dict[str, int]:
    """Send files with `dcmsend`; returns the status of each file that was answered, by name."""
    report = node.folder / "report.txt"
    report.unlink(missing_ok=True)
    node.send(*files, options=("--create-report-file", str(report)))
    found = {}
    for block in report.read_text(errors="replace").split("\n\n") if report.exists() else ():
        name = re.search(r"^Filename +: (.*)$", block, re.MULTILINE)
        status = re.search(r"^DIMSE Status +: 0x([0-9a-fA-F]{4})", block, re.MULTILINE)
        if name and status:
            found[Path(name[1]).name] = int(status[1], 16)
    return found


def send_by_ourselves(node: RunningNode, files: Sequence[Path]) -> dict[str, Any]:
    """Send files with `dicom-node send`; returns what it says."""
    target = f"LOWDOSE@{LOOPBACK}:{node.port}"
    done = subprocess.run(
        [PYTHON, "-m", "dicom_node", "send", *map(str, files), "--to", target, "--calling", CALLING, "--json"],
        capture_output=True,
        cwd=REPOSITORY,
        timeout=200,
        check=False,
    )
    return dict(json.loads(done.stdout))


def send_sample(node: RunningNode, sample: Sample) -> Told:
    """Send one file in an association of its own: `dcmsend`, or `dicom-node send` where that can't or is silent."""
    for status in send_by_dcmtk(node, [sample.path]).values():
        if status != NO_MATCH:
            return Told(program="dcmsend", text=f"{status:04X}")
    said = send_by_ourselves(node, [sample.path])
    for trouble in (*said["failed"], *said["skipped"]):
        return Told(program="dicom-node send", text=without_address(str(trouble["reason"])))
    return Told(program="dicom-node send", text="0000")


def without_address(reason: str) -> str:
    """Return a reason without the peer that it names: its port is another one each time."""
    return re.sub(r"^('\w+' \(\w+ at [0-9.:]+\)|\w+ at [0-9.:]+):? ", "", reason)


@dataclass(frozen=True, kw_only=True)
class SampleRun:
    """The outcome of all files, and the balance of the ledger at the end."""

    passages: tuple[Passage, ...]
    balance: Mapping[str, int]
    ok: bool


def run_samples(folder: Path, samples: Sequence[Sample]) -> SampleRun:
    """Send `samples` through a node with every class enabled to DCMTK's `storescp` and to Orthanc."""
    patience = {"dimse_timeout_s": 20, "retry": {"max_age_h": 0.01}}
    route = {
        "name": "all",
        "sop_classes": list(SOP_CLASSES),
        "quiet_period_s": 1,
        "deadline_s": 3600,
        "destinations": ["storescp", "orthanc"],
    }
    with DcmtkStorescp(folder / "storescp") as storescp, Orthanc(folder / "orthanc") as orthanc:
        destinations = [
            destination("storescp", storescp.port, "STORESCP", **patience),
            destination("orthanc", orthanc.port, "ORTHANC", **patience),
        ]
        with running_node(folder / "node", destinations=destinations, routes=[route]) as node:
            sent: list[tuple[Sample, Told, int | None]] = []
            for sample in samples:
                last = _last_received(node)
                told = send_sample(node, sample)
                now = _last_received(node)
                sent.append((sample, told, now if now != last else None))
            node.wait_until_idle(timeout_s=1800)
            outcome = _Outcome(node, storescp, orthanc)
            passages = tuple(outcome.passage(*entry) for entry in sent)
            found = node.verify()
            total = found.balance.total
            counts = {
                "received": total.received,
                "delivered": total.delivered,
                "in work": total.in_work,
                "of these dead letters": total.dead_letters,
                "quarantined": total.quarantined,
            }
            return SampleRun(passages=passages, balance=counts, ok=found.ok)


def _last_received(node: RunningNode) -> int:
    return int(node.rows("SELECT coalesce(max(id), 0) FROM instance WHERE origin = 'received'")[0][0])


class _Outcome:
    """Reads from the ledger and at the destinations what became of a file."""

    def __init__(self, node: RunningNode, storescp: DcmtkStorescp, orthanc: Orthanc) -> None:
        self._node = node
        self._folder = node.folder
        self._storescp = storescp
        self._orthanc = orthanc
        self._names: dict[str, str] = {}

    @cached_property
    def _instances(self) -> dict[int, Any]:
        rows = self._node.rows(
            "SELECT instance.id, state, coalesce(instance.reason, '') AS reason, revision, sop_class_uid, "
            "sop_instance_uid, transfer_syntax_uid, key, digest, decision, coalesce(enhancement.reason, '') AS why, "
            "derived_id FROM instance LEFT JOIN enhancement ON instance_id = instance.id"
        )
        return {row.id: row for row in rows}

    @cached_property
    def _items(self) -> dict[tuple[int, str], Any]:
        rows = self._node.rows(
            "SELECT instance_id, destination, delivery_item.state, "
            "coalesce(delivery_item.reason, delivery.reason, '') AS reason "
            "FROM delivery_item JOIN delivery ON delivery.id = delivery_id ORDER BY delivery.id"
        )
        return {(row.instance_id, row.destination): row for row in rows}

    @cached_property
    def _there(self) -> dict[str, Path]:
        """What `storescp` has, by the SHA-256 of the data set."""
        folder = self._storescp.received_folder
        return {hashlib.sha256(read_part10(path).data).hexdigest(): path for path in sorted(folder.iterdir())}

    @cached_property
    def _transcoded(self) -> dict[str, Path]:
        """What `storescp` has and the node does not have in these bytes, by SOP Instance UID."""
        ours = {row.digest for row in self._instances.values()}
        return {read_part10(path).sop_instance_uid: path for digest, path in self._there.items() if digest not in ours}

    def passage(self, sample: Sample, told: Told, instance_id: int | None) -> Passage:
        """Return what became of a file."""
        if instance_id is None:
            return self._without_instance(sample, told)
        row = self._instances[instance_id]
        self._names.setdefault(row.digest, sample.name)
        common: dict[str, Any] = {
            "sample": sample,
            "told": told,
            "sop_class": UID(row.sop_class_uid or "").name or sop_class_name(sample.path),
            "transfer_syntax": transfer_syntax_name(sample.path),
            "received_as": UID(row.transfer_syntax_uid or "").name,
        }
        if row.state == "quarantined":
            return Passage(**common, decision="quarantined", reason=row.reason, comparison=None, exact="", delivered={})
        sent = self._instances[row.derived_id] if row.decision == "enhanced" else row
        arrived = self._there.get(sent.digest) or self._transcoded.get(sent.sop_instance_uid)
        comparison, exact = None, ""
        if arrived is not None and row.decision == "enhanced":
            comparison = compare(self._path(row.key), arrived)
        elif arrived is not None:
            exact = "same bytes" if sent.digest in self._there else same_values(self._path(row.key), arrived)
        revision = [f"revision {row.revision} of its UID"] if row.revision else []
        return Passage(
            **common,
            decision=row.decision,
            reason="; ".join([*filter(None, [row.why]), *revision]),
            comparison=comparison,
            exact=exact,
            delivered={
                "storescp": self._delivery(sent, "storescp", arrived),
                "orthanc": self._delivery(sent, "orthanc", None),
            },
        )

    def _without_instance(self, sample: Sample, told: Told) -> Passage:
        decision, reason = "refused", ""
        if told.text == "0000":
            # What `dcmsend` has encoded anew is not in the file in these bytes.
            again = self._names.get(hashlib.sha256(read_part10(sample.path).data).hexdigest(), "one before, as sent")
            decision, reason = "known already", f"the same bytes as {again}"
        return Passage(
            sample=sample,
            sop_class=sop_class_name(sample.path),
            transfer_syntax=transfer_syntax_name(sample.path),
            received_as="",
            told=told,
            decision=decision,
            reason=reason,
            comparison=None,
            exact="",
            delivered={},
        )

    def _delivery(self, sent: Any, name: str, arrived: Path | None) -> str:
        item = self._items.get((sent.id, name))
        if item is None:
            return "not to be delivered"
        if item.state != "sent":
            return f"{item.state}: {without_address(item.reason)}"
        if arrived is not None:
            return UID(read_part10(arrived).transfer_syntax_uid).name
        if name == "orthanc" and self._orthanc.find(sent.sop_instance_uid) is not None:
            stored = self._folder / "stored.dcm"
            stored.write_bytes(self._orthanc.file(sent.sop_instance_uid))
            data = read_part10(stored).data
            return "same bytes" if hashlib.sha256(data).hexdigest() == sent.digest else "has it"
        return "missing"

    def _path(self, key: str) -> Path:
        return self._node.data_dir / "objects" / key[:2] / f"{key}.dcm"


def compare(source: Path, delivered: Path) -> Comparison:
    """Compare an enhanced object, as a destination got it, with the source that the node keeps."""
    change, padding, kept = 0, 0, True
    with open_part10(source) as before, open_part10(delivered) as after:
        differing = find_differences(before.header, after.header)
        unexpected = unexpected_differences(before.header, after.header)
        ours, theirs = (iter_frames(part10, read_spec(part10.header)) for part10 in (before, after))
        for one, other in zip(ours, theirs, strict=True):
            change = max(change, int(np.abs(one.values.astype(np.int64) - other.values.astype(np.int64)).max()))
            padding += int((~one.native).sum())
            kept = kept and np.array_equal(one.cells[~one.native], other.cells[~one.native])
            kept = kept and np.array_equal(one.native, other.native)
    return Comparison(
        new_dciodvfy_errors=len(new_dciodvfy_errors(source, delivered)),
        new_dicom_validator_errors=len(new_dicom_validator_errors(source, delivered)),
        differing=len(differing),
        not_allowed=len(unexpected),
        change=change,
        padding=padding,
        padding_kept=kept,
    )


def same_values(source: Path, delivered: Path) -> str:
    """Tell how pixels that reached a destination in another transfer syntax compare with the source's."""
    try:
        one, other = (pydicom.dcmread(path).pixel_array for path in (source, delivered))
    except (AttributeError, RuntimeError, NotImplementedError, ValueError, UnsupportedPixels):
        return "other bytes"
    return "same values" if np.array_equal(one, other) else "other values"
