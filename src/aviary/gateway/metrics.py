"""Prometheus metrics of the gateway, summed over all workers.

prometheus-client's multi-process mode keeps each worker's numbers in files of a shared folder
(`PROMETHEUS_MULTIPROC_DIR`), so any worker can answer `/metrics` for all, and a killed worker's
counts are not lost. The folder must be in the environment before this module is imported.
"""

from __future__ import annotations

import os

import prometheus_client.values
from prometheus_client import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

__all__ = ["CONTENT_TYPE", "Metrics", "render"]

if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
    # By default every change of every metric asks the kernel for the process id, in case of a fork.
    # Workers do not fork.
    _pid = os.getpid()
    prometheus_client.values.ValueClass = prometheus_client.values.MultiProcessValue(  # type: ignore[no-untyped-call]
        process_identifier=lambda: _pid
    )

LATENCY_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
TTFT_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
OVERHEAD_BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1, 1, 10, 60)

REQUESTS = Counter("aviary_requests_total", "Requests answered.", ["model", "route", "status"])
PROMPT_TOKENS = Counter(
    "aviary_prompt_tokens_total", "Prompt tokens, reported by engines.", ["model"]
)
COMPLETION_TOKENS = Counter(
    "aviary_completion_tokens_total", "Generated tokens, reported by engines.", ["model"]
)
COST = Counter("aviary_cost_usd_total", "Cost of answers in US dollars.", ["model"])
RETRIES = Counter("aviary_upstream_retries_total", "Requests sent to another replica.", ["model"])
CONTINUED = Counter(
    "aviary_streams_continued_total",
    "Streams that went on at another replica after theirs had died.",
    ["model"],
)
LATENCY = Histogram(
    "aviary_request_duration_seconds",
    "Request received to last byte.",
    ["model"],
    buckets=LATENCY_BUCKETS_S,
)
TTFT = Histogram(
    "aviary_time_to_first_token_seconds",
    "Request received to first token, by the gateway's clock.",
    ["model"],
    buckets=TTFT_BUCKETS_S,
)
OVERHEAD = Histogram(
    "aviary_gateway_overhead_seconds",
    "Request received to request sent to the replica.",
    ["model"],
    buckets=OVERHEAD_BUCKETS_S,
)
IN_FLIGHT = Gauge(
    "aviary_requests_in_flight",
    "Requests being served.",
    ["model"],
    multiprocess_mode="livesum",
)
HELD = Gauge(
    "aviary_requests_held",
    "Requests that wait for a replica to become ready.",
    ["model"],
    multiprocess_mode="livesum",
)
DROPPED = Gauge(
    "aviary_request_log_dropped_records",
    "Request log records lost (disk full, database away).",
    multiprocess_mode="livesum",
)


class Metrics:
    """One model's figures in this worker.

    Counters and gauges are plain numbers here, and are handed to Prometheus by `flush`, twice a
    second and before `/metrics` is answered: each change there costs microseconds.

    Attributes:
        in_flight: Requests being served now.
        held: Requests that wait for a replica to become ready now.
        served: Requests answered, ever.
        retries: Requests sent to another replica since the last flush.
        continued: Streams taken up by another replica since the last flush.
        prompt_tokens: Since the last flush.
        completion_tokens: Likewise.
        cost_usd: Likewise.
    """

    __slots__ = (
        "_latency",
        "_model",
        "_overhead",
        "_requests",
        "_ttft",
        "completion_tokens",
        "continued",
        "cost_usd",
        "held",
        "in_flight",
        "prompt_tokens",
        "retries",
        "served",
    )

    def __init__(self, model: str) -> None:
        self._model = model
        self._latency = LATENCY.labels(model)
        self._ttft = TTFT.labels(model)
        self._overhead = OVERHEAD.labels(model)
        self._requests: dict[tuple[str, int], int] = {}
        self.in_flight = 0
        self.held = 0
        self.served = 0
        self.retries = 0
        self.continued = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.cost_usd = 0.0

    def finished(
        self,
        route: str,
        status: int,
        *,
        latency_s: float,
        time_to_first_token_s: float | None,
        overhead_s: float | None,
    ) -> None:
        """Count an answered request."""
        self.served += 1
        key = (route, status)
        self._requests[key] = self._requests.get(key, 0) + 1
        self._latency.observe(latency_s)
        if overhead_s is not None:
            self._overhead.observe(overhead_s)
        if time_to_first_token_s is not None:
            self._ttft.observe(time_to_first_token_s)

    def flush(self) -> None:
        """Hand everything to Prometheus."""
        model = self._model
        requests, self._requests = self._requests, {}
        for (route, status), count in requests.items():
            REQUESTS.labels(model, route, str(status)).inc(count)
        IN_FLIGHT.labels(model).set(self.in_flight)
        HELD.labels(model).set(self.held)
        RETRIES.labels(model).inc(self.retries)
        CONTINUED.labels(model).inc(self.continued)
        PROMPT_TOKENS.labels(model).inc(self.prompt_tokens)
        COMPLETION_TOKENS.labels(model).inc(self.completion_tokens)
        COST.labels(model).inc(self.cost_usd)
        self.retries = self.continued = self.prompt_tokens = self.completion_tokens = 0
        self.cost_usd = 0.0


def render() -> bytes:
    """The text of `/metrics` for all workers.

    Blocking (it reads every worker's file): call it in a thread.
    """
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
    return generate_latest()
