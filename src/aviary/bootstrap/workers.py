"""The gateway workers, supervised: a worker that ends is replaced, the others notice nothing."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import structlog

from aviary.backends.logbook import Logbook
from aviary.gateway.boot import BOOT_ENV, WorkerBoot
from aviary.process.child import Backoff, Child, keep_running
from aviary.process.environment import inherited

log = structlog.get_logger()

STOP_S = 2.0


class GatewayWorkers:
    """Runs so many gateway workers on one listening socket.

    Args:
        boot: What each worker needs to know.
        metrics: Folder of the workers' metric files.
        logbook: Takes what they print.
        changed: Called with the number of workers that serve, whenever it changes.
    """

    def __init__(
        self, boot: WorkerBoot, metrics: Path, logbook: Logbook, changed: Callable[[int], None]
    ) -> None:
        self._boot = boot
        self._metrics = metrics
        self._logbook = logbook
        self._changed = changed
        self._children: dict[int, Child] = {}
        self._ready: set[int] = set()
        self._supervisors: list[asyncio.Task[None]] = []
        self.first_ready = asyncio.Event()

    def start(self, count: int) -> list[asyncio.Task[None]]:
        """Start the workers; returns their supervisors, which end only when cancelled."""
        self._supervisors = [asyncio.create_task(self._supervise(index)) for index in range(count)]
        return self._supervisors

    async def stop(self) -> None:
        """Stop the workers, soon; answers in progress get a moment."""
        for supervisor in self._supervisors:
            supervisor.cancel()
        if self._supervisors:
            await asyncio.wait(self._supervisors)
        await asyncio.gather(*(child.stop(STOP_S) for child in self._children.values()))
        self._logbook.close()

    async def _supervise(self, index: int) -> None:
        environment = {
            **inherited(),
            BOOT_ENV: msgspec.json.encode(self._boot).decode(),
            "PROMETHEUS_MULTIPROC_DIR": str(self._metrics),
            "PYTHONUNBUFFERED": "1",
        }

        async def spawn() -> Child:
            return await Child.spawn(
                [sys.executable, "-m", "aviary.gateway"],
                env=environment,
                on_line=lambda line: self._logbook.add(f"worker-{index}", line),
                on_event=lambda event: self._on_event(index, event),
                pass_fds=[self._boot.listener_fd],
            )

        def on_start(child: Child) -> None:
            self._children[index] = child

        def on_exit(code: int | None, delay_s: float) -> None:
            child = self._children.pop(index, None)  # none: it could not be started
            self._ready.discard(index)
            self._changed(len(self._ready))
            if child is not None:
                log.warning("gateway worker ended", status=code, pid=child.pid, retry_in_s=delay_s)
                _forget_metrics(self._metrics, child.pid)

        await keep_running(spawn, backoff=Backoff(), on_start=on_start, on_exit=on_exit)

    def _on_event(self, index: int, event: dict[str, Any]) -> None:
        if event.get("event") == "ready":
            self._ready.add(index)
            self._changed(len(self._ready))
            self.first_ready.set()


def _forget_metrics(folder: Path, pid: int) -> None:
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid, path=str(folder))  # type: ignore[no-untyped-call]
