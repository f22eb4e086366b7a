"""Admission to an engine: so many sequences at once, so many requests in line, no more.

First come, first served. A request that needs several sequences (`n` > 1) waits until so many are
free, and nobody overtakes it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from time import monotonic

from aviary.core.errors import Overloaded

# Weight of the newest service time in the running mean that `retry-after` is computed from.
NEWEST = 0.2


class Admission:
    """Counts slots and the line before them. Use within one event loop."""

    def __init__(self, slots: int, queue: int, wait_s: float) -> None:
        self._slots = slots
        self._queue = queue
        self._wait_s = wait_s
        self._free = slots
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._mean_service_s = 1.0

    @property
    def running(self) -> int:
        """Slots in use."""
        return self._slots - self._free

    @property
    def waiting(self) -> int:
        """Requests in line."""
        return len(self._line)

    @property
    def load(self) -> bytes:
        """`running,waiting,slots`, as the `x-aviary-load` header carries it."""
        return b"%d,%d,%d" % (self.running, len(self._line), self._slots)

    def retry_after_s(self) -> float:
        """When a slot will probably be free for one more request."""
        return self._mean_service_s * (len(self._line) + 1) / self._slots

    async def enter(self, weight: int = 1, *, admitted: bool = False) -> Ticket:
        """Wait for `weight` slots; leave by the ticket.

        Args:
            weight: Sequences that generate at once.
            admitted: The request had its slots already, at a replica that died in the middle of
                the answer: it goes to the head of the line, however long that is.

        Raises:
            Overloaded: the line is full, or the longest wait is over.
        """
        weight = max(1, min(weight, self._slots))
        if not self._line and self._free >= weight:
            self._free -= weight
            return Ticket(self, weight)
        if len(self._line) >= self._queue and not admitted:
            raise Overloaded(
                f"All {self._slots} slots are busy and {len(self._line)} requests wait.",
                hint="Try again later.",
                retry_after_s=self.retry_after_s(),
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = (weight, turn)
        if admitted:
            self._line.appendleft(place)
            self._advance()
        else:
            self._line.append(place)
        try:
            async with asyncio.timeout(self._wait_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self._free += weight  # our turn came in the very moment we gave up
            else:
                with contextlib.suppress(ValueError):  # `_advance` may have dropped it already
                    self._line.remove(place)
            self._advance()
            if isinstance(error, TimeoutError):
                raise Overloaded(
                    f"No slot became free within {self._wait_s:g} s.",
                    hint="Try again later.",
                    retry_after_s=self.retry_after_s(),
                ) from None
            raise
        return Ticket(self, weight)

    def leave(self, weight: int, service_s: float) -> None:
        """Give slots back (called by the ticket)."""
        self._free += weight
        self._mean_service_s += NEWEST * (service_s - self._mean_service_s)
        self._advance()

    def _advance(self) -> None:
        while self._line and self._free >= self._line[0][0]:
            weight, turn = self._line.popleft()
            if turn.done():
                continue
            self._free -= weight
            turn.set_result(None)


class Ticket:
    """Slots that are taken until `leave`."""

    __slots__ = ("_admission", "_entered", "_weight")

    def __init__(self, admission: Admission, weight: int) -> None:
        self._admission: Admission | None = admission
        self._weight = weight
        self._entered = monotonic()

    def leave(self) -> None:
        """Give the slots back; may be called twice."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission.leave(self._weight, monotonic() - self._entered)
