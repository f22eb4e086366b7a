"""The workload that both sides get: distinct prompts, 64-token answers at temperature 0.

No two prompts share a start, so that neither side's prompt cache helps it. The same numbers give
both sides the same prompts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

ANSWER_TOKENS = 64

_BIRDS = "wren finch heron swift robin crane stork eagle raven plover dunlin avocet".split()  # noqa: SIM905
_PLACES = "a chimney,an old oak,the harbour,a reed bed,the town hall,a cliff,the barn".split(",")  # noqa: SIM905

Event = dict[str, Any]
"""One chunk of a streamed chat completion."""

Ask = Callable[[dict[str, Any]], Iterable[Event]]
"""Sends a chat request; yields its chunks as they come."""


def request(number: int) -> dict[str, Any]:
    """Chat request number so-and-so."""
    bird, place = _BIRDS[number % len(_BIRDS)], _PLACES[number % len(_PLACES)]
    prompt = f"{number}. A {bird} builds a nest in {place}. Tell the whole story of its year."
    return {
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    }


def _one(ask: Ask, number: int) -> dict[str, Any]:
    started_s = time.perf_counter()
    first_s = None
    tokens = 0
    text = []
    for event in ask(request(number)):
        if "error" in event:
            raise RuntimeError(str(event["error"]))
        for choice in event.get("choices", ()):
            piece = choice.get("delta", {}).get("content")
            if piece:
                first_s = first_s or time.perf_counter()
                text.append(piece)
        usage = event.get("usage")
        if usage:
            tokens = usage["completion_tokens"]
    if first_s is None or not tokens:
        raise RuntimeError("an answer without content or without usage")
    return {"ttft_s": first_s - started_s, "tokens": tokens, "text": "".join(text)}


def run(ask: Ask, connections: int, requests: int, first_number: int) -> dict[str, Any]:
    """`requests` requests, `connections` at a time, one thread each: a closed loop."""
    numbers = iter(range(first_number, first_number + requests))
    lock = threading.Lock()
    answers: dict[int, dict[str, Any]] = {}
    errors: list[str] = []

    def work() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            try:
                answers[number] = _one(ask, number)
            except Exception as error:
                errors.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=work) for _ in range(connections)]
    started_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started_s
    tokens = sum(answer["tokens"] for answer in answers.values())
    ttft_s = sorted(answer["ttft_s"] for answer in answers.values())
    return {
        "connections": connections,
        "seconds": seconds,
        "answers": len(answers),
        "tokens": tokens,
        "tokens_per_s": tokens / seconds,
        "ttft_p50_ms": ttft_s[len(ttft_s) // 2] * 1000 if ttft_s else None,
        "errors": errors[:5],
        "texts": {number: answer["text"] for number, answer in sorted(answers.items())},
    }
