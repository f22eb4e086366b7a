"""A fake OpenAI server that is no bottleneck: one uvloop Protocol, answers made at start.

It plays one engine (one model name on one port, and on a Unix socket beside it). Every streamed
answer has `EVENTS` events: a role chunk, content chunks, a last chunk with `finish_reason`, which
`[DONE]` follows in the same HTTP chunk. The first content chunk repeats the request's nonce
(`bench-000000042`), so that a client can tell its own stream from anybody else's; all else is
made once, at start.

A request for another model is answered 404: a gateway that routes wrongly shows as errors.

How an answer is written (each event is always an HTTP chunk of its own):

* `--writes 65` (default): an engine as fast as it can, each event a write of its own, one a turn of
  the event loop. This is what the table in design/architecture.md measured. The 65 system calls
  cost this server and the client more than a good gateway costs, so they bound streams/s.
* `--writes 1`, or a few: the chunks leave together, as those of a server with a busy event loop do.
  This server is then far from being the bottleneck, and the cost per request shows.
* `--gap-ms G`: G milliseconds between events, each a write of its own: tokens at the pace of a real
  engine, which no gateway gets to read together.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import re
import signal
import tempfile
from pathlib import Path

import httptools
import uvloop

EVENTS = 65
"""Events a stream, without `[DONE]` and without the usage event that a client may ask for."""

NONCE = "bench-{:09d}"
NONCE_PATTERN = re.compile(rb"bench-\d{9}")
NONCE_BYTES = len(NONCE.format(0))

_CONTENT_EVENTS = EVENTS - 2
_TEXT = (
    "the engine answers with small words , one after the other , as a model does when it writes "
    "a long answer to a short question about birds and their nests ."
)
_WORDS = _TEXT.split()
_MODEL = re.compile(rb'"model"\s*:\s*"([^"]+)"')
_STREAM = re.compile(rb'"stream"\s*:\s*true')
_INCLUDE_USAGE = re.compile(rb'"include_usage"\s*:\s*true')
_CREATED = 1_760_000_000
_USAGE = {
    "prompt_tokens": 214,
    "completion_tokens": EVENTS - 2,
    "total_tokens": 214 + EVENTS - 2,
}


def _pieces(nonce: str) -> list[str]:
    """The content of each content event; the nonce comes first."""
    words = [" " + _WORDS[i % len(_WORDS)] for i in range(_CONTENT_EVENTS - 1)]
    return [nonce, *words]


def expected_content(nonce: str) -> str:
    """The text that the stream of the request with this nonce must add up to."""
    return "".join(_pieces(nonce))


def _http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _respond(status: str, body: bytes, content_type: str = "application/json") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Answers:
    """All answers of one model, ready to be written."""

    def __init__(self, model: str) -> None:
        self.model = model.encode()
        self._placeholder = NONCE.format(0).encode()
        self.stream = self._stream(with_usage=False)
        self.stream_with_usage = self._stream(with_usage=True)
        self.whole = _respond("200 OK", json.dumps(self._whole()).encode())
        card = {"id": model, "object": "model", "created": _CREATED, "owned_by": "benchmark"}
        models = {"object": "list", "data": [card]}
        info = {"model_path": model, "served_model_name": model, "is_generation": True}
        self.get = {
            b"/health": _respond("200 OK", b"", "text/plain"),
            b"/healthz": _respond("200 OK", b"", "text/plain"),
            b"/v1/models": _respond("200 OK", json.dumps(models).encode()),
            b"/version": _respond("200 OK", b'{"version": "0"}'),
            b"/get_model_info": _respond("200 OK", json.dumps(info).encode()),
            b"/get_server_info": _respond("200 OK", json.dumps(info).encode()),
            b"/metrics": _respond("200 OK", b"", "text/plain"),
        }
        error = {
            "error": {
                "message": f"this server serves {model} only: wrongly routed",
                "type": "invalid_request_error",
                "code": "model_not_found",
            }
        }
        self.wrong_model = _respond("404 Not Found", json.dumps(error).encode())
        self.not_found = _respond("404 Not Found", b'{"detail": "Not Found"}')

    def _stream(self, *, with_usage: bool) -> list[bytes]:
        """HTTP chunks of a streamed answer; the head goes with the first, the end with the last."""
        base = {
            "id": "chatcmpl-5f1d7a8e4b3c4f0f9a6e2d1c0b9a8f7e",
            "object": "chat.completion.chunk",
            "created": _CREATED,
            "model": self.model.decode(),
        }

        def event(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
            choice = {
                "index": 0,
                "delta": delta,
                "logprobs": None,
                "finish_reason": finish_reason,
                "token_ids": None,
            }
            data = json.dumps({**base, "choices": [choice]}, separators=(",", ":"))
            return f"data: {data}\n\n".encode()

        events = [event({"role": "assistant", "content": ""})]
        events += [event({"content": piece}) for piece in _pieces(self._placeholder.decode())]
        last = event({"content": ""}, "stop")
        if with_usage:
            events.append(last)
            usage = json.dumps({**base, "choices": [], "usage": _USAGE}, separators=(",", ":"))
            last = f"data: {usage}\n\n".encode()
        events.append(last + b"data: [DONE]\n\n")
        chunks = [_http_chunk(data) for data in events]
        head = (
            b"HTTP/1.1 200 OK\r\ndate: Thu, 09 Oct 2025 08:53:20 GMT\r\nserver: uvicorn\r\n"
            b"content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        chunks[0] = head + chunks[0]
        chunks[-1] += b"0\r\n\r\n"
        return chunks

    def _whole(self) -> dict[str, object]:
        text = expected_content(self._placeholder.decode())
        return {
            "id": "chatcmpl-5f1d7a8e4b3c4f0f9a6e2d1c0b9a8f7e",
            "object": "chat.completion",
            "created": _CREATED,
            "model": self.model.decode(),
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": _USAGE,
        }

    def for_nonce(self, body: bytes) -> bytes:
        """The nonce of a request's body, or the placeholder where there is none."""
        found = NONCE_PATTERN.search(body)
        return found.group() if found else self._placeholder


def _grouped(chunks: list[bytes], writes: int) -> list[bytes]:
    """`chunks` joined into at most `writes` groups of about the same number of chunks."""
    count = len(chunks)
    edges = [round(i * count / writes) for i in range(writes + 1)]
    return [b"".join(chunks[a:b]) for a, b in itertools.pairwise(edges) if b > a]


class Connection(asyncio.Protocol):
    """One kept-alive HTTP/1.1 connection; requests on it are answered in turn."""

    def __init__(self, answers: Answers, groups: dict[bool, list[bytes]], gap_s: float) -> None:
        self._answers = answers
        self._groups = groups
        self._gap_s = gap_s
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._body: list[bytes] = []
        self._path = b""
        self._timer: asyncio.Handle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    # httptools calls these.
    def on_url(self, url: bytes) -> None:
        self._path = url
        self._body = []

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        answers = self._answers
        if self._parser.get_method() == b"GET":
            self._transport.write(answers.get.get(self._path, answers.not_found))
            return
        body = b"".join(self._body)
        if not self._path.startswith(b"/v1/chat/completions"):
            self._transport.write(answers.not_found)
            return
        model = _MODEL.search(body)
        if model is None or model.group(1) != answers.model:
            self._transport.write(answers.wrong_model)
            return
        if not _STREAM.search(body):
            nonce = answers.for_nonce(body)
            self._transport.write(answers.whole.replace(NONCE.format(0).encode(), nonce, 1))
            return
        with_usage = b"include_usage" in body and _INCLUDE_USAGE.search(body) is not None
        self._send(self._groups[with_usage], 0, answers.for_nonce(body))

    def _send(self, groups: list[bytes], index: int, nonce: bytes) -> None:
        group = groups[index]
        at = group.find(b"bench-") if index < 2 else -1  # the nonce is in the second event
        if at >= 0:
            group = b"".join((group[:at], nonce, group[at + NONCE_BYTES :]))
        self._transport.write(group)
        index += 1
        if index == len(groups):
            self._timer = None
        elif self._gap_s > 0:
            self._timer = self._loop.call_later(self._gap_s, self._send, groups, index, nonce)
        else:
            self._timer = self._loop.call_soon(self._send, groups, index, nonce)


def socket_of(port: int) -> Path:
    """The Unix socket on which the upstream of a port listens, too."""
    return Path(tempfile.gettempdir()) / f"aviary-bench-upstream-{port}.sock"


async def _serve(port: int, model: str, writes: int, gap_s: float) -> None:
    answers = Answers(model)
    if gap_s > 0:
        writes = EVENTS + 1
    groups = {
        False: _grouped(answers.stream, writes),
        True: _grouped(answers.stream_with_usage, writes),
    }
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)

    def connection() -> Connection:
        return Connection(answers, groups, gap_s)

    path = socket_of(port)
    path.unlink(missing_ok=True)
    servers = [
        await loop.create_server(connection, "127.0.0.1", port, backlog=4096),
        await loop.create_unix_server(connection, path, backlog=4096),
    ]
    gc.collect()
    gc.freeze()
    await stopped.wait()
    for server in servers:
        server.close()
    path.unlink(missing_ok=True)


def main() -> None:
    """Serve one model until SIGTERM."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--writes", type=int, default=EVENTS, help="writes a stream without gap")
    parser.add_argument("--gap-ms", type=float, default=0.0, help="milliseconds between events")
    args = parser.parse_args()
    uvloop.run(_serve(args.port, args.model, max(1, args.writes), args.gap_ms / 1000))


if __name__ == "__main__":
    main()
