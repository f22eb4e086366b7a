"""A replica sleeps and wakes, behind its real server."""

import asyncio
import json
from time import monotonic
from typing import Any

import pytest
from replicas import TOKEN, Replica, Start, States, ask_for, error_of, spec_of

from aviary.core.errors import EngineError, InvalidRequest, StartFailed
from aviary.core.ports import Progress
from aviary.core.states import ReplicaState
from aviary.engines.fake import FakeTextEngine
from aviary.replica import lifecycle
from aviary.replica.asking import ask_sleep, ask_state, ask_wake
from aviary.wire.client import ConnectFailed, Target, UpstreamSilent

SLEEP, WAKE = "/internal/sleep", "/internal/wake"


class Sleepy(FakeTextEngine):
    """An engine that notes what is done to it, and does it as slowly or badly as it is told."""

    def __init__(self, **engine: Any) -> None:
        super().__init__(spec_of(engine).engine)  # type: ignore[arg-type]
        self.done: list[str] = []
        self.probes = 0
        self.sleep_s = 0.0
        self.wake_s = 0.0
        self.failure: Exception | None = None
        self.first_progress: Progress | None = None

    async def start(self, progress: Progress) -> None:
        if self.first_progress is None:
            self.first_progress = progress
        await super().start(progress)

    async def healthy(self) -> None:
        self.probes += 1
        await super().healthy()

    async def sleep(self) -> None:
        self.done.append("sleep begins")
        await asyncio.sleep(self.sleep_s)
        if self.failure is not None:
            raise self.failure
        await super().sleep()
        self.done.append("sleep ends")

    async def wake(self, progress: Progress) -> None:
        self.done.append("wake begins")
        progress("stretching", 0.5)
        await asyncio.sleep(self.wake_s)
        if self.failure is not None:
            raise self.failure
        await super().wake(progress)
        self.done.append("wake ends")

    async def stop(self) -> None:
        self.done.append("stop")
        await super().stop()


async def post(replica: Replica, path: str) -> tuple[int, Any]:
    status, body, _ = await replica.ask({}, path)
    return status, json.loads(body)


async def reach(replica: Replica, state: ReplicaState, within_s: float = 5.0) -> None:
    began = monotonic()
    while replica.app.state is not state:
        assert monotonic() - began < within_s, (replica.app.state, replica.app.detail)
        await asyncio.sleep(0.002)


async def test_sleep_and_wake(start: Start, states: States) -> None:
    engine = Sleepy()
    replica = await start(spec_of(), engine)
    states.clear()
    status, view = await post(replica, SLEEP)
    assert (status, view["state"], view["detail"]) == (200, "sleeping", "asleep")
    assert (await post(replica, SLEEP))[0] == 200
    assert engine.done == ["sleep begins", "sleep ends"]
    assert (await replica.get("/internal/state"))[1]["state"] == "sleeping"
    assert (await replica.get("/internal/health")) == (200, {"status": "sleeping"})
    status, body, response = await replica.ask(ask_for())
    assert (status, error_of(body)["code"]) == (503, "model_not_ready")
    assert "sleeping" in error_of(body)["message"]
    assert int(response.header(b"retry-after")) >= 1
    status, view = await post(replica, WAKE)
    assert (status, view["state"]) == (202, "starting")
    await reach(replica, ReplicaState.READY)
    assert (await replica.ask(ask_for()))[0] == 200
    assert (await post(replica, WAKE))[0] == 202  # nothing to do
    assert replica.app.state is ReplicaState.READY

    order = [state for state, _, _ in states]
    assert order == sorted(order, key=["sleeping", "starting", "ready"].index)
    told = [(detail, fraction) for state, detail, fraction in states if state == "starting"]
    assert told[0] == ("waking", None)
    assert ("waking: stretching", 0.5) in told
    assert told[-1] == ("waking: first generation", None)
    assert states[-1][1].startswith("woken in ")


async def test_asked_from_outside(start: Start) -> None:
    replica = await start(spec_of({"gap": "1s"}))
    client, target = replica.client, replica.target
    response = await replica.open(ask_for(stream=True))
    assert not await ask_sleep(client, target, "", TOKEN, 5)
    response.close()
    await replica.until(0)
    assert await ask_sleep(client, target, "", TOKEN, 5)
    assert (await ask_state(client, target, "", TOKEN, 5))["state"] == "sleeping"
    assert await ask_sleep(client, target, "", TOKEN, 5)
    await ask_wake(client, target, "", TOKEN, 5)
    assert not await ask_sleep(client, target, "", TOKEN, 5)  # it wakes
    await replica.ready()
    for ask in (ask_sleep, ask_wake):
        with pytest.raises(InvalidRequest, match="own gateways"):
            await ask(client, target, "", b"wrong", 5)
        with pytest.raises(InvalidRequest):
            await ask(client, target, "/elsewhere", TOKEN, 5)
        with pytest.raises(ConnectFailed):
            await ask(client, Target("127.0.0.1", 1), "", TOKEN, 5)
    await replica.app.stop()
    with pytest.raises(InvalidRequest, match="stopped"):
        await ask_wake(client, target, "", TOKEN, 5)
    assert not await ask_sleep(client, target, "", TOKEN, 5)


async def test_who_works_does_not_sleep(start: Start) -> None:
    engine = Sleepy(slots=1, gap="1s")
    replica = await start(spec_of({"slots": 1, "gap": "1s"}), engine)
    first = await replica.open(ask_for(stream=True))
    second = asyncio.create_task(replica.open(ask_for(stream=True)))
    await replica.until(1, 1)
    status, answer = await post(replica, SLEEP)
    assert (status, answer["error"]["code"]) == (409, "replica_busy")
    assert answer["error"]["message"]
    assert replica.app.state is ReplicaState.READY
    first.close()
    (await second).close()
    await replica.until(0)
    assert engine.done == []
    assert (await post(replica, SLEEP))[0] == 200


async def test_who_starts_does_not_sleep(start: Start) -> None:
    replica = await start(spec_of({"start": "1m"}), ready=False)
    status, answer = await post(replica, SLEEP)
    assert (status, answer["error"]["code"]) == (409, "replica_busy")
    assert (await post(replica, WAKE))[0] == 202  # it is on its way anyhow
    assert replica.app.state is ReplicaState.STARTING


async def test_only_post_changes_anything(start: Start) -> None:
    replica = await start(spec_of())
    for path in (SLEEP, WAKE):
        assert (await replica.get(path))[0] == 404
        assert (await replica.ask({}, path, token=b"wrong"))[0] == 401
    assert replica.app.state is ReplicaState.READY


async def test_a_request_whose_body_comes_too_late(start: Start) -> None:
    """It had seen a ready replica, and must not reach an engine that sleeps."""
    replica = await start(spec_of())
    reader, writer = await asyncio.open_connection(replica.target.host, replica.target.port)
    body = json.dumps(ask_for()).encode()
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-aviary-token: secret\r\n")
    writer.write(b"content-length: %d\r\n\r\n" % len(body) + body[:5])
    await asyncio.sleep(0.05)
    assert (await post(replica, SLEEP))[0] == 200
    writer.write(body[5:])
    assert b" 503 " in await reader.readline()
    writer.close()
    await replica.until(0)
    assert replica.app.state is ReplicaState.SLEEPING


async def test_requests_and_sleep_at_the_same_moment(start: Start) -> None:
    """Each request is answered by an engine that is awake, or told to come back; none breaks."""
    replica = await start(spec_of({"tokens": 3, "gap": "2ms"}))
    seen = set()
    for round_number in range(25):
        asked = [asyncio.create_task(replica.ask(ask_for())) for _ in range(3)]
        if round_number % 3:
            await asyncio.sleep(0.001 * (round_number % 5))
        slept = await post(replica, SLEEP)
        statuses = [(await task)[0] for task in asked]
        assert set(statuses) <= {200, 503}, statuses
        assert slept[0] in (200, 409)
        if slept[0] == 200:
            await post(replica, WAKE)
        seen |= {slept[0], *statuses}
        await replica.ready()
    assert seen >= {200, 409}


async def test_a_hundred_wakes_are_one(start: Start) -> None:
    engine = Sleepy()
    engine.wake_s = 0.1
    replica = await start(spec_of(), engine)
    await post(replica, SLEEP)
    answers = await asyncio.gather(*(post(replica, WAKE) for _ in range(100)))
    assert {status for status, _ in answers} == {202}
    await replica.ready()
    assert engine.done.count("wake begins") == 1


async def test_a_wake_waits_for_the_sleep(start: Start, states: States) -> None:
    engine = Sleepy()
    engine.sleep_s = 0.2
    replica = await start(spec_of(), engine)
    falling = asyncio.create_task(post(replica, SLEEP))
    await reach(replica, ReplicaState.SLEEPING)
    assert (await post(replica, WAKE))[0] == 202
    assert replica.app.state is ReplicaState.STARTING
    assert (await post(replica, SLEEP))[0] == 409
    status, answer = await falling
    assert (status, answer["error"]["code"]) == (409, "replica_busy")
    await replica.ready()
    assert engine.done == ["sleep begins", "sleep ends", "wake begins", "wake ends"]
    assert (await replica.ask(ask_for()))[0] == 200


async def test_sleep_goes_on_without_its_asker(start: Start) -> None:
    engine = Sleepy()
    engine.sleep_s = 1.5
    replica = await start(spec_of(), engine)
    with pytest.raises(UpstreamSilent):
        await ask_sleep(replica.client, replica.target, "", TOKEN, 0.01)
    assert await ask_sleep(replica.client, replica.target, "", TOKEN, 5)
    assert engine.done == ["sleep begins", "sleep ends"]


@pytest.mark.parametrize("failure", [EngineError("stuck"), ZeroDivisionError("oops")])
async def test_a_sleep_that_fails(start: Start, states: States, failure: Exception) -> None:
    engine = Sleepy()
    engine.failure = failure
    replica = await start(spec_of(), engine)
    status, answer = await post(replica, SLEEP)
    assert (status, answer["error"]["code"]) == (502, "engine_error")
    assert states[-1][0] is ReplicaState.FAILED
    assert str(failure) in states[-1][1]
    assert (await post(replica, WAKE))[0] == 409
    assert replica.app.state is ReplicaState.FAILED


async def test_a_sleep_that_hangs(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "SLEEP_DEADLINE_S", 0.1)
    engine = Sleepy()
    engine.sleep_s = 60
    replica = await start(spec_of(), engine)
    falling = asyncio.create_task(post(replica, SLEEP))
    await reach(replica, ReplicaState.SLEEPING)
    assert (await post(replica, WAKE))[0] == 202  # queued; it will never come to that
    status, answer = await falling
    assert status == 502
    assert "fall asleep within 0.1 s" in answer["error"]["message"]
    await asyncio.sleep(0.05)
    assert replica.app.state is ReplicaState.FAILED
    assert engine.done == ["sleep begins"]


@pytest.mark.parametrize("failure", [StartFailed("no memory"), ZeroDivisionError("oops")])
async def test_a_wake_that_fails(start: Start, states: States, failure: Exception) -> None:
    engine = Sleepy()
    replica = await start(spec_of(), engine)
    await post(replica, SLEEP)
    engine.failure = failure
    assert (await post(replica, WAKE))[0] == 202
    await reach(replica, ReplicaState.FAILED)
    assert str(failure) in replica.app.detail
    assert states[-1][0] is ReplicaState.FAILED


async def test_a_wake_is_proven(start: Start) -> None:
    """The engine says that it is awake and cannot generate: that is a failure."""

    class Dazed(Sleepy):
        async def wake(self, progress: Progress) -> None:
            pass

    replica = await start(spec_of(), Dazed())
    await post(replica, SLEEP)
    await post(replica, WAKE)
    await reach(replica, ReplicaState.FAILED)
    assert "not running" in replica.app.detail


@pytest.mark.parametrize("wake", [False, True])
async def test_stopping_in_the_middle(start: Start, states: States, wake: bool) -> None:
    engine = Sleepy()
    replica = await start(spec_of(), engine)
    engine.sleep_s, engine.wake_s = (0, 60) if wake else (60, 0)
    falling = asyncio.create_task(post(replica, SLEEP))
    if wake:
        await falling
        await post(replica, WAKE)
    await reach(replica, ReplicaState.STARTING if wake else ReplicaState.SLEEPING)
    await asyncio.sleep(0.05)
    async with asyncio.timeout(2):
        await replica.app.stop()
    assert engine.done[-1] == "stop"
    assert [state for state, _, _ in states[-2:]] == [ReplicaState.STOPPING, ReplicaState.STOPPED]
    assert (await falling)[0] == (200 if wake else 409)
    assert (await post(replica, WAKE))[0] == 409


async def test_late_words_of_an_earlier_start_are_not_the_wakes(
    start: Start, states: States
) -> None:
    engine = Sleepy()
    engine.wake_s = 0.1
    replica = await start(spec_of(), engine)
    await post(replica, SLEEP)
    await post(replica, WAKE)
    assert engine.first_progress is not None
    engine.first_progress("says a slow thread", 0.9)
    await replica.ready()
    assert not any("slow thread" in detail for _, detail, _ in states)


async def test_probes_rest_while_it_sleeps(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "HEALTH_EVERY_S", 0.02)
    engine = Sleepy()
    replica = await start(spec_of(), engine)
    for _ in range(2):
        awake = engine.probes
        await asyncio.sleep(0.1)
        assert engine.probes > awake
        await post(replica, SLEEP)
        asleep = engine.probes
        await asyncio.sleep(0.1)
        assert engine.probes == asleep
        await post(replica, WAKE)
        await replica.ready()
    assert replica.app.state is ReplicaState.READY
