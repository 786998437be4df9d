"""The workflow engine's history: what ended some days ago is forgotten; the ledger keeps what became of everything."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Final

from dbos import DBOS

log = logging.getLogger(__name__)

KEEP_S: Final = 7 * 86_400.0
"""Long enough to look into a failed workflow, and far longer than the periodic jobs need to notice an end."""
BATCH: Final = 500
_ENDED: Final = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]


def forget_ended(now: float) -> int:
    """Delete workflows that ended `KEEP_S` before `now` (seconds since the epoch); returns how many.

    Without this the engine's database grows for as long as the node runs. What is queued or in work stays, whatever its
    age. Several workers may do it at once.
    """
    before = datetime.fromtimestamp(now - KEEP_S, UTC).isoformat()
    forgotten = 0
    while ended := DBOS.list_workflows(
        status=_ENDED, completed_before=before, limit=BATCH, load_input=False, load_output=False
    ):
        DBOS.delete_workflows([workflow.workflow_id for workflow in ended])
        forgotten += len(ended)
    if forgotten:
        log.info("The engine's history was shortened", extra={"workflows": forgotten})
    return forgotten
