"""The data sets of Storage Commitment: what is asked for, and what is answered; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.uid import UID

from dicom_node.commitment_failures import COMMITTED, PROCESSING_FAILURE
from dicom_node.dataset_header import is_identifier
from dicom_node.errors import NodeError

PUSH_MODEL_INSTANCE: Final = "1.2.840.10008.1.20.1.1"
"""The well-known SOP instance that requests and reports are on (PS3.4 J.3.5)."""
REQUEST_ACTION: Final = 1
ALL_COMMITTED: Final = 1
FAILURES_EXIST: Final = 2
MAX_REFERENCES: Final = 100_000
"""SOP instances in one message; more are no request that anybody means."""


class InvalidCommitmentMessage(NodeError):
    """The data set is no Storage Commitment request or report; the message says why."""


@dataclass(frozen=True, kw_only=True)
class CommitmentRequest:
    """An N-ACTION's Transaction UID and the (SOP class, SOP instance) pairs that it names, each once."""

    transaction_uid: str
    references: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class CommitmentReport:
    """An N-EVENT-REPORT: SOP Instance UIDs that are committed, and those that are not with their Failure Reason."""

    transaction_uid: str
    committed: frozenset[str]
    failed: Mapping[str, int]


def decode(encoded: bytes, transfer_syntax_uid: str) -> Dataset:
    """Read the data set of a message; `InvalidCommitmentMessage` if it is none."""
    syntax = UID(transfer_syntax_uid)
    try:
        ds = read_dataset(BytesIO(encoded), syntax.is_implicit_VR, syntax.is_little_endian)
        # Elements are read when they are asked for: here, where an error still has a place to go.
        for element in ds.iterall():
            element.value  # noqa: B018
    except Exception as error:
        raise InvalidCommitmentMessage(f"the data set can't be read ({type(error).__name__})") from error
    return ds


def encode(ds: Dataset, transfer_syntax_uid: str) -> bytes:
    """Return the data set as it goes over the network."""
    syntax = UID(transfer_syntax_uid)
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = syntax.is_implicit_VR, syntax.is_little_endian
    write_dataset(buffer, ds)
    return buffer.getvalue()


def build_request(transaction_uid: str, references: Iterable[tuple[str, str]]) -> Dataset:
    """Return the Action Information of a request (PS3.4 Table J.3-1)."""
    ds = Dataset()
    ds.TransactionUID = transaction_uid
    ds.ReferencedSOPSequence = [_item(*reference) for reference in references]
    return ds


def build_report(transaction_uid: str, outcomes: Iterable[tuple[str, str, int]]) -> tuple[int, Dataset]:
    """Return Event Type ID and Event Information of a report (PS3.4 Table J.3-2).

    Parameters
    ----------
    outcomes
        SOP class, SOP instance, and 0 or the Failure Reason.
    """
    ds = Dataset()
    ds.TransactionUID = transaction_uid
    committed, failed = [], []
    for sop_class_uid, sop_instance_uid, outcome in outcomes:
        item = _item(sop_class_uid, sop_instance_uid)
        if outcome == COMMITTED:
            committed.append(item)
        else:
            item.FailureReason = outcome
            failed.append(item)
    if committed:
        ds.ReferencedSOPSequence = committed
    if failed:
        ds.FailedSOPSequence = failed
    return FAILURES_EXIST if failed else ALL_COMMITTED, ds


def parse_request(ds: Dataset) -> CommitmentRequest:
    """Read a request; `InvalidCommitmentMessage` says what is wrong with it."""
    references = tuple(dict.fromkeys(_references(ds, "ReferencedSOPSequence")))
    if not references:
        raise InvalidCommitmentMessage("Referenced SOP Sequence (0008,1199) names nothing")
    return CommitmentRequest(transaction_uid=_transaction_uid(ds), references=references)


def parse_report(ds: Dataset) -> CommitmentReport:
    """Read a report; `InvalidCommitmentMessage` says what is wrong with it.

    Nothing counts as committed but what Referenced SOP Sequence names, whatever the event type says.
    """
    failed: dict[str, int] = {}
    for item, (_, uid) in zip(ds.get("FailedSOPSequence") or (), _references(ds, "FailedSOPSequence"), strict=True):
        reason = item.get("FailureReason")
        failed[uid] = reason if isinstance(reason, int) and 0 < reason <= 0xFFFF else PROCESSING_FAILURE
    return CommitmentReport(
        transaction_uid=_transaction_uid(ds),
        committed=frozenset(uid for _, uid in _references(ds, "ReferencedSOPSequence")) - failed.keys(),
        failed=failed,
    )


def _transaction_uid(ds: Dataset) -> str:
    uid = str(ds.get("TransactionUID") or "")
    if not is_identifier(uid):
        raise InvalidCommitmentMessage("Transaction UID (0008,1195) is missing or no UID")
    return uid


def _references(ds: Dataset, keyword: str) -> list[tuple[str, str]]:
    items = ds.get(keyword) or ()
    if isinstance(items, str | bytes) or len(items) > MAX_REFERENCES:
        raise InvalidCommitmentMessage(f"{keyword} has more than {MAX_REFERENCES} items")
    found = []
    for item in items:
        pair = str(item.get("ReferencedSOPClassUID") or ""), str(item.get("ReferencedSOPInstanceUID") or "")
        if not all(map(is_identifier, pair)):
            raise InvalidCommitmentMessage(f"an item of {keyword} has no valid SOP Class or Instance UID")
        found.append(pair)
    return found


def _item(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    return item
