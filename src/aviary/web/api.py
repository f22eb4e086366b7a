"""`/api`: one function a noun and verb."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from aviary.auth.keys import issue
from aviary.core.errors import ModelNotFound
from aviary.fleet.events import Event
from aviary.fleet.load import Load
from aviary.version import __version__
from aviary.web import shapes
from aviary.web.addresses import shown_spec
from aviary.web.applying import add_applying
from aviary.web.arena import add_arena
from aviary.web.live import add_live
from aviary.web.orders import add_orders
from aviary.web.ports import Control, KeyRow
from aviary.web.roles import ADMIN, ROLE, is_admin
from aviary.web.specs import add_specs, spec_text
from aviary.web.traffic import add_traffic

HEARTBEAT_S = 10.0
OPEN_EVENTS = frozenset({"starting", "ready", "sleeping", "wakes", "woke", "waits", "rests"})
"""Whose details anybody may read; others may tell of paths, addresses and the engine's words."""
Lines = Annotated[int, Query(ge=0, le=2000)]


def make_router(control: Control) -> APIRouter:
    """All routes of `/api`."""
    router = APIRouter(prefix="/api")
    _add_models(router, control)
    add_applying(router, control)
    add_orders(router, control)
    add_specs(router, control)
    _add_events(router, control)
    _add_logs(router, control)
    _add_keys(router, control)
    add_arena(router, control)
    add_traffic(router, control)

    @router.get("/me")
    async def me(request: Request) -> shapes.Me:
        """Who asks, and what this Aviary lets people without a key do."""
        snapshot = control.fleet.snapshot
        return shapes.Me.model_validate(
            {
                "role": request.headers.get(ROLE),
                "keys": bool(snapshot.keys),
                "visitors": snapshot.visitors,
            }
        )

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
            dropped_events=control.observed.dropped_events(),
        )

    return router


def _add_models(router: APIRouter, control: Control) -> None:
    fleet = control.fleet

    async def look(loads: Mapping[str, Load], causes: bool) -> list[shapes.Model]:
        totals = await control.observed.totals()
        return [
            shapes.Model.of(
                view,
                loads,
                shapes.Totals.model_validate(dict(totals.get(view.id, {}))),
                causes=causes,
            )
            for view in fleet.snapshot.models
        ]

    async def all_models(request: Request) -> list[shapes.Model]:
        return await look(await control.observed.loads(), is_admin(request))

    add_live(router, control, look)

    @router.get("/models")
    async def list_models(request: Request) -> shapes.Models:
        """All models with state, replicas, load and totals; causes of failures for admins only."""
        return shapes.Models(models=await all_models(request))

    @router.get("/models/{model}")
    async def get_model(model: str, request: Request) -> shapes.ModelDetail:
        """One model; administrators get its spec too (it may name private places)."""
        spec = fleet.spec(model)
        found = next((entry for entry in await all_models(request) if entry.id == model), None)
        if found is None:
            raise ModelNotFound(f"There is no model {model[:100]!r}.", param="model")
        if not is_admin(request):
            return shapes.ModelDetail(**found.model_dump(), spec=None, text=None)
        text = await asyncio.to_thread(spec_text, spec)
        return shapes.ModelDetail(**found.model_dump(), spec=shown_spec(spec), text=text)

    @router.get("/models/{model}/events", response_class=StreamingResponse)
    async def model_events(model: str, request: Request, history: Lines = 20) -> StreamingResponse:
        """What happens to the model, as server-sent events; the last ones first."""
        fleet.spec(model)
        to_admin = is_admin(request)

        async def follow() -> AsyncGenerator[dict[str, Any], None]:
            events = fleet.events.follow(history, lambda event: event.model == model)
            async with contextlib.aclosing(events):
                async for event in events:
                    yield msgspec.to_builtins(event if to_admin else _for_all(event))

        return _event_stream(follow())


def _add_events(router: APIRouter, control: Control) -> None:
    @router.get("/events", dependencies=ADMIN, response_model=shapes.Events)
    async def fleet_events(
        limit: Lines = 100, model: str | None = None, follow: bool = False
    ) -> shapes.Events | StreamingResponse:
        """What happened to the fleet, oldest first; `follow=true`: a stream that goes on."""
        events = control.fleet.history

        def wanted(event: Event) -> bool:
            return model in (None, event.model)

        if not follow:
            return shapes.Events(events=[_event(e) for e in events.last(limit, wanted)])

        async def stream() -> AsyncGenerator[dict[str, Any], None]:
            follower = events.follow(limit, wanted)
            async with contextlib.aclosing(follower):
                async for event in follower:
                    yield _event(event).model_dump()

        return _event_stream(stream())


def _for_all(event: Event) -> Event:
    """What anybody may read of an event: not whose key it was, nor what may tell too much."""
    detail = event.detail if event.state in OPEN_EVENTS else ""
    return replace(event, detail=detail, changed_by="")


def _event(event: Event) -> shapes.FleetEvent:
    return shapes.FleetEvent(
        seq=event.seq,
        time=event.time,
        model=event.model,
        kind=event.state,
        replica=event.replica,
        detail=event.detail,
        changed_by=event.changed_by,
    )


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
