"""The fleet: which models there shall be, kept in the store, and the snapshot of what there is.

The one writer of desired state. `apply` and `stop_model` change it; the keeper (`fleet.keeper`)
makes what is follow what shall be: it judges rollouts, puts idle models to rest and wakes them.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import structlog

from aviary.config.spec import ModelSpec
from aviary.core.errors import AviaryError, InvalidRequest, ModelNotFound, RouteMissing
from aviary.core.ports import Backend, FleetStore, StoredDeployment, StoredEvent
from aviary.core.states import KeyView, ModelView, ReplicaState, ReplicaView, Snapshot
from aviary.engines.registry import check_available
from aviary.fleet.desired import Application, Deployment, Outcome, OutcomeState
from aviary.fleet.diff import Change, compare
from aviary.fleet.events import Event, Feed
from aviary.fleet.rollout import crash_loop

log = structlog.get_logger()

APPLIES_KEPT = 200
MOST_MODELS = 10_000


NO_ROOM = "there was no room in memory"


def _always(_deployment: Deployment) -> bool:
    return True


class Fleet:
    """Desired state and snapshots. All changes go through here, from one event loop.

    Args:
        backend: Runs the replicas.
        store: Keeps desired state.
        record: Takes an event that is to be kept; never blocks.

    Attributes:
        has_room: Says whether a model fits beside those that are awake; the keeper sets it.
        news: Set whenever the keeper should look again.
        events: What happened, the newest part of it.
    """

    def __init__(
        self, backend: Backend, store: FleetStore, record: Callable[[StoredEvent], None]
    ) -> None:
        self._backend = backend
        self._store = store
        self._record = record
        self._deployments: dict[str, Deployment] = {}
        self._applies: OrderedDict[str, Application] = OrderedDict()
        self._keys: tuple[KeyView, ...] = ()
        self._workers = 0
        self._readers: dict[object, int] = {}
        self._snapshot = Snapshot()
        self._changed = asyncio.Event()
        self._applying = asyncio.Lock()  # held for moments only: no backend waits in `deploy`
        self._removing: set[asyncio.Task[None]] = set()
        self._seen: dict[str, ReplicaView] = {}
        self._seqs = itertools.count(1)
        self.has_room: Callable[[Deployment], bool] = _always
        self.news = asyncio.Event()
        self.events: Feed[Event] = Feed()
        backend.subscribe(self.refresh)

    # desired state

    def remember(self, events: Sequence[StoredEvent]) -> None:
        """Take the history of earlier runs."""
        # Replicas' events were stored a moment later than they happened, others at once.
        in_time = sorted(events, key=lambda event: event.time)
        numbers = sorted(event.seq for event in events)
        for event, seq in zip(in_time, numbers, strict=True):
            self.events.add(Event.of(replace(event, seq=seq)))
        self._seqs = itertools.count(max(numbers, default=0) + 1)

    async def restore(
        self, rows: Sequence[StoredDeployment], instead: Mapping[str, ModelSpec]
    ) -> None:
        """Serve again what was served when the last Aviary of this home ended.

        Args:
            rows: What is stored.
            instead: Specs that are applied right after: what they change is not started before.
        """
        for row in rows:
            try:
                deployment = Deployment.restored(row)
                check_available(deployment.spec)
                self._backend.check(deployment.spec, deployment.spec.replicas)
            except Exception as error:  # one of them must not keep the others from serving
                log.warning("a stored model cannot be served", model=row.model, cause=str(error))
                self.note(row.model, "failed", f"its stored spec cannot be served: {error}")
                continue
            deployment.awake_since_s = time.monotonic()
            self._may_rest_at_first(deployment)
            self._deployments[row.model] = deployment
            if instead.get(row.model, deployment.spec) == deployment.spec:
                await self._backend.deploy(deployment.spec, deployment.replicas)
        self.refresh()

    def compare(self, specs: Sequence[ModelSpec], *, prune: bool) -> list[Change]:
        """What applying these specs would change.

        Raises:
            InvalidRequest: two of them have the same id, or they are absurdly many.
            NotAvailable: this version or this backend cannot serve one of them.
            DoesNotFit: one of them can never fit here.
        """
        if len(specs) > MOST_MODELS:
            raise InvalidRequest(f"{len(specs)} specs; at most {MOST_MODELS} are served.")
        ids = [spec.id for spec in specs]
        twice = next((name for name in ids if ids.count(name) > 1), None)
        if twice is not None:
            raise InvalidRequest(f"Two specs have the id {twice!r}.", param="specs")
        for spec in specs:
            check_available(spec)
            self._backend.check(spec, spec.replicas)
        current = {name: deployment.spec for name, deployment in self._deployments.items()}
        return compare(current, specs, prune=prune)

    async def apply(
        self,
        specs: Sequence[ModelSpec],
        *,
        prune: bool = False,
        rollback: bool = True,
        by: str = "",
    ) -> tuple[Application, list[Change]]:
        """Serve models as their specs say; what is served so already is not touched.

        Everything is checked before anything is touched, and stored, all of it or nothing, before
        anything starts: an interrupted apply is either not begun or goes on by itself.

        Args:
            specs: The models.
            prune: Whether models that are not among them are stopped.
            rollback: Whether a version that cannot start is taken back, a new model removed.
            by: Who wants it.

        Raises:
            AviaryError: see `compare`.
            StoreError: it could not be stored; nothing was changed.
        """
        async with self._applying:
            changes = self.compare(specs, prune=prune)
            wanted = {spec.id: spec for spec in specs}
            application = Application(f"ap-{secrets.token_hex(6)}")
            self._applies[application.id] = application
            while len(self._applies) > APPLIES_KEPT:
                self._applies.popitem(last=False)
            put, gone, events = self._planned(changes, wanted, rollback, application.id, by)
            if put or gone:
                await self._save({**self._deployments, **put}, list(put), gone, events)
            for event in events:
                self.events.add(Event.of(replace(event, seq=next(self._seqs))))
            for change in changes:
                if change.model in put:
                    await self._deploy(put[change.model], change, application)
                elif change.model in gone:
                    self._let_go(change.model)
                    application.models[change.model] = Outcome("removed")
                elif change.action == "unchanged":
                    application.models[change.model] = Outcome("ready", "unchanged")
            self.refresh()
            self.news.set()
            return application, changes

    def _planned(
        self,
        changes: Sequence[Change],
        wanted: dict[str, ModelSpec],
        rollback: bool,
        apply: str,
        by: str,
    ) -> tuple[dict[str, Deployment], list[str], list[StoredEvent]]:
        """What is to be stored: deployments, ids that go, events."""
        now = time.time()
        put: dict[str, Deployment] = {}
        gone: list[str] = []
        events: list[StoredEvent] = []
        for change in changes:
            model, have = change.model, self._deployments.get(change.model)
            detail = ""
            if change.action == "added":
                spec = wanted[model]
                put[model] = Deployment(spec, created=now, changed=now, rolling=True)
                detail = f"spec {spec.hash}"
            elif change.action == "changed" and have is not None:
                spec = wanted[model]
                # While an untried version rolls out, the one before it stays the one to go back to.
                tried = have.previous if have.rolling else have.spec
                put[model] = replace(have, spec=spec, previous=tried, changed=now, rolling=True)
                shown = (f"{f.field}: {f.before} → {f.after}" for f in change.fields[:8])
                detail = f"spec {spec.hash}: {', '.join(shown)}"
            elif change.action == "pruned":
                gone.append(model)
            else:
                continue
            if model in put:
                one = put[model]
                one.changed_by, one.rollback, one.apply = by, rollback, apply
            events.append(
                StoredEvent(time=now, model=model, kind=change.action, detail=detail, changed_by=by)
            )
        return put, gone, events

    async def _save(
        self,
        everything: dict[str, Deployment],
        put: Sequence[str],
        delete: Sequence[str],
        events: Sequence[StoredEvent],
    ) -> None:
        places = {name: place for place, name in enumerate(everything)}
        rows = [everything[name].stored(places[name]) for name in put]
        await asyncio.to_thread(self._store.save, rows, list(delete), list(events))

    async def _deploy(self, new: Deployment, change: Change, application: Application) -> None:
        model = new.spec.id
        have = self._deployments.get(model)
        if have is not None:
            self.conclude(have, "superseded")
            new.moving = False
        self._deployments[model] = new
        if new.rest != "awake" and change.restarts and have is not None:
            new.rest, new.rested_by = "awake", ""  # a new version must prove that it works
        new.awake_since_s = time.monotonic()
        if have is None:
            self._may_rest_at_first(new)
        if new.rest != "awake":
            new.rolling, new.previous = False, None
        application.models[model] = Outcome("rolling" if new.rolling else "sleeping")
        new.refused = ""
        try:
            await self._backend.deploy(new.spec, new.replicas)
        except AviaryError as error:  # checked before, so hardly ever; the keeper takes it back
            new.refused = str(error)
            self.note(model, "failed", new.refused)

    def _may_rest_at_first(self, deployment: Deployment) -> None:
        """What nobody has asked for yet starts at rest when it may, or must."""
        if deployment.spec.scaling.min_replicas == 0:
            deployment.rest, deployment.rested_by = "zero", "min_replicas is 0"
        elif not self.has_room(deployment):
            deployment.rest, deployment.rested_by = "zero", NO_ROOM

    def _let_go(self, model: str) -> None:
        """Remove a model that the store has forgotten; its answers in progress end first."""
        deployment = self._deployments.pop(model)
        self.conclude(deployment, "removed")
        task = asyncio.create_task(self._remove(model))
        self._removing.add(task)
        task.add_done_callback(self._removing.discard)

    async def _remove(self, model: str) -> None:
        await self._backend.remove(model)
        self.refresh()

    async def stop_model(self, model: str, by: str = "") -> None:
        """Stop serving a model at once; returns when its answers in progress have ended.

        It may be applied anew in the meantime: that is another model, which only shares its name.

        Raises:
            ModelNotFound: there is none of that name.
            StoreError: it could not be stored; nothing was changed.
        """
        async with self._applying:
            deployment = self.deployment(model, "to stop")
            event = StoredEvent(time=time.time(), model=model, kind="stopped", changed_by=by)
            await self._save(self._deployments, [], [model], [event])
            self._deployments.pop(model)
            self.conclude(deployment, "removed")
            self.events.add(Event.of(replace(event, seq=next(self._seqs))))
            self.refresh()
        # Nothing else runs before the backend has noted which replicas are to go.
        await self._remove(model)

    async def take_back(self, deployment: Deployment, cause: str, lines: list[str]) -> None:
        """A version cannot start: serve the one before it again, or, of a new model, nothing."""
        model, previous = deployment.spec.id, deployment.previous
        async with self._applying:
            if self._deployments.get(model) is not deployment or not deployment.rolling:
                return  # superseded in the meantime
            failed = deployment.spec
            now = time.time()
            back = f"back to spec {previous.hash}" if previous is not None else "removed again"
            event = StoredEvent(
                time=now,
                model=model,
                kind="rolled back",
                detail=f"spec {failed.hash} cannot start, {back}: {cause}",
                changed_by="aviary",
            )
            if previous is None:
                await self._save(self._deployments, [], [model], [event])
            else:
                deployment.spec, deployment.previous = previous, None
                deployment.rolling, deployment.changed = False, now
                await self._save(self._deployments, [model], [], [event])
            self.conclude(deployment, "rolled_back", cause, lines)
            self.events.add(Event.of(replace(event, seq=next(self._seqs))))
            if previous is None:
                self._let_go(model)
            else:
                await self._backend.deploy(previous, deployment.spec.replicas)
            self.refresh()

    async def settle(self, deployment: Deployment) -> None:
        """A version is ready: there is nothing to go back to any more."""
        model = deployment.spec.id
        async with self._applying:
            if self._deployments.get(model) is not deployment or not deployment.rolling:
                return
            deployment.rolling = False
            if deployment.previous is not None:
                deployment.previous = None
                await self._save(self._deployments, [model], [], [])
            self.conclude(deployment, "ready")
            self.refresh()

    def conclude(
        self,
        deployment: Deployment,
        state: OutcomeState,
        detail: str = "",
        lines: Sequence[str] = (),
    ) -> None:
        """Tell the apply that follows a rollout how it ended."""
        application = self._applies.get(deployment.apply)
        if application is None:
            return
        outcome = application.models.get(deployment.spec.id)
        if outcome is not None and outcome.state == "rolling":
            application.models[deployment.spec.id] = Outcome(state, detail, list(lines))

    def application(self, identity: str) -> Application:
        """What became of an apply.

        Raises:
            RouteMissing: there was none of that id, or it is long ago.
        """
        found = self._applies.get(identity)
        if found is None:
            raise RouteMissing(
                f"There is no apply {identity[:40]!r} here (any more).",
                hint="See `aviary status` and `aviary events`.",
            )
        return found

    def deployment(self, model: str, what: str = "") -> Deployment:
        """A declared model.

        Raises:
            ModelNotFound: there is none of that name.
        """
        found = self._deployments.get(model)
        if found is None:
            suffix = f" {what}" if what else ""
            raise ModelNotFound(f"There is no model {model[:100]!r}{suffix}.", param="model")
        return found

    @property
    def deployments(self) -> list[Deployment]:
        """All declared models, in order of declaration."""
        return list(self._deployments.values())

    def spec(self, model: str) -> ModelSpec:
        """The spec of a declared model.

        Raises:
            ModelNotFound: there is none of that name.
        """
        return self.deployment(model).spec

    # what gateways are told

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
        models = tuple(self._view(deployment) for deployment in self._deployments.values())
        old = self._snapshot
        if (models, self._keys, self._workers) == (old.models, old.keys, old.workers):
            return
        self._note_changes(models)
        self._snapshot = Snapshot(old.generation + 1, models, self._keys, self._workers)
        self._changed.set()
        self._changed = asyncio.Event()
        self.news.set()

    def _view(self, deployment: Deployment) -> ModelView:
        spec = deployment.spec
        replicas = self._backend.replicas(spec.id)
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
            created=deployment.created,
            replicas=replicas,
            desired_replicas=deployment.replicas,
            asleep=deployment.rest != "awake",
            continue_streams=spec.continue_streams,
            wake_s=deployment.wake_s,
            detail=_detail(deployment, replicas),
        )

    # events

    def note(self, model: str, kind: str, detail: str, *, by: str = "aviary") -> None:
        """Something happened to a model; kept."""
        event = StoredEvent(time=time.time(), model=model, kind=kind, detail=detail, changed_by=by)
        self._record(event)
        self.events.add(Event.of(replace(event, seq=next(self._seqs))))

    def _note_changes(self, models: tuple[ModelView, ...]) -> None:
        """Note what is different of replicas; progress is only shown, states are kept, too."""
        seen: dict[str, ReplicaView] = {}
        for model in models:
            for replica in model.replicas:
                seen[replica.id] = replica
                before = self._seen.get(replica.id)
                new_state = before is None or before.state != replica.state
                if not new_state and before is not None and before.detail == replica.detail:
                    continue
                if replica.state is ReplicaState.FAILED and new_state:
                    self._deployments[model.id].cause = replica.detail
                event = StoredEvent(
                    time=time.time(),
                    model=model.id,
                    kind=str(replica.state),
                    replica=replica.id,
                    detail=replica.detail,
                )
                if new_state:
                    self._record(event)
                    event = replace(event, seq=next(self._seqs))
                self.events.add(replace(Event.of(event), progress=replica.progress))
        self._seen = seen


def _detail(deployment: Deployment, replicas: Sequence[ReplicaView]) -> str:
    """What an operator should know of a model beyond its state."""
    if deployment.rest != "awake":
        rested = f"{deployment.rested_by}; a request wakes it"
        return f"{rested}; {deployment.waits}" if deployment.waits else rested
    loop = crash_loop(replicas)
    if loop:
        return f"crash loop: {loop} failures; the last: {deployment.cause}"
    if deployment.rolling and deployment.previous is not None:
        return f"rolls from {deployment.previous.hash} to {deployment.spec.hash}"
    return ""
