"""Why association requests are rejected and by which numbers, as data (PS3.8 9.3.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """A-ASSOCIATE-RJ: result, source and reason (PS3.8 9.3.4), why in words for our side, and the cause's name."""

    result: int
    source: int
    reason: int
    explanation: str
    cause: str = "other"


@dataclass(frozen=True, kw_only=True)
class RejectionCause:
    """A case in which a request is rejected.

    Attributes
    ----------
    result, source, reason
        As in A-ASSOCIATE-RJ.
    case
        When it happens, as half a sentence.
    remedy
        What the administrator of the peer, or ours, does about it.
    name
        In metrics.
    """

    result: int
    source: int
    reason: int
    case: str
    remedy: str
    name: str = "other"

    def reject(self, explanation: str) -> Rejection:
        """Return the rejection of one request, with what our side is told of it."""
        return Rejection(
            result=self.result, source=self.source, reason=self.reason, explanation=explanation, cause=self.name
        )


_TRY_AGAIN: Final = "The sender tries again later."

PROTOCOL_VERSION: Final = RejectionCause(
    name="protocol_version",
    result=1,
    source=2,
    reason=2,
    case="the request is of another version of the upper layer protocol than 1",
    remedy="The peer is set to protocol version 1, the only one that there is.",
)
APPLICATION_CONTEXT: Final = RejectionCause(
    name="application_context",
    result=1,
    source=1,
    reason=2,
    case="the application context name is not that of DICOM",
    remedy="The peer is no DICOM application, or is set up wrongly.",
)
CALLED_AE_TITLE: Final = RejectionCause(
    name="called_ae_title",
    result=1,
    source=1,
    reason=7,
    case="the called AE title is not `node.ae_title`",
    remedy="The called AE title is corrected at the sender.",
)
CALLING_AE_TITLE: Final = RejectionCause(
    name="calling_ae_title",
    result=1,
    source=1,
    reason=3,
    case="no entry of `[[sources]]` has both the calling AE title and the address of the sender",
    remedy="The sender is added to `[[sources]]`; `dicom-node status` shows the lines to add.",
)
TRANSPORT: Final = RejectionCause(
    name="transport",
    result=1,
    source=1,
    reason=3,
    case="the source asks for TLS, or for one of its certificates, and the sender came without",
    remedy="The sender is set up for TLS with a certificate of its source; `dicom-node status` shows what is missing.",
)
SHUTTING_DOWN: Final = RejectionCause(
    name="shutting_down", result=2, source=3, reason=1, case="the receiver is shutting down", remedy=_TRY_AGAIN
)
LOW_SPACE: Final = RejectionCause(
    name="low_space",
    result=2,
    source=3,
    reason=1,
    case="a disk of the node is above its high watermark (`[storage]`)",
    remedy="Space is made on the node; until then the sender tries again.",
)
LEDGER_UNAVAILABLE: Final = RejectionCause(
    name="ledger_unavailable",
    result=2,
    source=3,
    reason=1,
    case="the ledger's database can't be reached",
    remedy="The database is started again; until then the sender tries again.",
)
TOO_MANY_ASSOCIATIONS: Final = RejectionCause(
    name="too_many_associations",
    result=2,
    source=3,
    reason=2,
    case="`receiver.max_associations` are open already",
    remedy=_TRY_AGAIN,
)
SOURCE_BUSY: Final = RejectionCause(
    name="source_busy",
    result=2,
    source=3,
    reason=2,
    case="`max_associations` of the source are open already",
    remedy=_TRY_AGAIN,
)

REJECTION_CAUSES: Final = (
    PROTOCOL_VERSION,
    APPLICATION_CONTEXT,
    CALLED_AE_TITLE,
    CALLING_AE_TITLE,
    TRANSPORT,
    SHUTTING_DOWN,
    LOW_SPACE,
    TOO_MANY_ASSOCIATIONS,
    SOURCE_BUSY,
    LEDGER_UNAVAILABLE,
)
"""In the order in which they are looked for: who the peer is comes before how we are."""
