"""A replica app behind its real server, for tests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

from aviary.config.spec import ModelSpec
from aviary.core.states import ReplicaState
from aviary.replica.app import ReplicaApp
from aviary.wire.client import Client, Response, Target

TOKEN = b"secret"
CHAT = "/v1/chat/completions"


def spec_of(engine: dict[str, Any] | None = None, **fields: Any) -> ModelSpec:
    return ModelSpec.model_validate(
        {"id": "m", "engine": {"kind": "fake", **(engine or {})}, **fields}
    )


class Replica:
    """A running replica and a client to it."""

    def __init__(self, app: ReplicaApp, client: Client, target: Target) -> None:
        self.app = app
        self.client = client
        self.target = target

    async def open(
        self,
        body: Any,
        path: str = CHAT,
        *,
        token: bytes = TOKEN,
        client: bytes = b"",
        silence_s: float = 10,
    ) -> Response:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = [(b"x-aviary-token", token), (b"x-aviary-client", client)]
        return await self.client.request(
            self.target, "POST", path, headers, raw, silence_s=silence_s
        )

    async def ask(self, body: Any, path: str = CHAT, **options: Any) -> tuple[int, bytes, Response]:
        response = await self.open(body, path, **options)
        try:
            return response.status, await response.read_all(1 << 20), response
        finally:
            response.close()

    async def get(self, path: str) -> tuple[int, Any]:
        response = await self.client.request(self.target, "GET", path, [(b"x-aviary-token", TOKEN)])
        try:
            return response.status, json.loads(await response.read_all(1 << 20))
        finally:
            response.close()

    async def ready(self) -> None:
        async with asyncio.timeout(5):
            while self.app.state is not ReplicaState.READY:
                await asyncio.sleep(0.005)

    async def until(self, running: int, waiting: int = 0, within_s: float = 1.0) -> None:
        """Wait until so many run and wait; slots must be free within a second of leaving."""
        began = monotonic()
        while self.app.view()["running"] != running or self.app.view()["waiting"] != waiting:
            assert monotonic() - began < within_s, self.app.view()
            await asyncio.sleep(0.005)


States = list[tuple[ReplicaState, str, float | None]]
Start = Callable[..., Awaitable[Replica]]


def ask_for(text: str = "Hi", **fields: Any) -> dict[str, Any]:
    return {"model": "x", "messages": [{"role": "user", "content": text}], **fields}


def error_of(body: bytes) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(body)["error"]
    return error
