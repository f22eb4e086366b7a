"""The keeper's loop against a backend in memory: what it begins, and what may come in between."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aviary.config.spec import ModelSpec
from aviary.core.errors import StoreError
from aviary.core.ports import StoredEvent
from aviary.core.states import ModelState, ReplicaState, ReplicaView
from aviary.fleet import keeper as keeping
from aviary.fleet.activity import Use
from aviary.fleet.chronicle import Chronicle
from aviary.fleet.fleet import Fleet
from aviary.fleet.keeper import Keeper
from aviary.store.fleet import SqlFleet

GB = 10**9


class Stage:
    """A backend in memory whose replicas start at once, unless told otherwise."""

    def __init__(self) -> None:
        self.specs: dict[str, ModelSpec] = {}
        self.views: dict[str, list[ReplicaView]] = {}
        self.broken: set[str] = set()  # hashes of specs that cannot start
        self.slow: set[str] = set()  # that stay starting
        self.busy: set[str] = set()  # models whose replicas refuse to sleep
        self.gate = asyncio.Event()  # falling asleep waits for it
        self.gate.set()
        self.changed: Callable[[], None] = lambda: None
        self.numbers = itertools.count(1)

    # Backend

    async def start(self) -> None: ...

    def check(self, spec: ModelSpec, replicas: int) -> None: ...

    def _new(self, spec: ModelSpec) -> ReplicaView:
        state, detail = ReplicaState.READY, ""
        if spec.hash in self.slow:
            state = ReplicaState.STARTING
        if spec.hash in self.broken:
            state, detail = ReplicaState.FAILED, "no such file"
        name = f"{spec.id}/{next(self.numbers)}"
        return ReplicaView(name, "h", 1, state=state, detail=detail, spec_hash=spec.hash)

    async def deploy(self, spec: ModelSpec, replicas: int) -> None:
        self.specs[spec.id] = spec
        kept = [v for v in self.views.get(spec.id, []) if v.spec_hash == spec.hash][:replicas]
        old = [v for v in self.views.get(spec.id, []) if v.spec_hash != spec.hash]
        kept += [self._new(spec) for _ in range(replicas - len(kept))]
        if all(view.state is ReplicaState.READY for view in kept):
            old = []
        self.set(spec.id, [*old, *kept])

    async def scale(self, model: str, replicas: int) -> None:
        spec = self.specs[model]
        views = self.views.get(model, [])[:replicas]
        self.set(model, [*views, *(self._new(spec) for _ in range(replicas - len(views)))])

    async def remove(self, model: str) -> None:
        self.specs.pop(model, None)
        self.set(model, [])

    def set(self, model: str, views: list[ReplicaView]) -> None:
        self.views[model] = views
        self.changed()

    def fail_again(self, model: str) -> None:
        """Its failed replicas are replaced, by others that fail."""
        self.set(model, [v for v in self.views[model] if v.state is not ReplicaState.FAILED])
        self.set(model, [*self.views[model], self._new(self.specs[model])])

    def replicas(self, model: str) -> tuple[ReplicaView, ...]:
        return tuple(self.views.get(model, ()))

    def subscribe(self, changed: Callable[[], None]) -> None:
        self.changed = changed

    def logs(self, model: str, lines: int) -> list[str]:
        return [f"{model} said something"]

    async def follow_logs(self, model: str, lines: int) -> AsyncGenerator[str, None]:
        yield ""

    async def stop(self) -> None: ...

    # Replicas

    def _become(self, replica: ReplicaView, state: ReplicaState) -> None:
        model = replica.id.partition("/")[0]
        views = [replace(v, state=state) if v.id == replica.id else v for v in self.views[model]]
        self.set(model, views)

    async def sleep(self, replica: ReplicaView) -> bool:
        await self.gate.wait()
        if replica.id.partition("/")[0] in self.busy:
            return False
        self._become(replica, ReplicaState.SLEEPING)
        return True

    async def wake(self, replica: ReplicaView) -> bool:
        self._become(replica, ReplicaState.READY)
        return True

    async def memory_bytes(self, replica: ReplicaView) -> int | None:
        return None


def spec_of(
    name: str = "m", *, then: str = "keep", after: float = 0.05, **fields: Any
) -> ModelSpec:
    scaling = {"idle": {"after": after, "then": then}, **fields.pop("scaling", {})}
    return ModelSpec.model_validate(
        {"id": name, "engine": {"kind": "fake"}, "scaling": scaling, **fields}
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlFleet]:
    store = SqlFleet.open(f"sqlite:///{tmp_path / 'state.db'}")
    yield store
    store.close()


class Kept:
    """A fleet with its keeper at work."""

    def __init__(self, store: SqlFleet, budget_bytes: int | None) -> None:
        self.stage = Stage()
        self.events: list[StoredEvent] = []
        self.fleet = Fleet(self.stage, store, Chronicle(self.events.append))
        self.keeper = Keeper(self.fleet, self.stage, store, self.stage, budget_bytes)

    def state(self, model: str) -> ModelState:
        return next(view.state for view in self.fleet.snapshot.models if view.id == model)

    def ask(self, *models: str) -> None:
        self.keeper.report("w", {model: Use(in_flight=1, held=1) for model in models})

    async def until(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(8):
            while not what():
                await asyncio.sleep(0.005)

    async def stays(self, what: Callable[[], bool], for_s: float = 0.3) -> None:
        end = asyncio.get_running_loop().time() + for_s
        while asyncio.get_running_loop().time() < end:
            assert what()
            await asyncio.sleep(0.01)


@pytest.fixture
def keep(store: SqlFleet, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setattr(keeping, "TICK_S", 0.02)
    monkeypatch.setattr(keeping, "RETRY_S", 0.02)

    @asynccontextmanager
    async def make(budget_bytes: int | None = None) -> AsyncIterator[Kept]:
        kept = Kept(store, budget_bytes)
        task = asyncio.create_task(kept.keeper.run())
        try:
            yield kept
        finally:
            task.cancel()
            await asyncio.wait([task])

    return make


async def test_a_version_that_fails_twice_is_taken_back(keep: Any, store: SqlFleet) -> None:
    good, bad = spec_of(), spec_of(engine={"kind": "fake", "slots": 2})
    async with keep() as kept:
        await kept.fleet.apply([good])
        await kept.until(lambda: not kept.fleet.deployment("m").rolling)
        kept.stage.broken.add(bad.hash)
        application, _ = await kept.fleet.apply([bad])
        await kept.stays(lambda: not application.done)  # once may be bad luck
        kept.stage.fail_again("m")
        await kept.until(lambda: application.done)
        outcome = application.models["m"]
        assert (outcome.state, outcome.detail) == ("rolled_back", "no such file")
        assert outcome.log == ["m said something"]
        assert kept.fleet.spec("m") == good
        assert kept.state("m") is ModelState.READY
        [row] = store.deployments()
        assert (ModelSpec.model_validate(row.spec), row.previous) == (good, None)


async def test_old_restarts_say_nothing_of_a_new_version(keep: Any) -> None:
    async with keep() as kept:
        await kept.fleet.apply([spec_of()])
        await kept.until(lambda: not kept.fleet.deployment("m").rolling)
        kept.stage.set("m", [replace(kept.stage.views["m"][0], restarts=7)])
        more = spec_of(scaling={"min_replicas": 2})
        kept.stage.slow.add(more.hash)
        application, _ = await kept.fleet.apply([more])
        await kept.stays(lambda: not application.done)
        ready = [replace(view, state=ReplicaState.READY) for view in kept.stage.views["m"]]
        kept.stage.set("m", ready)
        await kept.until(lambda: application.done)
        assert application.models["m"].state == "ready"


async def test_a_store_that_fails_is_asked_again(
    keep: Any, store: SqlFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = spec_of(), spec_of(engine={"kind": "fake", "slots": 2})
    async with keep() as kept:
        await kept.fleet.apply([good])
        await kept.until(lambda: not kept.fleet.deployment("m").rolling)
        kept.stage.broken.add(bad.hash)
        application, _ = await kept.fleet.apply([bad])
        save, tries = store.save, itertools.count(1)

        def fails_at_first(*arguments: Any) -> None:
            if next(tries) < 3:
                raise StoreError("no space left")
            save(*arguments)

        monkeypatch.setattr(store, "save", fails_at_first)
        kept.stage.fail_again("m")
        await kept.until(lambda: application.done)
        assert kept.fleet.spec("m") == good
        assert ModelSpec.model_validate(store.deployments()[0].spec) == good


@pytest.mark.parametrize("then", ["sleep", "zero"])
async def test_rest_and_wake(keep: Any, then: str) -> None:
    async with keep() as kept:
        await kept.fleet.apply([spec_of(then=then)])
        await kept.until(lambda: kept.state("m") is ModelState.SLEEPING)
        await kept.until(lambda: not kept.fleet.deployment("m").moving)
        states = [view.state for view in kept.stage.views["m"]]
        assert states == ([ReplicaState.SLEEPING] if then == "sleep" else [])
        kept.ask("m")
        await kept.until(lambda: kept.state("m") is ModelState.READY)
        await kept.stays(lambda: kept.state("m") is ModelState.READY)  # while it is asked for
        kept.keeper.report("w", {})
        await kept.until(lambda: kept.state("m") is ModelState.SLEEPING)


async def test_a_busy_replica_calls_it_off(keep: Any) -> None:
    async with keep() as kept:
        kept.stage.busy.add("m")
        kept.stage.gate.clear()  # or it would sleep too short a time to be seen
        await kept.fleet.apply([spec_of(then="sleep")])
        await kept.until(lambda: kept.state("m") is ModelState.SLEEPING)
        kept.stage.gate.set()
        await kept.until(lambda: kept.state("m") is ModelState.READY)
        assert kept.stage.views["m"][0].state is ReplicaState.READY


@pytest.mark.parametrize("then", ["sleep", "zero"])
@pytest.mark.parametrize("restarts", [True, False])
async def test_an_apply_while_a_model_falls_asleep(keep: Any, then: str, restarts: bool) -> None:
    async with keep() as kept:
        await kept.fleet.apply([spec_of(then=then)])
        kept.stage.gate.clear()
        await kept.until(lambda: kept.state("m") is ModelState.SLEEPING)
        change = {"engine": {"kind": "fake", "slots": 3}} if restarts else {"tags": ["x"]}
        application, _ = await kept.fleet.apply([spec_of(then=then, after=30, **change)])
        kept.stage.gate.set()
        await kept.until(lambda: application.done)
        if restarts:
            await kept.stays(lambda: kept.state("m") is ModelState.READY)
            assert len(kept.stage.views["m"]) == 1
        kept.ask("m")
        await kept.until(lambda: kept.state("m") is ModelState.READY)
        await kept.stays(lambda: [v.state for v in kept.stage.views["m"]] == [ReplicaState.READY])


async def test_going_back_to_a_version_that_sleeps(keep: Any) -> None:
    first = spec_of(then="sleep")
    second = spec_of(then="keep", engine={"kind": "fake", "slots": 3})
    async with keep() as kept:
        await kept.fleet.apply([first])
        await kept.until(lambda: kept.stage.views["m"][0].state is ReplicaState.SLEEPING)
        await kept.until(lambda: not kept.fleet.deployment("m").moving)
        kept.stage.slow.add(second.hash)
        await kept.fleet.apply([second])
        again = spec_of(then="sleep", after=30)
        application, _ = await kept.fleet.apply([again])
        await kept.until(lambda: application.done)
        assert application.models["m"].state == "ready"
        assert kept.state("m") is ModelState.READY


async def test_only_as_many_wake_as_fit(keep: Any) -> None:
    names = [f"m{n}" for n in range(6)]
    specs = [
        spec_of(name, then="zero", resources={"memory_gb": 1}, scaling={"min_replicas": 0})
        for name in names
    ]
    async with keep(int(3.2 * GB)) as kept:
        await kept.fleet.apply(specs)
        kept.ask(*names)
        await kept.until(lambda: sum(kept.state(n) is ModelState.READY for n in names) == 3)
        await kept.stays(lambda: sum(len(kept.stage.views[n]) for n in names) == 3)
        waiting = [view.detail for view in kept.fleet.snapshot.models if view.asleep]
        assert all("waits until others" in detail for detail in waiting)


async def test_a_model_at_zero_that_shall_run(keep: Any) -> None:
    async with keep() as kept:
        await kept.fleet.apply([spec_of(scaling={"min_replicas": 0})])
        assert kept.state("m") is ModelState.SLEEPING
        application, _ = await kept.fleet.apply([spec_of()])
        await kept.until(lambda: application.done)
        assert application.models["m"].state == "ready"
        assert kept.state("m") is ModelState.READY


async def test_an_apply_repeated_while_it_rolls_hears_the_end(keep: Any) -> None:
    spec = spec_of()
    async with keep() as kept:
        kept.stage.slow.add(spec.hash)
        first, _ = await kept.fleet.apply([spec])
        second, changes = await kept.fleet.apply([spec])
        assert [change.action for change in changes] == ["unchanged"]
        assert not second.done
        kept.stage.set("m", [replace(kept.stage.views["m"][0], state=ReplicaState.READY)])
        await kept.until(lambda: first.done and second.done)


async def test_what_came_apart_is_put_together(keep: Any) -> None:
    """However an order got lost: in the end there run as many as shall."""
    async with keep() as kept:
        await kept.fleet.apply([spec_of(scaling={"min_replicas": 2})])
        await kept.until(lambda: not kept.fleet.deployment("m").rolling)
        kept.stage.set("m", [])
        await kept.until(lambda: len(kept.stage.views["m"]) == 2)
        kept.stage.set("m", [*kept.stage.views["m"], kept.stage._new(kept.stage.specs["m"])])
        await kept.until(lambda: len(kept.stage.views["m"]) == 2)


async def test_an_order_to_sleep_lasts_until_a_request(keep: Any) -> None:
    async with keep() as kept:
        await kept.fleet.apply([spec_of()])
        await kept.until(lambda: kept.state("m") is ModelState.READY)
        assert kept.keeper.order_sleep("m", "ak_1")
        await kept.until(lambda: kept.state("m") is ModelState.SLEEPING)
        await kept.stays(lambda: kept.state("m") is ModelState.SLEEPING)
        assert not kept.keeper.order_sleep("m", "ak_1")
        kept.ask("m")
        await kept.until(lambda: kept.state("m") is ModelState.READY)
        kept.keeper.report("w", {})
        await kept.stays(lambda: kept.state("m") is ModelState.READY)  # the order is fulfilled
        told = [(e.kind, e.changed_by) for e in kept.events if e.kind in ("rests", "wakes")]
        assert told == [("rests", "ak_1"), ("wakes", "aviary")]


async def test_an_order_to_sleep_waits_for_what_runs(keep: Any) -> None:
    async with keep() as kept:
        await kept.fleet.apply([spec_of()])
        await kept.until(lambda: kept.state("m") is ModelState.READY)
        kept.keeper.report("w", {"m": Use(in_flight=1)})
        kept.keeper.order_sleep("m", "ak_1")
        await kept.stays(lambda: kept.state("m") is ModelState.READY)
        assert "goes to sleep" in kept.fleet.snapshot.models[0].detail
        kept.stage.busy.add("m")  # its replica knows of one that no worker has reported yet
        kept.keeper.report("w", {})
        await asyncio.sleep(0.1)
        kept.stage.busy.clear()
        await kept.until(lambda: kept.state("m") is ModelState.SLEEPING)


async def test_an_order_to_wake_calls_off_one_to_sleep(keep: Any) -> None:
    async with keep() as kept:
        await kept.fleet.apply([spec_of()])
        await kept.until(lambda: kept.state("m") is ModelState.READY)
        kept.keeper.report("w", {"m": Use(in_flight=1)})
        kept.keeper.order_sleep("m", "ak_1")
        assert not kept.keeper.order_wake("m", "ak_2")
        kept.keeper.report("w", {})
        await kept.stays(lambda: kept.state("m") is ModelState.READY)
        assert kept.fleet.snapshot.models[0].detail == ""


async def test_an_order_wakes(keep: Any) -> None:
    async with keep() as kept:
        await kept.fleet.apply([spec_of()])
        await kept.until(lambda: kept.state("m") is ModelState.READY)
        kept.keeper.order_sleep("m", "ak_1")
        await kept.until(lambda: kept.state("m") is ModelState.SLEEPING)
        kept.stage.gate.clear()
        assert kept.keeper.order_wake("m", "ak_2")
        await kept.until(lambda: kept.state("m") is ModelState.READY)
        kept.stage.gate.set()
        await kept.stays(lambda: kept.state("m") is ModelState.READY)
        wakes = next(event for event in kept.events if event.kind == "wakes")
        assert (wakes.changed_by, wakes.detail) == ("ak_2", "told to wake")


async def test_an_order_to_wake_waits_for_room(keep: Any) -> None:
    big = {"resources": {"memory_gb": 1}}
    async with keep(int(1.5 * GB)) as kept:
        await kept.fleet.apply([spec_of("a", **big), spec_of("b", **big)])
        await kept.until(lambda: kept.state("a") is ModelState.READY)
        assert kept.state("b") is ModelState.SLEEPING
        kept.keeper.report("w", {"a": Use(in_flight=1)})
        kept.keeper.order_wake("b", "ak_1")
        await kept.stays(lambda: kept.state("b") is ModelState.SLEEPING)
        kept.keeper.report("w", {})
        await kept.until(lambda: kept.state("b") is ModelState.READY)


async def test_a_model_that_may_have_no_replica_is_told_to_have_none(keep: Any) -> None:
    async with keep() as kept:
        await kept.fleet.apply([spec_of(after=900)])
        await kept.until(lambda: kept.state("m") is ModelState.READY)
        await kept.fleet.scale("m", 0, by="ak_1")
        kept.keeper.order_sleep("m", "ak_1")
        await kept.until(lambda: not kept.stage.views["m"])
        await kept.fleet.scale("m", 2, by="ak_1")
        kept.keeper.order_wake("m", "ak_1")
        await kept.until(lambda: len(kept.stage.views["m"]) == 2)
        assert kept.state("m") is ModelState.READY
