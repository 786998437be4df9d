"""Loading the model may end the process: after a few such ends a worker runs without it, and the originals go on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dicom_node.enhancement import ModelAtHand, NoModel

log = logging.getLogger(__name__)

MAX_LOADS = 3
"""Loads that may be begun one after another without an end."""


def load_guarded(mark: Path, load: Callable[[], ModelAtHand]) -> ModelAtHand:
    """Return what `load` does, unless it was begun `MAX_LOADS` times before and never ended.

    A worker that dies while it loads (memory, a broken library) would be started again for ever, and with it nothing
    would be delivered and no deadline be kept.

    Parameters
    ----------
    mark
        File that counts loads in progress; of this worker alone.
    load
        Loads the model.
    """
    begun = 0
    with suppress(OSError, ValueError):
        begun = int(mark.read_text())
    if begun >= MAX_LOADS:
        reason = f"loading the model ended the worker {begun} times"
        log.error("No model: every image is passed through until the worker starts again", extra={"reason": reason})
        mark.unlink(missing_ok=True)
        return NoModel(reason=reason)
    try:
        mark.write_text(str(begun + 1))
    except OSError as error:
        # A full disk must not keep the worker from working.
        log.warning("Loading the model is not counted", extra={"reason": str(error)})
    model = load()
    with suppress(OSError):
        mark.unlink(missing_ok=True)
    return model
