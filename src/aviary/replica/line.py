"""A line of requests that is fair between clients, and when it will move. No clock, no waiting.

Each client has a line of its own, served in turn; within it, first come, first served. A turn is
one slot: who took several at once (`n` > 1) is passed over until the others have had as many. A
client that comes new stands before the one that was served last, so one client's hundreds of
requests delay another's single one by no more than the next slot that becomes free.

Whoever's turn it is keeps it: nobody overtakes a request that waits for several slots, but those
that had their slots before (`ahead`), at a replica that died.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")

NEWEST = 0.2
"""Weight of the newest service time in the running means."""
OVERDUE = 1.5
"""A request that runs longer than expected is expected to run so many times as long as it has."""


@dataclass(slots=True, eq=False)
class Place(Generic[Item]):
    """One request's place in line.

    Attributes:
        client: Whose request it is.
        weight: Slots it needs at once.
        item: What the caller keeps there.
    """

    client: str
    weight: int
    item: Item


@dataclass(slots=True, eq=False)
class _Client(Generic[Item]):
    places: OrderedDict[Place[Item], None] = field(default_factory=OrderedDict)
    debt: int = 0
    """Turns to be passed over."""


class FairLine(Generic[Item]):
    """The line. Adding, removing and taking the next are done in constant time."""

    def __init__(self) -> None:
        self._ring: OrderedDict[str, _Client[Item]] = OrderedDict()  # the first one's turn is next
        self._ahead: OrderedDict[Place[Item], None] = OrderedDict()
        self._places: OrderedDict[Place[Item], None] = OrderedDict()
        self._last = ""  # the client that was served last

    def __len__(self) -> int:
        return len(self._places)

    def add(self, client: str, weight: int, item: Item, *, ahead: bool = False) -> Place[Item]:
        """Stand in line, at the end of the client's own; or `ahead` of everybody's."""
        place = Place(client, weight, item)
        if ahead:
            self._ahead[place] = self._places[place] = None
            return place
        mine = self._ring.get(client)
        if mine is None:
            newest = next(reversed(self._ring), None)
            mine = self._ring[client] = _Client()
            if newest is not None and newest == self._last:
                self._ring.move_to_end(newest)
        mine.places[place] = None
        self._places[place] = None
        return place

    def remove(self, place: Place[Item]) -> bool:
        """Leave the line; says whether it stood there."""
        if place not in self._places:
            return False
        del self._places[place]
        if place in self._ahead:
            del self._ahead[place]
            return True
        mine = self._ring[place.client]
        del mine.places[place]
        if not mine.places and not mine.debt:
            del self._ring[place.client]
        return True

    def take(self, free: int) -> Place[Item] | None:
        """The next request, out of the line, if the slots that are free are enough for it."""
        if not self._places:
            self._ring.clear()  # with nobody in line, nobody is owed anything
            return None
        if self._ahead:
            place = next(iter(self._ahead))
            if place.weight > free:
                return None
            del self._ahead[place]
            del self._places[place]
            return place
        client = self._turn()
        mine = self._ring[client]
        place = next(iter(mine.places))
        if place.weight > free:
            return None
        del mine.places[place]
        del self._places[place]
        mine.debt = place.weight - 1
        if mine.places or mine.debt:
            self._ring.move_to_end(client)
        else:
            del self._ring[client]
        self._last = client
        return place

    def _turn(self) -> str:
        """Whose turn it is. There must be somebody."""
        while True:
            client, first = next(iter(self._ring.items()))
            if first.debt:
                first.debt -= 1
                self._ring.move_to_end(client)
            elif first.places:
                return client
            else:
                del self._ring[client]

    def order(self) -> Iterator[Place[Item]]:
        """The places in the order in which they will be taken if nobody comes. Changes nothing."""
        yield from self._ahead
        ring = deque((mine.debt, iter(mine.places)) for mine in self._ring.values())
        left = len(self._places) - len(self._ahead)
        while left:
            debt, places = ring.popleft()
            if debt:
                ring.append((debt - 1, places))
                continue
            place = next(places, None)
            if place is not None:
                left -= 1
                yield place
                ring.append((place.weight - 1, places))

    def oldest(self) -> Iterator[Place[Item]]:
        """The places in the order in which they came."""
        return iter(self._places)

    def places(self, client: str) -> int:
        """How many places a client has."""
        mine = self._ring.get(client)
        return len(mine.places) if mine is not None else 0

    def crowded_out_by(self, client: str) -> Place[Item] | None:
        """The place to give up, in a full line, for one more request of this client.

        That is the newest one of the client with the most places, if it will then still have as
        many as the one that comes. So a line that is full is shared as evenly as it is asked for,
        and a client that is alone may have all of it.
        """
        most = max(self._ring.values(), key=lambda other: len(other.places), default=None)
        would_have = self.places(client) + 1
        if most is None or len(most.places) <= would_have:
            return None
        return next(reversed(most.places))


class ServiceTimes:
    """How long requests take, from those that have ended and those that run. Seconds."""

    def __init__(self) -> None:
        self._mean_s = 1.0  # a guess, until one has ended
        self._deviation_s = 0.5
        self._guessed = True

    def ended(self, service_s: float) -> None:
        """One request has ended."""
        if self._guessed:
            self._mean_s, self._deviation_s, self._guessed = service_s, service_s / 2, False
            return
        error_s = service_s - self._mean_s
        self._mean_s += NEWEST * error_s
        self._deviation_s += NEWEST * (abs(error_s) - self._deviation_s)

    def expected_s(self, running_s: Iterable[float]) -> float:
        """How long the next request will take: seldom longer.

        Args:
            running_s: For how long each of the running ones has run.
        """
        usual_s = self._mean_s + self._deviation_s
        # Those that run already for longer say that the times have changed.
        times_s = [max(usual_s, OVERDUE * run_s) for run_s in running_s]
        return (usual_s / NEWEST + sum(times_s)) / (1 / NEWEST + len(times_s))

    def remaining_s(self, run_s: float) -> float:
        """How long one that has run for so long will go on."""
        return max(self._mean_s + self._deviation_s, OVERDUE * run_s) - run_s


def turns_s(
    slots: int, running: Iterable[tuple[int, float]], waiting: Iterable[int], service_s: float
) -> Iterator[float]:
    """When each waiting request will get its slots, in seconds from now, in the line's order.

    Args:
        slots: Slots in all.
        running: Slots and remaining seconds of each running request.
        waiting: Slots that each waiting request needs, in the order in which they will be taken.
        service_s: How long each of them will then run.
    """
    ends = [(left_s, weight) for weight, left_s in running]
    heapq.heapify(ends)
    free = slots - sum(weight for _, weight in ends)
    now_s = 0.0
    for weight in waiting:
        while free < weight:
            now_s, freed = heapq.heappop(ends)
            free += freed
        free -= weight
        yield now_s
        heapq.heappush(ends, (now_s + service_s, weight))
