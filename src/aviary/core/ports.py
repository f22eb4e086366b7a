"""Seams: the Protocols that rooms implement and other rooms call.

Every implementation of one of these passes the one contract suite for it in `tests/contract`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from aviary.core.states import EngineStats, ReplicaView

Progress = Callable[[str, float | None], None]
"""Called with a short text and the done fraction 0…1 (`None` when unknown); must not block."""

Headers = Sequence[tuple[bytes, bytes]]
"""HTTP header names (lower case) and values, as ASGI has them."""


class ByteStream(Protocol):
    """Bytes as they come. Whoever holds one must `aclose` it: that frees what is behind it."""

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> bytes: ...

    async def aclose(self) -> None:
        """End the stream; before its end this cancels. May be called twice."""


READINESS = "readiness"
"""Request id of the generation by which a replica proves that it works."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """What a client already has of a streamed answer whose replica died.

    The engine streams only what comes after it, without a role. All else is about the whole
    answer: `max_tokens`, stop strings, and the usage it reports.

    Attributes:
        pieces: The text, in the pieces in which the first engine sent it: mostly a token each.
        finish: The finish reason, when the client has that too: only usage and the end are wanted.
    """

    pieces: tuple[str, ...] = ()
    finish: str | None = None

    @property
    def text(self) -> str:
        """The pieces, joined."""
        return "".join(self.pieces)


@dataclass(slots=True)
class EngineRequest:
    """One generation asked of an engine.

    Attributes:
        path: OpenAI route, for example `/v1/chat/completions`.
        body: The decoded JSON body, with defaults and limits already applied.
        request_id: For logs and traces.
        continuation: Given when an answer is to be continued, which is always a streamed one.
    """

    path: str
    body: dict[str, Any]
    request_id: str = ""
    continuation: Continuation | None = None


@dataclass(slots=True)
class EngineResponse:
    """The engine's answer: status, headers and the body as it comes.

    The body yields bytes as the engine produces them: for a streamed answer whole server-sent
    events, for any other one JSON document. An empty piece is a sign of life: the engine works, on
    a long prompt or on a document that comes at its end. Closing the body cancels the generation.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    body: ByteStream


class Engine(Protocol):
    """What generates tokens. One engine lives in one replica."""

    async def start(self, progress: Progress) -> None:
        """Load the model; returns when generation is possible. Raises `StartFailed`."""

    async def generate(self, request: EngineRequest) -> EngineResponse:
        """Begin one generation; raises `InvalidRequest`, `PromptTooLong` or `EngineError`."""

    def stats(self) -> EngineStats:
        """The present load; cheap, never blocks."""

    async def healthy(self) -> None:
        """Returns when the engine answers a cheap probe; raises `EngineError` when it cannot."""

    async def sleep(self) -> None:
        """Free what can be had again quickly: weights, KV cache. Only while nothing runs."""

    async def wake(self, progress: Progress) -> None:
        """Undo `sleep`; returns when generation is possible. Raises `StartFailed`."""

    async def stop(self) -> None:
        """Free all that the engine holds; running generations end. May be called twice."""


class Backend(Protocol):
    """What runs replicas: child processes on this machine, or Ray Serve on many."""

    async def start(self) -> None:
        """Get ready to run replicas; raises `StartFailed`."""

    def check(self, spec: Any, replicas: int) -> None:
        """Raises `NotAvailable` or `DoesNotFit` for what could never run here."""

    async def deploy(self, spec: Any, replicas: int) -> None:
        """Run `replicas` replicas of the spec, which may be none; returns at once.

        Replicas of another version of the model leave once the new ones are ready.
        """

    async def scale(self, model: str, replicas: int) -> None:
        """Change the number of replicas without restarting any that stay."""

    async def remove(self, model: str) -> None:
        """Drain and stop all replicas of the model; returns when they are gone."""

    def replicas(self, model: str) -> tuple[ReplicaView, ...]:
        """The model's replicas as known now."""

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call `changed` (from the event loop) after each change of any replica's view."""

    def logs(self, model: str, lines: int) -> list[str]:
        """The last log lines of the model's replicas, oldest first."""

    def follow_logs(self, model: str, lines: int) -> AsyncGenerator[str, None]:
        """The last log lines, then each new one as it comes."""

    async def stop(self) -> None:
        """Stop everything this backend started; nothing is left behind."""


class WeightSource(Protocol):
    """Turns one kind of URI into a local file."""

    def fetch(self, uri: str, target: Path, progress: Progress) -> None:
        """Write the file's bytes to `target`, resuming what is there; raises `WeightsError`.

        Blocking: call it in a thread.
        """


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One served request, as the request log keeps it.

    Times are unix seconds, durations milliseconds, money US dollars.

    Attributes:
        id: Request id, as in the `x-request-id` header.
        time: When the gateway received it.
        route: OpenAI route.
        model: The name the client asked for.
        replica: The replica that answered; empty when none did.
        key: Id of the API key; empty when none was needed.
        status: HTTP status sent to the client; 499 when the client left first.
        error: Code of the error; empty when there was none.
        stream: Whether the answer was streamed.
        time_to_first_token_ms: By the gateway's clock; `None` when no token came.
        latency_ms: Received → last byte.
        overhead_ms: Received → upstream request sent.
        prompt_tokens: As reported by the engine; `None` when it did not.
        completion_tokens: Likewise.
        cost_usd: `None` when the spec has no price.
        client: Of a request without key: a hash that stands for its sender's address, as long as
            this Aviary runs; else empty.
    """

    id: str
    time: float
    route: str
    model: str
    replica: str = ""
    key: str = ""
    status: int = 200
    error: str = ""
    stream: bool = False
    time_to_first_token_ms: float | None = None
    latency_ms: float = 0.0
    overhead_ms: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost_usd: float | None = None
    client: str = ""


@dataclass(frozen=True, slots=True)
class ReplicaCount:
    """How many replicas a model has, from a moment on.

    Attributes:
        time: Since when, in unix seconds.
        model: The model.
        ready: Replicas that answer.
        starting: Replicas that load or wake.
        sleeping: Replicas that sleep.
        desired: Replicas that there shall be.
        reason: Why it is different from before, in words.
    """

    time: float
    model: str
    ready: int
    starting: int
    sleeping: int
    desired: int
    reason: str


class RequestLog(Protocol):
    """Keeps request records. Never called on the hot path: writers put records in a queue."""

    def append(self, records: Sequence[RequestRecord]) -> None:
        """Store a batch; raises `StoreError`."""

    def recent(self, limit: int, model: str | None = None) -> list[RequestRecord]:
        """The newest records first."""

    def totals(self) -> Mapping[str, Mapping[str, float]]:
        """Per model: `requests`, `errors`, `prompt_tokens`, `completion_tokens`, `cost_usd`."""


@dataclass(frozen=True, slots=True)
class StoredDeployment:
    """A model that there shall be, as the store keeps it. Times are unix seconds.

    Attributes:
        model: The spec's id.
        position: Its place in the order of declaration.
        spec: The spec, as JSON has it.
        previous: The spec to go back to while a new version rolls out; `None` when none does.
        created: When the model was first declared.
        changed: When this was last changed.
        changed_by: Who changed it: id of an API key, or a word for what did.
        memory_bytes: Memory that a replica was measured to take; `None` while unknown.
        wake_s: How long it took to wake, in seconds; `None` while unknown.
    """

    model: str
    position: int
    spec: dict[str, Any]
    previous: dict[str, Any] | None = None
    created: float = 0.0
    changed: float = 0.0
    changed_by: str = ""
    memory_bytes: int | None = None
    wake_s: float | None = None


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """Something that happened to the fleet.

    Attributes:
        time: When, in unix seconds.
        model: The model it happened to; empty when to none in particular.
        kind: What happened, in a word (`added`, `ready`, `crashed`, …).
        replica: The replica it happened to; empty when to none in particular.
        detail: More of it, and why, in words.
        changed_by: Who asked for it: id of an API key, or a word for what did.
        seq: Its number, given by the store; later events have higher ones.
    """

    time: float
    model: str
    kind: str
    replica: str = ""
    detail: str = ""
    changed_by: str = ""
    seq: int = 0


class FleetStore(Protocol):
    """Keeps which models there shall be, and what happened. Blocking: call it in a thread.

    Every method may raise `StoreError`.
    """

    def deployments(self) -> list[StoredDeployment]:
        """What there shall be, in order of declaration."""

    def save(
        self,
        put: Sequence[StoredDeployment],
        delete: Sequence[str],
        events: Sequence[StoredEvent],
    ) -> None:
        """Add or replace, delete, and note events: all or nothing, durable when this returns."""

    def measured(
        self, model: str, memory_bytes: int | None = None, wake_s: float | None = None
    ) -> None:
        """Note what was measured of a model that is stored; `None` changes nothing."""

    def ever_saved(self) -> bool:
        """Whether `save` was ever called: a fleet that was emptied on purpose is not a new one."""

    def append_events(self, events: Sequence[StoredEvent]) -> None:
        """Note events, all of them or none."""

    def events(self, limit: int, model: str | None = None, after_seq: int = 0) -> list[StoredEvent]:
        """The newest `limit` of the events after a number, the oldest of them first."""

    def prune_events(self, keep: int) -> int:
        """Delete all but the newest `keep` events; returns how many went."""
