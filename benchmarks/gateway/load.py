"""Closed-loop load generator for streamed chat completions: one process, uvloop, own framing.

`--connections` connections each send a request, read the whole stream, check it, and send the
next. The loop is closed: a slow server gets fewer requests, so these are latencies *at this
concurrency*, not at an arrival rate. Coordinated omission does not arise, since no request has a
time at which it should have been sent; for the same reason TTFT here says nothing about an open
load of users who do not wait for one another.

What is checked of each stream: status 200, complete HTTP framing, exactly `EVENTS` events and
`[DONE]` (`--events any` leaves the count to gateways that rewrite events), and this request's own
nonce as the first content. Of every `--sample-every`th stream and of each connection's first, every
event is parsed and the text compared letter for letter. A stream that fails any check counts as an
error, not as a stream.

Prints one JSON object. CPU of `--watch-pid` process trees is read at the window's two ends.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import time
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import httptools
import psutil
import uvloop
from fast_upstream import EVENTS, NONCE, expected_content

_BODY_BYTES = 1000


class Target(NamedTuple):
    """A model and where it is asked for."""

    model: str
    host: str
    port: int


class Template(NamedTuple):
    """A request in two halves: the nonce goes between them."""

    before: bytes
    after: bytes


def request_body(model: str, nonce: str) -> bytes:
    """A chat request of about 1 kB, its keys in the order in which OpenAI's Python client sends."""
    body: dict[str, object] = {
        "messages": [
            {"role": "system", "content": "You are a terse assistant. Answer in plain words."},
            {"role": "user", "content": nonce},
        ],
        "model": model,
        "max_tokens": EVENTS,
        "stream": True,
        "temperature": 0.7,
        "top_p": 0.95,
        "user": "benchmark",
    }
    size = len(json.dumps(body, separators=(",", ":")))
    sentence = " Tell me how birds build their nests, and what they build them of."
    filler = (sentence * (_BODY_BYTES // len(sentence) + 1))[: max(0, _BODY_BYTES - size)]
    body["messages"][1]["content"] = nonce + filler  # type: ignore[index]
    return json.dumps(body, separators=(",", ":")).encode()


def template(target: Target) -> Template:
    """The request to `target` with a hole for the nonce."""
    nonce = NONCE.format(0).encode()
    body = request_body(target.model, nonce.decode())
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {target.host}:{target.port}\r\n"
        "accept: application/json\r\ncontent-type: application/json\r\n"
        "user-agent: aviary-benchmark\r\nauthorization: Bearer sk-benchmark\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    before, after = (head.encode() + body).split(nonce)
    return Template(before, after)


def content_of(payload: bytes) -> str:
    """The text of a whole event stream."""
    parts: list[str] = []
    for event in payload.decode().split("\n\n"):
        if not event.startswith("data: ") or event == "data: [DONE]":
            continue
        choices = json.loads(event[6:]).get("choices", ())
        parts.extend((choice.get("delta") or {}).get("content") or "" for choice in choices)
    return "".join(parts)


@dataclass
class Tally:
    """What one run has seen; reset when the measured window starts."""

    exact_events: bool
    sample_every: int
    streams: int = 0
    events: int = 0
    payload_bytes: int = 0
    reconnects: int = 0
    sampled: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    ttft_s: array[float] = field(default_factory=lambda: array("d"))
    latency_s: array[float] = field(default_factory=lambda: array("d"))

    def reset(self) -> None:
        """Forget the warm-up."""
        self.streams = self.events = self.payload_bytes = self.reconnects = self.sampled = 0
        self.errors.clear()
        self.ttft_s = array("d")
        self.latency_s = array("d")


class Connection(asyncio.Protocol):
    """One closed-loop client connection; opens itself again when it is lost."""

    def __init__(self, load: Load, targets: list[Target], first: int) -> None:
        self._load = load
        self._loop = asyncio.get_running_loop()
        self._address = (targets[0].host, targets[0].port)
        self._templates = [template(target) for target in targets]
        self._turn = first
        self._transport: asyncio.Transport | None = None
        self._busy = False
        self._checked_first = False
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    def open(self, delay_s: float = 0.0) -> None:
        """Connect and start sending."""
        self._task = self._loop.create_task(self._open(delay_s))

    async def _open(self, delay_s: float) -> None:
        while not self._load.finished:
            await asyncio.sleep(delay_s)
            try:
                await self._loop.create_connection(lambda: self, *self._address)
            except OSError as error:
                self._load.tally.errors[f"connect: {type(error).__name__}"] += 1
                delay_s = 0.1
            else:
                return

    def close(self) -> None:
        """End this connection without counting an error."""
        self._closing = True
        if self._task is not None:
            self._task.cancel()
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._closing or self._load.finished:
            return
        if self._busy:
            self._busy = False
            self._load.tally.errors["connection lost mid-stream"] += 1
        self._load.tally.reconnects += 1
        self.open(0.02)

    def _send(self) -> None:
        self._turn += 1
        before, after = self._templates[self._turn % len(self._templates)]
        self._nonce = NONCE.format(self._load.next_number()).encode()
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._first_content_s = 0.0
        self._complete = False
        self._busy = True
        self._sent_s = time.perf_counter()
        assert self._transport is not None
        self._transport.write(b"".join((before, self._nonce, after)))

    def data_received(self, data: bytes) -> None:
        self._now_s = time.perf_counter()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"framing: {error}")
            return
        if self._first_content_s == 0.0 and self._nonce in b"".join(self._parts[:8]):
            self._first_content_s = self._now_s
        if self._complete:
            self._finish()

    def eof_received(self) -> None:
        return None

    # httptools calls these.
    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        self._complete = True
        self._keep_alive = self._parser.should_keep_alive()  # only right in this call-back

    def _finish(self) -> None:
        self._busy = False
        load = self._load
        payload = b"".join(self._parts)
        reason = self._wrong(payload)
        if reason is None:
            tally = load.tally
            tally.streams += 1
            tally.payload_bytes += len(payload)
            tally.events += payload.count(b"data: ") - 1
            tally.ttft_s.append((self._first_content_s or self._now_s) - self._sent_s)
            tally.latency_s.append(self._now_s - self._sent_s)
            load.stream_done()
        else:
            self._fail(reason)
            return
        if load.finished:
            return
        if self._keep_alive:
            self._send()
        elif self._transport is not None:
            self._transport.close()

    def _wrong(self, payload: bytes) -> str | None:
        """Why this answer is not the right one, or None."""
        tally = self._load.tally
        status = self._parser.get_status_code()
        if status != 200:
            return f"status {status}: {payload[:160].decode(errors='replace')}"
        if not payload.endswith(b"data: [DONE]\n\n"):
            return f"no [DONE]: ends {payload[-60:]!r}"
        if self._nonce not in payload[:4096]:
            return "another request's answer (nonce missing)"
        events = payload.count(b"data: ") - 1
        if tally.exact_events and events != EVENTS:
            return f"{events} events instead of {EVENTS}"
        if self._checked_first and tally.streams % tally.sample_every:
            return None
        self._checked_first = True
        tally.sampled += 1
        if content_of(payload) != expected_content(self._nonce.decode()):
            return "text differs"
        return None

    def _fail(self, reason: str) -> None:
        """Count an error and start again on a new connection."""
        self._busy = False
        self._load.tally.errors[reason] += 1
        if self._transport is not None:
            self._transport.abort()


class CpuMeter:
    """CPU seconds of process trees, children included."""

    def __init__(self, root_pids: list[int]) -> None:
        self._roots = root_pids
        self._start: dict[int, float] = {}
        self._enumerate()

    def _enumerate(self) -> None:
        found: dict[int, psutil.Process] = {}
        for pid in self._roots:
            try:
                root = psutil.Process(pid)
                found.update({p.pid: p for p in (root, *root.children(recursive=True))})
            except psutil.NoSuchProcess:
                continue
        self._processes = found

    def _read(self) -> dict[int, float]:
        seconds = {}
        for pid, process in self._processes.items():
            try:
                times = process.cpu_times()
                seconds[pid] = times.user + times.system
            except psutil.NoSuchProcess:
                continue
        return seconds

    def start(self) -> None:
        """Begin to count."""
        self._start = self._read()

    def stop(self) -> float:
        """CPU seconds since `start`, of processes born since then too."""
        end = self._read()
        self._enumerate()
        end = {**end, **{k: v for k, v in self._read().items() if k not in end}}
        return sum(value - self._start.get(pid, 0.0) for pid, value in end.items())


def _machine_busy_s() -> float:
    """CPU seconds of all processes since boot, and what a hypervisor kept from this machine.

    Interrupts are left out: the kernel moves our own packets in them, and charges no process.
    """
    times = psutil.cpu_times()
    return times.user + times.nice + times.system + getattr(times, "steal", 0.0)


def percentile(values: array[float], fraction: float) -> float | None:
    """The nearest-rank percentile of `values`, in their own unit."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


class Load:
    """One run: warm-up, then a measured window."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self.tally = Tally(exact_events=args.events != "any", sample_every=args.sample_every)
        self.finished = False
        self._number = (os.getpid() % 1000) * 1_000_000
        self._enough = asyncio.Event()

    def next_number(self) -> int:
        """A number no other request of this run has."""
        self._number += 1
        return self._number

    def stream_done(self) -> None:
        """A stream came in: stop if a number of streams was asked for."""
        if self._args.streams and self.tally.streams >= self._args.streams:
            self._enough.set()

    async def run(self) -> dict[str, object]:
        """Drive the connections; the measured window's figures."""
        args = self._args
        by_address: dict[tuple[str, int], list[Target]] = {}
        for target in args.target:
            by_address.setdefault((target.host, target.port), []).append(target)
        groups = list(by_address.values())
        connections = [
            Connection(self, groups[i % len(groups)], i // len(groups))
            for i in range(args.connections)
        ]
        gateway, everything = CpuMeter(args.watch_pid), CpuMeter([*args.watch_pid, *args.own_pid])
        gc.collect()
        gc.freeze()
        gc.disable()
        for connection in connections:
            connection.open()
        if args.warm_up_seconds > 0:
            await asyncio.sleep(args.warm_up_seconds)
        self.tally.reset()
        busy_s, started_s = _machine_busy_s(), time.perf_counter()
        gateway.start()
        everything.start()
        own_start = time.process_time()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._enough.wait(), args.seconds)
        window_s = time.perf_counter() - started_s
        self.finished = True
        own_s = time.process_time() - own_start
        busy_s = _machine_busy_s() - busy_s
        everything_s, gateway_s = everything.stop(), gateway.stop()
        for connection in connections:
            connection.close()
        return self._figures(window_s, gateway_s, own_s, busy_s - everything_s - own_s)

    def _figures(
        self, window_s: float, gateway_s: float, own_s: float, others_s: float
    ) -> dict[str, object]:
        tally = self.tally

        def ms(values: array[float], fraction: float) -> float | None:
            seconds = percentile(values, fraction)
            return None if seconds is None else seconds * 1000

        watched = bool(self._args.watch_pid)
        return {
            "connections": self._args.connections,
            "window_s": window_s,
            "streams": tally.streams,
            "streams_per_s": tally.streams / window_s,
            "events_per_s": tally.events / window_s,
            "payload_bytes_per_stream": tally.payload_bytes / max(1, tally.streams),
            "ttft_p50_ms": ms(tally.ttft_s, 0.50),
            "ttft_p99_ms": ms(tally.ttft_s, 0.99),
            "latency_p50_ms": ms(tally.latency_s, 0.50),
            "latency_p99_ms": ms(tally.latency_s, 0.99),
            "cpu_ms_per_stream": gateway_s * 1000 / tally.streams
            if watched and tally.streams
            else None,
            "gateway_cpu_s": gateway_s if watched else None,
            "load_cpu_s": own_s,
            "other_cores_busy": max(0.0, others_s / window_s),
            "texts_checked": tally.sampled,
            "reconnects": tally.reconnects,
            "errors": dict(tally.errors.most_common(5)),
            "error_count": sum(tally.errors.values()),
        }


def parse_target(text: str) -> Target:
    """`MODEL=HOST:PORT`."""
    model, _, address = text.partition("=")
    host, _, port = address.rpartition(":")
    return Target(model, host, int(port))


def main() -> None:
    """Run one measured window and print its figures as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--target",
        type=parse_target,
        action="append",
        required=True,
        metavar="MODEL=HOST:PORT",
        help="repeatable; models at one address share its connections, turn by turn",
    )
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3.0, help="longest measured window")
    parser.add_argument("--warm-up-seconds", type=float, default=0.5)
    parser.add_argument("--streams", type=int, default=0, help="end the window after so many")
    parser.add_argument("--events", choices=("exact", "any"), default="exact")
    parser.add_argument("--sample-every", type=int, default=100)
    parser.add_argument("--watch-pid", type=int, action="append", default=[], help="the gateway")
    parser.add_argument("--own-pid", type=int, action="append", default=[], help="upstreams")
    args = parser.parse_args()

    async def run() -> dict[str, object]:
        return await Load(args).run()

    print(json.dumps(uvloop.run(run())))


if __name__ == "__main__":
    main()
