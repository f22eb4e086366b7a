"""`/api`: one function a noun and verb."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncGenerator
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse

from aviary.auth.keys import issue
from aviary.config.loader import parse_spec
from aviary.config.spec import ModelSpec
from aviary.config.strict_yaml import MAX_BYTES
from aviary.core.errors import BodyTooLarge, Forbidden, ModelNotFound
from aviary.version import __version__
from aviary.web import shapes
from aviary.web.ports import Control, KeyRow
from aviary.weights.address import redact
from aviary.wire.asgi import ROLE_HEADER

ROLE = ROLE_HEADER.decode()
HEARTBEAT_S = 10.0


def is_admin(request: Request) -> bool:
    """Whether an administrator asks."""
    return request.headers.get(ROLE) == "admin"


def admin(request: Request) -> None:
    """Let administrators pass."""
    if not is_admin(request):
        raise Forbidden(
            "This needs an admin key.",
            hint="Make one with `aviary keys create NAME --role admin`.",
        )


ADMIN = [Depends(admin)]
SPEC_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"type": "object", "title": "Model spec"}}},
    }
}
Lines = Annotated[int, Query(ge=0, le=2000)]


def make_router(control: Control) -> APIRouter:
    """All routes of `/api`."""
    router = APIRouter(prefix="/api")
    _add_models(router, control)
    _add_logs(router, control)
    _add_keys(router, control)

    @router.get("/status")
    async def status() -> shapes.Status:
        """This Aviary at a glance."""
        snapshot = control.fleet.snapshot
        totals = await control.observed.totals()
        states = Counter(str(view.state) for view in snapshot.models)
        return shapes.Status(
            version=__version__,
            backend=control.backend_name,
            url=control.url,
            uptime_s=time.time() - control.started,
            workers=snapshot.workers,
            generation=snapshot.generation,
            models=shapes.Counts(**states),
            requests=shapes.RequestCounts(
                total=int(sum(total["requests"] for total in totals.values())),
                errors=int(sum(total["errors"] for total in totals.values())),
                dropped_log_records=await control.observed.dropped_log_records(),
            ),
        )

    return router


def _add_models(router: APIRouter, control: Control) -> None:
    fleet = control.fleet

    async def all_models() -> list[shapes.Model]:
        loads, totals = await asyncio.gather(control.observed.loads(), control.observed.totals())
        return [
            shapes.Model.of(
                view,
                loads.get(view.id, (0, 0)),
                shapes.Totals.model_validate(dict(totals.get(view.id, {}))),
            )
            for view in fleet.snapshot.models
        ]

    @router.get("/models")
    async def list_models() -> shapes.Models:
        """All models with state, replicas, load and totals."""
        return shapes.Models(models=await all_models())

    @router.get("/models/{model}")
    async def get_model(model: str, request: Request) -> shapes.ModelDetail:
        """One model; administrators get its spec too (it may name private places)."""
        spec = fleet.spec(model)
        found = next((entry for entry in await all_models() if entry.id == model), None)
        if found is None:
            raise ModelNotFound(f"There is no model {model[:100]!r}.", param="model")
        shown = _shown_spec(spec) if is_admin(request) else None
        return shapes.ModelDetail(**found.model_dump(), spec=shown)

    @router.get("/models/{model}/events", response_class=StreamingResponse)
    async def model_events(model: str, history: Lines = 20) -> StreamingResponse:
        """What happens to the model, as server-sent events; the last ones first."""
        fleet.spec(model)

        async def follow() -> AsyncGenerator[dict[str, Any], None]:
            events = fleet.events.follow(history, lambda event: event.model == model)
            async with contextlib.aclosing(events):
                async for event in events:
                    yield msgspec.to_builtins(event)

        return _event_stream(follow())

    @router.post("/models", status_code=202, dependencies=ADMIN, openapi_extra=SPEC_BODY)
    async def add_model(request: Request) -> shapes.Applied:
        """Serve a model as its spec (as JSON) says; replaces a model of the same id."""
        text = bytearray()
        async for piece in request.stream():
            text += piece
            if len(text) > MAX_BYTES:
                raise BodyTooLarge(f"A spec has at most {MAX_BYTES:,} bytes.")
        parsed = await asyncio.to_thread(parse_spec, bytes(text), "spec")
        return shapes.Applied(model=parsed.id, action=await fleet.apply(parsed))

    @router.delete("/models/{model}", dependencies=ADMIN)
    async def stop_model(model: str) -> shapes.Applied:
        """Stop serving a model; answers in progress end first."""
        await fleet.stop_model(model)
        return shapes.Applied(model=model, action="stopped")


def _add_logs(router: APIRouter, control: Control) -> None:
    @router.get("/logs", dependencies=ADMIN, response_model=shapes.LogLines)
    async def logs(
        model: str, lines: Lines = 100, follow: bool = False
    ) -> shapes.LogLines | StreamingResponse:
        """The last log lines of a model's replicas; `follow=true`: a stream that goes on."""
        control.fleet.spec(model)
        if not follow:
            return shapes.LogLines(lines=control.backend.logs(model, lines))

        async def stream() -> AsyncGenerator[dict[str, Any], None]:
            follower = control.backend.follow_logs(model, lines)
            async with contextlib.aclosing(follower):
                async for line in follower:
                    yield {"line": line}

        return _event_stream(stream())


def _add_keys(router: APIRouter, control: Control) -> None:
    store = control.keys

    @router.get("/keys", dependencies=ADMIN)
    async def list_keys() -> shapes.Keys:
        """All keys, without their secrets."""
        rows = await asyncio.to_thread(store.list)
        return shapes.Keys(keys=[_key(row) for row in rows])

    @router.post("/keys", status_code=201, dependencies=ADMIN)
    async def create_key(new: shapes.NewKey) -> shapes.CreatedKey:
        """Make a key; the answer is the only place where its secret ever appears."""
        secret, key = issue(new.name, new.role)
        row = await asyncio.to_thread(store.create, key.name, key.role, key.hash, key.id)
        await control.observed.keys_changed()
        return shapes.CreatedKey(**_key(row).model_dump(), secret=secret)

    @router.delete("/keys/{key}", dependencies=ADMIN)
    async def revoke_key(key: str) -> shapes.Key:
        """Revoke a key, at once and for good."""
        row = await asyncio.to_thread(store.revoke, key)
        await control.observed.keys_changed()
        return _key(row)


def _shown_spec(spec: ModelSpec) -> dict[str, Any]:
    """The spec as JSON, its addresses without users, passwords and queries."""
    data = spec.model_dump(mode="json")
    source = data.get("source")
    if source is not None:
        source["uri"] = redact(source["uri"]) if source["uri"] else None
        for name in ("parts", "mirrors"):
            source[name] = [redact(address) for address in source[name]]
    return data


def _key(row: KeyRow) -> shapes.Key:
    return shapes.Key(
        id=row.id, name=row.name, role=row.role, created=row.created, revoked=row.revoked
    )


def _event_stream(items: AsyncGenerator[dict[str, Any], None]) -> StreamingResponse:
    """Server-sent events, with a comment now and then so that a dead line is noticed."""

    async def body() -> AsyncGenerator[bytes, None]:
        pending = asyncio.ensure_future(anext(items))
        try:
            while True:
                done, _ = await asyncio.wait([pending], timeout=HEARTBEAT_S)
                if not done:
                    yield b": \n\n"
                    continue
                try:
                    item = pending.result()
                except StopAsyncIteration:
                    return
                yield b"data: " + msgspec.json.encode(item) + b"\n\n"
                pending = asyncio.ensure_future(anext(items))
        finally:
            pending.cancel()
            await asyncio.wait([pending])
            await items.aclose()

    return StreamingResponse(
        body(), media_type="text/event-stream", headers={"cache-control": "no-cache"}
    )
