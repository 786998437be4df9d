"""Failure Reason (0008,1197) of Storage Commitment: what each means and what is done about it, as data."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

COMMITTED: Final = 0
PROCESSING_FAILURE: Final = 0x0110
NO_SUCH_INSTANCE: Final = 0x0112
RESOURCE_LIMITATION: Final = 0x0213
CLASS_NOT_SUPPORTED: Final = 0x0122
CLASS_INSTANCE_CONFLICT: Final = 0x0119
DUPLICATE_TRANSACTION_UID: Final = 0x0131


class Remedy(enum.StrEnum):
    """What is done about an object that a destination does not commit."""

    RESEND = "sent again, then asked for again; after max_resends times a dead letter"
    ASK_AGAIN = "asked for again under a new Transaction UID"
    DEAD_LETTER = "a dead letter: sending it again changes nothing"


@dataclass(frozen=True, kw_only=True)
class FailureReason:
    """A Failure Reason: its name in the standard and what is done about it."""

    meaning: str
    remedy: Remedy


FAILURE_REASONS: Final[Mapping[int, FailureReason]] = {
    PROCESSING_FAILURE: FailureReason(meaning="Processing failure", remedy=Remedy.RESEND),
    NO_SUCH_INSTANCE: FailureReason(meaning="No such object instance", remedy=Remedy.RESEND),
    RESOURCE_LIMITATION: FailureReason(meaning="Resource limitation", remedy=Remedy.RESEND),
    CLASS_NOT_SUPPORTED: FailureReason(meaning="Referenced SOP Class not supported", remedy=Remedy.DEAD_LETTER),
    CLASS_INSTANCE_CONFLICT: FailureReason(meaning="Class / Instance conflict", remedy=Remedy.DEAD_LETTER),
    DUPLICATE_TRANSACTION_UID: FailureReason(meaning="Duplicate transaction UID", remedy=Remedy.ASK_AGAIN),
}
"""PS3.3 C.14.1.1; any other reason is treated like a processing failure."""


def remedy_for(reason: int) -> Remedy:
    """Return what is done about an object that failed for `reason`."""
    return FAILURE_REASONS[reason].remedy if reason in FAILURE_REASONS else Remedy.RESEND


def describe_failure(reason: int) -> str:
    """Return a Failure Reason in words, with its number."""
    known = FAILURE_REASONS.get(reason)
    return f"{known.meaning if known else 'failure'} ({reason:04X})"
