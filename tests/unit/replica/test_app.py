"""The replica app behind its real server, with the fake engine."""

import asyncio
import contextlib
import json
from typing import Any

import msgspec
import pytest
from replicas import CHAT, TOKEN, Start, States, ask_for, error_of, spec_of

from aviary.config.spec import ModelSpec
from aviary.core.errors import EngineError, StartFailed
from aviary.core.ports import EngineRequest, EngineResponse, Progress
from aviary.core.states import ReplicaState
from aviary.engines.fake import FakeTextEngine, scripted_text
from aviary.replica import lifecycle, watch
from aviary.wire.client import UpstreamLost, UpstreamSilent

# life cycle


async def test_states_of_a_life(start: Start, states: States) -> None:
    async with contextlib.AsyncExitStack():
        replica = await start(spec_of({"start": "50ms"}))
    kinds = [state for state, _, _ in states]
    assert kinds == [ReplicaState.STARTING] * (len(kinds) - 1) + [ReplicaState.READY]
    fractions = [fraction for _, _, fraction in states if fraction is not None]
    assert fractions == sorted(fractions)
    assert fractions
    assert states[-2][1] == "first generation"
    assert "started in" in states[-1][1]
    status, view = await replica.get("/internal/state")
    assert status == 200
    assert view["state"] == "ready"
    assert (view["running"], view["waiting"], view["slots"]) == (0, 0, 8)
    assert view["completion_tokens"] == 1  # that of the readiness generation
    await replica.app.stop()
    assert [state for state, _, _ in states[-2:]] == [ReplicaState.STOPPING, ReplicaState.STOPPED]
    status, body, _ = await replica.ask(ask_for())
    assert (status, error_of(body)["code"]) == (503, "model_not_ready")


async def test_not_ready_is_503_and_says_when_to_come_back(start: Start) -> None:
    replica = await start(spec_of({"start": "1m"}), ready=False)
    status, body, response = await replica.ask(ask_for())
    assert (status, error_of(body)["code"]) == (503, "model_not_ready")
    assert "starting" in error_of(body)["message"]
    assert int(response.header(b"retry-after")) >= 1
    assert (await replica.get("/internal/state"))[1]["state"] == "starting"
    assert (await replica.get("/internal/health"))[0] == 502


async def test_a_start_that_fails(start: Start, states: States) -> None:
    replica = await start(spec_of({"fail_start": "no such bird"}), ready=False)
    while replica.app.state is not ReplicaState.FAILED:
        await asyncio.sleep(0.005)
    assert states[-1] == (ReplicaState.FAILED, "no such bird", None)
    assert (await replica.get("/internal/state"))[1]["detail"] == "no such bird"
    status, body, _ = await replica.ask(ask_for())
    assert (status, error_of(body)["code"]) == (503, "model_not_ready")


class Odd(FakeTextEngine):
    """An engine that goes wrong in ways of its own."""

    def __init__(self, how: str) -> None:
        super().__init__(spec_of().engine)  # type: ignore[arg-type]
        self.how = how
        self.proven = False

    async def start(self, progress: Progress) -> None:
        if self.how == "fails at once":
            progress("nearly there", 0.9)
            raise StartFailed("broken")
        if self.how == "raises":
            raise ZeroDivisionError("oops")
        self.progress = progress
        await super().start(progress)

    async def generate(self, request: EngineRequest) -> EngineResponse:
        if self.how == "proves nothing":
            raise EngineError("no token came")
        if self.proven and self.how == "generate raises":
            raise ZeroDivisionError("oops")
        response = await super().generate(request)
        if self.proven and self.how == "stream raises":
            response.body = Broken()
        self.proven = True
        return response


class Scripted:
    """A body of pieces and pauses (seconds), with or without an error at its end."""

    def __init__(self, *script: bytes | float | Exception) -> None:
        self.script = list(script)
        self.closed = False

    def __aiter__(self) -> "Scripted":
        return self

    async def __anext__(self) -> bytes:
        while self.script:
            step = self.script.pop(0)
            if isinstance(step, bytes):
                return step
            if isinstance(step, Exception):
                raise step
            await asyncio.sleep(step)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed = True


class Player(FakeTextEngine):
    """An engine whose answers, after the readiness generation, are given bodies."""

    def __init__(self, head_s: float = 0.0) -> None:
        super().__init__(spec_of().engine)  # type: ignore[arg-type]
        self.next: Scripted | None = None
        self.head_s = head_s
        self.sick: Exception | float | None = None
        self.probes = 0

    async def generate(self, request: EngineRequest) -> EngineResponse:
        response = await super().generate(request)
        if self.next is not None:
            await response.body.aclose()
            await asyncio.sleep(self.head_s)
            response.body = self.next
        return response

    async def healthy(self) -> None:
        self.probes += 1
        if isinstance(self.sick, Exception):
            raise self.sick
        if self.sick is not None:
            await asyncio.sleep(self.sick)


class Broken:
    """A body that breaks after its first piece with an error nobody expects."""

    def __init__(self) -> None:
        self.pieces = 0

    def __aiter__(self) -> "Broken":
        return self

    async def __anext__(self) -> bytes:
        self.pieces += 1
        if self.pieces > 1:
            raise ZeroDivisionError("oops")
        return b"data: {}\n\n"

    async def aclose(self) -> None:
        pass


@pytest.mark.parametrize(
    ("how", "detail"),
    [
        ("fails at once", "broken"),
        ("raises", "ZeroDivisionError: oops"),
        ("proves nothing", "no token came"),
    ],
)
async def test_failed_stays_failed(start: Start, states: States, how: str, detail: str) -> None:
    replica = await start(spec_of(), Odd(how), ready=False)
    await asyncio.sleep(0.1)
    assert (replica.app.state, replica.app.detail) == (ReplicaState.FAILED, detail)
    assert states[-1][0] is ReplicaState.FAILED


async def test_late_words_of_progress_change_nothing(start: Start) -> None:
    engine = Odd("")
    replica = await start(spec_of(), engine)
    engine.progress("still loading, says a slow thread", 0.5)
    await asyncio.sleep(0.02)
    assert replica.app.state is ReplicaState.READY
    assert (await replica.ask(ask_for()))[0] == 200


# requests


@pytest.mark.parametrize("token", [b"", b"wrong", TOKEN + b"x", b"\xff\xfe"])
@pytest.mark.parametrize("path", [CHAT, "/internal/state", "/internal/health", "/nothing"])
async def test_the_token_is_needed_everywhere(start: Start, token: bytes, path: str) -> None:
    replica = await start(spec_of())
    status, body, _ = await replica.ask(ask_for(), path, token=token)
    assert (status, error_of(body)["code"]) == (401, "invalid_api_key")


async def test_routes(start: Start) -> None:
    replica = await start(spec_of())
    assert (await replica.get("/internal/health")) == (200, {"status": "ok"})
    assert (await replica.get("/nothing"))[0] == 404
    assert (await replica.get(CHAT))[0] == 404


async def test_answers(start: Start) -> None:
    replica = await start(spec_of({"tokens": 5}))
    status, body, response = await replica.ask(ask_for(seed=1))
    answer = json.loads(body)
    assert status == 200
    assert response.header(b"content-type") == b"application/json"
    assert response.header(b"x-aviary-load") == b"1,0,8"
    assert answer["model"] == "m"
    expected = "".join(scripted_text(ask_for(seed=1), 5))
    assert answer["choices"][0]["message"]["content"] == expected
    status, body, response = await replica.ask(ask_for(seed=1, stream=True))
    assert response.header(b"content-type").startswith(b"text/event-stream")
    assert body.endswith(b"data: [DONE]\n\n")
    texts = [
        json.loads(line[6:])["choices"][0]["delta"].get("content") or ""
        for line in body.decode().split("\n\n")[:-3]
    ]
    assert "".join(texts) == expected
    await replica.until(0)


async def test_wrong_requests(start: Start) -> None:
    replica = await start(spec_of({"context_length": 30}))
    cases: list[tuple[Any, int, str, str | None]] = [
        (b"", 400, "invalid_request", None),
        (b"{", 400, "invalid_request", None),
        (b"[1]", 400, "invalid_request", None),
        (b"\xff\xfe", 400, "invalid_request", None),
        (ask_for(n=9), 400, "invalid_request", "n"),
        (ask_for(max_tokens=30), 400, "context_length_exceeded", "max_tokens"),
        (ask_for("a " * 30), 400, "context_length_exceeded", None),
        (ask_for("a" * 20_000), 413, "body_too_large", None),
    ]
    for body, status, code, param in cases:
        got, answer, response = await replica.ask(body)
        error = error_of(answer)
        assert (got, error["code"], error["param"]) == (status, code, param)
        assert response.header(b"x-aviary-load")
    await replica.until(0)


@pytest.mark.parametrize("depth", [100, 800, 900, 940, 960, 970, 980, 990, 1000, 5000])
async def test_nesting_is_answered_not_crashed_on(start: Start, depth: int) -> None:
    replica = await start(spec_of(), max_body_bytes=1 << 20)
    body = msgspec.json.encode(ask_for())[:-1] + b',"x":' + b"[" * depth + b"]" * depth + b"}"
    status, answer, _ = await replica.ask(body)
    assert status in (200, 400)
    if status == 400:
        assert error_of(answer)["code"] == "invalid_request"


async def test_overload(start: Start) -> None:
    replica = await start(spec_of({"slots": 1, "gap": "1s"}, limits={"queue": 1}))
    first = await replica.open(ask_for(stream=True))
    second = asyncio.create_task(replica.open(ask_for(stream=True)))
    await replica.until(1, 1)
    status, body, response = await replica.ask(ask_for())
    assert (status, error_of(body)["code"]) == (429, "overloaded")
    assert int(response.header(b"retry-after")) >= 1
    assert response.header(b"x-aviary-load") == b"1,1,1"
    first.close()
    await replica.until(1, 0)
    (await second).close()
    await replica.until(0)


async def test_waiting_for_a_slot_has_an_end(start: Start) -> None:
    replica = await start(spec_of({"slots": 1, "gap": "1s"}, limits={"wait": "100ms"}))
    first = await replica.open(ask_for(stream=True))
    status, body, _ = await replica.ask(ask_for())
    assert (status, error_of(body)["code"]) == (429, "overloaded")
    first.close()
    await replica.until(0)


async def test_clients_take_turns(start: Start) -> None:
    replica = await start(spec_of({"slots": 1, "gap": "1s"}))
    first = await replica.open(ask_for(stream=True), client=b"hog")
    hogs = []
    for number in range(3):
        hogs.append(asyncio.create_task(replica.open(ask_for(stream=True), client=b"hog")))
        await replica.until(1, number + 1)
    single = asyncio.create_task(replica.open(ask_for(stream=True), client=b"single"))
    await replica.until(1, 4)
    first.close()
    response = await single
    assert not any(task.done() for task in hogs)
    response.close()
    for task in hogs:
        (await task).close()
    await replica.until(0)


async def test_n_takes_as_many_slots(start: Start) -> None:
    replica = await start(spec_of({"slots": 4, "gap": "1s"}))
    prompts = {"prompt": ["a", "b", "c"], "stream": True}
    response = await replica.open(prompts, "/v1/completions")
    assert await response.read()
    assert replica.app._admission.load == b"3,0,4"
    response.close()
    await replica.until(0)


# leaving and faults


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_before_the_first_token(start: Start, stream: bool) -> None:
    replica = await start(spec_of({"time_to_first_token": "1500ms"}))
    work = asyncio.create_task(replica.ask(ask_for(stream=stream)))
    await replica.until(1)
    work.cancel()
    await replica.until(0)
    assert replica.app._engine.stats().running == 0


async def test_leaving_in_the_middle_of_a_stream(start: Start) -> None:
    replica = await start(spec_of({"gap": "20ms", "tokens": 1000}))
    response = await replica.open(ask_for(stream=True))
    while b"content" not in await response.read():
        pass
    response.close()
    await replica.until(0)
    assert replica.app._engine.stats().running == 0


async def test_leaving_the_line(start: Start) -> None:
    replica = await start(spec_of({"slots": 1, "gap": "1500ms"}))
    first = await replica.open(ask_for(stream=True))
    second = asyncio.create_task(replica.ask(ask_for()))
    third = asyncio.create_task(replica.ask(ask_for(stream=True, max_tokens=1)))
    await replica.until(1, 2)
    second.cancel()
    await replica.until(1, 1)
    assert not third.done()
    third.cancel()
    first.close()
    await replica.until(0)


async def test_leaving_with_half_a_body_sent(start: Start) -> None:
    replica = await start(spec_of())
    _, writer = await asyncio.open_connection(replica.target.host, replica.target.port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nx-aviary-token: secret\r\n")
    writer.write(b"content-length: 99\r\n\r\n{")
    await asyncio.sleep(0.05)
    writer.close()
    await writer.wait_closed()
    await asyncio.sleep(0.05)
    assert (await replica.ask(ask_for()))[0] == 200
    await replica.until(0)


def fault(kind: str, at_token: int = 0, every: int = 2) -> ModelSpec:
    """The readiness generation is request 1; `every: 2` spares it."""
    faults = [{"kind": kind, "at_token": at_token, "every": every}]
    return spec_of({"tokens": 5, "faults": faults})


@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_before_the_first_byte_is_a_status(start: Start, stream: bool) -> None:
    replica = await start(fault("error"))
    status, body, _ = await replica.ask(ask_for(stream=stream))
    assert (status, error_of(body)["code"]) == (502, "engine_error")
    assert (await replica.ask(ask_for(stream=stream)))[0] == 200
    await replica.until(0)


async def test_an_error_in_the_middle_is_an_event(start: Start) -> None:
    replica = await start(fault("error", at_token=2))
    status, body, _ = await replica.ask(ask_for(stream=True))
    assert status == 200
    events = body.split(b"\n\n")
    assert json.loads(events[-2][6:])["error"]["code"] == "engine_error"
    assert b"[DONE]" not in body
    assert body.count(b'"content":') == 3  # the role chunk and two tokens
    status, body, _ = await replica.ask(ask_for())
    assert status == 200
    status, body, _ = await replica.ask(ask_for())
    assert (status, error_of(body)["code"]) == (502, "engine_error")  # not streamed: a status
    await replica.until(0)


async def test_a_cut_stream_has_no_end_event(start: Start) -> None:
    replica = await start(fault("cut", at_token=2))
    status, body, _ = await replica.ask(ask_for(stream=True))
    assert status == 200
    assert b"[DONE]" not in body
    assert (await replica.ask(ask_for()))[0] == 200
    status, body, _ = await replica.ask(ask_for())
    assert (status, error_of(body)["code"]) == (502, "replica_crashed")
    await replica.until(0)


async def test_leaving_a_hanging_engine(start: Start) -> None:
    replica = await start(fault("hang", at_token=1))
    for stream in (True, False):
        with pytest.raises((UpstreamSilent, UpstreamLost)):
            await replica.ask(ask_for(stream=stream), silence_s=0.3)
        await replica.until(0)
        assert (await replica.ask(ask_for()))[0] == 200


@pytest.mark.parametrize("stream", [True, False])
async def test_unexpected_errors_are_in_openais_shape_too(start: Start, stream: bool) -> None:
    replica = await start(spec_of(), Odd("generate raises"))
    status, body, _ = await replica.ask(ask_for(stream=stream))
    assert (status, error_of(body)["code"]) == (502, "engine_error")
    assert b"oops" not in body
    await replica.until(0)


async def test_unexpected_errors_within_a_stream(start: Start) -> None:
    replica = await start(spec_of(), Odd("stream raises"))
    status, body, _ = await replica.ask(ask_for(stream=True))
    assert status == 200
    assert json.loads(body.split(b"\n\n")[-2][6:])["error"]["code"] == "engine_error"
    await replica.until(0)


async def test_stopping_ends_running_answers(start: Start) -> None:
    replica = await start(spec_of({"gap": "20ms", "tokens": 10}))
    response = await replica.open(ask_for(stream=True))
    assert await response.read()
    response.close()
    await replica.until(0)
    await replica.app.stop()
    assert replica.app.state is ReplicaState.STOPPED


# silence


SHORT = {"timeout": "200ms"}


@pytest.mark.parametrize("stream", [True, False])
async def test_a_hanging_engine_times_out_and_frees_its_slot(start: Start, stream: bool) -> None:
    faults = [{"kind": "hang", "at_token": 0, "every": 2}]
    replica = await start(spec_of({"slots": 1, "faults": faults}, limits=SHORT))
    status, body, _ = await replica.ask(ask_for(stream=stream))
    if stream:  # the role chunk was sent before
        assert status == 200
        assert error_of(body.split(b"\n\n")[-2][6:])["code"] == "engine_timeout"
    else:
        assert (status, error_of(body)["code"]) == (504, "engine_timeout")
    await replica.until(0)
    assert replica.app._engine.stats().running == 0
    assert (await replica.ask(ask_for(stream=stream)))[0] == 200


async def test_an_engine_that_does_not_even_begin_times_out(start: Start) -> None:
    engine = Player(head_s=5)
    replica = await start(spec_of(limits=SHORT), engine)
    engine.next = Scripted(b"{}")
    status, body, _ = await replica.ask(ask_for())
    assert (status, error_of(body)["code"]) == (504, "engine_timeout")
    assert "limits.timeout" in error_of(body)["message"]
    await replica.until(0)


@pytest.mark.parametrize("stream", [True, False])
async def test_signs_of_life_are_no_silence(start: Start, stream: bool) -> None:
    """Empty pieces: progress of a long prompt, or tokens of an answer that is not streamed."""
    engine = Player()
    replica = await start(spec_of(limits=SHORT), engine)
    script: list[bytes | float] = [0.05, b""] * 12
    body = engine.next = Scripted(*script, b"data: 1\n\n", 0.1, b"data: 2\n\n")
    assert (await replica.ask(ask_for(stream=stream)))[:2] == (200, b"data: 1\n\ndata: 2\n\n")
    assert body.closed


async def test_long_answers_that_are_not_streamed_are_not_cut(start: Start) -> None:
    replica = await start(spec_of({"gap": "50ms", "tokens": 12}, limits=SHORT))
    status, body, _ = await replica.ask(ask_for())
    assert status == 200
    assert json.loads(body)["usage"]["completion_tokens"] == 12


async def test_a_client_that_reads_slowly_is_not_the_engines_silence(start: Start) -> None:
    engine = Player()
    replica = await start(spec_of(limits={"timeout": "100ms"}), engine)
    pieces = [b"data: " + b"x" * 500_000 + b"\n\n"] * 40
    engine.next = Scripted(*pieces)
    response = await replica.open(ask_for(stream=True))
    await asyncio.sleep(0.5)
    assert await response.read_all(1 << 30) == b"".join(pieces)
    response.close()


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "SIGN_OF_LIFE_S", 0.1)
    monkeypatch.setattr(lifecycle, "HEALTH_EVERY_S", 0.05)
    monkeypatch.setattr(lifecycle, "HEALTH_DEADLINE_S", 0.05)


@pytest.mark.usefixtures("often")
async def test_signs_of_life_while_there_is_nothing_to_send(start: Start) -> None:
    engine = Player()
    replica = await start(spec_of(), engine)
    engine.next = Scripted(0.35, b'{"a": 1}')
    status, body, response = await replica.ask(ask_for(), silence_s=0.3)
    assert (status, body) == (200, b'   {"a": 1}')
    assert response.header(b"x-aviary-load") == b"1,0,8"
    await replica.app._engine.stop()
    await replica.app._engine.start(lambda *_: None)
    fake = FakeTextEngine(spec_of({"time_to_first_token": "250ms"}).engine)  # type: ignore[arg-type]
    await fake.start(lambda *_: None)
    replica.app._engine = fake
    status, body, _ = await replica.ask(ask_for(stream=True), silence_s=0.2)
    events = body.split(b"\n\n")
    assert status == 200
    assert events.count(b": ") == 2
    assert events[-2] == b"data: [DONE]"


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("error", [EngineError("broke"), None])
async def test_errors_after_signs_of_life(start: Start, error: EngineError | None) -> None:
    engine = Player()
    replica = await start(spec_of(), engine)
    engine.next = Scripted(0.15, *([error] if error else []))
    status, body, _ = await replica.ask(ask_for())
    assert status == 200
    assert body[:1] == b" "
    assert error_of(body)["code"] == "engine_error"
    engine.next = Scripted(0.05, *([error] if error else []))
    status, body, _ = await replica.ask(ask_for())
    assert (status, error_of(body)["code"]) == (502, "engine_error")  # early enough for a status
    await replica.until(0)


@pytest.mark.usefixtures("often")
async def test_leaving_between_signs_of_life(start: Start) -> None:
    replica = await start(spec_of({"time_to_first_token": "2s"}))
    work = asyncio.create_task(replica.ask(ask_for()))
    await asyncio.sleep(0.35)
    work.cancel()
    await replica.until(0)


# health


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize(
    ("sick", "cause"),
    [(EngineError("no pulse"), "no pulse"), (KeyError("x"), "KeyError('x')"), (9.0, "in time")],
)
async def test_an_engine_that_is_not_healthy_fails_its_replica(
    start: Start, states: States, sick: Exception | float, cause: str
) -> None:
    engine = Player()
    replica = await start(spec_of(), engine)
    await asyncio.sleep(0.3)
    assert engine.probes >= 3
    assert replica.app.state is ReplicaState.READY
    engine.sick = sick
    async with asyncio.timeout(3):
        while states[-1][0] is not ReplicaState.FAILED:
            await asyncio.sleep(0.01)
    assert states[-1][0] is ReplicaState.FAILED
    assert "3 health probes in a row" in states[-1][1]
    assert cause in states[-1][1]
    assert (await replica.ask(ask_for()))[0] == 503
    await replica.app.stop()
    assert replica.app.state.value == "stopped"


@pytest.mark.usefixtures("often")
async def test_one_bad_probe_is_forgotten(start: Start) -> None:
    engine = Player()
    replica = await start(spec_of(), engine)
    for _ in range(4):
        seen = engine.probes
        engine.sick = EngineError("a cold")
        while engine.probes == seen:
            await asyncio.sleep(0.005)
        engine.sick = None
        while engine.probes < seen + 2:
            await asyncio.sleep(0.005)
    assert replica.app.state is ReplicaState.READY


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/embeddings"])
@pytest.mark.parametrize("n", ["abc", -5, 0, 1.5, True, 99])
async def test_a_wrong_n_harms_nobody(start: Start, path: str, n: Any) -> None:
    replica = await start(spec_of())
    body = {**ask_for(), "prompt": "a", "input": "a", "n": n}
    status, answer, _ = await replica.ask(body, path)
    assert (status, error_of(answer)["param"]) == (400, "n")
    assert replica.app._admission.load == b"0,0,8"
