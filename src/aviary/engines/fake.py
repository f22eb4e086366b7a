"""The fake engine: scripted tokens, known times, faults on demand.

It ships with Aviary: for tests and benchmarks, and for trying the fleet without weights. Its text
is a pure function of the request (`scripted_text`), so anyone can check an answer byte by byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import signal
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import msgspec

from aviary.config.spec import FakeEngine, FakeFault
from aviary.core.errors import Crashed, EngineError, InvalidRequest, PromptTooLong, StartFailed
from aviary.core.ports import READINESS, EngineRequest, EngineResponse, Progress
from aviary.core.states import EngineStats
from aviary.engines.chunks import ChunkFolder
from aviary.engines.stream import OwnedStream
from aviary.wire.asgi import EVENT_STREAM, JSON
from aviary.wire.sse import DONE, encode_event, payload, split_events

WORDS = (
    *("heron", "wren", "kestrel", "plover", "siskin", "lapwing", "dunlin", "avocet", "bittern"),
    *("curlew", "gannet", "fulmar", "petrel", "shrike", "dipper", "linnet", "twite", "smew"),
)
_WORD = re.compile(r"\s*\S+")


def scripted_text(body: dict[str, Any], tokens: int) -> list[str]:
    """The tokens the fake engine answers to a request body.

    They depend on the last user message (or the prompt), on `seed`, and on nothing else.
    """
    key = f"{body.get('seed')}|{prompt_text(body)}".encode(errors="surrogatepass")
    digest = hashlib.sha256(key).digest()
    result = []
    for index in range(tokens):
        word = WORDS[(digest[index % 32] + index) % len(WORDS)]
        result.append(word if index == 0 else f" {word}")
    return result


def words_of(text: str) -> list[str]:
    """A text as tokens: each word with the space before it, the last also with that after it."""
    words = _WORD.findall(text)
    end = text[len("".join(words)) :]
    return [*words[:-1], words[-1] + end] if words else [text]


def until_stop(tokens: list[str], stop: str | list[str] | None) -> tuple[list[str], bool]:
    """The tokens generated until a stop string is complete, and whether one was.

    Their text ends before the stop string: the tokens that only made it up are empty.
    """
    stops = [stop] if isinstance(stop, str) else [text for text in stop or () if text]
    text = ""
    for count, token in enumerate(tokens, 1):
        text += token
        found = [at for at in (text.find(wanted) for wanted in stops if wanted) if at >= 0]
        if not found:
            continue
        left = min(found)
        shown = []
        for made in tokens[:count]:
            shown.append(made[:left])
            left -= len(shown[-1])
        return shown, True
    return tokens, False


def count_given(tokens: list[str], text: str) -> int:
    """How many of the tokens make up a text that was answered already."""
    left = len(text)
    for count, token in enumerate(tokens):
        if left <= 0:
            return count
        left -= len(token)
    return len(tokens)


def prompt_text(body: dict[str, Any]) -> str:
    """The last user message's text, or the prompt of a completion."""
    messages = body.get("messages")
    if not isinstance(messages, list):
        return str(body.get("prompt", ""))
    for message in reversed(messages):
        if isinstance(message, dict) and message.get("role") == "user":
            return str(message.get("content"))
    return ""


def count_words(body: dict[str, Any]) -> int:
    """Prompt tokens as the fake engine counts them: words."""
    messages = body.get("messages")
    if not isinstance(messages, list):
        return len(str(body.get("prompt", "")).split())
    return sum(len(str(m.get("content", "")).split()) for m in messages if isinstance(m, dict))


@dataclass(frozen=True, slots=True)
class _Script:
    """What one generation plays.

    Attributes:
        tokens: The whole answer.
        finish: Its finish reason; empty when the client has that already.
        prompt_tokens: Length of the prompt.
        given: How many tokens the client has already.
        continued: Whether this goes on with an answer that another replica began.
    """

    tokens: list[str]
    finish: str
    prompt_tokens: int
    given: int
    continued: bool


class FakeTextEngine:
    """An `Engine` that plays a script. See `aviary.config.spec.FakeEngine` for what it can do."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self._says = [] if engine.says is None else words_of(engine.says)
        self._tokens = len(self._says) or engine.tokens
        self._started = False
        self._running = 0
        self._requests = 0
        self._prompt_tokens = 0
        self._completion_tokens = 0

    async def start(self, progress: Progress) -> None:
        """Take as long as the spec says, in ten steps."""
        if self._engine.fail_start is not None:
            raise StartFailed(self._engine.fail_start)
        for step in range(10):
            progress("loading nothing", step / 10)
            await asyncio.sleep(self._engine.start / 10)
        self._started = True

    async def generate(self, request: EngineRequest) -> EngineResponse:
        """Play the script for one request."""
        if not self._started:
            raise Crashed("The engine is not running.")
        body = request.body
        if request.path == "/v1/embeddings":
            return self._owned([JSON], self._embed(body))
        chat = request.path == "/v1/chat/completions"
        if not chat and request.path != "/v1/completions":
            raise InvalidRequest(f"The fake engine does not serve {request.path}.")
        if body.get("n") not in (None, 1):
            raise InvalidRequest("The fake engine gives one answer; n must be 1.", param="n")
        prompt_tokens = count_words(body)
        if prompt_tokens >= self._engine.context_length:
            raise PromptTooLong(
                f"The prompt has {prompt_tokens} tokens; the context is "
                f"{self._engine.context_length} tokens.",
                hint="Shorten the prompt.",
            )
        wanted = body.get("max_tokens")
        most = min(
            self._tokens if wanted is None else min(int(wanted), self._tokens),
            self._engine.context_length - prompt_tokens,
        )
        tokens = self._says[:most] or scripted_text(body, most)
        tokens, stopped = until_stop(tokens, body.get("stop"))
        finish = "stop" if stopped or most == self._tokens else "length"
        given = 0
        if request.continuation is not None:
            given = count_given(tokens, request.continuation.text)
            if request.continuation.finish is not None:
                given, finish = len(tokens), ""
        self._requests += 1
        fault = next((f for f in self._engine.faults if self._requests % f.every == 0), None)
        if request.request_id == READINESS:
            fault = None  # a replica that never gets ready has no chance to commit one
        if fault is not None and fault.kind == "error" and fault.at_token == 0:
            raise EngineError("The fake engine fails, as its spec asks.")
        script = _Script(tokens, finish, prompt_tokens, given, request.continuation is not None)
        events = self._events(body, chat, script, fault)
        if body.get("stream"):
            return self._owned([EVENT_STREAM], events)
        return self._owned([JSON], _fold(events, chat))

    def _owned(
        self, headers: list[tuple[bytes, bytes]], source: AsyncGenerator[bytes, None]
    ) -> EngineResponse:
        self._running += 1
        return EngineResponse(200, headers, OwnedStream(source, self._done))

    def _done(self) -> None:
        self._running -= 1

    async def _events(
        self,
        body: dict[str, Any],
        chat: bool,
        script: _Script,
        fault: FakeFault | None,
    ) -> AsyncGenerator[bytes, None]:
        kind = "chat.completion.chunk" if chat else "text_completion"
        top = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-fake{self._requests}",
            "object": kind,
            "created": int(time.time()),
            "model": body.get("model", ""),
        }

        def chunk(text: str | None, reason: str | None) -> bytes:
            choice: dict[str, Any] = {"index": 0, "finish_reason": reason}
            if chat:
                choice["delta"] = {} if text is None else {"content": text}
            else:
                choice["text"] = text or ""
            return encode_event({**top, "choices": [choice]})

        self._prompt_tokens += script.prompt_tokens
        loop = asyncio.get_running_loop()
        sent = 0
        if chat and not script.continued:
            first = {"index": 0, "delta": {"role": "assistant", "content": ""}}
            yield encode_event({**top, "choices": [{**first, "finish_reason": None}]})
        due = loop.time() + self._engine.time_to_first_token
        for token in script.tokens[script.given :]:
            if fault is not None and sent >= fault.at_token:
                await _commit(fault)
                return
            await _sleep_until(loop, due)
            due += self._engine.gap
            sent += 1
            self._completion_tokens += 1
            if token:
                yield chunk(token, None)
        if fault is not None:
            await _commit(fault)
            return
        await _sleep_until(loop, due)
        if script.finish:
            yield chunk(None, script.finish)
        usage = {
            "prompt_tokens": script.prompt_tokens,
            "completion_tokens": script.given + sent,
            "total_tokens": script.prompt_tokens + script.given + sent,
        }
        yield encode_event({**top, "choices": [], "usage": usage}) + DONE

    async def _embed(self, body: dict[str, Any]) -> AsyncGenerator[bytes, None]:
        given = body.get("input")
        texts = given if isinstance(given, list) else [given]
        data = []
        for index, text in enumerate(texts):
            digest = hashlib.sha256(str(text).encode(errors="surrogatepass")).digest()
            vector = [byte / 255 for byte in digest]
            data.append({"object": "embedding", "index": index, "embedding": vector})
        words = sum(len(str(text).split()) for text in texts)
        usage = {"prompt_tokens": words, "total_tokens": words}
        answer = {"object": "list", "data": data, "model": body.get("model"), "usage": usage}
        yield msgspec.json.encode(answer)

    def stats(self) -> EngineStats:
        """The present load."""
        return EngineStats(
            running=self._running,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
        )

    async def healthy(self) -> None:
        """Always, once started."""
        if not self._started:
            raise Crashed("The engine is not running.")

    async def sleep(self) -> None:
        """Forget that it was started, until `wake`."""
        self._started = False

    async def wake(self, progress: Progress) -> None:
        """Start again, as slowly as at first."""
        await self.start(progress)

    async def stop(self) -> None:
        """Forget that it was started."""
        self._started = False


async def _sleep_until(loop: asyncio.AbstractEventLoop, due: float) -> None:
    delay_s = due - loop.time()
    if delay_s > 0:
        await asyncio.sleep(delay_s)


async def _commit(fault: FakeFault) -> None:
    """Commit the fault; returning means: break off without an end."""
    match fault.kind:
        case "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            await asyncio.Event().wait()
        case "error":
            raise EngineError("The fake engine fails, as its spec asks.")
        case "cut":
            return


async def _fold(events: AsyncGenerator[bytes, None], chat: bool) -> AsyncGenerator[bytes, None]:
    folder = ChunkFolder(chat=chat)
    complete = False
    async with contextlib.aclosing(events):
        async for piece in events:
            for event in split_events(piece):
                data = payload(event)
                if data == b"[DONE]":
                    complete = True
                elif data:
                    folder.add(msgspec.json.decode(data))
            yield b""  # a sign of life
    if not complete:
        raise Crashed("The fake engine broke off, as its spec asks.")
    yield msgspec.json.encode(folder.answer())
