"""llama.cpp inside the replica's own process, through xllamacpp.

xllamacpp starts llama.cpp's own server on threads of this process. We talk to it over a Unix socket
in a private folder instead of its Python callbacks (docs/adr/0004): tokens then never pass through
Python objects, the other OpenAI routes come for free, and the very same pass-through serves engines
that are child processes.

Cancellation: llama.cpp notices a closed connection when it next writes to it. We therefore always
ask for a stream, with progress events while the prompt is computed (one a batch), which are left
out again here (an empty piece instead says that the engine lives); whoever wanted one JSON document
gets the stream folded into one.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from aviary.config.places import Places
from aviary.config.spec import LlamaCppEngine, ModelSpec
from aviary.core.errors import (
    AviaryError,
    Crashed,
    EngineError,
    InvalidRequest,
    Overloaded,
    PromptTooLong,
    StartFailed,
    TimedOut,
)
from aviary.core.ports import ByteStream, Continuation, EngineRequest, EngineResponse, Progress
from aviary.core.states import EngineStats
from aviary.engines.chunks import ChunkFolder
from aviary.engines.llamacpp_continue import COMPLETION, Rewritten, find_seam
from aviary.engines.llamacpp_events import EventFilter
from aviary.engines.stream import OwnedStream, single
from aviary.engines.templates import chat_template
from aviary.weights.cache import WeightCache
from aviary.wire.asgi import EVENT_STREAM, JSON
from aviary.wire.client import Client, ConnectFailed, Response, Target, UpstreamSilent, WireError
from aviary.wire.sse import EventSplitter, payload, split_events

GGUF_MAGIC = b"GGUF"
LOOP_BEGINS_S = 60.0
ANSWER_LIMIT_BYTES = 64 * 1024 * 1024
STREAMED = frozenset({"/v1/chat/completions", "/v1/completions"})
ALIASES = frozenset({"n_predict", "n_cmpl"})
"""llama.cpp's own names of `max_tokens` and `n`: they would pass by the spec's hard limits."""


class LlamaCpp:
    """An `Engine` on llama.cpp. See `aviary.core.ports.Engine`."""

    def __init__(self, spec: ModelSpec, engine: LlamaCppEngine, places: Places) -> None:
        self._spec = spec
        self._engine = engine
        self._places = places
        self._server: Any = None
        self._weights: _WeightsFile | None = None
        self._client: Client | None = None
        self._folder: Path | None = None
        self._target = Target()
        self._key = secrets.token_urlsafe(24)
        self._auth = [
            (b"authorization", b"Bearer " + self._key.encode()),
            (b"content-type", b"application/json"),
        ]
        self._running = 0
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._streams: set[EventFilter] = set()

    async def start(self, progress: Progress) -> None:
        """Fetch the weights if they are not here, and load them."""
        source = self._spec.source
        if source is None:
            raise StartFailed(f"{self._spec.id}: a llamacpp engine needs source.uri.")
        cache = WeightCache(self._places.weights_dir)
        path = await asyncio.to_thread(cache.ensure, source, progress)
        self._weights = _identify_gguf(path)
        await self._open(path, progress)

    async def _open(self, path: Path, progress: Progress) -> None:
        progress("loading the weights", None)
        self._folder = Path(tempfile.mkdtemp(prefix="aviary-", dir=self._places.runtime))
        address = self._folder / "engine.sock"
        try:
            self._server = await asyncio.to_thread(self._load, path, address)
        except Exception as error:
            await self.stop()
            raise StartFailed(
                f"{self._spec.id}: llama.cpp could not load {path}: {error}",
                hint="Its own words are in `aviary logs`.",
            ) from error
        self._target = Target(path=str(address))
        self._client = Client()

    def _load(self, path: Path, address: Path) -> Any:
        import xllamacpp

        engine = self._engine
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.model_alias = {self._spec.id}
        params.hostnames = [str(address)]
        params.api_keys = [self._key]
        params.ui = False
        params.verbosity = 2
        params.n_parallel = engine.slots
        # llama.cpp divides n_ctx by the slots; ours is the context of one request.
        params.n_ctx = engine.slots * engine.context_length
        params.n_batch = params.n_ubatch = engine.batch_tokens
        params.cache_ram_mib = engine.prompt_cache_mb
        # One thread of its HTTP pool serves a request to its end: one for each slot, and spare ones
        # for health probes.
        params.n_threads_http = engine.slots + 4
        params.warmup = False  # the replica's readiness generation does that
        threads = max(1, math.ceil(self._spec.resources.cpus))
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        if self._spec.resources.gpus == 0:
            params.n_gpu_layers = 0
        template = chat_template(self._spec.chat)
        if template is not None:
            params.chat_template = template
        if engine.embeddings:
            params.embedding = True
            params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        server = xllamacpp.Server(params)
        _wait_until_it_works(address, self._key)
        return server

    async def generate(self, request: EngineRequest) -> EngineResponse:
        """Begin one generation."""
        embeddings = request.path == "/v1/embeddings"
        if embeddings != self._engine.embeddings:
            raise InvalidRequest(
                f"Model {self._spec.id} serves "
                + ("embeddings only." if self._engine.embeddings else "no embeddings."),
                hint="" if self._engine.embeddings else "Set engine.embeddings in its spec.",
            )
        if request.continuation is not None:
            return await self._continue(request, request.continuation)
        streamed = request.path in STREAMED
        wants_stream = streamed and bool(request.body.get("stream"))
        wants_progress = bool(request.body.get("return_progress"))
        body = {name: value for name, value in request.body.items() if name not in ALIASES}
        if streamed:
            body |= {
                "stream": True,
                "stream_options": {"include_usage": True},
                "return_progress": True,
            }
        self._running += 1
        response: Response | None = None
        try:
            response = await self._send(request.path, body)
            if response.status != 200 or not streamed:
                answer = await response.read_all(ANSWER_LIMIT_BYTES)
        except WireError as error:
            self._done(response)
            raise self._wire_error(error) from error
        except BaseException:
            self._done(response)
            raise
        if response.status != 200:
            self._done(response)
            raise self._error(answer, response.status)
        if not streamed:
            self._done(response)
            return EngineResponse(200, [JSON], OwnedStream(single(answer), lambda: None))
        events = EventFilter(request.path, request.body, keep_progress=wants_progress)
        self._streams.add(events)

        def close() -> None:
            self._streams.discard(events)
            self._prompt_tokens += events.prompt_tokens
            self._completion_tokens += events.completion_tokens or events.generated
            self._done(response)

        stream = self._stream(response, events)
        if wants_stream:
            return EngineResponse(200, [EVENT_STREAM], OwnedStream(stream, close))
        return EngineResponse(200, [JSON], OwnedStream(self._fold(stream, request.path), close))

    async def _continue(self, request: EngineRequest, given: Continuation) -> EngineResponse:
        seam = await find_seam(self._ask, request, given, self._engine.context_length)
        if seam.finish:
            stream: ByteStream = OwnedStream(single(seam.end()), lambda: None)
            return EngineResponse(200, [EVENT_STREAM], stream)
        rest = await self.generate(EngineRequest(COMPLETION, seam.body, request.request_id))
        return EngineResponse(rest.status, rest.headers, Rewritten(rest.body, seam))

    async def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        response = await self._send(path, body)
        try:
            answer = await response.read_all(ANSWER_LIMIT_BYTES)
        except WireError as error:
            raise self._wire_error(error) from error
        finally:
            response.close()
        if response.status != 200:
            raise self._error(answer, response.status)
        fields: dict[str, Any] = msgspec.json.decode(answer)
        return fields

    async def _send(self, path: str, body: dict[str, Any]) -> Response:
        if self._client is None:
            raise Crashed(f"{self._spec.id}: the engine is not running.")
        try:
            return await self._client.request(
                self._target,
                "POST",
                path,
                self._auth,
                msgspec.json.encode(body),
                silence_s=self._spec.limits.timeout,
            )
        except WireError as error:
            raise self._wire_error(error) from error

    async def _stream(self, response: Response, events: EventFilter) -> AsyncGenerator[bytes, None]:
        splitter = EventSplitter()
        try:
            while data := await response.read():
                yield events.feed(splitter.feed(data))  # nothing, for progress: a sign of life
        except WireError as error:
            raise self._wire_error(error) from error

    async def _fold(
        self, stream: AsyncGenerator[bytes, None], path: str
    ) -> AsyncGenerator[bytes, None]:
        folder = ChunkFolder(chat=path == "/v1/chat/completions")
        async with contextlib.aclosing(stream):
            async for piece in stream:
                for event in split_events(piece):
                    data = payload(event)
                    if not data or data == b"[DONE]":
                        continue
                    chunk = msgspec.json.decode(data)
                    if "error" in chunk:
                        raise self._error(data, 500)
                    folder.add(chunk)
                yield b""  # a sign of life
        yield msgspec.json.encode(folder.answer())

    def _done(self, response: Response | None) -> None:
        self._running -= 1
        if response is not None:
            response.close()

    def _error(self, body: bytes, status: int) -> AviaryError:
        """What llama.cpp's error object means."""
        try:
            error = msgspec.json.decode(body)["error"]
            message, kind = str(error["message"]), error.get("type", "")
        except (msgspec.MsgspecError, KeyError, TypeError):
            return EngineError(f"llama.cpp answered {status}: {body[:300]!r}")
        if kind == "exceed_context_size_error":
            return PromptTooLong(
                f"The prompt has {error.get('n_prompt_tokens')} tokens; the context of model "
                f"{self._spec.id} is {self._engine.context_length} tokens, prompt and output "
                "together.",
                hint="Shorten the prompt.",
                param="prompt",
            )
        if status == 503 or kind == "unavailable_error":
            return Overloaded(f"llama.cpp is not ready: {message}", retry_after_s=1)
        if status < 500 or kind in ("invalid_request_error", "not_supported_error"):
            return InvalidRequest(message)
        # RuntimeErrors inside llama.cpp about what was sent, for example image input or odd tools.
        if "is not supported" in message or message.startswith("Failed to parse "):
            return InvalidRequest(message)
        return EngineError(f"llama.cpp: {message}")

    def _wire_error(self, error: WireError) -> AviaryError:
        if isinstance(error, UpstreamSilent):
            return TimedOut(f"{self._spec.id}: the engine was silent for too long.")
        if isinstance(error, ConnectFailed):
            return Crashed(f"{self._spec.id}: the engine does not answer: {error}")
        return Crashed(f"{self._spec.id}: the engine broke off: {error}")

    def stats(self) -> EngineStats:
        """The present load."""
        return EngineStats(
            running=self._running,
            prompt_tokens=self._prompt_tokens,
            # What runs counts as it comes, or a rate would jump at the end of each answer.
            completion_tokens=self._completion_tokens
            + sum(events.generated for events in self._streams),
        )

    async def healthy(self) -> None:
        """A probe of llama.cpp's own HTTP thread."""
        if self._client is None:
            raise Crashed(f"{self._spec.id}: the engine is not running.")
        try:
            response = await self._client.request(
                self._target, "GET", "/health", self._auth, silence_s=10
            )
        except WireError as error:
            raise self._wire_error(error) from error
        try:
            await response.read_all(65536)
        finally:
            response.close()
        if response.status != 200:
            raise EngineError(f"{self._spec.id}: llama.cpp's health is {response.status}")

    async def sleep(self) -> None:
        """Unload weights and KV cache; llama.cpp's threads end."""
        await self.stop()

    async def wake(self, progress: Progress) -> None:
        """Load the weights again: at once while their file is the one that was loaded before.

        Otherwise (the cache was cleared, the file was exchanged) as `start` does, checksum and all.
        """
        weights = self._weights
        if weights is None or not weights.unchanged():
            await self.start(progress)
        else:
            await self._open(weights.path, progress)

    async def stop(self) -> None:
        """Free weights and KV cache."""
        if self._client is not None:
            await self._client.close()
            self._client = None
        server, self._server = self._server, None
        if server is not None:
            holder = [server]
            del server
            await asyncio.to_thread(_destroy, holder)
        if self._folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
            self._folder = None


def _wait_until_it_works(path: Path, key: str) -> None:
    """Ask for the slots, which llama.cpp's loop itself answers.

    That loop begins a moment after the constructor, on a thread of its own. A server that is
    destroyed before waits for ever for its end.
    """
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(LOOP_BEGINS_S)
        asking.connect(str(path))
        head = f"GET /slots HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\n"
        asking.sendall(head.encode() + b"connection: close\r\n\r\n")
        if not asking.recv(1024).startswith(b"HTTP/1.1 200 "):
            raise OSError("its server does not answer")


def _destroy(holder: list[Any]) -> None:
    """Drop the last reference here, in a thread: the destructor waits for llama.cpp's threads."""
    holder.clear()


@dataclass(frozen=True, slots=True)
class _WeightsFile:
    """A file as it was when its bytes were known to be right."""

    path: Path
    identity: tuple[int, int, int, int]

    def unchanged(self) -> bool:
        """Whether the path still leads to that file, and nobody has written to it."""
        try:
            return _identity(self.path.stat()) == self.identity
        except OSError:
            return False


def _identity(stat: os.stat_result) -> tuple[int, int, int, int]:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def _identify_gguf(path: Path) -> _WeightsFile:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
            stat = os.fstat(file.fileno())
    except OSError as error:
        raise StartFailed(f"{path} cannot be read: {error.strerror}.") from error
    if magic != GGUF_MAGIC:
        raise StartFailed(
            f"{path} ({stat.st_size} bytes) is not a GGUF file: it begins with {magic!r}.",
            hint="The llamacpp engine reads GGUF weights only.",
        )
    return _WeightsFile(path, _identity(stat))
