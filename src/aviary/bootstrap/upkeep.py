"""What the control process does now and then: follow the keys, keep the request log in bounds."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from aviary.arena.ratings import rate
from aviary.auth.keys import keys_to_publish
from aviary.core.errors import AviaryError
from aviary.core.ports import FleetStore
from aviary.core.preference import Ballots
from aviary.fleet.fleet import Fleet

if TYPE_CHECKING:
    from aviary.store.keys import SqlKeys
    from aviary.store.requests import SqlRequestLog

log = structlog.get_logger()

KEYS_EVERY_S = 0.5
UPKEEP_EVERY_S = 60.0
WARM_AFTER_S = 5.0
"""Long enough for models to start first."""
DAY_S = 86400.0
EVENTS_KEPT = 100_000
DELIVERED_WITHIN_S = 1.0


class KeyPublisher:
    """Hands the stored keys to the fleet: at once when asked, and when another process changed."""

    def __init__(self, keys: SqlKeys, fleet: Fleet, open_without_keys: bool) -> None:
        self._keys = keys
        self._fleet = fleet
        self._open_without_keys = open_without_keys
        self._publishing = asyncio.Lock()

    async def now(self) -> None:
        """Publish what is stored; returns when every gateway worker has been told."""
        async with self._publishing:  # else what was read first might be published last
            active = await asyncio.to_thread(self._keys.active)
            self._fleet.set_keys(keys_to_publish(active, open_without_keys=self._open_without_keys))
        await self._fleet.everywhere(DELIVERED_WITHIN_S)

    async def poll(self) -> None:
        """`aviary keys` writes to the database directly; notice that within a second."""
        version = ""
        while True:
            try:
                latest = await asyncio.to_thread(self._keys.version)
                if latest != version:
                    await self.now()
                    version = latest
            except AviaryError as error:
                log.warning("cannot read the keys; those known stay good", error=str(error))
            await asyncio.sleep(KEYS_EVERY_S)


async def keep_in_order(
    keys: SqlKeys, fleet: FleetStore, ballots: Ballots, log_url: str, log_days: int
) -> None:
    """Once a minute: delete old records, events and battles, note when each key was used last.

    Args:
        keys: The key store.
        fleet: The store of the fleet's events.
        ballots: Battles; those without a vote are kept as long as records.
        log_url: SQLAlchemy URL of the request log.
        log_days: How many days records are kept.
    """
    requests: SqlRequestLog | None = None
    since = time.time()
    await asyncio.sleep(WARM_AFTER_S)
    await _warm(ballots)
    try:
        while True:
            await asyncio.sleep(UPKEEP_EVERY_S)
            try:
                if requests is None:
                    requests = await asyncio.to_thread(_open_log, log_url)
                until = time.time()
                used = await asyncio.to_thread(requests.keys_used, since)
                if used:
                    await asyncio.to_thread(keys.touch, used)
                since = until - UPKEEP_EVERY_S  # records are written a little later than they began
                await asyncio.to_thread(_prune_requests, requests, until, log_days)
                await asyncio.to_thread(fleet.prune_events, EVENTS_KEPT)
                await asyncio.to_thread(ballots.prune, until - log_days * DAY_S)
            except AviaryError as error:
                log.warning("upkeep of the store failed", error=str(error))
            except Exception:  # models go on
                log.exception("upkeep of the store failed")
    finally:
        if requests is not None:
            requests.close()


async def _warm(ballots: Ballots) -> None:
    """Rate once before anybody asks: the libraries for it take seconds to load."""
    try:
        await asyncio.to_thread(lambda: rate(ballots.ballots()))
    except Exception:  # the leaderboard will say so; models go on
        log.exception("ratings failed")


def _prune_requests(requests: SqlRequestLog, now: float, log_days: int) -> None:
    """Delete what is old of the log, as far as it is rolled up, and of the roll-ups."""
    from aviary.store.replicas import prune_counts
    from aviary.store.rollup import RollUp, rolled_up

    requests.prune(now - log_days * DAY_S, rolled_up(requests.database))
    RollUp(requests.database).prune(now)
    prune_counts(requests.database, now)


def _open_log(url: str) -> SqlRequestLog:
    from aviary.store.requests import SqlRequestLog

    return SqlRequestLog.open(url)
