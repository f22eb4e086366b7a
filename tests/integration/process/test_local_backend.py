"""The local backend's replicas, with fake engines."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from aviary.backends.local import LocalBackend
from aviary.config.settings import Settings
from aviary.config.spec import ModelSpec
from aviary.core.states import ReplicaState, ReplicaView
from aviary.wire.client import Client, Target


def spec_of(**fields: Any) -> ModelSpec:
    engine = {"kind": "fake", "gap": "50ms", "tokens": 400}
    return ModelSpec.model_validate({"id": "m", "engine": engine, **fields})


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[LocalBackend]:
    settings = Settings(home=tmp_path, cache=tmp_path, runtime=tmp_path)
    backend = LocalBackend(settings, token="secret", runtime=tmp_path)
    await backend.start()
    yield backend
    await backend.stop()


async def until(done: Callable[[], object], within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not done():
            await asyncio.sleep(0.02)


def ready(backend: LocalBackend) -> list[ReplicaView]:
    return [view for view in backend.replicas("m") if view.state is ReplicaState.READY]


async def busy(view: ReplicaView, client: Client) -> Any:
    """A stream of twenty seconds: the replica drains for as long as it runs."""
    body = b'{"model":"m","messages":[{"role":"user","content":"a"}],"stream":true}'
    headers = [(b"x-aviary-token", b"secret")]
    target = Target(view.host, view.port, view.socket)
    response = await client.request(target, "POST", "/v1/chat/completions", headers, body)
    await response.read()
    return response


async def test_a_killed_replica_is_replaced(backend: LocalBackend) -> None:
    await backend.deploy(spec_of(), 1)
    await until(lambda: ready(backend))
    [first] = ready(backend)
    os.kill(first.pid, signal.SIGKILL)
    await until(lambda: ready(backend) and ready(backend)[0].id != first.id)
    [second] = ready(backend)
    assert second.restarts == 1
    assert second.pid != first.pid


async def test_replicas_that_leave_do_not_count(backend: LocalBackend) -> None:
    """Two, one, two again: the one that drains is no replica any more."""
    await backend.deploy(spec_of(), 2)
    await until(lambda: len(ready(backend)) == 2)
    client = Client()
    streams = [await busy(view, client) for view in ready(backend)]
    await backend.scale("m", 1)
    await until(lambda: len(ready(backend)) == 1)
    await backend.scale("m", 2)
    await until(lambda: len(ready(backend)) == 2)
    for stream in streams:
        stream.close()
    await until(lambda: len(backend.replicas("m")) == 2)
    assert len(ready(backend)) == 2
    await client.close()


async def test_deployed_anew_while_it_is_removed(backend: LocalBackend) -> None:
    await backend.deploy(spec_of(), 1)
    await until(lambda: ready(backend))
    [first] = ready(backend)
    client = Client()
    stream = await busy(first, client)
    removing = asyncio.create_task(backend.remove("m"))
    await asyncio.sleep(0)
    await backend.deploy(spec_of(), 1)  # at once: `first` has that version, but is on its way out
    await until(lambda: ready(backend) and ready(backend)[0].id != first.id)
    assert not removing.done()
    stream.close()
    await removing
    [second] = backend.replicas("m")
    assert second.state is ReplicaState.READY
    assert any(second.id.rpartition("/")[2] in line for line in backend.logs("m", 99))
    await backend.remove("m")
    assert (backend.replicas("m"), backend.logs("m", 99)) == ((), [])
    await client.close()


async def test_a_removal_goes_on_without_its_caller(backend: LocalBackend) -> None:
    await backend.deploy(spec_of(), 1)
    await until(lambda: ready(backend))
    removing = asyncio.create_task(backend.remove("m"))
    await asyncio.sleep(0)
    removing.cancel()
    await until(lambda: not backend.replicas("m"))


async def test_a_superseded_version_is_waited_for_no_longer(backend: LocalBackend) -> None:
    await backend.deploy(spec_of(), 1)
    await until(lambda: ready(backend))
    [first] = ready(backend)
    await backend.deploy(spec_of(chat={"stop": ["x"]}), 1)
    await backend.deploy(spec_of(), 1)  # back again, before the other was ready
    await until(lambda: [view.id for view in backend.replicas("m")] == [first.id])
    await until(lambda: not backend._background, 2)


async def test_going_back_while_the_old_version_drains(backend: LocalBackend) -> None:
    old, new = spec_of(), spec_of(chat={"stop": ["x"]})
    await backend.deploy(old, 1)
    await until(lambda: ready(backend))
    [first] = ready(backend)
    client = Client()
    stream = await busy(first, client)
    await backend.deploy(new, 1)
    await until(lambda: ready(backend) and ready(backend)[0].id != first.id)
    [second] = ready(backend)
    await backend.deploy(old, 1)  # `first` has that version, but is on its way out
    await until(lambda: ready(backend) and ready(backend)[0].id not in (first.id, second.id))
    stream.close()
    await until(lambda: len(backend.replicas("m")) == 1)
    assert len(ready(backend)) == 1
    await client.close()
