"""The tables of the ledger (SQLAlchemy Core; SQLite and PostgreSQL).

Times are seconds since the epoch (UTC). Patient attributes are in no table; patient IDs and accession numbers stand in
`study_term` as keyed hashes alone (`identifiers`).
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
    Text,
    UniqueConstraint,
    text,
)

SCHEMA_VERSION = 3
"""To be raised with every change of the tables, and a module in `ledger.migrations.versions` brings older ones here."""

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
    Index("association_calling", "calling_ae_title", "opened_at"),
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
    Column("released_at", _Time),  # originals went on before every image was decided; enhancement goes on behind them
    Column("shadow", Boolean, nullable=False, default=False),  # what is enhanced is measured, and never leaves
    Column("route_settings", Text),  # JSON of the route as it was when it took the series
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
    # The same image, received before in another transfer syntax, or encoded otherwise: it stands for this one.
    Column("same_as_id", _Key, ForeignKey("instance.id")),
    Index("instance_sop_instance", "sop_instance_uid"),
    Index("instance_arrival", "arrival_id"),
    Index("instance_association", "association_id"),
    Index("instance_source", "source_id"),
    Index("instance_state", "state"),
    Index("instance_key", "key"),
    Index("instance_at", "at"),
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
    Index("enhancement_at", "at"),
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
    Column("part", Integer, nullable=False, default=0),  # 1: the enhanced images that follow their originals
    UniqueConstraint("arrival_id", "destination", "part"),
    Index("delivery_state", "state", "next_attempt_at"),
    Index("delivery_finished", "finished_at"),
    Index("delivery_destination", "destination", "state"),
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
    Column("committed_at", _Time),  # counts if not before `at`: an object that was sent again has to be committed again
    Column("commitment_failures", Integer, nullable=False, default=0, server_default="0"),
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
    Column("settings_digest", String(64)),  # SHA-256 of the settings file that it works with
)

# What reading the objects again found; the latest finding of each.
object_check = Table(
    "object_check",
    metadata,
    Column("instance_id", _Key, ForeignKey("instance.id"), primary_key=True, autoincrement=False),
    Column("checked_at", _Time, nullable=False),
    Column("finding", String(16), nullable=False),  # sound | missing | damaged | unreadable
    Column("reason", String(1024)),
    Index("object_check_at", "checked_at"),
    Index("object_check_finding", "finding"),
)

# How full the disks of each machine were, for the forecast.
disk_sample = Table(
    "disk_sample",
    metadata,
    _key(),
    Column("host", String(253), nullable=False),
    Column("path", String(1024), nullable=False),
    Column("at", _Time, nullable=False),
    Column("free_bytes", BigInteger, nullable=False),
    Column("total_bytes", BigInteger, nullable=False),
    Index("disk_sample_at", "host", "path", "at"),
)

destination = Table(
    "destination",
    metadata,
    _key(),
    Column("name", String(64), nullable=False, unique=True),
    Column("state", String(16), nullable=False),  # of the circuit breaker: closed | open
    Column("reason", String(1024)),
    Column("failures", Integer, nullable=False),  # attempts in a row that no answer came to
    Column("failed_delivery_id", _Key),  # the last of them
    Column("changed_at", _Time, nullable=False),
    Column("probe_at", _Time),  # next probe, while open
    Column("next_object_at", _Time),  # before that no further object is sent, where the rate is limited
)

hold = Table(
    "hold",
    metadata,
    Column("scope", String(16), primary_key=True),  # destination | study
    Column("subject", String(64), primary_key=True),  # name of the destination, or Study Instance UID
    Column("at", _Time, nullable=False),
    Column("reason", String(1024)),
)

# What a delivery's destination was asked to commit, as SCU.
delivery_commitment = Table(
    "delivery_commitment",
    metadata,
    Column("delivery_id", _Key, ForeignKey("delivery.id"), primary_key=True, autoincrement=False),
    Column("since", _Time, nullable=False),  # the maximum age counts from here
    Column("requests", Integer, nullable=False),
    Column("next_request_at", _Time),  # empty after the alarm: nothing is asked any more
    Column("reason", String(1024)),
    Index("delivery_commitment_due", "next_request_at"),
)

commitment_transaction = Table(
    "commitment_transaction",
    metadata,
    _key(),
    Column("transaction_uid", String(64), nullable=False, unique=True),
    Column("delivery_id", _Key, ForeignKey("delivery.id"), nullable=False),
    Column("state", String(16), nullable=False),  # requesting | requested | reported | failed
    Column("created_at", _Time, nullable=False),
    Column("reported_at", _Time),
    Column("reason", String(1024)),
    Index("commitment_transaction_delivery", "delivery_id"),
)

commitment_reference = Table(
    "commitment_reference",
    metadata,
    Column("transaction_id", _Key, ForeignKey("commitment_transaction.id"), primary_key=True),
    Column("instance_id", _Key, ForeignKey("instance.id"), primary_key=True),
    Column("outcome", Integer),  # 0 committed, else Failure Reason (0008,1197); empty while unanswered
    Index("commitment_reference_instance", "instance_id"),
)

# What a modality asks us to commit, as SCP.
commitment_request = Table(
    "commitment_request",
    metadata,
    _key(),
    Column("transaction_uid", String(64), nullable=False),
    Column("calling_ae_title", String(16), nullable=False),
    Column("host", String(253), nullable=False),
    Column("source", String(64), nullable=False),
    Column("state", String(16), nullable=False),  # waiting | decided | reported | abandoned
    Column("received_at", _Time, nullable=False),
    Column("decided_at", _Time),
    Column("reported_at", _Time),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", _Time, nullable=False),
    Column("reason", String(1024)),
    UniqueConstraint("calling_ae_title", "transaction_uid"),
    Index("commitment_request_state", "state", "next_attempt_at"),
)

commitment_request_item = Table(
    "commitment_request_item",
    metadata,
    Column("request_id", _Key, ForeignKey("commitment_request.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("sop_class_uid", String(64), nullable=False),
    Column("sop_instance_uid", String(64), nullable=False),
    Column("outcome", Integer),  # 0 committed, else Failure Reason; empty while it is on its way
)

# Who changed which settings of a running node, or tried to.
settings_change = Table(
    "settings_change",
    metadata,
    _key(),
    Column("at", _Time, nullable=False),
    Column("node", String(64), nullable=False),
    Column("who", String(255), nullable=False),  # user and host, or the signal
    Column("outcome", String(16), nullable=False),  # requested | applied | refused
    Column("digest", String(64)),  # SHA-256 of the file as it was read
    Column("changes", Text, nullable=False),  # JSON: what changed by its path, old and new; or the faults
    Index("settings_change_at", "node", "at"),
)

# What studies are searched by; a row for each study, made when its first series is opened.
study = Table(
    "study",
    metadata,
    _key(),
    Column("study_instance_uid", String(64), nullable=False, unique=True),
    Column("first_at", _Time, nullable=False),  # its first series was opened
    Column("last_at", _Time, nullable=False),  # its latest series was opened
    Index("study_last", "last_at", "id"),
)

study_term = Table(
    "study_term",
    metadata,
    Column("study_id", _Key, ForeignKey("study.id"), primary_key=True, autoincrement=False),
    Column("kind", String(16), primary_key=True),  # patient | accession (keyed hashes) | sender (calling AE title)
    Column("value", String(64), primary_key=True),
    Index("study_term_value", "kind", "value"),
)

# Who may use the console.
console_user = Table(
    "console_user",
    metadata,
    _key(),
    Column("name", String(128), nullable=False, unique=True),
    Column("issuer", String(255), nullable=False, default=""),  # empty: signs in with a password
    Column("subject", String(255), nullable=False),  # of the issuer; the name itself where there is none
    Column("password_hash", String(255)),
    Column("role", String(16), nullable=False),  # viewer | operator | admin
    Column("sees_patients", Boolean, nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("must_change", Boolean, nullable=False),  # the password, before anything else
    Column("created_at", _Time, nullable=False),
    Column("last_login_at", _Time),
    UniqueConstraint("issuer", "subject"),
)

console_session = Table(
    "console_session",
    metadata,
    Column("token_hash", String(64), primary_key=True),  # SHA-256; the token is the browser's alone
    Column("user_id", _Key, ForeignKey("console_user.id"), nullable=False),
    Column("address", String(64), nullable=False),
    Column("created_at", _Time, nullable=False),
    Column("seen_at", _Time, nullable=False),
    Column("expires_at", _Time, nullable=False),
    Index("console_session_user", "user_id"),
)

# Attempts to sign in that did not succeed, in a row.
console_throttle = Table(
    "console_throttle",
    metadata,
    Column("key", String(200), primary_key=True),  # user:NAME or address:ADDRESS
    Column("failures", Integer, nullable=False),
    Column("last_at", _Time, nullable=False),
)

# What users did with the console; rows are appended, and go with age alone.
console_audit = Table(
    "console_audit",
    metadata,
    _key(),
    Column("at", _Time, nullable=False),
    Column("user_name", String(128), nullable=False),
    Column("address", String(64), nullable=False),
    Column("action", String(48), nullable=False),
    Column("subject", String(255)),
    Column("result", String(16), nullable=False),  # done | refused | failed
    Column("reason", String(1024)),
    Index("console_audit_at", "at"),
    Index("console_audit_action", "action"),
)

# What an operator has to look after, as long as it lasts, and for a while after.
alarm = Table(
    "alarm",
    metadata,
    _key(),
    Column("kind", String(32), nullable=False),
    Column("subject", String(255), nullable=False),
    Column("machine", String(253), nullable=False),  # that sees it; empty where every machine does
    Column("sentence", String(1024), nullable=False),
    Column("since", _Time, nullable=False),
    Column("seen_at", _Time, nullable=False),
    Column("resolved_at", _Time),
    Index("alarm_resolved", "resolved_at"),
)

# What is told of alarms, and to whom: an outbox.
alert_message = Table(
    "alert_message",
    metadata,
    _key(),
    Column("alert", String(64), nullable=False),  # name in the settings
    Column("alarm_id", _Key, ForeignKey("alarm.id"), nullable=False),
    Column("event", String(16), nullable=False),  # raised | reminder | resolved
    Column("sentence", String(1024), nullable=False),
    Column("created_at", _Time, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", _Time),  # empty: it was sent, or given up
    Column("sent_at", _Time),
    Column("reason", String(1024)),
    Index("alert_message_due", "next_attempt_at"),
    Index("alert_message_alarm", "alarm_id"),
)
