"""Admission to an engine: so many sequences at once, so many requests in line, no more.

The line is fair between clients, see `aviary.replica.line`. A request that comes when it is full
takes the newest place of the client that has the most, if that one has more than it; else it is
refused. Both are told when to come back.

`retry-after` is a promise: who comes back at that time finds room. Each client that is refused is
told of another place that will become free, reckoned from the service times of requests that have
ended and of those that run. Up to half of the line is held for them against who comes meanwhile
and was told nothing. Room is a place in line: to have one is not to be served within `wait_s`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice, repeat
from time import monotonic

from aviary.core.errors import Overloaded
from aviary.replica.line import FairLine, Place, ServiceTimes, turns_s
from aviary.replica.promises import Promises

FORECAST_S = 0.1
"""For so long a forecast is good while nobody comes or goes."""
LEAST_RETRY_S = 0.1


@dataclass(slots=True, eq=False)
class _Turn:
    """What a place in line leads to: a ticket, or a refusal."""

    outcome: asyncio.Future[Ticket]
    came: float


class Admission:
    """Counts slots and the line before them. Use within one event loop.

    Args:
        slots: Sequences the engine generates at once.
        queue: Most requests in line.
        wait_s: Longest time in line, in seconds.
        clock: Gives seconds; another one serves tests.
    """

    def __init__(
        self, slots: int, queue: int, wait_s: float, *, clock: Callable[[], float] = monotonic
    ) -> None:
        self._slots = slots
        self._queue = queue
        self._wait_s = wait_s
        self._clock = clock
        self._free = slots
        self._running: set[Ticket] = set()
        self._line: FairLine[_Turn] = FairLine()
        self._times = ServiceTimes()
        self._promises = Promises()
        self._forecast = Forecast(0.0, iter(()))

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

    async def enter(self, weight: int = 1, client: str = "", *, admitted: bool = False) -> Ticket:
        """Wait for `weight` slots; leave by the ticket.

        Args:
            weight: Slots it needs at once; more than there are means all.
            client: Whose request it is. Those of nobody count as one client's.
            admitted: The request had its slots already, at a replica that died in the middle of
                the answer: it goes to the head of the line, however long that is.

        Raises:
            Overloaded: the line is full, another client's request took this one's place, or the
                longest wait is over.
        """
        weight = max(1, min(weight, self._slots))
        must_wait = len(self._line) > 0 or self._free < weight
        if must_wait and not admitted and not self._has_room(client):
            self._make_room(client)
        turn = _Turn(asyncio.get_running_loop().create_future(), self._clock())
        place = self._line.add(client, weight, turn, ahead=admitted)
        self._advance()  # also when others wait: a new client's turn may be the next
        if turn.outcome.done():
            return turn.outcome.result()
        try:
            async with asyncio.timeout(self._wait_s) as limit:
                return await turn.outcome
        except BaseException:
            self._give_up(place)
            if limit.expired():
                raise Overloaded(
                    f"No slot became free within {self._wait_s:g} s.",
                    hint="Try again later.",
                    retry_after_s=self._slot_s(),
                ) from None
            raise

    def _give_up(self, place: Place[_Turn]) -> None:
        """Leave the line, or give back what came in the very moment of leaving it."""
        outcome = place.item.outcome
        if self._line.remove(place):
            self._advance()  # the others may have waited for this one
        elif outcome.done() and not outcome.cancelled() and outcome.exception() is None:
            self._put_back(outcome.result())

    def _has_room(self, client: str) -> bool:
        """Whether the line has a place for the client that is not held for another one."""
        now = self._clock()
        self._promises.forget(now)
        if self._promises.redeem(client, now):
            return len(self._line) < self._queue
        # Who has many promises holds no more places by them than the client would have.
        held = self._promises.others(client, self._line.places(client) + 1)
        return len(self._line) < self._queue - min(held, self._queue // 2)

    def _make_room(self, client: str) -> None:
        """Free a place in the line, or refuse the client."""
        victim = self._line.crowded_out_by(client)
        if victim is None:
            raise self._refusal(client)
        self._line.remove(victim)
        self._forecast.expire()
        if not victim.item.outcome.done():  # else it is being cancelled
            victim.item.outcome.set_exception(self._refusal(victim.client))

    def _refusal(self, client: str) -> Overloaded:
        return Overloaded(
            f"All {self._slots} slots are busy and {len(self._line)} requests wait.",
            hint="Try again later.",
            retry_after_s=self._promise_s(client),
        )

    def leave(self, ticket: Ticket) -> None:
        """Give a ticket's slots back (called by the ticket)."""
        self._times.ended(self._clock() - ticket.entered)
        self._put_back(ticket)

    def _put_back(self, ticket: Ticket) -> None:
        self._running.remove(ticket)
        self._free += ticket.weight
        self._advance()

    def _advance(self) -> None:
        """Admit whose turn it is. Called after each change."""
        while (place := self._line.take(self._free)) is not None:
            if place.item.outcome.done():
                continue  # it is being cancelled
            self._free -= place.weight
            ticket = Ticket(self, place.weight, self._clock())
            self._running.add(ticket)
            place.item.outcome.set_result(ticket)
        self._forecast.expire()

    # when to come back

    def _promise_s(self, client: str) -> float:
        """In how many seconds a place will be free that was promised to nobody else.

        A client's second promise counts after the first one of each other client. Who has several
        may therefore find that another, with fewer, has come first.
        """
        now = self._clock()
        own = self._promises.own(client)
        before = own + self._promises.others(client, own + 1)
        free = max(0, self._queue - len(self._line))  # they are held for others, who come first
        room_s = self._room_s(max(1, before + 1 - free))
        self._promises.make(client, now + room_s)
        return room_s

    def _room_s(self, count: int) -> float:
        """In how many seconds so many requests will have left the line, by a slot or too late."""
        in_turn_s = self._turn_s(count - 1)
        late = next(islice(self._line.oldest(), count - 1, None), None)
        if late is None:
            return in_turn_s
        late_s = late.item.came + self._wait_s - self._clock()
        return max(LEAST_RETRY_S, min(in_turn_s, late_s))

    def _slot_s(self) -> float:
        """In how many seconds a slot will be free for one more request."""
        return self._turn_s(len(self._line))

    def _turn_s(self, index: int) -> float:
        """In how many seconds slots will be free for that one of the requests in line.

        Those beyond the line's end need one slot each.
        """
        now = self._clock()
        if not self._forecast.made <= now < self._forecast.until:
            ran = [(ticket.weight, now - ticket.entered) for ticket in self._running]
            turns = turns_s(
                self._slots,
                [(weight, self._times.remaining_s(run_s)) for weight, run_s in ran],
                chain((place.weight for place in self._line.order()), repeat(1)),
                self._times.expected_s(run_s for _, run_s in ran),
            )
            self._forecast = Forecast(now, turns)
        return max(LEAST_RETRY_S, self._forecast.at(index) - now)


class Forecast:
    """When slots will be free, reckoned as far as anybody asks."""

    __slots__ = ("_times", "_turns", "made", "until")

    def __init__(self, made: float, turns: Iterator[float]) -> None:
        self.made = made
        self.until = made + FORECAST_S
        self._turns = turns
        self._times: list[float] = []

    def expire(self) -> None:
        """Somebody came or went."""
        self.until = self.made

    def at(self, index: int) -> float:
        """When the turn of that index is, by the clock."""
        while len(self._times) <= index:
            self._times.append(self.made + next(self._turns))
        return self._times[index]


class Ticket:
    """Slots that are taken until `leave`.

    Attributes:
        weight: How many.
        entered: When, by the admission's clock.
    """

    __slots__ = ("_admission", "entered", "weight")

    def __init__(self, admission: Admission, weight: int, entered: float) -> None:
        self._admission: Admission | None = admission
        self.weight = weight
        self.entered = entered

    def leave(self) -> None:
        """Give the slots back; may be called twice."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission.leave(self)
