"""Asking a replica for its state, from outside: `GET /internal/state`."""

from __future__ import annotations

import msgspec

from aviary.core.errors import InvalidRequest
from aviary.wire.asgi import TOKEN_HEADER
from aviary.wire.client import Client, Target

ANSWER_BYTES = 1024 * 1024


async def ask_state(
    client: Client, target: Target, prefix: str, token: bytes, silence_s: float
) -> dict[str, object]:
    """State, load and statistics as the replica itself says them (`ReplicaApp.view`).

    Raises:
        WireError: it does not answer.
        InvalidRequest: what it answers is no replica's state.
    """
    headers = [(TOKEN_HEADER, token)]
    path = prefix + "/internal/state"
    response = await client.request(target, "GET", path, headers, silence_s=silence_s)
    try:
        body = await response.read_all(ANSWER_BYTES)
    finally:
        response.close()
    try:
        view = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"not a replica's state: {error}") from error
    if response.status != 200 or not isinstance(view, dict) or "state" not in view:
        raise InvalidRequest("not a replica's state")
    return view
