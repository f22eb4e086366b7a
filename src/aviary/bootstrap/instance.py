"""One running Aviary: its parts, in the order in which each needs the one before."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aviary.auth.bind import check_bind, is_loopback
from aviary.backends.local import LocalBackend
from aviary.backends.logbook import Logbook
from aviary.bootstrap.machine import (
    listen,
    only_one,
    raise_file_limit,
    runtime_folder,
    url_of,
)
from aviary.bootstrap.observed import Observed
from aviary.bootstrap.upkeep import KeyPublisher, keep_in_order
from aviary.bootstrap.workers import GatewayWorkers
from aviary.config.settings import Settings
from aviary.config.spec import ModelSpec
from aviary.core.errors import NotAvailable, SpecError
from aviary.core.ports import Backend
from aviary.fleet.fleet import Fleet
from aviary.gateway.boot import WorkerBoot

if TYPE_CHECKING:
    from aviary.store.keys import SqlKeys
    from aviary.web.app import ControlApp

CONTROL_STOP_S = 1.0
GATEWAY_LOG = "_gateway"
"""Name of the workers' log; no model can have it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to start.

    Attributes:
        specs: The models.
        host: Address the gateway binds.
        port: Its port; 0 takes a free one.
        workers: Gateway workers.
        backend: `local` or `ray`.
        address: The Ray cluster to join; `None` starts one here.
        insecure: Bind beyond loopback without an admin key.
    """

    specs: Sequence[ModelSpec]
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 2
    backend: str = "local"
    address: str | None = None
    insecure: bool = False


class Instance:
    """One running Aviary. `async with Instance(plan, settings) as instance: …`."""

    def __init__(self, plan: Plan, settings: Settings) -> None:
        self._plan = plan
        self._settings = settings
        self._token = secrets.token_urlsafe(32)
        self._exits = contextlib.AsyncExitStack()
        self.worker_ready = asyncio.Event()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.url = ""
        self.fleet: Fleet

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
        open_without_keys = plan.insecure or is_loopback(plan.host)
        keys = None if open_without_keys else await self._open_keys()
        listener = exits.enter_context(listen(plan.host, plan.port))
        self.url = url_of(plan.host, listener.getsockname()[1])
        runtime = exits.enter_context(runtime_folder(settings.runtime))
        (runtime / "metrics").mkdir()

        # Children first: database and web framework are imported here while those load.
        backend = make_backend(plan, settings, self._token, runtime)
        self.fleet = Fleet(backend)
        exits.push_async_callback(backend.stop)
        await backend.start()
        for spec in plan.specs:
            await self.fleet.apply(spec)
        if keys is None:
            keys = await self._open_keys()
        publish = KeyPublisher(keys, self.fleet, open_without_keys)
        await publish.now()
        log_url = settings.store_url("requests")
        observed = Observed(self.fleet, log_url, self._token, runtime / "metrics", publish.now)
        exits.push_async_callback(observed.close)
        app = await asyncio.to_thread(self._make_app, backend, keys, observed)
        await self._serve_control(app, runtime)
        self._background(publish.poll())
        self._background(keep_in_order(keys, log_url, settings.request_log_days))
        self._start_workers(listener, runtime)

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

    def _make_app(self, backend: Backend, keys: SqlKeys, observed: Observed) -> ControlApp:
        from aviary.web.app import ControlApp
        from aviary.web.ports import Control

        control = Control(
            fleet=self.fleet,
            backend=backend,
            backend_name=self._plan.backend,
            url=self.url,
            started=time.time(),
            keys=keys,
            observed=observed,
        )
        return ControlApp(control, self._token)

    async def _serve_control(self, app: ControlApp, runtime: Path) -> None:
        control = socket.socket(socket.AF_UNIX)
        control.bind(str(runtime / "control.sock"))
        control.listen(512)
        from aviary.wire.server import server

        serving = server(app, drain_s=CONTROL_STOP_S, handle_signals=False)
        task = asyncio.create_task(serving.serve(sockets=[control]))

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

    def _start_workers(self, listener: socket.socket, runtime: Path) -> None:
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
        workers = GatewayWorkers(boot, runtime / "metrics", logbook, self.fleet.set_workers)
        self.worker_ready = workers.first_ready
        for supervisor in workers.start(max(1, self._plan.workers)):
            self._watch(supervisor)
        self._exits.push_async_callback(workers.stop)


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
        return RayBackend(settings, token=token, runtime=runtime, address=plan.address)
    raise SpecError(f"There is no backend {plan.backend!r}.", hint="Backends: local, ray.")
