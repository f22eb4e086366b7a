"""Everything that is not generation goes to the web app in the control process, byte for byte."""

from __future__ import annotations

import asyncio

import structlog

from aviary.core.errors import Unavailable
from aviary.wire.asgi import (
    ADDRESS_HEADER,
    KEY_HEADER,
    ROLE_HEADER,
    TOKEN_HEADER,
    Leaving,
    Receive,
    Scope,
    Send,
    read_body,
)
from aviary.wire.client import Client, Target, WireError

log = structlog.get_logger()

SILENCE_S = 120.0
# Of the client's headers only these mean anything behind the gateway; all others stay outside.
PASSED = frozenset({b"content-type", b"accept", b"last-event-id", b"if-none-match"})
HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"content-length"})


async def forward(
    client: Client,
    control: Target,
    token: bytes,
    identity: tuple[str, str],
    request: tuple[Scope, Receive, Send],
    max_body_bytes: int,
) -> None:
    """Ask the control process, in the role of the client, and pass its answer on.

    Args:
        client: Connections.
        control: The control process.
        token: The internal token.
        identity: The client's role, and its key's id.
        request: What the client sent, and the way back.
        max_body_bytes: Largest body.

    Raises:
        Unavailable: the control process cannot be reached.
    """
    scope, receive, send = request
    body = await read_body(receive, max_body_bytes)
    headers = [(name, value) for name, value in scope["headers"] if name in PASSED]
    headers.append((TOKEN_HEADER, token))
    headers.append((ROLE_HEADER, identity[0].encode()))
    headers.append((KEY_HEADER, identity[1].encode()))
    if address := scope.get("client"):
        headers.append((ADDRESS_HEADER, str(address[0]).encode("ascii", "replace")))
    path = scope["raw_path"].decode("ascii")
    query: bytes = scope["query_string"]
    if query:
        path = f"{path}?{query.decode('ascii', 'replace')}"
    leaving = Leaving(scope, receive)
    try:
        await _pass(client, control, scope["method"], path, headers, body, send)
    except asyncio.CancelledError:
        if not leaving.left:
            raise
        leaving.swallow()
    finally:
        leaving.stop()


async def _pass(
    client: Client,
    control: Target,
    method: str,
    path: str,
    headers: list[tuple[bytes, bytes]],
    body: bytes,
    send: Send,
) -> None:
    try:
        response = await client.request(control, method, path, headers, body, silence_s=SILENCE_S)
    except WireError as error:
        raise Unavailable(f"The control process does not answer: {error}.") from error
    try:
        kept = [(n, v) for n, v in response.headers if n not in HOP_BY_HOP]
        start = {"type": "http.response.start", "status": response.status, "headers": kept}
        await send(start)
        while data := await response.read():
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    except WireError as error:
        # The head is out: all that can be done is not to end the body, so that the client notices.
        log.warning("the control process broke off its answer", path=path, error=str(error))
    finally:
        response.close()
