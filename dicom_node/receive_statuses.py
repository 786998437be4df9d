"""What the receiver answers to a request, and in which case, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dicom_node.errors import DatasetMismatch, LedgerUnavailable, OutOfResources, ReceiveError, UnparsableDataset

SUCCESS: Final = 0x0000
PROCESSING_FAILURE: Final = ReceiveError.status
UNRECOGNIZED_OPERATION: Final = 0x0211


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A status and the cases that it answers.

    Attributes
    ----------
    status
        Status (0000,0900) of the response.
    meaning
        As PS3.4 B.2.3 and PS3.7 Annex C word it.
    cases
        When it is sent, each a sentence.
    errors
        What is raised then; empty where nothing went wrong, or where it was nothing that anybody foresaw.
    """

    status: int
    meaning: str
    cases: tuple[str, ...]
    errors: tuple[type[Exception], ...] = ()


STORE_ANSWERS: Final = (
    Answer(
        status=SUCCESS,
        meaning="Success",
        cases=(
            "The object is durable: its file and folder are synced to the disk, its row is committed to the ledger.",
            "The node has the same SOP instance with the same bytes already: nothing is stored twice.",
            "The node has the same SOP instance with other content: both are kept, nothing is overwritten.",
        ),
    ),
    Answer(
        status=OutOfResources.status,
        meaning="Refused: Out of Resources",
        cases=(
            "A disk of the node is above its high watermark (`[storage]`).",
            "The data set is longer than `receiver.max_object_mb`.",
            "A deflated data set inflates beyond `receiver.max_object_mb`.",
            "The disk does not take it.",
            "Its source sends more than `max_objects_per_minute`, and waiting for its turn would take too long.",
            "The ledger's database can't be reached.",
        ),
        errors=(OutOfResources, LedgerUnavailable),
    ),
    Answer(
        status=DatasetMismatch.status,
        meaning="Error: Data Set does not match SOP Class",
        cases=(
            "SOP Class UID or SOP Instance UID of the data set is not that of the command.",
            "The SOP class of the command is not that of the presentation context.",
            "SOP Class UID or SOP Instance UID is missing in the command.",
            "What the command names as SOP class or SOP instance is no UID.",
            "Study Instance UID or Series Instance UID is missing in the data set.",
            "The command announces no data set.",
        ),
        errors=(DatasetMismatch,),
    ),
    Answer(
        status=UnparsableDataset.status,
        meaning="Error: Cannot understand",
        cases=(
            "The data set can't be parsed in the negotiated transfer syntax; a copy is kept in quarantine.",
            "The data set ends before its last element does; a copy is kept in quarantine.",
            "A deflated data set is broken or cut off; a copy is kept in quarantine.",
            "An identifier of the data set is no UID, or is there twice with different values; "
            "a copy is kept in quarantine.",
            "An element of a group before 0008 is in the data set; a copy is kept in quarantine.",
        ),
        errors=(UnparsableDataset,),
    ),
    Answer(
        status=PROCESSING_FAILURE,
        meaning="Processing failure",
        cases=("Anything that nobody foresaw; the log has the details, the peer is told none.",),
    ),
)
"""The answers to C-STORE requests (PS3.4 B.2.3, PS3.7 Annex C)."""

OTHER_ANSWERS: Final = (
    Answer(status=SUCCESS, meaning="Success", cases=("C-ECHO, on every accepted presentation context.",)),
    Answer(
        status=UNRECOGNIZED_OPERATION,
        meaning="Unrecognized operation",
        cases=(
            "C-STORE on a Verification context.",
            "C-FIND, C-GET, C-MOVE, and every N- service that is none of Storage Commitment.",
        ),
    ),
)
"""The answers to requests that store nothing; C-CANCEL has none."""

STATUS_BY_ERROR: Final[Mapping[type[Exception], int]] = {
    error: answer.status for answer in STORE_ANSWERS for error in answer.errors
}
"""C-STORE status for each error of receiving; everything else is PROCESSING_FAILURE."""


def status_for(error: Exception) -> tuple[int, str]:
    """Return C-STORE status and Error Comment for what kept an object from being stored."""
    for kind, status in STATUS_BY_ERROR.items():
        if isinstance(error, kind):
            return status, str(error)
    # Of something unforeseen the peer learns no more than that: its message may hold paths or values.
    return PROCESSING_FAILURE, "processing failure"
