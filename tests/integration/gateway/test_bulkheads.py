"""What is slow, idle or hung stays alone: others do not feel it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import socket
import time
from collections.abc import Iterator

import psutil
import pytest
from running import Running, chat

IDLE, HALF, UNREAD = 1200, 300, 500

SPECS = {
    "quick": "engine: {kind: fake, tokens: 16, slots: 64}",
    "endless": "engine: {kind: fake, tokens: 2000, gap: 250ms, slots: 600}",
    "hung": (
        "engine: {kind: fake, tokens: 16, slots: 4, faults: [{kind: hang, at_token: 1}]}\n"
        "limits: {queue: 32, wait: 60s}"
    ),
    "narrow": (
        "engine: {kind: fake, tokens: 50, slots: 2, gap: 20ms}\nlimits: {queue: 4, wait: 60s}"
    ),
}


@pytest.fixture(scope="module")
def aviary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("specs")
    for name, text in SPECS.items():
        (folder / f"{name}.yaml").write_text(f"id: {name}\n{text}\n")
    with Running(tmp_path_factory.mktemp("h"), str(folder), "--workers", "2") as running:
        yield running


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def slowest_of(running: Running, model: str, requests: int) -> float:
    """Seconds of the slowest of so many requests, one after the other, each complete."""
    slowest = 0.0
    async with running.async_client() as client:
        for number in range(requests):
            began = time.monotonic()
            answer = await client.post("/v1/chat/completions", json=chat(model, str(number)))
            assert answer.status_code == 200, answer.text
            assert answer.json()["usage"]["completion_tokens"] == 16
            slowest = max(slowest, time.monotonic() - began)
    return slowest


def rss_mb(processes: list[psutil.Process]) -> float:
    return sum(process.memory_info().rss for process in processes) / 2**20


async def test_2000_idle_and_slow_connections(aviary: Running, many_files: None) -> None:
    host, port = aviary.url.removeprefix("http://").split(":")
    before = rss_mb(aviary.gateways())
    writers: list[asyncio.StreamWriter] = []

    async def connect(data: bytes) -> None:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
        reader, writer = await asyncio.open_connection(sock=sock, limit=2)
        reader._transport.pause_reading()  # type: ignore[attr-defined]  # read nothing, ever
        writers.append(writer)
        writer.write(data)

    body = json.dumps(chat("endless", "x", stream=True)).encode()
    ask = b"POST /v1/chat/completions HTTP/1.1\r\nhost: %s\r\ncontent-length: %d\r\n\r\n%s"
    request = ask % (host.encode(), len(body), body)
    try:
        for data, count in ((b"", IDLE), (b"GET /v1/mod", HALF), (request, UNREAD)):
            for start in range(0, count, 100):
                await asyncio.gather(*(connect(data) for _ in range(min(100, count - start))))
        deadline = time.monotonic() + 30
        while aviary.model("endless")["running"] < UNREAD:
            assert time.monotonic() < deadline, aviary.model("endless")["running"]
            await asyncio.sleep(0.2)
        assert await slowest_of(aviary, "quick", 30) < 2
        assert rss_mb(aviary.gateways()) - before < 400
    finally:
        for writer in writers:
            writer.transport.abort()
    deadline = time.monotonic() + 10
    while aviary.model("endless")["running"]:
        assert time.monotonic() < deadline, "clients that left still hold slots"
        await asyncio.sleep(0.2)
    assert await slowest_of(aviary, "quick", 10) < 2


async def test_a_hung_model_slows_no_other(aviary: Running) -> None:
    alone = await slowest_of(aviary, "quick", 20)
    async with aviary.async_client() as client:
        body = chat("hung", "x", stream=True)
        stuck = [
            asyncio.create_task(client.post("/v1/chat/completions", json=body)) for _ in range(60)
        ]
        await asyncio.sleep(1)
        hung = aviary.model("hung")
        assert (hung["running"], hung["waiting"]) == (4, 32)
        assert await slowest_of(aviary, "quick", 20) < alone + 1
        refused = [task.result() for task in stuck if task.done()]
        assert len(refused) == 24  # at once, rather than after a wait for nothing
        assert {answer.status_code for answer in refused} == {429}
        for task in stuck:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*stuck)


async def test_retry_after_is_true(aviary: Running) -> None:
    """Who comes back when told finds a place."""
    async with aviary.async_client() as client:
        body = chat("narrow", "x")
        asked = [
            asyncio.create_task(client.post("/v1/chat/completions", json=body)) for _ in range(7)
        ]
        done, waiting = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        [refused] = [task.result() for task in done]
        assert refused.status_code == 429
        pause_s = float(refused.headers["retry-after"])
        assert 0 < pause_s <= 5
        await asyncio.sleep(pause_s)
        again = await client.post("/v1/chat/completions", json=body)
        assert again.status_code == 200
        assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {200}


async def test_one_client_cannot_keep_out_another(aviary: Running) -> None:
    """Six requests of one key fill a model; one of another key does not wait for them all."""
    with aviary.client() as client:
        boss = client.post("/api/keys", json={"name": "boss", "role": "admin"}).json()
        admin = {"authorization": f"Bearer {boss['secret']}"}
        greedy, modest = (
            client.post("/api/keys", json={"name": name}, headers=admin).json()["secret"]
            for name in ("greedy", "modest")
        )
    async with aviary.async_client() as client:
        body = chat("narrow", "x")
        heads = [{"authorization": f"Bearer {secret}"} for secret in (greedy, modest)]
        order: list[str] = []

        async def ask(name: str, headers: dict[str, str]) -> int:
            answer = await client.post("/v1/chat/completions", json=body, headers=headers)
            order.append(name)
            return answer.status_code

        crowd = [asyncio.create_task(ask("greedy", heads[0])) for _ in range(5)]
        await asyncio.sleep(0.3)  # two run, three wait
        assert await ask("modest", heads[1]) == 200
        assert order.count("greedy") <= 3, order  # it overtook those that waited
        assert {await task for task in crowd} == {200}
