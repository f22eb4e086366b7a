"""What was promised to clients that were refused: when there would be room. No clock.

A promise holds a place for a while: without that, whoever comes first would take what another was
told to wait for.
"""

from __future__ import annotations

from bisect import insort

MOST_PROMISES = 256
"""So many are remembered; who is refused beyond that is told a time that holds no place."""
HELD_S = 3.0
"""For so long after its time a place is held: whole seconds are told, and clients are late."""


class Promises:
    """Times at which clients come back, by the caller's clock in seconds."""

    def __init__(self) -> None:
        self._due: dict[str, list[float]] = {}
        self._count = 0

    def make(self, client: str, due: float) -> None:
        """Remember a promise."""
        if self._count < MOST_PROMISES:
            insort(self._due.setdefault(client, []), due)
            self._count += 1

    def redeem(self, client: str, now: float) -> bool:
        """Whether the client was told to come by now; that promise is then kept and gone."""
        due = self._due.get(client)
        if not due or due[0] > now:
            return False
        self._drop(client, 1)
        return True

    def forget(self, now: float) -> None:
        """Drop those whose clients did not come back in time."""
        for client, due in list(self._due.items()):
            late = sum(1 for time in due if time + HELD_S < now)
            if late:
                self._drop(client, late)

    def others(self, client: str, most: int) -> int:
        """How many there are to other clients, at most so many of each counted."""
        if not self._count:
            return 0
        return sum(min(len(due), most) for other, due in self._due.items() if other != client)

    def own(self, client: str) -> int:
        """How many there are to this client."""
        return len(self._due.get(client, ()))

    def _drop(self, client: str, count: int) -> None:
        due = self._due[client]
        del due[:count]
        self._count -= count
        if not due:
            del self._due[client]
