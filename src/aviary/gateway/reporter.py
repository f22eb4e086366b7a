"""A worker's word to the control plane: which models are asked for, and which requests wait.

The fleet puts models to rest that nobody asks for, and wakes those for which requests wait.
"""

from __future__ import annotations

import asyncio
from time import monotonic

import msgspec
import structlog

from aviary.gateway.exchange import GatewayState
from aviary.wire.asgi import ACTIVITY_PATH, TOKEN_HEADER
from aviary.wire.client import Client, Target, WireError

log = structlog.get_logger()

EVERY_S = 2.0
SOON_S = 0.02
"""So long a request that waits is not reported: others that came with it go along."""
SILENCE_S = 10.0
ANSWER_LIMIT_BYTES = 65536


class Reporter:
    """Reports when something is to be told: at once when a request waits, else now and then.

    Args:
        state: What the worker's requests share.
        control: The control process.
        worker: This worker's name, unique among all.
    """

    def __init__(self, state: GatewayState, control: Target, worker: str) -> None:
        self._state = state
        self._control = control
        self._worker = worker
        self._served: dict[str, int] = {}
        self._used: dict[str, float] = {}
        self._news = asyncio.Event()
        state.table.on_hold = self._news.set

    async def run(self, client: Client) -> None:
        """Report, for ever."""
        was_idle = True
        while True:
            uses = self._uses()
            if uses or not was_idle:
                try:
                    await self._send(client, uses)
                except WireError as error:
                    log.debug("no line to the control plane", error=str(error))
                except Exception:  # whatever it was, waiting requests must be told of again
                    log.exception("activity could not be reported")
            was_idle = not uses
            try:
                async with asyncio.timeout(EVERY_S):
                    await self._news.wait()
                await asyncio.sleep(SOON_S)
            except TimeoutError:
                pass
            self._news.clear()

    def _uses(self) -> dict[str, tuple[int, int, float]]:
        """Requests in flight and held, and the seconds since the last one, of models in use."""
        now = monotonic()
        uses: dict[str, tuple[int, int, float]] = {}
        held = {route.view.id: route.held for route in self._state.table.routes if route.held}
        for model, figures in self._state.metrics.items():
            if figures.in_flight or figures.served != self._served.get(model, 0):
                self._served[model] = figures.served
                self._used[model] = now
            if now - self._used.get(model, -EVERY_S * 2) <= EVERY_S:
                age_s = 0.0 if figures.in_flight else now - self._used[model]
                uses[model] = (figures.in_flight, held.get(model, 0), age_s)
        return uses

    async def _send(self, client: Client, uses: dict[str, tuple[int, int, float]]) -> None:
        body = msgspec.json.encode({"worker": self._worker, "uses": uses})
        headers = [(TOKEN_HEADER, self._state.token), (b"content-type", b"application/json")]
        response = await client.request(
            self._control, "POST", ACTIVITY_PATH, headers, body, silence_s=SILENCE_S
        )
        try:
            await response.read_all(ANSWER_LIMIT_BYTES)
        finally:
            response.close()
