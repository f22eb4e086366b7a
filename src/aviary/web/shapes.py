"""What `/api` takes and answers, as pydantic models: the source of `/openapi.json`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from aviary.core.states import ModelState, ModelView, ReplicaState, ReplicaView


class Replica(BaseModel):
    """One replica."""

    id: str
    state: ReplicaState
    detail: str
    progress: float | None
    host: str
    port: int
    pid: int
    node: str
    since: float = Field(description="Unix time in seconds of the last change of state.")
    restarts: int

    @classmethod
    def of(cls, view: ReplicaView) -> Replica:
        """From the fleet's view."""
        return cls(
            id=view.id,
            state=view.state,
            detail=view.detail,
            progress=view.progress,
            host=view.host,
            port=view.port,
            pid=view.pid,
            node=view.node,
            since=view.since,
            restarts=view.restarts,
        )


class Totals(BaseModel):
    """What a model has served, by the request log."""

    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0


class Model(BaseModel):
    """One model."""

    id: str
    state: ModelState
    spec_hash: str
    description: str
    tags: list[str]
    engine: str
    context_length: int
    slots: int
    desired_replicas: int
    replicas: list[Replica]
    running: int = Field(description="Sequences being generated now, all replicas together.")
    waiting: int = Field(description="Requests that wait for a slot.")
    totals: Totals

    @classmethod
    def of(cls, view: ModelView, load: tuple[int, int], totals: Totals) -> Model:
        """From the fleet's view, the replicas' load (running, waiting) and the log's totals."""
        return cls(
            id=view.id,
            state=view.state,
            spec_hash=view.spec_hash,
            description=view.description,
            tags=list(view.tags),
            engine=view.engine,
            context_length=view.context_length,
            slots=view.slots,
            desired_replicas=view.desired_replicas,
            replicas=[Replica.of(replica) for replica in view.replicas],
            running=load[0],
            waiting=load[1],
            totals=totals,
        )


class ModelDetail(Model):
    """One model with its spec."""

    spec: dict[str, Any] | None = Field(description="For administrators; else null.")


class Models(BaseModel):
    """All models."""

    models: list[Model]


class Applied(BaseModel):
    """What became of a spec."""

    model: str
    action: Literal["added", "updated", "unchanged", "stopped"]


class Counts(BaseModel):
    """How many models are in which state."""

    ready: int = 0
    starting: int = 0
    failed: int = 0
    stopped: int = 0


class RequestCounts(BaseModel):
    """Requests by the log."""

    total: int
    errors: int
    dropped_log_records: int


class Status(BaseModel):
    """This Aviary at a glance."""

    version: str
    backend: str
    url: str
    uptime_s: float
    workers: int
    generation: int
    models: Counts
    requests: RequestCounts


class LogLines(BaseModel):
    """The last lines of a model's log."""

    lines: list[str]


class NewKey(BaseModel):
    """A key to make."""

    name: str = Field(min_length=1, max_length=100)
    role: Literal["admin", "user"] = "user"


class Key(BaseModel):
    """A key, without its secret."""

    id: str
    name: str
    role: str
    created: float
    revoked: float | None = None


class CreatedKey(Key):
    """A new key; the secret is shown this once."""

    secret: str


class Keys(BaseModel):
    """All keys."""

    keys: list[Key]
