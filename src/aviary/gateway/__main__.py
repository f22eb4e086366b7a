"""Entry of a gateway worker: `python -m aviary.gateway`, started by the control process.

The listening socket is inherited: all workers accept from the one queue that the control process
opened, so connections that wait there survive the death of a worker.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

import aviary.process.light  # noqa: F401 - first, it makes the others' import faster

# isort: split
import msgspec
import setproctitle
import structlog

from aviary.auth.hosts import HostGuard
from aviary.auth.keys import KeyRing, keys_to_publish
from aviary.core.states import Snapshot
from aviary.gateway import metrics
from aviary.gateway.app import GatewayApp
from aviary.gateway.boot import BOOT_ENV, WorkerBoot
from aviary.gateway.exchange import GatewayState
from aviary.gateway.feed import follow_snapshots, kept_snapshot
from aviary.gateway.pages import Pages
from aviary.gateway.reporter import Reporter as ActivityReporter
from aviary.process.lifeline import Reporter, watch_parent
from aviary.process.logs import configure_logging
from aviary.routing.table import Table
from aviary.store.writer import ClosableLog, LogWriter
from aviary.wire.client import Client
from aviary.wire.server import run_server

log = structlog.get_logger()

DRAIN_S = 30.0
FIRST_SNAPSHOT_S = 10.0
LAST_SNAPSHOT_S = 1.0
"""Where the last snapshot is kept, the present one is waited for so long."""
FLUSH_EVERY_S = 0.5
BUILT = Path(__file__).parent.parent / "web" / "static"
"""Where the Explorer is built to."""


class Worker:
    """Makes the worker's state when the app starts, and undoes it when it ends."""

    def __init__(self, boot: WorkerBoot, report: Callable[[], None]) -> None:
        self._boot = boot
        self._report = report
        self._tasks: list[asyncio.Task[None]] = []
        self._client: Client | None = None
        self._writer: LogWriter | None = None

    async def startup(self) -> GatewayState:
        """Connect to the control plane; returns with its first snapshot taken."""
        client = self._client = Client()
        writer = self._writer = LogWriter(self._open_log)
        table = Table()
        token = self._boot.token.encode()
        state = GatewayState(
            table=table,
            ring=KeyRing(),
            client=client,
            token=token,
            record=writer.put,
            max_body_bytes=self._boot.max_body_bytes,
            guard=HostGuard() if self._boot.guard_hosts else None,
        )
        first = asyncio.Event()

        def take(snapshot: Snapshot) -> None:
            if snapshot.keys != table.snapshot.keys or not first.is_set():
                is_open = self._boot.open_without_keys
                state.ring = KeyRing(keys_to_publish(snapshot.keys, open_without_keys=is_open))
            table.update(snapshot)
            first.set()

        control = self._boot.control_target
        self._tasks = [
            asyncio.create_task(follow_snapshots(client, control, token, take, state.battles.stop)),
            asyncio.create_task(_flush_metrics(state, writer)),
            asyncio.create_task(ActivityReporter(state, control, _name()).run(client)),
        ]
        last = self._boot.last_snapshot
        try:
            async with asyncio.timeout(LAST_SNAPSHOT_S if last else FIRST_SNAPSHOT_S):
                await first.wait()  # before it, keys are not known: nobody may come in
        except TimeoutError:
            if not last:
                raise
            snapshot = await asyncio.to_thread(kept_snapshot, Path(last))
            if not first.is_set():
                take(snapshot)
        self._report()
        return state

    def _open_log(self) -> ClosableLog:
        from aviary.store.requests import SqlRequestLog

        return SqlRequestLog.open(self._boot.requests_url)

    async def shutdown(self) -> None:
        """Close connections, write what the log still has."""
        for task in self._tasks:
            task.cancel()
        if self._client is not None:
            await self._client.close()
        if self._writer is not None:
            await asyncio.to_thread(self._writer.close, 2.0)


def _name() -> str:
    """Unique among all workers, those that ended included."""
    return f"{os.uname().nodename}-{os.getpid()}-{secrets.token_hex(3)}"


async def _flush_metrics(state: GatewayState, writer: LogWriter) -> None:
    while True:
        try:
            metrics.DROPPED.set(writer.dropped)
            state.flush_metrics()
        except Exception:  # figures may fail (a full disk); answers go on
            log.exception("metrics could not be handed over")
        await asyncio.sleep(FLUSH_EVERY_S)


def main() -> None:
    """Serve until asked to stop or the parent is gone."""
    watch_parent()
    reporter = Reporter()
    boot = msgspec.json.decode(os.environ.pop(BOOT_ENV), type=WorkerBoot)
    setproctitle.setproctitle("aviary gateway")
    configure_logging(boot.log_level, boot.log_format)
    worker = Worker(boot, lambda: reporter.send(event="ready"))
    listener = socket.socket(fileno=boot.listener_fd)
    pages = Pages(BUILT)
    app = GatewayApp(worker.startup, worker.shutdown, boot.control_target, pages)
    run_server(app, listener, drain_s=DRAIN_S)


if __name__ == "__main__":
    main()
