"""The command `upgrade`: a ledger of an earlier version comes to this one."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from config.loading import load_settings
from dicom_node.command_options import AsJson, ConfigFile
from dicom_node.errors import LedgerOutdated, LedgerUnavailable
from dicom_node.state import EXIT_FOUND_FAULTS, EXIT_LEDGER, EXIT_OK, StartRefused
from dicom_node.upgrading import Upgrade, upgrade


def upgrade_command(
    config: ConfigFile,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit code 1 if an upgrade is needed.")
    ] = False,
    without_copy: Annotated[
        bool, typer.Option("--without-copy", help="Make no copy of the ledger first; you have made one.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Bring the ledger of an earlier version of this program to this version, after a copy of it was made.

    The node must be stopped on every machine. All or nothing; done again it does nothing.
    """
    settings = load_settings(config)
    try:
        done = upgrade(settings, dry=check, with_copy=not without_copy)
    except (LedgerOutdated, LedgerUnavailable) as error:
        raise StartRefused(str(error), EXIT_LEDGER) from error
    if as_json:
        found = {
            "found": done.found,
            "known": done.known,
            "needed": done.is_needed,
            "done": done.is_needed and not check,
            "copy": None if done.copy is None else str(done.copy),
        }
        print(json.dumps(found, indent=2))
    else:
        print(_sentence(done, check=check))
    return EXIT_FOUND_FAULTS if check and done.is_needed else EXIT_OK


def _sentence(done: Upgrade, *, check: bool) -> str:
    if done.found is None:
        return "There is no ledger yet; `dicom-node run -c FILE` makes one."
    if not done.is_needed:
        return f"The ledger has schema version {done.found}, which this program needs: nothing to do."
    if check:
        return (
            f"The ledger has schema version {done.found}, this program needs {done.known}: stop the node on every "
            "machine, then `dicom-node upgrade -c FILE`."
        )
    kept = f" The ledger as it was is in {done.copy}." if done.copy is not None else ""
    return f"The ledger was brought from schema version {done.found} to {done.known}.{kept} Start the node."
