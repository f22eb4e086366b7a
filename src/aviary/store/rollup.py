"""Rolls the request log up into `traffic`: every record exactly once, at several resolutions.

What is rolled up and how far that got change in one transaction, so that a crash loses and doubles
nothing. It goes by the log's numbers, not by time: a record is written when its request has ended,
any time after it began.

On PostgreSQL the numbers do not become visible in order: a transaction may commit after one that
began later. Numbers that are missing below the cursor are kept as gaps and looked for again, until
no transaction runs any more that could have taken them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from sqlalchemy import Connection, delete, func, insert, select, text, update

from aviary.store.database import Database
from aviary.store.schema import request_log, traffic, traffic_cursor, traffic_gaps
from aviary.store.tally import (
    ALL_MODELS,
    Batch,
    Second,
    Tally,
    in_parts,
    tallied_columns,
    tallied_model,
)

DAY_S: Final = 86_400
BATCH_RECORDS: Final = 10_000
"""Most records one transaction takes."""
GAP_S: Final = 60.0
"""How long a gap is looked for at least."""
MEMORY_S: Final = 600
"""For how long the number of requests of each second is kept in memory, for the peaks."""
PRUNE_ROWS: Final = 2_000
_PARAMETERS: Final = 500
_FIELDS: Final = [field.name for field in fields(Tally)]


@dataclass(frozen=True, slots=True)
class Level:
    """A resolution.

    Attributes:
        step_s: Length of a step in seconds.
        keep_s: How long its rows are kept.
    """

    step_s: int
    keep_s: int


LEVELS: Final = (
    Level(5, 2 * 3600),
    Level(300, 2 * DAY_S),
    Level(1800, 9 * DAY_S),
    Level(7200, 33 * DAY_S),
)


@dataclass(frozen=True, slots=True)
class _Gap:
    first: int
    last: int
    seen: float
    horizon: int


@dataclass(slots=True)
class _Found:
    """What a look at the log found to be rolled up."""

    seq: int
    version: int
    rows: list[Any]
    new_seq: int
    gaps: list[_Gap]
    gone: list[int]  # `first` of gaps that are filled, or given up
    late: list[int]


class RollUp:
    """Rolls a request log up. One at a time does so: a second one finds the cursor moved and waits.

    Args:
        database: The open `requests` database.
        batch_records: Most records one transaction takes.
        gap_s: How long a gap is looked for at least, in seconds.
    """

    def __init__(
        self,
        database: Database,
        batch_records: int = BATCH_RECORDS,
        gap_s: float = GAP_S,
    ) -> None:
        self.database = database
        self.batch_records = batch_records
        self._gap_s = gap_s
        self._upsert = _upsert(is_sqlite=database.is_sqlite)
        self._version: int | None = None  # the cursor's, for which `_seconds` is right
        self._seconds: dict[Second, int] = {}

    def step(self, now: float | None = None) -> int:
        """Roll up the next records, at most a batch; how many it took.

        The log is read before the writing transaction begins, which is short.

        Args:
            now: Unix time in seconds; left out: the clock's.

        Raises:
            StoreError: The database failed, nothing was rolled up.
        """
        now = time.time() if now is None else now
        with self.database.read() as connection:
            found = self._look(connection, now)
            if self._version != found.version:
                self._seconds = self._recall(connection, found)
        if not found.rows and not found.gone:
            self._version = found.version
            return 0
        batch = Batch(found.rows)
        seconds = {
            second: self._seconds.get(second, 0) + count
            for second, count in batch.seconds().items()
        }
        tallies = [
            (level.step_s, batch.tallies(level.step_s, seconds, now - level.keep_s))
            for level in LEVELS
        ]
        self._version = None  # until it is certain that this was stored
        with self.database.write() as connection:
            if not self._claim(connection, found):
                return 0
            for step_s, of_step in tallies:
                self._store(connection, step_s, of_step)
        self._version = found.version + 1
        self._seconds |= seconds
        oldest = batch.newest - MEMORY_S
        self._seconds = {key: count for key, count in self._seconds.items() if key[1] >= oldest}
        return len(found.rows)

    def prune(self, now: float) -> int:
        """Delete rows that no view shows any more; how many went.

        Raises:
            StoreError: The database failed.
        """
        deleted = 0
        for level in LEVELS:
            old = (
                select(traffic.c.start)
                .where(traffic.c.step_s == level.step_s, traffic.c.start < now - level.keep_s)
                .order_by(traffic.c.start)
                .limit(PRUNE_ROWS)
            )
            while True:
                with self.database.write() as connection:
                    gone = connection.execute(
                        delete(traffic).where(
                            traffic.c.step_s == level.step_s, traffic.c.start.in_(old)
                        )
                    )
                deleted += gone.rowcount
                if gone.rowcount < PRUNE_ROWS:
                    break
        return deleted

    def _look(self, connection: Connection, now: float) -> _Found:
        """Records after the cursor, and those that have come into its gaps."""
        done = None
        if not self.database.is_sqlite:  # before the gaps: what has ended by now is seen there
            done = int(
                connection.execute(
                    text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
                ).scalar_one()
            )
        seq, version = read_cursor(connection)
        gaps = [_Gap(*row) for row in connection.execute(select(traffic_gaps))]
        late = [] if not gaps else _in_gaps(connection, self.batch_records)
        query = (
            tallied_columns()
            .where(request_log.c.seq > seq)
            .order_by(request_log.c.seq)
            .limit(self.batch_records)
        )
        rows = list(connection.execute(query))
        found = _Found(seq, version, rows, rows[-1][0] if rows else seq, [], [], [])
        if done is None:
            return found  # on SQLite a missing number was deleted: there is one writer at a time
        missing = _missing([row[0] for row in rows], seq)
        if missing:  # after the records: who has taken these numbers has begun by now
            horizon = connection.execute(
                text("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
            ).scalar_one()
            found.gaps += [_Gap(first, last, now, int(horizon)) for first, last in missing]
        came = sorted(row[0] for row in late)
        for gap in gaps:
            inside = [number for number in came if gap.first <= number <= gap.last]
            given_up = (
                len(late) < self.batch_records
                and gap.horizon <= done
                and now - gap.seen >= self._gap_s
            )
            if inside or given_up:
                found.gone.append(gap.first)
            if inside and not given_up:
                parts = _missing([*inside, gap.last + 1], gap.first - 1)
                found.gaps += [_Gap(*part, gap.seen, gap.horizon) for part in parts]
        found.late = came
        found.rows += late
        return found

    def _claim(self, connection: Connection, found: _Found) -> bool:
        """Move the cursor; whether nobody else has since it was read."""
        moved = connection.execute(
            update(traffic_cursor)
            .where(traffic_cursor.c.id == 1, traffic_cursor.c.version == found.version)
            .values(seq=found.new_seq, version=found.version + 1)
        )
        if moved.rowcount == 0:
            return False
        for part in in_parts(found.gone, _PARAMETERS):
            connection.execute(delete(traffic_gaps).where(traffic_gaps.c.first.in_(part)))
        if found.gaps:
            connection.execute(
                insert(traffic_gaps),
                [
                    {"first": g.first, "last": g.last, "seen": g.seen, "horizon": g.horizon}
                    for g in found.gaps
                ],
            )
        return True

    def _store(self, connection: Connection, step_s: int, tallies: Sequence[Tally]) -> None:
        """Add tallies to the rows that are stored."""
        stored: dict[tuple[int, str], Tally] = {}
        columns = [traffic.c[name] for name in _FIELDS]
        for starts in in_parts(sorted({tally.start for tally in tallies}), _PARAMETERS):
            query = select(*columns).where(traffic.c.step_s == step_s, traffic.c.start.in_(starts))
            for row in connection.execute(query):
                stored[row.start, row.model] = Tally(*row)
        rows = []
        for tally in tallies:
            before = stored.get((tally.start, tally.model))
            if before is not None:
                before.merge(tally)
                tally = before
            rows.append({"step_s": step_s} | {name: getattr(tally, name) for name in _FIELDS})
        if rows:
            connection.execute(self._upsert, rows)

    def _recall(self, connection: Connection, found: _Found) -> dict[Second, int]:
        """How many requests began within each of the last seconds, of those rolled up before."""
        log = request_log.c
        if not found.rows:
            return {}
        oldest = max(row[1] for row in found.rows) - MEMORY_S
        query = select(log.model, log.error, log.time, log.seq).where(
            log.time >= oldest, log.seq <= found.seq
        )
        fresh = set(found.late)
        counts: dict[Second, int] = {}
        for model, error, began, seq in connection.execute(query):
            if seq not in fresh:
                for name in (tallied_model(model, error), ALL_MODELS):
                    counts[name, int(began)] = counts.get((name, int(began)), 0) + 1
        return counts


def read_cursor(connection: Connection) -> tuple[int, int]:
    """Up to which number the log is rolled up, and the version of that."""
    row = connection.execute(select(traffic_cursor.c.seq, traffic_cursor.c.version)).one()
    return int(row[0]), int(row[1])


def rolled_up(database: Database) -> int:
    """Up to which number the log is rolled up.

    Raises:
        StoreError: The database failed.
    """
    with database.read() as connection:
        return read_cursor(connection)[0]


def not_rolled_up(connection: Connection, limit: int) -> tuple[list[Any], int]:
    """The newest records that are not rolled up, and how many more there are."""
    seq, _ = read_cursor(connection)
    log = request_log.c
    tail = tallied_columns().where(log.seq > seq).order_by(log.seq.desc()).limit(limit)
    rows = list(connection.execute(tail))
    more = 0
    if len(rows) == limit:
        more = max(int(rows[-1][0]) - seq - 1, 0)
    if connection.execute(select(func.count()).select_from(traffic_gaps)).scalar():
        rows += _in_gaps(connection, limit)
    return rows, more


def _in_gaps(connection: Connection, limit: int) -> list[Any]:
    seq = request_log.c.seq
    query = (
        tallied_columns()
        .join(traffic_gaps, seq.between(traffic_gaps.c.first, traffic_gaps.c.last))
        .order_by(seq)
        .limit(limit)
    )
    return list(connection.execute(query))


def _missing(numbers: Sequence[int], after: int) -> list[tuple[int, int]]:
    """The ranges of numbers after one that are missing among ascending numbers."""
    found = []
    for number in numbers:
        if number > after + 1:
            found.append((after + 1, number - 1))
        after = number
    return found


def _upsert(*, is_sqlite: bool) -> Any:
    """Insert rows or put them in the place of those that are there."""
    put: Any
    if is_sqlite:
        from sqlalchemy.dialects import sqlite

        put = sqlite.insert(traffic)
    else:
        from sqlalchemy.dialects import postgresql

        put = postgresql.insert(traffic)
    keys = ("step_s", "start", "model")
    return put.on_conflict_do_update(
        index_elements=list(keys),
        set_={name: put.excluded[name] for name in _FIELDS if name not in keys},
    )
