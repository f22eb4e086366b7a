"""Putting the web app together, and the door before it.

It listens on a Unix socket in a private folder, and answers only to callers that know the cluster's
internal token: the gateway workers, who have checked the client's key and say its role.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Sequence
from importlib import resources
from typing import Any

import msgspec
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.exceptions import HTTPException

from aviary.core.errors import AviaryError, InvalidRequest, NotAuthorized, RouteMissing
from aviary.core.states import Snapshot
from aviary.fleet.activity import Use
from aviary.version import __version__
from aviary.web.api import make_router
from aviary.web.battles import find_battle, keep_progress, read_stop
from aviary.web.openapi import describe_openai_routes
from aviary.web.ports import Control
from aviary.wire.asgi import (
    ACTIVITY_PATH,
    BATTLES_PATH,
    ROLE_HEADER,
    SNAPSHOTS_PATH,
    STOPS_PATH,
    TOKEN_HEADER,
    Receive,
    Scope,
    Send,
    error_body,
    error_headers,
    find_header,
    read_body,
    send_error,
    send_json,
)
from aviary.wire.feedlines import stop_line

log = structlog.get_logger()

INTERNAL = "/internal/"
HEARTBEAT_S = 5.0
MOST_LINES_AHEAD = 1024
ACTIVITY_LIMIT_BYTES = 4 * 1024 * 1024
SWAGGER = {
    "swagger-ui-bundle.js": "application/javascript",
    "swagger-ui.css": "text/css",
}


class _Activity(msgspec.Struct):
    worker: str
    uses: dict[str, tuple[int, int, float]]


_activity = msgspec.json.Decoder(_Activity)


class ControlApp:
    """ASGI app of the control process."""

    def __init__(self, control: Control, token: str) -> None:
        self._control = control
        self._token = token.encode()
        self._web = make_web(control)
        self._told: dict[object, asyncio.Queue[bytes]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event."""
        if scope["type"] == "lifespan":
            await self._web(scope, receive, send)
            return
        token = find_header(scope["headers"], TOKEN_HEADER) or b""
        if not hmac.compare_digest(token, self._token):
            await send_error(send, NotAuthorized("Only gateways of this Aviary are answered."))
        elif scope["path"].startswith(INTERNAL):
            if find_header(scope["headers"], ROLE_HEADER) is not None:
                await send_error(send, RouteMissing("This is not for clients."))
            else:
                await self._internal(scope["path"], receive, send)
        else:
            await self._web(scope, receive, send)

    async def _internal(self, path: str, receive: Receive, send: Send) -> None:
        """Serve what a worker asks on its own behalf."""
        if path == SNAPSHOTS_PATH:
            await self._snapshots(receive, send)
        elif path == ACTIVITY_PATH:
            await self._activity(receive, send)
        else:
            try:
                await self._battles(path, receive, send)
            except AviaryError as error:
                await send_error(send, error)

    async def _battles(self, path: str, receive: Receive, send: Send) -> None:
        """Store what battles have come to, show one, or have a column stopped."""
        ballots = self._control.ballots
        if path == BATTLES_PATH:
            await send_json(send, 200, await keep_progress(ballots, receive))
        elif path.startswith(f"{BATTLES_PATH}/"):
            found = await find_battle(ballots, path.removeprefix(f"{BATTLES_PATH}/"))
            await send_json(send, 200, found)
        elif path == STOPS_PATH:
            line = stop_line(await read_stop(receive))
            for told in self._told.values():
                if told.full():
                    log.warning("a gateway worker does not read its feed")
                else:
                    told.put_nowait(line)
            await send_json(send, 200, {})
        else:
            raise RouteMissing("There is nothing.")

    async def _activity(self, receive: Receive, send: Send) -> None:
        """Take a worker's report of its requests."""
        try:
            report = _activity.decode(await read_body(receive, ACTIVITY_LIMIT_BYTES))
        except (msgspec.MsgspecError, AviaryError) as error:
            await send_error(send, InvalidRequest(f"No report of activity: {error}"))
            return
        uses = {model: Use(*figures) for model, figures in report.uses.items()}
        self._control.keeper.report(report.worker, uses)
        await send_json(send, 200, {})

    async def _snapshots(self, receive: Receive, send: Send) -> None:
        """One JSON line a snapshot, as they change, and what else workers shall know at once.

        An empty line is a sign of life.
        """
        await receive()
        left = asyncio.ensure_future(receive())
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"application/x-ndjson")],
            }
        )
        generation = -1
        news: asyncio.Future[Snapshot] | None = None
        told: asyncio.Queue[bytes] = asyncio.Queue(MOST_LINES_AHEAD)
        self._told[left] = told
        said: asyncio.Future[bytes] = asyncio.ensure_future(told.get())
        try:
            while not left.done():
                if news is None:
                    waiting = self._control.fleet.next_snapshot(generation)
                    news = asyncio.ensure_future(waiting)
                pending: list[asyncio.Future[Any]] = [news, left, said]
                await asyncio.wait(
                    pending, timeout=HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED
                )
                line = b"\n"
                if news.done():
                    snapshot, news = news.result(), None
                    generation = snapshot.generation
                    line = msgspec.json.encode(snapshot) + b"\n"
                if said.done():
                    line += said.result()
                    said = asyncio.ensure_future(told.get())
                await send({"type": "http.response.body", "body": line, "more_body": True})
                self._control.fleet.delivered(left, generation)
        finally:
            self._control.fleet.delivered(left, None)
            del self._told[left]
            left.cancel()
            said.cancel()
            if news is not None:
                news.cancel()


def make_web(control: Control) -> FastAPI:
    """The FastAPI app with `/api`, `/openapi.json` and `/docs`."""
    app = FastAPI(
        title="Aviary",
        version=__version__,
        description="Explore, serve and run many LLMs of your own.",
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,
    )
    app.include_router(make_router(control))
    app.add_exception_handler(AviaryError, _on_aviary_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_bug)
    describe_openai_routes(app)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="Aviary API",
            swagger_js_url="/docs/swagger-ui-bundle.js",
            swagger_css_url="/docs/swagger-ui.css",
            swagger_favicon_url="data:,",
        )

    @app.get("/docs/{name}", include_in_schema=False)
    async def docs_file(name: str) -> Response:
        if name not in SWAGGER:
            raise HTTPException(404)
        data = (resources.files("fastapi_swagger.resources") / name).read_bytes()
        return Response(data, media_type=SWAGGER[name], headers={"cache-control": "max-age=86400"})

    return app


def _response(error: AviaryError) -> Response:
    headers = {name.decode(): value.decode() for name, value in error_headers(error)}
    return Response(error_body(error), status_code=error.status, headers=headers)


async def _on_aviary_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, AviaryError)  # noqa: S101 - registered for nothing else
    return _response(error)


async def _on_bug(_request: Request, error: Exception) -> Response:
    return _response(AviaryError(f"Aviary failed: {type(error).__name__}."))


async def _on_validation_error(_request: Request, error: Exception) -> Response:
    problems: Sequence[Any] = error.errors() if isinstance(error, RequestValidationError) else []
    text = "; ".join(
        f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
        for problem in problems[:20]
    )
    return _response(InvalidRequest(f"The request is wrong: {text}."))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    text = f"{request.method} {request.url.path[:200]}: {error}"
    wrong = RouteMissing(text) if status == 404 else InvalidRequest(text)
    response = _response(wrong)
    response.status_code = status
    return response
