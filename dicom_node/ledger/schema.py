"""The tables of the ledger (SQLAlchemy Core; SQLite and PostgreSQL).

Times are seconds since the epoch (UTC). Patient attributes are in no table.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    text,
)

SCHEMA_VERSION = 2

metadata = MetaData()

# SQLite numbers rows automatically only for INTEGER PRIMARY KEY; PostgreSQL shall not run out of numbers.
_Key = BigInteger().with_variant(Integer, "sqlite")
_Time = Float(53)


def _key() -> Column[int]:
    return Column("id", _Key, primary_key=True, autoincrement=True)


schema_version = Table("schema_version", metadata, Column("version", Integer, primary_key=True))

association = Table(
    "association",
    metadata,
    _key(),
    Column("receiver", String(80), nullable=False),  # process that serves it
    Column("calling_ae_title", String(16), nullable=False),
    Column("called_ae_title", String(16), nullable=False),
    Column("host", String(253), nullable=False),
    Column("port", Integer, nullable=False),
    Column("opened_at", _Time, nullable=False),
    Column("closed_at", _Time),
    Column("outcome", String(16)),
    Column("acknowledged", Integer),  # answered with success, duplicates apart, as counted by the receiver itself
    Index("association_open", "closed_at"),
)

rejection = Table(
    "rejection",
    metadata,
    _key(),
    Column("calling_ae_title", String(16), nullable=False),
    Column("called_ae_title", String(16), nullable=False),
    Column("host", String(253), nullable=False),
    Column("reason", String(255), nullable=False),
    Column("first_at", _Time, nullable=False),
    Column("last_at", _Time, nullable=False),
    Column("count", Integer, nullable=False),
    UniqueConstraint("calling_ae_title", "called_ae_title", "host", "reason"),
)

arrival = Table(
    "arrival",
    metadata,
    _key(),
    Column("series_instance_uid", String(64), nullable=False),
    Column("study_instance_uid", String(64), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("route", String(64)),
    Column("attempts", Integer, nullable=False, default=0),  # workflows started for it; more than one after a failure
    Column("opened_at", _Time, nullable=False),
    Column("last_received_at", _Time, nullable=False),
    Column("completed_at", _Time),
    Column("finished_at", _Time),
    Column("reason", String(1024)),
    UniqueConstraint("series_instance_uid", "generation"),
    Index(
        "arrival_one_open",
        "series_instance_uid",
        unique=True,
        sqlite_where=text("state = 'open'"),
        postgresql_where=text("state = 'open'"),
    ),
    Index("arrival_state", "state"),
    Index("arrival_study", "study_instance_uid"),
)

instance = Table(
    "instance",
    metadata,
    _key(),
    Column("origin", String(8), nullable=False),  # received | derived | report
    Column("association_id", _Key, ForeignKey("association.id")),
    Column("arrival_id", _Key, ForeignKey("arrival.id")),
    Column("source_id", _Key, ForeignKey("instance.id")),  # derived: the received instance that it was made from
    Column("state", String(16), nullable=False),
    Column("reason", String(1024)),
    Column("sop_class_uid", String(64)),
    Column("sop_instance_uid", String(64)),
    Column("study_instance_uid", String(64)),
    Column("series_instance_uid", String(64)),
    Column("transfer_syntax_uid", String(64)),
    Column("key", String(255), nullable=False),  # name of the file in the instance store
    Column("size", BigInteger, nullable=False),
    Column("dataset_offset", Integer, nullable=False),
    Column("digest", String(64), nullable=False),  # SHA-256 of the data set
    Column("revision", Integer, nullable=False),
    Column("at", _Time, nullable=False),
    Index("instance_sop_instance", "sop_instance_uid"),
    Index("instance_arrival", "arrival_id"),
    Index("instance_association", "association_id"),
    Index("instance_source", "source_id"),
    Index("instance_state", "state"),
    # Two receivers that take the same UID at the same moment can't both call it the first.
    Index(
        "instance_one_revision",
        "sop_instance_uid",
        "revision",
        unique=True,
        sqlite_where=text("origin = 'received' AND arrival_id IS NOT NULL"),
        postgresql_where=text("origin = 'received' AND arrival_id IS NOT NULL"),
    ),
)

enhancement = Table(
    "enhancement",
    metadata,
    Column("instance_id", _Key, ForeignKey("instance.id"), primary_key=True, autoincrement=False),
    Column("attempts", Integer, nullable=False),
    Column("decision", String(16)),  # enhanced | passed_through; empty while in work
    Column("reason", String(1024)),
    Column("derived_id", _Key, ForeignKey("instance.id")),
    Column("strength", _Time),
    Column("noise_before", _Time),
    Column("noise_after", _Time),
    Column("inference_s", _Time),
    Column("total_s", _Time),
    Column("model_digest", String(64)),
    Column("at", _Time, nullable=False),
)

delivery = Table(
    "delivery",
    metadata,
    _key(),
    Column("arrival_id", _Key, ForeignKey("arrival.id"), nullable=False),
    Column("destination", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("created_at", _Time, nullable=False),
    Column("next_attempt_at", _Time, nullable=False),
    Column("finished_at", _Time),
    Column("reason", String(1024)),
    UniqueConstraint("arrival_id", "destination"),
    Index("delivery_state", "state", "next_attempt_at"),
)

delivery_item = Table(
    "delivery_item",
    metadata,
    Column("delivery_id", _Key, ForeignKey("delivery.id"), primary_key=True),
    Column("instance_id", _Key, ForeignKey("instance.id"), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("status", Integer),
    Column("reason", String(1024)),
    Column("in_doubt", Boolean, nullable=False),  # sent, and the association was lost before the answer
    Column("at", _Time),
    Index("delivery_item_instance", "instance_id"),
)

event = Table(
    "event",
    metadata,
    _key(),
    Column("at", _Time, nullable=False),
    Column("subject", String(16), nullable=False),
    Column("subject_id", BigInteger, nullable=False),
    Column("from_state", String(16)),
    Column("to_state", String(16), nullable=False),
    Column("event", String(24), nullable=False),
    Column("reason", String(1024)),
    Index("event_subject", "subject", "subject_id"),
)

process = Table(
    "process",
    metadata,
    Column("name", String(80), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("host", String(253), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started_at", _Time, nullable=False),
    Column("seen_at", _Time, nullable=False),
    Column("machine", String(512)),  # where it may run again under its name: host and data folder
    Column("token", String(32)),  # of this start; a process that finds another one here has lost its name
)
