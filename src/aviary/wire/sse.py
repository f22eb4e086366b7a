"""Server-sent events as engines stream them: whole events, and cheap looks at their content."""

from __future__ import annotations

from typing import Any

import msgspec

DONE = b"data: [DONE]\n\n"
ERROR_EVENT = b'data: {"error"'
"""How an event begins that says what went wrong; in generated text the quotes are escaped."""
_BROKEN = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class EventSplitter:
    """Cuts a byte stream into pieces that end where an event ends.

    What is handed on is always whole events, so that nothing half-said reaches a client when an
    upstream dies, and single events can be looked at or left out.
    """

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """Whole events that are complete now (they end with an empty line); may be nothing."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if b"\r" in data:  # some servers end lines with CR LF; inside JSON it cannot occur
            data = data.replace(b"\r\n", b"\n")
        if data.endswith(b"\n\n"):
            return data
        end = data.rfind(b"\n\n")
        if end < 0:
            self._rest = data
            return b""
        self._rest = data[end + 2 :]
        return data[: end + 2]

    def rest(self) -> bytes:
        """What was left at the end of the stream without an empty line after it."""
        rest, self._rest = self._rest, b""
        return rest


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[msgspec.Raw] | None = None
    function_call: dict[str, msgspec.Raw] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: str | None = None


class Usage(msgspec.Struct):
    """Token counts as the engine reports them; never below zero."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __post_init__(self) -> None:
        """Clamp what a broken engine says."""
        self.prompt_tokens = max(0, self.prompt_tokens)
        self.completion_tokens = max(0, self.completion_tokens)


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None


_chunk = msgspec.json.Decoder(_Chunk)


class _UsageChunk(msgspec.Struct):
    choices: list[msgspec.Raw] | None = None
    usage: Usage | None = None


_usage_chunk = msgspec.json.Decoder(_UsageChunk)


class _Answer(msgspec.Struct):
    usage: Usage | None = None


_answer = msgspec.json.Decoder(_Answer)


def split_events(data: bytes) -> list[bytes]:
    """The single events in bytes that `EventSplitter.feed` returned, separators kept."""
    return [part + b"\n\n" for part in data.split(b"\n\n") if part]


def payload(event: bytes) -> bytes:
    """The `data:` of one event; empty for comments and other fields."""
    lines = [line[5:].lstrip(b" ") for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines)


def encode_event(data: Any) -> bytes:
    """One event whose data is the JSON of an object."""
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


def any_content(events: bytes) -> bool:
    """Whether any of these whole events carries generated content; looks no further than needed."""
    start = 0
    while (end := events.find(b"\n\n", start)) >= 0:
        if has_content(events[start:end]):
            return True
        start = end + 2
    return False


def has_content(event: bytes) -> bool:
    """Whether the event carries generated content (not only a role, usage or the end)."""
    data = payload(event)
    if not data or data == b"[DONE]":
        return False
    try:
        chunk = _chunk.decode(data)
    except _BROKEN:
        return False
    for choice in chunk.choices or ():
        delta = choice.delta
        if choice.text:
            return True
        if delta is not None and (
            delta.content
            or delta.reasoning_content
            or delta.reasoning
            or delta.refusal
            or delta.tool_calls
            or delta.function_call
        ):
            return True
    return False


def usage_of_event(event: bytes) -> tuple[Usage | None, bool]:
    """Usage in the event, and whether the event carries nothing else (no choices)."""
    try:
        chunk = _usage_chunk.decode(payload(event))
    except _BROKEN:
        return None, False
    return chunk.usage, chunk.usage is not None and not chunk.choices


def usage_of_answer(body: bytes) -> Usage | None:
    """Usage in a whole JSON answer."""
    try:
        return _answer.decode(body).usage
    except _BROKEN:
        return None
