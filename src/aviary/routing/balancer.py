"""The balancer's decision: a pure function of endpoints, clock and two random numbers.

Power of two choices: look at two endpoints drawn at random and take the less loaded one. With many
gateway workers that each know only a part, this avoids the herd that "least loaded" makes (Mitzen-
macher, The Power of Two Choices in Randomized Load Balancing, 2001).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

EJECT_FIRST_S = 0.5
EJECT_MOST_S = 15.0
MOST_DOUBLINGS = 32
REPORT_BYTES = 32


@dataclass(slots=True)
class Endpoint:
    """What one gateway worker knows of one replica.

    Attributes:
        id: The replica's id.
        host: Its address.
        port: Its port.
        prefix: Path before its routes.
        slots: Sequences it generates at once.
        outstanding: Requests this worker has with it now.
        reported: Load it reported last (running + waiting, of all workers).
        reported_outstanding: `outstanding` at the time of that report.
        failures: Failed connects in a row.
        ejected_until: Clock time in seconds until which it is not asked.
        socket: Path of the Unix socket on which it listens instead of a port.
    """

    id: str
    host: str
    port: int
    prefix: str = ""
    slots: int = 1
    outstanding: int = 0
    reported: int = 0
    reported_outstanding: int = 0
    failures: int = 0
    ejected_until: float = 0.0
    socket: str = ""

    @property
    def load(self) -> float:
        """Estimated requests per slot: the last report, and what this worker did since."""
        others = max(0, self.reported - self.reported_outstanding)
        return (others + self.outstanding) / self.slots


def choose(
    endpoints: Sequence[Endpoint],
    now_s: float,
    draw: Callable[[], float],
    exclude: Collection[str] = (),
) -> Endpoint | None:
    """The endpoint to ask, or `None` when there is none to ask now.

    Args:
        endpoints: Ready replicas of the model.
        now_s: The clock.
        draw: A source of uniform random numbers in [0, 1).
        exclude: Ids of replicas that already failed this request.
    """
    usable = [e for e in endpoints if e.ejected_until <= now_s and e.id not in exclude]
    if len(usable) <= 1:
        return usable[0] if usable else None
    first = int(draw() * len(usable))
    second = int(draw() * (len(usable) - 1))
    if second >= first:
        second += 1
    a, b = usable[first], usable[second]
    return b if b.load < a.load else a


def eject(endpoint: Endpoint, now_s: float) -> None:
    """Leave an endpoint out for a while after a failure; longer each time in a row.

    What fails while it is left out already was sent before: that is the same failure.
    """
    if now_s < endpoint.ejected_until:
        return
    endpoint.failures += 1
    doublings = min(MOST_DOUBLINGS, endpoint.failures - 1)
    endpoint.ejected_until = now_s + min(EJECT_MOST_S, EJECT_FIRST_S * 2.0**doublings)


def restore(endpoint: Endpoint) -> None:
    """An endpoint answered: forget its failures."""
    endpoint.failures = 0
    endpoint.ejected_until = 0.0


def take_report(endpoint: Endpoint, header: bytes) -> None:
    """Note the load a replica reported (`running,waiting,slots`); nonsense is ignored."""
    parts = header.split(b",")
    if len(header) > REPORT_BYTES or len(parts) != 3 or not all(part.isdigit() for part in parts):
        return
    running, waiting, slots = (int(part) for part in parts)
    endpoint.reported = running + waiting
    endpoint.reported_outstanding = endpoint.outstanding
    endpoint.slots = max(1, slots)
