"""Battles in a worker, over scripted replicas; the control process is a script, too, or away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from time import monotonic, perf_counter
from typing import Any

import msgspec
import pytest
from scripted import CHAT, DONE, ROLE, USAGE, Fake, Gateway, Start, error_of, good, token

from aviary.arena.asked import read_asked
from aviary.core.errors import InvalidRequest
from aviary.core.preference import Battle, Contestant, Found, Progress, Stop
from aviary.core.states import ModelView, ReplicaState, ReplicaView
from aviary.gateway.column import _waiting
from aviary.wire.client import Target

NOWHERE = Target("127.0.0.1", 9)


@pytest.fixture(autouse=True)
def _no_second_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aviary.gateway.recorder.GIVE_UP_S", 0.0)


class Control:
    """A control process that keeps what it is told."""

    def __init__(self) -> None:
        self.progress: list[Progress] = []
        self.votes = 0
        self.stops: list[Stop] = []
        self.fake = Fake(self._answer)

    @property
    def target(self) -> Target:
        return Target("127.0.0.1", self.fake.port)

    @property
    def battle(self) -> Battle:
        begun = next(p.begun for p in self.progress if p.begun is not None)
        answers = {p.answer.column: p.answer for p in self.progress if p.answer is not None}
        return replace(begun, answers=tuple(answers[n] for n in sorted(answers)))

    async def _answer(self, fake: Fake) -> None:
        path = fake.heads[-1].split()[1]
        if path == b"/internal/battles":
            new = msgspec.json.decode(fake.bodies[-1], type=list[Progress])
            self.progress += new
            fake.whole(200, [""] * len(new))
        elif path == b"/internal/stops":
            self.stops.append(msgspec.json.decode(fake.bodies[-1], type=Stop))
            fake.whole(200, {})
        elif path.decode() == f"/internal/battles/{self.battle.id}":
            fake.whole(200, msgspec.to_builtins(Found(self.battle, self.votes)))
        else:
            fake.whole(404, {})


@pytest.fixture
async def control() -> AsyncIterator[Control]:
    control = Control()
    await control.fake.start()
    yield control
    control.fake.server.close()


async def post(gateway: Gateway, path: str, **body: Any) -> tuple[int, bytes]:
    response = await gateway.state.client.request(
        gateway.target, "POST", path, (), json.dumps(body).encode()
    )
    try:
        return response.status, await response.read_all(1 << 24)
    finally:
        response.close()


def events_of(body: bytes) -> list[dict[str, Any]]:
    parts = body.decode().split("\n\n")
    return [json.loads(part[6:]) for part in parts if part.startswith("data: ")]


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


async def test_what_the_control_process_is_given(start: Start, control: Control) -> None:
    gateway = await start(good, control=control.target)
    events = await fight(gateway, "m", task="t", session="s", system="Be brief.")
    assert events[-1] == {"kind": "stored", "stored": True}
    assert b"POST /internal/battles " in control.fake.heads[0]
    assert b"x-aviary-token: secret\r\n" in control.fake.heads[0]
    battle = control.battle
    assert battle.lineup == (Contestant("m"),)
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


async def test_how_a_blind_column_waits_does_not_tell_the_model(start: Start) -> None:
    loading = ReplicaView(
        "m/9", "", 0, state=ReplicaState.STARTING, progress=0.5, detail="reads m.gguf"
    )
    view = ModelView("m", asleep=True, replicas=(loading,))
    told = {"kind": "waiting", "state": "waiting", "progress": 0.5, "detail": ""}
    assert _waiting(view, blind=True) == told
    assert _waiting(view, blind=False) == told | {"state": "sleeping", "detail": "reads m.gguf"}

    async def late(fake: Fake) -> None:
        await asyncio.sleep(0.1)
        await good(fake)

    events = await fight(await start(late, control=NOWHERE, asleep=True), "m", blind=True)
    (waits,) = [event for event in events if event["kind"] == "waiting"]
    assert (waits["state"], waits["progress"], waits["detail"]) == ("waiting", None, "")


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


def test_more_than_can_be_stored_is_refused_before_it_is_answered() -> None:
    for large in ("x" * 4_000_001, "\u00e9" * 700_000):
        for turns in ([], [{"role": "user", "content": large}]):
            prompt = "hi" if turns else large
            models = [{"model": "m", "messages": turns}]
            body = json.dumps({"models": models, "prompt": prompt}, ensure_ascii=False)
            with pytest.raises(InvalidRequest, match="a battle keeps 4000000"):
                read_asked(body.encode())
    models = [{"model": "m"}]
    read_asked(json.dumps({"models": models, "prompt": "x" * 3_000_000}).encode())


async def test_columns_have_turns_of_their_own(start: Start, control: Control) -> None:
    gateway = await start(good, good, control=control.target)
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    models = [{"model": "m", "messages": turns}, {"model": "m"}]
    await fight(gateway, models=models, prompt="and now?")
    asked = {"role": "user", "content": "and now?"}
    bodies = [body for fake in gateway.fakes for body in fake.bodies]
    sent = [json.loads(body)["messages"] for body in bodies]
    assert sorted(sent, key=len) == [[asked], [*turns, asked]]
    assert control.battle.messages == [asked]
    assert [contestant.messages for contestant in control.battle.lineup] == [turns, []]
    with pytest.raises(InvalidRequest):
        read_asked(json.dumps({"models": models, "messages": [asked]}).encode())


async def hang_after_text(fake: Fake) -> None:
    fake.begin()
    fake.write(ROLE + token("a") + token("b"))
    await fake.wait_for_leaving()


async def hang_before_text(fake: Fake) -> None:
    fake.begin()
    fake.write(ROLE)
    await fake.wait_for_leaving()


async def stopped(
    gateway: Gateway, session: str, until: bytes
) -> tuple[list[dict[str, Any]], float]:
    """The events of a battle of which column 0 is stopped, and how long its end took (s)."""
    body = json.dumps({"models": [{"model": "m"}], "prompt": "hi", "session": session}).encode()
    response = await gateway.state.client.request(gateway.target, "POST", "/api/battles", (), body)
    seen = b""
    while until not in seen:
        seen += await response.read()
    battle = events_of(seen)[0]["battle"]
    path = f"/api/battles/{battle}/columns/0/stop"
    status, _ = await post(gateway, path, session="stranger")
    assert status == 202
    await asyncio.sleep(0.05)
    assert gateway.records == []
    began = perf_counter()
    assert await post(gateway, path, session=session) == (202, b"{}")
    seen += await response.read_all(1 << 20)
    response.close()
    return events_of(seen), perf_counter() - began


async def test_a_stopped_column_keeps_its_text(start: Start, control: Control) -> None:
    gateway = await start(hang_after_text, control=control.target)
    events, took_s = await stopped(gateway, "me", b'"text"')
    assert took_s < 1
    assert kinds(events) == ["start", "text", "end"]
    assert events[-2]["finish_reason"] == "stopped"
    assert events[-1] == {"kind": "stored", "stored": True}
    (answer,) = control.battle.answers
    assert (answer.text, answer.finish_reason, answer.error) == ("ab", "stopped", "")
    assert (await gateway.record()).status == 499
    await asyncio.wait_for(gateway.fakes[0].left.wait(), 1)
    assert [stop.session for stop in control.stops] == ["stranger"]  # it might run elsewhere


async def test_a_stopped_column_without_text_is_no_answer(start: Start, control: Control) -> None:
    gateway = await start(hang_before_text, control=control.target)
    events, _ = await stopped(gateway, "me", b'"start"')
    assert kinds(events) == ["start", "end"]
    (answer,) = control.battle.answers
    assert (answer.text, answer.finish_reason, answer.error) == ("", "stopped", "stopped")


async def test_retry(start: Start, control: Control) -> None:
    turn = 0

    async def better(fake: Fake) -> None:
        nonlocal turn
        turn += 1
        if turn == 1:
            fake.whole(500, {"error": {"message": "m broke", "code": "engine_error"}})
        else:
            await good(fake)

    gateway = await start(better, control=control.target)
    models = [{"model": "m", "parameters": {"seed": 7}}]
    first = await fight(gateway, models=models, session="me", system="Be brief.", blind=True)
    assert kinds(first) == ["start", "error"]
    path = f"/api/battles/{first[0]['battle']}/retry"
    for body, status in [
        ({"columns": [0], "session": "other"}, 403),
        ({"columns": [0], "session": ""}, 403),
        ({"columns": [], "session": "me"}, 400),
        ({"columns": [0, 0], "session": "me"}, 400),
        ({"columns": [1], "session": "me"}, 400),
        ({"session": "me"}, 400),
    ]:
        assert (await post(gateway, path, **body))[0] == status, body
    assert (await post(gateway, "/api/battles/none/retry", columns=[0], session="me"))[0] == 404
    status, raw = await post(gateway, path, columns=[0], session="me")
    assert status == 200
    again = events_of(raw)
    assert again[0] == first[0]
    assert kinds(again)[0] == "start"
    assert kinds(again)[-1] == "end"
    assert again[1]["model"] is None
    assert again[-1] == {"kind": "stored", "stored": True}
    sent = [json.loads(body) for body in gateway.fakes[0].bodies]
    assert sent[0] == sent[1]
    assert sent[1]["seed"] == 7
    (answer,) = control.battle.answers
    assert (answer.text, answer.error) == ("ab", "")
    control.votes = 1
    status, raw = await post(gateway, path, columns=[0], session="me")
    assert (status, error_of(raw)["code"]) == (409, "already_voted")


async def test_what_has_ended_is_stored_though_the_client_leaves(
    start: Start, control: Control
) -> None:
    async def one_hangs(fake: Fake) -> None:
        if json.loads(fake.bodies[-1]).get("seed") == 1:
            await hang_after_text(fake)
        await good(fake)

    gateway = await start(one_hangs, one_hangs, control=control.target)
    models = [{"model": "m"}, {"model": "m", "parameters": {"seed": 1}}]
    body = json.dumps({"models": models, "prompt": "hi"}).encode()
    response = await gateway.state.client.request(gateway.target, "POST", "/api/battles", (), body)
    seen = b""
    while b'"end"' not in seen:
        seen += await response.read()
    assert [answer.column for answer in control.battle.answers] == [0]  # before its end was told
    response.close()
    await gateway.record(2)
    await asyncio.sleep(0.1)
    assert [answer.column for answer in control.battle.answers] == [0]


async def test_times_are_exact(start: Start) -> None:
    stamps: list[float] = []

    async def paced(fake: Fake) -> None:
        fake.begin()
        stamps.append(perf_counter())
        fake.write(ROLE)
        for number in range(10):
            await asyncio.sleep(0.2 if number == 0 else 0.05)
            stamps.append(perf_counter())
            fake.write(token("x"))
        fake.write(USAGE.replace(b'"completion_tokens":2', b'"completion_tokens":10') + DONE)
        fake.end()

    gateway = await start(paced, control=NOWHERE)
    wrong = []
    for _ in range(6):  # other processes may delay some, and the first one opens connections
        stamps.clear()
        events = await fight(gateway, "m")
        (end,) = [event for event in events if event["kind"] == "end"]
        began, first, last = stamps[0], stamps[1], stamps[-1]
        times = {"ttft_ms": (first - began) * 1000, "latency_ms": (last - began) * 1000}
        off = [abs(end[name] - true) - max(5.0, 0.02 * true) for name, true in times.items()]
        off.append(abs(end["tokens_per_s"] * (last - first) / 9 - 1) - 0.02)
        if max(off) <= 0:
            return
        wrong.append((end, times))
    raise AssertionError(wrong)
