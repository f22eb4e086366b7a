"""Has the control process store what a worker's battles come to: in order, many at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from time import monotonic
from typing import Final

import msgspec
import structlog

from aviary.core.errors import StoreError
from aviary.core.preference import Progress
from aviary.wire.asgi import BATTLES_PATH, TOKEN_HEADER
from aviary.wire.client import Client, Target, WireError

log = structlog.get_logger()

STORE_S: Final = 10.0
"""So long one attempt may take."""
GIVE_UP_S: Final = 30.0
"""What waits longer is not tried again; long enough for another attempt after a slow one."""
RETRY_S: Final = 0.1
MOST_AT_ONCE: Final = 500
MOST_AT_ONCE_BYTES: Final = 16 * 1024 * 1024
ANSWER_LIMIT_BYTES: Final = 4 * 1024 * 1024

_refusals = msgspec.json.Decoder(list[str])


@dataclass(frozen=True, slots=True)
class _Waiting:
    data: bytes
    deadline_s: float
    stored: asyncio.Future[bool]


class Recorder:
    """Stores by way of the control process; what waits goes together, so that many cost little.

    Args:
        control: Where the control process listens.
    """

    def __init__(self, control: Target) -> None:
        self._control = control
        self._waiting: deque[_Waiting] = deque()
        self._sending: asyncio.Task[None] | None = None

    def put(self, client: Client, token: bytes, progress: Progress) -> asyncio.Future[bool]:
        """Have something stored, after all that was put before; says in the end whether it is."""
        stored: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        data = msgspec.json.encode(progress)
        self._waiting.append(_Waiting(data, monotonic() + GIVE_UP_S, stored))
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send_all(client, token))
        return stored

    async def close(self, most_s: float) -> None:
        """Wait for what is not stored yet."""
        if self._sending is not None:
            await asyncio.wait([self._sending], timeout=most_s)
            self._sending.cancel()

    async def _send_all(self, client: Client, token: bytes) -> None:
        while self._waiting:
            batch: list[_Waiting] = []
            size = 0
            for waiting in self._waiting:
                size += len(waiting.data)
                if batch and (len(batch) == MOST_AT_ONCE or size > MOST_AT_ONCE_BYTES):
                    break
                batch.append(waiting)
            try:
                refused = await self._send(client, token, batch)
            except (WireError, TimeoutError, StoreError, msgspec.MsgspecError) as error:
                self._give_up_old(str(error) or type(error).__name__)
                await asyncio.sleep(RETRY_S)
                continue
            for waiting, reason in zip(batch, refused, strict=True):
                self._waiting.popleft()
                if reason:
                    log.warning("not stored of a battle", reason=reason)
                _tell(waiting, stored=not reason)

    def _give_up_old(self, error: str) -> None:
        """Let go what has waited too long; it is the first."""
        while self._waiting and self._waiting[0].deadline_s < monotonic():
            log.warning("not stored of a battle", reason=error)
            _tell(self._waiting.popleft(), stored=False)

    async def _send(self, client: Client, token: bytes, batch: list[_Waiting]) -> list[str]:
        """Have a batch stored; why each was refused, empty for what is stored."""
        async with asyncio.timeout(STORE_S):
            response = await client.request(
                self._control,
                "POST",
                BATTLES_PATH,
                [(TOKEN_HEADER, token), (b"content-type", b"application/json")],
                b"[" + b",".join(waiting.data for waiting in batch) + b"]",
                silence_s=STORE_S,
            )
            try:
                body = await response.read_all(ANSWER_LIMIT_BYTES)
            finally:
                response.close()
        if response.status != 200:
            raise StoreError(f"HTTP {response.status}: {body[:200]!r}")
        refused = _refusals.decode(body)
        if len(refused) != len(batch):
            raise StoreError(f"{len(refused)} answers for {len(batch)}.")
        return refused


def _tell(waiting: _Waiting, *, stored: bool) -> None:
    if not waiting.stored.done():  # nobody may wait any more
        waiting.stored.set_result(stored)
