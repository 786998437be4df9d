"""Bring a backup back into an empty data folder: objects first, the ledger last."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, delete, inspect, select, update
from sqlalchemy.engine import make_url

from config.settings import Settings
from dicom_node.app import only_one
from dicom_node.backup_manifest import Manifest, faults_of, read_manifest
from dicom_node.commitment_peers import committing
from dicom_node.database_copies import restore_postgres, sync_file, sync_folder
from dicom_node.errors import OperationRefused
from dicom_node.fault_points import fault_point
from dicom_node.identifiers import KEY_FILE, key_file
from dicom_node.instance_store import InstanceStore
from dicom_node.ledger import migrations, schema
from dicom_node.ledger.database import Database, change_state, ledger_url
from dicom_node.ledger.retention import is_deletable
from dicom_node.object_keeping import QUARANTINED
from dicom_node.state import RESTORING, open_store
from dicom_node.states import INSTANCE, DeliveryState, InstanceState, ItemState

_FOREVER = 1e12
_UNSENT = (DeliveryState.PENDING.value, DeliveryState.SENDING.value, DeliveryState.HELD.value)
# What an interrupted restore may have made, besides the folders of the instance store.
_OURS = (
    *("objects", "quarantine", "incoming", "cache", "ledger.sqlite", "ledger.sqlite.partial", "receiver.lock"),
    KEY_FILE,
)


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What a restore did.

    Parameters
    ----------
    manifest
        Of the backup.
    objects
        Number of objects that were brought back.
    left_out
        Number of objects that the ledger names and the backup left out, as every destination has them.
    missing
        Keys of objects that some destination lacks and the backup does not have.
    """

    manifest: Manifest
    objects: int
    left_out: int
    missing: tuple[str, ...]


def restore(
    settings: Settings, backup: Path, *, on_progress: Callable[[int, int], None] = lambda _done, _all: None
) -> Restored:
    """Verify a backup and bring it back; the node is to be started afterwards.

    Raises
    ------
    OperationRefused
        If the backup is not whole, is of another kind of database or a newer version, or the data folder or the
        database holds something.
    """
    manifest = read_manifest(backup)
    data_dir = settings.node.data_dir
    url = ledger_url(settings.node.database_url, data_dir)
    _refuse_unfit(manifest, url)
    faults = faults_of(backup, manifest)
    if faults:
        told = "; ".join(faults[:5]) + (" ..." if len(faults) > 5 else "")
        raise OperationRefused(f"the backup {backup} is damaged: {told}: take another one")
    _clear_interrupted(data_dir)
    if data_dir.exists() and any(data_dir.iterdir()):
        raise OperationRefused(
            f"{data_dir} holds something: restore into a new node.data_dir, or move what is there away"
        )
    database = Database(url) if manifest.database != "sqlite" else None
    if database is not None:
        _refuse_used(database)
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    (data_dir / RESTORING).touch(mode=0o600)
    sync_folder(data_dir)
    with only_one(data_dir, "receiver"):
        count = _restore_objects(open_store(settings), backup, manifest, on_progress)
        _restore_key(settings, backup / KEY_FILE)
        fault_point("restore.objects")
        if manifest.database == "sqlite":
            _restore_file(backup / "ledger.sqlite", Path(str(make_url(url).database)))
        else:
            restore_postgres(backup / "ledger.dump", settings.node.database_url)
        database = database or Database(url)
        try:
            with database.migrating() as connection:
                migrations.migrate(connection)
            database.set_clock()
            with database.write() as connection:
                left_out, missing = _settle(connection, settings, backup, manifest, database.now())
        finally:
            database.close()
        (data_dir / RESTORING).unlink()
        sync_folder(data_dir)
    return Restored(manifest=manifest, objects=count, left_out=left_out, missing=tuple(missing))


def _refuse_unfit(manifest: Manifest, url: str) -> None:
    kind = make_url(url).get_backend_name()
    if manifest.database != kind:
        raise OperationRefused(
            f"the backup is of a ledger on {manifest.database}, node.database_url is for {kind}: set it accordingly"
        )
    if manifest.schema_version > schema.SCHEMA_VERSION:
        raise OperationRefused(
            f"the backup is of a newer dicom-node ({manifest.program}): restore it with that version or a later one"
        )


def _clear_interrupted(data_dir: Path) -> None:
    """Remove what a restore that was interrupted has brought; nothing else was there."""
    if not (data_dir / RESTORING).exists():
        return
    for name in _OURS:
        path = data_dir / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for suffix in ("-wal", "-shm"):
        (data_dir / f"ledger.sqlite{suffix}").unlink(missing_ok=True)
    (data_dir / RESTORING).unlink()


def _refuse_used(database: Database) -> None:
    with database.read() as connection:
        if inspect(connection).get_table_names():
            raise OperationRefused("the database of node.database_url holds tables: name an empty one")


def _restore_objects(
    store: InstanceStore, backup: Path, manifest: Manifest, on_progress: Callable[[int, int], None]
) -> int:
    names = [name for name in manifest.files if name.endswith(".dcm")]
    total, done = sum(manifest.files[name][0] for name in names), 0
    for name in names:
        path = backup / name
        store.take_in(path, path.stem)
        reason = path.with_suffix(".txt")
        if path.stem.startswith(QUARANTINED) and reason.exists():
            store.explain(path.stem, reason.read_text(encoding="utf-8").rstrip("\n"))
        done += manifest.files[name][0]
        on_progress(done, total)
    return len(names)


def _restore_key(settings: Settings, kept: Path) -> None:
    target = key_file(settings)
    if not kept.exists() or target.exists():
        return
    target.touch(mode=0o600)
    shutil.copyfile(kept, target)
    sync_file(target)


def _restore_file(source: Path, target: Path) -> None:
    if target.exists():
        raise OperationRefused(f"{target} is there already: move it away, or set another node.database_url")
    partial = target.with_name(target.name + ".partial")
    partial.touch(mode=0o600)
    shutil.copyfile(source, partial)
    sync_file(partial)
    partial.rename(target)
    sync_folder(target.parent)


def _settle(
    connection: Connection, settings: Settings, backup: Path, manifest: Manifest, now: float
) -> tuple[int, list[str]]:
    """Let the ledger say what is true of a restored node; returns what was left out, and what is missing."""
    instance, arrival, item = schema.instance, schema.arrival, schema.delivery_item
    # The processes of the node that was backed up; one of them may not be gone for long.
    connection.execute(delete(schema.process))
    # Who had signed in then may have been locked out since.
    connection.execute(delete(schema.console_session))
    # All that was still to be sent may have been sent since the backup: it goes last, and a destination that says
    # "duplicate" has it.
    unsent = select(schema.delivery.c.id).where(schema.delivery.c.state.in_(_UNSENT))
    connection.execute(
        update(item)
        .where(item.c.delivery_id.in_(unsent), item.c.state == ItemState.PENDING.value)
        .values(in_doubt=True)
    )
    present = {Path(name).stem for name in manifest.files if name.endswith(".dcm")}
    deletable = set(
        connection.scalars(
            select(instance.c.id)
            .join(arrival, arrival.c.id == instance.c.arrival_id)
            .where(is_deletable(_FOREVER, list(committing(settings))))
        )
    )
    left_out, missing = 0, []
    rows = connection.execute(
        select(instance.c.id, instance.c.key).where(instance.c.state != InstanceState.PURGED.value)
    ).all()
    for row in rows:
        if row.key in present:
            continue
        if row.id not in deletable:
            missing.append(row.key)
            continue
        reason = "restore: not in the backup, and every destination has it"
        change_state(connection, instance, row.id, INSTANCE, InstanceState, "purge", at=now, reason=reason)
        left_out += 1
    connection.execute(
        schema.event.insert().values(
            at=now,
            subject="ledger",
            subject_id=schema.SCHEMA_VERSION,
            from_state=str(manifest.schema_version),
            to_state=str(schema.SCHEMA_VERSION),
            event="restore",
            reason=f"{backup.name}, of {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(manifest.at))}",
        )
    )
    return left_out, missing
