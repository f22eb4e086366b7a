"""Which models rest so that another fits: least recently used first. A pure policy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SLEEPING_BYTES = 70 * 1024 * 1024
"""What a replica keeps while its engine sleeps, measured (docs/operations.md)."""
SETTLED_S = 3.0
"""A model that woke this recently is not put to rest again: waking it was not for nothing."""


@dataclass(frozen=True, slots=True)
class Resident:
    """A model that is awake, or is to be.

    Attributes:
        model: Its id.
        memory_bytes: What all its replicas need together.
        last_used_s: Clock time of the end of its last request.
        awake_since_s: Clock time at which it was woken.
        busy: Requests run or wait, or a new version rolls out.
    """

    model: str
    memory_bytes: int
    last_used_s: float
    awake_since_s: float
    busy: bool


def make_room(
    budget_bytes: int, residents: Iterable[Resident], need_bytes: int, now_s: float
) -> list[str] | None:
    """The models to put to rest so that `need_bytes` more fit; `None`: they cannot fit now.

    A model larger than the whole budget may run when nothing else does: a measured need can be
    wrong, and refusing for ever helps nobody.

    Args:
        budget_bytes: Memory that all models together may use.
        residents: All that are awake.
        need_bytes: Memory the woken model adds.
        now_s: The clock.
    """
    awake = list(residents)
    used = sum(resident.memory_bytes for resident in awake)
    idle = [r for r in awake if not r.busy and now_s - r.awake_since_s >= SETTLED_S]
    victims: list[str] = []
    for resident in sorted(idle, key=lambda r: (r.last_used_s, r.model)):
        if used + need_bytes <= budget_bytes:
            break
        if resident.memory_bytes <= 0:
            continue  # its need is unknown: putting it to rest promises nothing
        victims.append(resident.model)
        used -= resident.memory_bytes
    if used + need_bytes <= budget_bytes:
        return _needed(budget_bytes, awake, victims, need_bytes)
    return victims if used <= 0 else None


def _needed(
    budget_bytes: int, awake: Sequence[Resident], victims: list[str], need_bytes: int
) -> list[str]:
    """Without those that a later, larger victim made superfluous; the newest are spared first."""
    sizes = {resident.model: resident.memory_bytes for resident in awake}
    used = sum(sizes.values()) - sum(sizes[victim] for victim in victims)
    needed = list(victims)
    for victim in reversed(victims):
        if used + sizes[victim] + need_bytes <= budget_bytes:
            used += sizes[victim]
            needed.remove(victim)
    return needed
