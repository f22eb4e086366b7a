import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aviary.config.spec import ModelSpec
from aviary.core.errors import (
    DoesNotFit,
    InvalidRequest,
    ModelNotFound,
    NotAvailable,
    StoreError,
)
from aviary.core.ports import StoredDeployment, StoredEvent
from aviary.core.states import KeyView, ModelState, ReplicaState, ReplicaView
from aviary.fleet.chronicle import Chronicle
from aviary.fleet.desired import Deployment
from aviary.fleet.events import LAG_LIMIT, Feed
from aviary.fleet.fleet import Fleet
from aviary.store.fleet import SqlFleet


class Scripted:
    """A backend in memory: it does what the test says, when the test says it."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.views: dict[str, tuple[ReplicaView, ...]] = {}
        self.unfit = ""
        self.draining = asyncio.Event()
        self.draining.set()
        self.changed: Callable[[], None] = lambda: None

    def set(self, model: str, *views: ReplicaView) -> None:
        self.views[model] = views
        self.changed()

    async def start(self) -> None: ...

    def check(self, spec: ModelSpec, replicas: int) -> None:
        if spec.id == self.unfit:
            raise DoesNotFit(f"{spec.id} does not fit")

    async def deploy(self, spec: ModelSpec, replicas: int) -> None:
        self.calls.append(("deploy", spec.id, replicas))
        self.set(spec.id, *(ReplicaView(f"{spec.id}/{n + 1}") for n in range(replicas)))

    async def scale(self, model: str, replicas: int) -> None:
        self.calls.append(("scale", model, replicas))

    async def remove(self, model: str) -> None:
        self.calls.append(("remove", model))
        going = self.views.get(model, ())
        await self.draining.wait()
        self.set(model, *(view for view in self.views.get(model, ()) if view not in going))

    def replicas(self, model: str) -> tuple[ReplicaView, ...]:
        return self.views.get(model, ())

    def subscribe(self, changed: Callable[[], None]) -> None:
        self.changed = changed

    def logs(self, model: str, lines: int) -> list[str]:
        return []

    async def follow_logs(self, model: str, lines: int) -> AsyncGenerator[str, None]:
        yield ""

    async def stop(self) -> None: ...


def spec_of(name: str = "m", **fields: Any) -> ModelSpec:
    return ModelSpec.model_validate({"id": name, "engine": {"kind": "fake"}, **fields})


@pytest.fixture
def backend() -> Scripted:
    return Scripted()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlFleet]:
    store = SqlFleet.open(f"sqlite:///{tmp_path / 'state.db'}")
    yield store
    store.close()


@pytest.fixture
def kept() -> list[StoredEvent]:
    return []


@pytest.fixture
async def fleet(backend: Scripted, store: SqlFleet, kept: list[StoredEvent]) -> Fleet:
    return Fleet(backend, store, Chronicle(kept.append))


async def actions(fleet: Fleet, *specs: ModelSpec, **options: Any) -> list[str]:
    _, changes = await fleet.apply(specs, **options)
    return [change.action for change in changes]


async def test_apply(fleet: Fleet, backend: Scripted, store: SqlFleet) -> None:
    assert await actions(fleet, spec_of(), by="ak_1") == ["added"]
    assert backend.calls == [("deploy", "m", 1)]
    created = fleet.snapshot.models[0].created
    assert await actions(fleet, spec_of()) == ["unchanged"]
    assert backend.calls == [("deploy", "m", 1)]
    scaled = spec_of(scaling={"min_replicas": 3}, price={"usd_per_hour": 2})
    [change] = fleet.compare([scaled], prune=False)
    assert not change.restarts
    assert {field.field: (field.before, field.after) for field in change.fields} == {
        "scaling.min_replicas": (1, 3),
        "scaling.max_replicas": (1, 3),
        "price.usd_per_hour": (None, 2.0),
    }
    assert fleet.spec("m") == spec_of()  # comparing changes nothing
    assert await actions(fleet, scaled, by="ak_2") == ["changed"]
    assert backend.calls[1:] == [("deploy", "m", 3)]
    [view] = fleet.snapshot.models
    assert (view.desired_replicas, view.usd_per_hour, view.created) == (3, 2, created)
    assert fleet.spec("m") == scaled
    [row] = store.deployments()
    assert ModelSpec.model_validate(row.spec) == scaled
    assert (row.created, row.changed_by) == (created, "ak_2")
    assert [(e.kind, e.changed_by) for e in store.events(9)] == [
        ("added", "ak_1"),
        ("changed", "ak_2"),
    ]


async def test_prune(fleet: Fleet, backend: Scripted, store: SqlFleet) -> None:
    await fleet.apply([spec_of("a"), spec_of("b"), spec_of("c")])
    assert await actions(fleet, spec_of("b")) == ["unchanged", "kept", "kept"]
    assert len(store.deployments()) == 3
    assert await actions(fleet, spec_of("b"), prune=True) == ["unchanged", "pruned", "pruned"]
    await asyncio.sleep(0)
    assert backend.calls[3:] == [("remove", "a"), ("remove", "c")]
    assert [row.model for row in store.deployments()] == ["b"]
    assert [view.id for view in fleet.snapshot.models] == ["b"]


async def test_all_or_nothing(fleet: Fleet, backend: Scripted, store: SqlFleet) -> None:
    await fleet.apply([spec_of("a")])
    backend.unfit = "c"
    for bad, error in [
        ([spec_of("b"), spec_of("b")], InvalidRequest),
        (
            [spec_of("b"), spec_of("v", engine={"kind": "vllm"}, source={"uri": "hf:a/b"})],
            NotAvailable,
        ),
        ([spec_of("a", description="new"), spec_of("c")], DoesNotFit),
    ]:
        with pytest.raises(error):
            await fleet.apply(bad, prune=True)
    assert backend.calls == [("deploy", "a", 1)]
    assert [row.model for row in store.deployments()] == ["a"]
    assert fleet.spec("a") == spec_of("a")


async def test_what_cannot_be_stored_is_not_served(
    fleet: Fleet, backend: Scripted, store: SqlFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fleet.apply([spec_of("a")])

    def full(*_: object) -> None:
        raise StoreError("no space left")

    monkeypatch.setattr(store, "save", full)
    for wish in (fleet.apply([spec_of("b")]), fleet.stop_model("a")):
        with pytest.raises(StoreError):
            await wish
    assert backend.calls == [("deploy", "a", 1)]
    assert [view.id for view in fleet.snapshot.models] == ["a"]


async def test_a_restart_serves_the_same(
    fleet: Fleet, backend: Scripted, store: SqlFleet, kept: list[StoredEvent]
) -> None:
    resting = spec_of("z", scaling={"min_replicas": 0})
    await fleet.apply([spec_of("b"), spec_of("a", price={"usd_per_hour": 1}), resting])
    await fleet.settle(fleet.deployment("b"))
    await fleet.apply([spec_of("b", description="new", engine={"kind": "fake", "slots": 2})])
    store.append_events(kept)
    again = Scripted()
    chronicle = Chronicle(kept.append)
    chronicle.remember(store.events(100))
    successor = Fleet(again, store, chronicle)
    await successor.restore(store.deployments(), instead={"a": spec_of("a", tags=["x"])})
    assert [view.id for view in successor.snapshot.models] == ["b", "a", "z"]
    assert again.calls == [("deploy", "b", 1), ("deploy", "z", 0)]  # a is applied right after
    assert successor.snapshot.models[2].state is ModelState.SLEEPING
    assert successor.deployment("b").previous == spec_of("b")  # it had not become ready yet
    await successor.apply([spec_of("a", tags=["x"])])
    assert again.calls[2:] == [("deploy", "a", 1)]
    numbers = [event.seq for event in successor.history.last(999)]
    assert numbers == sorted(set(numbers))


async def test_a_stored_spec_that_nobody_can_read(fleet: Fleet, backend: Scripted) -> None:
    row = StoredDeployment("old", 0, {"id": "old", "engine": {"kind": "steam"}})
    good = Deployment(spec_of("m"), created=5, changed=6, position=1).stored()
    await fleet.restore([row, good], instead={})
    assert [view.id for view in fleet.snapshot.models] == ["m"]
    assert fleet.snapshot.models[0].created == 5
    [event] = [event for event in fleet.events.last(9) if event.model == "old"]
    assert (event.state, "steam" in event.detail) == ("failed", True)


async def test_generation_grows_only_on_change(fleet: Fleet, backend: Scripted) -> None:
    assert fleet.snapshot.generation == 0
    fleet.refresh()
    assert fleet.snapshot.generation == 0
    await fleet.apply([spec_of()])
    before = fleet.snapshot.generation
    fleet.refresh()
    backend.set("m", *backend.replicas("m"))
    fleet.set_keys(())
    fleet.set_workers(0)
    await fleet.apply([spec_of()])
    assert fleet.snapshot.generation == before
    backend.set("m", ReplicaView("m/1", "h", 1, state=ReplicaState.READY))
    assert fleet.snapshot.generation == before + 1
    assert fleet.snapshot.models[0].replicas[0].state is ReplicaState.READY


async def test_keys_and_workers_are_published(fleet: Fleet) -> None:
    keys = (KeyView("ak_1", "00", "admin"),)
    fleet.set_keys(keys)
    assert (fleet.snapshot.keys, fleet.snapshot.generation) == (keys, 1)
    fleet.set_workers(2)
    assert (fleet.snapshot.workers, fleet.snapshot.generation) == (2, 2)
    fleet.set_keys(keys)
    assert fleet.snapshot.generation == 2


async def test_waiting_for_a_snapshot(fleet: Fleet) -> None:
    waiting = [asyncio.create_task(fleet.next_snapshot(0)) for _ in range(3)]
    await asyncio.sleep(0)
    fleet.set_workers(1)
    fleet.set_workers(2)
    assert [(await task).workers for task in waiting] == [2, 2, 2]  # the newest, not each
    assert (await fleet.next_snapshot(1)).generation == 2


async def test_stop(fleet: Fleet, backend: Scripted) -> None:
    await fleet.apply([spec_of("a")])
    await fleet.apply([spec_of("b")])
    assert [view.id for view in fleet.snapshot.models] == ["a", "b"]
    await fleet.stop_model("a")
    assert [view.id for view in fleet.snapshot.models] == ["b"]
    assert backend.calls[-1] == ("remove", "a")
    for ask in (fleet.stop_model("a"), asyncio.to_thread(fleet.spec, "a")):
        with pytest.raises(ModelNotFound):
            await ask


async def test_a_model_applied_while_its_namesake_drains(fleet: Fleet, backend: Scripted) -> None:
    await fleet.apply([spec_of()])
    backend.draining.clear()
    stopping = asyncio.create_task(fleet.stop_model("m"))
    async with asyncio.timeout(5):
        while fleet.snapshot.models:
            await asyncio.sleep(0.001)
    with pytest.raises(ModelNotFound):
        await fleet.stop_model("m")
    async with asyncio.timeout(1):
        assert await actions(fleet, spec_of()) == ["added"]
    backend.set("m", *backend.replicas("m"), ReplicaView("m/2"))
    backend.draining.set()
    await stopping
    assert fleet.spec("m") == spec_of()
    [view] = fleet.snapshot.models
    assert [replica.id for replica in view.replicas] == ["m/2"]
    states = [event.state for event in fleet.events.last(99) if not event.replica]
    assert states == ["added", "stopped", "added"]


async def test_events_tell_each_change_once(fleet: Fleet, backend: Scripted) -> None:
    await fleet.apply([spec_of()])
    ready = ReplicaView("m/1", "h", 1, state=ReplicaState.READY)
    backend.set("m", ready)
    backend.set("m", ready)
    backend.set("m", ReplicaView("m/1", state=ReplicaState.FAILED, detail="killed"))
    await fleet.stop_model("m")
    states = [event.state for event in fleet.events.last(99)]
    assert sorted(states[:2]) == ["added", "starting"]
    assert states[2:] == ["ready", "failed", "stopped"]
    assert fleet.events.last(2)[0].detail == "killed"


# the feed


@given(st.lists(st.integers()), st.integers(1, 10), st.integers(-1, 12))
def test_history(items: list[int], history: int, count: int) -> None:
    feed: Feed[int] = Feed(history)
    for item in items:
        feed.add(item)
    kept = items[-history:]
    assert feed.last(count) == (kept[-count:] if count > 0 else [])
    even = [item for item in kept if item % 2 == 0]
    assert feed.last(99, lambda item: item % 2 == 0) == even


async def test_followers() -> None:
    feed: Feed[int] = Feed(10)
    for item in range(5):
        feed.add(item)
    follower = feed.follow(2, lambda item: item != 6)
    assert [await anext(follower), await anext(follower)] == [3, 4]
    for item in (5, 6, 7):
        feed.add(item)
    assert [await anext(follower), await anext(follower)] == [5, 7]
    await follower.aclose()
    assert not feed._readers


async def test_a_slow_reader_loses_the_oldest() -> None:
    feed: Feed[int] = Feed(10)
    feed.add(-1)
    slow, quick = feed.follow(1), feed.follow(0)
    assert await anext(slow) == -1
    waiting = asyncio.create_task(anext(quick))
    await asyncio.sleep(0)
    for item in range(LAG_LIMIT + 50):
        feed.add(item)
    assert [await anext(slow) for _ in range(LAG_LIMIT)] == list(range(50, LAG_LIMIT + 50))
    assert await waiting in (0, 50)
    await slow.aclose()
    await quick.aclose()


async def test_scale(fleet: Fleet, backend: Scripted, store: SqlFleet) -> None:
    await fleet.apply([spec_of(), spec_of("n", scaling={"max_replicas": 4})])
    before = fleet.spec("m")
    for count in (2, 1):
        _, [change, kept] = await fleet.scale("m", count, by="ak_1")
        assert (change.action, change.restarts, kept.action) == ("changed", False, "kept")
        assert backend.calls[-1] == ("deploy", "m", count)
        assert ModelSpec.model_validate(store.deployments()[0].spec) == fleet.spec("m")
    assert fleet.spec("m") == before
    for count, most in ((3, 4), (6, 6), (0, 1)):
        await fleet.scale("n", count)
        scaling = fleet.spec("n").scaling
        assert (scaling.min_replicas, scaling.max_replicas) == (count, most)
    with pytest.raises(ModelNotFound):
        await fleet.scale("none", 1)


async def test_scaling_loses_no_change_of_the_same_moment(fleet: Fleet) -> None:
    await fleet.apply([spec_of()])
    await asyncio.gather(
        fleet.apply([spec_of(description="new")]), fleet.scale("m", 3), fleet.scale("m", 2)
    )
    spec = fleet.spec("m")
    assert (spec.description, spec.scaling.min_replicas) == ("new", 2)
