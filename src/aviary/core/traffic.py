"""What `/api/traffic` tells: requests of a range of time, by steps and by models."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from aviary.core.ports import ReplicaCount

Range = Literal["5m", "1h", "24h", "7d", "30d"]
"""How far back from now."""


@dataclass(slots=True)
class Figures:
    """What some requests add up to; `None` where there is nothing to tell from.

    Attributes:
        requests: How many.
        errors: Those of them that failed.
        users: Different API keys, and addresses that sent none; about, above a few.
        prompt_tokens: As the engines reported.
        completion_tokens: Likewise.
        cost_usd: Of those with a price.
        ttft_p50_ms: Median time to the first token, of answers without error.
        ttft_p95_ms: 95th percentile.
        ttft_p99_ms: 99th percentile.
        latency_p50_ms: Median latency, of answers without error.
        latency_p95_ms: 95th percentile.
        latency_p99_ms: 99th percentile.
    """

    requests: int = 0
    errors: int = 0
    users: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    ttft_p50_ms: float | None = None
    ttft_p95_ms: float | None = None
    ttft_p99_ms: float | None = None
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    latency_p99_ms: float | None = None


@dataclass(slots=True)
class Point(Figures):
    """One step.

    Attributes:
        t: When it begins, in unix seconds.
        peak_rps: Most requests that began within one second.
    """

    t: int = 0
    peak_rps: int = 0


@dataclass(slots=True)
class ModelFigures(Figures):
    """One model.

    Attributes:
        model: Its name.
    """

    model: str = ""


@dataclass(frozen=True, slots=True)
class Lengths:
    """How many prompts or answers have from `first` to `last` tokens."""

    first: int
    last: int
    count: int


@dataclass(slots=True)
class Traffic:
    """The answer.

    Attributes:
        start: Begin of the first point, in unix seconds.
        end: End of the last.
        step_s: Seconds from one point to the next.
        totals: All of it.
        points: One for each step, oldest first; none is missing.
        prompt_lengths: How long prompts are.
        completion_lengths: How long answers are.
        models: Per model, the busiest first.
        replicas: Per model: its replicas at the beginning, then each change.
        pending: Records of the log that are in none of this, since the roll-up is behind.
    """

    start: int
    end: int
    step_s: int
    totals: Figures
    points: list[Point]
    prompt_lengths: list[Lengths] = field(default_factory=list)
    completion_lengths: list[Lengths] = field(default_factory=list)
    models: list[ModelFigures] = field(default_factory=list)
    replicas: dict[str, list[ReplicaCount]] = field(default_factory=dict)
    pending: int = 0
