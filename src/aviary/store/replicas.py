"""How many replicas each model had, over time, and why that changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Self

from sqlalchemy import Connection, Select, delete, func, insert, select

from aviary.core.ports import ReplicaCount
from aviary.store.database import Database, open_database
from aviary.store.records import clean_count, clean_real, clean_text
from aviary.store.schema import replica_counts

MAX_CHANGES: Final = 5_000
"""Most changes that one look returns, the newest."""
COUNTS_KEPT: Final = 200_000
KEEP_S: Final = 33 * 86_400
PRUNE_ROWS: Final = 2_000
_COLUMNS: Final = [column for column in replica_counts.columns if column.name != "seq"]


class ReplicaCountLog:
    """Keeps replica counts in SQLite or PostgreSQL; for a `RecordWriter`.

    Args:
        database: The open `requests` database; `close` closes it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, url: str) -> Self:
        """Open the log at a URL as from `Settings.store_url("requests")`.

        Raises:
            StoreError: The database cannot be opened.
        """
        return cls(open_database(url, "requests"))

    def append(self, records: Sequence[ReplicaCount]) -> None:
        """Store a batch, all of it or nothing.

        Raises:
            StoreError: Nothing was stored.
        """
        if not records:
            return
        rows = [
            {
                "time": clean_real(record.time) or 0.0,
                "model": clean_text(record.model, 256),
                "ready": clean_count(record.ready) or 0,
                "starting": clean_count(record.starting) or 0,
                "sleeping": clean_count(record.sleeping) or 0,
                "desired": clean_count(record.desired) or 0,
                "reason": clean_text(record.reason, 500),
            }
            for record in records
        ]
        with self._database.write() as connection:
            connection.execute(insert(replica_counts), rows)

    def close(self) -> None:
        """Close the database."""
        self._database.close()


def prune_counts(database: Database, now: float, keep: int = COUNTS_KEPT) -> int:
    """Delete what no view shows any more, and all but the newest `keep`; returns how many went.

    Of each model the last count from before the oldest view stays: it still held then.

    Raises:
        StoreError: The database failed.
    """
    columns = replica_counts.c
    last = select(func.max(columns.seq)).where(columns.time < now - KEEP_S).group_by(columns.model)
    too_old = (columns.time < now - KEEP_S) & columns.seq.not_in(last)
    with database.read() as connection:
        newest = int(connection.execute(select(func.max(columns.seq))).scalar() or 0)
    deleted = 0
    for which in (too_old, columns.seq <= newest - keep):
        some = select(columns.seq).where(which).limit(PRUNE_ROWS)
        while True:
            with database.write() as connection:
                gone = connection.execute(delete(replica_counts).where(columns.seq.in_(some)))
            deleted += gone.rowcount
            if gone.rowcount < PRUNE_ROWS:
                break
    return deleted


def counts_between(
    connection: Connection, start: float, end: float, model: str | None = None
) -> dict[str, list[ReplicaCount]]:
    """Per model: what held at the beginning, then each change, by time.

    Models without any replica, wanted or there, are left out.
    """
    columns = replica_counts.c
    last = select(func.max(columns.seq)).where(columns.time <= start).group_by(columns.model)
    before = select(*_COLUMNS).where(columns.seq.in_(last))
    query: Select[Any] = (
        select(*_COLUMNS)
        .where(columns.time > start, columns.time < end)
        .order_by(columns.time.desc(), columns.seq.desc())
        .limit(MAX_CHANGES)
    )
    if model is not None:
        before, query = before.where(columns.model == model), query.where(columns.model == model)
    found: dict[str, list[ReplicaCount]] = {}
    for row in connection.execute(before):
        held = ReplicaCount(*row)
        found[held.model] = [ReplicaCount(start, *row[1:])]
    for row in reversed(connection.execute(query).all()):
        change = ReplicaCount(*row)
        none_before = ReplicaCount(start, change.model, 0, 0, 0, 0, "")
        found.setdefault(change.model, [none_before]).append(change)
    return {
        name: counts
        for name, counts in sorted(found.items())
        if any(c.ready or c.starting or c.sleeping or c.desired for c in counts)
    }
