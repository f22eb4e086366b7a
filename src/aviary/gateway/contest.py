"""One running battle, or the retry of some of its columns: one stream of events."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, Final

import structlog

from aviary.arena.asked import request_of
from aviary.core.preference import Battle, BattleAnswer, Progress
from aviary.gateway.column import Column
from aviary.gateway.exchange import GatewayState
from aviary.gateway.recorder import Recorder
from aviary.wire.asgi import EVENT_STREAM, Scope, Send
from aviary.wire.sse import encode_event

log = structlog.get_logger()

MOST_EVENTS_AHEAD: Final = 256
"""So many events wait for a client that reads slowly, before the answers wait for it."""
HEARTBEAT_S: Final = 10.0
KEPT_FIRST_S: Final = 0.25
"""A column's end is told when it is stored, or after so long."""

Event = dict[str, Any]


class Contest:
    """Runs columns of a battle and tells of them.

    Args:
        state: The worker's state.
        scope: The request for it, whose client and key this is.
        battle: The battle.
        columns: Which of its columns run.
        recorder: Has stored what comes of them.
    """

    def __init__(
        self,
        state: GatewayState,
        scope: Scope,
        battle: Battle,
        columns: Sequence[int],
        recorder: Recorder,
    ) -> None:
        self._state = state
        self._scope = scope
        self._battle = battle
        self._recorder = recorder
        self._events: asyncio.Queue[Event | None] = asyncio.Queue(MOST_EVENTS_AHEAD)
        self._kept: list[asyncio.Future[bool]] = []
        self._began = perf_counter()
        self._left = False
        self._columns = {
            number: Column(
                number,
                battle.lineup[number],
                blind=battle.blind,
                tell=self._teller(number),
                keep=self._keep_answer,
            )
            for number in columns
        }

    @property
    def columns(self) -> Mapping[int, Column]:
        """The columns that run."""
        return self._columns

    def keep_beginning(self) -> None:
        """Have the battle itself stored; its answers follow."""
        self._put(Progress(self._battle.id, begun=self._battle))

    async def stream(self, send: Send) -> None:
        """Send all events; when the client leaves, all requests end."""
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
        running = asyncio.create_task(self._run())
        try:
            while await self._send_events(send):
                pass
            await running
        except BaseException:
            self._left = True
            for column in self._columns.values():
                column.leave()
            raise
        finally:
            await self._finish(running)

    def _put(self, progress: Progress) -> asyncio.Future[bool]:
        stored = self._recorder.put(self._state.client, self._state.token, progress)
        self._kept.append(stored)
        return stored

    async def _keep_answer(self, answer: BattleAnswer) -> None:
        stored = self._put(Progress(self._battle.id, answer=answer))
        await asyncio.wait([stored], timeout=KEPT_FIRST_S)

    def _teller(self, number: int) -> Callable[[Event], Awaitable[None]]:
        async def tell(event: Event) -> None:
            at_ms = round((perf_counter() - self._began) * 1000.0, 3)
            await self._events.put({"column": number, "at_ms": at_ms, **event})

        return tell

    async def _run(self) -> None:
        """Have all columns answered, see that they are stored, and put an end to the events."""
        battle, events = self._battle, self._events
        first = {"kind": "battle", "battle": battle.id, "blind": battle.blind}
        await events.put({**first, "columns": len(battle.lineup)})
        works: list[asyncio.Task[None]] = []
        for number, column in self._columns.items():
            body = request_of(battle, battle.lineup[number])
            request = (f"{battle.id}:{number}".encode(), body)
            works.append(asyncio.create_task(column.run(self._state, self._scope, request)))
        try:
            await asyncio.gather(*works)
            if not self._left:
                stored = all(await asyncio.gather(*self._kept))
                await events.put({"kind": "stored", "stored": stored})
        except Exception as error:
            log.exception("battle failed", battle=battle.id)
            for column in self._columns.values():
                column.leave()  # none may go on that nobody stops or reads
            await asyncio.wait(works)
            await events.put({"kind": "stored", "stored": False, "error": type(error).__name__})
        finally:
            await events.put(None)

    async def _send_events(self, send: Send) -> bool:
        """Send all events that are there, at least one; says whether more will come."""
        events = self._events
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

    async def _finish(self, running: asyncio.Task[None]) -> None:
        """Wait for the end, and throw away what nobody reads any more."""
        while not running.done():
            while not self._events.empty():
                self._events.get_nowait()
            await asyncio.wait([running], timeout=0.01)
