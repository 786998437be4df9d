"""What a worker does with the work that it has not ended when it is told to stop: gives it back at once.

Without this another worker takes it over only after it has watched the others for a while, and a worker alone at its
next start.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from dbos import DBOSClient

from dicom_node.errors import IllegalTransition
from dicom_node.ledger.arrivals import ArrivalLedger
from dicom_node.ledger.deliveries import DeliveryLedger
from dicom_node.states import DeliveryState

log = logging.getLogger(__name__)

_DELIVERIES = "deliver:"
INTERRUPTED = "the worker was stopped"


def hand_over(
    client: DBOSClient, executor: str, *, arrivals: ArrivalLedger, deliveries: DeliveryLedger, counted: Collection[int]
) -> int:
    """Give back the workflows of `executor`, which takes no more of them; returns how many.

    Enhancement is resumed, by whoever is first: an image is decided once. A delivery is ended and begins under the next
    number, so that whatever this process may still write is known as late.

    Parameters
    ----------
    counted
        Images that this process has counted an attempt for and did not end: a stop is no fault of theirs.

    Raises
    ------
    LedgerUnavailable
        And the errors of the engine's database; then others take over what is left when they miss this worker.
    """
    for instance_id in counted:
        arrivals.postpone(instance_id)
    given = 0
    for workflow in client.list_workflows(status="PENDING", executor_id=executor, load_input=False, load_output=False):
        if workflow.workflow_id.startswith(_DELIVERIES):
            client.cancel_workflow(workflow.workflow_id)
            _, delivery_id, attempt = workflow.workflow_id.split(":")
            _begin_anew(deliveries, int(delivery_id), int(attempt))
        else:
            client.resume_workflow(workflow.workflow_id)
        given += 1
    if given:
        log.info("Work was handed over", extra={"workflows": given})
    return given


def _begin_anew(deliveries: DeliveryLedger, delivery_id: int, attempt: int) -> None:
    now = deliveries.get(delivery_id)
    try:
        if now.state is DeliveryState.SENDING and now.attempts == attempt + 1:
            deliveries.settle(delivery_id, failure=INTERRUPTED, retry_in_s=0.0, attempt=now.attempts)
        elif now.state is DeliveryState.PENDING and now.attempts == attempt:
            deliveries.skip_attempt(delivery_id, attempt)
    except IllegalTransition as error:
        log.info("Another process was first", extra={"delivery": delivery_id, "reason": str(error)})
