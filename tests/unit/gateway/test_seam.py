"""Streams whose replica dies, between a real client and small scripted replicas."""

import asyncio
import json
from typing import Any

import pytest
from scripted import DONE, ROLE, USAGE, Fake, Gateway, Script, Start, die, error_of, good, token

from aviary.auth.keys import hash_secret
from aviary.core.errors import Crashed, EngineError
from aviary.core.states import KeyView, ModelView, ReplicaState, ReplicaView, Snapshot
from aviary.wire.asgi import error_body

FINISH = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
TOTAL = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\n'


def in_turn(*scripts: Script) -> Script:
    """The first request is answered by the first script, at whichever replica, and so on."""
    left = list(scripts)

    async def script(fake: Fake) -> None:
        await left.pop(0)(fake)

    return script


def says(*events: bytes, then_dies: bool = False, gap: float = 0.01) -> Script:
    async def script(fake: Fake) -> None:
        await fake.stream(*events, gap=gap, done=not then_dies)
        if then_dies:
            raise ConnectionError

    return script


def breaks(*events: bytes) -> Script:
    """The connection is lost in the middle of an event."""

    async def script(fake: Fake) -> None:
        fake.begin()
        for event in events:
            fake.write(event)
        fake.write(b'data: {"choices":[{"ind')
        await fake.writer.drain()
        await asyncio.sleep(0.05)
        raise ConnectionError

    return script


def sent_to(gateway: Gateway) -> list[tuple[bytes, bytes]]:
    """Heads and bodies of all requests, in order."""
    return [pair for fake in gateway.fakes for pair in zip(fake.heads, fake.bodies, strict=True)]


def continuation_in(head: bytes, body: bytes) -> tuple[Any, bytes]:
    size = int(head.split(b"x-aviary-continue: ")[1].split(b"\r\n")[0])
    return json.loads(body[:size]) if size else None, body[size:]


REST = (token("c"), token("d"), FINISH, TOTAL)


@pytest.mark.parametrize(
    "first",
    [
        breaks(ROLE, token("a"), token("b")),
        says(ROLE, token("a"), token("b"), then_dies=True),
        says(ROLE, token("a"), token("b"),
             b"data: " + error_body(Crashed("The engine died.")) + b"\n\n", then_dies=True),
    ],
    ids=["lost", "no end", "engine died"],
)  # fmt: skip
async def test_the_rest_comes_from_another(start: Start, first: Script) -> None:
    script = in_turn(first, says(*REST))
    gateway = await start(script, script)
    response, body = await gateway.ask(stream=True, stream_options={"include_usage": True})
    assert response.status == 200
    text = ROLE + token("a") + token("b") + token("c") + token("d") + FINISH + TOTAL + DONE
    assert [json.loads(event[5:]) for event in body.split(b"\n\n")[:-2]] == [
        json.loads(event[5:]) for event in text.split(b"\n\n")[:-2]
    ]
    assert body.endswith(DONE)
    record = await gateway.record()
    assert (record.status, record.error) == (200, "")
    assert (record.prompt_tokens, record.completion_tokens) == (3, 4)
    [first_sent, second_sent] = sorted(sent_to(gateway), key=lambda pair: len(pair[1]))
    assert b"x-aviary-continue" not in first_sent[0]
    given, asked = continuation_in(*second_sent)
    assert given == {"pieces": ["a", "b"], "finish": None}
    assert asked == first_sent[1]
    assert record.replica != response.header(b"x-aviary-replica").decode()
    assert gateway.state.metrics_of("m").continued == 1


async def test_nothing_delivered_begins_anew_whatever_was_asked(start: Start) -> None:
    script = in_turn(breaks(ROLE), good)
    gateway = await start(script, script)
    _, body = await gateway.ask(stream=True, tools=[{}], n=2)
    assert body.count(b"role") == 1
    assert body.endswith(DONE)
    sent = [continuation_in(*pair) for pair in sent_to(gateway) if b"continue" in pair[0]]
    assert [given for given, _ in sent] == [None]


@pytest.mark.parametrize("fields", [{"tools": [{}]}, {"n": 2}, {"response_format": {"type": "x"}}])
async def test_what_cannot_be_taken_up(start: Start, fields: dict[str, Any]) -> None:
    script = in_turn(breaks(ROLE, token("a")), good)
    gateway = await start(script, script)
    _, body = await gateway.ask(stream=True, **fields)
    error = error_of(body.split(b"\n\n")[-2][6:])
    assert error["code"] == "replica_crashed"
    assert next(iter(fields)) in error["message"]
    assert len(sent_to(gateway)) == 1
    assert (await gateway.record()).status == 502


async def test_two_deaths_in_the_middle(start: Start) -> None:
    script = in_turn(breaks(ROLE, token("a")), breaks(token("b")), good)
    gateway = await start(script, script, script)
    _, body = await gateway.ask(stream=True)
    assert body.startswith(ROLE + token("a"))
    assert b'"b"' in body
    error = error_of(body.split(b"\n\n")[-2][6:])
    assert error["code"] == "replica_crashed"
    assert "Two replicas" in error["message"]
    assert len(sent_to(gateway)) == 2
    await gateway.record()


async def test_a_death_before_the_first_byte_counts_too(start: Start) -> None:
    script = in_turn(die, breaks(ROLE, token("a")), good)
    gateway = await start(script, script, script)
    _, body = await gateway.ask(stream=True)
    assert "Two replicas" in error_of(body.split(b"\n\n")[-2][6:])["message"]


async def test_an_error_of_the_engine_is_the_end(start: Start) -> None:
    event = b"data: " + error_body(EngineError("It fails.")) + b"\n\n"
    script = in_turn(says(ROLE, token("a"), event, then_dies=True), good)
    gateway = await start(script, script)
    _, body = await gateway.ask(stream=True)
    assert body == ROLE + token("a") + event
    record = await gateway.record()
    assert (record.status, record.error) == (502, "engine_error")
    assert len(sent_to(gateway)) == 1


async def test_only_the_end_is_missing(start: Start) -> None:
    script = in_turn(breaks(ROLE, token("a"), FINISH, USAGE), good)
    gateway = await start(script, script)
    _, body = await gateway.ask(stream=True)
    assert body == ROLE + token("a") + FINISH + DONE
    record = await gateway.record()
    assert (record.status, record.error, record.completion_tokens) == (200, "", 2)
    assert len(sent_to(gateway)) == 1


async def test_only_usage_and_end_are_missing(start: Start) -> None:
    script = in_turn(breaks(ROLE, token("a"), FINISH), says(USAGE))
    gateway = await start(script, script)
    _, body = await gateway.ask(stream=True)
    assert body == ROLE + token("a") + FINISH + DONE
    given = [continuation_in(*pair)[0] for pair in sent_to(gateway) if b"continue" in pair[0]]
    assert given == [{"pieces": ["a"], "finish": "stop"}]
    assert (await gateway.record()).completion_tokens == 2


async def test_a_refusal_of_the_rest_is_an_event(start: Start) -> None:
    async def refuse(fake: Fake) -> None:
        fake.whole(400, {"error": {"code": "context_length_exceeded", "message": "9"}})

    script = in_turn(breaks(ROLE, token("a")), refuse)
    gateway = await start(script, script)
    _, body = await gateway.ask(stream=True)
    assert error_of(body.split(b"\n\n")[-2][6:])["code"] == "context_length_exceeded"
    record = await gateway.record()
    assert (record.status, record.error) == (400, "context_length_exceeded")


async def test_a_document_begins_anew(start: Start) -> None:
    async def half(fake: Fake) -> None:
        fake.begin(b"application/json")
        fake.write(b'  {"choices": [')
        await asyncio.sleep(0.05)
        raise ConnectionError

    async def crashed(fake: Fake) -> None:  # found out after signs of life were sent
        fake.begin(b"application/json")
        fake.write(b"  " + error_body(Crashed("The engine died.")))
        fake.end()

    async def whole(fake: Fake) -> None:
        fake.whole(200, {"usage": {"prompt_tokens": 5, "completion_tokens": 6}})

    for first in (half, crashed):
        script = in_turn(first, whole)
        gateway = await start(script, script)
        response, body = await gateway.ask()
        assert (response.status, json.loads(body)["usage"]["completion_tokens"]) == (200, 6)
        record = await gateway.record()
        assert (record.status, record.error, record.completion_tokens) == (200, "", 6)
        script = in_turn(first, first, whole)
        gateway = await start(script, script, script)
        response, body = await gateway.ask()
        assert (response.status, error_of(body)["code"]) == (502, "replica_crashed")


def replace(gateway: Gateway, *numbers: int) -> None:
    """A snapshot with these of the scripted replicas, under new ids."""
    replicas = tuple(
        ReplicaView(f"m/new{n}", "127.0.0.1", gateway.fakes[n].port, state=ReplicaState.READY)
        for n in numbers
    )
    view = ModelView("m", replicas=replicas, slots=4, wait_s=3.0)
    gateway.state.table.update(Snapshot(2, (view,)))


async def test_who_waits_hears_signs_of_life(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aviary.gateway.answering.SIGN_OF_LIFE_S", 0.05)
    gateway = await start(in_turn(breaks(ROLE, token("a")), says(*REST)), queue=0)
    asking = asyncio.create_task(gateway.ask(stream=True))
    await asyncio.sleep(0.1)
    replace(gateway)
    await asyncio.sleep(0.3)
    assert gateway.state.table.route("m").held == 1
    replace(gateway, 0)
    _, body = await asking
    assert body.startswith(ROLE + token("a") + b": \n\n: \n\n")
    assert body.replace(b": \n\n", b"").endswith(FINISH.replace(b", ", b",") + DONE)
    assert gateway.state.table.route("m").held == 0


async def test_no_replica_in_time_is_an_event(start: Start) -> None:
    gateway = await start(breaks(ROLE, token("a")), wait_s=0.3)
    asking = asyncio.create_task(gateway.ask(stream=True))
    await asyncio.sleep(0.03)
    gateway.state.table.route("m").endpoints.clear()
    _, body = await asking
    assert error_of(body.split(b"\n\n")[-2][6:])["code"] == "model_not_ready"
    assert (await gateway.record()).status == 503


async def test_leaving_while_waiting(start: Start) -> None:
    gateway = await start(breaks(ROLE, token("a")))
    response = await gateway.open(stream=True)
    await response.read()
    gateway.state.table.route("m").endpoints.clear()
    route = gateway.state.table.route("m")
    async with asyncio.timeout(2):
        while route.held == 0:
            await asyncio.sleep(0.005)
    response.close()
    assert (await gateway.record()).status == 499
    assert route.held == 0


async def test_replicas_hear_whose_request_it_is(start: Start) -> None:
    gateway = await start(good)
    await gateway.ask((b"x-aviary-client", b"forged"), stream=True)
    assert b"x-aviary-client: 127.0.0.1\r\n" in gateway.fakes[0].heads[0]
    keys = (KeyView("ak_1", hash_secret(b"sk-good"), "user"),)
    gateway = await start(good, keys=keys)
    await gateway.ask((b"authorization", b"Bearer sk-good"), stream=True)
    assert b"x-aviary-client: ak_1\r\n" in gateway.fakes[0].heads[0]
    assert gateway.fakes[0].heads[0].count(b"x-aviary-client") == 1
