"""Gateways side by side, in one interleaved run: no gateway, Aviary, HAProxy, vllm-router, LiteLLM.

    uv run python benchmarks/gateway/run.py --seconds 3 --rounds 5 --concurrency 1,16,64

Every contender is started once and waits while another is measured. A round measures each of them
in turn, at each concurrency; ratios are taken within a round, so that what the machine does
meanwhile hits both sides about alike. See benchmarks/README.md for what the figures mean.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for children.py

import psutil
from contenders import CONTENDERS, Contender
from fast_upstream import EVENTS
from rich.console import Console
from rich.table import Table

from children import Child, Unavailable, free_port, interruptible, wait_until_listening

HERE = Path(__file__).resolve().parent
MODELS = ("finch-1b-instruct", "heron-8b-instruct")
REFERENCES = ("haproxy", "vllm-router")
"""Contenders that the others are set in proportion to."""

Result = dict[str, Any]
"""What load.py prints."""


def start_upstreams(writes: int, gap_ms: float) -> dict[str, Child]:
    """One fake engine a model."""
    children: dict[str, Child] = {}
    for model in MODELS:
        port = free_port()
        command = [sys.executable, str(HERE / "fast_upstream.py"), "--port", str(port)]
        command += ["--model", model, "--writes", str(writes), "--gap-ms", str(gap_ms)]
        child = children[model] = Child(f"upstream-{model}", command, port=port)
        wait_until_listening(child, port, 20)
    return children


def slow_streams(connections: int) -> int:
    """Streams after which the window of a slow contender ends."""
    return max(24, 2 * connections)


def measure(
    contender: Contender,
    upstreams: dict[str, Child],
    connections: int,
    seconds: float,
    slow_seconds: float,
) -> Result:
    """One window of one contender in a load generator process of its own."""
    ports = {model: child.port for model, child in upstreams.items()}
    command = [sys.executable, str(HERE / "load.py"), "--connections", str(connections)]
    for target in contender.targets(ports):
        command += ["--target", target]
    for pid in contender.pids:
        command += ["--watch-pid", str(pid)]
    for child in upstreams.values():
        command += ["--own-pid", str(child.pid)]
    if contender.slow:
        command += ["--seconds", str(slow_seconds), "--warm-up-seconds", "0"]
        command += ["--streams", str(slow_streams(connections)), "--sample-every", "1"]
    else:
        command += ["--seconds", str(seconds)]
    if not contender.exact_events:
        command += ["--events", "any"]
    load = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(load.stdout)


class Run:
    """The contenders that take part, the figures of each round, and why others do not."""

    def __init__(self, args: argparse.Namespace, console: Console) -> None:
        self.args = args
        self.console = console
        self.contenders: list[Contender] = []
        self.absent: dict[str, str] = {}
        self.results: dict[tuple[str, int], list[Result | None]] = {}
        """(contender, concurrency) → one entry a round; None where it sat the round out."""

    def note(self, text: str) -> None:
        """Say where we are, on stderr: stdout is for the table."""
        self.console.print(text, highlight=False)

    def start(self, upstreams: dict[str, Child]) -> None:
        """Install and start whoever was asked for."""
        ports = {model: child.port for model, child in upstreams.items()}
        for kind in CONTENDERS:
            if kind.name not in self.args.only if self.args.only else kind.on_request:
                continue
            contender = kind()
            started_s = time.perf_counter()
            try:
                contender.install()
                contender.start(ports)
            except (Unavailable, OSError, subprocess.SubprocessError) as error:
                contender.stop()
                self.absent[kind.name] = str(error)
                self.note(f"{kind.label}: not in this run: {error}")
            except BaseException:
                contender.stop()
                raise
            else:
                self.contenders.append(contender)
                self.note(
                    f"{kind.label} {contender.version}: ready after "
                    f"{time.perf_counter() - started_s:.1f} s"
                )

    def rounds(self, upstreams: dict[str, Child]) -> None:
        """Measure everybody in turn, `--rounds` times."""
        args = self.args
        for number in range(args.rounds):
            for connections in args.concurrency:
                for contender in self.contenders:
                    row = self.results.setdefault((contender.name, connections), [])
                    if contender.slow and number > 0:
                        row.append(None)
                        continue
                    time.sleep(args.pause_seconds)
                    result = measure(
                        contender, upstreams, connections, args.seconds, args.slow_seconds
                    )
                    row.append(result)
                    self.note(
                        f"round {number + 1}/{args.rounds} c={connections} {contender.label}: "
                        f"{result['streams_per_s']:.1f} streams/s"
                        + (f", errors {result['errors']}" if result["errors"] else "")
                    )

    def stop(self) -> None:
        """End every contender."""
        for contender in self.contenders:
            contender.stop()

    # Figures over rounds.

    def values(self, name: str, connections: int, key: str) -> list[float]:
        """One figure of each round that has it."""
        rows = self.results.get((name, connections), [])
        return [row[key] for row in rows if row is not None and row[key] is not None]

    def compared(
        self,
        name: str,
        other: str,
        connections: int,
        key: str,
        combine: Callable[[float, float], float],
    ) -> list[float]:
        """`combine(own, other's)` of each round in which both took part."""
        pairs = zip(
            self.results.get((name, connections), []),
            self.results.get((other, connections), []),
            strict=False,
        )
        return [
            combine(a[key], b[key])
            for a, b in pairs
            if a is not None and b is not None and a[key] is not None and b[key]
        ]


def _median(values: list[float], digits: int = 2) -> str:
    return f"{statistics.median(values):,.{digits}f}" if values else "-"


def _spread(values: list[float]) -> str:
    """Least / median / greatest."""
    if not values:
        return "-"
    digits = 2 if max(values) >= 0.1 else 4
    three = (min(values), statistics.median(values), max(values))
    return " / ".join(f"{value:.{digits}f}" for value in three)


def _rate(values: list[float]) -> str:
    return _median(values, 0 if values and statistics.median(values) >= 100 else 1)


def columns() -> list[str]:
    """Headings of the table."""
    return [
        "c",
        "contender",
        "streams/s",
        "events/s",
        "TTFT p50 ms",
        "TTFT p99 ms",
        "added p50 ms",
        "added p99 ms",
        "CPU ms a stream",
        "streams/s ÷ HAProxy's",
        "streams/s ÷ vllm-router's",
        "errors",
    ]


def rows(run: Run) -> Iterable[list[str]]:
    """Lines of the table: medians over rounds, ratios as least / median / greatest."""

    def minus(a: float, b: float) -> float:
        return a - b

    def over(a: float, b: float) -> float:
        return a / b

    for connections in run.args.concurrency:
        for kind in CONTENDERS:
            if kind.name in run.absent:
                yield [str(connections), kind.label, "not in this run", *["-"] * 9]
            if (kind.name, connections) not in run.results:
                continue

            def of(key: str, name: str = kind.name, c: int = connections) -> list[float]:
                return run.values(name, c, key)

            added = [
                run.compared(kind.name, "direct", connections, key, minus)
                for key in ("ttft_p50_ms", "ttft_p99_ms")
            ]
            ratios = [
                run.compared(kind.name, other, connections, "streams_per_s", over)
                if other != kind.name
                else []
                for other in REFERENCES
            ]
            is_direct = kind.name == "direct"
            yield [
                str(connections),
                kind.label,
                _rate(of("streams_per_s")),
                _rate(of("events_per_s")),
                _median(of("ttft_p50_ms")),
                _median(of("ttft_p99_ms")),
                "" if is_direct else _median(added[0]),
                "" if is_direct else _median(added[1]),
                "" if is_direct else _median(of("cpu_ms_per_stream"), 3),
                _spread(ratios[0]),
                _spread(ratios[1]),
                f"{sum(of('error_count')):.0f}",
            ]


def footnotes(run: Run) -> list[str]:
    """What a reader must know to read the table."""
    args = run.args
    pace = (
        f"{args.gap_ms:g} ms between events"
        if args.gap_ms > 0
        else f"as fast as it can, {args.writes} write(s) a stream"
    )
    lines = [
        (
            f"One stream = {EVENTS} events, {pace}; request 1 kB; two models on two upstreams; "
            f"{args.rounds} rounds of {args.seconds:g} s, taken in turn; medians over rounds, "
            "ratios min / median / max over rounds."
        ),
        (
            f"Gateway, upstreams and load generator share the machine's {psutil.cpu_count()} "
            f"cores ({platform.machine()}, Python {platform.python_version()}): streams/s "
            "compares the whole, CPU a stream the gateway's process tree alone."
        ),
    ]
    versions = ", ".join(f"{c.label} {c.version}" for c in run.contenders if c.version)
    if versions:
        lines.append(f"Versions: {versions}.")
    if any(c.slow for c in run.contenders):
        lines.append(
            "LiteLLM is slow: one round, whose window ends after max(24, 2 c) streams or "
            f"{args.slow_seconds:g} s; no warm-up but the start's checks. It writes its own events."
        )
    lines += [f"{name}: {why}" for name, why in run.absent.items()]
    busy = [
        row["other_cores_busy"]
        for rows_ in run.results.values()
        for row in rows_
        if row is not None
    ]
    if busy:
        lines.append(
            f"Other programs kept {statistics.median(busy):.2f} cores busy (median of all windows; "
            f"worst {max(busy):.2f}). Above 0.2, believe ratios only."
        )
    return lines


def markdown(run: Run) -> str:
    """The table for a document."""
    head = columns()
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cells) + " |" for cells in rows(run)]
    return "\n".join([*lines, "", *(f"- {line}" for line in footnotes(run))])


def show(run: Run, console: Console) -> None:
    """The table on a terminal."""
    table = Table(title="Gateways", title_justify="left")
    for heading in columns():
        table.add_column(heading, justify="left" if heading == "contender" else "right")
    previous = ""
    for cells in rows(run):
        if previous and cells[0] != previous:
            table.add_section()
        previous = cells[0]
        table.add_row(*cells)
    console.print(table)
    for line in footnotes(run):
        console.print(line, highlight=False)


def plain(run: Run) -> str:
    """The table in columns of spaces, for a pipe or a log."""
    lines = [columns(), *rows(run)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]

    def row(cells: list[str]) -> str:
        padded = [
            cell.ljust(width) if i == 1 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()

    return "\n".join([*map(row, lines), "", *footnotes(run)])


def as_json(run: Run) -> dict[str, Any]:
    """Everything measured, for programs."""
    args = run.args
    return {
        "options": {
            "seconds": args.seconds,
            "rounds": args.rounds,
            "concurrency": args.concurrency,
            "writes": args.writes,
            "gap_ms": args.gap_ms,
        },
        "machine": {
            "cores": psutil.cpu_count(),
            "architecture": platform.machine(),
            "python": platform.python_version(),
            "load_average": os.getloadavg(),
        },
        "versions": {c.name: c.version for c in run.contenders},
        "absent": run.absent,
        "results": [
            {"contender": name, "connections": connections, "rounds": measured}
            for (name, connections), measured in run.results.items()
        ],
    }


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""

    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="measured window of each turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--concurrency", type=numbers, default=[1, 16, 64], metavar="1,16,64")
    parser.add_argument(
        "--only", nargs="+", choices=[kind.name for kind in CONTENDERS], metavar="NAME"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--markdown", action="store_true", help="print the table as markdown")
    parser.add_argument("--writes", type=int, default=EVENTS, help="writes a stream at the engine")
    parser.add_argument("--gap-ms", type=float, default=0.0, help="pause between events")
    parser.add_argument(
        "--slow-seconds", type=float, default=30.0, help="longest window of LiteLLM"
    )
    parser.add_argument("--pause-seconds", type=float, default=0.3, help="before each turn")
    return parser.parse_args(arguments)


def main() -> int:
    """Run and print; 1 if nobody could be measured or a stream was wrong."""
    args = parse()
    run = Run(args, Console(stderr=True))
    upstreams: dict[str, Child] = {}
    interrupted = False
    with interruptible():
        try:
            upstreams = start_upstreams(args.writes, args.gap_ms)
            run.start(upstreams)
            run.rounds(upstreams)
        except KeyboardInterrupt:
            interrupted = True
            run.note("interrupted: the table shows the rounds that ended")
        finally:
            run.stop()
            for child in upstreams.values():
                child.stop()
    console = Console()
    if args.markdown:
        print(markdown(run))
    elif console.is_terminal and console.width >= 150:
        show(run, console)
    else:
        print(plain(run))
    if args.json:
        args.json.write_text(json.dumps(as_json(run), indent=2) + "\n")
    if interrupted:
        return 130
    wrong = any(row and row["error_count"] for measured in run.results.values() for row in measured)
    return 1 if wrong or not run.results else 0


if __name__ == "__main__":
    sys.exit(main())
