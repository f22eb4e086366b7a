"""What `/api/traffic` answers."""

from __future__ import annotations

from dataclasses import asdict
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from aviary.core.ports import ReplicaCount
from aviary.core.traffic import Lengths, Range, Traffic


class TrafficFigures(BaseModel):
    """What some requests add up to; null where there is nothing to tell from."""

    requests: int
    errors: int
    users: int = Field(description="Different keys, and addresses that sent none.")
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    ttft_p50_ms: float | None
    ttft_p95_ms: float | None
    ttft_p99_ms: float | None
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    latency_p99_ms: float | None


class TrafficPoint(TrafficFigures):
    """One step."""

    t: int = Field(description="When it begins, in unix seconds.")
    peak_rps: int = Field(description="Most requests that began within one second.")


class TrafficModel(TrafficFigures):
    """One model."""

    model: str


class _Span(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    first: int = Field(alias="from")


class LengthCount(_Span):
    """How many have a number of tokens from `from` to `to`."""

    to: int
    count: int

    @classmethod
    def of(cls, lengths: Lengths) -> Self:
        """From the store's."""
        return cls(first=lengths.first, to=lengths.last, count=lengths.count)


class ReplicaPoint(BaseModel):
    """How many replicas there were from a moment on."""

    t: float
    ready: int
    starting: int
    sleeping: int
    desired: int
    reason: str = Field(description="Why it changed, in words.")

    @classmethod
    def of(cls, count: ReplicaCount) -> Self:
        """From the store's."""
        return cls(
            t=count.time,
            ready=count.ready,
            starting=count.starting,
            sleeping=count.sleeping,
            desired=count.desired,
            reason=count.reason,
        )


class ReplicaHistory(BaseModel):
    """A model's replicas over time: what held at the beginning, then each change."""

    model: str
    points: list[ReplicaPoint]


class TrafficAnswer(_Span):
    """Traffic of a range of time that ends now."""

    range: Range
    to: int
    step_s: int
    totals: TrafficFigures
    points: list[TrafficPoint] = Field(description="One for each step; none is missing.")
    prompt_lengths: list[LengthCount]
    completion_lengths: list[LengthCount]
    models: list[TrafficModel] = Field(description="The busiest first.")
    replicas: list[ReplicaHistory]
    pending: int = Field(description="Logged requests in none of this: the roll-up is behind.")

    @classmethod
    def of(cls, shown: Range, traffic: Traffic) -> Self:
        """From the store's."""
        return cls(
            range=shown,
            first=traffic.start,
            to=traffic.end,
            step_s=traffic.step_s,
            totals=TrafficFigures(**asdict(traffic.totals)),
            points=[TrafficPoint(**asdict(point)) for point in traffic.points],
            prompt_lengths=[LengthCount.of(lengths) for lengths in traffic.prompt_lengths],
            completion_lengths=[LengthCount.of(lengths) for lengths in traffic.completion_lengths],
            models=[TrafficModel(**asdict(figures)) for figures in traffic.models],
            replicas=[
                ReplicaHistory(model=model, points=[ReplicaPoint.of(count) for count in counts])
                for model, counts in traffic.replicas.items()
            ],
            pending=traffic.pending,
        )
