"""Storage Commitment in the statement: what is asked, what is answered, and every status of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from config.settings import Settings
from dicom_node import commitment_reports as statuses
from dicom_node.commitment_failures import FAILURE_REASONS, Remedy
from dicom_node.commitment_jobs import REPORT_RETRY
from dicom_node.commitment_scp import MAX_MESSAGE_BYTES, OPEN_ASSOCIATION_WAIT_S
from dicom_node.conformance.implementation import RECEIVER_AE, SENDER_AE
from dicom_node.conformance.markdown import Section, bullets, code, paragraph, table
from dicom_node.ledger.commitments import LONGEST_TIMEOUT_S

_BOTH: Final = (
    (statuses.INVALID_ARGUMENT, "Invalid argument value", "The data set can't be read, or Transaction UID is missing."),
    (statuses.NO_SUCH_SOP_CLASS, "No such SOP class", "The command is not on Storage Commitment Push Model."),
    (statuses.NO_SUCH_INSTANCE, "No such SOP instance", "The command is not on the well-known SOP instance."),
    (statuses.NOT_AUTHORIZED, "Refused: not authorized", "The peer may not ask, or not speak for this destination."),
    (statuses.RESOURCE_LIMITATION, "Resource limitation", "The ledger can't be reached; the same later succeeds."),
    (
        statuses.RESOURCE_LIMITATION,
        "Resource limitation",
        f"The data set is longer than {MAX_MESSAGE_BYTES // 1_000_000} MB.",
    ),
    (statuses.PROCESSING_FAILURE, "Processing failure", "Anything that nobody foresaw."),
)
REQUEST_ANSWERS: Final = (
    (statuses.SUCCESS, "Success", "The request is in the ledger and will be answered; the same one came before."),
    (statuses.NO_SUCH_ACTION, "No such action", "The Action Type ID is not 1."),
    (statuses.INVALID_ARGUMENT, "Invalid argument value", "Nothing is referenced, or a reference is no UID."),
    (statuses.INVALID_ARGUMENT, "Invalid argument value", "The Transaction UID was used for other SOP instances."),
    *_BOTH,
)
"""Answers to N-ACTION."""
REPORT_ANSWERS: Final = (
    (statuses.SUCCESS, "Success", "The report is in the ledger; a report that comes again changes nothing."),
    (statuses.NO_SUCH_EVENT_TYPE, "No such event type", "The Event Type ID is neither 1 nor 2."),
    (statuses.INVALID_ARGUMENT, "Invalid argument value", "The Transaction UID is none of ours."),
    *_BOTH,
)
"""Answers to N-EVENT-REPORT."""


def commitment_service(settings: Settings) -> Section:
    """Return the section on the service."""
    return Section(
        title="Storage Commitment service",
        parts=(
            Section(
                title="SCU of the Storage Commitment Push Model",
                body=(
                    paragraph(
                        f"The {SENDER_AE} asks each destination whose settings have `commitment`: "
                        f"{_named(e.name for e in settings.dicom_destinations if e.commitment is not None)}."
                    ),
                    bullets(
                        (
                            "A request is made `delay_s` after the last object of a series was stored, with at most "
                            "`max_references` SOP instances, under a Transaction UID that is new (a UUID under 2.25) "
                            "and in the ledger before it goes out. Storage Media File-Set ID and UID are not sent.",
                            "The association stays open for `wait_s`. A report is taken on it, and at any later time "
                            f"by the {RECEIVER_AE} on an association that the destination opens. Requests go over "
                            "TLS where the destination's `tls`, or that of its commitment, says so; reports come over "
                            "TLS alone where `report_tls` or `report_certificates` say so.",
                            "Without a report for `timeout_s`, twice as long each time up to "
                            f"{LONGEST_TIMEOUT_S / 3600:g} h, what is left is asked for again under a new Transaction "
                            "UID. A report on an earlier one counts where it says yes. After `max_age_h` an alarm is "
                            "raised, and nothing is deleted.",
                            "An object counts as committed when Referenced SOP Sequence names it, and not otherwise.",
                        )
                    ),
                    table(
                        "Failure Reasons of a report, and what follows",
                        ("Failure Reason", "Meaning", "Behaviour"),
                        _reasons(),
                    ),
                ),
            ),
            Section(
                title="SCP of the Storage Commitment Push Model",
                body=(
                    paragraph(
                        f"The {RECEIVER_AE} takes requests of each source whose settings have `commitment`: "
                        f"{_named(e.name for e in settings.sources if e.commitment is not None)}. The node keeps "
                        "nothing for good itself: it says yes when the destinations have."
                    ),
                    bullets(
                        (
                            "Committed is a SOP instance of which every destination of its route has committed to what "
                            "it was to get: the original, the enhanced image, or both. With `originals` at its default "
                            "one of them has to be the original.",
                            'A destination that is not asked for commitment makes it fail, unless `counts` is "sent".',
                            "0112: never received. 0119: received with another SOP class. 0110: a destination refused "
                            "it, or has not committed within `wait_s`.",
                            "One report answers one request, when everything in it is decided. It goes to the source's "
                            "`host` and `port`, on an association that the "
                            f"{SENDER_AE} opens with the SCP role proposed; with `same_association`, or without "
                            f"`port`, on the association of the request, which is tried for {OPEN_ASSOCIATION_WAIT_S:g}"
                            " s, or as long as it is open. Over TLS where the `tls` of the source's commitment says "
                            "so, and then never without.",
                            "A report that is not taken is tried again with delays of "
                            f"{REPORT_RETRY.initial_delay_s:g} s to {REPORT_RETRY.max_delay_s:g} s, for `max_age_h`.",
                        )
                    ),
                ),
            ),
        ),
    )


def commitment_statuses() -> Section:
    """Return the section on status codes."""
    return Section(
        title="Status codes of Storage Commitment",
        body=(
            table("Answers to N-ACTION", ("Status", "Meaning", "When"), map(_answer, REQUEST_ANSWERS)),
            table("Answers to N-EVENT-REPORT", ("Status", "Meaning", "When"), map(_answer, REPORT_ANSWERS)),
            paragraph(
                "As SCU, 0000 to an N-ACTION means that the report is waited for; every other status, a lost "
                "association and no answer mean that is asked again under a new Transaction UID, after a delay of "
                "the destination's `retry` settings. As SCP, 0000 to an N-EVENT-REPORT ends the request; with any "
                "other status it is brought again."
            ),
        ),
    )


def _answer(entry: tuple[int, str, str]) -> tuple[str, ...]:
    status, meaning, case = entry
    return f"{status:04X}", meaning, case


def _reasons() -> Iterator[tuple[str, ...]]:
    for reason, entry in FAILURE_REASONS.items():
        yield f"{reason:04X}", entry.meaning, entry.remedy.value
    yield "any other", "-", Remedy.RESEND.value


def _named(names: Iterator[str]) -> str:
    return ", ".join(map(code, names)) or "none in these settings"
