"""Settings that change while the node runs, and the console: changes, studies to search, users, acts, alarms."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "3"
down_revision = "2"

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
TIME = sa.Float(53)


def upgrade() -> None:
    """Add tables and columns; a series that is in work goes by the settings until a route takes it anew."""
    _add_settings_changes()
    _add_indexes()
    _add_studies()
    _add_users()
    _add_alarms()


def _add_settings_changes() -> None:
    op.add_column("arrival", sa.Column("route_settings", sa.Text))
    # There are ledgers of version 2 that have them.
    op.create_index("instance_key", "instance", ["key"], if_not_exists=True)
    op.create_index("delivery_destination", "delivery", ["destination", "state"], if_not_exists=True)
    op.add_column("process", sa.Column("settings_digest", sa.String(64)))
    op.create_table(
        "settings_change",
        sa.Column("id", KEY, primary_key=True, autoincrement=True),
        sa.Column("at", TIME, nullable=False),
        sa.Column("node", sa.String(64), nullable=False),
        sa.Column("who", sa.String(255), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("digest", sa.String(64)),
        sa.Column("changes", sa.Text, nullable=False),
        sa.Index("settings_change_at", "node", "at"),
    )


def _add_indexes() -> None:
    op.create_index("association_calling", "association", ["calling_ae_title", "opened_at"])
    op.create_index("instance_at", "instance", ["at"])
    op.create_index("enhancement_at", "enhancement", ["at"])
    op.create_index("delivery_finished", "delivery", ["finished_at"])


def _add_studies() -> None:
    op.create_table(
        "study",
        sa.Column("id", KEY, primary_key=True, autoincrement=True),
        sa.Column("study_instance_uid", sa.String(64), nullable=False, unique=True),
        sa.Column("first_at", TIME, nullable=False),
        sa.Column("last_at", TIME, nullable=False),
        sa.Index("study_last", "last_at", "id"),
    )
    op.create_table(
        "study_term",
        sa.Column("study_id", KEY, sa.ForeignKey("study.id"), primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("value", sa.String(64), primary_key=True),
        sa.Index("study_term_value", "kind", "value"),
    )
    # Studies of before are found by UID, date and sender; by patient and accession number those that come from now on.
    op.execute(
        "INSERT INTO study (study_instance_uid, first_at, last_at) "
        "SELECT study_instance_uid, MIN(opened_at), MAX(opened_at) FROM arrival "
        "GROUP BY study_instance_uid ORDER BY MIN(opened_at), study_instance_uid"
    )
    op.execute(
        "INSERT INTO study_term (study_id, kind, value) "
        "SELECT DISTINCT study.id, 'sender', association.calling_ae_title FROM study "
        "JOIN arrival ON arrival.study_instance_uid = study.study_instance_uid "
        "JOIN instance ON instance.arrival_id = arrival.id "
        "JOIN association ON association.id = instance.association_id"
    )


def _add_users() -> None:
    op.create_table(
        "console_user",
        sa.Column("id", KEY, primary_key=True, autoincrement=True),
        sa.Column("name", sa.String(128), nullable=False, unique=True),
        sa.Column("issuer", sa.String(255), nullable=False),
        sa.Column("subject", sa.String(255), nullable=False),
        sa.Column("password_hash", sa.String(255)),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("sees_patients", sa.Boolean, nullable=False),
        sa.Column("disabled", sa.Boolean, nullable=False),
        sa.Column("must_change", sa.Boolean, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("last_login_at", TIME),
        sa.UniqueConstraint("issuer", "subject"),
    )
    op.create_table(
        "console_session",
        sa.Column("token_hash", sa.String(64), primary_key=True),
        sa.Column("user_id", KEY, sa.ForeignKey("console_user.id"), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("seen_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Index("console_session_user", "user_id"),
    )
    op.create_table(
        "console_throttle",
        sa.Column("key", sa.String(200), primary_key=True),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("last_at", TIME, nullable=False),
    )
    op.create_table(
        "console_audit",
        sa.Column("id", KEY, primary_key=True, autoincrement=True),
        sa.Column("at", TIME, nullable=False),
        sa.Column("user_name", sa.String(128), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("action", sa.String(48), nullable=False),
        sa.Column("subject", sa.String(255)),
        sa.Column("result", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(1024)),
        sa.Index("console_audit_at", "at"),
        sa.Index("console_audit_action", "action"),
    )


def _add_alarms() -> None:
    op.create_table(
        "alarm",
        sa.Column("id", KEY, primary_key=True, autoincrement=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("subject", sa.String(255), nullable=False),
        sa.Column("machine", sa.String(253), nullable=False),
        sa.Column("sentence", sa.String(1024), nullable=False),
        sa.Column("since", TIME, nullable=False),
        sa.Column("seen_at", TIME, nullable=False),
        sa.Column("resolved_at", TIME),
        sa.Index("alarm_resolved", "resolved_at"),
    )
    op.create_table(
        "alert_message",
        sa.Column("id", KEY, primary_key=True, autoincrement=True),
        sa.Column("alert", sa.String(64), nullable=False),
        sa.Column("alarm_id", KEY, sa.ForeignKey("alarm.id"), nullable=False),
        sa.Column("event", sa.String(16), nullable=False),
        sa.Column("sentence", sa.String(1024), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_attempt_at", TIME),
        sa.Column("sent_at", TIME),
        sa.Column("reason", sa.String(1024)),
        sa.Index("alert_message_due", "next_attempt_at"),
        sa.Index("alert_message_alarm", "alarm_id"),
    )
