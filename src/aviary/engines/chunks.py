"""Folding a stream of OpenAI chunks back into one answer.

Used where an engine must be asked for a stream (only a stream can be cancelled at any moment) and
the client asked for one JSON document.
"""

from __future__ import annotations

from typing import Any


class ChunkFolder:
    """Adds up `chat.completion.chunk` or `text_completion` chunks to the full answer object."""

    def __init__(self, *, chat: bool) -> None:
        self._chat = chat
        self._choices: dict[int, dict[str, Any]] = {}
        self._top: dict[str, Any] = {}

    def add(self, chunk: dict[str, Any]) -> None:
        """Take the next chunk."""
        for key, value in chunk.items():
            if key == "usage":
                if value is not None:
                    self._top["usage"] = value
            elif key not in ("choices", "object"):
                self._top[key] = value
        for choice in chunk.get("choices") or ():
            index = choice.get("index", 0)
            target = self._choices.setdefault(
                index, {"index": index, "finish_reason": None, "logprobs": None, "parts": []}
            )
            if choice.get("finish_reason") is not None:
                target["finish_reason"] = choice["finish_reason"]
            self._add_logprobs(target, choice.get("logprobs"))
            if self._chat:
                self._add_delta(target, choice.get("delta") or {})
            elif choice.get("text"):
                target["parts"].append(choice["text"])

    def answer(self) -> dict[str, Any]:
        """The whole answer."""
        choices = [self._finished(self._choices[index]) for index in sorted(self._choices)]
        kind = "chat.completion" if self._chat else "text_completion"
        return {**self._top, "object": kind, "choices": choices}

    def _finished(self, target: dict[str, Any]) -> dict[str, Any]:
        text = "".join(target["parts"])
        choice: dict[str, Any] = {
            "index": target["index"],
            "finish_reason": target["finish_reason"],
            "logprobs": target["logprobs"],
        }
        if not self._chat:
            return {**choice, "text": text}
        message: dict[str, Any] = {"role": target.get("role", "assistant"), "content": text}
        if target.get("reasoning"):
            message["reasoning_content"] = "".join(target["reasoning"])
        if target.get("tool_calls"):
            message["tool_calls"] = [
                target["tool_calls"][index] for index in sorted(target["tool_calls"])
            ]
            message["content"] = text or None
        return {**choice, "message": message}

    @staticmethod
    def _add_delta(target: dict[str, Any], delta: dict[str, Any]) -> None:
        if delta.get("role"):
            target["role"] = delta["role"]
        if delta.get("content"):
            target["parts"].append(delta["content"])
        if delta.get("reasoning_content"):
            target.setdefault("reasoning", []).append(delta["reasoning_content"])
        for call in delta.get("tool_calls") or ():
            calls = target.setdefault("tool_calls", {})
            have = calls.setdefault(
                call.get("index", 0),
                {"type": "function", "function": {"name": "", "arguments": ""}},
            )
            if call.get("id"):
                have["id"] = call["id"]
            function = call.get("function") or {}
            have["function"]["name"] += function.get("name") or ""
            have["function"]["arguments"] += function.get("arguments") or ""

    @staticmethod
    def _add_logprobs(target: dict[str, Any], logprobs: dict[str, Any] | None) -> None:
        if not logprobs:
            return
        have = target["logprobs"]
        if have is None:
            target["logprobs"] = {
                key: list(value) if isinstance(value, list) else value
                for key, value in logprobs.items()
            }
            return
        for key, value in logprobs.items():
            if isinstance(value, list) and isinstance(have.get(key), list):
                have[key].extend(value)
            else:
                have[key] = value
