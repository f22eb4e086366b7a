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

from aviary.backends.ray_app import Describer, Names, Probe
from aviary.backends.ray_logs import Books
from aviary.backends.ray_session import RayLost, Session, owner_of, short_folder
from aviary.backends.ray_views import UNKNOWN, App, unplaceable
from aviary.config.settings import Settings
from aviary.config.spec import ModelSpec
from aviary.core.errors import NotAvailable, StartFailed
from aviary.core.states import ReplicaState, ReplicaView
from aviary.process.child import Backoff
from aviary.wire.client import Target

if importlib.util.find_spec("ray") is None:
    raise ModuleNotFoundError("No module named 'ray'", name="ray")

log = structlog.get_logger()

TRIES = 3
DRIVER = "_ray"
"""Name of the driver's log; no model can have it."""
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
LEAVE_CLUSTER_S = 6.0
CLAIM_S = 15.0
"""What an earlier Aviary left running in a cluster waits so long to be deployed again."""


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
        self._settings = settings
        self._token = token
        self._runtime = runtime
        self._address = address
        self._owner = owner_of(settings.home)
        self._outlast = outlast and address is not None
        self._unclaimed: set[str] = set()
        self._names = Names(self._owner, token)
        self._apps: dict[str, list[App]] = {}
        self._current: dict[str, App] = {}
        self._seen: dict[str, Any] = {}
        self._seen_at = self._changed_at = 0.0
        self._books = Books(settings.log_dir)
        self._listeners: list[Callable[[], None]] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._wake = asyncio.Event()
        self._backoff = Backoff()
        self._connected_at = 0.0
        self._session: Session | None = None
        self._probe = Probe(token)
        self._describe = Describer(settings, token, runtime, here=address is None)

    # life

    async def start(self) -> None:
        """Start Ray, or join it; on a busy machine that may take more than one try.

        Raises:
            StartFailed: it did not, or the cluster has several nodes and the store is SQLite.
        """
        cause = ""
        for attempt in range(TRIES):
            try:
                await self._connect()
                await self._take_stock()
            except (RayLost, OSError) as error:
                cause = str(error)
                log.warning("Ray did not start", attempt=attempt + 1, cause=cause[:500])
                await self._disconnect()
            else:
                break
        else:
            what = f"join Ray at {self._address}" if self._address else "start Ray"
            raise StartFailed(
                f"Cannot {what}: {cause}",
                hint=f"Its log is {self._settings.log_dir / f'{DRIVER}.log'}.",
            )
        self._connected_at = time.monotonic()
        self._keep(self._run())
        self._keep(self._read_logs())

    async def _connect(self) -> None:
        book = self._books.open(DRIVER)
        self._session = Session(
            folder=short_folder(self._runtime, self._owner),
            address=self._address,
            outlast=self._outlast,
            on_line=lambda line: book.add("driver", line),
        )
        await self._session.start()

    async def _take_stock(self) -> None:
        """See what is in a cluster that was joined."""
        session, address = self._session, self._address
        if session is None or address is None:
            return
        nodes = len(await session.ask("nodes"))
        if nodes > 1:
            self._settings.require_shared_store(
                f"The Ray cluster at {address} has {nodes} nodes, and several nodes need a store "
                "that all of them can reach",
                f"aviary up --backend ray --address {address}",
            )
        if self._outlast:
            left = await session.ask("look", owner=self._owner)
            self._unclaimed = {name for name, app in left.items() if app["status"] != "DELETING"}
        await self._clear(session, 0.0)

    async def _clear(self, session: Session, within_s: float) -> None:
        """Remove what an earlier Aviary of this home left when it was killed."""
        staying = {app.name for app in self._all} | self._unclaimed
        await session.clear(self._owner, within_s, staying)

    async def _disconnect(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.stop()

    async def stop(self) -> None:
        """End everything this backend started; a joined cluster stays, without our models."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))
        if self._session is not None and self._address is not None:
            self._apps.clear()
            try:
                await self._clear(self._session, LEAVE_CLUSTER_S)
            except RayLost as error:
                log.warning("left the cluster without clearing up", cause=str(error)[:500])
        self._apps.clear()
        self._current.clear()
        await self._disconnect()
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
            same = self._claimed(spec, replicas) or App(self._names.new(spec), spec, replicas)
            apps.append(same)
        same.spec = spec
        same.scale(replicas)
        self._current[spec.id] = same
        self._let_others_go()
        self._wanted()

    def _claimed(self, spec: ModelSpec, replicas: int) -> App | None:
        """The application of an earlier Aviary that serves just this."""
        name = self._names.find(spec, self._unclaimed)
        if name is None:
            return None
        self._unclaimed.discard(name)
        return App(name, spec, replicas, told=UNKNOWN, listed=True)

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
            session = self._session
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
        if self._address is None:
            for model, apps in self._apps.items():
                self._apps[model] = [app for app in apps if not app.leaving]
                for app in self._apps[model]:
                    app.lost("Ray has ended; it is started again")
                    app.name = self._names.new(app.spec)
            self._seen = {}
            self._notify()
        delay_s = self._backoff.next_delay_s(time.monotonic() - self._connected_at)
        log.warning("the Ray driver has ended", restart_in_s=delay_s)
        await self._disconnect()
        await asyncio.sleep(delay_s)
        await self._connect()
        self._connected_at = time.monotonic()
        if self._session is not None and self._address is not None:
            await self._clear(self._session, 0.0)

    async def _tick(self, session: Session, probe: Probe) -> None:
        await self._tell(session)
        now = time.monotonic()
        apps = self._all
        before = [view for app in apps for view in app.views.values()]
        steady = all(app.steady for app in apps) and now - self._changed_at > RESTLESS_S
        looks = now - self._seen_at > (STEADY_LOOK_S if steady else LOOK_S)
        if looks:
            self._seen = await session.ask("look", owner=self._owner)
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
            app.name = self._names.new(app.spec)

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
        now = time.monotonic()
        if self._unclaimed and now - self._connected_at > CLAIM_S:
            names, self._unclaimed = list(self._unclaimed), set()
            await session.ask("delete", names=names)
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
            session = self._session
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
