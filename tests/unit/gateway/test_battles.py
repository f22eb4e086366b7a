"""Battles in a worker, over scripted replicas; the control process is a script, too, or away."""

from __future__ import annotations

import asyncio
import json
from time import monotonic
from typing import Any

import msgspec
import pytest
from scripted import CHAT, DONE, ROLE, USAGE, Fake, Gateway, Start, error_of, good, token

from aviary.arena.asked import read_asked
from aviary.core.errors import InvalidRequest
from aviary.core.preference import Battle
from aviary.wire.client import Target

NOWHERE = Target("127.0.0.1", 9)


async def fight(gateway: Gateway, *models: str, **fields: Any) -> list[dict[str, Any]]:
    body = {"models": [{"model": model} for model in models], "prompt": "hi", **fields}
    response = await gateway.state.client.request(
        gateway.target, "POST", "/api/battles", (), json.dumps(body).encode()
    )
    try:
        assert response.status == 200
        text = (await response.read_all(1 << 24)).decode()
    finally:
        response.close()
    return [json.loads(part[6:]) for part in text.split("\n\n") if part.startswith("data: ")]


def kinds(events: list[dict[str, Any]], column: int = 0) -> list[str]:
    return [event["kind"] for event in events if event.get("column") == column]


async def test_what_the_control_process_is_given(start: Start) -> None:
    async def store(fake: Fake) -> None:
        fake.whole(200, {})

    control = Fake(store)
    await control.start()
    gateway = await start(good, control=Target("127.0.0.1", control.port))
    events = await fight(gateway, "m", task="t", session="s", system="Be brief.")
    assert events[-1] == {"kind": "stored", "stored": True}
    assert b"POST /internal/battles " in control.heads[0]
    assert b"x-aviary-token: secret\r\n" in control.heads[0]
    battle = msgspec.json.decode(control.bodies[0], type=Battle)
    assert (battle.id, battle.task, battle.session) == (events[0]["battle"], "t", "s")
    (answer,) = battle.answers
    assert (answer.model, answer.text, answer.error) == ("m", "ab", "")
    assert (answer.prompt_tokens, answer.completion_tokens) == (3, 2)
    record = await gateway.record()
    assert (record.id, record.route, record.status) == (f"{battle.id}:0", CHAT, 200)
    assert answer.cost_usd == record.cost_usd
    [sent] = gateway.fakes[0].bodies
    assert json.loads(sent) == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hi"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    control.server.close()


async def test_the_answers_come_though_nobody_can_store_them(start: Start) -> None:
    gateway = await start(good, control=NOWHERE)
    events = await fight(gateway, "m")
    assert kinds(events)[:1] == ["start"]
    assert kinds(events)[-1] == "end"
    assert events[-1] == {"kind": "stored", "stored": False}


async def test_thoughts_are_told_apart(start: Start) -> None:
    thought = b'data: {"choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}\n\n'

    async def thinks(fake: Fake) -> None:
        await fake.stream(ROLE, thought, token("a"), USAGE, gap=0.02)

    events = await fight(await start(thinks, control=NOWHERE), "m")
    assert kinds(events) == ["start", "reasoning", "text", "end"]


async def test_an_error_in_the_middle_of_an_answer(start: Start) -> None:
    error = b'data: {"error":{"message":"m is out of memory","code":"engine_error"}}\n\n'

    async def fails(fake: Fake) -> None:
        await fake.stream(ROLE, token("a"), error, done=False)

    events = await fight(await start(fails, control=NOWHERE), "m")
    assert kinds(events)[-1] == "error"
    (last,) = [event["error"] for event in events if event["kind"] == "error"]
    assert (last["code"], last["message"]) == ("engine_error", "m is out of memory")
    blind = await fight(await start(fails, control=NOWHERE), "m", blind=True)
    (last,) = [event["error"] for event in blind if event["kind"] == "error"]
    assert (last["code"], last["message"]) == ("engine_error", "This model did not answer.")
    assert blind[1]["model"] is None


async def test_odd_chunks_count_as_nothing(start: Start) -> None:
    odd = [b"data: no\n\n", b'data: {"choices":5}\n\n', b": hello\n\n", b'data: {"choices":[]}\n\n']

    async def odd_one(fake: Fake) -> None:
        await fake.stream(ROLE, *odd, token("a"), USAGE)

    events = await fight(await start(odd_one, control=NOWHERE), "m")
    assert [event["text"] for event in events if event["kind"] == "text"] == ["a"]
    assert kinds(events)[-1] == "end"


async def test_a_slow_reader_slows_its_answers_and_loses_nothing(start: Start) -> None:
    async def long(fake: Fake) -> None:
        await fake.stream(ROLE, *(token("x" * 1000) for _ in range(20_000)), USAGE)

    gateway = await start(long, control=NOWHERE)
    body = json.dumps({"models": [{"model": "m"}], "prompt": "hi"}).encode()
    response = await gateway.state.client.request(gateway.target, "POST", "/api/battles", (), body)
    await asyncio.sleep(0.5)
    assert not gateway.records, "the whole answer was taken in though nobody read it"
    text = await response.read_all(1 << 26)
    response.close()
    assert text.count(b"x" * 1000) == 20_000


async def test_a_client_that_leaves_cancels_all(start: Start) -> None:
    async def hangs(fake: Fake) -> None:
        fake.begin()
        fake.write(ROLE + token("a"))
        await fake.wait_for_leaving()

    gateway = await start(hangs, control=NOWHERE)
    body = json.dumps({"models": [{"model": "m"}] * 2, "prompt": "hi"}).encode()
    response = await gateway.state.client.request(gateway.target, "POST", "/api/battles", (), body)
    seen = b""
    while seen.count(b'"text"') < 4:  # kind and content, of both
        seen += await response.read()
    response.close()
    record = await gateway.record(2)
    assert record.status == 499
    assert DONE not in seen


async def test_a_session_may_begin_so_many(start: Start) -> None:
    gateway = await start(good, control=NOWHERE)
    body = json.dumps({"models": [{"model": "m"}], "prompt": "hi", "session": "bot"}).encode()

    async def ask() -> tuple[int, bytes]:
        response = await gateway.state.client.request(
            gateway.target, "POST", "/api/battles", (), body
        )
        try:
            return response.status, await response.read_all(1 << 20)
        finally:
            response.close()

    answers = [await ask() for _ in range(60)]
    assert [status for status, _ in answers] == [200] * 60
    began = monotonic()
    while (answer := await ask())[0] == 200:  # one more a second
        assert monotonic() - began < 20
    assert answer[0] == 429
    assert error_of(answer[1])["code"] == "budget_exceeded"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"models": 1}', b'{"models": [{"model": "m"}], "prompt": "\\ud800"}',
     b'{"models": [{"model": "m"}], "messages": [1]}', b'{"models": [{"model": "m"}], "prompt": 5}',
     b'{"models": [{"model": "m"}], "messages": ' + b"[" * 100_000,
     b'{"models": [{"model": "m"}], "prompt": "x", "task": "' + b"t" * 65 + b'"}'],
)  # fmt: skip
def test_bodies_that_are_no_battle(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read_asked(body)
