"""What a destination is, and the pure decisions that every kind of destination shares."""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from config.settings import RetrySettings


class Outcome(enum.StrEnum):
    """What became of one object that was to be sent."""

    SENT = "sent"
    """The destination answered that it has the object."""
    REFUSED = "refused"
    """Sending it again would end the same way; kept as a dead letter with the reason."""
    RETRY = "retry"
    """Not delivered, and another attempt can help."""


class Silence(enum.StrEnum):
    """Why a destination gave no answer."""

    UNREACHED = "unreached"
    """There was no association."""
    LOST = "lost"
    """The association was lost over an object."""


@dataclass(frozen=True, kw_only=True)
class DeliveryItem:
    """One stored object that a destination is to get.

    Parameters
    ----------
    instance_id
        Comes back in the `ItemOutcome`; nothing else is made of it.
    sop_class_uid, sop_instance_uid, transfer_syntax_uid
        Of the data set as it lies in the file.
    path
        The file that holds it, usually Part 10.
    dataset_offset
        Bytes before the data set: preamble and file meta information.
    is_derived
        Made by this node; False for what was received and is to arrive as it came.
    in_doubt
        An earlier attempt ended before the answer came, so the destination may have the object already. Such an
        object goes last, lest one that makes the peer abort hold up the others, and Duplicate SOP Instance (0111)
        then counts as sent.
    """

    instance_id: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    path: Path
    dataset_offset: int
    is_derived: bool = False
    in_doubt: bool = False


@dataclass(frozen=True, kw_only=True)
class ItemOutcome:
    """What became of one `DeliveryItem`.

    Parameters
    ----------
    instance_id
        Of the item.
    outcome
        Sent, refused or to be tried again.
    status
        The C-STORE status, where the peer gave one.
    reason
        A plain sentence; empty where the status is Success and nothing is to be said.
    in_doubt
        True if the object was on its way when the association was lost, now or earlier: the peer may have it.
    silence
        Why the peer said nothing of it, where that is the peer's or the network's fault.
    """

    instance_id: int
    outcome: Outcome
    status: int | None
    reason: str
    in_doubt: bool = False
    silence: Silence | None = None


class StopSending(Exception):
    """Raised by `on_outcome`: the attempt ends in order, and what has no outcome yet is not sent now."""


class StepState(enum.StrEnum):
    """How one step of a diagnosis ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, kw_only=True)
class ProbeStep:
    """One step of a diagnosis: its short name, how it ended, one sentence on it, and the seconds it took."""

    name: str
    state: StepState
    sentence: str
    seconds: float = 0.0


class Destination(Protocol):
    """Takes objects; there is one implementation for each kind of destination."""

    @property
    def name(self) -> str:
        """Name of the destination in the settings."""

    def deliver(self, items: Sequence[DeliveryItem], *, on_outcome: Callable[[ItemOutcome], None]) -> None:
        """Send `items`, and report exactly one outcome for each, as soon as it is known.

        Troubles of the network or of the peer become outcomes, not exceptions. What `on_outcome` raises (a ledger
        that can't be reached) ends the attempt and is passed on: an answer that can't be noted is not to be
        followed by more. `StopSending` is passed on too, after a civil goodbye.
        """

    def probe(self) -> list[ProbeStep]:
        """Try out, step by step and without storing anything, whether objects could be sent."""


@dataclass(frozen=True, kw_only=True)
class StatusRange:
    """What a span of C-STORE statuses means to us as SCU."""

    first: int
    last: int
    outcome: Outcome
    meaning: str


def _one(status: int, outcome: Outcome, meaning: str) -> StatusRange:
    return StatusRange(first=status, last=status, outcome=outcome, meaning=meaning)


STORE_STATUSES: tuple[StatusRange, ...] = (
    _one(0x0000, Outcome.SENT, "success"),
    # Warnings of PS3.7 Annex C: the operation was performed.
    _one(0x0001, Outcome.SENT, "stored, requested optional attributes not supported"),
    _one(0x0107, Outcome.SENT, "stored, with an attribute list warning"),
    _one(0x0116, Outcome.SENT, "stored, attribute value out of range"),
    _one(0xB000, Outcome.SENT, "stored, with coercion of data elements"),
    _one(0xB006, Outcome.SENT, "stored, with elements discarded"),
    _one(0xB007, Outcome.SENT, "stored, though the data set does not match its SOP class"),
    StatusRange(first=0xB000, last=0xBFFF, outcome=Outcome.SENT, meaning="stored, with a warning"),
    # Failures of PS3.7 Annex C that describe a passing condition of the peer or of the association.
    _one(0x0110, Outcome.RETRY, "processing failure"),
    _one(0x0210, Outcome.RETRY, "duplicate invocation"),
    _one(0x0213, Outcome.RETRY, "resource limitation"),
    # Failures of PS3.7 Annex C that the same request meets again.
    _one(0x0105, Outcome.REFUSED, "no such attribute"),
    _one(0x0106, Outcome.REFUSED, "invalid attribute value"),
    _one(0x0111, Outcome.REFUSED, "duplicate SOP instance"),
    _one(0x0112, Outcome.REFUSED, "no such SOP instance"),
    _one(0x0113, Outcome.REFUSED, "no such event type"),
    _one(0x0114, Outcome.REFUSED, "no such argument"),
    _one(0x0115, Outcome.REFUSED, "invalid argument value"),
    _one(0x0117, Outcome.REFUSED, "invalid SOP instance"),
    _one(0x0118, Outcome.REFUSED, "no such SOP class"),
    _one(0x0119, Outcome.REFUSED, "class and instance conflict"),
    _one(0x0120, Outcome.REFUSED, "missing attribute"),
    _one(0x0121, Outcome.REFUSED, "missing attribute value"),
    _one(0x0122, Outcome.REFUSED, "SOP class not supported"),
    _one(0x0123, Outcome.REFUSED, "no such action type"),
    _one(0x0124, Outcome.REFUSED, "not authorized"),
    _one(0x0211, Outcome.REFUSED, "unrecognized operation"),
    _one(0x0212, Outcome.REFUSED, "mistyped argument"),
    # PS3.4 Table B.2-1.
    StatusRange(first=0xA700, last=0xA7FF, outcome=Outcome.RETRY, meaning="out of resources"),
    StatusRange(first=0xA800, last=0xA8FF, outcome=Outcome.REFUSED, meaning="SOP class not supported"),
    StatusRange(first=0xA900, last=0xA9FF, outcome=Outcome.REFUSED, meaning="data set does not match its SOP class"),
    StatusRange(first=0xC000, last=0xCFFF, outcome=Outcome.REFUSED, meaning="cannot understand"),
    # Not statuses of C-STORE: a peer that sends them is confused about this operation, not about this object.
    _one(0xFE00, Outcome.RETRY, "cancelled"),
    StatusRange(first=0xFF00, last=0xFF01, outcome=Outcome.RETRY, meaning="pending, where a final answer was due"),
)
"""The first range that holds a status decides. A8xx is the former code of 0122, SOP class not supported."""

UNNAMED_STATUS = StatusRange(
    first=0x0000, last=0xFFFF, outcome=Outcome.RETRY, meaning="a status that DICOM does not name"
)
"""Of no known status we can't say that the object is at fault, so it is tried until the delivery's age ends it."""


def find_status(status: int) -> StatusRange:
    """Return the entry of `STORE_STATUSES` for a C-STORE status, or `UNNAMED_STATUS`."""
    return next((entry for entry in STORE_STATUSES if entry.first <= status <= entry.last), UNNAMED_STATUS)


def classify_status(status: int, *, in_doubt: bool = False) -> Outcome:
    """Decide what a C-STORE status (PS3.4 B.2.3, PS3.7 Annex C) means for the object.

    Parameters
    ----------
    status
        (0000,0900) of the response.
    in_doubt
        An earlier attempt may have stored the object. Duplicate SOP Instance (0111) is then the late answer to that
        attempt. Without such an attempt it means that the peer holds something of the same UID that may not be ours.
    """
    if status == 0x0111 and in_doubt:
        return Outcome.SENT
    return find_status(status).outcome


def retry_after(attempt: int, retry: RetrySettings, rng: random.Random) -> float:
    """Return the seconds to wait after the failed attempt number `attempt` (1 is the first).

    The delay grows by `retry.factor` up to `retry.max_delay_s`, which is never exceeded; up to `retry.jitter` of it
    is taken off at random, so that deliveries which failed together don't all come back at one moment.
    """
    if attempt < 1:
        raise ValueError("attempts are counted from 1")
    try:
        delay = retry.initial_delay_s * retry.factor ** (attempt - 1)
    except OverflowError:
        delay = retry.max_delay_s
    delay = min(delay, retry.max_delay_s)
    return delay * (1 - retry.jitter * rng.random())


def give_up(age_s: float, retry: RetrySettings) -> bool:
    """Tell whether a delivery of this age, in seconds since it was first due, is tried no more."""
    return age_s >= retry.max_age_h * 3600
