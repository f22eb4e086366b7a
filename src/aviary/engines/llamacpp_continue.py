"""How llama.cpp goes on with an answer that another replica began (docs/adr/0011).

A chat template may trim messages, and a text may be cut into tokens in several ways. So the prompt
is rendered as for a new answer and made tokens, the tokens of the text that is there follow, and
all go to `/v1/completions` as numbers. What comes back is made a part of the continued answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Self

import msgspec

from aviary.core.ports import ByteStream, Continuation, EngineRequest
from aviary.wire.sse import DONE, encode_event, payload, split_events

Ask = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""Posts a JSON object to a path of llama.cpp's; its answer. Raises `AviaryError`."""

CHAT = "/v1/chat/completions"
COMPLETION = "/v1/completions"
CHAT_ONLY = frozenset(
    {
        *("messages", "tools", "tool_choice", "parallel_tool_calls", "response_format"),
        *("logprobs", "top_logprobs", "chat_template_kwargs", "reasoning_format"),
    }
)
DEFAULT_TOP_LOGPROBS = 20
"""llama.cpp's, for a chat request that asks for log probabilities without a number."""
SEEDS = 2**32


@dataclass(frozen=True, slots=True)
class Seam:
    """Where an answer is taken up again.

    Attributes:
        body: The request to `/v1/completions` that generates the rest.
        chat: Whether the answer is a chat's.
        prompt_tokens: Of the request, without the text that was answered already.
        given_tokens: Of that text.
        given_chars: Its length.
        finish: Why there is nothing more to generate; empty when there is.
        told: Whether the client knows the finish reason already.
    """

    body: dict[str, Any]
    chat: bool
    prompt_tokens: int
    given_tokens: int
    given_chars: int
    finish: str = ""
    told: bool = False

    def usage(self, completion_tokens: int) -> dict[str, int]:
        """Usage of the whole answer when so many tokens were generated after the seam."""
        completion = self.given_tokens + completion_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.prompt_tokens + completion,
        }

    def end(self) -> bytes:
        """The events that end an answer of which nothing is missing but its end."""
        model = self.body.get("model", "")
        top = {"object": "chat.completion.chunk" if self.chat else "text_completion"}
        text: dict[str, Any] = {"delta": {}} if self.chat else {"text": ""}
        choice = {"index": 0, **text, "finish_reason": self.finish}
        # What ends an answer by itself is a token too, and was counted by the first engine.
        usage = self.usage(1 if self.told and self.finish == "stop" else 0)
        first = b"" if self.told else encode_event({**top, "model": model, "choices": [choice]})
        return first + encode_event({**top, "model": model, "choices": [], "usage": usage}) + DONE

    def rewrite(self, events: bytes) -> bytes:
        """Events of `/v1/completions`, made events of the answer that is continued."""
        return b"".join(self._rewrite(event) for event in split_events(events))

    def _rewrite(self, event: bytes) -> bytes:
        data = payload(event)
        if not data or event == DONE:
            return event
        chunk = msgspec.json.decode(data)
        usage = chunk.get("usage")
        if usage is not None:
            chunk["usage"] = self.usage(usage["completion_tokens"])
        choices = chunk.get("choices") or ()
        if not self.chat:
            for choice in choices:
                logprobs = choice.get("logprobs") or {}
                if "text_offset" in logprobs:
                    logprobs["text_offset"] = [
                        self.given_chars + offset for offset in logprobs["text_offset"]
                    ]
            return encode_event(chunk)
        if "error" in chunk:
            return event
        chunk["object"] = "chat.completion.chunk"
        last = {name: chunk.pop(name) for name in ("usage", "timings") if name in chunk}
        chunk["choices"] = [_chat_choice(choice) for choice in choices]
        answer = encode_event(chunk) if choices else b""
        if last:
            answer += encode_event({**chunk, "choices": [], **last})
        return answer


def _chat_choice(choice: dict[str, Any]) -> dict[str, Any]:
    text = choice.pop("text", "")
    logprobs = choice.pop("logprobs", None)
    choice["delta"] = {"content": text} if text else {}
    if logprobs is not None:
        choice["logprobs"] = logprobs
    return choice


class Rewritten:
    """A stream of `/v1/completions` as the rest of the answer that is continued."""

    def __init__(self, source: ByteStream, seam: Seam) -> None:
        self._source = source
        self._seam = seam

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        return self._seam.rewrite(await anext(self._source))

    async def aclose(self) -> None:
        """End the stream; may be called twice."""
        await self._source.aclose()


async def find_seam(
    ask: Ask, request: EngineRequest, given: Continuation, context_length: int
) -> Seam:
    """Where and how to take the answer up again.

    Raises:
        AviaryError: llama.cpp refuses the request's prompt.
    """
    chat = request.path == CHAT
    prompt = await _prompt(ask, request)
    prompt_tokens = await _tokens_of_prompt(ask, prompt)
    text = given.text
    tokens = await _tokenize(ask, list(given.pieces), special=False)
    same = (await ask("/detokenize", {"tokens": tokens})).get("content") == text
    if same or isinstance(prompt, list):
        everything = prompt_tokens + tokens
    else:  # a tokeniser that puts a space before each piece: let it see the text as one
        everything = await _tokenize(ask, prompt + text, special=True)
    given_tokens = max(0, len(everything) - len(prompt_tokens))
    body = dict(request.body)
    if chat:
        if body.get("logprobs"):
            top = body.get("top_logprobs")
            body["n_probs"] = DEFAULT_TOP_LOGPROBS if top is None else top
        body = {name: value for name, value in body.items() if name not in CHAT_ONLY}
    body["prompt"] = everything
    finish = given.finish or ""
    most = body.get("max_tokens")
    if most is not None:
        body["max_tokens"] = most - given_tokens
    if len(everything) >= context_length or (most is not None and given_tokens >= most):
        finish = finish or "length"
    seed = body.get("seed")
    if isinstance(seed, int) and seed >= 0:  # the same random numbers again would repeat themselves
        body["seed"] = (seed + given_tokens) % SEEDS
    return Seam(
        body=body,
        chat=chat,
        prompt_tokens=len(prompt_tokens),
        given_tokens=given_tokens,
        given_chars=len(text),
        finish=finish,
        told=given.finish is not None,
    )


async def _prompt(ask: Ask, request: EngineRequest) -> str | list[int]:
    """The text, or the tokens, that the answer follows."""
    if request.path == CHAT:
        rendered: str = (await ask("/apply-template", request.body))["prompt"]
        return rendered
    prompt: Any = request.body["prompt"]
    if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
        prompt = prompt[0]
    found: str | list[int] = prompt
    return found


async def _tokens_of_prompt(ask: Ask, prompt: str | list[int]) -> list[int]:
    if isinstance(prompt, list):
        return prompt
    return await _tokenize(ask, prompt, special=True)


async def _tokenize(ask: Ask, content: str | list[str], *, special: bool) -> list[int]:
    """Tokens of a text, or of several one after the other."""
    asked = {"content": content, "add_special": special, "parse_special": special}
    tokens: list[int] = (await ask("/tokenize", asked))["tokens"]
    return tokens
