"""One running Aviary: its parts, in the order in which each needs the one before."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aviary.auth.bind import check_bind, is_loopback
from aviary.backends.local import LocalBackend
from aviary.backends.logbook import Logbook
from aviary.bootstrap.control import Door, control_door, listen_control
from aviary.bootstrap.machine import (
    listen,
    memory_total_bytes,
    only_one,
    raise_file_limit,
    runtime_folder,
    url_of,
)
from aviary.bootstrap.observed import Observed
from aviary.bootstrap.replicas import AskedReplicas
from aviary.bootstrap.rolling import roll_up
from aviary.bootstrap.upkeep import KeyPublisher, keep_in_order
from aviary.bootstrap.workers import GatewayWorkers
from aviary.config.settings import Settings
from aviary.config.spec import ModelSpec
from aviary.core.errors import NotAvailable, SpecError
from aviary.core.ports import Backend, FleetStore, ReplicaCount, StoredDeployment, StoredEvent
from aviary.fleet.chronicle import Chronicle
from aviary.fleet.desired import GB
from aviary.fleet.events import HISTORY
from aviary.fleet.fleet import Fleet
from aviary.fleet.headcount import Headcount
from aviary.fleet.keeper import Keeper
from aviary.gateway.boot import WorkerBoot
from aviary.store.writer import Appendable, RecordWriter
from aviary.version import __version__

if TYPE_CHECKING:
    from aviary.store.ballots import SqlBallots
    from aviary.store.database import Database
    from aviary.store.fleet import SqlFleet
    from aviary.store.keys import SqlKeys
    from aviary.web.app import ControlApp

CONTROL_STOP_S = 1.0
EVENTS_CLOSE_S = 2.0
COUNTS_QUEUED = 5_000
MEMORY_SHARE = 0.9
"""Of the machine's memory; the rest is for everything else on it."""
GATEWAY_LOG = "_gateway"
"""Name of the workers' log; no model can have it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to start.

    Attributes:
        specs: Models to apply; `None`: serve what was served last, or `starter` the first time.
        starter: The specs of a home in which nothing was ever applied.
        prune: Whether what was served last and is not among the specs is stopped.
        host: Address the gateway binds.
        port: Its port; 0 takes a free one.
        workers: Gateway workers.
        backend: `local` or `ray`.
        address: The Ray cluster to join; `None` starts one here.
        insecure: Bind beyond loopback without an admin key.
        control: `HOST:PORT` at which gateways of other machines may join; `None`: none may.
    """

    specs: Sequence[ModelSpec] | None = None
    starter: Callable[[], Sequence[ModelSpec]] = tuple
    prune: bool = False
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 2
    backend: str = "local"
    address: str | None = None
    insecure: bool = False
    control: str | None = None


class Instance:
    """One running Aviary. `async with Instance(plan, settings) as instance: …`."""

    def __init__(self, plan: Plan, settings: Settings) -> None:
        self._plan = plan
        self._settings = settings
        self._token = secrets.token_urlsafe(32)
        self._door: Door | None = None
        self._exits = contextlib.AsyncExitStack()
        self.worker_ready = asyncio.Event()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.url = ""
        self._fleet: Fleet | None = None
        self._workers = 0

    @property
    def fleet(self) -> Fleet:
        """The fleet of a started instance."""
        if self._fleet is None:
            raise RuntimeError("the instance has not started")
        return self._fleet

    async def __aenter__(self) -> Instance:
        try:
            await self._start()
        except BaseException:
            await self._exits.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()

    async def _start(self) -> None:
        """Bring up everything, in the order in which each part needs the one before."""
        plan, settings, exits = self._plan, self._settings, self._exits
        raise_file_limit()  # first: children inherit it
        settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        exits.enter_context(only_one(settings.home))
        if plan.control is not None:
            self._door = control_door(plan.control, plan.backend, settings)
            self._token = self._door.token
        open_without_keys = plan.insecure or is_loopback(plan.host)
        keys = None if open_without_keys else await self._open_keys()
        listener = exits.enter_context(listen(plan.host, plan.port))
        self.url = url_of(plan.host, listener.getsockname()[1])
        runtime = exits.enter_context(runtime_folder(settings.runtime))
        (runtime / "metrics").mkdir()
        backend = make_backend(plan, settings, self._token, runtime)
        exits.push_async_callback(backend.stop)
        workers = self._make_workers(listener, runtime)
        exits.push_async_callback(workers.stop)
        if plan.backend == "local":  # children first: the database is imported while those load
            self._start_workers(workers)
        await backend.start()
        if keys is None:
            keys = await self._open_keys()
        keeper, store, dropped_events = await self._start_fleet(backend, keys.database)
        self.fleet.set_visitors(settings.visitors)
        publish = KeyPublisher(keys, self.fleet, open_without_keys)
        await publish.now()
        log_url = settings.store_url("requests")
        observed = Observed(
            self.fleet, log_url, self._token, runtime / "metrics", publish.now, dropped_events
        )
        exits.push_async_callback(observed.close)
        ballots = _ballots(keys.database)
        app = await asyncio.to_thread(self._make_app, backend, (keys, ballots), observed, keeper)
        await self._serve_control(app, runtime)
        self._background(publish.poll())
        self._background(keeper.run())
        self._background(roll_up(log_url))
        self._background(keep_in_order(keys, store, ballots, log_url, settings.request_log_days))
        if plan.backend != "local":
            self._start_workers(workers)
        exits.push_async_callback(workers.stop)  # at the end the first to go

    async def _start_fleet(
        self, backend: Backend, state: Database
    ) -> tuple[Keeper, FleetStore, Callable[[], int]]:
        """Serve what was served last, and what the plan says."""
        plan, settings, exits = self._plan, self._settings, self._exits
        url = settings.store_url("state")

        def load() -> tuple[SqlFleet, list[StoredDeployment], list[StoredEvent], bool]:
            from aviary.store.fleet import SqlFleet

            store = SqlFleet(state)
            return store, store.deployments(), store.events(HISTORY), store.ever_saved()

        store, rows, events, ever_saved = await asyncio.to_thread(load)
        writer: RecordWriter[StoredEvent] = RecordWriter(
            lambda: _event_log(url), name="fleet events"
        )
        exits.push_async_callback(asyncio.to_thread, writer.close, EVENTS_CLOSE_S)
        chronicle = Chronicle(writer.put, self._headcount())
        chronicle.remember(events)
        self._fleet = fleet = Fleet(backend, store, chronicle)
        fleet.set_workers(self._workers)
        replicas = AskedReplicas(self._token)
        exits.push_async_callback(replicas.close)
        keeper = Keeper(fleet, backend, store, replicas, self._budget_bytes())
        specs = plan.specs
        if specs is None and not ever_saved:
            specs = await asyncio.to_thread(plan.starter)
        await fleet.restore(rows, instead={spec.id: spec for spec in specs or ()})
        if specs is not None:
            await fleet.apply(specs, prune=plan.prune, rollback=False, by="aviary up")
        fleet.note("", "started", f"Aviary {__version__} on the {plan.backend} backend")
        return keeper, store, lambda: writer.dropped

    def _headcount(self) -> Headcount:
        """Notes numbers of replicas beside the request log."""
        url = self._settings.store_url("requests")
        counts: RecordWriter[ReplicaCount] = RecordWriter(
            lambda: _replica_counts(url), name="replica counts", queue_records=COUNTS_QUEUED
        )
        self._exits.push_async_callback(asyncio.to_thread, counts.close, EVENTS_CLOSE_S)
        headcount = Headcount(counts.put)
        self._exits.callback(headcount.close)
        return headcount

    def _budget_bytes(self) -> int | None:
        """Memory that all models together may use; unknown on machines that others started."""
        if self._settings.memory_gb is not None:
            return int(self._settings.memory_gb * GB)
        if self._plan.address is not None:
            return None
        return int(memory_total_bytes() * MEMORY_SHARE)

    async def _open_keys(self) -> SqlKeys:
        """Open the key store; refuse to listen beyond this machine without an admin key."""

        def open_keys() -> tuple[SqlKeys, bool]:
            from aviary.store.keys import SqlKeys

            keys = SqlKeys.open(self._settings.store_url("state"))
            return keys, any(key.role == "admin" for key in keys.active())

        keys, has_admin_key = await asyncio.to_thread(open_keys)
        self._exits.callback(keys.close)
        check_bind(self._plan.host, has_admin_key, self._plan.insecure)
        return keys

    def _make_app(
        self,
        backend: Backend,
        stores: tuple[SqlKeys, SqlBallots],
        observed: Observed,
        keeper: Keeper,
    ) -> ControlApp:
        from aviary.web.app import ControlApp
        from aviary.web.ports import Control

        control = Control(
            fleet=self.fleet,
            keeper=keeper,
            backend=backend,
            backend_name=self._plan.backend,
            url=self.url,
            started=time.time(),
            keys=stores[0],
            ballots=stores[1],
            observed=observed,
        )
        return ControlApp(control, self._token)

    async def _serve_control(self, app: ControlApp, runtime: Path) -> None:
        control = socket.socket(socket.AF_UNIX)
        control.bind(str(runtime / "control.sock"))
        control.listen(512)
        sockets = [control]
        if self._door is not None:
            sockets.append(self._exits.enter_context(listen_control(self._door)))
        from aviary.wire.server import server

        serving = server(app, drain_s=CONTROL_STOP_S, handle_signals=False)
        task = asyncio.create_task(serving.serve(sockets=sockets))

        async def stop() -> None:
            serving.should_exit = True
            await asyncio.wait([task], timeout=2 * CONTROL_STOP_S)
            task.cancel()
            await asyncio.wait([task])
            control.close()

        self._exits.push_async_callback(stop)

    def _background(self, work: Any) -> None:
        """Run something until the end; its failure ends this Aviary, visibly."""
        task = asyncio.create_task(work)
        self._watch(task)

        async def stop() -> None:
            task.cancel()
            await asyncio.wait([task])

        self._exits.push_async_callback(stop)

    def _watch(self, task: asyncio.Task[Any]) -> None:
        """A task that ends before it is cancelled ends this Aviary, visibly."""

        def ended(done: asyncio.Task[Any]) -> None:
            if not done.cancelled() and not self.failed.done():
                error = done.exception() or RuntimeError(f"{done.get_name()} has ended")
                self.failed.set_exception(error)

        task.add_done_callback(ended)

    def _set_workers(self, workers: int) -> None:
        self._workers = workers
        if self._fleet is not None:
            self._fleet.set_workers(workers)

    def _start_workers(self, workers: GatewayWorkers) -> None:
        self.worker_ready = workers.first_ready
        for supervisor in workers.start(max(1, self._plan.workers)):
            self._watch(supervisor)

    def _make_workers(self, listener: socket.socket, runtime: Path) -> GatewayWorkers:
        settings = self._settings
        boot = WorkerBoot(
            listener_fd=listener.fileno(),
            control=str(runtime / "control.sock"),
            token=self._token,
            requests_url=settings.store_url("requests"),
            max_body_bytes=settings.max_body_mb * 1024 * 1024,
            guard_hosts=not self._plan.insecure,
            log_level=settings.log_level,
            log_format=settings.log_format,
        )
        logbook = Logbook(settings.log_dir, GATEWAY_LOG)
        return GatewayWorkers(boot, runtime / "metrics", logbook, self._set_workers)


def _ballots(state: Database) -> SqlBallots:
    from aviary.store.ballots import SqlBallots

    return SqlBallots(state)


def _event_log(url: str) -> Appendable[StoredEvent]:
    from aviary.store.fleet import FleetEventLog

    return FleetEventLog.open(url)


def _replica_counts(url: str) -> Appendable[ReplicaCount]:
    from aviary.store.replicas import ReplicaCountLog

    return ReplicaCountLog.open(url)


def make_backend(plan: Plan, settings: Settings, token: str, runtime: Path) -> Backend:
    """The backend the plan names; the one place that chooses.

    Raises:
        NotAvailable: Ray is asked for and not installed.
        SpecError: there is no such backend.
    """
    if plan.backend == "local":
        if plan.address is not None:
            raise SpecError("--address belongs to --backend ray.")
        return LocalBackend(settings, token=token, runtime=runtime)
    if plan.backend == "ray":
        try:
            from aviary.backends.ray import RayBackend
        except ModuleNotFoundError as error:
            if error.name is None or not error.name.startswith("ray"):
                raise
            raise NotAvailable(
                "Ray is not installed.", hint="Install it: pip install 'aviary-llm[ray]'."
            ) from error
        outlast = plan.control is not None
        return RayBackend(
            settings, token=token, runtime=runtime, address=plan.address, outlast=outlast
        )
    raise SpecError(f"There is no backend {plan.backend!r}.", hint="Backends: local, ray.")
