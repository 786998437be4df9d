"""Checks of stored objects, disks, standing of destinations, holds, Storage Commitment, followers, several machines."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
TIME = sa.Float(53)


def _key() -> sa.Column[int]:
    return sa.Column("id", KEY, primary_key=True, autoincrement=True)


def upgrade() -> None:
    """Add the columns and tables; what there was keeps its meaning."""
    _widen_tables()
    _add_checks_and_disks()
    _add_queues()
    _add_commitment()


def _widen_tables() -> None:
    with op.batch_alter_table("arrival") as arrival:
        arrival.add_column(sa.Column("released_at", TIME))
        arrival.add_column(sa.Column("shadow", sa.Boolean, nullable=False, server_default=sa.false()))
    # What an arrival or a delivery is, the program says: no default is left behind.
    with op.batch_alter_table("arrival") as arrival:
        arrival.alter_column("shadow", server_default=None)
    op.add_column("instance", sa.Column("same_as_id", KEY, sa.ForeignKey("instance.id")), inline_references=True)
    _part_deliveries()
    op.add_column("delivery_item", sa.Column("committed_at", TIME))
    op.add_column("delivery_item", sa.Column("commitment_failures", sa.Integer, nullable=False, server_default="0"))
    op.add_column("process", sa.Column("machine", sa.String(512)))
    op.add_column("process", sa.Column("token", sa.String(32)))


def _part_deliveries() -> None:
    """Let an arrival have several deliveries to one destination, told apart by `part`."""
    part = sa.Column("part", sa.Integer, nullable=False, server_default="0")
    if op.get_bind().dialect.name == "sqlite":
        # SQLite can't take a constraint away, and this one has no name: the table is copied without it.
        before = sa.Table(
            "delivery",
            sa.MetaData(),
            _key(),
            sa.Column("arrival_id", KEY, sa.ForeignKey("arrival.id"), nullable=False),
            sa.Column("destination", sa.String(64), nullable=False),
            sa.Column("state", sa.String(16), nullable=False),
            sa.Column("attempts", sa.Integer, nullable=False),
            sa.Column("created_at", TIME, nullable=False),
            sa.Column("next_attempt_at", TIME, nullable=False),
            sa.Column("finished_at", TIME),
            sa.Column("reason", sa.String(1024)),
            sa.Index("delivery_state", "state", "next_attempt_at"),
        )
        unique = sa.UniqueConstraint("arrival_id", "destination", "part")
        with op.batch_alter_table("delivery", recreate="always", copy_from=before, table_args=(unique,)) as delivery:
            delivery.add_column(part)
    else:
        op.drop_constraint("delivery_arrival_id_destination_key", "delivery", type_="unique")
        op.add_column("delivery", part)
        op.create_unique_constraint(None, "delivery", ["arrival_id", "destination", "part"])
    with op.batch_alter_table("delivery") as delivery:
        delivery.alter_column("part", server_default=None)


def _add_checks_and_disks() -> None:
    op.create_table(
        "object_check",
        sa.Column("instance_id", KEY, sa.ForeignKey("instance.id"), primary_key=True, autoincrement=False),
        sa.Column("checked_at", TIME, nullable=False),
        sa.Column("finding", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(1024)),
        sa.Index("object_check_at", "checked_at"),
        sa.Index("object_check_finding", "finding"),
    )
    op.create_table(
        "disk_sample",
        _key(),
        sa.Column("host", sa.String(253), nullable=False),
        sa.Column("path", sa.String(1024), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("free_bytes", sa.BigInteger, nullable=False),
        sa.Column("total_bytes", sa.BigInteger, nullable=False),
        sa.Index("disk_sample_at", "host", "path", "at"),
    )


def _add_queues() -> None:
    op.create_table(
        "destination",
        _key(),
        sa.Column("name", sa.String(64), nullable=False, unique=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(1024)),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("failed_delivery_id", KEY),
        sa.Column("changed_at", TIME, nullable=False),
        sa.Column("probe_at", TIME),
        sa.Column("next_object_at", TIME),
    )
    op.create_table(
        "hold",
        sa.Column("scope", sa.String(16), primary_key=True),
        sa.Column("subject", sa.String(64), primary_key=True),
        sa.Column("at", TIME, nullable=False),
        sa.Column("reason", sa.String(1024)),
    )


def _add_commitment() -> None:
    op.create_table(
        "delivery_commitment",
        sa.Column("delivery_id", KEY, sa.ForeignKey("delivery.id"), primary_key=True, autoincrement=False),
        sa.Column("since", TIME, nullable=False),
        sa.Column("requests", sa.Integer, nullable=False),
        sa.Column("next_request_at", TIME),
        sa.Column("reason", sa.String(1024)),
        sa.Index("delivery_commitment_due", "next_request_at"),
    )
    op.create_table(
        "commitment_transaction",
        _key(),
        sa.Column("transaction_uid", sa.String(64), nullable=False, unique=True),
        sa.Column("delivery_id", KEY, sa.ForeignKey("delivery.id"), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("reported_at", TIME),
        sa.Column("reason", sa.String(1024)),
        sa.Index("commitment_transaction_delivery", "delivery_id"),
    )
    op.create_table(
        "commitment_reference",
        sa.Column("transaction_id", KEY, sa.ForeignKey("commitment_transaction.id"), primary_key=True),
        sa.Column("instance_id", KEY, sa.ForeignKey("instance.id"), primary_key=True),
        sa.Column("outcome", sa.Integer),
        sa.Index("commitment_reference_instance", "instance_id"),
    )
    op.create_table(
        "commitment_request",
        _key(),
        sa.Column("transaction_uid", sa.String(64), nullable=False),
        sa.Column("calling_ae_title", sa.String(16), nullable=False),
        sa.Column("host", sa.String(253), nullable=False),
        sa.Column("source", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("received_at", TIME, nullable=False),
        sa.Column("decided_at", TIME),
        sa.Column("reported_at", TIME),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_attempt_at", TIME, nullable=False),
        sa.Column("reason", sa.String(1024)),
        sa.UniqueConstraint("calling_ae_title", "transaction_uid"),
        sa.Index("commitment_request_state", "state", "next_attempt_at"),
    )
    op.create_table(
        "commitment_request_item",
        sa.Column("request_id", KEY, sa.ForeignKey("commitment_request.id"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("sop_class_uid", sa.String(64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("outcome", sa.Integer),
    )
