"""What happens to the fleet: shown as it happens, and of it what is kept."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from aviary.core.ports import StoredEvent
from aviary.core.states import ModelView, ReplicaView
from aviary.fleet.events import Event, Feed
from aviary.fleet.headcount import Headcount


class Chronicle:
    """Two feeds: all that happens, and what is kept; progress must not drive out what is.

    Args:
        record: Takes an event that is to be stored; never blocks.
        headcount: Notes how many replicas there are; `None`: nobody does.

    Attributes:
        events: What happened lately, progress included.
        history: What happened and is kept, earlier runs included; the newest part of it.
    """

    def __init__(
        self, record: Callable[[StoredEvent], None], headcount: Headcount | None = None
    ) -> None:
        self._record = record
        self._headcount = headcount
        self._seqs = itertools.count(1)
        self._seen: dict[str, dict[str, ReplicaView]] = {}
        self.events: Feed[Event] = Feed()
        self.history: Feed[Event] = Feed()

    def remember(self, events: Sequence[StoredEvent]) -> None:
        """Take the history of earlier runs."""
        # Replicas' events were stored a moment later than they happened, others at once.
        in_time = sorted(events, key=lambda event: event.time)
        numbers = sorted(event.seq for event in events)
        for event, seq in zip(in_time, numbers, strict=True):
            self._show(replace(event, seq=seq))
        self._seqs = itertools.count(max(numbers, default=0) + 1)

    def tell(self, stored: StoredEvent) -> None:
        """Something happened, and is stored already."""
        self._show(replace(stored, seq=next(self._seqs)))
        if self._headcount is not None:
            self._headcount.hear(stored)

    def note(
        self, model: str, kind: str, detail: str, replica: str = "", by: str = "aviary"
    ) -> None:
        """Something happened; kept. Nobody in particular does what happens to a replica."""
        by = "" if replica else by
        event = StoredEvent(time.time(), model, kind, replica, detail, by)
        self._record(event)
        self.tell(event)

    def take(self, model: ModelView) -> Mapping[str, ReplicaView]:
        """Note what is different of a model's replicas; returns those of the look before.

        States are kept; other words and progress are only shown.
        """
        before = self._seen.get(model.id, {})
        self._seen[model.id] = {replica.id: replica for replica in model.replicas}
        for replica in model.replicas:
            old = before.get(replica.id)
            state = str(replica.state)
            if old is None or old.state is not replica.state:
                self.note(model.id, state, replica.detail, replica.id)
            elif old.detail != replica.detail:
                shown = Event(time.time(), model.id, state, replica.id, replica.detail)
                self.events.add(replace(shown, progress=replica.progress))
        return before

    def count(self, models: Sequence[ModelView]) -> None:
        """Note what is different of the numbers of replicas."""
        if self._headcount is not None:
            self._headcount.take(models)

    def forget(self, model: str) -> None:
        """The model is no more."""
        self._seen.pop(model, None)

    def _show(self, kept: StoredEvent) -> None:
        event = Event.of(kept)
        self.events.add(event)
        self.history.add(event)
