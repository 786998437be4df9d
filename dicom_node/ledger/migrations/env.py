"""What Alembic runs for `migrate` and `stamp`: on the connection that it is given, within its transaction."""

from __future__ import annotations

from typing import Any

from alembic import context
from alembic.runtime.migration import MigrationContext, MigrationInfo
from sqlalchemy import Connection

from dicom_node.ledger import schema
from dicom_node.ledger.migrations import note_version


def _note(ctx: MigrationContext, step: MigrationInfo, heads: Any, run_args: Any) -> None:  # noqa: ARG001
    # In the same transaction, so that the two can't disagree. A stamp only follows it.
    if ctx.connection is not None and step.is_upgrade and not step.is_stamp:
        (revision,) = step.up_revision_ids
        note_version(ctx.connection, int(revision))


def _run() -> None:
    connection: Connection = context.config.attributes["connection"]
    context.configure(
        connection=connection,
        target_metadata=schema.metadata,
        transactional_ddl=True,
        # SQLite changes of a table little more than its name: it is copied into a new one.
        render_as_batch=True,
        on_version_apply=_note,
    )
    context.run_migrations()


_run()
