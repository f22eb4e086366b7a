"""What the fleet shall be: deployments, and what became of an apply."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from aviary.config.spec import ModelSpec
from aviary.core.ports import StoredDeployment

Rest = Literal["awake", "sleep", "zero"]
"""How a model rests: its engines let go of their memory, or it has no replica at all."""

OutcomeState = Literal[
    "rolling", "ready", "sleeping", "rolled_back", "failed", "superseded", "removed"
]
GB = 1e9
FAILURES_KEPT = 16


@dataclass(slots=True)
class Deployment:
    """A model that shall be served. Changed by the fleet only.

    Attributes:
        spec: What shall be served.
        created: Unix time in seconds of its first declaration.
        changed: Unix time in seconds of its last change.
        changed_by: Who changed it.
        position: Its place in the order of declaration.
        epoch: Grows with each change of `spec`: whoever waited in between must look again.
        previous: The version to go back to while a new one rolls out.
        rolling: Whether a version rolls out whose fate is not yet known.
        rollback: Whether a version that cannot start is taken back.
        rest: How it rests.
        rested_by: Why, in words.
        moving: The keeper does something slow for it.
        waking: It is to be woken; its memory counts already.
        awake_since_s: Clock time at which it was last deployed or woken.
        woken: Unix time at which the present wake began; `None` when none goes on.
        memory_bytes: What one replica takes, measured; `None` before it ran.
        wake_s: How long wakes take, in seconds, measured.
        waits: Why it cannot wake now; empty when it can.
        sleep_by: Who told it to sleep, which it does once nothing runs; `None`: nobody.
        wake_by: Who told it to wake, which it does once there is room; `None`: nobody.
        applies: Ids of the applies that follow its rollout.
        failed_starts: Replicas of `spec` that failed to start since it began to roll out.
        failures: Unix times of the last failures of its replicas.
        cause: How its last failed replica failed.
        refused: Why the backend did not take it at all.
    """

    spec: ModelSpec
    created: float
    changed: float
    changed_by: str = ""
    position: int = 0
    epoch: int = 0
    previous: ModelSpec | None = None
    rolling: bool = False
    rollback: bool = False
    rest: Rest = "awake"
    rested_by: str = ""
    moving: bool = False
    waking: bool = False
    awake_since_s: float = 0.0
    woken: float | None = None
    memory_bytes: int | None = None
    wake_s: float | None = None
    waits: str = ""
    sleep_by: str | None = None
    wake_by: str | None = None
    applies: set[str] = field(default_factory=set)
    failed_starts: int = 0
    failures: deque[float] = field(default_factory=lambda: deque(maxlen=FAILURES_KEPT))
    cause: str = ""
    refused: str = ""

    @property
    def replicas(self) -> int:
        """How many replicas it shall have now."""
        return 0 if self.rest == "zero" else self.spec.replicas

    @property
    def need_bytes(self) -> int:
        """Memory that its replicas take while it is awake; 0 while nobody knows."""
        declared_gb = self.spec.resources.memory_gb
        one = int(declared_gb * GB) if declared_gb is not None else self.memory_bytes or 0
        return one * self.spec.replicas

    def stored(self) -> StoredDeployment:
        """As the store keeps it: with a version to go back to only if it may be gone back to."""
        return StoredDeployment(
            model=self.spec.id,
            position=self.position,
            spec=self.spec.model_dump(mode="json", exclude_none=True),
            previous=(
                self.previous.model_dump(mode="json", exclude_none=True)
                if self.previous is not None and self.rollback
                else None
            ),
            created=self.created,
            changed=self.changed,
            changed_by=self.changed_by,
            memory_bytes=self.memory_bytes,
            wake_s=self.wake_s,
        )

    @classmethod
    def restored(cls, row: StoredDeployment) -> Deployment:
        """From the store.

        Raises:
            ValueError: what is stored is no spec that this version reads.
        """
        previous: Mapping[str, Any] | None = row.previous
        return cls(
            spec=ModelSpec.model_validate(row.spec),
            created=row.created,
            changed=row.changed,
            changed_by=row.changed_by,
            position=row.position,
            previous=ModelSpec.model_validate(previous) if previous is not None else None,
            rolling=previous is not None,
            rollback=previous is not None,
            memory_bytes=row.memory_bytes,
            wake_s=row.wake_s,
        )


def scaled(spec: ModelSpec, replicas: int) -> ModelSpec:
    """The spec with another number of replicas.

    A `max_replicas` that equals `min_replicas`, which it does unless it is given, goes with it; a
    larger one stays, and only grows where it must.
    """
    scaling = spec.scaling
    most = max(1, replicas)
    if scaling.max_replicas != max(1, scaling.min_replicas):
        most = max(most, scaling.max_replicas)
    changed = scaling.model_copy(update={"min_replicas": replicas, "max_replicas": most})
    return spec.model_copy(update={"scaling": changed})


@dataclass(slots=True)
class Outcome:
    """What became of one model of an apply.

    Attributes:
        state: How it stands.
        detail: Why, in words.
        log: The engine's last lines, when it failed.
    """

    state: OutcomeState
    detail: str = ""
    log: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Application:
    """One apply, and what became of it.

    Attributes:
        id: Its id.
        models: What became of each model it changed.
    """

    id: str
    models: dict[str, Outcome] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Whether nothing of it is on its way."""
        return all(outcome.state != "rolling" for outcome in self.models.values())
