"""The hot path, between a real client and small scripted replicas."""

import asyncio
import contextlib
import json
from time import monotonic
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import CHAT, DONE, ROLE, USAGE, Fake, Start, die, error_of, good, token

from aviary.auth.keys import hash_secret
from aviary.core.errors import BodyTooLarge, InvalidRequest
from aviary.core.states import KeyView
from aviary.gateway.answering import error_code
from aviary.gateway.asked import REQUEST_ID, check_length, peek, request_id

# pure parts


@given(st.binary(max_size=200))
def test_request_ids_are_harmless(given_id: bytes) -> None:
    made = request_id({"headers": [(b"x-request-id", given_id)]})
    assert REQUEST_ID.fullmatch(made)
    if REQUEST_ID.fullmatch(given_id):
        assert made == given_id


@pytest.mark.parametrize(
    "hostile",
    [b"", b"a b", b"a\r\nset-cookie: x", b"a\n", b"\xff", b"x" * 129, b"<script>", b'"', b"a\0"],
)
def test_hostile_request_ids_are_replaced(hostile: bytes) -> None:
    scope = {"headers": [(b"x-request-id", hostile)]}
    first, second = request_id(scope), request_id(scope)
    assert first.startswith(b"req-")
    assert first != second


def test_lengths() -> None:
    check_length([], 10)
    for fine in (b"10", b"0", b"nonsense", b"-5"):
        check_length([(b"content-length", fine)], 10)
    for large in (b"11", b"9" * 1000):
        with pytest.raises(BodyTooLarge):
            check_length([(b"content-length", large)], 10)


def test_peek() -> None:
    fields = peek(
        b'{"model": "m", "stream": true, "stream_options": {"include_usage": true}, "x": 1}'
    )
    assert fields.model == "m"
    assert fields.stream
    assert fields.stream_options is not None
    assert fields.stream_options.include_usage


@pytest.mark.parametrize(
    "body",
    [b"", b" ", b"{", b"[]", b"1", b'"m"', b"{}", b'{"model": ""}', b'{"model": null}',
     b'{"model": 5}', b'{"model": ["m"]}', b'{"model": "m", "stream": "yes"}', b'{"model": "\xff"}',
     b'{"model": "m", "stream_options": 5}', b'{"model": "m", "x": NaN}', b'{"model": "m"} {}',
     b'{"model": "m", "x":' + b"[" * 100_000],
)  # fmt: skip
def test_bodies_that_cannot_be_routed(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        peek(body)


@given(st.binary(max_size=40))
def test_peek_raises_nothing_else(body: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        peek(body)


def test_error_codes() -> None:
    assert error_code(b'{"error": {"code": "x"}}') == "x"
    assert error_code(b'{"error": {"code": 500}}') == "500"
    for body in (b"", b"no", b"{}", b'{"error": null}', b'{"error": "x"}', b'{"error": {}}'):
        assert error_code(body) == "unknown"


# exchanges


async def test_a_stream(start: Start) -> None:
    gateway = await start(good)
    response, body = await gateway.ask((b"x-request-id", b"mine"), stream=True, extra={"a": [1]})
    assert response.status == 200
    assert body == ROLE + token("a") + token("b") + DONE  # usage was not asked for
    assert response.header(b"x-request-id") == b"mine"
    assert response.header(b"x-aviary-model") == b"m"
    assert response.header(b"x-aviary-replica") == b"m/0"
    assert float(response.header(b"x-aviary-overhead-ms")) > 0
    record = await gateway.record()
    assert (record.id, record.model, record.replica, record.route) == ("mine", "m", "m/0", CHAT)
    assert (record.status, record.error, record.stream, record.key) == (200, "", True, "")
    assert (record.prompt_tokens, record.completion_tokens) == (3, 2)
    assert record.cost_usd == pytest.approx(36 / 3600 * record.latency_ms / 1000, rel=0.5)
    assert 0 < (record.overhead_ms or 0) <= record.latency_ms
    [sent] = gateway.fakes[0].bodies
    assert json.loads(sent) == {"model": "m", "stream": True, "extra": {"a": [1]}}
    assert b"x-aviary-token: secret\r\n" in gateway.fakes[0].heads[0]
    assert b"x-request-id: mine\r\n" in gateway.fakes[0].heads[0]


async def test_usage_for_who_asks(start: Start) -> None:
    gateway = await start(good)
    _, body = await gateway.ask(stream=True, stream_options={"include_usage": True})
    assert USAGE in body
    _, body = await gateway.ask(stream=True, stream_options={"include_usage": False})
    assert USAGE not in body


async def test_usage_beside_text_is_kept(start: Start) -> None:
    both = b'data: {"choices":[{"delta":{"content":"z"}}],"usage":{"prompt_tokens":9}}\n\n'

    async def script(fake: Fake) -> None:
        await fake.stream(both)

    gateway = await start(script)
    _, body = await gateway.ask(stream=True)
    assert body == both + DONE
    assert (await gateway.record()).prompt_tokens == 9


async def test_time_to_first_token_is_that_of_the_first_token(start: Start) -> None:
    async def script(fake: Fake) -> None:
        fake.begin()
        fake.write(ROLE)
        await asyncio.sleep(0.3)
        fake.write(token("a") + DONE)
        fake.end()

    gateway = await start(script)
    await gateway.ask(stream=True)
    assert (await gateway.record()).time_to_first_token_ms == pytest.approx(300, abs=150)


async def test_events_in_pieces(start: Start) -> None:
    stream = ROLE + token("a") + USAGE + token("b") + DONE

    async def script(fake: Fake) -> None:
        fake.begin()
        for begin in range(0, len(stream), 17):
            fake.write(stream[begin : begin + 17])
            await asyncio.sleep(0)
        fake.end()

    gateway = await start(script)
    _, body = await gateway.ask(stream=True)
    assert body == stream.replace(USAGE, b"")


async def test_a_whole_answer(start: Start) -> None:
    answer = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 6}}

    async def script(fake: Fake) -> None:
        fake.whole(200, answer, b"x-aviary-load: 3,0,4")

    gateway = await start(script)
    response, body = await gateway.ask()
    assert json.loads(body) == answer
    assert response.header(b"x-aviary-replica") == b"m/0"
    record = await gateway.record()
    assert (record.prompt_tokens, record.completion_tokens, record.stream) == (5, 6, False)
    assert gateway.state.table.route("m").endpoints[0].reported == 3


async def test_errors_of_the_replica_pass(start: Start) -> None:
    async def script(fake: Fake) -> None:
        fake.whole(400, {"error": {"code": "context_length_exceeded", "message": "9"}})

    gateway = await start(script, good)
    while True:
        response, body = await gateway.ask()
        if response.status != 200:
            break
    assert (response.status, error_of(body)["code"]) == (400, "context_length_exceeded")
    assert gateway.records[-1].error == "context_length_exceeded"
    assert gateway.records[-1].cost_usd is None


async def test_refused_connections_are_tried_elsewhere(start: Start) -> None:
    gateway = await start(good, dead=3)
    for count in range(10):
        began = monotonic()
        response, body = await gateway.ask(stream=True)
        assert response.status == 200
        assert body.endswith(DONE)
        assert monotonic() - began < 0.4
        assert (await gateway.record(count + 1)).replica == "m/0"


async def test_what_dies_before_its_first_byte_is_tried_elsewhere(start: Start) -> None:
    gateway = await start(die, good)
    for count in range(6):
        response, body = await gateway.ask(stream=True)
        assert (response.status, body[-len(DONE) :]) == (200, DONE)
        assert (await gateway.record(count + 1)).replica == "m/1"
    assert len(gateway.fakes[0].bodies) <= 6


@pytest.mark.parametrize("kept", [False, True])
async def test_a_request_that_kills_two_replicas_kills_no_third(start: Start, kept: bool) -> None:
    """Also when the connections to them were kept from requests before."""
    poison = False

    async def script(fake: Fake) -> None:
        if poison:
            fake.server.close()
            raise ConnectionError
        await good(fake)

    gateway = await start(script, script, script, script)
    if kept:
        while not all(fake.bodies for fake in gateway.fakes):
            await gateway.ask(stream=True)
    before = [len(fake.bodies) for fake in gateway.fakes]
    poison = True
    gateway.records.clear()
    response, body = await gateway.ask(stream=True)
    assert (response.status, error_of(body)["code"]) == (502, "replica_crashed")
    hit = [len(fake.bodies) - count for fake, count in zip(gateway.fakes, before, strict=True)]
    assert sorted(hit) == [0, 0, 1, 1]
    assert (await gateway.record()).error == "replica_crashed"


async def full(fake: Fake) -> None:
    fake.whole(429, {"error": {"code": "overloaded"}}, b"retry-after: 7", b"x-aviary-load: 4,9,4")


async def test_a_full_replica_is_left_for_another(start: Start) -> None:
    gateway = await start(full, good)
    for _ in range(6):
        response, _ = await gateway.ask(stream=True)
        assert response.status == 200


async def test_when_all_are_full_the_client_hears_it(start: Start) -> None:
    gateway = await start(full, full)
    began = monotonic()
    response, body = await gateway.ask(stream=True)
    assert (response.status, error_of(body)["code"]) == (429, "overloaded")
    assert response.header(b"retry-after") == b"7"
    assert monotonic() - began < 1
    assert sum(len(fake.bodies) for fake in gateway.fakes) == 2
    assert (await gateway.record()).status == 429


async def test_a_replica_that_is_not_ready_yet_is_waited_for(start: Start) -> None:
    async def script(fake: Fake) -> None:
        if len(fake.bodies) < 3:
            fake.whole(503, {"error": {"code": "model_not_ready"}})
        else:
            await good(fake)

    gateway = await start(script)
    began = monotonic()
    response, _ = await gateway.ask(stream=True)
    assert response.status == 200
    assert monotonic() - began > 0.5
    assert len(gateway.fakes[0].bodies) == 3


async def test_the_wait_has_an_end(start: Start) -> None:
    gateway = await start(dead=1, wait_s=0.5)
    began = monotonic()
    response, body = await gateway.ask(stream=True)
    assert (response.status, error_of(body)["code"]) == (503, "model_not_ready")
    assert response.header(b"retry-after")
    assert monotonic() - began < 2
    assert (await gateway.record()).error == "model_not_ready"


async def test_death_in_the_middle_is_an_event(start: Start) -> None:
    async def script(fake: Fake) -> None:
        fake.begin()
        fake.write(ROLE + token("a") + b'data: {"half')
        await asyncio.sleep(0.02)
        raise ConnectionError

    gateway = await start(script, continue_streams=False)
    response, body = await gateway.ask(stream=True)
    assert response.status == 200
    assert body.startswith(ROLE + token("a") + b'data: {"error":')
    assert b"half" not in body
    assert b"[DONE]" not in body
    record = await gateway.record()
    assert (record.status, record.error) == (502, "replica_crashed")
    assert record.time_to_first_token_ms is not None
    assert record.cost_usd is None


async def test_a_stream_without_its_end_is_an_error_in_the_log(start: Start) -> None:
    async def script(fake: Fake) -> None:
        await fake.stream(token("a"), b'data: {"error":{"code":"engine_error"}}\n\n', done=False)

    gateway = await start(script)
    _, body = await gateway.ask(stream=True)
    assert body.endswith(b'"engine_error"}}\n\n')
    assert (await gateway.record()).status == 502


@pytest.mark.parametrize("when", ["before the head", "in the stream"])
async def test_leaving(start: Start, when: str) -> None:
    async def script(fake: Fake) -> None:
        if when == "in the stream":
            fake.begin()
            fake.write(ROLE + token("a"))
        await fake.wait_for_leaving()

    gateway = await start(script)
    if when == "in the stream":
        response = await gateway.open(stream=True)
        await response.read()
        response.close()
    else:
        work = asyncio.create_task(gateway.ask(stream=True))
        while not gateway.fakes or not gateway.fakes[0].bodies:
            await asyncio.sleep(0.005)
        work.cancel()
    async with asyncio.timeout(1):
        await gateway.fakes[0].left.wait()
    record = await gateway.record()
    assert (record.status, record.error) == (499, "")
    assert (record.cost_usd or 0) > 0


async def test_who_may_not_come_in(start: Start) -> None:
    keys = (KeyView("ak_1", hash_secret(b"sk-good"), "user"),)
    gateway = await start(good, keys=keys)
    response, body = await gateway.ask()
    assert (response.status, error_of(body)["code"]) == (401, "invalid_api_key")
    assert response.header(b"www-authenticate") == b"Bearer"
    assert gateway.fakes[0].bodies == []
    response, _ = await gateway.ask((b"authorization", b"Bearer sk-good"), stream=True)
    assert response.status == 200
    # The stranger was counted, but wrote nothing into the log.
    assert (await gateway.record(1)).key == "ak_1"
    assert b"sk-good" not in gateway.fakes[0].heads[0]


async def test_requests_that_go_nowhere(start: Start) -> None:
    gateway = await start(good)
    cases: list[tuple[dict[str, Any], int, str]] = [
        ({"model": "x"}, 404, "model_not_found"),
        ({"model": ""}, 400, "invalid_request"),
        ({"stream": 5}, 400, "invalid_request"),
        ({"x": "x" * 100_000}, 413, "body_too_large"),
    ]
    for count, (fields, status, code) in enumerate(cases, 1):
        response, body = await gateway.ask(**fields)
        assert (response.status, error_of(body)["code"]) == (status, code)
        assert response.header(b"x-request-id").startswith(b"req-")
        record = await gateway.record(count)
        assert (record.status, record.error, record.replica) == (status, code, "")
    assert gateway.fakes[0].bodies == []


async def test_a_silent_replica(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aviary.gateway.exchange.SILENCE_MARGIN_S", 0.0)

    async def script(fake: Fake) -> None:
        fake.begin()
        fake.write(token("a"))
        await fake.wait_for_leaving()

    gateway = await start(script, wait_s=0.2, timeout_s=0.2)
    _, body = await gateway.ask(stream=True)
    assert error_of(body.split(b"\n\n")[1][6:])["code"] == "engine_timeout"
    assert (await gateway.record()).status == 504


async def test_a_slow_client_holds_the_replica_back(start: Start) -> None:
    written = 0

    async def script(fake: Fake) -> None:
        nonlocal written
        fake.begin()
        piece = token("x" * 60_000)
        for _ in range(800):  # 48 MB
            fake.write(piece)
            await fake.writer.drain()
            written += len(piece)
        fake.write(DONE)
        fake.end()

    gateway = await start(script)
    response = await gateway.open(stream=True)
    await asyncio.sleep(0.5)
    assert written < 24_000_000
    total = len(await response.read_all(1 << 30))
    response.close()
    assert total > 48_000_000
