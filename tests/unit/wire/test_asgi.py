import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aviary.core.errors import BodyTooLarge, NotAuthorized, Overloaded, PromptTooLong
from aviary.wire.asgi import (
    BODY_PIPE,
    ClientLeft,
    Leaving,
    Receive,
    error_body,
    error_headers,
    find_header,
    read_body,
    send_bytes,
    send_error,
)

LEFT = {"type": "http.disconnect"}


def receiving(messages: Iterable[dict[str, Any]]) -> tuple[Receive, list[dict[str, Any]]]:
    """A receive callable, and the messages that it has not handed out yet."""
    left = list(messages)

    async def receive() -> dict[str, Any]:
        return left.pop(0)

    return receive, left


def request(*parts: bytes) -> list[dict[str, Any]]:
    return [
        {"type": "http.request", "body": part, "more_body": index < len(parts) - 1}
        for index, part in enumerate(parts)
    ]


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=20))
def test_body_in_many_parts(parts: list[bytes]) -> None:
    receive, left = receiving(request(*parts))
    assert asyncio.run(read_body(receive, 1000)) == b"".join(parts)
    assert left == []


@pytest.mark.parametrize("parts", [[b"12345"], [b"123", b"45"], [b"", b"", b"12345", b""]])
async def test_body_limit_is_exact(parts: list[bytes]) -> None:
    assert await read_body(receiving(request(*parts))[0], 5) == b"12345"
    with pytest.raises(BodyTooLarge, match="4 bytes"):
        await read_body(receiving(request(*parts))[0], 4)


async def test_no_more_is_read_than_needed_to_refuse() -> None:
    receive, left = receiving(request(*[b"x" * 10] * 100))
    with pytest.raises(BodyTooLarge):
        await read_body(receive, 25)
    assert len(left) == 97


@pytest.mark.parametrize("before", [[], request(b"a", b"b")[:1], request(b"a", b"b", b"c")[:2]])
async def test_client_leaves_within_the_body(before: list[dict[str, Any]]) -> None:
    with pytest.raises(ClientLeft):
        await read_body(receiving([*before, LEFT])[0], 100)


async def test_messages_may_lack_their_fields() -> None:
    assert await read_body(receiving([{"type": "http.request"}])[0], 0) == b""


class Pipe:
    """What our server offers in the scope, as far as `Leaving` is concerned."""

    def __init__(self, gone: bool) -> None:
        self.gone = gone
        self.on_left: Callable[[], None] | None = None


async def test_leaving_ignores_the_rest_of_the_body() -> None:
    messages = receiving([*request(b"late", b""), LEFT])[0]
    leaving = Leaving({"type": "http"}, messages)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(60)
    assert leaving.left
    leaving.swallow()
    leaving.stop()
    await asyncio.sleep(0)  # not cancelled any more


@pytest.mark.parametrize("gone_before", [False, True])
async def test_leaving_by_our_servers_pipe(gone_before: bool) -> None:
    pipe = Pipe(gone_before)
    leaving = Leaving({"extensions": {BODY_PIPE: pipe}}, receiving([])[0])
    if not gone_before:
        assert pipe.on_left is not None
        asyncio.get_running_loop().call_soon(pipe.on_left)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(60)
    assert leaving.left
    leaving.swallow()
    leaving.stop()
    assert pipe.on_left is None


async def test_a_cancellation_of_another_kind_is_not_the_clients() -> None:
    leaving = Leaving({"extensions": {BODY_PIPE: Pipe(False)}}, receiving([])[0])
    work = asyncio.current_task()
    assert work is not None
    asyncio.get_running_loop().call_soon(work.cancel)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(60)
    assert not leaving.left
    work.uncancel()
    leaving.stop()


def test_error_body_is_openais() -> None:
    error = PromptTooLong("It has 9 tokens.", hint="Shorten it.", param="prompt")
    assert json.loads(error_body(error)) == {
        "error": {
            "message": "It has 9 tokens. Shorten it.",
            "type": "invalid_request_error",
            "param": "prompt",
            "code": "context_length_exceeded",
            "who": "client",
            "retryable": False,
        }
    }


@pytest.mark.parametrize(("seconds", "header"), [(0.0, b"1"), (0.2, b"1"), (1.2, b"2"), (5, b"5")])
def test_retry_after_is_whole_seconds_and_never_nought(seconds: float, header: bytes) -> None:
    headers = error_headers(Overloaded("busy", retry_after_s=seconds))
    assert find_header(headers, b"retry-after") == header


def test_headers_of_errors() -> None:
    assert find_header(error_headers(Overloaded("busy")), b"retry-after") is None
    assert find_header(error_headers(NotAuthorized("no")), b"www-authenticate") == b"Bearer"


async def test_sent_errors_and_head_answers() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await send_error(send, NotAuthorized("no"), [(b"x-a", b"1")])
    start, body = sent
    assert start["status"] == 401
    assert find_header(start["headers"], b"x-a") == b"1"
    assert find_header(start["headers"], b"content-length") == b"%d" % len(body["body"])
    sent.clear()
    await send_bytes(send, 200, b"12345", head=True)
    assert find_header(sent[0]["headers"], b"content-length") == b"5"
    assert sent[1]["body"] == b""
