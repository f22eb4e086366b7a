"""How a new version of a model fares: a pure judgement of what its replicas say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from aviary.core.states import UNPLACEABLE, ReplicaState, ReplicaView

Verdict = Literal["rolling", "ready", "failed"]

MOST_FAILED_STARTS = 2
"""One failure may be bad luck (a kill, a full machine); the second one is the version's."""
CRASH_LOOP_RESTARTS = 3


@dataclass(frozen=True, slots=True)
class Judgement:
    """What became of a version so far.

    Attributes:
        verdict: `ready`: all wanted replicas are; `failed`: it cannot start.
        cause: Why it failed, in words.
        replica: The replica that failed.
    """

    verdict: Verdict
    cause: str = ""
    replica: str = ""


def judge(replicas: Sequence[ReplicaView], spec_hash: str, wanted: int) -> Judgement:
    """How a version fares.

    Args:
        replicas: All replicas of the model, of any version.
        spec_hash: The version.
        wanted: How many replicas it shall have.
    """
    own = [replica for replica in replicas if replica.spec_hash == spec_hash]
    alive = [replica for replica in own if replica.state is ReplicaState.READY]
    if len(alive) >= wanted:
        return Judgement("ready")
    for replica in own:
        failed = replica.state is ReplicaState.FAILED
        if replica.detail.startswith(UNPLACEABLE):
            return Judgement("failed", replica.detail, replica.id)
        if replica.restarts + failed >= MOST_FAILED_STARTS:
            cause = replica.detail if failed else "its replicas ended while they started"
            return Judgement("failed", cause, replica.id)
    return Judgement("rolling")


def crash_loop(replicas: Sequence[ReplicaView]) -> int:
    """How often the worst replica was replaced, when one is in a crash loop; else 0."""
    loops = [
        replica.restarts + (replica.state is ReplicaState.FAILED)
        for replica in replicas
        if replica.state in (ReplicaState.FAILED, ReplicaState.STARTING)
    ]
    worst = max(loops, default=0)
    return worst if worst >= CRASH_LOOP_RESTARTS else 0
