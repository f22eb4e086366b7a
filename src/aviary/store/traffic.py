"""What `/api/traffic` shows: roll-ups of the request log, and of it what is not rolled up yet."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from sqlalchemy import Connection, select

from aviary.core.traffic import Figures, Lengths, ModelFigures, Point, Range, Traffic
from aviary.store.database import Database
from aviary.store.records import clean_text
from aviary.store.replicas import counts_between
from aviary.store.rollup import not_rolled_up
from aviary.store.schema import traffic
from aviary.store.sketches import Names, Numbers, doublings, percentiles, unpack
from aviary.store.tally import ALL_MODELS, COUNTS, Batch, Tally

TAIL_RECORDS: Final = 20_000
"""Most records that a view reads of the log itself, the newest of those not rolled up yet."""
_PERCENTS: Final = (50, 95, 99)


@dataclass(frozen=True, slots=True)
class View:
    """How a range is shown.

    Attributes:
        points: How many points.
        step_s: Seconds from one to the next.
        level_s: Step of the roll-up they are made from.
    """

    points: int
    step_s: int
    level_s: int


VIEWS: Final[dict[Range, View]] = {
    "5m": View(60, 5, 5),
    "1h": View(360, 10, 5),
    "24h": View(288, 300, 300),
    "7d": View(336, 1800, 1800),
    "30d": View(360, 7200, 7200),
}


def read_traffic(
    database: Database, shown: Range, model: str | None = None, now: float | None = None
) -> Traffic:
    """The traffic of a range that ends now.

    Args:
        database: The open `requests` database.
        shown: The range.
        model: Only this model; `None` for all.
        now: Unix time in seconds; left out: the clock's.

    Raises:
        StoreError: The database failed.
    """
    view = VIEWS[shown]
    now = time.time() if now is None else now
    end = (math.floor(now / view.step_s) + 1) * view.step_s
    start = end - view.points * view.step_s
    wanted = None if model is None else clean_text(model, 256)
    with database.snapshot() as connection:
        rows = _stored(connection, view.level_s, start, end, wanted)
        tail, pending = not_rolled_up(connection, TAIL_RECORDS)
        replicas = counts_between(connection, start, end, wanted)
    batch = Batch(tail)
    rows += [
        tally
        for tally in batch.tallies(view.level_s, batch.seconds(), start)
        if tally.start < end and wanted in (None, tally.model)
    ]
    answer = _summed(rows, view, start, end, wanted)
    answer.replicas, answer.pending = replicas, pending
    return answer


def _stored(
    connection: Connection, level_s: int, start: int, end: int, model: str | None
) -> list[Tally]:
    query = select(*(traffic.c[column.name] for column in fields(Tally))).where(
        traffic.c.step_s == level_s, traffic.c.start >= start, traffic.c.start < end
    )
    if model is not None:
        query = query.where(traffic.c.model == model)
    return [Tally(*row) for row in connection.execute(query)]


def _summed(rows: Sequence[Tally], view: View, start: int, end: int, model: str | None) -> Traffic:
    points = [Point(t=start + number * view.step_s) for number in range(view.points)]
    peak_model = ALL_MODELS if model is None else model
    for row in rows:
        if row.model == peak_model:
            point = points[(row.start - start) // view.step_s]
            point.peak_rps = max(point.peak_rps, row.peak)
    rows = [row for row in rows if row.model != ALL_MODELS]
    names = sorted({row.model for row in rows})
    models = [ModelFigures(model=name) for name in names]
    places = {name: number for number, name in enumerate(names)}
    by_point = [(row.start - start) // view.step_s for row in rows]
    by_model = [places[row.model] for row in rows]
    all_users = Names()
    _sum_up(points, rows, by_point, all_users)
    _sum_up(models, rows, by_model, None)
    totals = Figures(users=all_users.count())
    for point in points:
        for name in COUNTS:
            setattr(totals, name, getattr(totals, name) + getattr(point, name))
    for what in ("ttft", "latency"):
        histograms = [getattr(row, f"{what}_ms") for row in rows]
        counts = unpack(histograms, by_point, len(points))
        _set_percentiles(points, what, counts)
        _set_percentiles([totals], what, counts.sum(axis=0, keepdims=True))
        _set_percentiles(models, what, unpack(histograms, by_model, len(models)))
    return Traffic(
        start=start,
        end=end,
        step_s=view.step_s,
        totals=totals,
        points=points,
        prompt_lengths=_lengths([row.prompt_lengths for row in rows]),
        completion_lengths=_lengths([row.completion_lengths for row in rows]),
        models=sorted(models, key=lambda figures: (-figures.requests, figures.model)),
    )


def _sum_up(
    into: Sequence[Figures], rows: Sequence[Tally], places: Sequence[int], users: Names | None
) -> None:
    """Add counts and users up; `users` gets all of them."""
    sketches: list[set[bytes]] = [set() for _ in into]
    for row, place in zip(rows, places, strict=True):
        figures = into[place]
        figures.requests += row.requests
        figures.errors += row.errors
        figures.prompt_tokens += row.prompt_tokens
        figures.completion_tokens += row.completion_tokens
        figures.cost_usd += row.cost_usd
        sketches[place].add(row.users)
    for figures, different in zip(into, sketches, strict=True):
        names = Names()
        for sketch in different:
            names.merge(sketch)
        figures.users = names.count()
        if users is not None and different:
            users.merge(names.pack())


def _set_percentiles(into: Sequence[Figures], what: str, counts: Numbers) -> None:
    for figures, found in zip(into, percentiles(counts, _PERCENTS), strict=True):
        for percent, value in zip(_PERCENTS, found, strict=True):
            setattr(figures, f"{what}_p{percent}_ms", value)


def _lengths(histograms: Sequence[bytes]) -> list[Lengths]:
    counts = unpack(histograms, np.zeros(len(histograms), np.int64).tolist(), 1)[0]
    return [Lengths(*part) for part in doublings(counts)]
