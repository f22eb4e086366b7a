"""The wire client against real servers: what a gateway and an engine rely on."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from time import monotonic

import pytest

from aviary.wire import client as wire
from aviary.wire.client import (
    Client,
    ConnectFailed,
    Response,
    Target,
    UpstreamLost,
    UpstreamSilent,
    WireError,
)

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

Answer = Callable[["Connection", bytes, bytes], Awaitable[None]]


class Connection:
    """One accepted connection of the scripted server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.requests = 0

    async def send(self, *parts: bytes, gap: float = 0.0) -> None:
        for index, part in enumerate(parts):
            if index:
                await asyncio.sleep(gap)
            self.writer.write(part)
            await self.writer.drain()

    async def request(self) -> tuple[bytes, bytes]:
        """Head and body of the next request."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        size = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                size = int(line.split(b":")[1])
        return head, await self.reader.readexactly(size)


class Upstream:
    """A real server whose every answer is a piece of the test."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.connections: list[Connection] = []
        self.closed = asyncio.Queue[Connection]()
        self.seen: list[tuple[bytes, bytes]] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.target = Target()

    async def start(self, path: Path | None = None) -> None:
        if path is not None:
            self.server = await asyncio.start_unix_server(self._accept, str(path))
            self.target = Target(path=str(path))
            return
        self.server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=512)
        self.target = Target("127.0.0.1", self.server.sockets[0].getsockname()[1])

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(Connection(reader, writer)))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _serve(self, connection: Connection) -> None:
        self.connections.append(connection)
        try:
            while True:
                head, body = await connection.request()
                self.seen.append((head, body))
                connection.requests += 1
                await self.answer(connection, head, body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.closed.put_nowait(connection)
            connection.writer.close()
            with contextlib.suppress(Exception):
                await connection.writer.wait_closed()

    async def stop(self) -> None:
        self.server.close()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


Start = Callable[..., Awaitable[Upstream]]


@pytest.fixture
async def serve() -> AsyncIterator[Start]:
    started: list[Upstream] = []

    async def start(answer: Answer, path: Path | None = None) -> Upstream:
        upstream = Upstream(answer)
        await upstream.start(path)
        started.append(upstream)
        return upstream

    yield start
    for upstream in started:
        await upstream.stop()


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    client = Client()
    yield client
    await client.close()
    await asyncio.sleep(0)
    assert not client._all  # every connection that was made is gone


async def ok(connection: Connection, head: bytes, body: bytes) -> None:
    await connection.send(OK)


async def ask(client: Client, target: Target, **options: float) -> bytes:
    response = await client.request(target, "POST", "/", body=b"{}", **options)
    try:
        return await response.read_all(1 << 30)
    finally:
        response.close()


def idle(client: Client) -> int:
    return sum(len(connections) for connections in client._idle.values())


async def test_what_is_sent(serve: Start, client: Client) -> None:
    upstream = await serve(ok)
    headers = [(b"x-a", b"1"), (b"authorization", b"Bearer x")]
    response = await client.request(upstream.target, "POST", "/v1/x?y=1", headers, b'{"a": 1}')
    response.close()
    head, body = upstream.seen[0]
    assert head.startswith(b"POST /v1/x?y=1 HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 8\r\n")
    assert b"\r\nx-a: 1\r\nauthorization: Bearer x\r\n" in head
    assert body == b'{"a": 1}'
    response = await client.request(upstream.target, "GET", "/")
    response.close()
    assert b"content-length" not in upstream.seen[1][0]


async def test_status_and_headers(serve: Start, client: Client) -> None:
    async def answer(connection: Connection, head: bytes, body: bytes) -> None:
        await connection.send(
            b"HTTP/1.1 429 Too Many\r\nX-Aviary-Load: 1,2,3\r\nRetry-After: 7\r\n"
            b"Set-Cookie: a\r\nset-cookie: b\r\nContent-Length: 0\r\n\r\n"
        )

    upstream = await serve(answer)
    response = await client.request(upstream.target, "POST", "/")
    assert response.status == 429
    assert response.header(b"x-aviary-load") == b"1,2,3"
    assert response.header(b"retry-after") == b"7"
    assert response.header(b"absent") == b""
    assert [value for name, value in response.headers if name == b"set-cookie"] == [b"a", b"b"]
    assert await response.read() == b""
    response.close()


async def test_connections_are_reused(serve: Start, client: Client) -> None:
    upstream = await serve(ok)
    for _ in range(1000):
        assert await ask(client, upstream.target) == b"ok"
    assert len(upstream.connections) == 1
    assert idle(client) == len(client._all) == 1


async def test_many_at_once_leak_nothing(serve: Start, client: Client) -> None:
    async def answer(connection: Connection, head: bytes, body: bytes) -> None:
        await asyncio.sleep(0.01)
        await connection.send(OK)

    upstream = await serve(answer)
    for _ in range(3):
        answers = await asyncio.gather(*(ask(client, upstream.target) for _ in range(200)))
        assert answers == [b"ok"] * 200
    assert len(upstream.connections) <= 200
    assert idle(client) == len(client._all) <= 200


async def test_old_idle_connections_are_closed(
    serve: Start, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "IDLE_KEEP_S", 0.2)
    upstream = await serve(ok)
    await ask(client, upstream.target)
    async with asyncio.timeout(3):
        await upstream.closed.get()
    await asyncio.sleep(0)
    assert not client._all
    assert not client._idle


async def test_a_server_that_says_close_is_believed(serve: Start, client: Client) -> None:
    async def answer(connection: Connection, head: bytes, body: bytes) -> None:
        await connection.send(OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))

    upstream = await serve(answer)
    for _ in range(3):
        assert await ask(client, upstream.target) == b"ok"
    assert len(upstream.connections) == 3


async def test_a_stale_connection_is_replaced_once(serve: Start, client: Client) -> None:
    """The server closes the kept connection in the very moment the next request comes."""

    async def answer(connection: Connection, head: bytes, body: bytes) -> None:
        if connection.requests == 1:
            await connection.send(OK)
        else:
            raise ConnectionError

    upstream = await serve(answer)
    assert await ask(client, upstream.target) == b"ok"
    assert await ask(client, upstream.target) == b"ok"
    assert [connection.requests for connection in upstream.connections] == [2, 1]


async def test_a_fresh_connection_that_breaks_is_not_retried(serve: Start, client: Client) -> None:
    async def answer(connection: Connection, head: bytes, body: bytes) -> None:
        raise ConnectionError

    upstream = await serve(answer)
    with pytest.raises(UpstreamLost) as caught:
        await ask(client, upstream.target)
    assert caught.value.sent
    assert len(upstream.seen) == 1
    assert not client._all


async def test_nothing_is_sent_twice_once_bytes_came(serve: Start, client: Client) -> None:
    async def answer(connection: Connection, head: bytes, body: bytes) -> None:
        if connection.requests == 1:
            await connection.send(OK)
        else:
            await connection.send(b"HTTP/1.1 200")
            raise ConnectionError

    upstream = await serve(answer)
    await ask(client, upstream.target)
    with pytest.raises(UpstreamLost) as caught:
        await ask(client, upstream.target)
    assert caught.value.sent
    assert len(upstream.seen) == 2


async def test_a_killed_upstream_is_not_mistaken_for_a_refused_connection(
    serve: Start, client: Client
) -> None:
    """It had the request on a kept connection: whoever tries again must know that."""
    upstream: Upstream

    async def answer(connection: Connection, head: bytes, body: bytes) -> None:
        if connection.requests == 1:
            await connection.send(OK)
        else:
            upstream.server.close()
            raise ConnectionError

    upstream = await serve(answer)
    await ask(client, upstream.target)
    with pytest.raises(UpstreamLost) as caught:
        await ask(client, upstream.target)
    assert caught.value.sent


async def test_connect_refused(serve: Start, client: Client, tmp_path: Path) -> None:
    upstream = await serve(ok)
    await upstream.stop()
    for target in (upstream.target, Target(path=str(tmp_path / "no.sock"))):
        with pytest.raises(ConnectFailed, match="cannot connect") as caught:
            await ask(client, target)
        assert not caught.value.sent


async def test_connect_has_a_deadline(tmp_path: Path) -> None:
    """A full backlog makes connects hang."""
    import socket

    client = Client(connect_timeout_s=0.2)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        fillers = []
        for _ in range(8):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(address)
            fillers.append(filler)
        began = monotonic()
        with pytest.raises(ConnectFailed, match="in time"):
            await ask(client, Target(*address))
        assert monotonic() - began < 2
        for filler in fillers:
            filler.close()
    await client.close()


async def test_an_upstream_that_accepts_and_closes_leaks_nothing(client: Client) -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    target = Target("127.0.0.1", server.sockets[0].getsockname()[1])
    for _ in range(50):
        with pytest.raises(WireError):
            await ask(client, target)
    server.close()
    await asyncio.sleep(0.01)
    assert not client._all


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\n12345",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n",
    ],
)
@pytest.mark.parametrize("how", ["close", "abort"])
async def test_cut_anywhere(serve: Start, client: Client, sent: bytes, how: str) -> None:
    async def answer(connection: Connection, head: bytes, body: bytes) -> None:
        await connection.send(sent)
        await asyncio.sleep(0.02)
        if how == "abort":
            connection.writer.transport.abort()
        raise ConnectionError

    upstream = await serve(answer)
    with pytest.raises(UpstreamLost) as caught:
        await ask(client, upstream.target)
    assert caught.value.sent
    assert len(upstream.seen) == 1
    assert not client._all


async def test_what_came_before_the_cut_is_read_first(serve: Start, client: Client) -> None:
    async def answer(connection: Connection, head: bytes, body: bytes) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345")
        raise ConnectionError

    upstream = await serve(answer)
    response = await client.request(upstream.target, "POST", "/")
    await asyncio.sleep(0.05)
    assert await response.read() == b"12345"
    for _ in range(2):
        with pytest.raises(UpstreamLost):
            await response.read()
    response.close()


@pytest.mark.parametrize(
    "before", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n", OK[:-1], OK[:20]]
)
async def test_silence(serve: Start, client: Client, before: bytes) -> None:
    async def answer(connection: Connection, head: bytes, body: bytes) -> None:
        await connection.send(before)
        await connection.reader.read()
        raise ConnectionError

    upstream = await serve(answer)
    began = monotonic()
    with pytest.raises(UpstreamSilent, match=r"0\.3 s") as caught:
        await ask(client, upstream.target, silence_s=0.3)
    assert caught.value.sent
    assert 0.3 <= monotonic() - began < 2
    async with asyncio.timeout(2):
        await upstream.closed.get()  # it was cut off, which cancels what it does


async def test_a_slow_stream_is_not_silent(serve: Start, client: Client) -> None:
    async def answer(connection: Connection, head: bytes, body: bytes) -> None:
        await connection.send(
            b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n", *[b"x"] * 8, gap=0.25
        )

    upstream = await serve(answer)
    assert await ask(client, upstream.target, silence_s=0.9) == b"x" * 8


async def test_idle_connections_do_not_count_as_silent(serve: Start, client: Client) -> None:
    upstream = await serve(ok)
    await ask(client, upstream.target, silence_s=0.2)
    await asyncio.sleep(1.2)
    await ask(client, upstream.target, silence_s=0.2)
    assert len(upstream.connections) == 1


@pytest.mark.parametrize("chunked", [True, False])
async def test_backpressure(serve: Start, client: Client, chunked: bool) -> None:
    """50 MB for a reader who takes none: memory stays bounded, the upstream has to wait."""
    size = 50 * 1024 * 1024
    piece = b"x" * 65536
    written = 0

    async def answer(connection: Connection, head: bytes, body: bytes) -> None:
        nonlocal written
        kind = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % size
        await connection.send(b"HTTP/1.1 200 OK\r\n" + kind + b"\r\n\r\n")
        while written < size:
            data = b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
            await connection.send(data)
            written += len(piece)
        if chunked:
            await connection.send(b"0\r\n\r\n")

    upstream = await serve(answer)
    response = await client.request(upstream.target, "POST", "/", silence_s=0.4)
    await asyncio.sleep(1.2)  # longer than the silence limit: the silence is ours
    # What is counted is what came, HTTP's own bytes included.
    assert 0 <= response.unread - sum(map(len, response.pieces)) < 1024
    assert wire.HIGH_WATER_BYTES < response.unread < wire.HIGH_WATER_BYTES + 1024 * 1024
    assert written < size // 2
    total = most = 0
    while data := await response.read():
        total += len(data)
        assert response.unread == 0
        most = max(most, len(data))
    assert total == size
    assert most < wire.HIGH_WATER_BYTES + 1024 * 1024
    response.close()
    assert idle(client) == 1


async def test_closing_midway_cuts_the_connection(serve: Start, client: Client) -> None:
    async def answer(connection: Connection, head: bytes, body: bytes) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n")
        assert await connection.reader.read() == b""
        raise ConnectionError

    upstream = await serve(answer)
    response = await client.request(upstream.target, "POST", "/")
    assert await response.read() == b"x"
    response.close()
    async with asyncio.timeout(1):
        await upstream.closed.get()
    assert not idle(client)


@pytest.mark.parametrize("at", ["head", "body"])
async def test_cancelling_cuts_the_connection(serve: Start, client: Client, at: str) -> None:
    arrived = asyncio.Event()

    async def answer(connection: Connection, head: bytes, body: bytes) -> None:
        if at == "body":
            await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no")
        arrived.set()
        await connection.reader.read()
        raise ConnectionError

    upstream = await serve(answer)
    work = asyncio.create_task(ask(client, upstream.target))
    await arrived.wait()
    await asyncio.sleep(0.02)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    async with asyncio.timeout(1):
        await upstream.closed.get()
    assert not idle(client)
    assert not client._all


async def test_closing_twice_leaves_the_next_request_alone(serve: Start, client: Client) -> None:
    async def answer(connection: Connection, head: bytes, body: bytes) -> None:
        await asyncio.sleep(0.05)
        await connection.send(OK)

    upstream = await serve(answer)
    first = await client.request(upstream.target, "POST", "/")
    assert await first.read() == b"ok"
    first.close()
    second = asyncio.create_task(ask(client, upstream.target))
    await asyncio.sleep(0.02)
    first.close()
    assert await first.read() == b""
    assert await second == b"ok"
    assert len(upstream.connections) == 1


async def test_unix_sockets(serve: Start, client: Client, tmp_path: Path) -> None:
    upstream = await serve(ok, tmp_path / "s")
    for _ in range(3):
        assert await ask(client, upstream.target) == b"ok"
    assert len(upstream.connections) == 1
    assert b"host: localhost\r\n" in upstream.seen[0][0]
    assert str(upstream.target) == str(tmp_path / "s")


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n12\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
    ],
)
async def test_broken_http(serve: Start, client: Client, answer: bytes) -> None:
    async def send(connection: Connection, head: bytes, body: bytes) -> None:
        await connection.send(answer)
        await connection.reader.read()
        raise ConnectionError

    upstream = await serve(send)
    async with asyncio.timeout(3):
        with pytest.raises(UpstreamLost, match="broke HTTP") as caught:
            await ask(client, upstream.target)
        assert caught.value.sent
        await upstream.closed.get()
    assert not idle(client)


@pytest.mark.parametrize(
    "extra", [b"x", b"HTTP/1.1 500 No\r\nx-b: 1\r\ncontent-length: 3\r\n\r\nbad"]
)
@pytest.mark.parametrize("together", [True, False])
async def test_bytes_nobody_asked_for(
    serve: Start, client: Client, extra: bytes, together: bool
) -> None:
    """They never become part of an answer, and that connection is not used again."""

    async def answer(connection: Connection, head: bytes, body: bytes) -> None:
        await connection.send(*([OK + extra] if together else [OK, extra]), gap=0.02)

    upstream = await serve(answer)
    for _ in range(2):
        response = await client.request(upstream.target, "POST", "/")
        assert response.status == 200
        assert await response.read_all(100) == b"ok"
        assert response.header(b"x-b") == b""
        response.close()
        await asyncio.sleep(0.06)
    assert len(upstream.connections) == 2


@pytest.mark.parametrize(
    "parts",
    [
        [b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nhello world"],
        [b"HTTP/1.1 200 OK\r\ncontent-len", b"gth: 11\r\n\r", b"\nhello", b" world"],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"5\r\nhel", b"lo\r\n",
         b"6;ext=1\r\n world\r\n0\r\n", b"x-trailer: 1\r\n\r\n"],
    ],
)  # fmt: skip
async def test_bodies_in_any_pieces(serve: Start, client: Client, parts: list[bytes]) -> None:
    async def answer(connection: Connection, head: bytes, body: bytes) -> None:
        await connection.send(*parts, gap=0.01)

    upstream = await serve(answer)
    for _ in range(2):
        assert await ask(client, upstream.target) == b"hello world"
    assert len(upstream.connections) == 1


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_answers_without_a_body(serve: Start, client: Client, status: bytes) -> None:
    async def answer(connection: Connection, head: bytes, body: bytes) -> None:
        await connection.send(b"HTTP/1.1 " + status + b"\r\netag: x\r\n\r\n")

    upstream = await serve(answer)
    async with asyncio.timeout(2):
        for _ in range(2):
            assert await ask(client, upstream.target) == b""
    assert len(upstream.connections) == 1


async def test_head_answers_have_no_body(serve: Start, client: Client) -> None:
    async def answer(connection: Connection, head: bytes, body: bytes) -> None:
        await connection.send(OK.removesuffix(b"ok") if head.startswith(b"HEAD") else OK)

    upstream = await serve(answer)
    async with asyncio.timeout(2):
        response = await client.request(upstream.target, "HEAD", "/")
        assert response.header(b"content-length") == b"2"
        assert await response.read() == b""
        response.close()
        assert await ask(client, upstream.target) == b"ok"


async def test_large_request_bodies(serve: Start, client: Client) -> None:
    upstream = await serve(ok)
    body = bytes(range(256)) * 65536  # 16 MB
    response = await client.request(upstream.target, "POST", "/", body=body)
    response.close()
    assert upstream.seen[0][1] == body


async def test_answers_larger_than_the_limit(serve: Start, client: Client) -> None:
    async def answer(connection: Connection, head: bytes, body: bytes) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n" + b"x" * 100)

    upstream = await serve(answer)
    response = await client.request(upstream.target, "POST", "/")
    with pytest.raises(UpstreamLost, match="larger than 99 bytes"):
        await response.read_all(99)
    response.close()


async def test_closing_the_client_ends_running_requests(serve: Start) -> None:
    async def answer(connection: Connection, head: bytes, body: bytes) -> None:
        await connection.reader.read()
        raise ConnectionError

    upstream = await serve(answer)
    client = Client()
    work = asyncio.create_task(ask(client, upstream.target))
    while not upstream.seen:
        await asyncio.sleep(0.01)
    await client.close()
    async with asyncio.timeout(1):
        with pytest.raises(UpstreamLost):
            await work
    assert not client._all


async def test_a_dropped_client_leaves_no_responses_behind(serve: Start, client: Client) -> None:
    upstream = await serve(ok)
    for _ in range(20):
        await ask(client, upstream.target)
    gc.collect()
    assert sum(isinstance(thing, Response) for thing in gc.get_objects()) == 0


@pytest.mark.parametrize("at", ["first", "later", "after a full sink"])
async def test_a_sink_that_raises_fails_its_response_only(
    serve: Start, client: Client, at: str
) -> None:
    async def endless(connection: Connection, head: bytes, body: bytes) -> None:
        if body == b"{}":
            await connection.send(OK)
            return
        await connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            await connection.send(b"1\r\nx\r\n")
            await asyncio.sleep(0.01)

    upstream = await serve(endless)
    loose: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: loose.append(context))
    response = await client.request(upstream.target, "POST", "/", body=b"endless")
    if at == "first":
        await asyncio.sleep(0.05)  # something is there already
    cause = ValueError("the sink is broken")
    calls = 0

    def sink(data: bytes) -> bool:
        nonlocal calls
        calls += 1
        if at == "first" or calls > 2:
            raise cause
        return at != "after a full sink"

    async with asyncio.timeout(3):
        with pytest.raises(UpstreamLost) as caught:
            await response.pump(sink, lambda: asyncio.sleep(0.03))
        response.close()
        assert caught.value.__cause__ is cause
        assert caught.value.sent
        await upstream.closed.get()  # the upstream learns of it
    assert await ask(client, upstream.target) == b"ok"
    assert loose == []
