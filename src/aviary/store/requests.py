"""The request log in SQL."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from sqlalchemy import Select, delete, func, insert, select

from aviary.core.ports import RequestRecord
from aviary.store.database import Database, open_database
from aviary.store.records import Row, clean_text, is_error, to_row
from aviary.store.schema import request_log, request_totals

MAX_RECENT: Final = 10_000
"""Most records that `recent` returns."""
PRUNE_RECORDS: Final = 2_000
"""Most records one transaction deletes."""
UNKNOWN_MODEL: Final = "(unknown)"
"""Where requests for models that do not exist are added up: clients choose those names freely."""
LATENCY_SAMPLE: Final = 10_000
"""Most requests, the newest, that `latency` looks at."""

_RECORD_COLUMNS: Final = [column for column in request_log.columns if column.name != "seq"]
_TOTALS: Final = ("requests", "errors", "prompt_tokens", "completion_tokens", "cost_usd")


@dataclass(frozen=True, slots=True)
class LatencySummary:
    """Latency of answered requests, in milliseconds by the gateway's clock.

    Attributes:
        requests: How many requests it is made from.
        p50_ms: Median of received → last byte; `None` without requests.
        p95_ms: 95th percentile.
        p99_ms: 99th percentile.
        time_to_first_token_p50_ms: Median of received → first token; `None` when none came.
        time_to_first_token_p95_ms: 95th percentile.
        time_to_first_token_p99_ms: 99th percentile.
    """

    requests: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    time_to_first_token_p50_ms: float | None = None
    time_to_first_token_p95_ms: float | None = None
    time_to_first_token_p99_ms: float | None = None


class SqlRequestLog:
    """Keeps request records in SQLite or PostgreSQL (implements `RequestLog`).

    Args:
        database: The open `requests` database; `close` closes it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._upsert_totals = _upsert_totals(is_sqlite=database.is_sqlite)

    @classmethod
    def open(cls, url: str) -> Self:
        """Open the log at a URL as from `Settings.store_url("requests")`.

        Raises:
            SpecError: The URL is wrong.
            StoreError: The database cannot be opened.
        """
        return cls(open_database(url, "requests"))

    @property
    def database(self) -> Database:
        """The database in which the log is."""
        return self._database

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def append(self, records: Sequence[RequestRecord]) -> None:
        """Store a batch, all of it or nothing; texts and numbers are cleaned (`records.clean`).

        Raises:
            StoreError: Nothing was stored.
        """
        if not records:
            return
        rows = [to_row(record) for record in records]
        totals = _sum_up(rows)
        with self._database.write() as connection:
            connection.execute(insert(request_log), rows)
            connection.execute(self._upsert_totals, totals)

    def recent(self, limit: int, model: str | None = None) -> list[RequestRecord]:
        """The newest records first, at most `MAX_RECENT`.

        Raises:
            StoreError: The database failed.
        """
        query = select(*_RECORD_COLUMNS).order_by(
            request_log.c.time.desc(), request_log.c.seq.desc()
        )
        query = _of_model(query, model).limit(min(max(limit, 0), MAX_RECENT))
        with self._database.read() as connection:
            return [RequestRecord(*row) for row in connection.execute(query)]

    def totals(self) -> Mapping[str, Mapping[str, float]]:
        """Per model: `requests`, `errors`, `prompt_tokens`, `completion_tokens`, `cost_usd`.

        An error is a status of 400 and more, or an error code (a stream may fail after its 200);
        a client that left first (499) is none.

        Raises:
            StoreError: The database failed.
        """
        query = select(request_totals).order_by(request_totals.c.model)
        with self._database.read() as connection:
            return {
                row.model: {name: getattr(row, name) for name in _TOTALS}
                for row in connection.execute(query)
            }

    def keys_used(self, since: float) -> dict[str, float]:
        """When each API key was used last, of those used since a unix time.

        Raises:
            StoreError: The database failed.
        """
        columns = request_log.c
        query = (
            select(columns.key, func.max(columns.time))
            .where(columns.time >= since, columns.key != "")
            .group_by(columns.key)
        )
        with self._database.read() as connection:
            return {str(row[0]): float(row[1]) for row in connection.execute(query)}

    def prune(self, before: float, through_seq: int | None = None) -> int:
        """Delete records from before a unix time; the totals stay. Returns how many went.

        In small transactions, so that writers wait for none of them long. The newest record always
        stays: in an empty table SQLite would give its number again, and the roll-up goes by it.

        Args:
            before: Unix time in seconds.
            through_seq: Only records up to this number; `None`: all.

        Raises:
            StoreError: The database failed.
        """
        deleted = 0
        seq = request_log.c.seq
        newest = select(func.max(seq)).scalar_subquery()
        old = select(seq).where(request_log.c.time < before, seq < newest).limit(PRUNE_RECORDS)
        if through_seq is not None:
            old = old.where(seq <= through_seq)
        while True:
            with self._database.write() as connection:
                gone = connection.execute(delete(request_log).where(request_log.c.seq.in_(old)))
            deleted += gone.rowcount
            if gone.rowcount < PRUNE_RECORDS:
                return deleted

    def latency(self, model: str | None = None, since: float = 0.0) -> LatencySummary:
        """Percentiles over the newest `LATENCY_SAMPLE` requests that were answered without error.

        Args:
            model: Only this model; `None` for all.
            since: Unix time in seconds of the earliest request.

        Raises:
            StoreError: The database failed.
        """
        columns = request_log.c
        query = (
            select(columns.latency_ms, columns.time_to_first_token_ms)
            .where(columns.time >= since, columns.status < 400, columns.error == "")
            .order_by(columns.time.desc())
            .limit(LATENCY_SAMPLE)
        )
        with self._database.read() as connection:
            rows = connection.execute(_of_model(query, model)).all()
        latencies_ms = sorted(row.latency_ms for row in rows)
        first_tokens_ms = sorted(
            row.time_to_first_token_ms for row in rows if row.time_to_first_token_ms is not None
        )
        return LatencySummary(
            len(rows),
            *(percentile(latencies_ms, percent) for percent in (50, 95, 99)),
            *(percentile(first_tokens_ms, percent) for percent in (50, 95, 99)),
        )


def percentile(ascending: Sequence[float], percent: float) -> float | None:
    """The nearest-rank percentile: the least value that `percent` % of all do not exceed."""
    if not ascending:
        return None
    rank = math.ceil(percent / 100 * len(ascending))
    return ascending[max(rank, 1) - 1]


def _of_model(query: Select[Any], model: str | None) -> Select[Any]:
    if model is None:
        return query
    return query.where(request_log.c.model == clean_text(model, 256))


def _sum_up(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What a batch adds to each model's totals, ordered so that two writers never deadlock."""
    totals: dict[str, dict[str, Any]] = {}
    for row in rows:
        model = UNKNOWN_MODEL if row["error"] == "model_not_found" else str(row["model"])
        total = totals.get(model)
        if total is None:
            total = totals[model] = {"model": model, **dict.fromkeys(_TOTALS, 0)}
        total["requests"] += 1
        total["errors"] += is_error(int(row["status"] or 0), str(row["error"]))
        for name in ("prompt_tokens", "completion_tokens", "cost_usd"):
            total[name] += row[name] or 0
    return [totals[model] for model in sorted(totals)]


def _upsert_totals(*, is_sqlite: bool) -> Any:
    """Insert a model's totals or add to them; the two dialects spell it alike."""
    add: Any
    if is_sqlite:
        from sqlalchemy.dialects import sqlite

        add = sqlite.insert(request_totals)
    else:
        from sqlalchemy.dialects import postgresql  # 0.1 s to import

        add = postgresql.insert(request_totals)
    return add.on_conflict_do_update(
        index_elements=["model"],
        set_={name: request_totals.c[name] + add.excluded[name] for name in _TOTALS},
    )
