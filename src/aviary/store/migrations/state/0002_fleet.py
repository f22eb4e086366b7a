"""The fleet's desired state and its events. Applied to real databases: never edit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002_fleet"
down_revision = "0001_api_keys"


def upgrade() -> None:
    """Create the tables of the fleet."""
    op.create_table(
        "deployments",
        sa.Column("model", sa.String(256), primary_key=True),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("previous", sa.Text),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("changed", sa.Double, nullable=False),
        sa.Column("changed_by", sa.String(64), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger),
        sa.Column("wake_s", sa.Double),
    )
    op.create_table(
        "fleet_saved",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("saved", sa.Double, nullable=False),
    )
    op.create_table(
        "fleet_events",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            sa.Identity(),
            primary_key=True,
        ),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("replica", sa.String(256), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("changed_by", sa.String(64), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_fleet_events_model_seq", "fleet_events", ["model", "seq"])
