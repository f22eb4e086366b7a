"""What runs inside a Ray worker: the same replica app as everywhere, as a Serve deployment class.

This module is imported on every node of the cluster, so aviary-llm must be installed there.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec

from aviary.backends.ray_serve import name_process, pause_left_s
from aviary.config.places import FixedPlaces
from aviary.config.settings import Settings
from aviary.config.spec import ModelSpec
from aviary.core.errors import EngineError
from aviary.core.ports import Engine, EngineRequest, EngineResponse, Progress
from aviary.core.states import EngineStats, ReplicaState
from aviary.engines.registry import create_engine
from aviary.process.logs import configure_logging
from aviary.replica.app import ReplicaApp
from aviary.replica.boot import ReplicaBoot

SHOW_FAILURE_S = 1.5
"""How long a replica whose engine did not start stays, so that its cause is read; then Serve
replaces it."""
TITLE_AFTER_S = 0.05


class Paused:
    """An `Engine` that waits before it starts: what fails again and again is tried less and less.

    Serve itself replaces a replica at once, however many have failed before it.

    Args:
        engine: The engine.
        pause_s: How long it waits.
    """

    def __init__(self, engine: Engine, pause_s: float) -> None:
        self._engine = engine
        self._pause_s = pause_s

    async def start(self, progress: Progress) -> None:
        """Wait, then start."""
        if self._pause_s > 0:
            progress(f"waits {self._pause_s:.0f} s: others before it have failed", None)
            await asyncio.sleep(self._pause_s)
        await self._engine.start(progress)

    async def generate(self, request: EngineRequest) -> EngineResponse:
        """See `Engine`."""
        return await self._engine.generate(request)

    def stats(self) -> EngineStats:
        """See `Engine`."""
        return self._engine.stats()

    async def healthy(self) -> None:
        """See `Engine`."""
        await self._engine.healthy()

    async def sleep(self) -> None:
        """See `Engine`."""
        await self._engine.sleep()

    async def wake(self, progress: Progress) -> None:
        """See `Engine`."""
        await self._engine.wake(progress)

    async def stop(self) -> None:
        """See `Engine`."""
        await self._engine.stop()


class Replica:
    """A Serve deployment around one `ReplicaApp`.

    Args:
        boot: A `ReplicaBoot` as JSON: plain data is all that travels. Where it names no folder,
            this node's own settings decide.
    """

    def __init__(self, boot: str) -> None:
        given = msgspec.json.decode(boot, type=ReplicaBoot)
        spec = ModelSpec.model_validate(given.spec)
        configure_logging(given.log_level, given.log_format)
        here = Settings()
        places = FixedPlaces(
            Path(given.weights) if given.weights else here.weights_dir,
            Path(given.runtime) if given.runtime else here.runtime,
        )
        self._title = f"aviary replica {spec.id}"
        self._failed_at = 0.0
        self._replica = ReplicaApp(
            spec,
            Paused(create_engine(spec, places), pause_left_s()),
            token=given.token,
            max_body_bytes=given.max_body_bytes,
            on_state=self._on_state,
        )

    def __serve_build_asgi_app__(self) -> ReplicaApp:
        """The ASGI app; Serve runs its lifespan in this process."""
        return self._replica

    def _on_state(self, state: ReplicaState, _detail: str, _fraction: float | None) -> None:
        if state is ReplicaState.FAILED:
            self._failed_at = time.monotonic()

    async def check_health(self) -> None:
        """Asked by Serve each second; raising three times in a row gets this replica replaced."""
        # Ray names the process after each call it makes; so our name comes a moment later.
        asyncio.get_running_loop().call_later(TITLE_AFTER_S, name_process, self._title)
        replica = self._replica
        shown_s = time.monotonic() - self._failed_at
        if replica.state is ReplicaState.FAILED and shown_s > SHOW_FAILURE_S:
            raise EngineError(replica.detail or "the engine failed")
