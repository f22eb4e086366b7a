"""What runs inside a Ray worker: the same replica app as everywhere, as a Serve deployment class.

This module is imported on every node of the cluster, so aviary-llm must be installed there.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec

from aviary.backends.ray_serve import name_process
from aviary.config.places import FixedPlaces
from aviary.config.settings import Settings
from aviary.config.spec import ModelSpec
from aviary.core.errors import EngineError
from aviary.core.states import ReplicaState
from aviary.engines.registry import create_engine
from aviary.process.logs import configure_logging
from aviary.replica.app import ReplicaApp
from aviary.replica.boot import ReplicaBoot

SHOW_FAILURE_S = 5.0
"""How long a replica whose engine did not start stays, so that its cause is read; then Serve
replaces it. This also bounds how often a model that cannot start is tried."""
TITLE_AFTER_S = 0.05


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
            create_engine(spec, places),
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
