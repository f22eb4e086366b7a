"""The client's timer runs only while there are connections; contracts are in test_upstream."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from aviary.wire import client as module
from aviary.wire.client import Client, Target, UpstreamSilent

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    """A server that answers every request but those for /silent."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readline():
            await reader.readuntil(b"\r\n\r\n")
            if b"/silent" not in head:
                writer.write(ANSWER)
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield Target(*listening.sockets[0].getsockname())
    listening.close()


def sweeps() -> int:
    """Timers of clients that wait in this event loop."""
    scheduled = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    return sum("_sweep" in repr(timer) and not timer.cancelled() for timer in scheduled)


async def test_an_idle_client_sets_no_timer(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SWEEP_S", 0.02)
    monkeypatch.setattr(module, "IDLE_KEEP_S", 0.05)
    client = Client()
    assert sweeps() == 0
    for _ in range(2):
        response = await client.request(target, "GET", "/")
        assert await response.read_all(9) == b"ok"
        response.close()
        assert sweeps() == 1
        await asyncio.sleep(0.2)  # the kept connection is closed
        assert sweeps() == 0
        with pytest.raises(UpstreamSilent):  # which the timer tells
            await client.request(target, "GET", "/silent", silence_s=0.1)
        await asyncio.sleep(0.1)
        assert sweeps() == 0
    response = await client.request(target, "GET", "/")
    await client.close()
    assert sweeps() == 0
