"""The fleet: which models there shall be, and the snapshot of what there is."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Literal

from aviary.config.spec import ModelSpec
from aviary.core.errors import ModelNotFound
from aviary.core.ports import Backend
from aviary.core.states import KeyView, ModelView, ReplicaView, Snapshot
from aviary.engines.registry import check_available
from aviary.fleet.events import Event, Feed

Action = Literal["added", "updated", "unchanged"]


@dataclass(slots=True)
class Declared:
    """A model that shall be served."""

    spec: ModelSpec
    replicas: int
    created: float


class Fleet:
    """Desired state and snapshots. All changes go through here, from one event loop."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._declared: dict[str, Declared] = {}
        self._keys: tuple[KeyView, ...] = ()
        self._workers = 0
        self._readers: dict[object, int] = {}
        self._snapshot = Snapshot()
        self._changed = asyncio.Event()
        self._applying = asyncio.Lock()  # held for moments only: no backend waits in `deploy`
        self._seen: dict[str, ReplicaView] = {}
        self.events: Feed[Event] = Feed()
        backend.subscribe(self.refresh)

    # desired state

    async def apply(self, spec: ModelSpec) -> Action:
        """Serve a model as its spec says; a spec that runs already changes nothing.

        Raises:
            NotAvailable: this version has no such engine.
            AviaryError: the backend refuses it; then all stays as it was.
        """
        check_available(spec)
        async with self._applying:
            have = self._declared.get(spec.id)
            if have is not None and have.spec == spec:
                return "unchanged"
            await self._backend.deploy(spec, spec.replicas)
            created = have.created if have is not None else time.time()
            self._declared[spec.id] = Declared(spec, spec.replicas, created)
            action: Action = "added" if have is None else "updated"
            self._note(spec.id, action, f"spec {spec.hash}")
            self.refresh()
            return action

    async def stop_model(self, model: str) -> None:
        """Stop serving a model at once; returns when its answers in progress have ended.

        It may be applied anew in the meantime: that is another model, which only shares its name.

        Raises:
            ModelNotFound: there is none of that name.
        """
        async with self._applying:
            if self._declared.pop(model, None) is None:
                raise ModelNotFound(f"There is no model {model[:100]!r} to stop.", param="model")
            self._note(model, "stopped", "")
            self.refresh()
        # Nothing else runs before the backend has noted which replicas are to go.
        await self._backend.remove(model)
        self.refresh()

    def spec(self, model: str) -> ModelSpec:
        """The spec of a declared model.

        Raises:
            ModelNotFound: there is none of that name.
        """
        declared = self._declared.get(model)
        if declared is None:
            raise ModelNotFound(f"There is no model {model[:100]!r}.", param="model")
        return declared.spec

    # what workers need to know

    def set_keys(self, keys: tuple[KeyView, ...]) -> None:
        """Take the keys that are good now."""
        if keys != self._keys:
            self._keys = keys
            self.refresh()

    def set_workers(self, workers: int) -> None:
        """Take the number of living gateway workers."""
        if workers != self._workers:
            self._workers = workers
            self.refresh()

    @property
    def snapshot(self) -> Snapshot:
        """The present snapshot."""
        return self._snapshot

    def delivered(self, reader: object, generation: int | None) -> None:
        """Note which generation a reader of snapshots was sent last; `None`: it has left."""
        if generation is None:
            self._readers.pop(reader, None)
        else:
            self._readers[reader] = generation

    async def everywhere(self, most_s: float) -> None:
        """Wait until every reader has been sent the present snapshot, but not longer than told."""
        wanted = self._snapshot.generation
        deadline = time.monotonic() + most_s
        while any(generation < wanted for generation in self._readers.values()):
            if time.monotonic() > deadline:
                return
            await asyncio.sleep(0.002)

    async def next_snapshot(self, after: int) -> Snapshot:
        """The newest snapshot, once there is one newer than generation `after`."""
        while self._snapshot.generation <= after:
            await self._changed.wait()
        return self._snapshot

    def refresh(self) -> None:
        """Build the snapshot anew and publish it when something is different."""
        models = tuple(self._view(declared) for declared in self._declared.values())
        old = self._snapshot
        if (models, self._keys, self._workers) == (old.models, old.keys, old.workers):
            return
        self._note_changes(models)
        self._snapshot = Snapshot(old.generation + 1, models, self._keys, self._workers)
        self._changed.set()
        self._changed = asyncio.Event()

    def _view(self, declared: Declared) -> ModelView:
        spec = declared.spec
        return ModelView(
            id=spec.id,
            spec_hash=spec.hash,
            description=spec.description,
            tags=spec.tags,
            engine=spec.engine.kind,
            context_length=spec.engine.context_length,
            slots=spec.engine.slots,
            queue=spec.limits.queue,
            wait_s=spec.limits.wait,
            timeout_s=spec.limits.timeout,
            usd_per_hour=spec.price.usd_per_hour,
            usd_per_million_input_tokens=spec.price.usd_per_million_input_tokens,
            usd_per_million_output_tokens=spec.price.usd_per_million_output_tokens,
            created=declared.created,
            replicas=self._backend.replicas(spec.id),
            desired_replicas=declared.replicas,
        )

    def _note_changes(self, models: tuple[ModelView, ...]) -> None:
        seen: dict[str, ReplicaView] = {}
        for model in models:
            for replica in model.replicas:
                seen[replica.id] = replica
                before = self._seen.get(replica.id)
                if before is None or (before.state, before.detail) != (
                    replica.state,
                    replica.detail,
                ):
                    self._note(model.id, replica.state, replica.detail, replica)
        self._seen = seen

    def _note(
        self, model: str, state: str, detail: str, replica: ReplicaView | None = None
    ) -> None:
        self.events.add(
            Event(
                time.time(),
                model,
                str(state),
                replica.id if replica is not None else "",
                detail,
                replica.progress if replica is not None else None,
            )
        )
