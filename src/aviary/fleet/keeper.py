"""Makes what is follow what shall be: judges rollouts, puts idle models to rest, wakes them.

A loop that looks at the fleet after each news, and now and then: every step compares and, where
something differs, begins what brings it nearer. What it begins may be begun again: replicas take
each order twice without harm, so a lost one does none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping
from typing import Any, Protocol

import structlog

from aviary.core.errors import AviaryError
from aviary.core.ports import Backend, FleetStore
from aviary.core.states import ReplicaState, ReplicaView
from aviary.fleet.activity import Activity, Use
from aviary.fleet.desired import Deployment, Rest
from aviary.fleet.fleet import Fleet
from aviary.fleet.memory import SLEEPING_BYTES, Resident, make_room
from aviary.fleet.rollout import LEAVING, Judgement, judge

log = structlog.get_logger()

TICK_S = 0.5
RETRY_S = 0.5
COALESCE_S = 0.02
DELIVERED_WITHIN_S = 1.0
LOG_LINES = 20
NEWEST = 0.5
"""Weight of the newest wake in the running mean of wakes."""


class Replicas(Protocol):
    """What the keeper asks of single replicas."""

    async def sleep(self, replica: ReplicaView) -> bool:
        """Free the engine; false when the replica is busy or cannot be asked."""

    async def wake(self, replica: ReplicaView) -> bool:
        """Begin to load the engine again; false when the replica cannot be asked."""

    async def memory_bytes(self, replica: ReplicaView) -> int | None:
        """What the replica's processes take; `None` when unknown."""


class Keeper:
    """The fleet's loop.

    Args:
        fleet: What shall be.
        backend: What is.
        store: Keeps what was measured.
        replicas: Asks single replicas.
        budget_bytes: Memory that all models together may use; `None`: no bound.
    """

    def __init__(
        self,
        fleet: Fleet,
        backend: Backend,
        store: FleetStore,
        replicas: Replicas,
        budget_bytes: int | None,
    ) -> None:
        self._fleet = fleet
        self._backend = backend
        self._store = store
        self._replicas = replicas
        self._budget_bytes = budget_bytes
        self._activity = Activity()
        self._tasks: set[asyncio.Task[None]] = set()
        self._measured: set[str] = set()
        fleet.has_room = self._has_room

    def report(self, worker: str, uses: Mapping[str, Use]) -> None:
        """Take what a gateway worker says of its requests; one that waits wakes its model."""
        self._activity.report(worker, uses, time.monotonic())
        if any(use.held for use in uses.values()):
            self._fleet.news.set()

    def order_sleep(self, model: str, by: str) -> bool:
        """Have a model sleep as soon as nothing runs there, until a request or an order wakes it.

        Args:
            model: Its id.
            by: Who wants it.

        Returns:
            Whether there is anything to do: false when it sleeps already.

        Raises:
            ModelNotFound: there is none of that name.
        """
        deployment = self._fleet.deployment(model, "to put to sleep")
        deployment.wake_by = None
        # One on its way to rest may yet find itself busy, and be awake again.
        if deployment.rest != "awake" and not deployment.moving:
            return False
        deployment.sleep_by = by
        self._told()
        return True

    def order_wake(self, model: str, by: str) -> bool:
        """Have a model wake as soon as there is room, as a request would.

        Args:
            model: Its id.
            by: Who wants it.

        Returns:
            Whether there is anything to do: false when it is awake already.

        Raises:
            ModelNotFound: there is none of that name.
        """
        deployment = self._fleet.deployment(model, "to wake")
        deployment.sleep_by = None
        rests = deployment.rest != "awake"
        if rests:
            deployment.wake_by = by
        self._told()
        return rests

    def _told(self) -> None:
        self._fleet.refresh()
        self._fleet.news.set()

    async def run(self) -> None:
        """Keep the fleet, until cancelled."""
        try:
            while True:
                try:
                    self.step(time.monotonic())
                except Exception:
                    log.exception("a look at the fleet failed")
                await self._rest()
        finally:
            for task in list(self._tasks):
                task.cancel()

    async def _rest(self) -> None:
        try:
            async with asyncio.timeout(TICK_S):
                await self._fleet.news.wait()
            await asyncio.sleep(COALESCE_S)
        except TimeoutError:
            pass
        self._fleet.news.clear()

    def _keep(self, deployment: Deployment, work: Coroutine[Any, Any, None]) -> None:
        """Do something slow for a model, one thing at a time."""
        deployment.moving = True

        async def run() -> None:
            try:
                await work
            except AviaryError as error:
                log.warning("the fleet could not", model=deployment.spec.id, cause=str(error))
                await asyncio.sleep(RETRY_S)
            except Exception:
                log.exception("the fleet could not", model=deployment.spec.id)
                await asyncio.sleep(RETRY_S)
            finally:
                deployment.moving = deployment.waking = False
                self._fleet.news.set()

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def step(self, now_s: float) -> None:
        """Compare what is with what shall be, and begin what brings it nearer."""
        self._activity.forget_stale(now_s)
        for deployment in self._fleet.deployments:
            if not deployment.moving:
                self._look_at(deployment, now_s)
        wanted = set(self._activity.wanted())
        for deployment in self._fleet.deployments:
            if deployment.moving:
                continue
            # Orders that are fulfilled, by whatever means, are over.
            if deployment.rest == "awake":
                deployment.wake_by = None
                continue
            deployment.sleep_by = None
            if deployment.spec.id in wanted or deployment.wake_by is not None:
                self._try_to_wake(deployment, now_s)
        if self._budget_bytes is not None:
            self._keep_budget(self._budget_bytes, now_s)

    def _look_at(self, deployment: Deployment, now_s: float) -> None:
        spec = deployment.spec
        replicas = self._backend.replicas(spec.id)
        staying = [r for r in replicas if r.state not in LEAVING and r.spec_hash == spec.hash]
        sleeping = [r for r in staying if r.state is ReplicaState.SLEEPING]
        if deployment.rest == "awake" and sleeping:
            self._keep(deployment, self._wake_replicas(sleeping))
        elif deployment.rolling:
            self._judge(deployment, replicas)
        elif len(staying) != deployment.replicas and _settled(replicas):
            self._keep(deployment, self._scale(deployment))
        elif deployment.rest == "awake":
            self._keep_awake(deployment, replicas, now_s)
        elif deployment.rest == "sleep":
            self._keep_asleep(deployment)

    async def _scale(self, deployment: Deployment) -> None:
        """What runs is not what shall run: some order was overtaken by another."""
        await self._backend.scale(deployment.spec.id, deployment.replicas)
        await asyncio.sleep(RETRY_S)

    # rollouts

    def _judge(self, deployment: Deployment, replicas: tuple[ReplicaView, ...]) -> None:
        judgement = judge(
            replicas,
            deployment.spec.hash,
            deployment.replicas,
            deployment.failed_starts,
            deployment.cause,
        )
        if deployment.refused:
            judgement = Judgement("failed", deployment.refused)
        if judgement.verdict == "ready":
            self._keep(deployment, self._settle(deployment))
        elif judgement.verdict == "failed":
            model = deployment.spec.id
            lines = [
                line
                for line in self._backend.logs(model, 10 * LOG_LINES)
                if judgement.replica.rpartition("/")[2] in line
            ] or self._backend.logs(model, LOG_LINES)
            lines = lines[-LOG_LINES:]
            cause = judgement.cause or deployment.cause
            if deployment.rollback:
                self._keep(deployment, self._fleet.take_back(deployment, cause, lines))
            else:
                self._fleet.conclude(deployment, "failed", cause, lines)

    async def _settle(self, deployment: Deployment) -> None:
        await self._fleet.settle(deployment)
        await self._measure(deployment)

    async def _measure(self, deployment: Deployment) -> None:
        """It works now: note how much memory a replica takes; count its idle time from here."""
        deployment.awake_since_s = time.monotonic()
        ready = self._ready(deployment)
        sizes = [await self._replicas.memory_bytes(replica) for replica in ready]
        known = [size for size in sizes if size]
        if known:
            deployment.memory_bytes = max(known)
            await asyncio.to_thread(
                self._store.measured,
                deployment.spec.id,
                deployment.memory_bytes,
                deployment.wake_s,
            )

    def _ready(self, deployment: Deployment) -> list[ReplicaView]:
        replicas = self._backend.replicas(deployment.spec.id)
        return [r for r in replicas if r.state is ReplicaState.READY]

    # awake

    def _keep_awake(
        self, deployment: Deployment, replicas: tuple[ReplicaView, ...], now_s: float
    ) -> None:
        model = deployment.spec.id
        ready = [r for r in replicas if r.state is ReplicaState.READY]
        if deployment.woken is not None and ready:
            took_s = max(0.0, min(r.since for r in ready) - deployment.woken)
            deployment.woken = None
            before = deployment.wake_s
            deployment.wake_s = took_s if before is None else before + NEWEST * (took_s - before)
            self._fleet.note(model, "woke", f"in {took_s:.1f} s")
            self._keep(deployment, self._measure(deployment))
        elif ready and model not in self._measured:
            self._measured.add(model)
            self._keep(deployment, self._measure(deployment))
        elif ready and deployment.sleep_by is not None:
            if not self._activity.in_flight(model):
                how, by = _rest_by_order(deployment), deployment.sleep_by
                self._keep(deployment, self._put_to_rest(deployment, how, "told to sleep", by))
        elif ready:
            self._rest_when_idle(deployment, now_s)

    def _rest_when_idle(self, deployment: Deployment, now_s: float) -> None:
        idle = deployment.spec.scaling.idle
        how: Rest = "awake" if idle.then == "keep" else idle.then
        if deployment.spec.scaling.min_replicas == 0:
            how = "zero" if how == "awake" else how
        model = deployment.spec.id
        used_s = self._activity.last_used_s(model, deployment.awake_since_s)
        if how == "awake" or now_s - used_s < idle.after or self._activity.in_flight(model):
            return
        self._keep(deployment, self._put_to_rest(deployment, how, f"idle for {idle.after:g} s"))

    # at rest

    async def _put_to_rest(
        self, deployment: Deployment, how: Rest, why: str, by: str = "aviary"
    ) -> None:
        """Gateways stop sending first; a replica that is busy after all calls it off.

        Whoever changes the deployment meanwhile comes first: then nothing more is done here.
        """
        fleet, model, epoch = self._fleet, deployment.spec.id, deployment.epoch
        deployment.rest, deployment.rested_by, deployment.woken = how, why, None
        fleet.refresh()
        await fleet.everywhere(DELIVERED_WITHIN_S)
        asked = [self._replicas.sleep(replica) for replica in self._ready(deployment)]
        slept = await asyncio.gather(*asked)
        if deployment.epoch != epoch:
            return
        if not all(slept):
            deployment.rest, deployment.rested_by = "awake", ""
            deployment.awake_since_s = time.monotonic()
            fleet.refresh()
            return
        if how == "zero":
            await self._backend.scale(model, 0)
        fleet.note(model, "rests", f"{'no replica' if how == 'zero' else 'asleep'}: {why}", by)

    def _keep_asleep(self, deployment: Deployment) -> None:
        """A replica that came back after a crash is to rest as the others do."""
        awake = self._ready(deployment)
        if awake:
            self._keep(deployment, self._sleep_again(awake))

    async def _sleep_again(self, replicas: list[ReplicaView]) -> None:
        slept = await asyncio.gather(*(self._replicas.sleep(replica) for replica in replicas))
        if not all(slept):
            await asyncio.sleep(RETRY_S)

    # waking

    def _try_to_wake(self, deployment: Deployment, now_s: float) -> None:
        """Wake a model for which requests wait, once there is room; others may have to rest."""
        victims: list[str] | None = []
        if self._budget_bytes is not None:
            residents = self._residents(besides=deployment.spec.id)
            need = deployment.need_bytes
            victims = make_room(self._budget_bytes, residents, need, now_s)
        if victims is None:
            waits = "waits until others that use the memory are idle"
            if deployment.waits != waits:
                deployment.waits = waits
                self._fleet.note(deployment.spec.id, "waits", waits)
                self._fleet.refresh()
            return
        deployment.waits = ""
        deployment.waking = True  # its memory is taken from now on
        resting = [d for d in self._fleet.deployments if d.spec.id in victims]
        for victim in resting:
            victim.moving = True
        self._keep(deployment, self._wake(deployment, resting))

    async def _wake(self, deployment: Deployment, resting: list[Deployment]) -> None:
        fleet, model, epoch = self._fleet, deployment.spec.id, deployment.epoch
        try:
            for victim in resting:
                why = f"its memory is needed by {model}"
                await self._put_to_rest(victim, _rest_of(victim), why)
        finally:
            for victim in resting:
                victim.moving = False
        if deployment.epoch != epoch or any(victim.rest == "awake" for victim in resting):
            return  # changed, or one was asked for in that very moment: the next step looks anew
        how, deployment.rest, deployment.rested_by = deployment.rest, "awake", ""
        deployment.awake_since_s, deployment.woken = time.monotonic(), time.time()
        about = f", about {deployment.wake_s:.1f} s" if deployment.wake_s is not None else ""
        by, deployment.wake_by = deployment.wake_by, None
        why = "a request waits" if by is None else "told to wake"
        fleet.note(model, "wakes", f"{why}{about}", by or "aviary")
        if how == "zero":
            await self._backend.scale(model, deployment.replicas)
        else:
            replicas = self._backend.replicas(model)
            await self._wake_replicas([r for r in replicas if r.state is ReplicaState.SLEEPING])
        fleet.refresh()

    async def _wake_replicas(self, replicas: list[ReplicaView]) -> None:
        told = await asyncio.gather(*(self._replicas.wake(replica) for replica in replicas))
        # They say that they start by their own way; until that has come, do not ask again.
        await asyncio.sleep(TICK_S if all(told) else 2 * TICK_S)

    # memory

    def _residents(self, besides: str = "") -> list[Resident]:
        found = []
        for deployment in self._fleet.deployments:
            model = deployment.spec.id
            processes = SLEEPING_BYTES * deployment.spec.replicas
            awake = deployment.rest == "awake" or deployment.waking or deployment.moving
            if model == besides or (deployment.rest == "zero" and not awake):
                continue
            memory = deployment.need_bytes if awake else processes
            left = processes if awake and _rest_of(deployment) == "sleep" else 0
            found.append(
                Resident(
                    model=model,
                    memory_bytes=memory,
                    frees_bytes=max(0, memory - left),
                    last_used_s=self._activity.last_used_s(model, deployment.awake_since_s),
                    awake_since_s=deployment.awake_since_s,
                    busy=deployment.moving
                    or deployment.rolling
                    or deployment.waking
                    or self._activity.in_flight(model) > 0,
                    asleep=not awake,
                )
            )
        return found

    def _has_room(self, deployment: Deployment) -> bool:
        if self._budget_bytes is None:
            return True
        residents = self._residents(besides=deployment.spec.id)
        used = sum(resident.memory_bytes for resident in residents)
        alone = all(resident.asleep or not resident.memory_bytes for resident in residents)
        return alone or used + deployment.need_bytes <= self._budget_bytes

    def _keep_budget(self, budget_bytes: int, now_s: float) -> None:
        """What was measured, or applied, may be more than there is: let the least used rest."""
        residents = self._residents()
        awake = [d for d in self._fleet.deployments if d.rest == "awake" and d.need_bytes]
        if len(awake) < 2:
            return  # alone it may use more: it could run never otherwise
        victims = make_room(budget_bytes, residents, 0, now_s)
        for deployment in self._fleet.deployments:
            if victims and deployment.spec.id in victims and not deployment.moving:
                why = "the models together use more memory than they may"
                self._keep(deployment, self._put_to_rest(deployment, _rest_of(deployment), why))


def _rest_of(deployment: Deployment) -> Rest:
    """How a model rests that makes room for another."""
    asleep = deployment.rest == "sleep" and not deployment.waking
    return "zero" if asleep or deployment.spec.scaling.idle.then == "zero" else "sleep"


def _rest_by_order(deployment: Deployment) -> Rest:
    """How a model rests that was told to: without a replica only if it may be without one."""
    scaling = deployment.spec.scaling
    return "zero" if scaling.min_replicas == 0 and scaling.idle.then != "sleep" else "sleep"


def _settled(replicas: tuple[ReplicaView, ...]) -> bool:
    """Whether none is on its way out or not yet known: then their number means something."""
    return not any(replica.state in LEAVING for replica in replicas)
