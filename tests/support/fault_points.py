"""Arm the product's fault points in a folder that the node's processes look into."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dicom_node.fault_points import FAULT_POINTS, VARIABLE

QUICK_SUPERVISOR = (
    "-c",
    "import dicom_node.supervisor as s; s.STEADY_S = 0.0; from dicom_node.cli import main; main()",
)
"""A supervisor that starts a child again at once, however often it died: the product waits longer each time."""


class FaultFolder:
    """Plans for fault points; `environment` is for a `RunningNode`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        self.folder = folder

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment in which the plans count."""
        return {VARIABLE: str(self.folder)}

    def arm(self, name: str, action: str = "kill", **plan: Any) -> None:
        """Let `action` happen at a point, once unless ``repeat=True``."""
        assert name in FAULT_POINTS, name
        self.done_file(name).unlink(missing_ok=True)
        waiting = self.folder / f"{name}.new"
        waiting.write_text(json.dumps({"action": action, **plan}))
        waiting.rename(self.folder / name)

    def disarm(self, name: str) -> None:
        """Take a plan back."""
        (self.folder / name).unlink(missing_ok=True)

    def done_file(self, name: str) -> Path:
        """Return the file that is there once a plan was carried out."""
        return self.folder / f"{name}.done"

    def is_done(self, name: str) -> bool:
        """Tell whether a plan was carried out."""
        return self.done_file(name).exists()
