"""One column of a battle: an ordinary generation request, told as events.

The request goes through `Exchange` as one from outside would, with the client's own key: routing,
admission, log, metrics and cost are the ordinary ones. Nothing of it goes over the network twice.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from time import perf_counter
from typing import Any, Final

import msgspec

from aviary.core.errors import AviaryError, EngineError
from aviary.core.ports import RequestRecord
from aviary.core.preference import BattleAnswer, Contestant
from aviary.core.states import ModelState, ModelView, ReplicaState
from aviary.gateway.exchange import Exchange, GatewayState
from aviary.gateway.record import CLIENT_LEFT_STATUS
from aviary.wire.asgi import Message, Scope, find_header
from aviary.wire.sse import payload, split_events

CHAT: Final = "/v1/chat/completions"
WAITING_EVERY_S: Final = 0.25
PASSED: Final = frozenset({b"authorization", b"x-api-key", b"host", b"origin"})
"""Headers by which the client says who it is."""

Tell = Callable[[dict[str, Any]], Awaitable[None]]
"""Takes an event's kind and content; waits while the client cannot take more."""
Keep = Callable[[BattleAnswer], Awaitable[None]]
"""Has the answer stored."""
STOPPED: Final = "stopped"
"""Finish reason of what a person stopped; of an answer without text the error."""


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Error(msgspec.Struct):
    message: str = ""
    code: str | int | None = None
    retryable: bool = False


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    error: _Error | None = None


_chunk = msgspec.json.Decoder(_Chunk)
_BROKEN: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Column:
    """One column while it is answered.

    Args:
        number: Its number.
        model: The model it asks.
        parameters: Fields of its request beside model and messages.
        blind: Whether nothing may be told that names the model.
        tell: Takes its events.
    """

    def __init__(
        self, number: int, contestant: Contestant, *, blind: bool, tell: Tell, keep: Keep
    ) -> None:
        self.number = number
        self.model = contestant.model
        self._parameters = contestant.parameters
        self._blind = blind
        self._tell = tell
        self._keep = keep
        self._gone = asyncio.Event()
        self._stopped = False
        self._pieces: list[str] = []
        self._finish = ""
        self._error: _Error | None = None
        self._started = perf_counter()
        self._first: float | None = None
        self._record: RequestRecord | None = None
        self._document: list[bytes] | None = None

    async def run(
        self,
        state: GatewayState,
        scope: Scope,
        request: tuple[bytes, dict[str, Any]],
    ) -> None:
        """Have it answered; an error is told as an event and kept in the answer.

        Args:
            state: The worker's state.
            scope: The battle's request, whose client and key this is.
            request: The id of the request, and its body.
        """
        identity, fields = request
        view = _view(state, self.model)
        self._started = perf_counter()
        await self._tell({"kind": "start", "model": None if self._blind else self.model})
        body = msgspec.json.encode(fields)
        given = False

        async def receive() -> Message:
            nonlocal given
            if not given:
                given = True
                return {"type": "http.request", "body": body, "more_body": False}
            await self._gone.wait()
            return {"type": "http.disconnect"}

        def record(made: RequestRecord) -> None:
            self._record = made
            state.record(made)

        inner: Scope = {
            "type": "http",
            "method": "POST",
            "path": CHAT,
            "client": scope.get("client"),
            "headers": [
                *((name, value) for name, value in scope["headers"] if name in PASSED),
                (b"x-request-id", identity),
            ],
        }
        waiting = asyncio.create_task(self._tell_of_waiting(state))
        try:
            own = replace(state, record=record)
            await Exchange(own, CHAT, inner, receive, self._send, visitors=True).run(inner)
        finally:
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
        if self._stopped or not self._cut_short(self._record):
            await self._end("" if view is None else view.spec_hash)

    def leave(self) -> None:
        """The client has left: end the request, keep nothing of it."""
        self._gone.set()

    def stop(self) -> None:
        """End the request; what it has is its answer."""
        if not self._gone.is_set():
            self._stopped = True
            self._gone.set()

    async def _send(self, message: Message) -> None:
        """Take a piece of the answer, as an ASGI server would."""
        if message["type"] == "http.response.start":
            kind = find_header(message["headers"], b"content-type") or b""
            if not kind.startswith(b"text/event-stream"):
                self._document = []
            return
        data: bytes = message.get("body", b"")
        if self._document is None:
            await self._take(data)
            return
        self._document.append(data)
        if not message.get("more_body"):
            self._read(b"".join(self._document))

    async def _take(self, events: bytes) -> None:
        """Take whole events of the answer's stream; tell of their text in one."""
        text: list[str] = []
        thoughts: list[str] = []
        for event in split_events(events):
            chunk = self._read(payload(event))
            for choice in chunk.choices[:1]:
                self._finish = choice.finish_reason or self._finish
                if choice.delta is not None and choice.delta.content:
                    text.append(choice.delta.content)
                if choice.delta is not None and choice.delta.reasoning_content:
                    thoughts.append(choice.delta.reasoning_content)
        if self._first is None and (text or thoughts):
            self._first = perf_counter()
        if thoughts:
            await self._tell({"kind": "reasoning", "text": "".join(thoughts)})
        if text:
            await self._tell({"kind": "text", "text": "".join(text)})
            self._pieces.extend(text)  # after it: a stop may come while the client does not read

    def _read(self, data: bytes) -> _Chunk:
        """A chunk, or a document that is an error; what is neither counts as nothing."""
        if not data or data == b"[DONE]":
            return _Chunk()
        try:
            chunk = _chunk.decode(data)
        except _BROKEN:
            return _Chunk()
        if chunk.error is not None:
            self._error = chunk.error
        return chunk

    async def _tell_of_waiting(self, state: GatewayState) -> None:
        """Tell how the model wakes or starts, until the first piece of text."""
        told: dict[str, Any] = {}
        while self._first is None:
            view = _view(state, self.model)
            if view is not None and view.state is not ModelState.READY:
                news = _waiting(view, blind=self._blind)
                if news != told:
                    told = news
                    await self._tell(dict(news))
            await asyncio.sleep(WAITING_EVERY_S)

    async def _end(self, spec_hash: str) -> None:
        record = self._record
        ended = perf_counter()
        failed = self._failure(record)
        stopped = self._cut_short(record)
        if stopped:
            self._finish = STOPPED
        code = "" if failed is None else str(failed.code or EngineError.code)
        if stopped and not self._pieces:
            code = STOPPED  # there is nothing to vote on
        answer = BattleAnswer(
            column=self.number,
            model=self.model,
            spec_hash=spec_hash,
            parameters=self._parameters,
            text="".join(self._pieces),
            finish_reason=self._finish,
            ttft_ms=None if self._first is None else (self._first - self._started) * 1000.0,
            latency_ms=(ended - self._started) * 1000.0,
            prompt_tokens=None if record is None else record.prompt_tokens,
            completion_tokens=None if record is None else record.completion_tokens,
            cost_usd=None if record is None else record.cost_usd,
            error=code,
        )
        await self._keep(answer)
        if failed is None:
            await self._tell({"kind": "end", **figures(answer)})
        else:
            # A message may name the model.
            message = "This model did not answer." if self._blind else failed.message
            told = {"code": answer.error, "message": message, "retryable": failed.retryable}
            await self._tell({"kind": "error", "error": told})

    def _cut_short(self, record: RequestRecord | None) -> bool:
        """Whether the person's leaving or stop is what ended it."""
        return (
            self._gone.is_set()
            and self._error is None
            and record is not None
            and record.status == CLIENT_LEFT_STATUS
        )

    def _failure(self, record: RequestRecord | None) -> _Error | None:
        """What went wrong, if anything did."""
        if self._error is not None:
            return self._error
        if self._cut_short(record):
            return None
        if record is not None and record.error:
            return _Error("The answer broke off.", record.error)
        if record is None or record.status != 200:
            return _Error("The request was not answered.", AviaryError.code)
        return None


def figures(answer: BattleAnswer) -> dict[str, Any]:
    """What is shown under a whole answer."""
    speed = None
    tokens = answer.completion_tokens
    if tokens is not None and tokens > 1 and answer.ttft_ms is not None:
        writing_ms = answer.latency_ms - answer.ttft_ms
        speed = (tokens - 1) / writing_ms * 1000.0 if writing_ms > 0 else None
    return {
        "finish_reason": answer.finish_reason,
        "ttft_ms": answer.ttft_ms,
        "latency_ms": answer.latency_ms,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": tokens,
        "tokens_per_s": speed,
        "cost_usd": answer.cost_usd,
    }


def _view(state: GatewayState, model: str) -> ModelView | None:
    """The model as this worker knows it now; `None` when there is none of that name."""
    return next((r.view for r in state.table.routes if r.view.id == model), None)


def _waiting(view: ModelView, *, blind: bool) -> dict[str, Any]:
    """How far the model has come, by the replica that is furthest; blind no more than that."""
    starting = [r for r in view.replicas if r.state is ReplicaState.STARTING]
    furthest = max(starting, key=lambda replica: replica.progress or 0.0, default=None)
    return {
        "kind": "waiting",
        "state": "waiting" if blind else str(view.state),
        "progress": None if furthest is None else furthest.progress,
        "detail": "" if blind or furthest is None else furthest.detail,
    }
