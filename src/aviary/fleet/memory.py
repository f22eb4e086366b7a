"""Which models rest so that another fits: least recently used first. A pure policy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

SLEEPING_BYTES = 48 * 1024 * 1024
"""What a replica keeps while its engine sleeps, measured (docs/operations.md)."""
SETTLED_S = 3.0
"""A model that woke this recently is not put to rest again: waking it was not for nothing."""


@dataclass(frozen=True, slots=True)
class Resident:
    """A model that takes memory, or is about to.

    Attributes:
        model: Its id.
        memory_bytes: What all its replicas take together.
        frees_bytes: What of that is free once it rests (more).
        last_used_s: Clock time of the end of its last request.
        awake_since_s: Clock time at which it was woken.
        busy: It cannot rest now: requests run or wait, or it is on its way to another state.
        asleep: Its engines sleep already; what it still takes is its processes.
    """

    model: str
    memory_bytes: int
    frees_bytes: int
    last_used_s: float
    awake_since_s: float
    busy: bool
    asleep: bool = False


def make_room(
    budget_bytes: int, residents: Iterable[Resident], need_bytes: int, now_s: float
) -> list[str] | None:
    """The models to put to rest so that `need_bytes` more fit; `None`: they cannot fit now.

    First those that are awake and idle, then those asleep (whose processes then go, too). A model
    larger than the whole budget may run when nothing else is awake: a measured need can be wrong,
    and refusing for ever helps nobody.

    Args:
        budget_bytes: Memory that all models together may use.
        residents: All that take memory.
        need_bytes: Memory the woken model adds.
        now_s: The clock.
    """
    found = list(residents)
    used = sum(resident.memory_bytes for resident in found)
    movable = [
        r
        for r in found
        if not r.busy and r.frees_bytes > 0 and (r.asleep or now_s - r.awake_since_s >= SETTLED_S)
    ]
    victims: list[Resident] = []
    for resident in sorted(movable, key=lambda r: (r.asleep, r.last_used_s, r.model)):
        if used + need_bytes <= budget_bytes:
            break
        victims.append(resident)
        used -= resident.frees_bytes
    if used + need_bytes > budget_bytes:
        stays = any(not r.asleep and r.memory_bytes and r not in victims for r in found)
        return None if stays else [victim.model for victim in victims]
    needed = list(victims)  # without those that a later, larger one made superfluous
    for victim in reversed(victims):
        if used + victim.frees_bytes + need_bytes <= budget_bytes:
            used += victim.frees_bytes
            needed.remove(victim)
    return [victim.model for victim in needed]
