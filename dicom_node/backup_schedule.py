"""Backups at a time of day, and the oldest of them deleted."""

from __future__ import annotations

import logging
import re
import shutil
import time
from pathlib import Path

from apscheduler.schedulers.base import BaseScheduler
from apscheduler.triggers.cron import CronTrigger

from dicom_node.backup import BackupRequest, Objects, back_up
from dicom_node.backup_manifest import NAME
from dicom_node.errors import NodeError
from dicom_node.state import State

log = logging.getLogger(__name__)


def schedule_backup(scheduler: BaseScheduler, state: State, settings_file: Path) -> None:
    """Add the daily backup, at the local time of the settings; nothing where they name no folder for it."""
    wanted = state.settings.backup
    if wanted.folder is None:
        return
    hour, minute = wanted.at.split(":")
    scheduler.add_job(
        run_backup,
        CronTrigger(hour=int(hour), minute=int(minute)),
        args=(state, settings_file, wanted.folder),
        name="backup",
        max_instances=1,
        coalesce=True,
        misfire_grace_time=None,
    )


def run_backup(state: State, settings_file: Path, folder: Path, now: float | None = None) -> Path | None:
    """Make a backup in `folder` under the node's name and the time, then delete the oldest beyond those to keep.

    Returns
    -------
    Where it is; None where it failed, with an alarm in the log. Then nothing is deleted.
    """
    at = time.time() if now is None else now
    name = state.settings.node.name
    target = folder / f"{name}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(at))}"
    wanted = state.settings.backup
    request = BackupRequest(settings_file=settings_file, target=target, objects=Objects(wanted.objects))
    try:
        manifest = back_up(state, request, clock=lambda: at)
    except NodeError as error:
        log.error("Backup failed", extra={"target": str(target), "reason": str(error), "alarm": "backup"})
        return None
    except Exception:
        # The top of a job: the next one tries again.
        log.exception("Backup failed by an unforeseen error", extra={"target": str(target), "alarm": "backup"})
        return None
    facts = {"target": str(target), "files": len(manifest.files), "mb": round(manifest.size / 1e6)}
    if manifest.missing or manifest.damaged:
        lost = {"missing": len(manifest.missing), "damaged": len(manifest.damaged), "alarm": "backup"}
        log.error("Backup made, and the node itself lacks objects", extra={**facts, **lost})
    else:
        log.info("Backup made", extra=facts)
    _delete_oldest(folder, name, wanted.keep)
    return target


def _delete_oldest(folder: Path, node: str, keep: int) -> None:
    ours = re.compile(re.escape(node) + r"-\d{8}T\d{6}Z")
    found = sorted(path for path in folder.iterdir() if ours.fullmatch(path.name) and (path / NAME).is_file())
    for path in found[:-keep]:
        # First what makes it a backup: one that is half deleted must not look whole.
        (path / NAME).unlink()
        shutil.rmtree(path, ignore_errors=True)
        log.info("Old backup deleted", extra={"target": str(path)})
