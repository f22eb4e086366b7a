"""What llama.cpp streams, made what OpenAI's clients expect.

Nearly all bytes pass untouched. Looked at are: progress events (left out), usage (added up when
there are several choices: llama.cpp reports each choice by itself), and the log probabilities of
`/v1/completions` (llama.cpp uses the chat form there).
"""

from __future__ import annotations

from typing import Any

import msgspec

from aviary.wire.sse import DONE, encode_event, payload, split_events, usage_of_event

# Inside a JSON string the quotes would be escaped, so generated text cannot look like this.
PROGRESS = b'"prompt_progress":{'
USAGE = b'"usage":{'


class EventFilter:
    """Filters one stream of whole events.

    Attributes:
        prompt_tokens: Reported so far; final at the end of the stream.
        completion_tokens: Likewise.
    """

    def __init__(self, path: str, body: dict[str, Any], *, keep_progress: bool) -> None:
        prompt = body.get("prompt")
        prompts = len(prompt) if isinstance(prompt, list) and prompt else 1
        if isinstance(prompt, list) and all(isinstance(part, int) for part in prompt):
            prompts = 1  # one prompt, given as token ids
        self._per_prompt = max(1, int(body.get("n") or 1))
        self._several = prompts * self._per_prompt > 1
        self._old_logprobs = path == "/v1/completions" and body.get("logprobs") is not None
        self._offsets: dict[int, int] = {}
        self._keep_progress = keep_progress
        self._last: dict[str, Any] = {}
        self._usages = 0
        self._events = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0

    @property
    def generated(self) -> int:
        """Tokens generated so far: as reported, else about as many as events came."""
        return max(self.completion_tokens, self._events)

    def feed(self, events: bytes) -> bytes:
        """The events to pass on."""
        if not events:
            return events
        if not self._keep_progress and PROGRESS in events:
            events = b"".join(event for event in split_events(events) if PROGRESS not in event)
        self._events += events.count(b"\n\n")
        if self._several or self._old_logprobs:
            return b"".join(self._rewrite(event) for event in split_events(events))
        if USAGE in events:
            for event in split_events(events):
                self._take_usage(event)
        return events

    def _take_usage(self, event: bytes) -> None:
        usage, _ = usage_of_event(event)
        if usage is None:
            return
        if self._usages % self._per_prompt == 0:  # n answers share one prompt
            self.prompt_tokens += usage.prompt_tokens
        self._usages += 1
        self.completion_tokens += usage.completion_tokens

    def _rewrite(self, event: bytes) -> bytes:
        if event == DONE:
            return (self._total_usage() if self._several else b"") + event
        data = payload(event)
        if not data:
            return event
        self._take_usage(event)
        chunk = msgspec.json.decode(data)
        if self._several and chunk.get("usage") is not None:
            del chunk["usage"]
            self._last = chunk
            if not chunk.get("choices"):
                return b""
        if self._old_logprobs:
            for choice in chunk.get("choices") or ():
                self._convert_logprobs(choice)
        return encode_event(chunk)

    def _total_usage(self) -> bytes:
        total = self.prompt_tokens + self.completion_tokens
        usage = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": total,
        }
        top = {key: value for key, value in self._last.items() if key != "timings"}
        return encode_event({**top, "choices": [], "usage": usage})

    def _convert_logprobs(self, choice: dict[str, Any]) -> None:
        index = choice.get("index", 0)
        text = choice.get("text") or ""
        offset = self._offsets.get(index, 0)
        self._offsets[index] = offset + len(text)
        logprobs = choice.get("logprobs")
        if not isinstance(logprobs, dict) or "content" not in logprobs:
            return
        tokens = logprobs["content"] or []
        offsets = []
        for token in tokens:
            offsets.append(offset)
            offset += len(token["token"])
        choice["logprobs"] = {
            "tokens": [token["token"] for token in tokens],
            "token_logprobs": [token["logprob"] for token in tokens],
            "top_logprobs": [
                {top["token"]: top["logprob"] for top in token.get("top_logprobs") or ()}
                for token in tokens
            ],
            "text_offset": offsets,
        }
