"""Numbers of replicas: each change once, with a reason anybody may read."""

from __future__ import annotations

from aviary.core.ports import ReplicaCount, StoredEvent
from aviary.core.states import ModelView, ReplicaState, ReplicaView
from aviary.fleet.headcount import AT_START, AT_STOP, Headcount


def view(*states: ReplicaState, desired: int = 1, **fields: object) -> ModelView:
    replicas = tuple(ReplicaView(f"m/{n}", state=state) for n, state in enumerate(states))
    return ModelView("m", replicas=replicas, desired_replicas=desired, **fields)  # type: ignore[arg-type]


def event(kind: str, detail: str = "", replica: str = "") -> StoredEvent:
    return StoredEvent(1.0, "m", kind, replica, detail)


def counts(record: ReplicaCount) -> tuple[int, int, int, int]:
    return record.ready, record.starting, record.sleeping, record.desired


def test_each_change_once_with_what_was_heard() -> None:
    kept: list[ReplicaCount] = []
    headcount = Headcount(kept.append)
    headcount.take([view(ReplicaState.STARTING)])
    headcount.take([view(ReplicaState.STARTING, detail="other words")])
    headcount.hear(event("ready", replica="m/0"))
    headcount.take([view(ReplicaState.READY)])
    headcount.take([view(ReplicaState.READY)])
    headcount.hear(event("failed", "cannot open /home/me/secret", replica="m/0"))
    headcount.take([view(ReplicaState.FAILED)])
    assert [counts(record) for record in kept] == [(0, 1, 0, 1), (1, 0, 0, 1), (0, 0, 0, 1)]
    assert [r.reason for r in kept] == [AT_START, "replica m/0 ready", "replica m/0 failed"]


def test_a_rest_tells_why() -> None:
    kept: list[ReplicaCount] = []
    headcount = Headcount(kept.append)
    headcount.take([view(ReplicaState.READY)])
    rests = {"asleep": True, "detail": "idle for 60 s; a request wakes it"}
    headcount.take([view(ReplicaState.READY, desired=0, **rests)])
    assert kept[-1].reason == "rests: idle for 60 s; a request wakes it"


def test_what_is_removed_and_the_end() -> None:
    kept: list[ReplicaCount] = []
    headcount = Headcount(kept.append)
    headcount.take([view(ReplicaState.READY)])
    headcount.hear(event("stopped"))
    headcount.take([])
    assert (counts(kept[-1]), kept[-1].reason) == ((0, 0, 0, 0), "stopped")
    headcount.take([view(ReplicaState.READY)])
    headcount.close()
    assert (counts(kept[-1]), kept[-1].reason) == ((0, 0, 0, 0), AT_STOP)
    many = len(kept)
    headcount.take([view(ReplicaState.READY)])
    assert len(kept) == many
