"""Named places at which a test lets this process die or fail; inert unless an environment variable names a folder.

A crash between two effects is what a node in a clinical path must survive, and only the code knows where its effects
lie. Each place is a line `fault_point("name")`. What happens there is said by a file of that name in the folder that
``LOWDOSE_FAULT_POINTS`` names when the process starts: a JSON object with

``action``
    ``kill`` (SIGKILL to this process), ``ENOSPC`` or ``EIO`` (the error of a disk), ``exception``, ``delay``, ``hang``.
``nth``
    At which pass through the place in one process; 1 unless given.
``role``
    Only in a process of this role: ``receiver``, ``worker``; any unless given.
``seconds``
    Of ``delay``; 1 unless given.
``repeat``
    True: at every pass from the nth on. Otherwise the file is renamed first, so that it happens once, over all
    processes and restarts.

No setting, no command and nothing that comes over DICOM leads here. A folder that others may write to is refused.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

VARIABLE: Final = "LOWDOSE_FAULT_POINTS"

FAULT_POINTS: Final[Mapping[str, str]] = {
    "store.creating": "An object is announced, and no file exists for it.",
    "store.written": "An object is written and not yet synced.",
    "store.synced": "An object's file is synced and still among the incoming ones.",
    "store.renamed": "An object has its final name, and the folder is not yet synced.",
    "store.durable": "An object's file and folder are synced, and the ledger does not know it.",
    "reception.committing": "The ledger's transaction for received objects is written and not committed.",
    "reception.recorded": "A received object is in the ledger, and its sender has no answer.",
    "reception.answered": "The sender has its answer, and the association goes on.",
    "reception.duplicate": "The ledger knows the object already, and the second file is still there.",
    "quarantine.moved": "An object lies in quarantine, and neither its reason nor its row is written.",
    "quarantine.explained": "An object lies in quarantine with its reason, and has no row.",
    "association.ended": "An association is over for its peer, and open in the ledger.",
    "association.rejected": "A request is to be rejected, and the ledger has no note of it.",
    "series.routed": "A quiet series has its route, and is not complete.",
    "series.completed": "A series is complete, and no workflow is enqueued.",
    "enhance.enqueued": "The workflow of a series is enqueued, and this process has not noted it.",
    "enhance.begun": "A series is in work in the ledger, and the engine does not know that the step is done.",
    "image.counted": "An attempt at an image is counted, and nothing is done.",
    "image.derived": "A derived object is stored, and the ledger does not know it.",
    "image.decided": "An image is decided in the ledger, and the engine does not know it.",
    "conclude.reported": "The report of a series is made, or none is wanted, and the series is not concluded.",
    "conclude.concluded": "A series is concluded with its deliveries, and the engine does not know it.",
    "deliver.enqueued": "The workflow of a delivery is enqueued, and this process has not noted it.",
    "deliver.taken": "A delivery is in work in the ledger, and the engine does not know it.",
    "deliver.opened": "The objects that are left are known, and no association is open.",
    "deliver.answered": "The destination has answered for an object, and the ledger does not know it.",
    "deliver.recorded": "The ledger has the answer for an object, and the next one is not begun.",
    "deliver.settling": "Every object of an attempt is answered, and the delivery is still in work.",
    "deliver.settled": "A delivery has its state, and the engine does not know it.",
    "retention.marked": "Objects are purged in the ledger, and their files are still there.",
    "retention.deleted": "The first file of those is deleted.",
    "start.opened": "Ledger and store are open, and nothing is taken up yet.",
    "start.cleared": "The associations that an earlier receiver left open are closed, and nobody listens yet.",
    "start.launched": "The engine has begun to take up workflows, and no job runs yet.",
    "recover.resumed": "A workflow of a worker that is gone is taken over, others are not.",
    "upgrade.copied": "The ledger of an older version is copied, and its tables are as they were.",
    "upgrade.migrated": "The ledger's tables are changed, and nothing is committed.",
    "backup.ledger": "The ledger is in a backup, and no object is.",
    "backup.objects": "Everything is in a backup, and nothing says that it is whole.",
    "restore.objects": "The objects of a backup are in place, and the ledger is not.",
}
"""Every place, and what has happened and what has not when a process is at it."""


class InjectedFault(Exception):
    """An error that nobody foresees: for tests alone."""


def _folder_of(environment: Mapping[str, str]) -> Path | None:
    named = environment.get(VARIABLE)
    if not named:
        return None
    folder = Path(named)
    try:
        status = folder.stat()
    except OSError as error:
        raise SystemExit(f"{VARIABLE} names {folder}, which can't be read ({error.strerror}): unset it") from error
    if not folder.is_dir() or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise SystemExit(f"{VARIABLE} must name a folder of this user that nobody else may write to: unset it")
    print(f"{VARIABLE} is set: this process fails on demand of {folder}; for tests alone", file=sys.stderr, flush=True)
    return folder


def _role_of(arguments: list[str]) -> str:
    return arguments[arguments.index("--role") + 1] if "--role" in arguments[:-1] else ""


_folder: Path | None = _folder_of(os.environ)
_role: str = _role_of(sys.argv)
_passes: Counter[str] = Counter()
_lock = threading.Lock()


def fault_point(name: str) -> None:
    """Do what the test wants at this place; nothing in operation."""
    if _folder is None:
        return
    _pass(_folder, name)


def _pass(folder: Path, name: str) -> None:
    if name not in FAULT_POINTS:
        raise KeyError(f"no fault point {name!r}: add it to the table")
    plan_file = folder / name
    with _lock:
        try:
            plan = json.loads(plan_file.read_text())
        except FileNotFoundError:
            return
        if plan.get("role") not in (None, _role):
            return
        _passes[name] += 1
        if _passes[name] < plan.get("nth", 1):
            return
        if not plan.get("repeat"):
            try:
                os.rename(plan_file, folder / f"{name}.done")
            except FileNotFoundError:
                return  # another process was first
        _passes[name] = 0
    _act(name, plan)


def _act(name: str, plan: Mapping[str, object]) -> None:
    action = str(plan["action"])
    log.warning("Fault point", extra={"fault_point": name, "action": action})
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action in ("ENOSPC", "EIO"):
        number = getattr(errno, action)
        raise OSError(number, os.strerror(number))
    elif action == "exception":
        raise InjectedFault(f"at {name}")
    elif action == "delay":
        time.sleep(float(str(plan.get("seconds", 1.0))))
    elif action == "hang":
        threading.Event().wait()
    else:
        raise ValueError(f"no action {action!r}")
