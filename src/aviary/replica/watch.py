"""How long an engine may be silent, and what the gateway hears meanwhile.

Both watch the clock without a task or a timer for each token: what is heard only notes the time,
and a timer that fires too early sets itself anew.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from types import TracebackType
from typing import Self

import structlog

from aviary.core.errors import TimedOut
from aviary.core.ports import Headers
from aviary.wire.asgi import Send

SIGN_OF_LIFE_S = 10.0
"""The gateway gives up an upstream that sends nothing; so often we send something that is nothing:
an SSE comment, or white space before a JSON document."""

log = structlog.get_logger()


class Quiet:
    """Calls a function whenever `heard` was not called for so many seconds."""

    __slots__ = ("_after_s", "_call", "_last", "_loop", "_timer")

    def __init__(self, after_s: float, call: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._after_s = after_s
        self._call = call
        self._last = self._loop.time()
        self._timer = self._loop.call_later(after_s, self._look)

    def heard(self) -> None:
        """Begin to count anew."""
        self._last = self._loop.time()

    def hold(self) -> None:
        """Do not count until `heard` is called."""
        self._last = math.inf

    def stop(self) -> None:
        """Never call again."""
        self._timer.cancel()

    def _look(self) -> None:
        now = self._loop.time()
        since = min(self._last, now)
        if since + self._after_s <= now:
            since = self._last = now
            self._timer = self._loop.call_at(since + self._after_s, self._look)
            self._call()
        else:
            self._timer = self._loop.call_at(since + self._after_s, self._look)


class SilenceLimit:
    """Cancels the present task inside the `with` when the engine is silent for too long.

    The cancellation leaves the `with` as `TimedOut`.
    """

    def __init__(self, limit_s: float, model: str) -> None:
        self._limit_s = limit_s
        self._model = model
        self._task = asyncio.current_task()
        self._quiet: Quiet | None = None
        self._expired = False

    def __enter__(self) -> Self:
        self._quiet = Quiet(self._limit_s, self._expire)
        return self

    def heard(self) -> None:
        """The engine gave a sign of life."""
        if self._quiet is not None:
            self._quiet.heard()

    def hold(self) -> None:
        """It is not the engine's turn now."""
        if self._quiet is not None:
            self._quiet.hold()

    def _expire(self) -> None:
        if self._task is not None and not self._expired:
            self._expired = True
            self._task.cancel()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if self._quiet is not None:
            self._quiet.stop()
        if not self._expired or self._task is None:
            return
        if self._task.uncancel() > 0:
            return  # someone else cancelled too, and comes first
        if kind is not None and issubclass(kind, asyncio.CancelledError):
            raise TimedOut(
                f"{self._model}: the engine was silent for {self._limit_s:g} s.",
                hint="Longer silences are allowed by limits.timeout in its spec.",
            ) from None


class Answer:
    """An answer on its way out: the head goes with the first bytes, signs of life in between.

    Attributes:
        started: The head was sent: it is too late for another status.
        begun: The engine's own bytes were sent.
    """

    def __init__(self, send: Send, status: int, headers: Callable[[], Headers]) -> None:
        self.started = False
        self.begun = False
        self._send = send
        self._status = status
        self._headers = headers
        kind = next((value for name, value in headers() if name == b"content-type"), b"")
        self.streamed = kind.startswith(b"text/event-stream")
        self._quiet = Quiet(SIGN_OF_LIFE_S, self._sign)
        self._signing: asyncio.Task[None] | None = None

    async def piece(self, data: bytes, *, more: bool = True) -> None:
        """Send bytes of the engine's."""
        if self._signing is not None:
            await self._settle()
        self.begun = True
        if not self.started:
            await self._head()
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
        self._quiet.heard()

    async def end(self) -> bool:
        """No more signs of life; whether the head was sent."""
        self._quiet.stop()
        await self._settle()
        return self.started

    def stop(self) -> None:
        """Let go of everything."""
        self._quiet.stop()
        if self._signing is not None:
            self._signing.cancel()

    async def _settle(self) -> None:
        signing, self._signing = self._signing, None
        if signing is not None:
            await asyncio.wait([signing])

    async def _head(self) -> None:
        self.started = True
        await self._send(
            {
                "type": "http.response.start",
                "status": self._status,
                "headers": list(self._headers()),
            }
        )

    def _sign(self) -> None:
        if self._signing is not None and not self._signing.done():
            return  # the last one is still on its way
        if self.streamed or not self.begun:
            self._signing = asyncio.create_task(self._send_sign())

    async def _send_sign(self) -> None:
        sign = b": \n\n" if self.streamed else b" "
        try:
            if not self.started:
                await self._head()
            await self._send({"type": "http.response.body", "body": sign, "more_body": True})
        except Exception as error:
            log.debug("sign of life not sent", error=repr(error))
