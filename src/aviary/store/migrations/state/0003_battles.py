"""Battles, their answers, and votes. Applied to real databases: never edit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003_battles"
down_revision = "0002_fleet"


def upgrade() -> None:
    """Create the tables of battles."""
    op.create_table(
        "battles",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("messages", sa.Text, nullable=False),
        sa.Column("system", sa.Text, nullable=False),
        sa.Column("blind", sa.Boolean, nullable=False),
        sa.Column("task", sa.String(64), nullable=False),
        sa.Column("session", sa.String(64), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
    )
    op.create_index("ix_battles_created", "battles", ["created"])
    op.create_table(
        "battle_answers",
        sa.Column("battle", sa.String(64), sa.ForeignKey("battles.id"), primary_key=True),
        sa.Column("column", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("spec_hash", sa.String(64), nullable=False),
        sa.Column("parameters", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("finish_reason", sa.String(64), nullable=False),
        sa.Column("ttft_ms", sa.Double),
        sa.Column("latency_ms", sa.Double, nullable=False),
        sa.Column("prompt_tokens", sa.Integer),
        sa.Column("completion_tokens", sa.Integer),
        sa.Column("cost_usd", sa.Double),
        sa.Column("error", sa.String(64), nullable=False),
    )
    op.create_table(
        "votes",
        sa.Column("battle", sa.String(64), sa.ForeignKey("battles.id"), primary_key=True),
        sa.Column("session", sa.String(64), primary_key=True),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("column", sa.Integer),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
    )
    op.create_index("ix_votes_time", "votes", ["time"])
