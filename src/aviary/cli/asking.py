"""Asking models many prompts at the same time, over a running Aviary's OpenAI API."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import httpx2

from aviary.cli.client import (
    CONNECT_TIMEOUT_S,
    base_url,
    error_from,
    error_of,
    headers,
    is_local,
    mapped,
)
from aviary.config.settings import Settings
from aviary.core.errors import AviaryError, Overloaded
from aviary.wire.sse import DONE, EventSplitter, payload, split_events

LONGEST_SILENCE_S = 900.0

_TRIES = 4
_LONGEST_PAUSE_S = 30.0


@dataclass(slots=True)
class Answer:
    """What came of asking one model one prompt. Times are by this client's clock.

    Attributes:
        model: The model asked.
        prompt: What it was asked.
        text: Its answer, as far as it came.
        finish_reason: Why it ended; `None` when it broke off.
        time_to_first_token_ms: Request sent → first content.
        latency_ms: Request sent → end.
        prompt_tokens: As the server reports.
        completion_tokens: Likewise.
        error: What went wrong; `None` when nothing did.
        request_id: The server's id of the request.
        replica: The replica that answered.
    """

    model: str
    prompt: str
    text: str = ""
    finish_reason: str | None = None
    time_to_first_token_ms: float | None = None
    latency_ms: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    error: str | None = None
    request_id: str | None = None
    replica: str | None = None

    @property
    def tokens_per_second(self) -> float | None:
        """Speed after the first token; `None` for answers too short to tell."""
        if not self.completion_tokens or self.latency_ms is None:
            return None
        if self.completion_tokens < 2 or self.time_to_first_token_ms is None:
            return None
        span = self.latency_ms - self.time_to_first_token_ms
        return (self.completion_tokens - 1) / span * 1000 if span > 0 else None

    def as_dict(self) -> dict[str, Any]:
        """For a results file."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Options:
    """What all requests have in common; `None` leaves it to the model's spec."""

    system: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None

    def body(self, model: str, prompt: str) -> dict[str, Any]:
        """The chat request."""
        messages = [{"role": "system", "content": self.system}] if self.system is not None else []
        body: dict[str, Any] = {
            "model": model,
            "messages": [*messages, {"role": "user", "content": prompt}],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        for name in ("max_tokens", "temperature", "seed"):
            if (value := getattr(self, name)) is not None:
                body[name] = value
        return body


class Asker:
    """Asks models over one pool of connections."""

    def __init__(self, settings: Settings, options: Options) -> None:
        self._url = base_url(settings.url)
        self._options = options
        self._http = httpx2.AsyncClient(
            base_url=self._url,
            headers=headers(settings),
            timeout=httpx2.Timeout(
                LONGEST_SILENCE_S, connect=CONNECT_TIMEOUT_S, write=60.0, pool=None
            ),
            limits=httpx2.Limits(max_connections=None),
            trust_env=not is_local(self._url),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def check(self) -> None:
        """Raises what would make every request fail: nobody answers, or the key is wrong."""
        with mapped(self._url):
            response = await self._http.get("/v1/models")
        if response.status_code >= 400:
            raise error_from(response, self._url)

    async def ask(
        self, model: str, prompt: str, on_text: Callable[[str], None] | None = None
    ) -> Answer:
        """Ask one prompt; errors end up in the answer. A full queue is tried again."""
        tries = 0
        while True:
            tries += 1
            answer = Answer(model, prompt)
            try:
                await self._ask(answer, on_text)
            except AviaryError as error:
                full = type(error) is Overloaded  # not its children: they have waited already
                if full and not answer.text and tries < _TRIES:
                    wait = 1.0 if error.retry_after_s is None else error.retry_after_s
                    await asyncio.sleep(min(max(wait, 0.1), _LONGEST_PAUSE_S))
                    continue
                answer.error = str(error)
            return answer

    async def _ask(self, answer: Answer, on_text: Callable[[str], None] | None) -> None:
        body = self._options.body(answer.model, answer.prompt)
        began = time.perf_counter()
        try:
            with mapped(self._url):
                async with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
                    answer.request_id = response.headers.get("x-request-id")
                    answer.replica = response.headers.get("x-aviary-replica")
                    if response.status_code >= 400:
                        await response.aread()
                        raise error_from(response, self._url)
                    async for chunk in _chunks(response):
                        text = _take(chunk, answer)
                        if text:
                            if answer.time_to_first_token_ms is None:
                                answer.time_to_first_token_ms = _ms_since(began)
                            if on_text is not None:
                                on_text(text)
        finally:
            answer.latency_ms = _ms_since(began)


async def ask_all(
    asker: Asker,
    jobs: Sequence[tuple[str, str]],
    concurrency: int,
    done: Callable[[int, Answer], None],
) -> None:
    """Ask all (model, prompt) jobs, so many at a time of each model.

    Each model has a queue of its own, so a slow one holds up no other.

    Args:
        asker: Who asks.
        jobs: Models and prompts.
        concurrency: Requests at the same time, per model.
        done: Called with each job's index and answer as it comes.
    """
    gates = {model: asyncio.Semaphore(concurrency) for model, _ in jobs}

    async def one(index: int, model: str, prompt: str) -> None:
        async with gates[model]:
            answer = await asker.ask(model, prompt)
        done(index, answer)

    async with asyncio.TaskGroup() as group:
        for index, (model, prompt) in enumerate(jobs):
            group.create_task(one(index, model, prompt))


async def _chunks(response: httpx2.Response) -> AsyncIterator[dict[str, Any]]:
    """The objects of a streamed answer; raises when it breaks off."""
    splitter = EventSplitter()
    ended = False
    async for data in response.aiter_bytes():
        for event in split_events(splitter.feed(data)):
            if event == DONE or payload(event) == b"[DONE]":
                ended = True
                continue
            if not (content := payload(event)):
                continue
            try:
                chunk = json.loads(content)
            except ValueError:
                raise AviaryError("The answer holds an event that is not JSON.") from None
            if not isinstance(chunk, dict):
                continue
            if chunk.get("error"):
                raise error_of(chunk["error"])
            yield chunk
    if not ended:
        raise AviaryError("The answer broke off.")


def _take(chunk: dict[str, Any], answer: Answer) -> str:
    """Put what a chunk says into the answer; returns the text in it."""
    usage = chunk.get("usage")
    if isinstance(usage, dict):
        answer.prompt_tokens = usage.get("prompt_tokens")
        answer.completion_tokens = usage.get("completion_tokens")
    text = ""
    for choice in chunk.get("choices") or ():
        text += (choice.get("delta") or {}).get("content") or ""
        answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
    answer.text += text
    return text


def _ms_since(began: float) -> float:
    return round((time.perf_counter() - began) * 1000, 1)
