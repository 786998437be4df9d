"""The tables of the first release."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
TIME = sa.Float(53)


def _key() -> sa.Column[int]:
    return sa.Column("id", KEY, primary_key=True, autoincrement=True)


def upgrade() -> None:
    """Make the tables."""
    op.create_table("schema_version", sa.Column("version", sa.Integer, primary_key=True))
    op.create_table(
        "association",
        _key(),
        sa.Column("receiver", sa.String(80), nullable=False),
        sa.Column("calling_ae_title", sa.String(16), nullable=False),
        sa.Column("called_ae_title", sa.String(16), nullable=False),
        sa.Column("host", sa.String(253), nullable=False),
        sa.Column("port", sa.Integer, nullable=False),
        sa.Column("opened_at", TIME, nullable=False),
        sa.Column("closed_at", TIME),
        sa.Column("outcome", sa.String(16)),
        sa.Column("acknowledged", sa.Integer),
        sa.Index("association_open", "closed_at"),
    )
    op.create_table(
        "rejection",
        _key(),
        sa.Column("calling_ae_title", sa.String(16), nullable=False),
        sa.Column("called_ae_title", sa.String(16), nullable=False),
        sa.Column("host", sa.String(253), nullable=False),
        sa.Column("reason", sa.String(255), nullable=False),
        sa.Column("first_at", TIME, nullable=False),
        sa.Column("last_at", TIME, nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.UniqueConstraint("calling_ae_title", "called_ae_title", "host", "reason"),
    )
    op.create_table(
        "arrival",
        _key(),
        sa.Column("series_instance_uid", sa.String(64), nullable=False),
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("route", sa.String(64)),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("opened_at", TIME, nullable=False),
        sa.Column("last_received_at", TIME, nullable=False),
        sa.Column("completed_at", TIME),
        sa.Column("finished_at", TIME),
        sa.Column("reason", sa.String(1024)),
        sa.UniqueConstraint("series_instance_uid", "generation"),
        sa.Index(
            "arrival_one_open",
            "series_instance_uid",
            unique=True,
            sqlite_where=sa.text("state = 'open'"),
            postgresql_where=sa.text("state = 'open'"),
        ),
        sa.Index("arrival_state", "state"),
        sa.Index("arrival_study", "study_instance_uid"),
    )
    op.create_table(
        "instance",
        _key(),
        sa.Column("origin", sa.String(8), nullable=False),
        sa.Column("association_id", KEY, sa.ForeignKey("association.id")),
        sa.Column("arrival_id", KEY, sa.ForeignKey("arrival.id")),
        sa.Column("source_id", KEY, sa.ForeignKey("instance.id")),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(1024)),
        sa.Column("sop_class_uid", sa.String(64)),
        sa.Column("sop_instance_uid", sa.String(64)),
        sa.Column("study_instance_uid", sa.String(64)),
        sa.Column("series_instance_uid", sa.String(64)),
        sa.Column("transfer_syntax_uid", sa.String(64)),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("dataset_offset", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Index("instance_sop_instance", "sop_instance_uid"),
        sa.Index("instance_arrival", "arrival_id"),
        sa.Index("instance_association", "association_id"),
        sa.Index("instance_source", "source_id"),
        sa.Index("instance_state", "state"),
        sa.Index(
            "instance_one_revision",
            "sop_instance_uid",
            "revision",
            unique=True,
            sqlite_where=sa.text("origin = 'received' AND arrival_id IS NOT NULL"),
            postgresql_where=sa.text("origin = 'received' AND arrival_id IS NOT NULL"),
        ),
    )
    op.create_table(
        "enhancement",
        sa.Column("instance_id", KEY, sa.ForeignKey("instance.id"), primary_key=True, autoincrement=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("decision", sa.String(16)),
        sa.Column("reason", sa.String(1024)),
        sa.Column("derived_id", KEY, sa.ForeignKey("instance.id")),
        sa.Column("strength", TIME),
        sa.Column("noise_before", TIME),
        sa.Column("noise_after", TIME),
        sa.Column("inference_s", TIME),
        sa.Column("total_s", TIME),
        sa.Column("model_digest", sa.String(64)),
        sa.Column("at", TIME, nullable=False),
    )
    op.create_table(
        "delivery",
        _key(),
        sa.Column("arrival_id", KEY, sa.ForeignKey("arrival.id"), nullable=False),
        sa.Column("destination", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("next_attempt_at", TIME, nullable=False),
        sa.Column("finished_at", TIME),
        sa.Column("reason", sa.String(1024)),
        sa.UniqueConstraint("arrival_id", "destination"),
        sa.Index("delivery_state", "state", "next_attempt_at"),
    )
    op.create_table(
        "delivery_item",
        sa.Column("delivery_id", KEY, sa.ForeignKey("delivery.id"), primary_key=True),
        sa.Column("instance_id", KEY, sa.ForeignKey("instance.id"), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("reason", sa.String(1024)),
        sa.Column("in_doubt", sa.Boolean, nullable=False),
        sa.Column("at", TIME),
        sa.Index("delivery_item_instance", "instance_id"),
    )
    op.create_table(
        "event",
        _key(),
        sa.Column("at", TIME, nullable=False),
        sa.Column("subject", sa.String(16), nullable=False),
        sa.Column("subject_id", sa.BigInteger, nullable=False),
        sa.Column("from_state", sa.String(16)),
        sa.Column("to_state", sa.String(16), nullable=False),
        sa.Column("event", sa.String(24), nullable=False),
        sa.Column("reason", sa.String(1024)),
        sa.Index("event_subject", "subject", "subject_id"),
    )
    op.create_table(
        "process",
        sa.Column("name", sa.String(80), primary_key=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("host", sa.String(253), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("seen_at", TIME, nullable=False),
    )
