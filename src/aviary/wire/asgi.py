"""Small ASGI helpers shared by gateway, replica and control server."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from aviary.core.errors import AviaryError, BodyTooLarge
from aviary.core.ports import Headers

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

BODY_PIPE = "aviary.body_pipe"
"""Key of our server's ASGI extension, see `aviary.wire.server.BodyPipe`."""

JSON = (b"content-type", b"application/json")
EVENT_STREAM = (b"content-type", b"text/event-stream; charset=utf-8")

TOKEN_HEADER = b"x-aviary-token"
"""Carries the cluster's internal token; replicas and control server answer only to it."""
ROLE_HEADER = b"x-aviary-role"
"""Says to the control process whose request a gateway worker forwards: that of an admin, a user, a
visitor or none."""
SNAPSHOTS_PATH = "/internal/snapshots"
"""Where gateway workers follow the fleet's snapshots; never forwarded for clients."""
ACTIVITY_PATH = "/internal/activity"
"""Where they say which models are asked for; never forwarded for clients."""
BATTLES_PATH = "/internal/battles"
"""Where they have battles stored, and below it look at one; never forwarded for clients."""
STOPS_PATH = "/internal/stops"
"""Where they hand on that a column shall stop; never forwarded for clients."""
ADDRESS_HEADER = b"x-aviary-address"
"""Says to the control process from which address a forwarded request came."""
KEY_HEADER = b"x-aviary-key"
"""Says to the control process by whose key a forwarded request came; empty without keys."""
CLIENT_HEADER = b"x-aviary-client"
"""Says to a replica whose request it is: the API key's id, without keys the client's address."""
CONTINUE_HEADER = b"x-aviary-continue"
"""Says to a replica that the request was admitted before, at a replica that died: the body begins
with so many bytes of JSON, a `Continuation`; 0 when the client has nothing of the answer yet."""
LOAD_HEADER = b"x-aviary-load"
"""A replica's load on each of its answers: `running,waiting,slots`."""


class ClientLeft(Exception):
    """The client closed the connection before its request was complete."""


async def read_body(receive: Receive, limit_bytes: int) -> bytes:
    """The request's whole body.

    Raises:
        BodyTooLarge: as soon as it exceeds the limit; the rest is not read.
        ClientLeft: when the client leaves first.
    """
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientLeft
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        _check_size(len(body), limit_bytes)
        return body
    parts = [body]
    size = len(body)
    while True:
        _check_size(size, limit_bytes)
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        part = message.get("body", b"")
        parts.append(part)
        size += len(part)
        if not message.get("more_body"):
            _check_size(size, limit_bytes)
            return b"".join(parts)


def _check_size(size: int, limit_bytes: int) -> None:
    if size > limit_bytes:
        raise BodyTooLarge(
            f"The request body is larger than {limit_bytes} bytes, the most this server accepts.",
            hint="Send less. With an API key, AVIARY_MAX_BODY_MB is the most.",
        )


class Leaving:
    """Cancels the present task as soon as its client has closed the connection.

    Make it when the request body has been read, `stop` it at the end; in between a `CancelledError`
    is the client's leaving when `left` is true, and `swallow` makes the task whole again.
    """

    __slots__ = ("_pipe", "_watcher", "_work", "left")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.left = False
        self._work = asyncio.current_task()
        self._watcher: asyncio.Task[None] | None = None
        self._pipe: Any = (scope.get("extensions") or {}).get(BODY_PIPE)
        if self._pipe is None:  # another server than ours: a task must wait for the message
            self._watcher = asyncio.create_task(self._watch(receive))
        else:
            self._pipe.on_left = self._on_left
            if self._pipe.gone:
                self._on_left()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._on_left()

    def _on_left(self) -> None:
        self.left = True
        if self._work is not None:
            self._work.cancel()

    def swallow(self) -> None:
        """Take the cancellation back: it was only ours."""
        if self._work is not None:
            self._work.uncancel()

    def stop(self) -> None:
        """Watch no more."""
        if self._watcher is not None:
            self._watcher.cancel()
        else:
            self._pipe.on_left = None


async def send_bytes(
    send: Send, status: int, body: bytes, headers: Headers = (JSON,), *, head: bool = False
) -> None:
    """Send a complete answer."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [*headers, (b"content-length", b"%d" % len(body))],
        }
    )
    await send({"type": "http.response.body", "body": b"" if head else body})


async def send_json(send: Send, status: int, data: Any, headers: Headers = ()) -> None:
    """Send an object as JSON."""
    await send_bytes(send, status, msgspec.json.encode(data), (JSON, *headers))


def error_body(error: AviaryError) -> bytes:
    """OpenAI's error object for an error."""
    return msgspec.json.encode(
        {
            "error": {
                "message": str(error),
                "type": error.type,
                "param": error.param,
                "code": error.code,
                "who": error.who,
                "retryable": error.retryable,
            }
        }
    )


def error_headers(error: AviaryError) -> list[tuple[bytes, bytes]]:
    """Headers that belong to an error: JSON, `retry-after` when known, `www-authenticate`."""
    headers = [JSON]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return headers


async def send_error(send: Send, error: AviaryError, headers: Headers = ()) -> None:
    """Send an error in OpenAI's shape."""
    await send_bytes(send, error.status, error_body(error), [*error_headers(error), *headers])


def find_header(headers: Headers, name: bytes) -> bytes | None:
    """Value of the first header of that (lower case) name."""
    for key, value in headers:
        if key == name:
            return value
    return None
