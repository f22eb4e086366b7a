"""The tables as they are now.

A change here needs a new file in `migrations/<database>/` and the new revision's name in `HEADS`; a
test compares both.
"""

from __future__ import annotations

from typing import Final, Literal

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    true,
)

DatabaseName = Literal["state", "requests"]

HEADS: Final[dict[DatabaseName, str]] = {
    "state": "0004_progress",
    "requests": "0002_traffic",
}
"""The newest revision of each database; equal to it, a database opens without loading alembic."""


def version_table(name: DatabaseName) -> str:
    """Name of the table that holds the revision of a logical database."""
    return f"aviary_{name}_revision"


state = MetaData()
requests = MetaData()
METADATA: Final[dict[DatabaseName, MetaData]] = {"state": state, "requests": requests}

api_keys = Table(
    "api_keys",
    state,
    Column("id", String(32), primary_key=True),
    Column("name", String(100), nullable=False),
    Column("role", String(16), nullable=False),
    Column("hash", String(64), nullable=False),  # SHA-256 of the secret, hex
    Column("created", Double, nullable=False),  # times are unix seconds
    Column("revoked", Double),
    Column("last_used", Double),
    Index("ix_api_keys_hash", "hash", unique=True),
)

# Columns are named as the fields of StoredDeployment and StoredEvent in aviary.core.ports.
deployments = Table(
    "deployments",
    state,
    Column("model", String(256), primary_key=True),
    Column("position", Integer, nullable=False),
    Column("spec", Text, nullable=False),  # JSON
    Column("previous", Text),  # JSON
    Column("created", Double, nullable=False),
    Column("changed", Double, nullable=False),
    Column("changed_by", String(64), nullable=False),
    Column("memory_bytes", BigInteger),
    Column("wake_s", Double),
)

# One row, from the first save on: an empty fleet is then one that somebody emptied.
fleet_saved = Table(
    "fleet_saved",
    state,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("saved", Double, nullable=False),
)

fleet_events = Table(
    "fleet_events",
    state,
    Column(
        "seq",
        BigInteger().with_variant(Integer, "sqlite"),
        Identity(),
        primary_key=True,
    ),
    Column("time", Double, nullable=False),
    Column("model", String(256), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("replica", String(256), nullable=False),
    Column("detail", Text, nullable=False),
    Column("changed_by", String(64), nullable=False),
    Index("ix_fleet_events_model_seq", "model", "seq"),
    sqlite_autoincrement=True,  # a number is never used again, though the newest events be deleted
)

# Columns are named as the fields of Battle, BattleAnswer and Vote in aviary.core.preference.
battles = Table(
    "battles",
    state,
    Column("id", String(64), primary_key=True),
    Column("created", Double, nullable=False),
    Column("messages", Text, nullable=False),  # JSON
    Column("system", Text, nullable=False),
    Column("blind", Boolean, nullable=False),
    Column("task", String(64), nullable=False),
    Column("session", String(64), nullable=False),
    Column("key", String(64), nullable=False),
    Column("lineup", Text, nullable=False, server_default="[]"),  # JSON
    Index("ix_battles_created", "created"),
)

battle_answers = Table(
    "battle_answers",
    state,
    Column("battle", String(64), ForeignKey("battles.id"), primary_key=True),
    Column("column", Integer, primary_key=True, autoincrement=False),
    Column("model", String(256), nullable=False),
    Column("spec_hash", String(64), nullable=False),
    Column("parameters", Text, nullable=False),  # JSON
    Column("text", Text, nullable=False),
    Column("finish_reason", String(64), nullable=False),
    Column("ttft_ms", Double),
    Column("latency_ms", Double, nullable=False),
    Column("prompt_tokens", Integer),
    Column("completion_tokens", Integer),
    Column("cost_usd", Double),
    Column("error", String(64), nullable=False),
    Column("stored", Double, nullable=False, server_default="0"),
)

votes = Table(
    "votes",
    state,
    Column("battle", String(64), ForeignKey("battles.id"), primary_key=True),
    Column("session", String(64), primary_key=True),
    Column("verdict", String(16), nullable=False),
    Column("column", Integer),
    Column("reason", Text, nullable=False),
    Column("time", Double, nullable=False),
    Column("key", String(64), nullable=False),
    Column("address", String(64), nullable=False, server_default=""),  # a keyed hash
    Column("counted", Boolean, nullable=False, server_default=true()),
    Index("ix_votes_time", "time"),
    Index("ix_votes_address_time", "address", "time"),
)

# Random bytes made once, as hex.
secrets = Table(
    "secrets",
    state,
    Column("name", String(64), primary_key=True),
    Column("value", String(128), nullable=False),
)

# Columns are named as the fields of aviary.core.ports.RequestRecord, with the same units.
request_log = Table(
    "request_log",
    requests,
    Column(
        "seq",
        BigInteger().with_variant(Integer, "sqlite"),
        Identity(),
        primary_key=True,
    ),
    Column("id", String(128), nullable=False),  # a client may choose it: not unique
    Column("time", Double, nullable=False),
    Column("route", String(256), nullable=False),
    Column("model", String(256), nullable=False),
    Column("replica", String(256), nullable=False),
    Column("key", String(64), nullable=False),
    Column("status", Integer, nullable=False),
    Column("error", String(64), nullable=False),
    Column("stream", Boolean, nullable=False),
    Column("time_to_first_token_ms", Double),
    Column("latency_ms", Double, nullable=False),
    Column("overhead_ms", Double),
    Column("prompt_tokens", Integer),
    Column("completion_tokens", Integer),
    Column("cost_usd", Double),
    Column("client", String(32), nullable=False, server_default=""),
    Index("ix_request_log_time", "time"),
    Index("ix_request_log_model_time", "model", "time"),
)

# Grows with every appended batch, in the same transaction, so that totals need no scan of the log
# and stay right when old rows of the log are deleted.
request_totals = Table(
    "request_totals",
    requests,
    Column("model", String(256), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("cost_usd", Double, nullable=False),
)

# What the request log adds up to, per step of time and model; the model "" stands for all of them
# and has a peak only. Sketches are bytes as `aviary.store.sketches` packs them.
traffic = Table(
    "traffic",
    requests,
    Column("step_s", Integer, primary_key=True, autoincrement=False),
    Column("start", BigInteger, primary_key=True, autoincrement=False),  # unix seconds
    Column("model", String(256), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("cost_usd", Double, nullable=False),
    Column("peak", BigInteger, nullable=False),  # most requests that began within one second
    Column("ttft_ms", LargeBinary, nullable=False),
    Column("latency_ms", LargeBinary, nullable=False),
    Column("prompt_lengths", LargeBinary, nullable=False),
    Column("completion_lengths", LargeBinary, nullable=False),
    Column("users", LargeBinary, nullable=False),
)

# One row, which the migration makes: up to which number of the log `traffic` has it, gaps excepted.
traffic_cursor = Table(
    "traffic_cursor",
    requests,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),  # grows with each change
)

# Numbers of the request log that were not there when later ones were: on PostgreSQL a transaction
# may commit after one that began later. `horizon`: every transaction that had begun by then has a
# lower id.
traffic_gaps = Table(
    "traffic_gaps",
    requests,
    Column("first", BigInteger, primary_key=True, autoincrement=False),
    Column("last", BigInteger, nullable=False),
    Column("seen", Double, nullable=False),
    Column("horizon", BigInteger, nullable=False),
)

# Columns are named as the fields of ReplicaCount in aviary.core.ports.
replica_counts = Table(
    "replica_counts",
    requests,
    Column(
        "seq",
        BigInteger().with_variant(Integer, "sqlite"),
        Identity(),
        primary_key=True,
    ),
    Column("time", Double, nullable=False),
    Column("model", String(256), nullable=False),
    Column("ready", Integer, nullable=False),
    Column("starting", Integer, nullable=False),
    Column("sleeping", Integer, nullable=False),
    Column("desired", Integer, nullable=False),
    Column("reason", String(500), nullable=False),
    Index("ix_replica_counts_model_time", "model", "time"),
    Index("ix_replica_counts_time", "time"),
)
