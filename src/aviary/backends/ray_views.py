"""From what Ray's controller and the replicas say to what Aviary shows. Pure functions."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from aviary.config.spec import ModelSpec
from aviary.core.states import UNPLACEABLE, ReplicaState, ReplicaView
from aviary.process.child import Backoff

WAITS_FOR_PLACE_S = 4.0
CAUSE_CHARACTERS = 500
WHOLE = "all"
"""Stands for all replicas of an application that Ray does not run."""
UNKNOWN = -1
"""Of an application that was taken over: how many replicas Ray was told for it."""
UP = (ReplicaState.READY, ReplicaState.SLEEPING)
"""States in which a replica has proved that it works."""

Answer = Mapping[str, Any] | str | None
"""What `/internal/state` said; a text: why nothing can be there any more; `None`: no news."""


@dataclass(slots=True)
class App:
    """One Serve application: one version of one model.

    Attributes:
        name: Its name; also its route prefix, after a slash.
        spec: What it serves.
        replicas: How many it shall have.
        told: How many replicas Ray was told; `None` before it has heard of this application.
        listed: Whether Ray has shown it.
        leaving: It is to go, and nothing new goes to it.
        leave_at: Clock time in seconds at which Ray is told to delete it.
        deleting: Whether Ray was told so.
        given_up: Ray refused it; it is not tried again.
        views: Its replicas by Ray's id.
        why: Why its replicas are not placed.
        not_before: Unix time in seconds before which no replica loads its engine: after repeated
            failures they are to wait.
        not_before_told: What of that Ray was told.
    """

    name: str
    spec: ModelSpec
    replicas: int
    told: int | None = None
    listed: bool = False
    leaving: bool = False
    leave_at: float = 0.0
    deleting: bool = False
    given_up: bool = False
    views: dict[str, ReplicaView] = field(default_factory=dict)
    why: str = ""
    not_before: float = 0.0
    not_before_told: float = 0.0
    _backoff: Backoff = field(default_factory=Backoff)
    _vacant: list[tuple[int, str]] = field(default_factory=list)
    _counted: set[str] = field(default_factory=set)

    @property
    def ready(self) -> bool:
        """All replicas it shall have are ready, or asleep; at zero it is ready without any."""
        states = [view.state for view in self.views.values()]
        if self.leaving or self.replicas == 0:
            return not self.leaving
        return len(states) == self.replicas and all(state in UP for state in states)

    @property
    def steady(self) -> bool:
        """Whether it is as it shall be, and nothing of it is on its way."""
        return self.ready and len(self.views) == self.replicas

    @property
    def loading(self) -> bool:
        """Whether an engine loads, in a process that can be asked."""
        return any(v.state is ReplicaState.STARTING and v.port for v in self.views.values())

    def in_motion(self, key: str) -> bool:
        """Whether the replica may change by itself any moment; one that is ready hardly does."""
        view = self.views.get(key)
        return view is None or view.state is not ReplicaState.READY

    def scale(self, replicas: int) -> None:
        """Shall have so many replicas from now on; at zero nothing new goes to any of them."""
        self.replicas, self.given_up = replicas, False
        self._forget_places()
        if replicas == 0:
            self.views.pop(WHOLE, None)
            self._drain()

    @property
    def gone(self) -> bool:
        """Whether nothing of it can be left, when Ray does not show it (any more)."""
        return self.listed or (self.leaving and (self.told is None or self.deleting))

    @property
    def never_ran(self) -> bool:
        """Whether it is being deleted and had no place: Ray takes half a minute to forget it."""
        return self.deleting and bool(self.why) and not any(v.pid for v in self.views.values())

    def take(self, seen: Mapping[str, Any], answers: Mapping[str, Answer]) -> None:
        """Take a look at the controller's list and the replicas' own answers."""
        self.listed = True
        listed = {replica["id"]: replica for replica in seen["replicas"]}
        for key, view in self.views.items():
            drained = view.state in (ReplicaState.STOPPING, ReplicaState.FAILED)
            if key not in listed and not drained:
                self._vacate(view, "its process ended", key)
        # Those known first: whoever is new may have come in the place of one that failed.
        views = {
            key: self._next(self.views[key], replica, answers.get(key))
            for key, replica in listed.items()
            if key in self.views
        }
        for key, replica in listed.items():
            if key not in views:
                views[key] = self._next(self._newcomer(key), replica, answers.get(key))
        self.views = views
        self._counted &= views.keys()
        self._forget_places()
        if not views and self.replicas and seen["status"] == "DEPLOY_FAILED":
            self.refused(last_words(seen["message"]))

    def _forget_places(self) -> None:
        """Who left because fewer are wanted has no successor."""
        staying = [v for v in self.views.values() if v.state in (*UP, ReplicaState.STARTING)]
        del self._vacant[max(0, self.replicas - len(staying)) :]

    def _newcomer(self, key: str) -> ReplicaView:
        restarts, cause = self._vacant.pop(0) if self._vacant else (0, "")
        detail = "Ray starts a process" + (f"; the one before: {cause}" if cause else "")
        return ReplicaView(
            f"{self.spec.id}/{key}",
            detail=detail,
            since=time.time(),
            restarts=restarts,
            spec_hash=self.spec.hash,
        )

    def refused(self, cause: str) -> None:
        """Ray does not run it, or has given it up."""
        before = self.views.get(WHOLE)
        view = before or ReplicaView(
            f"{self.spec.id}/{WHOLE}", since=time.time(), spec_hash=self.spec.hash
        )
        self.views = {WHOLE: replace(view, state=ReplicaState.FAILED, detail=cause)}

    def _next(self, before: ReplicaView, replica: Mapping[str, Any], answer: Answer) -> ReplicaView:
        state, detail, progress = before.state, before.detail, before.progress
        if self.leaving or not self.replicas or replica["state"] == "STOPPING":
            if state is not ReplicaState.FAILED:
                state, detail, progress = ReplicaState.STOPPING, "draining", None
        elif isinstance(answer, str):
            state, detail, progress = ReplicaState.FAILED, answer, None
        elif answer is not None:
            state = ReplicaState(answer["state"])
            detail = str(answer.get("detail") or "")
            progress = answer.get("progress")
        elif not replica["port"]:
            if self.why:
                detail = f"{UNPLACEABLE}: {self.why}"
            elif detail.startswith(UNPLACEABLE) or not detail:
                detail = "Ray starts a process"
        if state is ReplicaState.FAILED:
            self._vacate(before, detail, replica["id"])
        return replace(
            before,
            host=replica["host"] or before.host,
            port=replica["port"] or before.port,
            prefix="/" + self.name,
            pid=replica["pid"],
            node=replica["address"],
            state=state,
            detail=detail,
            progress=progress,
            since=before.since if state is before.state else time.time(),
            spec_hash=self.spec.hash,
        )

    def _vacate(self, before: ReplicaView, cause: str, key: str) -> None:
        """A replica failed: whoever comes next takes its place, later and later if it goes on."""
        if key in self._counted or self.leaving:
            return
        self._counted.add(key)
        self._vacant.append((before.restarts + 1, cause[:CAUSE_CHARACTERS]))
        now = time.time()
        lived_s = now - before.since if before.state in UP else 0.0
        self.not_before = now + self._backoff.next_delay_s(lived_s)

    def stopping(self) -> None:
        """Show at once that nothing new may go here."""
        self.leaving = True
        self._drain()

    def _drain(self) -> None:
        for key, view in self.views.items():
            if view.state not in (ReplicaState.FAILED, ReplicaState.STOPPING):
                self.views[key] = replace(
                    view, state=ReplicaState.STOPPING, detail="draining", since=time.time()
                )

    def lost(self, cause: str) -> None:
        """Ray is gone, and every replica with it."""
        self.told, self.listed = None, False
        self.not_before_told = 0.0
        for key, view in self.views.items():
            self._vacate(view, cause, key)
            self.views[key] = replace(
                view, state=ReplicaState.FAILED, detail=cause, port=0, pid=0, progress=None
            )


def last_words(message: str) -> str:
    """The last line of what may be a long traceback."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1][:CAUSE_CHARACTERS] if lines else "Ray Serve could not deploy it"


def unplaceable(spec: ModelSpec, nodes: Sequence[Mapping[str, Any]], pending_s: float) -> str:
    """Why no node can take a replica of the spec; empty when one may.

    Args:
        spec: The model.
        nodes: Living nodes with their `resources`.
        pending_s: How long a replica has been waiting for a place.
    """
    gpus, kind = spec.resources.gpus, spec.resources.accelerator
    if not gpus and not kind:
        return ""
    able = [
        node["resources"]
        for node in nodes
        if node["resources"].get("GPU", 0) >= gpus
        and (not kind or f"accelerator_type:{kind}" in node["resources"])
    ]
    of_kind = f" of type {kind}" if kind else ""
    wanted = f"asks for {gpus:g} GPU{'' if gpus == 1 else 's'}{of_kind}"
    if not able:
        most = max((node["resources"].get("GPU", 0) for node in nodes), default=0)
        return f"{wanted}; no node of the cluster has that (the largest has {most:g} GPUs)"
    if pending_s > WAITS_FOR_PLACE_S:
        return f"{wanted}; waits until a node has that free"
    return ""
