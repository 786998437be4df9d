"""Settings that change while the node runs: who changed what, who works with which, and what a series began under."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "3"
down_revision = "2"

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
TIME = sa.Float(53)


def upgrade() -> None:
    """Add the table and the columns; a series that is in work goes by the settings until a route takes it anew."""
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
