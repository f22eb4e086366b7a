"""Figures the web app shows, looked up when asked for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from aviary.core.errors import InvalidRequest
from aviary.core.states import ReplicaView
from aviary.core.traffic import Range, Traffic
from aviary.fleet.fleet import Fleet
from aviary.fleet.load import Load, TokenRates
from aviary.replica.asking import ask_state
from aviary.wire.client import Client, Target, WireError

if TYPE_CHECKING:
    from aviary.store.figures import Figures
    from aviary.store.requests import SqlRequestLog

TOTALS_FOR_S = 1.0
TRAFFIC_FOR_S = 1.0
TRAFFIC_KEPT = 16
"""Views that are kept for that long, for many who look."""
PROBE_S = 1.0


class _Told(msgspec.Struct):
    """What is of use in a replica's own words (`ReplicaApp.view`)."""

    running: int = 0
    waiting: int = 0
    completion_tokens: int = 0
    memory_bytes: int = 0


class Observed:
    """Figures looked up on demand: replicas' load, the log's totals, lost records."""

    def __init__(
        self,
        fleet: Fleet,
        log_url: str,
        token: str,
        metrics: Path,
        publish_keys: Callable[[], Awaitable[None]],
        dropped_events: Callable[[], int],
    ) -> None:
        self._fleet = fleet
        self._url = log_url
        self._token = token.encode()
        self._metrics = metrics
        self._publish_keys = publish_keys
        self.dropped_events = dropped_events
        self._client = Client(connect_timeout_s=PROBE_S)
        self._log: SqlRequestLog | None = None
        self._lock = asyncio.Lock()
        self._totals: Mapping[str, Mapping[str, float]] = {}
        self._totals_at = 0.0
        self._rates = TokenRates()
        self._asking: asyncio.Task[Mapping[str, Load]] | None = None
        self._figures_lock = asyncio.Lock()
        self._traffic_lock = asyncio.Lock()
        self._traffic: dict[tuple[Range, str | None], tuple[float, Traffic]] = {}

    async def loads(self) -> Mapping[str, Load]:
        """What each replica that answers does now; who asks meanwhile gets the same answer."""
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask_all())
            self._asking.add_done_callback(self._asked)
        return await asyncio.shield(self._asking)

    def _asked(self, _task: object) -> None:
        self._asking = None

    async def _ask_all(self) -> Mapping[str, Load]:
        models = self._fleet.snapshot.models
        replicas = [r for model in models for r in model.replicas if r.reachable]
        loads = await asyncio.gather(*(self._load(replica) for replica in replicas))
        self._rates.keep_only([replica.id for replica in replicas])
        pairs = zip(replicas, loads, strict=True)
        return {replica.id: load for replica, load in pairs if load is not None}

    async def _load(self, replica: ReplicaView) -> Load | None:
        target = Target(replica.host, replica.port, replica.socket)
        try:
            state = await ask_state(self._client, target, replica.prefix, self._token, PROBE_S)
            told = msgspec.convert(state, _Told)
        except (WireError, InvalidRequest, msgspec.ValidationError):
            return None  # its state says what is wrong with it
        rate = self._rates.rate(replica.id, told.completion_tokens, time.monotonic())
        return Load(told.running, told.waiting, told.memory_bytes or None, rate)

    async def totals(self) -> Mapping[str, Mapping[str, float]]:
        """What the request log adds up to; a second old at most."""
        async with self._lock:
            if time.monotonic() - self._totals_at > TOTALS_FOR_S:
                self._totals = await asyncio.to_thread(self._read_totals)
                self._totals_at = time.monotonic()
        return self._totals

    def _read_totals(self) -> Mapping[str, Mapping[str, float]]:
        return self._open_log().totals()

    async def figures(self, models: Sequence[str], since: float) -> Mapping[str, Figures]:
        """What the request log says of the models' answers since a unix time."""
        async with self._figures_lock:  # the list of models does not wait behind a leaderboard
            async with self._lock:
                log = await asyncio.to_thread(self._open_log)
            return await asyncio.to_thread(_read_figures, log, models, since)

    async def traffic(self, shown: Range, model: str | None) -> Traffic:
        """What the request log's roll-ups say of a range of time; a second old at most."""
        async with self._traffic_lock:  # one at a time: views of many models take some CPU
            now_s = time.monotonic()
            kept = self._traffic.get((shown, model))
            if kept is not None and now_s - kept[0] <= TRAFFIC_FOR_S:
                return kept[1]
            async with self._lock:
                log = await asyncio.to_thread(self._open_log)
            found = await asyncio.to_thread(_read_traffic, log, shown, model)
            self._traffic.pop((shown, model), None)
            while len(self._traffic) >= TRAFFIC_KEPT:
                self._traffic.pop(next(iter(self._traffic)))
            self._traffic[shown, model] = (time.monotonic(), found)
            return found

    def _open_log(self) -> SqlRequestLog:
        from aviary.store.requests import SqlRequestLog

        if self._log is None:
            self._log = SqlRequestLog.open(self._url)
        return self._log

    async def dropped_log_records(self) -> int:
        """Sum over all workers, from their metric files."""
        return await asyncio.to_thread(_read_dropped, self._metrics)

    async def keys_changed(self) -> None:
        """Publish the keys anew."""
        await self._publish_keys()

    async def close(self) -> None:
        """Close connections and the log."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])
        await self._client.close()
        if self._log is not None:
            await asyncio.to_thread(self._log.close)


def _read_figures(log: SqlRequestLog, models: Sequence[str], since: float) -> Mapping[str, Figures]:
    from aviary.store.figures import figures

    return figures(log.database, models, since)


def _read_traffic(log: SqlRequestLog, shown: Range, model: str | None) -> Traffic:
    from aviary.store.traffic import read_traffic

    return read_traffic(log.database, shown, model)


def _read_dropped(folder: Path) -> int:
    from prometheus_client import CollectorRegistry
    from prometheus_client.multiprocess import MultiProcessCollector

    if not folder.is_dir():
        return 0
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
    value = registry.get_sample_value("aviary_request_log_dropped_records")
    return int(value or 0)
