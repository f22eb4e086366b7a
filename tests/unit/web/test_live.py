"""The live stream's one maker: for all who watch, only while they do, never a backlog."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest

from aviary.core.errors import StoreError
from aviary.core.states import ModelView
from aviary.fleet.load import Load
from aviary.fleet.publisher import Publisher
from aviary.web import live as living
from aviary.web import shapes
from aviary.web.live import Live


class Stage:
    """A fleet of one model, and what is asked of it."""

    def __init__(self) -> None:
        self.fleet = Publisher()
        self.asked = 0
        self.looked: list[bool] = []
        self.silent = False
        self.broken = False
        fleet: Any = self.fleet
        self.live = Live(fleet, self.ask, self.look)
        self.change("begins")

    def change(self, description: str) -> None:
        self.fleet._publish((ModelView("m", description=description, detail="why"),))

    async def ask(self) -> Mapping[str, Load]:
        self.asked += 1
        if self.silent:
            await asyncio.sleep(3600)
        return {}

    async def look(self, loads: Mapping[str, Load], causes: bool) -> Sequence[shapes.Model]:
        self.looked.append(causes)
        if self.broken:
            raise StoreError("The log cannot be read.")
        totals = shapes.Totals()
        return [
            shapes.Model.of(v, loads, totals, causes=causes) for v in self.fleet.snapshot.models
        ]

    def watch(self, *, causes: bool = True) -> AsyncIterator[bytes]:
        self.live.join()
        return self.live.states(causes=causes)


async def next_model(states: AsyncIterator[bytes]) -> dict[str, Any]:
    async with asyncio.timeout(5):
        event = await anext(states)
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    model: dict[str, Any] = json.loads(event[6:])["models"][0]
    return model


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(living, "EVERY_S", 0.1)
    monkeypatch.setattr(living, "LEAST_S", 0.02)


@pytest.mark.usefixtures("quick")
async def test_it_works_only_while_somebody_watches() -> None:
    stage = Stage()
    assert not stage.live.at_work
    first, second = stage.watch(), stage.watch()
    assert (await next_model(first))["description"] == "begins"
    await next_model(second)
    stage.live.leave()
    assert stage.live.at_work
    stage.live.leave()
    assert not stage.live.at_work
    asked = stage.asked
    await asyncio.sleep(0.3)
    assert stage.asked == asked
    again = stage.watch()  # and begins anew
    stage.change("later")
    assert (await next_model(again))["description"] == "later"
    stage.live.leave()


@pytest.mark.usefixtures("quick")
async def test_a_state_is_made_once_for_all() -> None:
    stage = Stage()
    watchers = [stage.watch(causes=number % 2 == 0) for number in range(20)]
    models = await asyncio.gather(*(next_model(watcher) for watcher in watchers))
    assert {model["detail"] for model in models[::2]} == {"why"}
    assert {model["detail"] for model in models[1::2]} == {""}
    assert sorted(stage.looked) == [False, True]
    for _ in watchers:
        stage.live.leave()


@pytest.mark.usefixtures("quick")
async def test_who_is_slow_gets_the_newest() -> None:
    stage = Stage()
    slow = stage.watch()
    await next_model(slow)
    for number in range(50):
        stage.change(f"number {number}")
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.05)
    assert (await next_model(slow))["description"] == "number 49"
    stage.live.leave()


async def test_many_changes_are_few_states(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(living, "EVERY_S", 60)
    monkeypatch.setattr(living, "LEAST_S", 0.1)
    stage = Stage()
    states = stage.watch()
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    for number in range(6):
        stage.change(f"number {number}")
        await next_model(states)
    assert 0.4 < loop.time() - began_s < 5
    stage.live.leave()


@pytest.mark.usefixtures("quick")
async def test_a_silent_replica_holds_up_nothing() -> None:
    stage = Stage()
    stage.silent = True
    states = stage.watch()
    await next_model(states)
    stage.change("later")
    while (await next_model(states))["description"] != "later":
        pass
    stage.live.leave()


@pytest.mark.usefixtures("quick")
async def test_it_goes_on_when_the_log_can_be_read_again() -> None:
    stage = Stage()
    stage.broken = True
    states = stage.watch()
    waiting = asyncio.ensure_future(next_model(states))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    stage.broken = False
    assert (await waiting)["description"] == "begins"
    stage.live.leave()
