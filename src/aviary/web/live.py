"""`/api/live`: all models as they are now, as one stream for each who watches.

One task makes what all are sent, and only while somebody watches. Each is sent the newest state
when it has taken the one before: who reads slowly misses some, and holds up nobody.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import structlog
from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from aviary.core.errors import AviaryError
from aviary.fleet.fleet import Fleet
from aviary.fleet.load import Load
from aviary.web import shapes
from aviary.web.ports import Control
from aviary.web.roles import USER, is_admin

log = structlog.get_logger()

EVERY_S = 2.0
LEAST_S = 0.25
"""At most so often, however much happens."""

Look = Callable[[Mapping[str, Load], bool], Awaitable[Sequence[shapes.Model]]]


class Live:
    """The state of all models, made once for all who watch.

    Args:
        fleet: Says when something changed.
        ask: Asks all replicas for their load.
        look: The models as they are now, by their loads; with causes of failures or without.
    """

    def __init__(
        self, fleet: Fleet, ask: Callable[[], Awaitable[Mapping[str, Load]]], look: Look
    ) -> None:
        self._fleet = fleet
        self._ask = ask
        self._look = look
        self._watchers = 0
        self._maker: asyncio.Task[None] | None = None
        self._number = 0
        self._loads: Mapping[str, Load] = {}
        self._made: dict[bool, bytes] = {}
        self._making = asyncio.Lock()
        self._changed = asyncio.Event()

    @property
    def at_work(self) -> bool:
        """Whether states are being made."""
        return self._maker is not None

    def join(self) -> None:
        """Begin to watch; the first one starts the work."""
        self._watchers += 1
        if self._maker is None:
            self._maker = asyncio.create_task(self._make())

    def leave(self) -> None:
        """Watch no more; with the last one the work ends."""
        self._watchers -= 1
        if self._watchers == 0 and self._maker is not None:
            self._maker.cancel()
            self._maker, self._number, self._made = None, 0, {}

    async def states(self, *, causes: bool) -> AsyncIterator[bytes]:
        """Each state as a server-sent event, the present one first; between `join` and `leave`."""
        seen = 0
        while True:
            while self._number == seen:
                await self._changed.wait()
            seen = self._number
            try:
                event = await self._event(causes)
            except AviaryError as error:  # the next state comes soon
                log.warning("the state of the models cannot be shown", cause=str(error))
            else:
                yield event

    async def _event(self, causes: bool) -> bytes:
        """The present state, encoded once for all of a kind."""
        async with self._making:
            made = self._made
            if causes not in made:
                models = await self._look(self._loads, causes)
                live = shapes.Live(models=list(models), time=time.time())
                made[causes] = b"data: " + live.model_dump_json().encode() + b"\n\n"
            return made[causes]

    async def _make(self) -> None:
        """A new state after each change, and now and then, since loads change silently."""
        asking = asyncio.ensure_future(self._asked())
        generation = self._fleet.snapshot.generation
        try:
            while True:
                news = asyncio.ensure_future(self._fleet.next_snapshot(generation))
                try:
                    # A replica that does not answer must not keep the first state back.
                    most_s = None if self._number else LEAST_S
                    pending: set[asyncio.Future[Any]] = {news, asking}
                    await asyncio.wait(pending, timeout=most_s, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    news.cancel()
                if asking.done():
                    asking = asyncio.ensure_future(self._asked(EVERY_S))
                generation = self._fleet.snapshot.generation
                self._publish()
                await asyncio.sleep(LEAST_S)
        finally:
            asking.cancel()

    async def _asked(self, after_s: float = 0.0) -> None:
        await asyncio.sleep(after_s)
        try:
            self._loads = await self._ask()
        except Exception:  # what else there is to show goes on
            log.exception("replicas could not be asked for their load")

    def _publish(self) -> None:
        self._number += 1
        self._made = {}
        self._changed.set()
        self._changed = asyncio.Event()


class _Watching(StreamingResponse):
    """Counts as a watcher from its beginning to its end, however that comes."""

    def __init__(self, live: Live, *, causes: bool) -> None:
        super().__init__(
            live.states(causes=causes),
            media_type="text/event-stream",
            headers={"cache-control": "no-cache"},
        )
        self._live = live

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._live.join()
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._live.leave()


def add_live(router: APIRouter, control: Control, look: Look) -> None:
    """The stream's route."""
    live: Live | None = None

    async def ask() -> Mapping[str, Load]:
        return await control.observed.loads()

    @router.get("/live", dependencies=USER, response_class=StreamingResponse)
    async def watch(request: Request) -> StreamingResponse:
        """All models at once, after each change and every 2 s, as server-sent events."""
        nonlocal live
        if live is None:
            live = Live(control.fleet, ask, look)
        return _Watching(live, causes=is_admin(request))
