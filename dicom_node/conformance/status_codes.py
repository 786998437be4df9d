"""Section 7.4: every status and what follows from it, as SCP and as SCU, from the tables that decide."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from dicom_node.conformance.commitment import commitment_statuses
from dicom_node.conformance.implementation import RECEIVER_AE, SENDER_AE
from dicom_node.conformance.markdown import Section, paragraph, table
from dicom_node.destinations.base import STORE_STATUSES, UNNAMED_STATUS, Outcome, StatusRange
from dicom_node.destinations.explanations import REJECTIONS
from dicom_node.errors import (
    AssociationAborted,
    AssociationRejectedPermanent,
    AssociationRejectedTransient,
    ConnectionFailed,
    ContextRejected,
    DeliveryError,
    NetworkTimeout,
)
from dicom_node.receive_statuses import OTHER_ANSWERS, STORE_ANSWERS, Answer

BEHAVIOUR: Final = {
    Outcome.SENT: "Stored: the object counts as delivered.",
    Outcome.RETRY: "Tried again: with growing delays, until it is delivered or the delivery has its maximum age.",
    Outcome.REFUSED: "Refused: a dead letter, kept with its reason and shown by `dicom-node queue list`.",
}
"""What an outcome means to the object, for people."""

ASSOCIATION_FAILURES: Final[tuple[type[DeliveryError], ...]] = (
    ConnectionFailed,
    AssociationRejectedTransient,
    AssociationRejectedPermanent,
    ContextRejected,
    AssociationAborted,
    NetworkTimeout,
)
"""What opening or using an association as initiator can fail by."""


def status_codes() -> Section:
    """Return the section."""
    return Section(
        title="Status codes",
        parts=(
            Section(
                title="Status codes of the Storage SCP",
                body=(
                    paragraph(
                        f"The {RECEIVER_AE} sends no warnings: an object is stored as it came, or it is not. With each "
                        "failure Error Comment (0000,0902) says why in words."
                    ),
                    table("Answers to C-STORE", ("Status", "Meaning", "When"), _answer_rows(STORE_ANSWERS)),
                ),
            ),
            Section(
                title="Status codes of the Verification SCP and of other requests",
                body=(table("Answers to other requests", ("Status", "Meaning", "When"), _answer_rows(OTHER_ANSWERS)),),
            ),
            Section(title="Status codes of the Storage SCU", body=_as_scu()),
            Section(
                title="Status codes of the Verification SCU",
                body=(
                    paragraph(
                        "`dicom-node doctor` reports 0000 as success and every other status as a failure of the "
                        "destination, with the status."
                    ),
                ),
            ),
            commitment_statuses(),
            Section(title=f"Failures of associations of the {SENDER_AE}", body=_failures()),
        ),
    )


def _answer_rows(answers: Iterable[Answer]) -> Iterator[tuple[str, ...]]:
    for answer in answers:
        for case in answer.cases:
            yield f"{answer.status:04X}", answer.meaning, case


def _as_scu() -> tuple[str, ...]:
    return (
        paragraph(
            "The first row that holds a status decides. Growing delays and maximum age are those of the destination's "
            "`retry` settings; `dicom-node queue retry` tries again at once, dead letters too."
        ),
        table(
            "Answers to our C-STORE",
            ("Status", "Meaning", "Behaviour"),
            map(_status_row, (*STORE_STATUSES, UNNAMED_STATUS)),
        ),
        paragraph(
            "0111 counts as stored where an earlier attempt ended before the answer came: the destination has the "
            "object "
            "from that attempt. With a warning the object counts as delivered, and the warning is recorded."
        ),
    )


def _status_row(entry: StatusRange) -> tuple[str, ...]:
    status = f"{entry.first:04X}" if entry.first == entry.last else f"{entry.first:04X} to {entry.last:04X}"
    return status, entry.meaning, BEHAVIOUR[entry.outcome]


def _failures() -> tuple[str, ...]:
    return (
        table(
            "Associations that are not opened, or are lost",
            ("Event", "Behaviour"),
            map(_failure_row, ASSOCIATION_FAILURES),
        ),
        table(
            "What a rejection by a destination is taken to mean",
            ("Source", "Reason", "Meaning"),
            (
                (str(source), str(reason), text.format(calling="(ours)", called="(theirs)"))
                for (source, reason), text in REJECTIONS.items()
            ),
        ),
    )


def _failure_row(failure: type[DeliveryError]) -> tuple[str, str]:
    outcome = Outcome.RETRY if failure.transient else Outcome.REFUSED
    return " ".join((failure.__doc__ or "").split()), BEHAVIOUR[outcome]
