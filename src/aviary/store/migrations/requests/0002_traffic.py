"""Traffic roll-ups and replica counts. Applied to real databases: never edit, add a new file."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002_traffic"
down_revision = "0001_request_log"


def upgrade() -> None:
    """Create the tables, and the request log's column for clients without a key."""
    op.add_column(
        "request_log", sa.Column("client", sa.String(32), nullable=False, server_default="")
    )
    op.create_table(
        "traffic",
        sa.Column("step_s", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("start", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("model", sa.String(256), primary_key=True),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("errors", sa.BigInteger, nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger, nullable=False),
        sa.Column("cost_usd", sa.Double, nullable=False),
        sa.Column("peak", sa.BigInteger, nullable=False),
        sa.Column("ttft_ms", sa.LargeBinary, nullable=False),
        sa.Column("latency_ms", sa.LargeBinary, nullable=False),
        sa.Column("prompt_lengths", sa.LargeBinary, nullable=False),
        sa.Column("completion_lengths", sa.LargeBinary, nullable=False),
        sa.Column("users", sa.LargeBinary, nullable=False),
    )
    cursor = op.create_table(
        "traffic_cursor",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(cursor, [{"id": 1, "seq": 0, "version": 0}])
    op.create_table(
        "traffic_gaps",
        sa.Column("first", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("last", sa.BigInteger, nullable=False),
        sa.Column("seen", sa.Double, nullable=False),
        sa.Column("horizon", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "replica_counts",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            sa.Identity(),
            primary_key=True,
        ),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("ready", sa.Integer, nullable=False),
        sa.Column("starting", sa.Integer, nullable=False),
        sa.Column("sleeping", sa.Integer, nullable=False),
        sa.Column("desired", sa.Integer, nullable=False),
        sa.Column("reason", sa.String(500), nullable=False),
    )
    op.create_index("ix_replica_counts_model_time", "replica_counts", ["model", "time"])
    op.create_index("ix_replica_counts_time", "replica_counts", ["time"])
