"""What gateway workers tell and ask of the battles that they run."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from aviary.core.errors import InvalidRequest, RouteMissing
from aviary.core.preference import Ballots, Found, Progress, Stop
from aviary.wire.asgi import Receive, read_body

PROGRESS_LIMIT_BYTES: Final = 256 * 1024 * 1024
STOP_LIMIT_BYTES: Final = 65536

_progress = msgspec.json.Decoder(list[Progress])
_stop = msgspec.json.Decoder(Stop)


async def keep_progress(ballots: Ballots, receive: Receive) -> list[str]:
    """Store what battles have come to; durable when this returns.

    Returns:
        Why each was refused; empty for what is stored.

    Raises:
        InvalidRequest: it is no such list.
        StoreError: the database failed.
    """
    try:
        progress = _progress.decode(await read_body(receive, PROGRESS_LIMIT_BYTES))
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"No progress of battles: {error}") from None
    return list(await asyncio.to_thread(ballots.keep, progress))


async def find_battle(ballots: Ballots, identity: str) -> Found:
    """A stored battle, all of it.

    Raises:
        RouteMissing: there is none of that id.
        StoreError: the database failed.
    """
    battle = await asyncio.to_thread(ballots.battle, identity)
    if battle is None:
        raise RouteMissing(f"There is no battle {identity[:64]!r}.", param="battle")
    return Found(battle, len(await asyncio.to_thread(ballots.votes, identity)))


async def read_stop(receive: Receive) -> Stop:
    """Which column shall stop.

    Raises:
        InvalidRequest: it does not say.
    """
    try:
        return _stop.decode(await read_body(receive, STOP_LIMIT_BYTES))
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"No column to stop: {error}") from None
