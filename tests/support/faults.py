"""Faults inside a running worker that depend on the object, by a `sitecustomize` module on its path.

Where the step alone says when, the product's own fault points are simpler.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

from tests.support.fault_points import FaultFolder
from tests.support.node import REPOSITORY

_SITE = """
import sys

if "worker" in sys.orig_argv:
    import os
    import time

    from dicom_node.enhancement import ImageEnhancer

    enhance = ImageEnhancer.enhance

    def with_fault(self, stored, *arguments, **options):
        uid = stored.sop_instance_uid
{fault}
        return enhance(self, stored, *arguments, **options)

    ImageEnhancer.enhance = with_fault
"""


def fault_in_enhancement(folder: Path, code: str) -> dict[str, str]:
    """Return the environment of a node that runs `code` before each image; `uid` is its SOP Instance UID."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(_SITE.format(fault=textwrap.indent(textwrap.dedent(code), " " * 8)))
    return {"PYTHONPATH": f"{folder}:{REPOSITORY}"}


def killed_by(folder: Path, sop_instance_uid: str) -> dict[str, str]:
    """Return the environment of a node whose worker dies at one image, as of a codec that crashes.

    Other images take longer than that one, so that one of them is in work whenever it happens.
    """
    code = f"""
        if uid == {sop_instance_uid!r}:
            time.sleep(0.5)
            os._exit(139)
        time.sleep(1.0)
    """
    return fault_in_enhancement(folder, code)


def slowed(folder: Path, seconds: float) -> dict[str, str]:
    """Return the environment of a node whose worker takes this much longer for each image."""
    faults = FaultFolder(folder)
    faults.arm("image.counted", "delay", role="worker", seconds=seconds, repeat=True)
    return faults.environment


_REPORT_SITE = """
import sys

if "worker" in sys.orig_argv:
    import os
    import time
    from pathlib import Path

    from dicom_node.reporting import Reporter

    marks = Path({folder!r})
    original = Reporter.{method}

    def is_first():
        try:
            (marks / "done").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def with_fault(self, *arguments, **options):
{before}
        made = original(self, *arguments, **options)
{after}
        return made

    Reporter.{method} = with_fault
"""


def fault_in_report(folder: Path, *, before: str = "", after: str = "", method: str = "make") -> dict[str, str]:
    """Return the environment of a node that runs code before and after a method of `Reporter`.

    In that code `is_first()` is true once, over all restarts, and `made` is what the method returned.
    """
    folder.mkdir(parents=True, exist_ok=True)
    code = {
        name: textwrap.indent(textwrap.dedent(text), " " * 8) for name, text in (("before", before), ("after", after))
    }
    (folder / "sitecustomize.py").write_text(_REPORT_SITE.format(folder=str(folder), method=method, **code))
    return {"PYTHONPATH": f"{folder}:{REPOSITORY}"}
