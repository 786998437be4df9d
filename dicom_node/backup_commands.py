"""The commands `backup` and `restore`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from config.loading import load_settings
from dicom_node import disk_reports
from dicom_node.backup import BackupRequest, Objects, back_up
from dicom_node.command_options import AsJson, ConfigFile
from dicom_node.errors import OperationRefused
from dicom_node.restoring import restore
from dicom_node.state import EXIT_FOUND_FAULTS, EXIT_OK, open_state


def backup_command(
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="New folder for the backup.")],
    config: ConfigFile,
    objects: Annotated[
        Objects,
        typer.Option(help="Objects in it: undelivered (what some destination lacks, and quarantine), all, or none."),
    ] = Objects.UNDELIVERED,
    with_certificates: Annotated[
        bool, typer.Option("--with-certificates", help="Also the certificates that the settings name, with their keys.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    as_json: AsJson = False,
) -> int:
    """Back up ledger, objects and settings, while the node runs or not, and read the backup again.

    Exit code 1 where the node itself lacks objects that it should have: the backup holds the rest.
    """
    settings = load_settings(config)
    if with_certificates and not yes:
        question = "The backup will hold private keys, and whoever reads it can pass for this node. Go on?"
        if not sys.stdin.isatty():
            raise OperationRefused(f"{question} Say --yes where nobody can be asked")
        if not typer.confirm(question, err=True):
            raise OperationRefused("no backup was made")
    request = BackupRequest(settings_file=config, target=target, objects=objects, with_certificates=with_certificates)
    with open_state(settings) as state, disk_reports.progress(shown=not as_json) as on_progress:
        made = back_up(state, request, on_progress=on_progress)
    count = sum(name.endswith(".dcm") for name in made.files)
    if as_json:
        print(
            json.dumps(
                {
                    "target": str(target),
                    "at": made.at,
                    "objects": count,
                    "bytes": made.size,
                    "missing_files": list(made.missing),
                    "damaged_files": list(made.damaged),
                },
                indent=2,
            )
        )
    else:
        print(f"{target}: ledger, settings and {count} objects, {made.size / 1e6:.1f} MB, read again and sound.")
        for what, keys in (("missing", made.missing), ("damaged", made.damaged)):
            if keys:
                print(f"{len(keys)} objects of the node itself are {what}: dicom-node verify --deep -c {config}")
    return EXIT_FOUND_FAULTS if made.missing or made.damaged else EXIT_OK


def restore_command(
    backup: Annotated[Path, typer.Argument(metavar="BACKUP", help="Folder of the backup.")],
    config: ConfigFile,
    as_json: AsJson = False,
) -> int:
    """Bring a backup back into an empty data folder, after it was verified.

    Exit code 1 where objects are missing that some destination lacks.
    """
    settings = load_settings(config)
    with disk_reports.progress(shown=not as_json) as on_progress:
        done = restore(settings, backup, on_progress=on_progress)
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(done.manifest.at))
    if as_json:
        found = {
            "at": done.manifest.at,
            "objects": done.objects,
            "left_out": done.left_out,
            "missing_files": list(done.missing),
        }
        print(json.dumps(found, indent=2))
    else:
        print(f"Restored the node as of {at}: the ledger and {done.objects} objects.")
        if done.left_out:
            print(f"{done.left_out} objects that every destination has were not in the backup; they count as deleted.")
        if done.missing:
            print(f"{len(done.missing)} objects are missing: send them again from the modality (docs/backup.md).")
        print(f"Next: dicom-node verify -c {config}, then start the node.")
        print(f"What was received after {at} is not in it: send it again from the modality.")
    return EXIT_FOUND_FAULTS if done.missing else EXIT_OK
