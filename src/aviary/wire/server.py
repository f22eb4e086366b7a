"""Running an ASGI app on a socket that is already bound: uvicorn with httptools and uvloop.

Our protocol class answers broken HTTP in OpenAI's error shape and bounds the size of a request's
head, which httptools does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator
from typing import Any, cast

import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from aviary.core.errors import InvalidRequest
from aviary.wire.asgi import error_body

HEAD_LIMIT_BYTES = 64 * 1024
KEEP_ALIVE_S = 75


class _HeadTooLarge(Exception):
    pass


class CorkedTransport:
    """A transport whose writes of one turn of the event loop go out as one.

    uvicorn writes an answer's head, each piece of its body and its end by themselves, and uvloop
    hands every write to the kernel at once. Most of a gateway's time was in those system calls.
    """

    __slots__ = ("_loop", "_pending", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._pending: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write at the end of this turn."""
        if not self._pending:
            self._loop.call_soon(self.flush)
        self._pending.append(data)

    def flush(self) -> None:
        """Write now what waits."""
        pending = self._pending
        if pending:
            self._pending = []
            if self._transport.is_closing():
                return  # the client has left in the meantime
            self._transport.write(pending[0] if len(pending) == 1 else b"".join(pending))

    def close(self) -> None:
        """Write what waits, then close."""
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether it closes or has closed."""
        return self._transport.is_closing()


class StrictHttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a bounded head and errors that OpenAI's clients can read."""

    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection."""
        corked = CorkedTransport(transport, self.loop)
        super().connection_made(cast("asyncio.Transport", corked))

    def data_received(self, data: bytes) -> None:
        """Feed the parser; whatever it cannot take ends the connection with a 400."""
        try:
            super().data_received(data)
        except Exception:  # a callback refused what it got: non-ASCII target, head too large, …
            if not self.transport.is_closing():
                self.send_400_response("The HTTP request's head is invalid or too large.")

    def on_message_begin(self) -> None:
        """Start counting the head anew."""
        self._head_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Count and take a piece of the target."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count and take a header."""
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > HEAD_LIMIT_BYTES:
            raise _HeadTooLarge

    def send_400_response(self, msg: str) -> None:
        """Answer broken HTTP, unless an answer has begun already; close the connection."""
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.close()
                return
        body = error_body(InvalidRequest(msg))
        head = (
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head % len(body) + body)
        self.transport.close()


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
    with (
        contextlib.suppress(KeyboardInterrupt),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(server(app, drain_s=drain_s).serve(sockets=[listener]))
