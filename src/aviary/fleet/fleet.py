"""The fleet: which models there shall be, kept in the store, and the snapshot of what there is.

The one writer of desired state. `apply` and `stop_model` change it; the keeper (`fleet.keeper`)
makes what is follow what shall be: it judges rollouts, puts idle models to rest and wakes them.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import structlog

from aviary.config.spec import ModelSpec
from aviary.core.errors import InvalidRequest, ModelNotFound, RouteMissing
from aviary.core.ports import Backend, FleetStore, StoredDeployment, StoredEvent
from aviary.core.states import ModelView, ReplicaState, ReplicaView
from aviary.engines.registry import check_available
from aviary.fleet.chronicle import Chronicle
from aviary.fleet.desired import Application, Deployment, Outcome, OutcomeState, scaled
from aviary.fleet.diff import Change, compare
from aviary.fleet.publisher import Publisher
from aviary.fleet.rollout import crash_loop, start_failures

log = structlog.get_logger()

APPLIES_KEPT = 200
MOST_MODELS = 1000


AT_ZERO = "min_replicas is 0"
NO_ROOM = "there was no room in memory"


def _always(_deployment: Deployment) -> bool:
    return True


class Fleet(Publisher):
    """Desired state and snapshots. All changes go through here, from one event loop.

    Args:
        backend: Runs the replicas.
        store: Keeps desired state.
        chronicle: Notes what happens.

    Attributes:
        has_room: Says whether a model fits beside those that are awake; the keeper sets it.
        news: Set whenever the keeper should look again.
        events: What happened lately, progress included.
        history: What happened that is kept, the newest part of it.
    """

    def __init__(self, backend: Backend, store: FleetStore, chronicle: Chronicle) -> None:
        super().__init__()
        self._backend = backend
        self._store = store
        self._chronicle = chronicle
        self._deployments: dict[str, Deployment] = {}
        self._applies: OrderedDict[str, Application] = OrderedDict()
        self._applying = asyncio.Lock()  # held for moments only: no backend waits in `deploy`
        self._removing: set[asyncio.Task[None]] = set()
        self._unreadable: set[str] = set()
        self.has_room: Callable[[Deployment], bool] = _always
        self.news = asyncio.Event()
        self.events = chronicle.events
        self.history = chronicle.history
        backend.subscribe(self.refresh)

    # desired state

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
                self._may_rest_at_first(deployment)
                if instead.get(row.model, deployment.spec) == deployment.spec:
                    await self._backend.deploy(deployment.spec, deployment.replicas)
            except Exception as error:  # one of them must not keep the others from serving
                log.warning("a stored model cannot be served", model=row.model, cause=str(error))
                self.note(row.model, "failed", f"its stored spec cannot be served: {error}")
                self._unreadable.add(row.model)
                continue
            deployment.awake_since_s = time.monotonic()
            self._deployments[row.model] = deployment
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
        counts = Counter(spec.id for spec in specs)
        twice = [name for name, count in counts.items() if count > 1]
        if twice:
            raise InvalidRequest(f"Two specs have the id {twice[0]!r}.", param="specs")
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
            return await self._apply(specs, prune=prune, rollback=rollback, by=by)

    async def scale(
        self, model: str, replicas: int, by: str = ""
    ) -> tuple[Application, list[Change]]:
        """Serve a model with another number of replicas; restarts none of those that stay.

        Raises:
            ModelNotFound: there is none of that name.
            AviaryError: see `apply`.
        """
        async with self._applying:  # so that no change of the spec in between is lost
            spec = scaled(self.spec(model), replicas)
            return await self._apply([spec], prune=False, rollback=True, by=by)

    async def _apply(
        self, specs: Sequence[ModelSpec], *, prune: bool, rollback: bool, by: str
    ) -> tuple[Application, list[Change]]:
        changes = self.compare(specs, prune=prune)
        wanted = {spec.id: spec for spec in specs}
        application = Application(f"ap-{secrets.token_hex(6)}")
        self._applies[application.id] = application
        while len(self._applies) > APPLIES_KEPT:
            self._applies.popitem(last=False)
        put, gone, events = self._planned(changes, wanted, rollback, by)
        if prune:
            gone += sorted(self._unreadable - wanted.keys())
        if put or gone:
            rows = [deployment.stored() for deployment in put.values()]
            await self._save(rows, gone, events)
            self._unreadable -= {*put, *gone}
        for event in events:
            self._chronicle.tell(event)
        for change in changes:
            if change.model in put:
                await self._deploy(put[change.model], change, application)
            elif change.model in gone:
                self._let_go(change.model)
                application.models[change.model] = Outcome("removed")
            elif change.action == "unchanged":
                self._follow(self._deployments[change.model], application)
        self.refresh()
        self.news.set()
        return application, changes

    def _planned(
        self, changes: Sequence[Change], wanted: dict[str, ModelSpec], rollback: bool, by: str
    ) -> tuple[dict[str, Deployment], list[str], list[StoredEvent]]:
        """What is to be stored: deployments as they will be, ids that go, events."""
        now = time.time()
        put: dict[str, Deployment] = {}
        gone: list[str] = []
        events: list[StoredEvent] = []
        position = max((d.position for d in self._deployments.values()), default=-1)
        for change in changes:
            model, have = change.model, self._deployments.get(change.model)
            detail = ""
            if change.action == "added":
                position += 1
                spec = wanted[model]
                put[model] = Deployment(spec, created=now, changed=now, position=position)
                detail = f"spec {spec.hash}"
            elif change.action == "changed" and have is not None:
                spec = wanted[model]
                # While an untried version rolls out, the one before it stays the one to go back to.
                tried = have.previous if have.rolling else have.spec
                put[model] = replace(have, spec=spec, previous=tried, changed=now)
                # Names only: who may read events may not read every spec.
                detail = f"spec {spec.hash}: {', '.join(f.field for f in change.fields[:20])}"
            elif change.action == "pruned":
                gone.append(model)
            else:
                continue
            if model in put:
                put[model].changed_by, put[model].rollback = by, rollback
            events.append(
                StoredEvent(time=now, model=model, kind=change.action, detail=detail, changed_by=by)
            )
        return put, gone, events

    async def _save(
        self,
        put: Sequence[StoredDeployment],
        delete: Sequence[str],
        events: Sequence[StoredEvent],
    ) -> None:
        await asyncio.to_thread(self._store.save, list(put), list(delete), list(events))

    async def _deploy(self, planned: Deployment, change: Change, application: Application) -> None:
        """Begin what was stored. A deployment is changed in place: the keeper may hold on to it."""
        model = planned.spec.id
        deployment = self._deployments.get(model)
        if deployment is None:
            deployment = self._deployments[model] = planned
            self._may_rest_at_first(deployment)
        else:
            self.conclude(deployment, "superseded")
            deployment.spec, deployment.previous = planned.spec, planned.previous
            deployment.changed, deployment.changed_by = planned.changed, planned.changed_by
            deployment.rollback = planned.rollback
            begins = deployment.rested_by == AT_ZERO and planned.spec.scaling.min_replicas > 0
            if change.restarts or begins:  # a new version must prove that it works
                deployment.rest, deployment.rested_by, deployment.waits = "awake", "", ""
                deployment.sleep_by = deployment.wake_by = None
        deployment.epoch += 1
        deployment.failed_starts, deployment.refused = 0, ""
        deployment.awake_since_s = time.monotonic()
        deployment.rolling = deployment.rest == "awake"
        if not deployment.rolling:
            deployment.previous = None
        self._follow(deployment, application)
        try:
            await self._backend.deploy(deployment.spec, deployment.replicas)
        except Exception as error:  # checked before, so hardly ever; the keeper takes it back
            log.exception("a model could not be deployed", model=model)
            deployment.refused = str(error) or type(error).__name__
            self.note(model, "failed", deployment.refused)

    def _follow(self, deployment: Deployment, application: Application) -> None:
        """Have an apply hear what becomes of a model."""
        state: OutcomeState = "ready" if deployment.rest == "awake" else "sleeping"
        if deployment.rolling:
            deployment.applies.add(application.id)
            state = "rolling"
        application.models[deployment.spec.id] = Outcome(state)

    def _may_rest_at_first(self, deployment: Deployment) -> None:
        """What nobody has asked for yet starts at rest when it may, or must."""
        if deployment.spec.scaling.min_replicas == 0:
            deployment.rest, deployment.rested_by = "zero", AT_ZERO
        elif not self.has_room(deployment):
            deployment.rest, deployment.rested_by = "zero", NO_ROOM

    def _let_go(self, model: str) -> None:
        """Remove a model that the store has forgotten; its answers in progress end first."""
        deployment = self._deployments.pop(model, None)
        if deployment is None:
            return  # a stored one that was never served
        deployment.epoch += 1
        self.conclude(deployment, "removed")
        task = asyncio.create_task(self._remove(model))
        self._removing.add(task)
        task.add_done_callback(self._removing.discard)

    async def _remove(self, model: str) -> None:
        if model not in self._deployments:
            self._chronicle.forget(model)
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
            if model not in self._unreadable:
                self.deployment(model, "to stop")
            event = StoredEvent(time=time.time(), model=model, kind="stopped", changed_by=by)
            await self._save([], [model], [event])
            self._unreadable.discard(model)
            deployment = self._deployments.pop(model, None)
            self._chronicle.tell(event)
            if deployment is None:
                return
            deployment.epoch += 1
            self.conclude(deployment, "removed")
            self.refresh()
        # Nothing else runs before the backend has noted which replicas are to go.
        await self._remove(model)

    async def take_back(self, deployment: Deployment, cause: str, lines: list[str]) -> None:
        """A version cannot start: serve the one before it again, or, of a new model, nothing.

        Raises:
            StoreError: it could not be stored; nothing was changed.
        """
        model, previous = deployment.spec.id, deployment.previous
        async with self._applying:
            if self._deployments.get(model) is not deployment or not deployment.rolling:
                return  # superseded in the meantime
            now = time.time()
            back = f"back to spec {previous.hash}" if previous is not None else "removed again"
            event = StoredEvent(
                time=now,
                model=model,
                kind="rolled back",
                detail=f"spec {deployment.spec.hash} cannot start, {back}: {cause}",
                changed_by="aviary",
            )
            if previous is None:
                await self._save([], [model], [event])
            else:
                after = replace(deployment, spec=previous, previous=None, changed=now)
                await self._save([after.stored()], [], [event])
            self.conclude(deployment, "rolled_back", cause, lines)
            self._chronicle.tell(event)
            if previous is None:
                self._let_go(model)
            else:
                deployment.spec, deployment.previous, deployment.changed = previous, None, now
                deployment.rolling, deployment.refused = False, ""
                deployment.epoch += 1
                await self._backend.deploy(previous, deployment.replicas)
            self.refresh()

    async def settle(self, deployment: Deployment) -> None:
        """A version is ready: there is nothing to go back to any more.

        Raises:
            StoreError: it could not be stored; nothing was changed.
        """
        async with self._applying:
            if (
                self._deployments.get(deployment.spec.id) is not deployment
                or not deployment.rolling
            ):
                return
            if deployment.previous is not None:
                await self._save([replace(deployment, previous=None).stored()], [], [])
            deployment.rolling, deployment.previous = False, None
            self.conclude(deployment, "ready")
            self.refresh()

    def conclude(
        self,
        deployment: Deployment,
        state: OutcomeState,
        detail: str = "",
        lines: Sequence[str] = (),
    ) -> None:
        """Tell the applies that follow a rollout how it ended."""
        model = deployment.spec.id
        for identity in deployment.applies:
            application = self._applies.get(identity)
            if application is None:
                continue
            outcome = application.models.get(model)
            if outcome is not None and outcome.state == "rolling":
                application.models[model] = Outcome(state, detail, list(lines))
        deployment.applies.clear()

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

    def refresh(self) -> None:
        """Build the snapshot anew and publish it when something is different."""
        models = tuple(self._view(deployment) for deployment in self._deployments.values())
        if models != self.snapshot.models:
            for model in models:
                before = self._chronicle.take(model)
                _count_failures(self._deployments[model.id], before, model.replicas)
            self._chronicle.count(models)
            # Once more: what failed just now is part of what is told.
            models = tuple(self._view(deployment) for deployment in self._deployments.values())
        if self._publish(models):
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

    def note(self, model: str, kind: str, detail: str, by: str = "aviary") -> None:
        """Something happened to a model; kept."""
        self._chronicle.note(model, kind, detail, by=by)


def _count_failures(
    deployment: Deployment, before: Mapping[str, ReplicaView], now: Sequence[ReplicaView]
) -> None:
    for replica in now:
        old = before.get(replica.id)
        fresh = old is None or old.state is not ReplicaState.FAILED
        if replica.state is ReplicaState.FAILED and fresh:
            deployment.failures.append(time.time())
            deployment.cause = replica.detail
    if deployment.rolling:
        causes = start_failures(before, now, deployment.spec.hash)
        deployment.failed_starts += len(causes)
        if causes:
            deployment.cause = causes[-1]


def _detail(deployment: Deployment, replicas: Sequence[ReplicaView]) -> str:
    """What an operator should know of a model beyond its state."""
    if deployment.rest != "awake":
        rested = f"{deployment.rested_by}; a request wakes it"
        return f"{rested}; {deployment.waits}" if deployment.waits else rested
    loop = crash_loop(replicas, deployment.failures, time.time())
    if loop:
        return f"crash loop: {loop} failures in 5 min; the last: {deployment.cause}"
    if deployment.rolling and deployment.previous is not None:
        return f"rolls from {deployment.previous.hash} to {deployment.spec.hash}"
    if deployment.sleep_by is not None:
        return "goes to sleep once its answers have ended"
    return ""
