"""What a Ray replica is told to be, and what it says of itself."""

from __future__ import annotations

import hashlib
import itertools
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from aviary.backends.ray_views import Answer, App
from aviary.config.settings import Settings
from aviary.config.spec import ModelSpec
from aviary.core.errors import InvalidRequest
from aviary.replica.asking import ask_state
from aviary.replica.boot import ReplicaBoot
from aviary.wire.client import Client, ConnectFailed, Target, WireError

PROBE_S = 3.0


class Names:
    """Names of Serve applications: `MODEL@OWNER-SPEC-TOKEN-SERIAL`.

    Args:
        owner: Marks what belongs to the Aviary of this home.
        token: The internal token: replicas that know another one are of no use.
    """

    def __init__(self, owner: str, token: str) -> None:
        self._owner = owner
        self._mark = hashlib.sha256(token.encode()).hexdigest()[:6]
        self._serials = (f"{secrets.token_hex(2)}{n}" for n in itertools.count(1))

    def new(self, spec: ModelSpec) -> str:
        """One that was never used: neither by us nor by an earlier Aviary of this home."""
        return self._stem(spec) + next(self._serials)

    def find(self, spec: ModelSpec, among: Iterable[str]) -> str | None:
        """An application that serves just this spec to those who know our token."""
        stem = self._stem(spec)
        return next((name for name in among if name.startswith(stem)), None)

    def _stem(self, spec: ModelSpec) -> str:
        return f"{spec.id}@{self._owner}-{spec.hash}-{self._mark}-"


class Describer:
    """Describes applications to the driver, as `ray_serve.deploy` takes them.

    Args:
        settings: This installation's settings.
        token: What replicas ask for.
        runtime: Folder for sockets.
        here: Whether replicas run on this machine only. On others their own settings decide
            about folders, unless `AVIARY_CACHE` says where.
    """

    def __init__(self, settings: Settings, token: str, runtime: Path, *, here: bool) -> None:
        same_cache = here or "cache" in settings.model_fields_set
        self._weights = str(settings.weights_dir) if same_cache else ""
        self._runtime = str(runtime) if here else ""
        self._settings = settings
        self._token = token

    def __call__(self, app: App) -> dict[str, Any]:
        """Plain data: it travels to other machines."""
        boot = ReplicaBoot(
            spec=app.spec.model_dump(mode="json"),
            token=self._token,
            weights=self._weights,
            runtime=self._runtime,
            max_body_bytes=self._settings.max_body_mb * 1024 * 1024,
            log_level=self._settings.log_level,
            log_format=self._settings.log_format,
        )
        return {
            "name": app.name,
            "replicas": app.replicas,
            "boot": msgspec.json.encode(boot).decode(),
            "gpus": app.spec.resources.gpus,
            "accelerator": app.spec.resources.accelerator,
        }


class Probe:
    """Asks replicas for their state, directly."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self._client: Client | None = None

    async def ask(self, target: Target, prefix: str) -> Answer:
        """What a replica says of itself."""
        if self._client is None:
            self._client = Client(connect_timeout_s=PROBE_S)
        try:
            return await ask_state(self._client, target, prefix, self._token, PROBE_S)
        except ConnectFailed as error:
            return f"its process does not answer: {error}"
        except (WireError, InvalidRequest):
            return None

    async def close(self) -> None:
        """Close its connections."""
        if self._client is not None:
            await self._client.close()
