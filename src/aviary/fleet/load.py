"""What replicas do at this moment, and how fast they generate. Pure bookkeeping."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

WINDOW_S = 10.0
"""Over so long a time a rate is taken."""
STALE_S = 15.0
"""A count that is older says nothing of the present rate."""
LEAST_S = 0.5
"""Over a shorter time a rate would say more of chance than of speed."""


@dataclass(frozen=True, slots=True)
class Load:
    """One replica's load, as it says itself.

    Attributes:
        running: Sequences it generates now.
        waiting: Requests that wait in it for a slot.
        memory_bytes: What its process takes; `None` when unknown.
        tokens_per_s: Tokens it generated a second, over the last 10 s; `None` when unknown.
    """

    running: int = 0
    waiting: int = 0
    memory_bytes: int | None = None
    tokens_per_s: float | None = None


@dataclass(slots=True)
class TokenRates:
    """Rates from counts of tokens that were read now and then."""

    _counts: dict[str, deque[tuple[float, int]]] = field(default_factory=dict)

    def rate(self, replica: str, tokens: int, now_s: float) -> float | None:
        """Note a count, and say how many tokens came a second lately.

        Args:
            replica: Its id.
            tokens: Tokens it has generated since its start.
            now_s: Clock time.

        Returns:
            The rate, or `None` while there is no count old enough to compare with.
        """
        counts = self._counts.setdefault(replica, deque())
        counts.append((now_s, tokens))
        while len(counts) > 1 and now_s - counts[1][0] >= WINDOW_S:
            counts.popleft()
        if now_s - counts[0][0] > STALE_S:
            counts.popleft()
        began_s, before = counts[0]
        if now_s - began_s < LEAST_S:
            return None
        return max(0, tokens - before) / (now_s - began_s)

    def keep_only(self, replicas: Collection[str]) -> None:
        """Forget all other replicas."""
        for replica in self._counts.keys() - set(replicas):
            del self._counts[replica]
