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
FLUSH_EVERY_S = 0.5

REQUESTS = Counter("aviary_requests_total", "Requests answered.", ["model", "route", "status"])
PROMPT_TOKENS = Counter(
    "aviary_prompt_tokens_total", "Prompt tokens, reported by engines.", ["model"]
)
COMPLETION_TOKENS = Counter(
    "aviary_completion_tokens_total", "Generated tokens, reported by engines.", ["model"]
)
COST = Counter("aviary_cost_usd_total", "Cost of answers in US dollars.", ["model"])
RETRIES = Counter("aviary_upstream_retries_total", "Requests sent to another replica.", ["model"])
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
    """The metrics of one model in this worker; children are looked up once."""

    __slots__ = (
        "completion_tokens",
        "cost",
        "held",
        "in_flight",
        "latency",
        "model",
        "overhead",
        "prompt_tokens",
        "requests",
        "retries",
        "ttft",
    )

    def __init__(self, model: str) -> None:
        self.model = model
        self.latency = LATENCY.labels(model)
        self.ttft = TTFT.labels(model)
        self.overhead = OVERHEAD.labels(model)
        self.prompt_tokens = PROMPT_TOKENS.labels(model)
        self.completion_tokens = COMPLETION_TOKENS.labels(model)
        self.cost = COST.labels(model)
        self.retries = RETRIES.labels(model)
        self.in_flight = IN_FLIGHT.labels(model)
        self.held = HELD.labels(model)
        self.requests: dict[tuple[str, int], Counter] = {}

    def count_request(self, route: str, status: int) -> None:
        """Count an answered request."""
        counter = self.requests.get((route, status))
        if counter is None:
            counter = REQUESTS.labels(self.model, route, str(status))
            self.requests[route, status] = counter
        counter.inc()


def render(extra: CollectorRegistry | None = None) -> bytes:
    """The text of `/metrics` for all workers.

    Blocking (it reads every worker's file): call it in a thread.
    """
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        text = generate_latest(registry)
    else:
        text = generate_latest()
    return text + (generate_latest(extra) if extra is not None else b"")
