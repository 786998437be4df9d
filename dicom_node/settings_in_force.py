"""The settings that the node's processes work with, kept for one that has to be started again.

The settings file may have been edited since, and be half done or wrong: it counts only when somebody reloads it or
starts the node anew.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from pydantic import ValidationError

from config.settings import Settings

log = logging.getLogger(__name__)

NAME = "settings-in-force.json"


def keep_in_force(data_dir: Path, settings: Settings, digest: str) -> Path | None:
    """Write down the settings, read from a file with this SHA-256; returns where, or None if that can't be done."""
    file = data_dir / NAME
    partial = data_dir / f"{NAME}.{os.getpid()}"
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        # It may hold the password of a database.
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as stream:
            json.dump({"digest": digest, "settings": settings.model_dump(mode="json")}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(file)
    except OSError as error:
        # A full disk; a process that starts again then reads the settings file itself.
        log.warning("The settings in force can't be kept", extra={"file": str(file), "reason": error.strerror})
        partial.unlink(missing_ok=True)
        file.unlink(missing_ok=True)
        return None
    return file


def read_in_force(file: Path) -> tuple[Settings, str] | None:
    """Return the settings in force and the SHA-256 of the file that they came from; None where they are not known."""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        return Settings.model_validate_json(json.dumps(kept["settings"])), str(kept["digest"])
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return None
