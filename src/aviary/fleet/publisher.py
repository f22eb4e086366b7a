"""Snapshots of the fleet, and who has been sent which."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from aviary.core.states import KeyView, ModelView, Snapshot


class Publisher:
    """Publishes snapshots to gateway workers, within one event loop."""

    def __init__(self) -> None:
        self._keys: tuple[KeyView, ...] = ()
        self._workers = 0
        self._visitors = False
        self._readers: dict[object, int] = {}
        self._snapshot = Snapshot()
        self._changed = asyncio.Event()

    def set_keys(self, keys: tuple[KeyView, ...]) -> None:
        """Take the keys that are good now."""
        if keys != self._keys:
            self._keys = keys
            self._publish(self._snapshot.models)

    def set_workers(self, workers: int) -> None:
        """Take the number of living gateway workers."""
        if workers != self._workers:
            self._workers = workers
            self._publish(self._snapshot.models)

    def set_visitors(self, visitors: bool) -> None:
        """Take whether people without a key may compare and vote."""
        if visitors != self._visitors:
            self._visitors = visitors
            self._publish(self._snapshot.models)

    @property
    def snapshot(self) -> Snapshot:
        """The present snapshot."""
        return self._snapshot

    def delivered(self, reader: object, generation: int | None) -> None:
        """Note which generation a reader of snapshots was sent last; `None`: it has left."""
        if generation is None:
            self._readers.pop(reader, None)
        else:
            self._readers[reader] = generation

    async def everywhere(self, most_s: float) -> None:
        """Wait until every reader has been sent the present snapshot, but not longer than told."""
        wanted = self._snapshot.generation
        deadline = time.monotonic() + most_s
        while any(generation < wanted for generation in self._readers.values()):
            if time.monotonic() > deadline:
                return
            await asyncio.sleep(0.002)

    async def next_snapshot(self, after: int) -> Snapshot:
        """The newest snapshot, once there is one newer than generation `after`."""
        while self._snapshot.generation <= after:
            await self._changed.wait()
        return self._snapshot

    def _publish(self, models: tuple[ModelView, ...]) -> bool:
        """Publish a new snapshot when something is different; whether there was anything."""
        old = self._snapshot
        new = Snapshot(old.generation + 1, models, self._keys, self._workers, self._visitors)
        if replace(new, generation=old.generation) == old:
            return False
        self._snapshot = new
        self._changed.set()
        self._changed = asyncio.Event()
        return True
