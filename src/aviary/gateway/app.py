"""The gateway's ASGI app: a thin dispatcher in front of the hot path, with everything else behind.

`/v1/…` generation routes go straight to `Exchange`; health, metrics, the model list, battles and
the Explorer's files are served here; all other paths belong to the web app (`/api`, `/docs`) in the
control process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from time import monotonic
from typing import Any

import msgspec
import structlog

from aviary.auth.addresses import network_of
from aviary.auth.keys import VISITOR, require
from aviary.auth.limits import AtOnce, Limit
from aviary.auth.visitors import may_visit
from aviary.core.errors import AviaryError, MethodNotAllowed, RouteMissing
from aviary.core.states import KeyView, ModelState, ModelView
from aviary.gateway import metrics
from aviary.gateway.asked import check_length, request_id
from aviary.gateway.battles import Battles
from aviary.gateway.exchange import Exchange, GatewayState
from aviary.gateway.forward import forward
from aviary.gateway.pages import Pages
from aviary.wire.asgi import (
    ClientLeft,
    Message,
    Receive,
    Scope,
    Send,
    send_bytes,
    send_error,
    send_json,
)
from aviary.wire.client import Target

log = structlog.get_logger()

GENERATION = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/embeddings"})

Lifespan = Callable[[], Awaitable[GatewayState]]
PUBLIC = frozenset({"/docs", "/openapi.json"})
"""Paths that need no key: they tell nothing about models or people."""
VISITS_PER_MINUTE = 600
"""So many requests to `/api` an address' visitors may make in each worker."""
VISITORS_BODY_BYTES = 65536
"""Largest body of theirs to `/api`, battles aside."""
VISITS_AT_ONCE = 20
"""So many of an address' visitors' requests the control process serves at once for each worker."""
VISITS_FROM_HERE_AT_ONCE = 200
"""Of this machine's own address, which is everybody's behind a reverse proxy."""


class GatewayApp:
    """ASGI app of one gateway worker.

    Args:
        startup: Makes the worker's state; called in the lifespan.
        shutdown: Undoes it.
        control: Where the web app listens; without it there are no other paths.
        pages: The Explorer; without it there are no pages.
    """

    def __init__(
        self,
        startup: Lifespan,
        shutdown: Callable[[], Awaitable[None]],
        control: Target | None = None,
        pages: Pages | None = None,
    ) -> None:
        self._startup = startup
        self._shutdown = shutdown
        self._control = control
        self._pages = pages
        self._battles = None if control is None else Battles(control)
        self._visits = Limit(VISITS_PER_MINUTE, "requests of visitors of an address")
        what = "requests of visitors of an address"
        self._at_once = AtOnce(VISITS_AT_ONCE, what)
        self._from_here_at_once = AtOnce(VISITS_FROM_HERE_AT_ONCE, what)
        self._state: GatewayState | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event."""
        if scope["type"] == "http":
            state = self._state
            if state is None:
                raise RuntimeError("the gateway got a request before its lifespan began")
            path: str = scope["path"]
            if path in GENERATION and scope["method"] == "POST":
                await Exchange(state, path, scope, receive, send).run(scope)
            else:
                await self._other(state, path, scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    self._state = await self._startup()
                except Exception as error:
                    log.exception("gateway worker did not start")
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                if self._battles is not None:
                    await self._battles.close()
                await self._shutdown()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _other(
        self, state: GatewayState, path: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        identity = request_id(scope)
        send = _with_request_id(send, identity)
        try:
            state.check_hosts(scope)
            if path == "/healthz":
                await send_json(send, 200, {"status": "ok"})
            elif path == "/readyz":
                await self._ready(state, send)
            elif path == "/metrics":
                self._identify(state, scope, admin=True)
                state.flush_metrics()
                text = await asyncio.to_thread(metrics.render)
                headers = [(b"content-type", metrics.CONTENT_TYPE.encode())]
                await send_bytes(send, 200, text, headers)
            elif path == "/v1/models" or path.startswith("/v1/models/"):
                self._only(scope, "GET", "HEAD")
                self._identify(state, scope)
                await self._models(state, path, scope, send)
            elif path in GENERATION:
                self._only(scope, "POST")
            elif path.startswith("/v1/"):
                raise RouteMissing(f"There is no route {scope['method']} {path[:200]}.")
            elif self._battles is not None and (serve := self._battles.find(path)):
                self._only(scope, "POST")
                await serve(state, scope, receive, send)
            elif self._pages is not None and self._pages.has(path):
                self._only(scope, "GET", "HEAD")
                await self._pages.serve(path, scope, send)
            else:
                await self._rest(state, path, scope, receive, send)
        except AviaryError as error:
            await send_error(send, error)
        except ClientLeft:
            return

    @staticmethod
    def _only(scope: Scope, *methods: str) -> None:
        if scope["method"] not in methods:
            raise MethodNotAllowed(f"{scope['path']} takes {' or '.join(methods)} only.")

    @staticmethod
    def _identify(state: GatewayState, scope: Scope, *, admin: bool = False) -> KeyView | None:
        key = state.identify(scope)
        require(key, "admin" if admin else "user")
        return key

    def _identify_for(self, state: GatewayState, path: str, scope: Scope) -> KeyView | None:
        """Whose request to `/api` it is; without a key a visitor's, where that may ask it."""
        if not may_visit(scope["method"], path):
            return self._identify(state, scope)
        key = state.identify_or_welcome(scope)
        if key is VISITOR and (network := _network(scope)):
            self._visits.take(network, monotonic())
        return key

    def _hold(self, scope: Scope) -> AbstractContextManager[None]:
        """Count a visitor's request as one that is being served, streams too, until it ends."""
        if network := _network(scope):
            return self._at_once.hold([network], 1)
        return self._from_here_at_once.hold(["here"], 1)

    @staticmethod
    async def _ready(state: GatewayState, send: Send) -> None:
        """200 when any declared model can answer (or none is declared), else 503."""
        views = [route.view for route in state.table.routes]
        ready = [view.id for view in views if view.state is ModelState.READY]
        waiting = [view.id for view in views if view.state is not ModelState.READY]
        usable = bool(ready) or (not views and state.table.snapshot.generation > 0)
        body: dict[str, Any] = {
            "status": ("ready" if not waiting else "partly ready") if usable else "not ready",
            # Names are for those who may list models; a probe needs none.
            "ready": ready if state.ring.is_open else len(ready),
            "not_ready": waiting if state.ring.is_open else len(waiting),
            "workers": state.table.snapshot.workers,
        }
        await send_json(send, 200 if usable else 503, body)

    async def _models(self, state: GatewayState, path: str, scope: Scope, send: Send) -> None:
        head = scope["method"] == "HEAD"
        if path == "/v1/models":
            data = [model_object(route.view) for route in state.table.routes]
            answer: dict[str, Any] = {"object": "list", "data": data}
        else:
            answer = model_object(state.table.route(path.removeprefix("/v1/models/")).view)
        await send_bytes(send, 200, msgspec.json.encode(answer), head=head)

    async def _rest(
        self, state: GatewayState, path: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        public = path in PUBLIC or path.startswith("/docs/")
        held: AbstractContextManager[None] = nullcontext()
        if self._control is None or not (public or path.startswith("/api/")):
            raise RouteMissing(f"There is nothing at {path[:200]}.")
        if public:
            self._only(scope, "GET", "HEAD")
            identity, most_bytes = ("none", ""), 0
        else:
            key = self._identify_for(state, path, scope)
            # Without keys everybody administers: `HostGuard` sees to it who that can be.
            identity = ("admin", "") if key is None else (key.role, key.id)
            most_bytes = state.max_body_bytes
            if key is VISITOR:
                most_bytes = min(VISITORS_BODY_BYTES, most_bytes)
                held = self._hold(scope)
        check_length(scope["headers"], most_bytes)
        request = (scope, receive, send)
        with held:
            await forward(state.client, self._control, state.token, identity, request, most_bytes)


def _network(scope: Scope) -> str:
    """What the client's address is counted under; empty for this machine's own."""
    address = scope.get("client")
    return network_of(str(address[0])) if address else ""


def _with_request_id(send: Send, identity: bytes) -> Send:
    """Put the request's id on its answer."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"x-request-id", identity)]
        await send(message)

    return sending


def model_object(view: ModelView) -> dict[str, Any]:
    """OpenAI's model object, with fields of our own beside it."""
    return {
        "id": view.id,
        "object": "model",
        "created": int(view.created),
        "owned_by": "aviary",
        "description": view.description,
        "state": view.state,
        "context_length": view.context_length,
    }
