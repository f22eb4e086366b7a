"""The replica's ASGI app, the same on every backend.

Routes: the OpenAI generation routes; `/internal/state` (state, load, stats as JSON),
`/internal/health` (an engine probe), and by POST `/internal/sleep` and `/internal/wake`. All need
the cluster's internal token.
"""

from __future__ import annotations

import asyncio
import hmac
import os

import structlog

from aviary.config.spec import ModelSpec
from aviary.core.errors import (
    AviaryError,
    EngineError,
    NotAuthorized,
    Unavailable,
)
from aviary.core.ports import Engine, EngineRequest, EngineResponse
from aviary.core.states import ReplicaState
from aviary.process.memory import resident_bytes
from aviary.replica.admission import Admission
from aviary.replica.lifecycle import Lifecycle, OnState
from aviary.replica.prepare import (
    ROUTES,
    continuation_bytes,
    decode_body,
    prepare,
    split_continuation,
    weight,
)
from aviary.replica.watch import Answer, SilenceLimit
from aviary.wire.asgi import (
    CLIENT_HEADER,
    CONTINUE_HEADER,
    LOAD_HEADER,
    TOKEN_HEADER,
    ClientLeft,
    Leaving,
    Receive,
    Scope,
    Send,
    error_body,
    find_header,
    read_body,
    send_error,
    send_json,
)

log = structlog.get_logger()


class ReplicaApp:
    """ASGI app around one engine, with its life cycle, admission and limits."""

    def __init__(
        self,
        spec: ModelSpec,
        engine: Engine,
        *,
        token: str,
        max_body_bytes: int,
        on_state: OnState | None = None,
    ) -> None:
        self.spec = spec
        self._engine = engine
        self._token = token.encode()
        self._max_body_bytes = max_body_bytes
        self._admission = Admission(spec.engine.slots, spec.limits.queue, spec.limits.wait)
        self._life = Lifecycle(spec, engine, is_busy=self._is_busy, on_state=on_state)

    @property
    def state(self) -> ReplicaState:
        """Where the replica is in its life."""
        return self._life.state

    @property
    def detail(self) -> str:
        """Progress or a cause, in words."""
        return self._life.detail

    async def stop(self) -> None:
        """Free the engine."""
        await self._life.stop()

    # ASGI

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        try:
            await self._route(scope, receive, send)
        except AviaryError as error:
            await send_error(send, error, [(LOAD_HEADER, self._admission.load)])
        except ClientLeft:
            return
        except Exception as error:
            log.exception("request failed", model=self.spec.id)
            failure = EngineError(f"{self.spec.id}: {type(error).__name__} inside the replica.")
            await send_error(send, failure, [(LOAD_HEADER, self._admission.load)])

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        root: str = scope.get("root_path") or ""
        if root and path.startswith(root):
            path = path[len(root) :] or "/"
        token = find_header(scope["headers"], TOKEN_HEADER) or b""
        if not hmac.compare_digest(token, self._token):
            raise NotAuthorized("Replicas answer only to their own gateways.")
        if path in ROUTES and scope["method"] == "POST":
            await self._generate(path, scope, receive, send)
        elif path == "/internal/state":
            await send_json(send, 200, self.view())
        elif path == "/internal/health":
            await self._health(send)
        elif path == "/internal/sleep" and scope["method"] == "POST":
            await self._life.sleep()
            await send_json(send, 200, self.view())
        elif path == "/internal/wake" and scope["method"] == "POST":
            self._life.wake()
            await send_json(send, 202, self.view())
        else:
            await send_json(send, 404, {"error": {"message": f"No route {path}."}})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._life.begin()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    def view(self) -> dict[str, object]:
        """State, load and statistics."""
        stats = self._engine.stats()
        return {
            "model": self.spec.id,
            "spec_hash": self.spec.hash,
            "state": self.state,
            "detail": self.detail,
            "progress": self._life.progress,
            "since": self._life.since,
            "pid": os.getpid(),
            "memory_bytes": resident_bytes(),
            "running": self._admission.running,
            "waiting": self._admission.waiting,
            "slots": self.spec.engine.slots,
            "prompt_tokens": stats.prompt_tokens,
            "completion_tokens": stats.completion_tokens,
        }

    async def _health(self, send: Send) -> None:
        if self.state is ReplicaState.SLEEPING:  # nothing to probe, and nothing wrong with that
            await send_json(send, 200, {"status": "sleeping"})
            return
        await self._life.probe()
        await send_json(send, 200, {"status": "ok"})

    def _is_busy(self) -> bool:
        return self._admission.running > 0 or self._admission.waiting > 0

    def _check_ready(self) -> None:
        if self.state is not ReplicaState.READY:
            raise Unavailable(f"This replica of {self.spec.id} is {self.state}.", retry_after_s=1)

    async def _generate(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        self._check_ready()
        seam = find_header(scope["headers"], CONTINUE_HEADER)
        raw = await read_body(receive, self._max_body_bytes + continuation_bytes(seam))
        given, raw = split_continuation(seam, raw)
        body = prepare(self.spec, path, decode_body(raw))
        request_id = (find_header(scope["headers"], b"x-request-id") or b"").decode("latin-1")
        client = (find_header(scope["headers"], CLIENT_HEADER) or b"").decode("latin-1")
        self._check_ready()  # it may have gone to sleep while the body came
        leaving = Leaving(scope, receive)
        try:
            ticket = await self._admission.enter(weight(body), client, admitted=seam is not None)
            try:
                with self._silence_limit():
                    response = await self._engine.generate(
                        EngineRequest(path, body, request_id, given)
                    )
                try:
                    await self._forward(response, send)
                finally:
                    await response.body.aclose()
            finally:
                ticket.leave()
        except asyncio.CancelledError:
            if not leaving.left:  # a shutdown
                raise
            leaving.swallow()
        finally:
            leaving.stop()

    async def _forward(self, response: EngineResponse, send: Send) -> None:
        """Send the engine's answer; the head goes out with the first bytes, not before.

        An error before them becomes a proper status; one after them ends a stream with an error
        event and without `[DONE]`, and is the body of a JSON answer that had only signs of life.
        """

        def headers() -> list[tuple[bytes, bytes]]:
            return [*response.headers, (LOAD_HEADER, self._admission.load)]

        answer = Answer(send, response.status, headers)
        try:
            with self._silence_limit() as silence:
                async for piece in response.body:
                    if not piece:
                        silence.heard()
                        continue
                    silence.hold()  # a client that reads slowly is not the engine's silence
                    await answer.piece(piece)
                    silence.heard()
            await answer.end()
            self._check_begun(answer)
            await answer.piece(b"", more=False)
        except Exception as caught:
            if not await answer.end():
                raise
            log.warning("generation broke off", model=self.spec.id, error=repr(caught))
            error = caught if isinstance(caught, AviaryError) else EngineError("The engine failed.")
            body = error_body(error)
            await answer.piece(b"data: " + body + b"\n\n" if answer.streamed else body, more=False)
        finally:
            answer.stop()

    def _check_begun(self, answer: Answer) -> None:
        if not answer.begun:
            raise EngineError(f"{self.spec.id}: the engine answered nothing.")

    def _silence_limit(self) -> SilenceLimit:
        return SilenceLimit(self.spec.limits.timeout, self.spec.id)
