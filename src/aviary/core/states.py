"""States of replicas and models, and the snapshot that the control plane publishes.

A replica's states::

       ┌──────── wakes ────────┐
       ▼                       │
    starting ──► ready ──► sleeping     any of these ──► stopping ──► stopped
       │           │           │
       └───────────┴───────────┴──► failed

Failed: died, did not start, fell silent, could not sleep or wake; the backend replaces it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

UNPLACEABLE = "unplaceable"
"""How the detail of a replica begins that waits for resources nobody has."""


class ReplicaState(enum.StrEnum):
    """Where a replica is in its life."""

    STARTING = "starting"
    READY = "ready"
    SLEEPING = "sleeping"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


class ModelState(enum.StrEnum):
    """What a client may expect of a model, derived from its replicas."""

    READY = "ready"
    STARTING = "starting"
    SLEEPING = "sleeping"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """One replica as the gateway sees it.

    Attributes:
        id: Unique among all replicas that ever ran (`model-id/ab12cd`).
        host: Address on which the replica's HTTP server listens; empty until known.
        port: Its port; 0 until known.
        socket: Path of the Unix socket on which it listens instead; empty until known.
        prefix: Path before the replica's own routes; empty, or begins with `/`.
        state: Where it is in its life.
        detail: Progress or the cause of a failure, in words.
        progress: Done fraction of a start, when known.
        pid: Process id on its node, 0 when unknown.
        node: The machine it runs on.
        since: Unix time in seconds of the last change of state.
        restarts: How often this replica's place had to be filled again.
        spec_hash: Hash of the spec it serves.
    """

    id: str
    host: str = ""
    port: int = 0
    prefix: str = ""
    state: ReplicaState = ReplicaState.STARTING
    detail: str = ""
    progress: float | None = None
    pid: int = 0
    node: str = ""
    since: float = 0.0
    restarts: int = 0
    spec_hash: str = ""
    socket: str = ""

    @property
    def reachable(self) -> bool:
        """Whether it is known where it listens."""
        return bool(self.port or self.socket)


@dataclass(frozen=True, slots=True)
class ModelView:
    """One model as gateway, API and CLI see it.

    Attributes:
        id: The name that clients ask for.
        spec_hash: First 12 hex digits of the spec's SHA-256.
        description: One line for people.
        tags: Free words for filtering.
        engine: Kind of the engine (`llamacpp`, `fake`, …).
        context_length: Tokens a request may use, prompt and output together.
        slots: Sequences one replica generates at the same time.
        queue: Requests that may wait, per replica.
        wait_s: Longest time in seconds a request may wait for a slot or a replica.
        timeout_s: Longest silence of the engine in seconds.
        usd_per_hour: Price of one replica-hour in US dollars, when priced by time.
        usd_per_million_input_tokens: Token price, when priced by tokens.
        usd_per_million_output_tokens: Token price, when priced by tokens.
        created: Unix time in seconds at which the model was first declared here.
        replicas: Its replicas, those that failed for good included.
        desired_replicas: How many the fleet wants.
        asleep: The fleet lets it rest; a request wakes it.
        continue_streams: Whether an answer whose replica died goes on at another.
        wake_s: How long past wakes took, in seconds, when known.
        detail: What an operator should know beyond the state, in words.
    """

    id: str
    spec_hash: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()
    engine: str = ""
    context_length: int = 0
    slots: int = 1
    queue: int = 64
    wait_s: float = 60.0
    timeout_s: float = 600.0
    usd_per_hour: float | None = None
    usd_per_million_input_tokens: float | None = None
    usd_per_million_output_tokens: float | None = None
    created: float = 0.0
    replicas: tuple[ReplicaView, ...] = ()
    desired_replicas: int = 1
    asleep: bool = False
    continue_streams: bool = True
    wake_s: float | None = None
    detail: str = ""

    @property
    def state(self) -> ModelState:
        """Ready if any replica is; else sleeping, starting, failed or stopped."""
        states = {replica.state for replica in self.replicas}
        if self.asleep:
            return ModelState.SLEEPING
        if ReplicaState.READY in states:
            return ModelState.READY
        if ReplicaState.STARTING in states or ReplicaState.SLEEPING in states:
            return ModelState.STARTING
        if ReplicaState.FAILED in states:
            return ModelState.FAILED
        return ModelState.STARTING if self.desired_replicas > 0 else ModelState.STOPPED


@dataclass(frozen=True, slots=True)
class KeyView:
    """An API key as gateway workers need it: never the secret, only its hash.

    Attributes:
        id: Public name of the key (`ak_…`), safe to log.
        hash: SHA-256 of the secret, hex.
        role: `admin` or `user`.
    """

    id: str
    hash: str
    role: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All a gateway worker needs to know, published by the control plane on every change.

    Attributes:
        generation: Grows by one with every change.
        models: The models, in order of declaration.
        keys: Keys that are valid now; empty means that no key is needed.
        workers: How many gateway workers are alive.
        visitors: Whether people without a key may compare and vote while keys are needed.
    """

    generation: int = 0
    models: tuple[ModelView, ...] = ()
    keys: tuple[KeyView, ...] = ()
    workers: int = 0
    visitors: bool = False


@dataclass(frozen=True, slots=True)
class EngineStats:
    """An engine's load at this moment.

    Attributes:
        running: Sequences that generate.
        waiting: Requests that wait inside the engine.
        prompt_tokens: Prompt tokens processed since the start.
        completion_tokens: Tokens generated since the start.
        detail: More figures, engine-specific, for people.
    """

    running: int = 0
    waiting: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    detail: dict[str, float] = field(default_factory=dict)
