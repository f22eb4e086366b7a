"""Gateway workers that belong to an Aviary on another machine: what `aviary gateway` runs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from aviary.auth.bind import check_bind, is_loopback
from aviary.backends.logbook import Logbook
from aviary.bootstrap.control import split_address
from aviary.bootstrap.instance import GATEWAY_LOG
from aviary.bootstrap.machine import (
    listen,
    only_one,
    raise_file_limit,
    runtime_folder,
    url_of,
)
from aviary.bootstrap.workers import GatewayWorkers
from aviary.config.settings import Settings
from aviary.core.errors import StartFailed
from aviary.core.states import Snapshot
from aviary.gateway.boot import WorkerBoot
from aviary.gateway.feed import check_line, follow_snapshots, keep_snapshot
from aviary.wire.client import Client, Target, WireError

log = structlog.get_logger()

JOIN_S = 30.0
"""So long the control process is waited for; a supervisor may try again."""
JOIN_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class RemotePlan:
    """What to start.

    Attributes:
        join: `HOST:PORT` of the control process: what its `aviary up --control` was given.
        token: The cluster's internal token.
        host: Address the gateway binds.
        port: Its port; 0 takes a free one.
        workers: Gateway workers.
        insecure: Bind beyond loopback without an admin key.
    """

    join: str
    token: str = field(repr=False)
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 2
    insecure: bool = False


class RemoteGateway:
    """Gateway workers of an Aviary elsewhere. `async with RemoteGateway(plan, settings): …`.

    Attributes:
        url: Where people reach it.
        worker_ready: Set once a worker serves.
        failed: Gets an exception when the workers cannot be supervised any more.
    """

    def __init__(self, plan: RemotePlan, settings: Settings) -> None:
        self._plan = plan
        self._settings = settings
        self._exits = contextlib.AsyncExitStack()
        self.url = ""
        self.worker_ready = asyncio.Event()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> RemoteGateway:
        try:
            await self._start()
        except BaseException:
            await self._exits.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()

    async def _start(self) -> None:
        plan, settings, exits = self._plan, self._settings, self._exits
        host, port = split_address(plan.join, "--join")
        settings.require_shared_store(
            "A gateway writes to the store of the Aviary that it joins",
            f"aviary gateway --join {plan.join}",
        )
        raise_file_limit()  # first: children inherit it
        settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        exits.enter_context(only_one(settings.home))
        await asyncio.to_thread(self._check_bind)
        listener = exits.enter_context(listen(plan.host, plan.port))
        self.url = url_of(plan.host, listener.getsockname()[1])
        runtime = exits.enter_context(runtime_folder(settings.runtime))
        (runtime / "metrics").mkdir()
        await self._meet(Target(host, port))
        kept = runtime / "snapshot.json"
        self._watch(asyncio.create_task(self._keep_snapshots(Target(host, port), kept)))
        boot = WorkerBoot(
            listener_fd=listener.fileno(),
            control_host=host,
            control_port=port,
            token=plan.token,
            last_snapshot=str(kept),
            requests_url=settings.store_url("requests"),
            max_body_bytes=settings.max_body_mb * 1024 * 1024,
            guard_hosts=not plan.insecure,
            open_without_keys=plan.insecure or is_loopback(plan.host),
            log_level=settings.log_level,
            log_format=settings.log_format,
        )
        logbook = Logbook(settings.log_dir, GATEWAY_LOG)
        workers = GatewayWorkers(boot, runtime / "metrics", logbook, lambda _count: None)
        exits.push_async_callback(workers.stop)
        self.worker_ready = workers.first_ready
        for supervisor in workers.start(plan.workers):
            supervisor.add_done_callback(self._on_end)

    def _watch(self, task: asyncio.Task[Any]) -> None:
        task.add_done_callback(self._on_end)

        async def stop() -> None:
            task.cancel()
            await asyncio.wait([task])

        self._exits.push_async_callback(stop)

    def _on_end(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and not self.failed.done():
            error = task.exception() or RuntimeError(f"{task.get_name()} has ended")
            self.failed.set_exception(error)

    async def _keep_snapshots(self, control: Target, path: Path) -> None:
        """Keep the last snapshot for workers that start while the control process is away."""
        newest: asyncio.Queue[Snapshot] = asyncio.Queue()
        client = Client()
        token = self._plan.token.encode()
        following = asyncio.create_task(follow_snapshots(client, control, token, newest.put_nowait))
        try:
            while True:
                snapshot = await newest.get()
                while not newest.empty():
                    snapshot = newest.get_nowait()
                try:
                    await asyncio.to_thread(keep_snapshot, snapshot, path)
                except OSError as error:
                    log.warning("cannot keep the last snapshot", cause=str(error))
        finally:
            following.cancel()
            await client.close()

    def _check_bind(self) -> None:
        """Refuse to listen beyond this machine while the cluster has no admin key."""
        from aviary.store.keys import SqlKeys

        keys = SqlKeys.open(self._settings.store_url("state"))
        try:
            has_admin_key = any(key.role == "admin" for key in keys.active())
        finally:
            keys.close()
        check_bind(self._plan.host, has_admin_key, self._plan.insecure)

    async def _meet(self, control: Target) -> None:
        """Wait until the control process lets us in.

        Raises:
            NotAuthorized: the token is wrong.
            StartFailed: it cannot be reached.
        """
        client = Client()
        deadline = time.monotonic() + JOIN_S
        try:
            while True:
                try:
                    await check_line(client, control, self._plan.token.encode())
                except WireError as error:
                    if time.monotonic() > deadline:
                        raise StartFailed(
                            f"Cannot join the control process at {control}: {error}.",
                            hint=f"It must run with `aviary up --control {control}`.",
                        ) from error
                else:
                    return
                await asyncio.sleep(JOIN_EVERY_S)
        finally:
            await client.close()
