"""Running an ASGI app on a socket that is already bound: uvicorn with httptools and uvloop.

Our protocol class answers broken HTTP in OpenAI's error shape and bounds the size of a request's
head, which httptools does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import socket
from collections.abc import Callable, Generator
from typing import Any, cast

import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from aviary.core.errors import InvalidRequest
from aviary.wire.asgi import BODY_PIPE, error_body

HEAD_LIMIT_BYTES = 64 * 1024
KEEP_ALIVE_S = 75
GC_THRESHOLDS = (20_000, 20, 50)


class _HeadTooLarge(Exception):
    pass


class CorkedTransport:
    """A transport that sends an answer's head together with the first piece of its body.

    uvicorn writes them by themselves, and uvloop hands every write to the kernel at once. Most of a
    gateway's time is in those system calls.
    """

    __slots__ = ("_head", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Hold a head back until the next write, or the end of this turn of the event loop."""
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/1.1 "):
            self._head = data
            self._loop.call_soon(self.flush)
            return
        self._transport.write(data)

    def flush(self) -> None:
        """Write a head that waits."""
        head, self._head = self._head, b""
        if head and not self._transport.is_closing():
            self._transport.write(head)

    def close(self) -> None:
        """Write what waits, then close."""
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether it closes or has closed."""
        return self._transport.is_closing()


class BodyPipe:
    """An ASGI extension of ours: write pieces of a chunked body without a coroutine for each.

    Between `http.response.start` and the last `http.response.body`, both sent as usual.

    Attributes:
        on_left: Called when the client has left before the answer was complete; saves the app a
            task that waits for `http.disconnect`.
    """

    __slots__ = ("_cycle", "on_left")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self.on_left: Callable[[], None] | None = None

    @property
    def finished(self) -> bool:
        """Whether the answer is complete."""
        return self._cycle.response_complete

    @property
    def gone(self) -> bool:
        """Whether the client has left."""
        return self._cycle.disconnected

    def leave(self) -> bool:
        """Tell the request that its client has left; says whether an answer had begun."""
        self._cycle.disconnected = True
        self._cycle.message_event.set()
        if self.on_left is not None:
            self.on_left()
        return self._cycle.response_started

    def write(self, data: bytes) -> bool:
        """Write a piece; answers whether the client's side can take more now."""
        cycle = self._cycle
        if data and not cycle.disconnected:
            cycle.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        return not cycle.flow.write_paused

    async def drained(self) -> None:
        """Wait until the client's side can take more."""
        await self._cycle.flow.drain()


class StrictHttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a bounded head and errors that OpenAI's clients can read.

    Besides, it declines offers of another protocol (Java's client offers HTTP/2 each time; the
    parser would take the body for that protocol), and tells every request of a lost connection,
    pipelined ones included, that its client has left.
    """

    _head_bytes = 0
    _in_head = False
    _in_body = False
    _pipes: tuple[BodyPipe, ...] = ()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection."""
        corked = CorkedTransport(transport, self.loop)
        super().connection_made(cast("asyncio.Transport", corked))

    def data_received(self, data: bytes) -> None:
        """Feed the parser; whatever it cannot take ends the connection with a 400."""
        if not self._in_body and b"pgrade" in data:
            data = _decline_upgrade(data)
        try:
            super().data_received(data)
            if self._in_head:  # what is not complete the parser keeps to itself
                self._count(len(data))
        except Exception:  # a callback refused what it got: non-ASCII target, head too large, …
            if not self.transport.is_closing():
                self.send_400_response("The HTTP request's head is invalid or too large.")

    def on_message_begin(self) -> None:
        """Start counting the head anew."""
        self._head_bytes = 0
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Start the request, with the body pipe in its scope; remember it until it is answered."""
        self._in_head, self._in_body = False, True
        super().on_headers_complete()
        scope = cast("dict[str, Any]", self.scope)  # the app's task has not begun yet
        pipe = BodyPipe(self.cycle)
        scope["extensions"] = {BODY_PIPE: pipe}
        self._pipes = (*(other for other in self._pipes if not other.finished), pipe)

    def on_message_complete(self) -> None:
        """Note that the next bytes are a head."""
        self._in_body = False
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell every request; uvicorn tells only the newest one."""
        self._leave()
        super().connection_lost(exc)

    def _leave(self) -> bool:
        """Tell running requests that the client has left; says whether an answer had begun."""
        running = [pipe for pipe in self._pipes if not pipe.finished]
        self._pipes = ()
        begun = [pipe.leave() for pipe in running]  # all of them must hear it
        return any(begun)

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > HEAD_LIMIT_BYTES:
            raise _HeadTooLarge

    def send_400_response(self, msg: str) -> None:
        """Answer broken HTTP, unless an answer has begun already; close the connection."""
        if self._leave():
            self.transport.close()
            return
        body = error_body(InvalidRequest(msg))
        head = (
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head % len(body) + body)
        self.transport.close()


_UPGRADE = re.compile(rb"(?<=\n)upgrade(?=[ \t]*:)", re.IGNORECASE)


def _decline_upgrade(data: bytes) -> bytes:
    """Bytes that begin with (a part of) a head, without its `upgrade` header."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        end = len(data)
    return _UPGRADE.sub(b"x-offer", data[:end]) + data[end:]


class _SignalFreeServer(uvicorn.Server):
    """A server inside a process that handles signals itself."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave them alone."""
        yield


def server(app: Any, *, drain_s: float, handle_signals: bool = True) -> uvicorn.Server:
    """A uvicorn server for the app; `serve(sockets=[…])` runs it until a signal or `should_exit`.

    Args:
        app: The ASGI app.
        drain_s: How long answers in progress may take after the signal.
        handle_signals: Whether SIGTERM and SIGINT end it.
    """
    kind = uvicorn.Server if handle_signals else _SignalFreeServer
    return kind(
        uvicorn.Config(
            app,
            loop="none",
            http=StrictHttpProtocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            backlog=2048,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=int(drain_s),
        )
    )


def run_server(app: Any, listener: socket.socket, *, drain_s: float) -> None:
    """Serve until SIGTERM or SIGINT; running answers get `drain_s` seconds to end."""
    # What lives now lives to the end: keep the garbage collector from looking at it again and
    # again, and have it run seldom; the hot path makes hardly any cycles.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    with (
        contextlib.suppress(KeyboardInterrupt),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(server(app, drain_s=drain_s).serve(sockets=[listener]))
