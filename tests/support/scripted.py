"""A gateway worker over small scripted replicas, for tests of the hot path."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from aviary.auth.keys import KeyRing
from aviary.core.ports import RequestRecord
from aviary.core.states import KeyView, ModelView, ReplicaState, ReplicaView, Snapshot
from aviary.gateway.app import GatewayApp
from aviary.gateway.exchange import GatewayState
from aviary.routing.table import Table
from aviary.wire.client import Client, Response, Target
from aviary.wire.server import server

CHAT = "/v1/chat/completions"
ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"


def token(text: str) -> bytes:
    return b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % text.encode()


def error_of(body: bytes) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(body)["error"]
    return error


Script = Callable[["Fake"], Awaitable[None]]


class Fake:
    """A replica: a real server that answers each request by a piece of the test, one at a time."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.left = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self.server.sockets[0].getsockname()[1]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
                size = int(length or b"0")
                self.bodies.append(await reader.readexactly(size))
                self.heads.append(head)
                self.reader, self.writer = reader, writer
                await self.script(self)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.left.set()
            writer.close()

    def write(self, data: bytes) -> None:
        self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))

    def begin(self, kind: bytes = b"text/event-stream", load: bytes = b"1,0,4") -> None:
        self.writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: " + kind + b"\r\nx-aviary-load: " + load
            + b"\r\ntransfer-encoding: chunked\r\n\r\n"
        )  # fmt: skip

    def end(self) -> None:
        self.writer.write(b"0\r\n\r\n")

    async def stream(self, *events: bytes, gap: float = 0.0, done: bool = True) -> None:
        self.begin()
        for event in (*events, DONE) if done else events:
            self.write(event)
            await asyncio.sleep(gap)
        self.end()

    def whole(self, status: int, body: Any, *headers: bytes) -> None:
        data = json.dumps(body).encode()
        lines = [b"HTTP/1.1 %d X" % status, b"content-type: application/json", *headers]
        self.writer.write(
            b"\r\n".join(lines) + b"\r\ncontent-length: %d\r\n\r\n" % len(data) + data
        )

    async def wait_for_leaving(self) -> None:
        assert await self.reader.read() == b""
        raise ConnectionError


async def good(fake: Fake) -> None:
    await fake.stream(ROLE, token("a"), token("b"), USAGE)


async def die(fake: Fake) -> None:
    raise ConnectionError


class Gateway:
    """A gateway worker over scripted replicas, and a client of it."""

    def __init__(self, state: GatewayState, target: Target, records: list[RequestRecord]) -> None:
        self.state = state
        self.target = target
        self.records = records
        self.fakes: list[Fake] = []

    async def open(self, *headers: tuple[bytes, bytes], path: str = CHAT, **body: Any) -> Response:
        raw = json.dumps({"model": "m", **body}).encode()
        return await self.state.client.request(self.target, "POST", path, headers, raw)

    async def ask(self, *headers: tuple[bytes, bytes], **body: Any) -> tuple[Response, bytes]:
        response = await self.open(*headers, **body)
        try:
            return response, await response.read_all(1 << 24)
        finally:
            response.close()

    async def record(self, count: int = 1) -> RequestRecord:
        async with asyncio.timeout(2):
            while len(self.records) < count:
                await asyncio.sleep(0.005)
        assert len(self.records) == count
        endpoints = self.state.table.route("m").endpoints
        assert all(endpoint.outstanding == 0 for endpoint in endpoints)
        return self.records[-1]


Start = Callable[..., Awaitable[Gateway]]


@contextlib.asynccontextmanager
async def gateways() -> AsyncIterator[Start]:
    """Starts gateways over scripted replicas; all end with the block."""
    async with contextlib.AsyncExitStack() as exits:

        async def start(
            *scripts: Script,
            dead: int = 0,
            keys: tuple[KeyView, ...] = (),
            control: Target | None = None,
            **view: Any,
        ) -> Gateway:
            fakes = [Fake(script) for script in scripts]
            for fake in fakes:
                await fake.start()
            ports = [fake.port for fake in fakes]
            for _ in range(dead):
                with socket.create_server(("127.0.0.1", 0)) as gone:
                    ports.append(gone.getsockname()[1])
            replicas = tuple(
                ReplicaView(f"m/{number}", "127.0.0.1", port, state=ReplicaState.READY)
                for number, port in enumerate(ports)
            )
            options = {"slots": 4, "wait_s": 3.0, "usd_per_hour": 36.0, **view}
            table = Table()
            table.update(Snapshot(1, (ModelView("m", replicas=replicas, **options),)))
            records: list[RequestRecord] = []
            client = Client()
            state = GatewayState(table, KeyRing(keys), client, b"secret", records.append, 100_000)

            async def nothing() -> None:
                pass

            async def startup() -> GatewayState:
                return state

            listener = exits.enter_context(socket.create_server(("127.0.0.1", 0)))
            serving = server(GatewayApp(startup, nothing, control), drain_s=1, handle_signals=False)
            task = asyncio.create_task(serving.serve(sockets=[listener]))

            async def stop() -> None:
                await client.close()
                serving.should_exit = True
                await task
                for fake in fakes:
                    fake.server.close()
                    for running in list(fake.tasks):
                        running.cancel()
                    await asyncio.gather(*fake.tasks, return_exceptions=True)

            exits.push_async_callback(stop)
            while not serving.started:
                await asyncio.sleep(0.005)
            gateway = Gateway(state, Target(*listener.getsockname()), records)
            gateway.fakes = fakes
            return gateway

        yield start
