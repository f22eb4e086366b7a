"""Asking a replica from outside: for its state, to sleep, to wake."""

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
    status, view = await _ask(client, target, "GET", prefix + "/internal/state", token, silence_s)
    if status != 200 or not isinstance(view, dict) or "state" not in view:
        raise InvalidRequest("not a replica's state")
    return view


async def ask_sleep(
    client: Client, target: Target, prefix: str, token: bytes, timeout_s: float
) -> bool:
    """Ask a replica to sleep; returns when its engine does.

    Returns:
        Whether it sleeps now. It does not when a request runs or waits there, or when it is not
        ready: then nothing has happened.

    Raises:
        WireError: it does not answer within `timeout_s` seconds; it may fall asleep yet.
        InvalidRequest: it could not, and counts as failed; or what answers is no replica.
    """
    path = prefix + "/internal/sleep"
    status, answer = await _ask(client, target, "POST", path, token, timeout_s)
    if status not in (200, 409):
        raise InvalidRequest(f"the replica cannot sleep: {_message(status, answer)}")
    return status == 200


async def ask_wake(
    client: Client, target: Target, prefix: str, token: bytes, timeout_s: float
) -> None:
    """Ask a replica to wake; returns at once, its state then says how that goes.

    Nothing happens when it is awake or wakes already.

    Raises:
        WireError: it does not answer within `timeout_s` seconds.
        InvalidRequest: it has failed or stops; or what answers is no replica.
    """
    path = prefix + "/internal/wake"
    status, answer = await _ask(client, target, "POST", path, token, timeout_s)
    if status != 202:
        raise InvalidRequest(f"the replica cannot wake: {_message(status, answer)}")


async def _ask(
    client: Client, target: Target, method: str, path: str, token: bytes, silence_s: float
) -> tuple[int, object]:
    headers = [(TOKEN_HEADER, token)]
    response = await client.request(target, method, path, headers, silence_s=silence_s)
    try:
        body = await response.read_all(ANSWER_BYTES)
    finally:
        response.close()
    try:
        return response.status, msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"not a replica's answer: {error}") from error


def _message(status: int, answer: object) -> str:
    error = answer.get("error") if isinstance(answer, dict) else None
    return str(error.get("message")) if isinstance(error, dict) else f"status {status}"
