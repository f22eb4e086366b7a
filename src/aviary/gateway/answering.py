"""Passing answers on: from one replica after the other to one client, who sees one answer.

Answers pass as bytes; looked at are the events up to the first token, and those that carry usage.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from time import perf_counter
from typing import Any

import msgspec
import structlog

from aviary.core.errors import AviaryError, Crashed, EngineError, TimedOut
from aviary.core.ports import Continuation
from aviary.gateway.continuation import Delivered, Joint, obstacle
from aviary.gateway.record import Note
from aviary.wire.asgi import BODY_PIPE, Send, error_body, send_bytes, send_error
from aviary.wire.client import Response, UpstreamLost, UpstreamSilent, WireError
from aviary.wire.server import BodyPipe
from aviary.wire.sse import (
    DONE,
    ERROR_EVENT,
    EventSplitter,
    any_content,
    payload,
    split_events,
    usage_of_answer,
    usage_of_event,
)

log = structlog.get_logger()

ANSWER_LIMIT_BYTES = 256 * 1024 * 1024
SIGN_OF_LIFE_S = 10.0
"""So often a client that waits for another replica gets an SSE comment."""
SIGN_OF_LIFE = b": \n\n"
USAGE = b'"usage"'
ERROR_BODY = b'{"error"'


class ReplicaDied(Exception):
    """A replica, or the engine in it, died before its answer was complete."""


class Answer:
    """One client's answer.

    Args:
        note: What is noted of the request.
        send: The way to the client.
        extensions: ASGI extensions of the connection.
        strip_usage: Leave usage events out of a stream.
        keep: Keep what is delivered of a stream, so that another replica can go on with it.

    Attributes:
        started: The status was sent.
    """

    __slots__ = (
        "_crashed",
        "_delivered",
        "_failed",
        "_joint",
        "_last",
        "_note",
        "_pipe",
        "_send",
        "_splitter",
        "_strip_usage",
        "started",
    )

    def __init__(
        self,
        note: Note,
        send: Send,
        extensions: dict[str, Any],
        *,
        strip_usage: bool,
        keep: bool,
    ) -> None:
        self.started = False
        self._note = note
        self._send = send
        self._strip_usage = strip_usage
        self._pipe: BodyPipe | None = extensions.get(BODY_PIPE)
        self._splitter = EventSplitter()
        self._last = b""
        self._crashed = self._failed = False
        self._delivered = Delivered() if keep else None
        self._joint: Joint | None = None

    # a stream

    async def stream(self, response: Response) -> None:
        """Pass a streamed answer on, or the rest of one.

        Raises:
            ReplicaDied: it broke off; `take_up` says what to ask the next replica for.
            TimedOut: the replica fell silent.
            EngineError: the client's side cannot take the answer.
        """
        if self.started:
            self._splitter, self._last = EventSplitter(), b""
        else:
            await self._start(response)
        look = self._look
        pipe = self._pipe
        try:
            if pipe is not None:
                write = pipe.write
                last = await response.pump(lambda data: write(look(data)), pipe.drained)
            else:
                last = await self._copy(response)
        except UpstreamSilent as error:
            raise TimedOut(f"Replica {self._note.replica} fell silent: {error}.") from error
        except WireError as error:
            if error.__cause__ is not None:
                raise EngineError("The answer could not be passed on.") from error
            if not self._at_end:
                raise ReplicaDied from error
            last = b""  # the client has its end: that the connection broke then matters to nobody
        body = look(last)
        if self._crashed or not self._at_end:
            if body:
                await self._send({"type": "http.response.body", "body": body, "more_body": True})
            raise ReplicaDied
        body += self._splitter.rest()
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    @property
    def _at_end(self) -> bool:
        return self._failed or self._last.endswith(DONE)

    async def _start(self, response: Response) -> None:
        self._note.status = response.status
        self.started = True
        await self._send(
            {
                "type": "http.response.start",
                "status": response.status,
                "headers": [
                    (b"content-type", response.header(b"content-type")),
                    (b"cache-control", b"no-cache"),
                    (b"x-accel-buffering", b"no"),
                    *self._note.headers(),
                ],
            }
        )

    async def _copy(self, response: Response) -> bytes:
        """Pass pieces on by plain ASGI, on a server without our body pipe."""
        while not response.at_end:
            events = self._look(await response.read())
            if events:
                await self._send({"type": "http.response.body", "body": events, "more_body": True})
        return b""

    def _look(self, data: bytes) -> bytes:
        """The whole events in what has come, less what the client shall not see."""
        events = self._splitter.feed(data)
        if not events:
            return events
        if self._joint is not None:
            events = self._joint.rewrite(events)
        if ERROR_EVENT in events:
            events = self._take_error(events)
        self._last = events
        if self._note.first_token is None and any_content(events):
            self._note.first_token = perf_counter()
        if self._delivered is not None:
            self._delivered.keep(events)
        if USAGE in events:
            return self._take_usage(events)
        return events

    def _take_error(self, events: bytes) -> bytes:
        """Note what went wrong; that the engine died is not for the client to see."""
        kept = []
        for event in split_events(events):
            if event.startswith(ERROR_EVENT):
                code = error_code(payload(event))
                if code == Crashed.code:
                    self._crashed = True
                    continue
                self._failed = True
                self._note.status, self._note.error = EngineError.status, code
            kept.append(event)
        return b"".join(kept)

    def _take_usage(self, events: bytes) -> bytes:
        """Note reported usage; leave out the event made only for it when nobody asked."""
        kept = []
        for event in split_events(events):
            usage, only = usage_of_event(event)
            if usage is not None:
                self._note.usage = (usage.prompt_tokens, usage.completion_tokens)
            if not (only and self._strip_usage):
                kept.append(event)
        return b"".join(kept)

    # a stream whose replica died

    async def complete(self) -> bool:
        """End a stream of which the client has all but its end; whether it was one."""
        delivered = self._delivered
        if delivered is None:
            return False
        delivered.read()
        if delivered.finish is None or self._note.usage is None:
            return False
        await self._send({"type": "http.response.body", "body": DONE, "more_body": False})
        return True

    def take_up(self, body: bytes) -> Continuation | None:
        """What another replica needs to know to go on; `None`: to begin anew.

        Args:
            body: The client's request.

        Raises:
            Crashed: the answer cannot be taken up.
        """
        message = f"Replica {self._note.replica} died in the middle of its answer"
        delivered = self._delivered
        if delivered is None:
            raise Crashed(f"{message}.")
        delivered.read()
        self._crashed = False
        self._joint = Joint(delivered)
        if delivered.nothing:
            return None
        reason = delivered.beyond or obstacle(body)
        if reason:
            raise Crashed(
                f"{message}, which cannot be taken up elsewhere because of {reason}.",
                hint="Send the request again.",
            )
        return delivered.continuation()

    @contextlib.contextmanager
    def alive(self) -> Iterator[None]:
        """Send signs of life to the client of a stream while it waits for another replica."""
        signs = asyncio.create_task(self._give_signs())
        try:
            yield
        finally:
            signs.cancel()

    async def _give_signs(self) -> None:
        message = {"type": "http.response.body", "body": SIGN_OF_LIFE, "more_body": True}
        try:
            while True:
                await asyncio.sleep(SIGN_OF_LIFE_S)
                await self._send(dict(message))
        except OSError as error:  # the client has left, and its leaving ends the request
            log.debug("sign of life not sent", error=repr(error))

    # other answers

    async def whole(self, response: Response) -> None:
        """Pass an answer on that is one JSON document; in a begun stream, it is an error.

        Raises:
            ReplicaDied: it broke off, or the engine did.
            TimedOut: the replica fell silent.
            EngineError: it is too large.
        """
        note = self._note
        try:
            body = await response.read_all(ANSWER_LIMIT_BYTES)
        except UpstreamSilent as error:
            raise TimedOut(f"Replica {note.replica} fell silent: {error}.") from error
        except UpstreamLost as error:
            if response.error is None:
                raise EngineError(f"Replica {note.replica} gave too large an answer.") from error
            raise ReplicaDied from error
        good = response.status == 200 and not body.lstrip(b" ").startswith(ERROR_BODY)
        if not good:
            note.error = error_code(body)
            if note.error == Crashed.code:
                note.error = ""
                raise ReplicaDied
        note.status = response.status
        if self.started:
            event = b"data: " + body.replace(b"\n", b" ") + b"\n\n"
            await self._send({"type": "http.response.body", "body": event, "more_body": False})
            return
        if good:
            note.first_token = perf_counter()
            usage = usage_of_answer(body)
            if usage is not None:
                note.usage = (usage.prompt_tokens, usage.completion_tokens)
        headers = [(b"content-type", response.header(b"content-type")), *note.headers()]
        retry_after = response.header(b"retry-after")
        if retry_after:
            headers.append((b"retry-after", retry_after))
        self.started = True
        await send_bytes(self._send, response.status, body, headers)

    async def fail(self, error: AviaryError) -> None:
        """Tell the client: by status when nothing was sent, else by an error event at the end."""
        self._note.status, self._note.error = error.status, error.code
        if not self.started:
            await send_error(self._send, error, self._note.headers())
        elif self._note.stream:
            event = b"data: " + error_body(error) + b"\n\n"
            await self._send({"type": "http.response.body", "body": event, "more_body": False})


class _ErrorCode(msgspec.Struct):
    code: str | int | None = None


class _ErrorBody(msgspec.Struct):
    error: _ErrorCode | None = None


def error_code(body: bytes) -> str:
    """The code in an OpenAI error body, for the log."""
    try:
        error = msgspec.json.decode(body, type=_ErrorBody).error
    except msgspec.MsgspecError:
        return "unknown"
    return str(error.code) if error is not None and error.code is not None else "unknown"
