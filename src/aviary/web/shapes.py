"""What `/api` takes and answers, as pydantic models: the source of `/openapi.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field

from aviary.core.states import ModelState, ModelView, ReplicaState, ReplicaView
from aviary.fleet.desired import OutcomeState
from aviary.fleet.load import Load


class Me(BaseModel):
    """Who asks."""

    role: Literal["admin", "user", "visitor"]
    keys: bool = Field(description="Whether there are API keys; without any, everybody is admin.")
    visitors: bool = Field(description="Whether one may compare and vote without a key.")


class Replica(BaseModel):
    """One replica."""

    id: str
    state: ReplicaState
    detail: str
    progress: float | None
    host: str
    port: int
    socket: str = Field(description="Of a replica on this machine, instead of host and port.")
    pid: int
    node: str
    since: float = Field(description="Unix time in seconds of the last change of state.")
    restarts: int
    spec_hash: str = Field(description="Hash of the spec it serves.")
    running: int = Field(description="Sequences it generates now.")
    waiting: int = Field(description="Requests that wait in it for a slot.")
    memory_bytes: int | None = Field(description="What its process takes; null when unknown.")
    tokens_per_s: float | None = Field(
        description="Tokens it generated a second, over the last 10 s; null when unknown."
    )

    @classmethod
    def of(cls, view: ReplicaView, load: Load | None, *, causes: bool) -> Replica:
        """From the fleet's view and its own words.

        Why it failed, and where in the operator's machines it runs, only with `causes`.
        """
        load = load or Load()
        hidden = view.state is ReplicaState.FAILED and not causes
        return cls(
            id=view.id,
            state=view.state,
            detail="" if hidden else view.detail,
            progress=view.progress,
            host=view.host if causes else "",
            port=view.port if causes else 0,
            socket=view.socket if causes else "",
            pid=view.pid if causes else 0,
            node=view.node if causes else "",
            since=view.since,
            restarts=view.restarts,
            spec_hash=view.spec_hash,
            running=load.running,
            waiting=load.waiting,
            memory_bytes=load.memory_bytes,
            tokens_per_s=load.tokens_per_s,
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
    detail: str = Field(description="What an operator should know beyond the state.")
    asleep: bool = Field(description="It rests; a request wakes it.")
    wake_s: float | None = Field(description="How long past wakes took, in seconds.")
    description: str
    tags: list[str]
    engine: str
    context_length: int
    slots: int
    desired_replicas: int
    replicas: list[Replica]
    running: int = Field(description="Sequences being generated now, all replicas together.")
    waiting: int = Field(description="Requests that wait for a slot.")
    memory_bytes: int | None = Field(
        description="What its replicas take together; null when none of them says."
    )
    tokens_per_s: float | None = Field(
        description="Tokens generated a second, over the last 10 s; null when no replica says."
    )
    totals: Totals

    @classmethod
    def of(
        cls, view: ModelView, loads: Mapping[str, Load], totals: Totals, *, causes: bool
    ) -> Model:
        """From the fleet's view, the replicas' loads by id and the log's totals.

        Why something failed is told only with `causes`.
        """
        replicas = [
            Replica.of(replica, loads.get(replica.id), causes=causes) for replica in view.replicas
        ]
        sizes = [r.memory_bytes for r in replicas if r.memory_bytes is not None]
        rates = [r.tokens_per_s for r in replicas if r.tokens_per_s is not None]
        return cls(
            id=view.id,
            state=view.state,
            spec_hash=view.spec_hash,
            detail=view.detail if causes else "",
            asleep=view.asleep,
            wake_s=view.wake_s,
            description=view.description,
            tags=list(view.tags),
            engine=view.engine,
            context_length=view.context_length,
            slots=view.slots,
            desired_replicas=view.desired_replicas,
            replicas=replicas,
            running=sum(replica.running for replica in replicas),
            waiting=sum(replica.waiting for replica in replicas),
            memory_bytes=sum(sizes) if sizes or not replicas else None,
            tokens_per_s=sum(rates) if rates or not replicas else None,
            totals=totals,
        )


class ModelDetail(Model):
    """One model with its spec."""

    spec: dict[str, Any] | None = Field(description="For administrators; else null.")
    text: str | None = Field(
        description="The spec as YAML, as far as it differs from the defaults, for administrators; "
        "`/api/specs/apply` takes it."
    )


class Models(BaseModel):
    """All models."""

    models: list[Model]


class Live(Models):
    """All models at a moment."""

    time: float = Field(description="Unix time in seconds.")


class SpecText(BaseModel):
    """A spec as people write it."""

    text: str = Field(description="YAML or JSON.")


class SpecProblem(BaseModel):
    """One thing that is wrong with a spec."""

    message: str
    line: int | None = Field(description="From 1; null when it is about the whole.")
    column: int | None = Field(description="From 1.")
    field: str | None = Field(description="Its path: `scaling.schedule[0].cron`.")


class SpecSource(BaseModel):
    """Where weights are."""

    source: str = Field(
        min_length=1, max_length=2048, description="A pypi:, file:, http(s): or hf: address."
    )


class Scale(BaseModel):
    """How many replicas a model shall have."""

    replicas: int = Field(
        ge=0, le=1000, description="0: none while nobody asks; a request starts one."
    )


class Ordered(BaseModel):
    """What became of an order."""

    model: str
    action: Literal["sleeps", "wakes", "unchanged"] = Field(
        description="What begins now, or as soon as it can; `unchanged`: it is so already."
    )


class Applied(BaseModel):
    """What became of a spec."""

    model: str
    action: Literal["added", "changed", "unchanged", "stopped", "pruned", "kept"]
    apply: str | None = Field(description="Follow it at `/api/apply/{apply}`.")


class FieldChange(BaseModel):
    """One field of a spec that differs; null: not given."""

    field: str
    before: Any
    after: Any


class Change(BaseModel):
    """What an apply does to one model."""

    model: str
    action: Literal["added", "changed", "unchanged", "pruned", "kept"]
    restarts: bool = Field(description="Whether its replicas are replaced.")
    fields: list[FieldChange]


class Preview(BaseModel):
    """What a spec would change, or what is wrong with it."""

    spec: dict[str, Any] | None = Field(description="Null when anything is wrong.")
    model: str | None = Field(description="Its id, when it can be read.")
    changes: list[Change]
    errors: list[SpecProblem]


class Applying(BaseModel):
    """What an apply changes."""

    id: str | None = Field(description="Follow it at `/api/apply/{id}`; null for a dry run.")
    changes: list[Change]


class Outcome(BaseModel):
    """What became of one model of an apply."""

    model: str
    state: OutcomeState
    detail: str
    log: list[str] = Field(description="The engine's last lines, when it failed.")


class Application(BaseModel):
    """What became of an apply."""

    id: str
    done: bool
    models: list[Outcome]


class FleetEvent(BaseModel):
    """One thing that happened."""

    seq: int
    time: float = Field(description="Unix time in seconds.")
    model: str
    kind: str
    replica: str
    detail: str
    changed_by: str


class Events(BaseModel):
    """What happened, oldest first."""

    events: list[FleetEvent]


class Counts(BaseModel):
    """How many models are in which state."""

    ready: int = 0
    starting: int = 0
    sleeping: int = 0
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
    dropped_events: int = Field(description="Events that could not be kept.")


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
