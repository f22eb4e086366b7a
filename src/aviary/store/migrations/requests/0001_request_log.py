"""Request log and its totals. Applied to real databases: never edit, add a new file instead."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001_request_log"
down_revision = None


def upgrade() -> None:
    """Create the request log, its indices and the totals per model."""
    op.create_table(
        "request_log",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            sa.Identity(),
            primary_key=True,
        ),
        sa.Column("id", sa.String(128), nullable=False),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("route", sa.String(256), nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("replica", sa.String(256), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("error", sa.String(64), nullable=False),
        sa.Column("stream", sa.Boolean, nullable=False),
        sa.Column("time_to_first_token_ms", sa.Double),
        sa.Column("latency_ms", sa.Double, nullable=False),
        sa.Column("overhead_ms", sa.Double),
        sa.Column("prompt_tokens", sa.Integer),
        sa.Column("completion_tokens", sa.Integer),
        sa.Column("cost_usd", sa.Double),
    )
    op.create_index("ix_request_log_time", "request_log", ["time"])
    op.create_index("ix_request_log_model_time", "request_log", ["model", "time"])
    op.create_table(
        "request_totals",
        sa.Column("model", sa.String(256), primary_key=True),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("errors", sa.BigInteger, nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger, nullable=False),
        sa.Column("cost_usd", sa.Double, nullable=False),
    )
