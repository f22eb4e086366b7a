"""The Ray backend: the same replicas, placed, restarted and drained by Ray Serve on any cluster.

One Serve application for each version of each model, so that a new version runs beside the old one
until it is ready, as on the local backend. Tokens never pass through Ray: with direct ingress each
replica has an HTTP port, and gateways speak to it directly.

This process does not import Ray: a driver process does (`ray_driver`), whose only users of Ray are
in `ray_serve`. One loop here compares what shall be with what is and tells the driver; `deploy`,
`scale` and `remove` only note what shall be.
"""

from __future__ import annotations

import asyncio
import importlib.util
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

import structlog

from aviary.backends.ray_app import Describer, Probe
from aviary.backends.ray_link import DRIVER, Link
from aviary.backends.ray_logs import Books
from aviary.backends.ray_session import RayLost, Session
from aviary.backends.ray_views import UNKNOWN, App, unplaceable
from aviary.config.settings import Settings
from aviary.config.spec import ModelSpec
from aviary.core.errors import NotAvailable
from aviary.core.states import ReplicaState, ReplicaView
from aviary.wire.client import Target

if importlib.util.find_spec("ray") is None:
    raise ModuleNotFoundError("No module named 'ray'", name="ray")

log = structlog.get_logger()

TICK_S = 0.5
QUICK_TICK_S = 0.1
"""While an engine loads: its replica is asked so often, a request may wait for it."""
COALESCE_S = 0.05
LISTEN_S = 0.05
LOGS_EVERY_S = 0.5
LOOK_S = 0.4
STEADY_LOOK_S = 2.0
RESTLESS_S = 3.0
"""So long after a change the cluster is looked at often."""
DEPLOY_S = 60.0
NOTICE_S = 0.3
DRAIN_DEADLINE_S = 60.0


class RayBackend:
    """A `Backend` on Ray Serve. See `aviary.core.ports.Backend`.

    Args:
        settings: This installation's settings.
        token: The internal token of this Aviary.
        runtime: Folder for the files of a Ray started here; short.
        address: The cluster to join; `None` starts a Ray on this machine.
        outlast: Replicas in a joined cluster outlive a control process that is killed, since
            gateways elsewhere use them; the next one with the same token takes them over.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        token: str,
        runtime: Path,
        address: str | None = None,
        outlast: bool = False,
    ) -> None:
        self._books = Books(settings.log_dir)
        self._link = Link(
            settings,
            token=token,
            runtime=runtime,
            address=address,
            outlast=outlast,
            on_line=lambda line: self._books.open(DRIVER).add("driver", line),
        )
        self._apps: dict[str, list[App]] = {}
        self._current: dict[str, App] = {}
        self._seen: dict[str, Any] = {}
        self._seen_at = self._changed_at = 0.0
        self._listeners: list[Callable[[], None]] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._wake = asyncio.Event()
        self._probe = Probe(token)
        self._describe = Describer(settings, token, runtime, here=address is None)

    # life

    async def start(self) -> None:
        """Start Ray, or join it; on a busy machine that may take more than one try.

        Raises:
            StartFailed: it did not, or the cluster has several nodes and the store is SQLite.
        """
        await self._link.open()
        self._keep(self._run())
        self._keep(self._read_logs())

    async def stop(self) -> None:
        """End everything this backend started; a joined cluster stays, without our models."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))
        await self._link.leave(in_use=bool(self._apps))
        self._apps.clear()
        self._current.clear()
        await self._probe.close()
        self._books.close()

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # what shall be

    def check(self, spec: ModelSpec, replicas: int) -> None:
        """Whether this version can run the spec.

        Raises:
            NotAvailable: one replica over several nodes is asked for.
        """
        del replicas
        if spec.resources.nodes > 1:
            raise NotAvailable(
                f"{spec.id}: replicas over several nodes are not available in this version.",
                hint="Set resources.nodes to 1.",
            )

    async def deploy(self, spec: ModelSpec, replicas: int) -> None:
        """Run the spec; every other version leaves as soon as this one is ready."""
        self.check(spec, replicas)
        self._books.open(spec.id)
        apps = self._apps.setdefault(spec.id, [])
        same = next((a for a in apps if not a.leaving and a.spec.hash == spec.hash), None)
        if same is None:
            same = self._new_app(spec, replicas)
            apps.append(same)
        same.spec = spec
        same.scale(replicas)
        self._current[spec.id] = same
        self._let_others_go()
        self._wanted()

    def _new_app(self, spec: ModelSpec, replicas: int) -> App:
        name = self._link.claim(spec)
        if name is not None:
            return App(name, spec, replicas, told=UNKNOWN, listed=True)
        return App(self._link.names.new(spec), spec, replicas)

    def _let_others_go(self) -> None:
        """Of a model whose current version is ready, no other version stays."""
        for model, current in self._current.items():
            if current.ready:
                apps = self._apps.get(model, ())
                self._let_go([a for a in apps if a is not current and not a.leaving])

    def _let_go(self, apps: Iterable[App]) -> None:
        for app in apps:
            if not app.leaving:
                app.stopping()
                app.leave_at = time.monotonic() + NOTICE_S
                if app.told is None:
                    self._gone(app)
                self._wanted()

    async def scale(self, model: str, replicas: int) -> None:
        """Change the number of replicas; Serve touches none that stay."""
        current = self._current.get(model)
        if current is not None and current.replicas != replicas:
            current.scale(replicas)
            self._let_others_go()
            self._wanted()

    async def remove(self, model: str) -> None:
        """Drain and stop the replicas that the model has now; those deployed later stay."""
        self._current.pop(model, None)
        going = list(self._apps.get(model, ()))
        self._let_go(going)
        deadline = time.monotonic() + DRAIN_DEADLINE_S
        while self._left(model, going) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(LISTEN_S)
        newer = [app for app in self._apps.get(model, ()) if all(app is not a for a in going)]
        if newer:
            self._apps[model] = newer
        else:
            self._apps.pop(model, None)
            self._books.drop(model)
        self._notify()

    def _left(self, model: str, going: list[App]) -> bool:
        return any(app is one for app in self._apps.get(model, ()) for one in going)

    def replicas(self, model: str) -> tuple[ReplicaView, ...]:
        """The model's replicas as known now."""
        return tuple(view for app in self._apps.get(model, []) for view in app.views.values())

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call `changed` after each change."""
        self._listeners.append(changed)

    def _wanted(self) -> None:
        """Something shall be different now."""
        self._wake.set()
        self._notify()

    def _notify(self) -> None:
        self._changed_at = time.monotonic()
        for listener in self._listeners:
            listener()

    # the loop

    @property
    def _all(self) -> list[App]:
        return [app for apps in self._apps.values() for app in apps]

    async def _run(self) -> None:
        while True:
            session = self._link.session
            try:
                if session is None or session.lost.is_set():
                    await self._start_over()
                else:
                    await self._tick(session, self._probe)
            except (RayLost, OSError) as error:
                log.warning("Ray did not do as asked", cause=str(error)[:500])
            except Exception:
                log.exception("a look at Ray failed")
            await self._rest()

    async def _rest(self) -> None:
        """Until the next tick, or until something shall be different."""
        quick = any(app.loading for app in self._all)
        try:
            async with asyncio.timeout(QUICK_TICK_S if quick else TICK_S):
                await self._wake.wait()
            await asyncio.sleep(COALESCE_S)
        except TimeoutError:
            pass
        self._wake.clear()

    async def _start_over(self) -> None:
        """The driver ended, and its Ray with it; a joined cluster and the replicas there go on."""
        if not self._link.joined:
            for model, apps in self._apps.items():
                self._apps[model] = [app for app in apps if not app.leaving]
                for app in self._apps[model]:
                    app.lost("Ray has ended; it is started again")
                    app.name = self._link.names.new(app.spec)
            self._seen = {}
            self._notify()
        await self._link.reopen(lambda: {app.name for app in self._all})

    async def _tick(self, session: Session, probe: Probe) -> None:
        await self._tell(session)
        now = time.monotonic()
        apps = self._all
        before = [view for app in apps for view in app.views.values()]
        steady = all(app.steady for app in apps) and now - self._changed_at > RESTLESS_S
        looks = now - self._seen_at > (STEADY_LOOK_S if steady else LOOK_S)
        if looks:
            self._seen = await session.ask("look", owner=self._link.owner)
            self._seen_at = now
        places = [
            (replica["id"], Target(replica["host"], replica["port"]), "/" + app.name)
            for app in apps
            for replica in self._seen.get(app.name, {}).get("replicas", ())
            if replica["port"] and (looks or app.in_motion(replica["id"]))
        ]
        answers = await asyncio.gather(*(probe.ask(t, prefix) for _, t, prefix in places))
        said = {key: answer for (key, _, _), answer in zip(places, answers, strict=True)}
        if any(app.why or app.spec.resources.gpus for app in apps if not app.ready and looks):
            await self._explain(session)
        for app in apps:
            seen = self._seen.get(app.name)
            if seen is not None and not app.never_ran:
                app.take(seen, said)
            elif app.gone:
                self._gone(app)
        self._let_others_go()
        if before != [view for app in self._all for view in app.views.values()]:
            self._notify()

    def _gone(self, app: App) -> None:
        """Ray shows the application no more."""
        if app.leaving:
            apps = self._apps.get(app.spec.id, [])
            apps[:] = [a for a in apps if a is not app]
        else:
            app.lost("its Serve application was deleted by someone else")
            app.name = self._link.names.new(app.spec)

    async def _tell(self, session: Session) -> None:
        """Tell Ray what is different from what it was told."""
        new = [a for a in self._all if a.told is None and a.replicas > 0 and not a.given_up]
        if new:
            await self._hand_over(session, new)
        for app in self._all:
            count = app.replicas
            if app.listed and app.told is not None and app.told != count and not app.leaving:
                try:
                    await session.ask("scale", name=app.name, replicas=count)
                except RayLost as error:  # another may have deleted it: the next look tells
                    log.warning("Ray did not scale", app=app.name, cause=str(error)[:500])
                else:
                    app.told = count
        for app in self._all:
            until = app.not_before
            if app.told is not None and until > app.not_before_told and not app.leaving:
                await session.ask("pause", name=app.name, until=until)
                app.not_before_told = until
        await self._link.drop_unclaimed(session)
        now = time.monotonic()
        going = [a for a in self._all if a.leaving and a.told is not None and not a.deleting]
        due = [app for app in going if app.leave_at <= now]
        if due:
            await session.ask("delete", names=[app.name for app in due])
            for app in due:
                app.deleting = True

    async def _hand_over(self, session: Session, new: list[App]) -> None:
        """Deploy together what came together; what Ray refuses, it refuses alone."""
        for app in new:
            app.told = app.replicas
        try:
            described = [self._describe(app) for app in new]
            await session.ask("deploy", DEPLOY_S, apps=described)
        except RayLost as error:
            if session.lost.is_set():
                raise
            if len(new) == 1:
                new[0].told, new[0].given_up = None, True
                new[0].refused(str(error))
                self._notify()
                return
            for app in new:
                await self._hand_over(session, [app])

    async def _explain(self, session: Session) -> None:
        """Why replicas that have no process yet cannot be placed."""
        nodes = await session.ask("nodes")
        for app in self._all:
            waiting = [v for v in app.views.values() if v.state is ReplicaState.STARTING]
            waiting = [view for view in waiting if not view.pid]
            since = min((view.since for view in waiting), default=time.time())
            app.why = unplaceable(app.spec, nodes, time.time() - since) if waiting else ""

    # logs

    async def _read_logs(self) -> None:
        while True:
            await asyncio.sleep(LOGS_EVERY_S)
            session = self._link.session
            if session is None or not session.logs:
                continue
            there = [
                (app.spec.id, replica)
                for app in self._all
                for replica in self._seen.get(app.name, {}).get("replicas", ())
            ]
            try:
                await self._books.read(session.logs, session.node, there)
            except Exception:
                log.exception("cannot read the replicas' logs")

    def logs(self, model: str, lines: int) -> list[str]:
        """The last log lines of the model's replicas on this node."""
        return self._books.last(model, lines)

    def follow_logs(self, model: str, lines: int) -> AsyncGenerator[str, None]:
        """The last lines, then each new one."""
        return self._books.follow(model, lines)
