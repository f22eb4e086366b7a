"""Many comparisons at once against the fake engine, through a real `aviary up`.

    python benchmarks/explorer.py [--comparisons 200] [--columns 3] [--workers 2] [--over 2]

They begin one after the other within `--over` seconds (0: all in one instant, which asks how fast
600 requests can be begun) and last longer than that, so that all run at once for a while.

The engine gives its first token after 200 ms and one more every 200 ms, so that what a client waits
beyond 200 ms for a column's first text is Aviary's. Prints its percentiles; exit status 1 when a
column failed, a battle was not stored, or the 99th percentile is above the bar.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx2

from children import Child, free_port

TTFT_MS = 200.0
BAR_MS = 250.0
TOKENS = 20
START_S = 60.0
SPEC = """id: paced
engine: {{kind: fake, tokens: {tokens}, slots: {slots}, time_to_first_token: 200ms, gap: 200ms}}
"""


async def compare(client: httpx2.AsyncClient, columns: int) -> tuple[list[float], list[str]]:
    """One comparison: when each column's first text came (ms), and what went wrong."""
    body = {"models": [{"model": "paced"}] * columns, "prompt": "Why do birds sing?"}
    first: dict[int, float] = {}
    wrong: list[str] = []
    began = perf_counter()
    stored = False
    try:
        async with client.stream("POST", "/api/battles", json=body) as response:
            if response.status_code != 200:
                return [], [f"HTTP {response.status_code}"]
            async for line in response.aiter_lines():
                if not line.startswith("data: "):
                    continue
                event: dict[str, Any] = json.loads(line[6:])
                if event["kind"] == "text":
                    first.setdefault(event["column"], (perf_counter() - began) * 1000.0)
                elif event["kind"] == "error":
                    wrong.append(str(event["error"]["code"]))
                elif event["kind"] == "stored":
                    stored = bool(event["stored"])
    except httpx2.HTTPError as error:
        wrong.append(type(error).__name__)
    if not stored:
        wrong.append("not stored")
    if len(first) < columns and not wrong:
        wrong.append("a column without text")
    return list(first.values()), wrong


async def run(
    url: str, comparisons: int, columns: int, over_s: float
) -> tuple[list[float], list[str], float]:
    """All comparisons at once."""
    limits = httpx2.Limits(max_connections=comparisons + 10)
    async with httpx2.AsyncClient(
        base_url=url, timeout=120, trust_env=False, limits=limits
    ) as client:
        deadline = perf_counter() + START_S
        while True:
            try:
                if (await client.get("/readyz")).status_code == 200:
                    break
            except httpx2.HTTPError:
                pass
            if perf_counter() > deadline:
                raise SystemExit("aviary up did not become ready")
            await asyncio.sleep(0.1)
        await compare(client, columns)  # imports and connections
        began = perf_counter()

        async def later(number: int) -> tuple[list[float], list[str]]:
            await asyncio.sleep(over_s * number / comparisons)
            return await compare(client, columns)

        done = await asyncio.gather(*(later(number) for number in range(comparisons)))
    times = sorted(time for first, _ in done for time in first)
    return times, [error for _, wrong in done for error in wrong], perf_counter() - began


def main() -> int:
    """Run it and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--comparisons", type=int, default=200)
    parser.add_argument("--columns", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--over", type=float, default=2.0, metavar="SECONDS")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="avb-") as folder:
        spec = Path(folder) / "paced.yaml"
        slots = arguments.comparisons * arguments.columns
        spec.write_text(SPEC.format(tokens=TOKENS, slots=slots))
        port = free_port()
        command = [sys.executable, "-m", "aviary", "up", str(spec), "--port", str(port)]
        environment = {"AVIARY_HOME": f"{folder}/home", "AVIARY_RUNTIME": folder}
        child = Child(
            "explorer",
            [*command, "--workers", str(arguments.workers)],
            {**os.environ, **environment},
            port=port,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            times, wrong, took_s = asyncio.run(
                run(url, arguments.comparisons, arguments.columns, arguments.over)
            )
        finally:
            child.stop()
    if not times:
        print(f"no column answered: {wrong[:5]}")
        return 1
    added = [time - TTFT_MS for time in times]
    p50, p95, p99 = (added[min(len(added) - 1, int(len(added) * q))] for q in (0.5, 0.95, 0.99))
    print(
        f"{arguments.comparisons} comparisons of {arguments.columns} columns, "
        f"begun within {arguments.over} s, {arguments.workers} workers, {took_s:.1f} s: "
        f"{len(wrong)} errors {sorted(set(wrong))}; "
        f"added TTFT p50 {p50:.0f} ms, p95 {p95:.0f} ms, p99 {p99:.0f} ms (bar {BAR_MS:.0f} ms)"
    )
    return 1 if wrong or p99 > BAR_MS else 0


if __name__ == "__main__":
    raise SystemExit(main())
