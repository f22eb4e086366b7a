import asyncio
from dataclasses import replace
from time import monotonic

import pytest

from aviary.core.errors import ModelNotFound, Overloaded, Unavailable
from aviary.core.states import ModelView, ReplicaState, ReplicaView, Snapshot
from aviary.routing.balancer import eject
from aviary.routing.table import Route, Table


def view(*replicas: ReplicaView, queue: int = 2) -> ModelView:
    return ModelView("m", slots=4, queue=queue, wait_s=5, replicas=replicas)


def ready(name: str, port: int = 1) -> ReplicaView:
    return ReplicaView(name, "h", port, state=ReplicaState.READY)


STARTING = ReplicaView("s", "h", 1, detail="loading", state=ReplicaState.STARTING)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_only_ready_replicas_are_endpoints() -> None:
    table = Table()
    others = [replace(STARTING, id=state, state=state) for state in ReplicaState]
    table.update(Snapshot(1, (view(*others, ready("b"), ready("c", port=0)),)))
    assert [e.id for e in table.route("m").endpoints] == [ReplicaState.READY, "b"]


async def test_what_was_learnt_survives_an_update() -> None:
    table = Table()
    table.update(Snapshot(1, (view(ready("a"), ready("b")),)))
    route = table.route("m")
    known = route.endpoints[0]
    known.outstanding, known.reported = 3, 7
    eject(known, monotonic())
    table.update(Snapshot(2, (view(ready("c"), ready("a")),)))
    assert table.route("m") is route
    assert [e.id for e in route.endpoints] == ["c", "a"]
    assert route.endpoints[1] is known
    assert table.snapshot.generation == 2


async def test_acquire_counts() -> None:
    route = Route(view())
    route.update(view(ready("a")))
    endpoint = await route.acquire(monotonic() + 1)
    assert endpoint.outstanding == 1
    assert (await route.acquire(monotonic() + 1)).outstanding == 2


async def test_requests_wait_for_a_replica() -> None:
    route = Route(view(STARTING))
    waiting = asyncio.create_task(route.acquire(monotonic() + 5))
    await settle()
    assert route.held == 1
    route.update(view(STARTING))  # still none
    await settle()
    assert not waiting.done()
    route.update(view(ready("a")))
    assert (await waiting).id == "a"
    assert route.held == 0


async def test_only_so_many_wait() -> None:
    route = Route(view(STARTING, queue=2))
    waiting = [asyncio.create_task(route.acquire(monotonic() + 5)) for _ in range(2)]
    await settle()
    with pytest.raises(Overloaded, match="2 requests wait") as caught:
        await route.acquire(monotonic() + 5)
    assert caught.value.status == 429
    assert caught.value.retry_after_s
    waiting[0].cancel()
    await settle()
    assert route.held == 1
    route.update(view(ready("a")))
    assert (await waiting[1]).outstanding == 1


async def test_the_deadline_says_what_is_going_on() -> None:
    route = Route(view(STARTING))
    began = monotonic()
    with pytest.raises(Unavailable, match=r"starting \(loading\)") as caught:
        await route.acquire(began + 0.1)
    assert 0.1 <= monotonic() - began < 1
    assert caught.value.status == 503
    assert route.held == 0


async def test_an_ejected_endpoint_is_waited_for() -> None:
    route = Route(view())
    route.update(view(ready("a")))
    eject(route.endpoints[0], monotonic() - 0.4)
    began = monotonic()
    assert (await route.acquire(began + 5, {"a"})).id == "a"
    assert 0.05 <= monotonic() - began < 1


async def test_a_removed_model_is_not_waited_for() -> None:
    table = Table()
    table.update(Snapshot(1, (view(STARTING),)))
    waiting = asyncio.create_task(table.route("m").acquire(monotonic() + 60))
    await settle()
    table.update(Snapshot(2))
    async with asyncio.timeout(1):
        with pytest.raises(ModelNotFound):
            await waiting


async def test_unknown_models() -> None:
    table = Table()
    with pytest.raises(ModelNotFound, match="Models: none"):
        table.route("x")
    table.update(Snapshot(1, tuple(ModelView(f"m{n}") for n in range(20))))
    with pytest.raises(ModelNotFound) as caught:
        table.route("x" * 10_000)
    assert caught.value.param == "model"
    assert "m0, m1" in str(caught.value)
    assert len(str(caught.value)) < 400
    assert [route.view.id for route in table.routes] == [f"m{n}" for n in range(20)]
