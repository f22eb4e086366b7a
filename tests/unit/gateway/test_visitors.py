"""Visitors in a worker: what of theirs is refused before it costs anything."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest
from scripted import Fake, Gateway, Start, error_of, good

from aviary.core.errors import BudgetExceeded
from aviary.core.states import KeyView
from aviary.gateway import app
from aviary.gateway.battles import AN_ADDRESS_PER_MINUTE, STOPS_AN_ADDRESS_PER_MINUTE, Battles
from aviary.gateway.exchange import GatewayState
from aviary.wire.asgi import ClientLeft
from aviary.wire.client import Target

NOWHERE = Target("127.0.0.1", 9)
KEYS = (KeyView("ak_someone", "00" * 32, "user"),)
JSON = (b"content-type", b"application/json")


def battle(**fields: Any) -> bytes:
    return json.dumps(
        {"models": [{"model": "m"}], "prompt": "hi", "session": "s"} | fields
    ).encode()


async def guarded(start: Start, control: Target = NOWHERE) -> Gateway:
    """A worker where keys are needed and visitors are welcome."""
    gateway = await start(good, keys=KEYS, control=control)
    table = gateway.state.table
    table.update(replace(table.snapshot, generation=2, visitors=True))
    return gateway


async def send(
    gateway: Gateway, path: str, body: bytes, *headers: tuple[bytes, bytes], method: str = "POST"
) -> tuple[int, bytes]:
    response = await gateway.state.client.request(gateway.target, method, path, headers, body)
    try:
        return response.status, await response.read_all(1 << 24)
    finally:
        response.close()


@pytest.mark.parametrize(
    "header", [(b"origin", b"https://evil.example"), (b"sec-fetch-site", b"cross-site")]
)
async def test_a_strangers_page(start: Start, header: tuple[bytes, bytes]) -> None:
    gateway = await guarded(start)
    for path in ("/api/battles", "/api/votes", "/api/choose"):
        status, answer = await send(gateway, path, battle(), JSON, header)
        assert (status, error_of(answer)["code"]) == (403, "forbidden")
    status, answer = await send(gateway, "/api/battles", battle(), JSON)
    assert (status, b'"end"' in answer) == (200, True)
    own = ((b"origin", b"http://127.0.0.1"), (b"sec-fetch-site", b"same-origin"))
    assert (await send(gateway, "/api/battles", battle(), JSON, *own))[0] == 200


async def test_what_any_page_can_post(start: Start) -> None:
    gateway = await guarded(start)
    for path in ("/api/battles", "/api/battles/b/retry", "/api/battles/b/columns/0/stop"):
        for kind in ([], [(b"content-type", b"text/plain")]):
            status, answer = await send(gateway, path, battle(), *kind)
            assert (status, "application/json" in error_of(answer)["message"]) == (400, True)
    good_kind = (b"content-type", b"Application/JSON; charset=utf-8")
    assert (await send(gateway, "/api/battles", battle(), good_kind))[0] == 200


async def test_large_bodies(start: Start) -> None:
    gateway = await guarded(start)
    gateway.state.max_body_bytes = 1 << 24
    for path, most in (("/api/battles", 262_144), ("/api/votes", 65_536), ("/api/choose", 65_536)):
        status, answer = await send(gateway, path, b" " * (most + 1), JSON)
        assert (status, error_of(answer)["code"]) == (413, "body_too_large")
        assert (await send(gateway, path, b" " * most, JSON))[0] in (400, 503)
    assert (await send(gateway, "/api/battles", battle(prompt="x" * 200_000), JSON))[0] == 200


async def test_an_address_counts_before_its_body_is_read(start: Start) -> None:
    battles = Battles(NOWHERE)
    gateway = await guarded(start)
    scope = {
        "client": ("203.0.113.7", 1),
        "headers": [JSON, (b"host", b"aviary.example")],
    }
    for path, most in (
        ("/api/battles", AN_ADDRESS_PER_MINUTE),
        ("/api/battles/b/columns/0/stop", STOPS_AN_ADDRESS_PER_MINUTE),
    ):
        serve = battles.find(path)
        assert serve is not None
        for _ in range(most):
            with pytest.raises(ClientLeft):
                await serve(gateway.state, scope, left, ignore)
        with pytest.raises(BudgetExceeded):
            await serve(gateway.state, scope, unread, ignore)
    retry = battles.find("/api/battles/b/retry")
    assert retry is not None
    with pytest.raises(BudgetExceeded):
        await retry(gateway.state, scope, unread, ignore)


async def hangs(fake: Fake) -> None:
    fake.begin()
    fake.write(b": \n\n")
    await fake.wait_for_leaving()


async def test_event_streams_are_bounded(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "VISITS_FROM_HERE_AT_ONCE", 2)
    control = Fake(hangs)
    await control.start()
    gateway = await guarded(start, Target("127.0.0.1", control.port))
    client, path = gateway.state.client, "/api/models/m/events"
    streams = [await client.request(gateway.target, "GET", path) for _ in range(2)]
    assert [stream.status for stream in streams] == [200, 200]
    status, answer = await send(gateway, path, b"", method="GET")
    assert (status, error_of(answer)["code"]) == (429, "budget_exceeded")
    streams.pop().close()
    async with asyncio.timeout(20):
        while True:
            again = await client.request(gateway.target, "GET", path)
            streams.append(again)
            if again.status == 200:
                break
            await asyncio.sleep(0.05)
    for stream in streams:
        stream.close()
    control.server.close()


def test_streams_are_counted_by_network() -> None:
    async def shutdown() -> None:
        pass

    async def startup() -> GatewayState:
        raise AssertionError("it is not started")

    worker = app.GatewayApp(startup, shutdown, NOWHERE)
    with contextlib.ExitStack() as held:
        for number in range(20):
            held.enter_context(worker._hold({"client": (f"2001:db8::{number:x}", 1)}))
        with pytest.raises(BudgetExceeded, match="More than 20 requests"):
            held.enter_context(worker._hold({"client": ("2001:db8::ffff", 1)}))
        held.enter_context(worker._hold({"client": ("203.0.113.7", 1)}))
        for _ in range(200):
            held.enter_context(worker._hold({"client": ("127.0.0.1", 1)}))
        with pytest.raises(BudgetExceeded, match="More than 200 requests"):
            held.enter_context(worker._hold({"client": None}))
    with worker._hold({"client": ("2001:db8::ffff", 1)}):
        pass


async def left() -> dict[str, Any]:
    return {"type": "http.disconnect"}


async def unread() -> dict[str, Any]:
    raise AssertionError("the body was read")


async def ignore(message: object) -> None:
    pass
