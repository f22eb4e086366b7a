"""A stand-in for a running Aviary: real HTTP from the standard library, scripted answers."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

Handler = Callable[["Call"], None]


@dataclass
class Call:
    """One request that the stand-in got, and how to answer it."""

    http: BaseHTTPRequestHandler
    method: str
    path: str
    params: dict[str, str]
    body: Any

    def json(self, data: Any, status: int = 200, **headers: str) -> None:
        self.raw(json.dumps(data).encode(), status, "application/json", **headers)

    def raw(self, body: bytes, status: int, kind: str, **headers: str) -> None:
        self.http.send_response(status)
        self.http.send_header("content-type", kind)
        self.http.send_header("content-length", str(len(body)))
        for name, value in headers.items():
            self.http.send_header(name.replace("_", "-"), value)
        self.http.end_headers()
        self.http.wfile.write(body)

    def error(self, status: int, code: str, message: str, **headers: str) -> None:
        body = {"error": {"message": message, "type": "x", "param": None, "code": code}}
        self.json(body, status, **headers)

    def stream(self, events: list[Any], *, gap: float = 0.0, end: bool = True) -> None:
        """Send events (objects, or seconds to wait), then [DONE] or nothing."""
        self.http.send_response(200)
        self.http.send_header("content-type", "text/event-stream")
        self.http.send_header("x-request-id", "req-1")
        self.http.send_header("x-aviary-replica", "m/ab12cd")
        self.http.send_header("connection", "close")
        self.http.end_headers()
        for event in events:
            data = f"data: {json.dumps(event, ensure_ascii=False)}\n\n".encode()
            half = len(data) // 2  # events do not come in whole packets
            self.http.wfile.write(data[:half])
            self.http.wfile.flush()
            time.sleep(gap)
            self.http.wfile.write(data[half:])
            self.http.wfile.flush()
        if end:
            self.http.wfile.write(b"data: [DONE]\n\n")
        self.http.close_connection = True


@dataclass
class Aviary:
    """The stand-in: put handlers into `routes`, read what came from `calls`."""

    url: str = ""
    routes: dict[tuple[str, str], Handler] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)

    def on(self, method: str, path: str, answer: Any) -> None:
        """Answer a route by a handler, or with JSON."""
        handler = answer if callable(answer) else lambda call: call.json(answer)
        self.routes[method, path] = handler


def chat(text: str, *, pieces: int = 3, **usage: Any) -> list[Any]:
    """The chunks of a streamed chat answer."""
    step = max(1, -(-len(text) // pieces))
    parts = [text[at : at + step] for at in range(0, len(text), step)]
    chunks: list[Any] = [{"choices": [{"index": 0, "delta": {"role": "assistant"}}]}]
    chunks += [{"choices": [{"index": 0, "delta": {"content": part}}]} for part in parts]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    counts = {"prompt_tokens": 5, "completion_tokens": 7, **usage}
    chunks.append({"choices": [], "usage": counts})
    return chunks


def model(name: str, **more: Any) -> dict[str, Any]:
    """A model as `/api/models` shows it."""
    return {
        "id": name,
        "state": "ready",
        "spec_hash": "",
        "engine": "fake",
        "context_length": 4096,
        "slots": 8,
        "desired_replicas": 1,
        "replicas": [{"id": f"{name}/ab12cd", "state": "ready", "detail": ""}],
        "running": 1,
        "waiting": 0,
        "totals": {"requests": 12, "errors": 1, "prompt_tokens": 3, "completion_tokens": 345},
        "field_of_a_later_version": 1,
        **more,
    }


@pytest.fixture
def aviary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aviary]:
    state = Aviary()

    class _Http(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def _any(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("content-length") or 0)
            body = self.rfile.read(length)
            params = {name: values[-1] for name, values in parse_qs(parts.query).items()}
            path = unquote(parts.path)
            call = Call(self, self.command, path, params, json.loads(body) if body else None)
            state.calls.append(call)
            handler = state.routes.get((self.command, path))
            try:
                if handler is None:
                    call.error(404, "model_not_found", f"Nothing at {path}.")
                else:
                    handler(call)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        do_GET = do_POST = do_DELETE = _any  # noqa: N815

    class _Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

    server = _Server(("127.0.0.1", 0), _Http)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    monkeypatch.setenv("AVIARY_URL", state.url)
    monkeypatch.delenv("AVIARY_API_KEY", raising=False)
    state.on("GET", "/v1/models", {"object": "list", "data": []})
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> str:
    """An address at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    monkeypatch.setenv("AVIARY_URL", url)
    return url


@pytest.fixture
def chat_chunks() -> Callable[..., list[Any]]:
    return chat


@pytest.fixture
def make_model() -> Callable[..., dict[str, Any]]:
    return model
