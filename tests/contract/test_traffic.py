"""Roll-ups of the request log and what is shown of them, over every database the store runs on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import insert, text

from aviary.core.errors import StoreError
from aviary.core.ports import ReplicaCount, RequestRecord
from aviary.core.traffic import Range
from aviary.store import SqlRequestLog
from aviary.store.records import to_row
from aviary.store.replicas import ReplicaCountLog, prune_counts
from aviary.store.requests import percentile
from aviary.store.rollup import LEVELS, RollUp, rolled_up
from aviary.store.schema import request_log
from aviary.store.traffic import TAIL_RECORDS, VIEWS, read_traffic

NOW = 1_790_000_003.5
POSTGRES_ONLY = pytest.mark.parametrize("url", ["postgres"], indirect=True)


@pytest.fixture
def log(url: str) -> Iterator[SqlRequestLog]:
    log = SqlRequestLog.open(url)
    yield log
    log.close()


def record(number: int, ago_s: float = 1.0, **changes: Any) -> RequestRecord:
    values = {"id": f"r{number}", "time": NOW - ago_s, "route": "/v1/x", "model": "m"}
    return RequestRecord(**(values | changes))


def some_records(count: int, longest_ago_s: float, seed: int = 1) -> list[RequestRecord]:
    chance = random.Random(seed)
    found = []
    for number in range(count):
        failed = chance.random() < 0.1
        latency_ms = chance.lognormvariate(6, 1)
        found.append(
            record(
                number,
                ago_s=longest_ago_s * chance.random(),
                model=chance.choice("abc"),
                key=f"ak_{chance.randrange(20)}",
                status=500 if failed else 200,
                error="boom" if failed else "",
                latency_ms=latency_ms,
                time_to_first_token_ms=None if failed else latency_ms / 10,
                prompt_tokens=chance.randrange(1, 5000),
                completion_tokens=None if failed else chance.randrange(500),
                cost_usd=None if failed else 0.25,
            )
        )
    return sorted(found, key=lambda one: one.time)


def roll(rolling: RollUp, now: float = NOW) -> int:
    taken = 0
    while found := rolling.step(now):
        taken += found
    return taken


def requests_in(log: SqlRequestLog, shown: Range = "30d", now: float = NOW) -> int:
    return read_traffic(log.database, shown, now=now).totals.requests


@pytest.mark.parametrize("shown", list(VIEWS))
@pytest.mark.parametrize("batch", [37, 10_000])
def test_a_view_tells_what_the_log_says(log: SqlRequestLog, shown: Range, batch: int) -> None:
    view = VIEWS[shown]
    length_s = view.points * view.step_s
    records = some_records(400, length_s * 1.2)
    log.append(records[:390])
    roll(RollUp(log.database, batch))
    log.append(records[390:])  # not rolled up: of the log itself
    found = read_traffic(log.database, shown, now=NOW)
    assert (found.end - found.start, found.step_s) == (length_s, view.step_s)
    assert found.end - view.step_s <= NOW < found.end
    within = [one for one in records if one.time >= found.start]
    assert 250 < len(within) < 400
    assert [p.t for p in found.points] == list(range(found.start, found.end, view.step_s))
    for point in found.points:
        mine = [one for one in within if point.t <= one.time < point.t + view.step_s]
        assert_figures(point, mine)
        if mine:
            assert point.peak_rps == max(Counter(int(one.time) for one in mine).values())
        else:
            assert point.peak_rps == 0
    assert_figures(found.totals, within)
    assert {model.model for model in found.models} == set("abc")
    for model in found.models:
        mine = [one for one in within if one.model == model.model]
        assert_figures(model, mine)
        only = read_traffic(log.database, shown, model.model, NOW)
        assert_figures(only.totals, mine)
        assert [one.model for one in only.models] == [model.model]
        assert max(point.peak_rps for point in only.points) == max(
            Counter(int(one.time) for one in mine).values()
        )
    for lengths, name in (
        (found.prompt_lengths, "prompt_tokens"),
        (found.completion_lengths, "completion_tokens"),
    ):
        true = [getattr(one, name) for one in within if getattr(one, name) is not None]
        for part in lengths:
            assert part.count == sum(part.first <= tokens <= part.last for tokens in true)
    assert found.pending == 0


def assert_figures(figures: Any, records: list[RequestRecord]) -> None:
    assert figures.requests == len(records)
    assert figures.errors == sum(one.status == 500 for one in records)
    assert figures.users == len({one.key for one in records})
    assert figures.prompt_tokens == sum(one.prompt_tokens or 0 for one in records)
    assert figures.completion_tokens == sum(one.completion_tokens or 0 for one in records)
    assert figures.cost_usd == pytest.approx(sum(one.cost_usd or 0 for one in records))
    fine = [one for one in records if one.status == 200]
    for what, name in (("ttft", "time_to_first_token_ms"), ("latency", "latency_ms")):
        values = sorted(getattr(one, name) for one in fine)
        for percent in (50, 95, 99):
            shown = getattr(figures, f"{what}_p{percent}_ms")
            assert shown == (
                None if not values else pytest.approx(percentile(values, percent), 0.01)
            )


def test_a_spike_is_seen_at_every_zoom(log: SqlRequestLog) -> None:
    log.append([record(number, ago_s=100.0, model="ab"[number % 2]) for number in range(90)])
    rolling = RollUp(log.database, 7)  # the second is split among many batches
    roll(rolling)
    # One more of that second by another process, which must remember those before.
    log.append([record(99, ago_s=100.0, model="a")])
    roll(RollUp(log.database, 7))
    for shown in VIEWS:
        assert max(p.peak_rps for p in read_traffic(log.database, shown, now=NOW).points) == 91
        only = read_traffic(log.database, shown, "a", NOW)
        assert max(point.peak_rps for point in only.points) == 46


def test_users_without_key_and_models_that_do_not_exist(log: SqlRequestLog) -> None:
    log.append(
        [
            record(1, client="c1"),
            record(2, client="c2"),
            record(3, client="c1", key=""),
            record(4),
            record(5, key="ak_1", model="guess", status=404, error="model_not_found"),
        ]
    )
    RollUp(log.database).step(NOW)
    found = read_traffic(log.database, "5m", now=NOW)
    assert found.totals.users == 3
    assert [(model.model, model.requests) for model in found.models] == [("m", 4), ("(unknown)", 1)]


def test_an_empty_log(log: SqlRequestLog) -> None:
    assert RollUp(log.database).step(NOW) == 0
    found = read_traffic(log.database, "1h", now=NOW)
    assert found.totals.requests == 0
    assert found.totals.latency_p50_ms is None
    assert found.prompt_lengths == []


class _Breaks(RollUp):
    """Fails after the cursor and some rows are written."""

    def _store(self, *arguments: Any) -> None:
        super()._store(*arguments)
        raise StoreError("as told")


def test_a_failed_step_loses_and_doubles_nothing(log: SqlRequestLog) -> None:
    log.append(some_records(100, 200))
    with pytest.raises(StoreError, match="as told"):
        _Breaks(log.database).step(NOW)
    assert rolled_up(log.database) == 0
    assert roll(RollUp(log.database, 30)) == 100
    assert requests_in(log, "5m") == 100


_ROLLER = """
import sys
from aviary.store.database import open_database
from aviary.store.rollup import RollUp
rolling = RollUp(open_database(sys.argv[1], "requests"), 20)
while True:
    print(rolling.step(float(sys.argv[2])), flush=True)
"""


def test_kill_9_loses_and_doubles_nothing(log: SqlRequestLog, url: str) -> None:
    log.append(some_records(4000, 200))
    for steps, pause_s in ((1, 0.0), (10, 0.003), (20, 0.01)):
        child = subprocess.Popen(
            [sys.executable, "-c", _ROLLER, url, str(NOW)], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        for _ in range(steps):
            assert child.stdout.readline() == b"20\n"
        time.sleep(pause_s)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
    assert 600 <= rolled_up(log.database) < 4000
    roll(RollUp(log.database))
    found = read_traffic(log.database, "5m", now=NOW)
    assert found.totals.requests == 4000
    assert sum(model.requests for model in found.models) == 4000


def test_several_writers_and_several_that_roll_up(log: SqlRequestLog, url: str) -> None:
    def write(number: int) -> None:
        mine = SqlRequestLog.open(url)
        for part in range(20):
            mine.append([record(number * 1000 + part * 10 + n) for n in range(10)])
        mine.close()

    ended = threading.Event()
    errors: list[BaseException] = []

    def roll_up() -> None:
        try:
            mine = SqlRequestLog.open(url)
            rolling = RollUp(mine.database, 50)
            while not ended.is_set():
                rolling.step(NOW)
            mine.close()
        except BaseException as error:
            errors.append(error)

    rollers = [threading.Thread(target=roll_up) for _ in range(2)]
    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in (*rollers, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    ended.set()
    for thread in rollers:
        thread.join()
    assert errors == []
    roll(RollUp(log.database))
    assert requests_in(log) == 800


@POSTGRES_ONLY
def test_what_commits_late_is_rolled_up_once(log: SqlRequestLog) -> None:
    log.append([record(1)])
    rolling = RollUp(log.database, gap_s=0)
    with log.database.write() as slow:
        slow.execute(insert(request_log), [to_row(record(2)), to_row(record(3))])
        log.append([record(4)])
        assert roll(rolling) == 2
        assert gaps(log) == [(2, 3)]
        assert roll(rolling) == 0  # however often it looks, as long as the writer lives
        assert gaps(log) == [(2, 3)]
    assert requests_in(log) == 4  # shown at once: read from the log
    assert roll(rolling) == 2
    assert gaps(log) == []
    assert roll(rolling) == 0
    assert requests_in(log) == 4


@POSTGRES_ONLY
def test_a_gap_that_is_filled_in_part(log: SqlRequestLog) -> None:
    rolling = RollUp(log.database, gap_s=0)
    with log.database.write() as first:
        first.execute(insert(request_log), [to_row(record(1))])
        with log.database.write() as second:
            second.execute(insert(request_log), [to_row(record(2))])
            roll_back(log, record(3))
            log.append([record(4)])
            assert roll(rolling) == 1
            assert gaps(log) == [(1, 3)]
        assert roll(rolling) == 1
        assert gaps(log) == [(1, 1), (3, 3)]
    roll(rolling)
    roll(rolling, NOW + 1)
    assert gaps(log) == []
    assert requests_in(log) == 3


@POSTGRES_ONLY
def test_a_gap_of_what_was_rolled_back_is_given_up_in_time(log: SqlRequestLog) -> None:
    roll_back(log, record(1))
    log.append([record(2)])
    rolling = RollUp(log.database)
    assert roll(rolling) == 1
    roll(rolling, NOW + 59)
    assert gaps(log) == [(1, 1)]
    roll(rolling, NOW + 61)
    assert gaps(log) == []


def roll_back(log: SqlRequestLog, one: RequestRecord) -> None:
    """Take a number and use it for nothing."""
    with log.database.write() as connection:
        connection.execute(insert(request_log), [to_row(one)])
        connection.rollback()


def gaps(log: SqlRequestLog) -> list[tuple[int, int]]:
    with log.database.read() as connection:
        rows = connection.execute(text("SELECT first, last FROM traffic_gaps ORDER BY first"))
        return [(row[0], row[1]) for row in rows]


def test_what_is_pruned_of_the_log_stays_in_the_views(log: SqlRequestLog) -> None:
    log.append([record(number, ago_s=10 * 86400) for number in range(50)])
    assert log.prune(NOW, rolled_up(log.database)) == 0  # not rolled up yet
    rolling = RollUp(log.database)
    roll(rolling)
    assert log.prune(NOW, rolled_up(log.database)) == 49
    assert log.prune(NOW, rolled_up(log.database)) == 0
    log.append([record(99)])
    roll(rolling)
    assert requests_in(log) == 51


def test_rows_that_no_view_shows_go(log: SqlRequestLog) -> None:
    log.append(some_records(300, 86400))
    rolling = RollUp(log.database)
    roll(rolling)
    assert rolling.prune(NOW) == 0
    later = NOW + 40 * 86400
    assert rolling.prune(later) > 0
    with log.database.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM traffic")).scalar() == 0


def test_levels_keep_what_the_views_show() -> None:
    for view in VIEWS.values():
        level = next(level for level in LEVELS if level.step_s == view.level_s)
        assert level.keep_s > view.points * view.step_s + view.step_s
        assert view.step_s % level.step_s == 0
        assert view.points <= 400


def test_a_long_log_is_caught_up_and_says_how_much_it_lacks(log: SqlRequestLog) -> None:
    many = TAIL_RECORDS + 500
    log.append([record(number) for number in range(many)])
    found = read_traffic(log.database, "5m", now=NOW)
    assert (found.totals.requests, found.pending) == (TAIL_RECORDS, 500)
    roll(RollUp(log.database))
    found = read_traffic(log.database, "5m", now=NOW)
    assert (found.totals.requests, found.pending) == (many, 0)


def count(ago_s: float, model: str = "m", ready: int = 1, **changes: Any) -> ReplicaCount:
    given = {"starting": 0, "sleeping": 0, "desired": 1, "reason": "why"} | changes
    return ReplicaCount(NOW - ago_s, model, ready, **given)


def test_replicas_over_time(log: SqlRequestLog, url: str) -> None:
    counts = ReplicaCountLog.open(url)
    counts.append([])
    counts.append(
        [count(9000, ready=1), count(5000, ready=2), count(20, ready=3, reason="x" * 900)]
    )
    counts.append([count(10, "new"), count(9000, "gone", 1), count(8000, "gone", 0, desired=0)])
    found = read_traffic(log.database, "1h", now=NOW)
    assert {
        model: [(round(NOW - c.time), c.ready) for c in held]
        for model, held in found.replicas.items()
    } == {
        "m": [(round(NOW - found.start), 2), (20, 3)],
        "new": [(round(NOW - found.start), 0), (10, 1)],
    }
    assert found.replicas["m"][1].reason == "x" * 500
    assert list(read_traffic(log.database, "1h", "new", NOW).replicas) == ["new"]
    assert len(read_traffic(log.database, "24h", now=NOW).replicas["gone"]) == 3
    # Of what is old, the last of each model stays: it held when the oldest view begins.
    assert prune_counts(log.database, NOW + 33 * 86400 - 15) == 3
    assert prune_counts(log.database, NOW, keep=1) == 2
    counts.close()
