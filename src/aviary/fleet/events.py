"""What happened to models and replicas: a bounded history that can be followed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from aviary.core.ports import StoredEvent

Item = TypeVar("Item")

HISTORY = 2000
LAG_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    Attributes:
        time: Unix time in seconds.
        model: The model it concerns.
        state: State of the replica, or what happened to the model when `replica` is empty.
        replica: The replica it concerns.
        detail: In words.
        progress: Done fraction of a start, when known.
        changed_by: Who did it: a key's id, `aviary` when the fleet did, empty for replicas.
        seq: Number of a kept event, growing; 0 for mere progress.
    """

    time: float
    model: str
    state: str
    replica: str = ""
    detail: str = ""
    progress: float | None = None
    changed_by: str = ""
    seq: int = 0

    @classmethod
    def of(cls, kept: StoredEvent) -> Event:
        """From what the store keeps."""
        return cls(
            time=kept.time,
            model=kept.model,
            state=kept.kind,
            replica=kept.replica,
            detail=kept.detail,
            changed_by=kept.changed_by,
            seq=kept.seq,
        )


def _all(_item: object) -> bool:
    return True


class Feed(Generic[Item]):
    """A bounded history of items and live readers of it. Use within one event loop.

    A reader that does not keep up loses the oldest items, never the newest, and holds up nobody.
    """

    def __init__(self, history: int = HISTORY) -> None:
        self._items: deque[Item] = deque(maxlen=history)
        self._readers: set[asyncio.Queue[Item]] = set()

    def add(self, item: Item) -> None:
        """Append one item and hand it to all readers."""
        self._items.append(item)
        for queue in self._readers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(item)

    def last(self, count: int, keep: Callable[[Item], bool] = _all) -> list[Item]:
        """The newest items that `keep` accepts, oldest first."""
        items = [item for item in self._items if keep(item)]
        return items[-count:] if count > 0 else []

    async def follow(
        self, count: int, keep: Callable[[Item], bool] = _all
    ) -> AsyncGenerator[Item, None]:
        """The last `count` items, then each new one as it comes; never ends by itself."""
        queue: asyncio.Queue[Item] = asyncio.Queue(LAG_LIMIT)
        self._readers.add(queue)
        try:
            for item in self.last(count, keep):
                yield item
            while True:
                item = await queue.get()
                if keep(item):
                    yield item
        finally:
            self._readers.discard(queue)
