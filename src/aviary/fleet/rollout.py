"""How a new version of a model fares: a pure judgement of what its replicas say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from aviary.core.states import UNPLACEABLE, ReplicaState, ReplicaView

Verdict = Literal["rolling", "ready", "failed"]

MOST_FAILED_STARTS = 2
"""One failure may be bad luck (a kill, a full machine); the second one is the version's."""
CRASH_LOOP_FAILURES = 3
CRASH_LOOP_WINDOW_S = 300.0
LEAVING = (ReplicaState.STOPPING, ReplicaState.STOPPED)


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


def judge(
    replicas: Sequence[ReplicaView], spec_hash: str, wanted: int, failed_starts: int, cause: str
) -> Judgement:
    """How a version fares.

    Args:
        replicas: All replicas of the model, of any version.
        spec_hash: The version.
        wanted: How many replicas it shall have.
        failed_starts: How many of its replicas failed to start since it began to roll out.
        cause: How the last of them failed.
    """
    own = [r for r in replicas if r.spec_hash == spec_hash and r.state not in LEAVING]
    ready = [replica for replica in own if replica.state is ReplicaState.READY]
    if len(ready) >= wanted:
        return Judgement("ready")
    for replica in own:
        if replica.detail.startswith(UNPLACEABLE):
            return Judgement("failed", replica.detail, replica.id)
    if failed_starts >= MOST_FAILED_STARTS:
        failed = [replica.id for replica in own if replica.state is ReplicaState.FAILED]
        return Judgement("failed", cause, failed[0] if failed else "")
    return Judgement("rolling")


def start_failures(
    before: Mapping[str, ReplicaView], now: Sequence[ReplicaView], spec_hash: str
) -> list[str]:
    """Causes of the starts of a version that failed between two looks at a model's replicas.

    Args:
        before: The replicas of the look before, by id.
        now: Those of this look.
        spec_hash: The version.
    """
    causes = []
    here = {replica.id for replica in now}
    for replica in now:
        old = before.get(replica.id)
        if replica.spec_hash != spec_hash or replica.state is not ReplicaState.FAILED:
            continue
        if old is None or old.state is ReplicaState.STARTING:
            causes.append(replica.detail)
    for replica in before.values():
        vanished = replica.id not in here and replica.state is ReplicaState.STARTING
        if vanished and replica.spec_hash == spec_hash:
            causes.append("its process ended while it started")
    return causes


def crash_loop(replicas: Sequence[ReplicaView], failures: Sequence[float], now: float) -> int:
    """How often replicas failed lately, when that is a crash loop and one is not up; else 0.

    Args:
        replicas: The model's replicas.
        failures: Unix times of their failures.
        now: Unix time.
    """
    down = any(r.state in (ReplicaState.FAILED, ReplicaState.STARTING) for r in replicas)
    recent = sum(now - at < CRASH_LOOP_WINDOW_S for at in failures)
    return recent if down and recent >= CRASH_LOOP_FAILURES else 0
