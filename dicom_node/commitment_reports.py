"""A report of a destination on what it was asked to commit: into the ledger first, then its status."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Final

from pydicom.dataset import Dataset

from dicom_node.commitment_messages import (
    ALL_COMMITTED,
    FAILURES_EXIST,
    InvalidCommitmentMessage,
    parse_report,
)
from dicom_node.errors import LedgerUnavailable
from dicom_node.ledger.commitments import CommitmentLedger, NotTheDestination, ResendPolicy, UnknownTransaction
from dicom_node.observation.correlation import correlated, trace_id_of
from dicom_node.observation.definitions import STAGE_SECONDS
from dicom_node.observation.metering import observe
from dicom_node.observation.tracing import emit
from dicom_node.states import DeliveryState

log = logging.getLogger(__name__)

SUCCESS: Final = 0x0000
PROCESSING_FAILURE: Final = 0x0110
NO_SUCH_INSTANCE: Final = 0x0112
NO_SUCH_EVENT_TYPE: Final = 0x0113
INVALID_ARGUMENT: Final = 0x0115
NO_SUCH_SOP_CLASS: Final = 0x0118
NO_SUCH_ACTION: Final = 0x0123
NOT_AUTHORIZED: Final = 0x0124
RESOURCE_LIMITATION: Final = 0x0213


def answer_report(
    ledger: CommitmentLedger, policies: Mapping[str, ResendPolicy], event_type_id: int | None, ds: Dataset
) -> tuple[int, str]:
    """Record an N-EVENT-REPORT and return status and Error Comment of its response.

    Success is answered when the ledger has it, and again when the same report comes again.

    Parameters
    ----------
    policies
        Of the destinations that the peer may speak for, by name.

    References
    ----------
    PS3.4 J.3.3, PS3.7 10.1.1.1.8.
    """
    if event_type_id not in (ALL_COMMITTED, FAILURES_EXIST):
        return NO_SUCH_EVENT_TYPE, f"event type {event_type_id} is not of Storage Commitment"
    try:
        report = parse_report(ds)
        outcome = ledger.record_report(
            report.transaction_uid, committed=report.committed, failed=report.failed, policies=policies
        )
    except InvalidCommitmentMessage as error:
        log.warning("Commitment report not understood", extra={"reason": str(error)})
        return INVALID_ARGUMENT, str(error)
    except UnknownTransaction as error:
        # The SOP instance of a report is the well-known one, which we know: it is the argument that is wrong.
        log.warning("Commitment report on a request that is not ours", extra={"transaction_uid": str(error)})
        return INVALID_ARGUMENT, "unknown Transaction UID"
    except NotTheDestination as error:
        log.warning("Commitment report from a peer that is not the destination", extra={"destination": str(error)})
        return NOT_AUTHORIZED, "this transaction is another peer's"
    except LedgerUnavailable as error:
        log.error("Commitment report could not be recorded", extra={"reason": str(error)})
        return RESOURCE_LIMITATION, "ledger unavailable"
    facts = {
        "trace_id": trace_id_of(ledger.study_of(outcome.delivery_id)),
        "delivery": outcome.delivery_id,
        "destination": outcome.destination,
        "transaction_uid": report.transaction_uid,
        "state": outcome.delivery.value,
        "committed": outcome.committed,
        "failed": outcome.failed,
        "not_asked_for": outcome.unknown,
    }
    if outcome.delivery is DeliveryState.REFUSED:
        log.error("Commitment refused: the delivery is a dead letter", extra=facts)
    elif outcome.failed:
        log.warning("Commitment report with failures", extra=facts)
    else:
        log.info("Commitment report", extra=facts)
        if (
            outcome.delivery is DeliveryState.COMMITTED
            and (waited_s := ledger.waited_s(outcome.delivery_id)) is not None
        ):
            observe(STAGE_SECONDS, waited_s, "commit")
            with correlated(ledger.study_of(outcome.delivery_id)):
                begun_ns = time.time_ns() - int(waited_s * 1e9)
                emit("confirm", begun_ns, delivery=outcome.delivery_id, destination=outcome.destination)
    return SUCCESS, ""
