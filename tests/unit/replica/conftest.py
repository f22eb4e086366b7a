import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from replicas import TOKEN, Replica, Start, States

from aviary.config.spec import ModelSpec
from aviary.engines.registry import create_engine
from aviary.replica.app import ReplicaApp
from aviary.wire.client import Client, Target
from aviary.wire.server import server


@pytest.fixture
def states() -> States:
    return []


@pytest.fixture
async def start(states: States) -> AsyncIterator[Start]:
    async with contextlib.AsyncExitStack() as exits:

        async def start(
            spec: ModelSpec, engine: Any = None, *, ready: bool = True, max_body_bytes: int = 10_000
        ) -> Replica:
            app = ReplicaApp(
                spec,
                engine or create_engine(spec, None),  # type: ignore[arg-type]
                token=TOKEN.decode(),
                max_body_bytes=max_body_bytes,
                on_state=lambda *state: states.append(state),
            )
            listener = exits.enter_context(socket.create_server(("127.0.0.1", 0)))
            serving = server(app, drain_s=1, handle_signals=False)
            task = asyncio.create_task(serving.serve(sockets=[listener]))

            async def stop() -> None:
                serving.should_exit = True
                await task

            exits.push_async_callback(stop)
            client = Client()
            exits.push_async_callback(client.close)
            replica = Replica(app, client, Target(*listener.getsockname()))
            if ready:
                await replica.ready()
            return replica

        yield start
