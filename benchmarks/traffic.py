"""How long the views of `/api/traffic` take after many logged requests, and how fast those roll up.

    uv run python benchmarks/traffic.py --records 10000000 --url sqlite:////tmp/bench/requests.db

Writes a request log of 30 days into a new database, rolls it up with the code that the control
process runs, while a writer goes on appending to it, and times every view.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from sqlalchemy import insert, text

from aviary.core.ports import RequestRecord
from aviary.store.requests import SqlRequestLog
from aviary.store.rollup import RollUp
from aviary.store.schema import request_log
from aviary.store.traffic import VIEWS, read_traffic

DAYS = 30
CHUNK = 50_000
ROUNDS = 5


def rows(records: int, models: int, keys: int, end: float) -> Iterator[list[dict[str, object]]]:
    """The log, in order of time, in chunks; by day twice as busy as by night."""
    chance = np.random.default_rng(7)
    start = end - DAYS * 86_400
    for first in range(0, records, CHUNK):
        count = min(CHUNK, records - first)
        share = (first + np.arange(count)) / records
        times = start + share * (end - start)
        times += np.sin(times / 86_400 * 2 * np.pi) * 86_400 / 20
        latency = chance.lognormal(7, 1, count)
        columns = zip(
            range(first, first + count),
            np.minimum(times, end).tolist(),
            (chance.zipf(1.6, count) % models).tolist(),
            chance.integers(0, keys, count).tolist(),
            (chance.random(count) < 0.01).tolist(),
            latency.tolist(),
            (latency * chance.uniform(0.05, 0.3, count)).tolist(),
            chance.lognormal(6, 1, count).astype(int).tolist(),
            chance.lognormal(5, 1, count).astype(int).tolist(),
            strict=True,
        )
        yield [
            {
                "id": f"req-{number}",
                "time": began,
                "route": "/v1/chat/completions",
                "model": f"model-{model}",
                "replica": f"model-{model}/ab12cd",
                "key": f"ak_{key}",
                "status": 500 if failed else 200,
                "error": "engine_error" if failed else "",
                "stream": True,
                "time_to_first_token_ms": None if failed else ttft_ms,
                "latency_ms": latency_ms,
                "overhead_ms": 0.3,
                "prompt_tokens": prompt,
                "completion_tokens": None if failed else completion,
                "cost_usd": None if failed else 0.0001,
                "client": "",
            }
            for number, began, model, key, failed, latency_ms, ttft_ms, prompt, completion in (
                columns
            )
        ]


def fill(log: SqlRequestLog, arguments: argparse.Namespace, end: float) -> None:
    began = time.perf_counter()
    for chunk in rows(arguments.records, arguments.models, arguments.keys, end):
        with log.database.write() as connection:
            connection.execute(insert(request_log), chunk)
    took_s = time.perf_counter() - began
    print(f"wrote {arguments.records:,} records in {took_s:.0f} s")


def roll_up(log: SqlRequestLog, url: str) -> None:
    """Catch up, while somebody goes on writing."""
    ended = threading.Event()
    waits_ms: list[float] = []

    def write() -> None:
        mine = SqlRequestLog.open(url)
        while not ended.wait(0.25):
            batch = [
                RequestRecord(
                    f"new-{n}", time.time(), "/v1/chat/completions", "model-1", key="ak_1"
                )
                for n in range(20)
            ]
            began = time.perf_counter()
            mine.append(batch)
            waits_ms.append((time.perf_counter() - began) * 1000)
        mine.close()

    writer = threading.Thread(target=write)
    writer.start()
    rolling = RollUp(log.database)
    began, cpu, taken, longest_s = time.perf_counter(), time.process_time(), 0, 0.0
    while True:
        step = time.perf_counter()
        found = rolling.step()
        longest_s = max(longest_s, time.perf_counter() - step)
        taken += found
        if found < rolling.batch_records:
            break
    took_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    ended.set()
    writer.join()
    print(
        f"rolled up {taken:,} records in {took_s:.0f} s: {taken / took_s:,.0f} records/s "
        f"({cpu_s:.0f} s of CPU); longest step {longest_s * 1000:.0f} ms"
    )
    print(
        f"a writer beside it: {len(waits_ms)} appends, p50 {statistics.median(waits_ms):.1f} ms, "
        f"longest {max(waits_ms):.0f} ms"
    )


def views(log: SqlRequestLog, model: str | None) -> None:
    for shown in VIEWS:
        took_ms = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            found = read_traffic(log.database, shown, model)
            took_ms.append((time.perf_counter() - began) * 1000)
        print(
            f"| {shown} | {model or 'all'} | {found.totals.requests:,} | {len(found.points)} "
            f"| {took_ms[0]:.0f} | {statistics.median(took_ms):.0f} | {max(took_ms):.0f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--models", type=int, default=10)
    parser.add_argument("--keys", type=int, default=500)
    parser.add_argument("--url", default="", help="an empty database; default: a new SQLite file")
    arguments = parser.parse_args()
    print(f"{platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory(prefix="aviary-traffic-") as folder:
        url = arguments.url or f"sqlite:///{Path(folder) / 'requests.db'}"
        log = SqlRequestLog.open(url)
        fill(log, arguments, time.time())
        if log.database.path is not None:
            print(f"log: {log.database.path.stat().st_size / 1e6:,.0f} MB")
        roll_up(log, url)
        with log.database.read() as connection:
            count, size = connection.execute(
                text(
                    "SELECT count(*), sum(length(ttft_ms) + length(latency_ms) + length(users) "
                    "+ length(prompt_lengths) + length(completion_lengths)) FROM traffic"
                )
            ).one()
        print(f"roll-ups: {count:,} rows, {int(size or 0) / 1e6:,.1f} MB of sketches")
        print("| range | model | requests | points | first ms | p50 ms | longest ms |")
        print("|---|---|---|---|---|---|---|")
        views(log, None)
        views(log, "model-1")
        log.close()


if __name__ == "__main__":
    main()
