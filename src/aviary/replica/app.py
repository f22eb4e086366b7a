"""The replica's ASGI app, the same on every backend.

Routes: the OpenAI generation routes; `/internal/state` (state, load, stats as JSON) and
`/internal/health` (an engine probe). All need the cluster's internal token.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import time
from collections.abc import Callable

import structlog

from aviary.config.spec import ModelSpec
from aviary.core.errors import (
    AviaryError,
    EngineError,
    NotAuthorized,
    StartFailed,
    TimedOut,
    Unavailable,
)
from aviary.core.ports import READINESS, Engine, EngineRequest, EngineResponse
from aviary.core.states import ReplicaState
from aviary.replica.admission import Admission
from aviary.replica.prepare import ROUTES, decode_body, prepare, weight
from aviary.replica.watch import Answer, SilenceLimit
from aviary.wire.asgi import (
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

HEALTH_EVERY_S = 5.0
HEALTH_DEADLINE_S = 10.0
HEALTH_FAILURES = 3
"""After so many failed probes in a row the replica counts as failed and gets replaced."""
START_DEADLINE_S = 3600.0

log = structlog.get_logger()

OnState = Callable[[ReplicaState, str, float | None], None]
"""Called with each change: state, words, done fraction."""


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
        self.state = ReplicaState.STARTING
        self.detail = ""
        self.progress: float | None = None
        self._engine = engine
        self._token = token.encode()
        self._max_body_bytes = max_body_bytes
        self._on_state = on_state
        self._admission = Admission(spec.engine.slots, spec.limits.queue, spec.limits.wait)
        self._since = time.time()
        self._starter: asyncio.Task[None] | None = None
        self._prober: asyncio.Task[None] | None = None

    # life cycle

    async def start(self) -> None:
        """Start the engine and prove that it generates; leaves the state ready or failed."""
        loop = asyncio.get_running_loop()

        def progress(text: str, fraction: float | None) -> None:
            loop.call_soon_threadsafe(self._set, ReplicaState.STARTING, text, fraction)

        began = time.monotonic()
        try:
            async with asyncio.timeout(START_DEADLINE_S):
                await self._engine.start(progress)
                progress("first generation", None)
                await self._prove()
        except AviaryError as error:
            self._set(ReplicaState.FAILED, str(error))
            log.warning("start failed", model=self.spec.id, error=str(error), code=error.code)
        except Exception as error:
            self._set(ReplicaState.FAILED, f"{type(error).__name__}: {error}")
            log.exception("start failed", model=self.spec.id)
        else:
            await asyncio.sleep(0)  # let queued progress calls run before the final state
            self._set(ReplicaState.READY, f"started in {time.monotonic() - began:.1f} s")
            log.info("ready", model=self.spec.id, seconds=round(time.monotonic() - began, 2))
            self._prober = asyncio.create_task(self._keep_probing())

    async def _keep_probing(self) -> None:
        """Probe the engine now and then; fail after several failures in a row."""
        failures = 0
        while self.state is ReplicaState.READY:
            await asyncio.sleep(HEALTH_EVERY_S)
            try:
                await self._probe()
            except Exception as error:
                failures += 1
                cause = str(error) if isinstance(error, AviaryError) else repr(error)
                log.warning("probe failed", model=self.spec.id, failures=failures, error=cause)
                if failures >= HEALTH_FAILURES:
                    detail = f"{failures} health probes in a row failed: {cause}"
                    self._set(ReplicaState.FAILED, detail)
            else:
                failures = 0

    async def _probe(self) -> None:
        try:
            async with asyncio.timeout(HEALTH_DEADLINE_S):
                await self._engine.healthy()
        except TimeoutError:
            raise TimedOut("The engine did not answer its probe in time.") from None

    async def _prove(self) -> None:
        """One short generation: readiness means that this worked."""
        embeddings = getattr(self.spec.engine, "embeddings", False)
        path = "/v1/embeddings" if embeddings else "/v1/chat/completions"
        messages = [{"role": "user", "content": "Hi"}]
        body = {"input": "Hi"} if embeddings else {"messages": messages, "max_tokens": 1}
        response = await self._engine.generate(
            EngineRequest(path, prepare(self.spec, path, body), READINESS)
        )
        try:
            answer = b"".join([piece async for piece in response.body])
        finally:
            await response.body.aclose()
        if response.status != 200 or not answer:
            raise StartFailed(f"The readiness generation failed: {answer[:300]!r}")

    async def stop(self) -> None:
        """Free the engine."""
        self._set(ReplicaState.STOPPING, "")
        for task in (self._starter, self._prober):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        await self._engine.stop()
        self._set(ReplicaState.STOPPED, "")

    def _set(self, state: ReplicaState, detail: str, fraction: float | None = None) -> None:
        if state != self.state:
            if state is ReplicaState.STARTING:
                return  # a late word of progress: the start is over
            self._since = time.time()
        self.state, self.detail, self.progress = state, detail, fraction
        if self._on_state is not None:
            self._on_state(state, detail, fraction)

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
        else:
            await send_json(send, 404, {"error": {"message": f"No route {path}."}})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._starter = asyncio.create_task(self.start())
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
            "progress": self.progress,
            "since": self._since,
            "pid": os.getpid(),
            "running": self._admission.running,
            "waiting": self._admission.waiting,
            "slots": self.spec.engine.slots,
            "prompt_tokens": stats.prompt_tokens,
            "completion_tokens": stats.completion_tokens,
        }

    async def _health(self, send: Send) -> None:
        await self._probe()
        await send_json(send, 200, {"status": "ok"})

    async def _generate(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        if self.state is not ReplicaState.READY:
            raise Unavailable(f"This replica of {self.spec.id} is {self.state}.", retry_after_s=1)
        raw = await read_body(receive, self._max_body_bytes)
        body = prepare(self.spec, path, decode_body(raw))
        request_id = (find_header(scope["headers"], b"x-request-id") or b"").decode("latin-1")
        leaving = Leaving(scope, receive)
        try:
            ticket = await self._admission.enter(weight(body))
            try:
                with self._silence_limit():
                    response = await self._engine.generate(EngineRequest(path, body, request_id))
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
