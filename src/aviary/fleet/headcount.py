"""How many replicas each model has: each change of that, with its reason."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence

from aviary.core.ports import ReplicaCount, StoredEvent
from aviary.core.states import ModelView, ReplicaState

TOLD = frozenset({"starting", "ready", "sleeping", "wakes", "woke", "waits", "rests"})
"""Events whose details are part of a reason; others may tell of paths and the engine's words."""
REASONS = 3
"""Most events that a reason names, the latest."""
AT_START = "Aviary started"
AT_STOP = "Aviary stopped"

_Counts = tuple[int, int, int, int]
_NONE: _Counts = (0, 0, 0, 0)


class Headcount:
    """Notes each change of the number of ready, starting, sleeping and desired replicas.

    Args:
        record: Takes a count that is to be stored; never blocks.
    """

    def __init__(self, record: Callable[[ReplicaCount], None]) -> None:
        self._record = record
        self._last: dict[str, _Counts] = {}
        self._heard: dict[str, deque[str]] = {}
        self._closed = False

    def hear(self, event: StoredEvent) -> None:
        """Something happened, which may be why a count changes next."""
        if event.model:
            words = f"replica {event.replica} {event.kind}" if event.replica else event.kind
            if event.detail and event.kind in TOLD:
                words = f"{words}: {event.detail}"
            self._heard.setdefault(event.model, deque(maxlen=REASONS)).append(words)

    def take(self, models: Sequence[ModelView]) -> None:
        """Look at the models that there are."""
        if self._closed:
            return
        for model in models:
            self._note(model.id, _counts(model), model.detail if model.asleep else "")
        for gone in self._last.keys() - {model.id for model in models}:
            self._note(gone, _NONE, "")
            del self._last[gone]
            self._heard.pop(gone, None)

    def close(self) -> None:
        """The end: from now on there are no replicas."""
        self._closed = True
        for model, counts in self._last.items():
            if counts != _NONE:
                self._record(ReplicaCount(time.time(), model, *_NONE, reason=AT_STOP))
        self._last.clear()
        self._heard.clear()

    def _note(self, model: str, counts: _Counts, rests: str) -> None:
        known = self._last.get(model)
        if counts == known:
            return
        heard = self._heard.pop(model, ())
        # What puts a model to rest is noted once it rests; its state says why before.
        reason = "; ".join([*heard, f"rests: {rests}"] if rests and not _told(heard) else heard)
        if not reason:
            reason = AT_START if known is None else "the fleet changed it"
        self._last[model] = counts
        self._record(ReplicaCount(time.time(), model, *counts, reason=reason[:500]))


def _told(heard: Sequence[str] | deque[str]) -> bool:
    return any(words.startswith("rests") for words in heard)


def _counts(model: ModelView) -> _Counts:
    states = Counter(replica.state for replica in model.replicas)
    return (
        states[ReplicaState.READY],
        states[ReplicaState.STARTING],
        states[ReplicaState.SLEEPING],
        model.desired_replicas,
    )
