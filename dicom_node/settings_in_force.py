"""The settings that the node's processes work with, kept for one that has to be started again.

The settings file may have been edited since, and be half done or wrong: it counts only when somebody reloads it or
starts the node anew.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from config.settings import Settings
from dicom_node.settings_changes import changes_between

log = logging.getLogger(__name__)

NAME = "settings-in-force.json"


def keep_in_force(
    data_dir: Path, settings: Settings, digest: str, changes: Sequence[dict[str, Any]] = ()
) -> Path | None:
    """Write down the settings, read from a file with this SHA-256; returns where, or None if that can't be done.

    Parameters
    ----------
    changes
        What a start of the node changed, for `changes_at_start`.
    """
    file = data_dir / NAME
    partial = data_dir / f"{NAME}.{os.getpid()}"
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        # It may hold the password of a database.
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as stream:
            kept = {"digest": digest, "settings": settings.model_dump(mode="json"), "changes": list(changes)}
            json.dump(kept, stream)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(file)
    except OSError as error:
        # A full disk; a process that starts again then reads the settings file itself.
        log.warning("The settings in force can't be kept", extra={"file": str(file), "reason": error.strerror})
        # A data folder that is none, or can't be written, is refused in words by the roles.
        for left in (partial, file):
            with suppress(OSError):
                left.unlink()
        return None
    return file


def start_with(data_dir: Path, settings: Settings, digest: str) -> Path | None:
    """Do what `keep_in_force` does for a node that starts, with what changed since it ran last."""
    before = read_in_force(data_dir / NAME)
    changes = [] if before is None else [change.as_json() for change in changes_between(before[0], settings)]
    return keep_in_force(data_dir, settings, digest, [{**one, "takes_effect": "at this start"} for one in changes])


def changes_at_start(data_dir: Path) -> list[dict[str, Any]]:
    """Return what the last start of the node changed, where nothing was reloaded since."""
    try:
        found = json.loads((data_dir / NAME).read_text(encoding="utf-8"))["changes"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return list(found)


def read_in_force(file: Path) -> tuple[Settings, str] | None:
    """Return the settings in force and the SHA-256 of the file that they came from; None where they are not known."""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        return Settings.model_validate_json(json.dumps(kept["settings"])), str(kept["digest"])
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return None
