"""A small pooled HTTP/1.1 client for the hot path.

One request to a replica costs about a tenth of what a general client costs (docs/adr/0003): no
redirects, no cookies, no decompression; bytes go out as one write and come back as they arrive.

Backpressure: a response's unread bytes are bounded; past that the socket is not read any more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from typing import cast

import httptools

from aviary.core.ports import Headers

HIGH_WATER_BYTES = 256 * 1024
IDLE_KEEP_S = 4.0
MAX_IDLE_PER_TARGET = 1024
SWEEP_S = 0.5
FULL_PAUSE_S = 0.01


class WireError(Exception):
    """A request to an upstream failed.

    Attributes:
        sent: Whether the request may have reached the upstream.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class ConnectFailed(WireError):
    """No connection could be made; the upstream has seen nothing."""

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=False)


class UpstreamLost(WireError):
    """The upstream closed the connection or broke HTTP before its answer was complete."""


class UpstreamSilent(WireError):
    """The upstream sent nothing for longer than the silence limit."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where an upstream listens: TCP (`host`, `port`) or a Unix socket (`path`)."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"


class _Connection(asyncio.Protocol):
    """One connection; serves one request at a time."""

    __slots__ = (
        "_bodiless",
        "_keep_alive",
        "_parser",
        "_paused",
        "_response",
        "_waiter",
        "client",
        "idle_since",
        "last_byte",
        "silence_s",
        "target",
        "transport",
        "used",
    )

    def __init__(self, client: Client, target: Target) -> None:
        self.client = client
        self.target = target
        self.transport: asyncio.Transport | None = None
        self.idle_since = 0.0
        self.last_byte = 0.0
        self.silence_s = 0.0
        self.used = False
        self._parser: httptools.HttpResponseParser | None = None
        self._response: Response | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._paused = False
        self._keep_alive = False
        self._bodiless = False

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.client.adopt(self)

    def data_received(self, data: bytes) -> None:
        response = self._response
        if response is None:
            self.abort()  # bytes nobody asked for: this connection cannot be trusted
            return
        self.last_byte = monotonic()
        response.received = True
        try:
            self._parser.feed_data(data)  # type: ignore[union-attr]
        except httptools.HttpParserError as error:
            self._fail(UpstreamLost(f"{self.target} broke HTTP: {error}", sent=True))
            self.abort()
            return
        if response.pieces and not response.complete:
            if response.sink is not None:
                response.pour()
                return
            response.unread += len(data)
            if response.unread > HIGH_WATER_BYTES:
                self.pause()
            self._wake()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.client.forget(self)
        response = self._response
        if response is not None and not response.complete:
            reason = f": {exc}" if exc else ""
            self._fail(UpstreamLost(f"{self.target} closed the connection{reason}", sent=True))
        self.transport = None

    # httptools callbacks

    def on_message_begin(self) -> None:
        if self._response is not None and self._response.complete:
            self._keep_alive = False  # a second answer to one request: ignored

    def on_header(self, name: bytes, value: bytes) -> None:
        response = self._response
        if response is not None and not response.complete:
            response.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        response = self._response
        if response is None or response.complete or self._parser is None:
            return
        response.status = self._parser.get_status_code()
        self._keep_alive = self._parser.should_keep_alive()
        if self._bodiless:
            response.pieces = deque()
            response.complete = True
        self._wake()

    def on_message_complete(self) -> None:
        response = self._response
        if response is None:
            return
        if not response.complete:
            response.pieces = response.pieces.copy()  # what the parser still says goes nowhere
        response.complete = True
        self._wake()

    # used by Client and Response

    @property
    def silent_for_s(self) -> float:
        """Seconds since the last byte of a request that waits for bytes; 0 when none waits."""
        if self._response is None or self._response.complete or self._paused:
            return 0.0
        return monotonic() - self.last_byte

    def begin(self, data: bytes, body: bytes, silence_s: float, *, bodiless: bool) -> Response:
        """Send one request; the answer is `bodiless` when it is one to HEAD."""
        self.used = True
        self._bodiless = bodiless
        self.silence_s = silence_s
        self.last_byte = monotonic()
        self._response = response = Response(self)
        self._parser = httptools.HttpResponseParser(_ParserEvents(self, response))
        transport = self.transport
        if transport is None:
            raise UpstreamLost(f"{self.target} closed the connection", sent=False)
        if body:
            transport.writelines((data, body))
        else:
            transport.write(data)
        return response

    def wait(self) -> asyncio.Future[None]:
        """A future that is done when there is news."""
        self._waiter = waiter = self.client.loop.create_future()
        return waiter

    def pause(self) -> None:
        """Read no more until `resume`; the upstream then feels that its reader is slow."""
        if not self._paused and self.transport is not None:
            self._paused = True
            self.transport.pause_reading()

    def wake(self) -> None:
        """Wake whoever waits."""
        self._wake()

    def resume(self) -> None:
        """Read on after the consumer has taken what was there."""
        if self._paused and self.transport is not None:
            self._paused = False
            self.last_byte = monotonic()
            self.transport.resume_reading()

    def finish(self, response: Response | None) -> None:
        """Give the connection back, or close it when its answer was not read to the end.

        Nothing happens when the connection has left that response behind already.
        """
        if response is None or response is not self._response:
            return
        self._response = None
        self._parser = None
        if response.complete and self._keep_alive and self.transport is not None:
            self.resume()
            self.client.release(self)
        else:
            self.abort()

    def abort(self) -> None:
        """Close at once; a request that still runs here fails."""
        response = self._response
        if response is not None and response.error is None and not response.complete:
            self._fail(UpstreamLost(f"the connection to {self.target} was closed", sent=True))
        self._response = None
        if self.transport is not None:
            self.transport.abort()

    def fail_silent(self) -> None:
        """End the present request: its upstream has been silent too long."""
        self._fail(
            UpstreamSilent(f"{self.target} sent nothing for {self.silence_s:g} s", sent=True)
        )
        self.abort()

    def fail_sink(self, cause: Exception) -> None:
        """End the present request: whoever takes its answer cannot."""
        error = UpstreamLost(
            f"the answer from {self.target} could not be handed on: {cause!r}", sent=True
        )
        error.__cause__ = cause
        self._fail(error)
        self.abort()

    def _fail(self, error: WireError) -> None:
        if self._response is not None:
            self._response.error = error
        self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)


class _ParserEvents:
    """What the parser calls.

    A streamed answer has a piece of body an event: those go straight into the response's queue,
    without a Python function between.
    """

    __slots__ = (
        "on_body",
        "on_header",
        "on_headers_complete",
        "on_message_begin",
        "on_message_complete",
    )

    def __init__(self, connection: _Connection, response: Response) -> None:
        self.on_message_begin = connection.on_message_begin
        self.on_header = connection.on_header
        self.on_headers_complete = connection.on_headers_complete
        self.on_body = response.pieces.append
        self.on_message_complete = connection.on_message_complete


class Response:
    """An upstream's answer. `read` until it returns nothing, then (always) `close`."""

    __slots__ = (
        "_connection",
        "_full",
        "complete",
        "error",
        "headers",
        "pieces",
        "received",
        "sink",
        "status",
        "unread",
    )

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._full = False
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.pieces: deque[bytes] = deque()
        self.unread = 0
        self.complete = False
        self.received = False
        self.error: WireError | None = None
        self.sink: Callable[[bytes], bool] | None = None

    async def head(self) -> None:
        """Wait for status and headers; raises `WireError`."""
        while not self.status:
            if self.error is not None:
                raise self.error
            await self._connection.wait()

    async def read(self) -> bytes:
        """The bytes that have come since the last call; empty at the end.

        Raises:
            UpstreamLost: when the answer broke off.
            UpstreamSilent: when nothing came for too long.
        """
        while True:
            pieces = self.pieces
            if pieces:
                data = pieces.popleft() if len(pieces) == 1 else b"".join(pieces)
                pieces.clear()
                self.unread = 0
                if not self.complete:
                    self._connection.resume()
                return data
            if self.complete:
                return b""
            if self.error is not None:
                raise self.error
            await self._connection.wait()

    async def pump(
        self, sink: Callable[[bytes], bool], drained: Callable[[], Awaitable[None]]
    ) -> bytes:
        """Hand bytes to `sink` right as they arrive, without a task switch for each piece.

        Args:
            sink: Takes bytes; answers whether it can take more now.
            drained: Waits until the sink can take more, after it said no.

        Returns:
            The last bytes, which the sink did not get; may be empty.

        Raises:
            UpstreamLost: when the answer broke off, or the sink raised (then that is the cause).
            UpstreamSilent: when nothing came for too long.
        """
        self.sink = sink
        if self.pieces and not self.complete:
            self.pour()
        while not self.complete:
            if self.error is not None:
                raise self.error
            if self._full:
                await drained()
                self._full = False
                if self.pieces and not self.complete:
                    self.pour()
                if self.error is None:
                    self._connection.resume()
                continue
            await self._connection.wait()
        last = b"".join(self.pieces)
        self.pieces.clear()
        return last

    def pour(self) -> None:
        """Hand what is there to the sink; pause the upstream when the sink is full.

        A sink that raises fails this response and nothing else.
        """
        pieces = self.pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self.unread = 0
        try:
            takes_more = self.sink is None or self.sink(data)
        except Exception as error:
            self._connection.fail_sink(error)
            return
        if not takes_more:
            self._full = True
            self._connection.pause()
            self._connection.wake()

    @property
    def at_end(self) -> bool:
        """Whether all of the answer has been read."""
        return self.complete and not self.pieces

    async def read_all(self, limit_bytes: int) -> bytes:
        """The whole body; raises `UpstreamLost` when it is larger than the limit."""
        body = bytearray()
        while data := await self.read():
            body += data
            if len(body) > limit_bytes:
                raise UpstreamLost(f"answer larger than {limit_bytes} bytes", sent=True)
        return bytes(body)

    def header(self, name: bytes) -> bytes:
        """Value of the first header of that (lower case) name, or nothing."""
        for key, value in self.headers:
            if key == name:
                return value
        return b""

    def close(self) -> None:
        """Give the connection back; when the answer is not complete, cut it: that cancels."""
        self._connection.finish(self)


class Client:
    """A pool of connections to any number of upstreams. Use within one event loop."""

    def __init__(self, *, connect_timeout_s: float = 3.0) -> None:
        self.loop = asyncio.get_running_loop()
        self._connect_timeout_s = connect_timeout_s
        self._idle: dict[Target, list[_Connection]] = {}
        self._all: set[_Connection] = set()
        self._closed = False
        self._sweeper: asyncio.TimerHandle | None = None  # only while there are connections

    async def request(
        self,
        target: Target,
        method: str,
        path: str,
        headers: Headers = (),
        body: bytes = b"",
        *,
        silence_s: float = 600.0,
    ) -> Response:
        """Send a request and wait for the answer's head.

        A request that fails on a kept connection before any byte came back is sent again, in the
        end on a fresh one: the upstream had most likely closed the old one while it idled. This
        applies to every caller and every method: an upstream that died of the request after it
        began to work may see the same request twice.

        Args:
            target: The upstream.
            method: HTTP method.
            path: Path and query; must be plain ASCII without spaces.
            headers: Extra headers; `host` and `content-length` are set here.
            body: Request body.
            silence_s: Longest silence of the upstream, before and between bytes.

        Raises:
            ConnectFailed: nothing was sent.
            UpstreamLost: the connection broke before the head was complete.
            UpstreamSilent: the upstream did not answer in time.
        """
        host = target.host or "localhost"
        lines = [f"{method} {path} HTTP/1.1\r\nhost: {host}\r\n".encode()]
        if body or method != "GET":
            lines.append(b"content-length: %d\r\n" % len(body))
        lines.extend(name + b": " + value + b"\r\n" for name, value in headers)
        lines.append(b"\r\n")
        data = b"".join(lines)
        bodiless = method == "HEAD"
        lost: UpstreamLost | None = None
        while True:
            connection = self._take(target)
            reused = connection is not None
            if connection is None:
                try:
                    connection = await self._connect(target)
                except ConnectFailed as error:
                    if lost is None:
                        raise
                    # It broke a kept connection and is gone now: it may have died of this request.
                    raise UpstreamLost(f"{lost}; {error}", sent=True) from error
            response: Response | None = None
            try:
                response = connection.begin(data, body, silence_s, bodiless=bodiless)
                await response.head()
            except UpstreamLost as error:
                nothing_came = response is None or not response.received
                connection.finish(response)
                if reused and nothing_came and not self._closed:
                    lost = error
                    continue
                raise
            except BaseException:
                connection.finish(response)
                raise
            return response

    def _take(self, target: Target) -> _Connection | None:
        idle = self._idle.get(target)
        while idle:
            connection = idle.pop()
            if connection.transport is not None and not connection.transport.is_closing():
                return connection
        return None

    async def _connect(self, target: Target) -> _Connection:
        connection = _Connection(self, target)
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                if target.path:
                    await self._connect_unix(target.path, connection)
                else:
                    await self.loop.create_connection(lambda: connection, target.host, target.port)
        except TimeoutError:
            raise ConnectFailed(f"{target} did not accept a connection in time") from None
        except OSError as error:
            raise ConnectFailed(f"cannot connect to {target}: {error}") from None
        return connection

    async def _connect_unix(self, path: str, connection: _Connection) -> None:
        """Unlike TCP, a Unix socket refuses at once while the queue before it is full."""
        while True:
            try:
                await self.loop.create_unix_connection(lambda: connection, path)
            except BlockingIOError:
                await asyncio.sleep(FULL_PAUSE_S)
            else:
                return

    def adopt(self, connection: _Connection) -> None:
        """Know a connection from the moment it is open: it may be closed again in the next."""
        self._all.add(connection)
        if self._sweeper is None and not self._closed:
            self._sweeper = self.loop.call_later(SWEEP_S, self._sweep)

    def release(self, connection: _Connection) -> None:
        """Keep a connection for the next request."""
        idle = self._idle.setdefault(connection.target, [])
        if self._closed or len(idle) >= MAX_IDLE_PER_TARGET:
            connection.abort()
            return
        connection.idle_since = monotonic()
        idle.append(connection)

    def forget(self, connection: _Connection) -> None:
        """Drop a connection that is closed."""
        self._all.discard(connection)
        idle = self._idle.get(connection.target)
        if idle:
            with contextlib.suppress(ValueError):
                idle.remove(connection)
            if not idle:
                del self._idle[connection.target]

    def _sweep(self) -> None:
        """Close idle connections past their time; end requests whose upstream is silent."""
        now = monotonic()
        for connection in list(self._all):
            if connection.silent_for_s > connection.silence_s > 0:
                connection.fail_silent()
        for target, idle in list(self._idle.items()):
            keep = [c for c in idle if now - c.idle_since < IDLE_KEEP_S]
            old = [c for c in idle if now - c.idle_since >= IDLE_KEEP_S]
            if keep:
                self._idle[target] = keep
            else:
                del self._idle[target]
            for connection in old:
                connection.abort()
        again = self._all and not self._closed
        self._sweeper = self.loop.call_later(SWEEP_S, self._sweep) if again else None

    async def close(self) -> None:
        """Close every connection; running requests fail."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self._all):
            connection.abort()
        self._idle.clear()
        await asyncio.sleep(0)
