"""What running battles and votes say of themselves. Applied to real databases: never edit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004_progress"
down_revision = "0003_battles"


def upgrade() -> None:
    """Add the columns, and the table of secrets."""
    op.add_column("battles", sa.Column("lineup", sa.Text, nullable=False, server_default="[]"))
    op.add_column(
        "battle_answers", sa.Column("stored", sa.Double, nullable=False, server_default="0")
    )
    op.add_column("votes", sa.Column("address", sa.String(64), nullable=False, server_default=""))
    op.add_column(
        "votes", sa.Column("counted", sa.Boolean, nullable=False, server_default=sa.true())
    )
    op.create_index("ix_votes_address_time", "votes", ["address", "time"])
    op.create_table(
        "secrets",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("value", sa.String(128), nullable=False),
    )
