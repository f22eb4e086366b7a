"""Running an ASGI app on a socket that is already bound: uvicorn with httptools and uvloop.

Our protocol class answers broken HTTP in OpenAI's error shape and bounds what httptools and uvicorn
do not: the size of a request's head and trailers, the time a head takes, and how long a client may
leave its answer unread.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import re
import socket
import sys
import termios
from collections.abc import Callable, Generator
from typing import Any, cast

import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from aviary.core.errors import InvalidRequest
from aviary.wire.asgi import BODY_PIPE, error_body

HEAD_LIMIT_BYTES = 64 * 1024
KEEP_ALIVE_S = 75
HEAD_DEADLINE_S = 20.0
"""Longest time from the first byte of a request to the end of its head."""
CLIENT_STALL_S = 120.0
"""Longest time a client may take nothing of an answer that waits for it."""
_STALL_LOOKS = 4
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
        """Wait until the client's side can take more, or has left.

        A client that takes nothing for `CLIENT_STALL_S` has left.
        """
        await self._cycle.flow.drain()


class StrictHttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a bounded head and errors that OpenAI's clients can read.

    Besides, it declines offers of another protocol (Java's client offers HTTP/2 each time; the
    parser would take the body for that protocol), drops trailers, and tells every request of a lost
    connection, pipelined ones included, that its client has left.
    """

    _head_bytes = 0  # of this head; within a body: read since its last piece
    _trailer_bytes = 0
    _in_head = False
    _in_body = False
    _body_came = False
    _pipes: tuple[BodyPipe, ...] = ()
    _head_timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection."""
        corked = CorkedTransport(transport, self.loop)
        super().connection_made(cast("asyncio.Transport", corked))
        self.timeout_keep_alive_task = self.loop.call_later(  # the first bytes cancel it
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def data_received(self, data: bytes) -> None:
        """Feed the parser; whatever it cannot take ends the connection with a 400."""
        if not self._in_body and b"pgrade" in data:
            data = _decline_upgrade(data)
        try:
            super().data_received(data)
            if self._in_head:  # what is not complete the parser keeps to itself
                self._count(len(data))
                if self._head_timer is None:
                    self._time_head(was_busy=False)
            elif self._in_body:
                if self._body_came:
                    self._body_came, self._head_bytes = False, 0
                else:  # only a part of a chunk's size, or of trailers
                    self._count(len(data))
            elif self._head_timer is None and (not self._pipes or self.cycle.response_complete):
                self._time_head(was_busy=False)  # empty lines
        except Exception:  # a callback refused what it got: non-ASCII target, head too large, …
            if not self.transport.is_closing():
                self.send_400_response("The HTTP request's head is invalid or too large.")

    def on_message_begin(self) -> None:
        """Start counting the head anew."""
        self._head_bytes = self._trailer_bytes = 0
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header as uvicorn does (not by `super`: this is called often); drop a trailer."""
        if self._in_body:
            self._trailer_bytes += len(name) + len(value) + 4
            if self._trailer_bytes > HEAD_LIMIT_BYTES:
                raise _HeadTooLarge
            return
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Start the request, with the body pipe in its scope; remember it until it is answered."""
        self._in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()
        self._in_body = self._body_came = True
        scope = cast("dict[str, Any]", self.scope)  # the app's task has not begun yet
        pipe = BodyPipe(self.cycle)
        scope["extensions"] = {BODY_PIPE: pipe}
        self._pipes = (*(other for other in self._pipes if not other.finished), pipe)

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._body_came = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the next bytes are a head."""
        self._in_body = False
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell every request; uvicorn tells only the newest one."""
        self._leave()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        for timer in (self._head_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._stall_timer = None

    def pause_writing(self) -> None:
        """Begin to watch whether the client still reads."""
        super().pause_writing()
        if self._stall_timer is None:
            self._time_stall(-1, 0)

    def resume_writing(self) -> None:
        """It does."""
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _time_stall(self, before: int, looks: int) -> None:
        """Abort the connection when the bytes that wait for the client do not change for long."""
        waiting = _unread(self.transport)
        looks = looks + 1 if waiting == before else 0
        if looks == _STALL_LOOKS:
            self._stall_timer = None
            self.transport.abort()
        else:
            self._stall_timer = self.loop.call_later(
                CLIENT_STALL_S / _STALL_LOOKS, self._time_stall, waiting, looks
            )

    def _time_head(self, *, was_busy: bool) -> None:
        self._head_timer = self.loop.call_later(HEAD_DEADLINE_S, self._head_is_late, was_busy)

    def _head_is_late(self, was_busy: bool) -> None:
        """Close the connection, unless it was us who did not read on for other requests' sake."""
        self._head_timer = None
        busy = not all(pipe.finished for pipe in self._pipes)
        if busy or was_busy:
            self._time_head(was_busy=busy)
        elif not self.transport.is_closing():
            self.transport.close()

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
        answered = self._in_body and self.cycle.response_complete
        if self._leave() or answered:
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


def _unread(transport: asyncio.Transport) -> int:
    """Bytes that wait for the client, here and in the kernel."""
    size = transport.get_write_buffer_size()
    with contextlib.suppress(OSError, AttributeError):  # not every system tells
        queued = fcntl.ioctl(
            transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, b"\0" * 4
        )
        size += int.from_bytes(queued, sys.byteorder)
    return size


class _Server(uvicorn.Server):
    """Waits until it shall end; uvicorn's own looks ten times a second, in every idle process."""

    def __init__(self, config: uvicorn.Config) -> None:
        self._exits = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end = asyncio.Event()
        super().__init__(config)

    @property
    def should_exit(self) -> bool:
        """Whether it shall end. May be set at any moment, by a signal's handler too."""
        return self._exits

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        self._exits = value
        if value and self._loop is not None:
            self._loop.call_soon_threadsafe(self._end.set)

    async def main_loop(self) -> None:
        """Return when it shall end."""
        self._loop = asyncio.get_running_loop()
        if not await self.on_tick(0):
            await self._end.wait()


class _SignalFreeServer(_Server):
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
    kind = _Server if handle_signals else _SignalFreeServer
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
