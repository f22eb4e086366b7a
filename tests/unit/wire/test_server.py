"""The server against raw sockets: broken and unusual HTTP."""

import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from time import monotonic
from typing import Any

import psutil
import pytest

from aviary.wire import server as wire
from aviary.wire.asgi import BODY_PIPE, ClientLeft, Leaving, read_body, send_bytes
from aviary.wire.server import BodyPipe, server


class App:
    """Echoes bodies; streams for ever under /stream; notes who left."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.left: list[str] = []
        self.gate = asyncio.Event()
        self.headers: list[list[tuple[bytes, bytes]]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while True:
                kind = (await receive())["type"].removeprefix("lifespan.")
                await send({"type": f"lifespan.{kind}.complete"})
                if kind == "shutdown":
                    return
        path = scope["path"]
        self.paths.append(path)
        self.headers.append(scope["headers"])
        if path == "/early":
            await send_bytes(send, 200, b"early")
            return
        if path == "/pour":
            await self._pour(scope, receive, send)
            return
        try:
            body = await read_body(receive, 10_000_000)
            if path == "/stream":
                await self._stream(receive, send)
            elif path == "/wait":
                await self.gate.wait()
            await send_bytes(send, 200, body or path.encode(), [(b"content-type", b"text/plain")])
        except ClientLeft:
            self.left.append(path)

    async def _pour(self, scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive, 10)
        pipe: BodyPipe = scope["extensions"][BODY_PIPE]
        leaving = Leaving(scope, receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while not self.gate.is_set():
                if not pipe.write(b"x" * 50_000):
                    await pipe.drained()
                await asyncio.sleep(0)  # a dead connection never says that it is full
        except asyncio.CancelledError:
            leaving.swallow()
            self.left.append("/pour")
            return
        leaving.stop()
        await send({"type": "http.response.body", "body": b"end"})

    async def _stream(self, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        left = asyncio.create_task(receive())
        while not left.done():
            await send({"type": "http.response.body", "body": b"tick\n", "more_body": True})
            await asyncio.sleep(0.01)
        raise ClientLeft


Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@pytest.fixture
async def app() -> App:
    return App()


async def serve(app: App) -> AsyncIterator[Connect]:
    listener = socket.create_server(("127.0.0.1", 0))
    serving = server(app, drain_s=1, handle_signals=False)
    task = asyncio.create_task(serving.serve(sockets=[listener]))
    writers: list[asyncio.StreamWriter] = []

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writers.append(writer)
        return reader, writer

    yield connect
    for writer in writers:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    serving.should_exit = True
    await task
    listener.close()


@pytest.fixture
async def connect(app: App) -> AsyncIterator[Connect]:
    async with contextlib.asynccontextmanager(serve)(app) as connect:
        yield connect


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    async with asyncio.timeout(3):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        body = await reader.readexactly(int(headers["content-length"]))
    return int(first.split()[1]), headers, body


async def assert_refused(reader: asyncio.StreamReader) -> None:
    """A 400 in OpenAI's shape, then the end of the connection."""
    status, headers, body = await read_answer(reader)
    assert status == 400
    assert headers["content-type"] == "application/json"
    assert headers["connection"] == "close"
    error = json.loads(body)["error"]
    assert error["code"] == "invalid_request"
    assert error["message"]
    async with asyncio.timeout(3):
        assert await reader.read() == b""


async def test_requests_on_one_connection(connect: Connect, app: App) -> None:
    reader, writer = await connect()
    for path in ("/a", "/b?x=%20", "/c%20d"):
        writer.write(b"GET " + path.encode() + b" HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await read_answer(reader))[0] == 200
    assert app.paths == ["/a", "/b", "/c d"]


@pytest.mark.parametrize("size", [60_000, 70_000])
@pytest.mark.parametrize("shape", ["many headers", "one header", "target"])
async def test_a_heads_size_is_bounded(connect: Connect, app: App, shape: str, size: int) -> None:
    line = b"x-%05d: " + b"x" * 90 + b"\r\n"
    if shape == "target":
        head = b"GET /?" + b"x" * size + b" HTTP/1.1\r\nhost: x\r\n\r\n"
    elif shape == "one header":
        head = b"GET / HTTP/1.1\r\nhost: x\r\nx-a: " + b"x" * size + b"\r\n\r\n"
    else:
        many = b"".join(line % number for number in range(size // 100))
        head = b"GET / HTTP/1.1\r\nhost: x\r\n" + many + b"\r\n"
    reader, writer = await connect()
    for begin in range(0, len(head), 6000):
        writer.write(head[begin : begin + 6000])
        await asyncio.sleep(0.002)
    if size < 65536:
        assert (await read_answer(reader))[0] == 200
    else:
        await assert_refused(reader)
        assert app.paths == []


@pytest.mark.parametrize(
    "endless",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\nx-a: ",
        b"GET / HTTP/1.1\r\nhost: x\r\nx",
        b"GET /",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\nGET / HTTP/1.1\r\nx-a: ",
    ],
)
async def test_a_head_without_an_end_is_refused(connect: Connect, app: App, endless: bytes) -> None:
    """llhttp hands a header over when it is complete: what is not complete must count, too."""
    reader, writer = await connect()
    writer.write(endless)
    if endless.startswith(b"POST"):
        assert (await read_answer(reader))[0] == 200
    for _ in range(12):
        writer.write(b"x" * 6000)
        await asyncio.sleep(0.005)
    await assert_refused(reader)


async def test_every_request_of_a_connection_has_a_head_of_its_own(connect: Connect) -> None:
    reader, writer = await connect()
    for _ in range(5):
        writer.write(b"GET / HTTP/1.1\r\nx-a: " + b"x" * 30_000 + b"\r\n\r\n")
        assert (await read_answer(reader))[0] == 200


@pytest.mark.parametrize(
    "broken",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET / HTTP/9.9\r\n\r\n",
        b"NONSENSE\r\n\r\n",
        b"GET /\xc3\xa9 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcX\r\n",
    ],
)
async def test_broken_http(connect: Connect, app: App, broken: bytes) -> None:
    reader, writer = await connect()
    writer.write(broken)
    await assert_refused(reader)


async def test_broken_chunking_ends_the_request_that_reads_it(connect: Connect, app: App) -> None:
    reader, writer = await connect()
    writer.write(b"POST /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
    await asyncio.sleep(0.05)
    assert app.paths == ["/a"]
    writer.write(b"zz\r\n")
    await assert_refused(reader)
    assert app.left == ["/a"]  # it does not wait for the rest for ever


async def test_broken_bytes_after_a_stream_began_cut_it(connect: Connect, app: App) -> None:
    reader, writer = await connect()
    writer.write(b"GET /stream HTTP/1.1\r\nhost: x\r\n\r\n")
    await reader.readuntil(b"tick")
    writer.write(b"\x00\x01\x02\r\n\r\n")
    async with asyncio.timeout(3):
        rest = await reader.read()
        while app.left != ["/stream"]:
            await asyncio.sleep(0.01)
    assert b"HTTP/1.1" not in rest  # no second head in the middle of a body
    assert not rest.endswith(b"0\r\n\r\n")  # and no end that looks right


async def test_chunked_bodies(connect: Connect) -> None:
    reader, writer = await connect()
    for _ in range(2):
        writer.write(b"POST /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await asyncio.sleep(0.01)
        writer.write(b"4;x=y\r\ndefg\r\n0\r\nx-trailer: 1\r\n\r\n")
        assert (await read_answer(reader))[2] == b"abcdefg"


async def test_expect_continue(connect: Connect) -> None:
    reader, writer = await connect()
    writer.write(b"POST /a HTTP/1.1\r\ncontent-length: 3\r\nexpect: 100-continue\r\n\r\n")
    async with asyncio.timeout(3):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"abc")
    assert (await read_answer(reader))[2] == b"abc"


async def test_an_offered_upgrade_is_declined(connect: Connect) -> None:
    """Java's client offers HTTP/2 on every request."""
    reader, writer = await connect()
    writer.write(
        b"POST /a HTTP/1.1\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n"
        b"http2-settings: AAEAAEAAAAIAAAAB\r\ncontent-length: 3\r\n\r\n"
    )
    await asyncio.sleep(0.02)
    writer.write(b"abc")
    assert (await read_answer(reader))[2] == b"abc"


async def test_head_requests(connect: Connect) -> None:
    reader, writer = await connect()
    writer.write(b"HEAD /abc HTTP/1.1\r\n\r\nGET /def HTTP/1.1\r\n\r\n")
    async with asyncio.timeout(3):
        assert b"content-length: 4" in await reader.readuntil(b"\r\n\r\n")
    assert (await read_answer(reader))[2] == b"/def"


async def test_pipelined_requests_are_answered_in_order(connect: Connect, app: App) -> None:
    reader, writer = await connect()
    one = b"POST /%d HTTP/1.1\r\ncontent-length: 5\r\n\r\nbody%d"
    writer.write(b"GET /wait HTTP/1.1\r\n\r\n" + b"".join(one % (n, n) for n in range(3)))
    await asyncio.sleep(0.05)
    assert app.paths == ["/wait"]
    app.gate.set()
    answers = [(await read_answer(reader))[2] for _ in range(4)]
    assert answers == [b"/wait", b"body0", b"body1", b"body2"]


@pytest.mark.parametrize("late", [True, False])
async def test_leaving_is_noticed_behind_a_pipelined_request(
    connect: Connect, app: App, late: bool
) -> None:
    reader, writer = await connect()
    first, second = b"GET /stream HTTP/1.1\r\n\r\n", b"GET /second HTTP/1.1\r\n\r\n"
    if late:
        writer.write(first)
        await reader.readuntil(b"tick")
        writer.write(second)
    else:
        writer.write(first + second)
        await reader.readuntil(b"tick")
    await asyncio.sleep(0.05)
    writer.transport.abort()
    async with asyncio.timeout(2):
        while app.left != ["/stream"]:
            await asyncio.sleep(0.01)
    assert app.paths == ["/stream"]


async def test_leaving_is_noticed_within_a_body(connect: Connect, app: App) -> None:
    _, writer = await connect()
    writer.write(b"POST /a HTTP/1.1\r\ncontent-length: 9\r\n\r\nabc")
    await asyncio.sleep(0.05)
    writer.transport.abort()
    async with asyncio.timeout(2):
        while app.left != ["/a"]:
            await asyncio.sleep(0.01)


async def test_bodies_may_speak_of_upgrades(connect: Connect) -> None:
    body = b"\r\nupgrade: h2c\r\n\r\nupgrade: x\r\n"
    head = b"POST /a HTTP/1.1\r\nUpgrade: h2c\r\nconnection: upgrade\r\ncontent-length: %d\r\n\r\n"
    reader, writer = await connect()
    for pieces in ([head % len(body) + body], [head % len(body), body[:20], body[20:]]):
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.01)
        assert (await read_answer(reader))[2] == body


CHUNKED = b"POST /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"


@pytest.mark.parametrize("pieces", ["one", "two", "many"])
async def test_trailers_are_dropped(connect: Connect, app: App, pieces: str) -> None:
    reader, writer = await connect()
    data = CHUNKED + b"0\r\nx-trailer: 1\r\nexpect: 100-continue\r\n\r\n"
    size = {"one": len(data), "two": len(CHUNKED), "many": 7}[pieces]
    for _ in range(2):
        for begin in range(0, len(data), size):
            writer.write(data[begin : begin + size])
            await asyncio.sleep(0.005)
        assert (await read_answer(reader))[2] == b"abc"
    assert app.headers == [[(b"transfer-encoding", b"chunked")]] * 2


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"0\r\n", b"a: " + b"x" * 995 + b"\r\n"),
        (b"0\r\n", b"x" * 1000),
        (b"0\r\na:", b"x" * 1000),
        (b"3;x=", b"x" * 1000),
    ],
    ids=["lines", "name", "value", "chunk extension"],
)
async def test_trailers_are_bounded(connect: Connect, app: App, begin: bytes, more: bytes) -> None:
    reader, writer = await connect()
    writer.write(CHUNKED)
    await asyncio.sleep(0.02)
    writer.write(begin)
    sent = 0
    while sent < 200_000 and not reader._buffer:  # type: ignore[attr-defined]
        writer.write(more)
        sent += 1000
        await asyncio.sleep(0.004)
    assert 60_000 < sent < 72_000
    await assert_refused(reader)
    assert app.headers == [[(b"transfer-encoding", b"chunked")]]
    assert app.left == ["/a"]


async def test_many_trailers_at_once(connect: Connect, app: App) -> None:
    reader, writer = await connect()
    writer.write(CHUNKED + b"0\r\n" + b"a: b\r\n" * 20_000 + b"\r\n")
    await assert_refused(reader)
    assert all(headers == [(b"transfer-encoding", b"chunked")] for headers in app.headers)


async def test_trailers_after_the_answer_get_no_second_one(connect: Connect) -> None:
    reader, writer = await connect()
    writer.write(CHUNKED.replace(b"/a", b"/early"))
    assert (await read_answer(reader))[2] == b"early"
    writer.write(b"0\r\n" + b"a: b\r\n" * 20_000)
    async with asyncio.timeout(3):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""


async def test_large_chunked_bodies_are_no_trailers(connect: Connect) -> None:
    reader, writer = await connect()
    body = b"x" * 3_000_000
    writer.write(CHUNKED + b"%x\r\n%b\r\n" % (len(body), body))
    writer.write(b"1\r\ny\r\n" * 50_000 + b"0\r\n\r\n")
    assert len((await read_answer(reader))[2]) == 3_050_003


async def closes_after(reader: asyncio.StreamReader, begun: float) -> float:
    async with asyncio.timeout(3):
        assert await reader.read() == b""
    return monotonic() - begun


@pytest.mark.parametrize("drip", [b"GET / HTTP/1.1\r\nx-a: b", b"GET /", b"\r\n", b"GET"])
@pytest.mark.parametrize("after_a_request", [False, True])
async def test_slow_heads(
    monkeypatch: pytest.MonkeyPatch, connect: Connect, drip: bytes, after_a_request: bool
) -> None:
    monkeypatch.setattr(wire, "HEAD_DEADLINE_S", 0.3)
    reader, writer = await connect()
    if after_a_request:
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await read_answer(reader)
        await asyncio.sleep(0.4)  # idle is not slow
    begun = monotonic()
    writer.write(drip)
    closing = asyncio.create_task(closes_after(reader, begun))
    while not closing.done() and monotonic() - begun < 2:
        await asyncio.sleep(0.05)
        writer.write(b"\r\n" if drip == b"\r\n" else b"" if drip == b"GET" else b"x")
    assert 0.25 < await closing < 1


async def test_a_head_in_pieces_within_its_time(
    monkeypatch: pytest.MonkeyPatch, connect: Connect
) -> None:
    monkeypatch.setattr(wire, "HEAD_DEADLINE_S", 0.3)
    reader, writer = await connect()
    for _ in range(3):
        for piece in (b"GET /", b" HTTP/1.1\r\nhost: x", b"\r\n\r\n"):
            writer.write(piece)
            await asyncio.sleep(0.1)
        assert (await read_answer(reader))[0] == 200
    await asyncio.sleep(0.4)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    assert (await read_answer(reader))[0] == 200


async def test_a_late_head_does_not_cut_the_answer_before_it(
    monkeypatch: pytest.MonkeyPatch, connect: Connect, app: App
) -> None:
    monkeypatch.setattr(wire, "HEAD_DEADLINE_S", 0.2)
    reader, writer = await connect()
    writer.write(b"GET /wait HTTP/1.1\r\n\r\nGET / HT")
    await asyncio.sleep(0.5)
    app.gate.set()
    assert (await read_answer(reader))[2] == b"/wait"
    writer.write(b"TP/1.1\r\n\r\nGET /")
    assert (await read_answer(reader))[2] == b"/"
    assert await closes_after(reader, monotonic()) < 1


async def test_connections_that_never_send_anything(
    monkeypatch: pytest.MonkeyPatch, app: App
) -> None:
    monkeypatch.setattr(wire, "KEEP_ALIVE_S", 0.3)
    async with contextlib.asynccontextmanager(serve)(app) as connect:
        silent, _ = await connect()
        begun = monotonic()
        reader, writer = await connect()
        writer.write(b"GET /wait HTTP/1.1\r\n\r\n")
        assert 0.25 < await closes_after(silent, begun) < 1
        await asyncio.sleep(0.2)
        app.gate.set()
        assert (await read_answer(reader))[0] == 200


async def test_a_client_that_stops_reading_has_left(
    monkeypatch: pytest.MonkeyPatch, connect: Connect, app: App
) -> None:
    monkeypatch.setattr(wire, "CLIENT_STALL_S", 0.4)
    reader, writer = await connect()
    writer.write(b"GET /pour HTTP/1.1\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    begun = monotonic()
    async with asyncio.timeout(3):
        while app.left != ["/pour"]:
            await asyncio.sleep(0.01)
    assert monotonic() - begun > 0.3


async def test_a_client_that_reads_slowly_stays(
    monkeypatch: pytest.MonkeyPatch, connect: Connect, app: App
) -> None:
    monkeypatch.setattr(wire, "CLIENT_STALL_S", 0.4)
    reader, writer = await connect()
    writer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    writer.write(b"GET /pour HTTP/1.1\r\n\r\n")
    for _ in range(25):
        await reader.read(60_000)
        await asyncio.sleep(0.05)
    assert app.left == []


async def test_a_client_that_reads_again_in_time_stays(
    monkeypatch: pytest.MonkeyPatch, connect: Connect, app: App
) -> None:
    monkeypatch.setattr(wire, "CLIENT_STALL_S", 0.6)
    reader, writer = await connect()
    writer.write(b"GET /pour HTTP/1.1\r\n\r\n")
    for _ in range(3):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(0.4)
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(200):
            await reader.read(1 << 20)
    assert app.left == []


@pytest.mark.parametrize("early", [True, False])
async def test_the_end_comes_at_once_when_it_is_asked_for(app: App, early: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = server(app, drain_s=1, handle_signals=False)
        task = asyncio.create_task(serving.serve(sockets=[listener]))
        while not early and not serving.started:
            await asyncio.sleep(0.001)
        serving.should_exit = True
        async with asyncio.timeout(0.5):
            await task


SLEEPER = """
import os, socket, sys
from aviary.wire.server import run_server

async def app(scope, receive, send):
    while (message := await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
        print("up", flush=True)
    await send({"type": "lifespan.shutdown.complete"})

run_server(app, socket.create_server(("127.0.0.1", 0)), drain_s=1)
print("down", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_idle_server_rests_and_hears_signals(number: signal.Signals) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SLEEPER, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"up\n"
    await asyncio.sleep(0.2)
    before = psutil.Process(process.pid).num_ctx_switches().voluntary
    await asyncio.sleep(1.0)
    assert psutil.Process(process.pid).num_ctx_switches().voluntary - before < 5
    process.send_signal(number)
    async with asyncio.timeout(3):
        await process.wait()
