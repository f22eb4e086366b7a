"""`POST /api/battles`: one prompt, several models, one stream of events.

All of it happens in the worker that the client asked, see docs/adr/0014. The control process only
stores the battle at its end.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from time import monotonic, perf_counter
from typing import Any, Final

import msgspec
import structlog

from aviary.arena.asked import AskedBattle, read_asked
from aviary.auth.keys import require
from aviary.auth.limits import Limits
from aviary.core.errors import AviaryError, StoreError
from aviary.core.preference import Battle, BattleAnswer
from aviary.gateway.asked import check_length
from aviary.gateway.column import Column
from aviary.gateway.exchange import GatewayState
from aviary.wire.asgi import (
    BATTLES_PATH,
    EVENT_STREAM,
    TOKEN_HEADER,
    Leaving,
    Receive,
    Scope,
    Send,
    read_body,
)
from aviary.wire.client import Target, WireError
from aviary.wire.sse import encode_event

log = structlog.get_logger()

PATH: Final = "/api/battles"
A_SESSION_PER_MINUTE: Final = 60
AN_ADDRESS_PER_MINUTE: Final = 240
"""Both in each worker."""
MOST_EVENTS_AHEAD: Final = 256
"""So many events wait for a client that reads slowly, before the answers wait for it."""
HEARTBEAT_S: Final = 10.0
STORE_S: Final = 10.0
ANSWER_LIMIT_BYTES: Final = 65536

Event = dict[str, Any]


class Battles:
    """Runs the battles of one worker.

    Args:
        control: Where the control process listens, which stores them.
    """

    def __init__(self, control: Target) -> None:
        self._control = control
        self._limits = Limits(A_SESSION_PER_MINUTE, AN_ADDRESS_PER_MINUTE, "battles")

    async def serve(self, state: GatewayState, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request for a battle.

        Raises:
            AviaryError: it was refused; nothing was sent.
            ClientLeft: before its request was complete.
        """
        key = state.identify(scope)
        require(key, "user")
        check_length(scope["headers"], state.max_body_bytes)
        asked = read_asked(await read_body(receive, state.max_body_bytes))
        address = scope.get("client")
        self._limits.take(asked.session, str(address[0]) if address else "", monotonic())
        if asked.blind:
            secrets.SystemRandom().shuffle(asked.models)
        battle = Battle(
            id=f"bt-{secrets.token_urlsafe(16)}",
            created=time.time(),
            messages=asked.messages,
            system=asked.system,
            blind=asked.blind,
            task=asked.task,
            session=asked.session,
            key="" if key is None else key.id,
        )
        leaving = Leaving(scope, receive)
        try:
            await self._stream(state, scope, asked, battle, send)
        except asyncio.CancelledError:
            if not leaving.left:
                raise
            leaving.swallow()
        finally:
            leaving.stop()

    async def _stream(
        self, state: GatewayState, scope: Scope, asked: AskedBattle, battle: Battle, send: Send
    ) -> None:
        """Send the battle's events; when the client leaves, all its requests end."""
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [
                    EVENT_STREAM,
                    (b"cache-control", b"no-cache"),
                    (b"x-accel-buffering", b"no"),
                ],
            }
        )
        events: asyncio.Queue[Event | None] = asyncio.Queue(MOST_EVENTS_AHEAD)
        left = asyncio.Event()
        running = asyncio.create_task(self._run(state, scope, asked, battle, (events, left)))
        try:
            while await _send_events(events, send):
                pass
            await running
        except BaseException:
            left.set()
            raise
        finally:
            await _finish(running, events)

    async def _run(
        self,
        state: GatewayState,
        scope: Scope,
        asked: AskedBattle,
        battle: Battle,
        link: tuple[asyncio.Queue[Event | None], asyncio.Event],
    ) -> None:
        """Have all columns answered, store the battle, and put an end to its events."""
        events, left = link
        began = perf_counter()

        def teller(number: int) -> Callable[[Event], Awaitable[None]]:
            async def tell(event: Event) -> None:
                at_ms = round((perf_counter() - began) * 1000.0, 3)
                await events.put({"column": number, "at_ms": at_ms, **event})

            return tell

        first = {"kind": "battle", "battle": battle.id, "blind": battle.blind}
        await events.put({**first, "columns": len(asked.models)})
        works: list[Awaitable[BattleAnswer]] = []
        for number, one in enumerate(asked.models):
            column = Column(
                number, one.model, one.parameters, blind=battle.blind, tell=teller(number)
            )
            request = (f"{battle.id}:{number}".encode(), asked.body_of(one))
            works.append(column.run(state, scope, request, left))
        try:
            answers = await asyncio.gather(*works)
            if not left.is_set():
                whole = replace(battle, answers=tuple(answers))
                await events.put({"kind": "stored", **await self._store(state, whole)})
        except Exception as error:
            log.exception("battle failed", battle=battle.id)
            await events.put({"kind": "stored", "stored": False, "error": type(error).__name__})
        finally:
            await events.put(None)

    async def _store(self, state: GatewayState, battle: Battle) -> Event:
        """Have the battle stored; what is told of that."""
        try:
            async with asyncio.timeout(STORE_S):
                response = await state.client.request(
                    self._control,
                    "POST",
                    BATTLES_PATH,
                    [(TOKEN_HEADER, state.token), (b"content-type", b"application/json")],
                    msgspec.json.encode(battle),
                    silence_s=STORE_S,
                )
                try:
                    body = await response.read_all(ANSWER_LIMIT_BYTES)
                finally:
                    response.close()
            if response.status != 200:
                raise StoreError(f"HTTP {response.status}: {body[:200]!r}")
        except (WireError, TimeoutError, AviaryError) as error:
            log.warning("battle not stored", battle=battle.id, error=str(error))
            return {"stored": False}
        return {"stored": True}


async def _send_events(events: asyncio.Queue[Event | None], send: Send) -> bool:
    """Send all events that are there, at least one; says whether more will come."""
    try:
        async with asyncio.timeout(HEARTBEAT_S):
            event = await events.get()
    except TimeoutError:
        await send({"type": "http.response.body", "body": b": \n\n", "more_body": True})
        return True
    pieces: list[bytes] = []
    while event is not None:
        pieces.append(encode_event(event))
        if events.empty():
            break
        event = events.get_nowait()
    going_on = event is not None
    body = b"".join(pieces)
    await send({"type": "http.response.body", "body": body, "more_body": going_on})
    return going_on


async def _finish(running: asyncio.Task[None], events: asyncio.Queue[Event | None]) -> None:
    """Wait for a battle's end, and throw away what nobody reads any more."""
    while not running.done():
        while not events.empty():
            events.get_nowait()
        await asyncio.wait([running], timeout=0.01)
