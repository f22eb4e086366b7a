"""Rolls the request log up, every few seconds, as long as this Aviary runs."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from aviary.store.rollup import RollUp

log = structlog.get_logger()

EVERY_S = 2.0
WARN_EVERY_S = 60.0


async def roll_up(log_url: str) -> None:
    """Roll up what is new; a log that was never rolled up is caught up bit by bit.

    Half of the time it pauses then, so that it takes no more than half a core.

    Args:
        log_url: SQLAlchemy URL of the request log.
    """
    rolling: RollUp | None = None
    warned_at = float("-inf")
    try:
        pause_s = EVERY_S
        while True:
            await asyncio.sleep(pause_s)  # first: the start has more urgent things to do
            pause_s = EVERY_S
            began = time.monotonic()
            try:
                if rolling is None:
                    rolling = await asyncio.to_thread(_open, log_url)
                taken = await asyncio.to_thread(rolling.step)
                if taken >= rolling.batch_records:
                    pause_s = min(time.monotonic() - began, EVERY_S)
            except Exception as error:  # figures for people: nothing in them may end the serving
                if began - warned_at >= WARN_EVERY_S:
                    warned_at = began
                    log.warning("the request log cannot be rolled up", error=str(error))
    finally:
        if rolling is not None:
            rolling.database.close()


def _open(url: str) -> RollUp:
    from aviary.store.database import open_database
    from aviary.store.rollup import RollUp

    return RollUp(open_database(url, "requests"))
