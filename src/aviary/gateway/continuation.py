"""Going on with a streamed answer whose replica died (docs/adr/0011).

While all goes well, events are only kept. Once a replica has died they are read: what the client
has, and whether another replica can go on from there. What that one streams is then made a part of
the client's stream.
"""

from __future__ import annotations

from array import array
from typing import Any

import msgspec

from aviary.core.ports import Continuation
from aviary.wire.sse import DONE, encode_event, payload, split_events

KEPT_BYTES = 64 * 1024
"""More than that of an answer's events is read, and only its text is kept."""

_BROKEN = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class _Delta(msgspec.Struct):
    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    audio: dict[str, msgspec.Raw] | None = None
    tool_calls: list[msgspec.Raw] | None = None
    function_call: dict[str, msgspec.Raw] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    id: str | None = None
    created: int | float | None = None
    choices: list[_Choice] | None = None


_chunk = msgspec.json.Decoder(_Chunk)


class Delivered:
    """What a client has of a streamed answer.

    Attributes:
        id: The answer's id; `None` before its first event.
        created: Its time, likewise.
        role: Whether the role has been said.
        finish: The finish reason; `None` before it has been said.
        beyond: What the client has besides the text of one answer, in words; empty: nothing.
    """

    __slots__ = ("_kept", "_kept_bytes", "_lengths", "_texts", "beyond", "created", "finish", "id",
                 "role")  # fmt: skip

    def __init__(self) -> None:
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._texts: list[str] = []
        self._lengths = array("L")
        self.id: str | None = None
        self.created: int | float | None = None
        self.role = False
        self.finish: str | None = None
        self.beyond = ""

    def keep(self, events: bytes) -> None:
        """Note whole events that the client gets: the hot path's part."""
        self._kept.append(events)
        self._kept_bytes += len(events)
        if self._kept_bytes > KEPT_BYTES:
            self.read()

    def read(self) -> None:
        """Read the events that were kept; of them, the text stays."""
        events, self._kept, self._kept_bytes = b"".join(self._kept), [], 0
        pieces: list[str] = []
        for event in split_events(events):
            data = payload(event)
            if not data or event == DONE:
                continue
            try:
                chunk = _chunk.decode(data)
            except _BROKEN:
                self.beyond = "an event that cannot be read"
                continue
            if self.id is None:
                self.id, self.created = chunk.id, chunk.created
            for choice in chunk.choices or ():
                self._take(choice, pieces)
        self._texts.append("".join(pieces))
        self._lengths.extend(len(piece) for piece in pieces)

    def _take(self, choice: _Choice, pieces: list[str]) -> None:
        text = choice.text
        if choice.index != 0:
            self.beyond = "several answers"
        delta = choice.delta
        if delta is not None:
            self.role = self.role or delta.role is not None
            text = delta.content
            if delta.tool_calls or delta.function_call:
                self.beyond = "tool calls"
            elif delta.reasoning_content or delta.reasoning:
                self.beyond = "reasoning"
            elif delta.refusal or delta.audio:
                self.beyond = "more than text"
        if text:
            pieces.append(text)
        self.finish = choice.finish_reason or self.finish

    @property
    def nothing(self) -> bool:
        """Whether the client has nothing of the answer itself yet; `read` must come before."""
        return not self._lengths and self.finish is None and not self.beyond

    def continuation(self) -> Continuation:
        """What another replica must know; `read` must come before."""
        text, pieces, begin = "".join(self._texts), [], 0
        for length in self._lengths:
            pieces.append(text[begin : begin + length])
            begin += length
        return Continuation(tuple(pieces), self.finish)


def obstacle(body: bytes) -> str:
    """What in a request keeps its answer from being taken up in the middle; empty: nothing.

    Engines can go on with the text of one answer. They cannot go on in the middle of a grammar's
    rules, a tool call, or an answer to pictures.
    """
    try:
        asked = msgspec.json.decode(body)
    except _BROKEN:
        return "a body that cannot be read"
    if _count(asked.get("n")) > 1 or _count(asked.get("best_of")) > 1:
        return "n > 1"
    prompt = asked.get("prompt")
    several = isinstance(prompt, list) and len(prompt) > 1
    if several and not all(isinstance(part, int) for part in prompt):
        return "several prompts"
    if asked.get("tools") and asked.get("tool_choice") != "none":
        return "tools"
    if asked.get("functions") and asked.get("function_call") != "none":
        return "functions"
    form = asked.get("response_format")
    if isinstance(form, dict) and form.get("type") not in (None, "text"):
        return "response_format"
    for name in ("json_schema", "grammar", "structured_outputs", "echo", "suffix", "audio"):
        if asked.get(name):
            return name
    messages = asked.get("messages")
    for message in messages if isinstance(messages, list) else ():
        parts = message.get("content") if isinstance(message, dict) else None
        if isinstance(parts, list) and any(_kind(part) != "text" for part in parts):
            return "messages that are more than text"
    return ""


def _count(value: object) -> int:
    return value if isinstance(value, int) else 1


def _kind(part: object) -> object:
    return part.get("type") if isinstance(part, dict) else None


class Joint:
    """Makes another replica's events a part of the stream that the client has the beginning of.

    The id, the time and the role are said once for the whole stream.
    """

    __slots__ = ("_created", "_id", "_role")

    def __init__(self, delivered: Delivered) -> None:
        self._id = delivered.id
        self._created = delivered.created
        self._role = delivered.role

    def rewrite(self, events: bytes) -> bytes:
        """Whole events as the client shall get them; may be nothing."""
        return b"".join(self._rewrite(event) for event in split_events(events))

    def _rewrite(self, event: bytes) -> bytes:
        data = payload(event)
        if not data or event == DONE:
            return event
        try:
            chunk = msgspec.json.decode(data)
        except _BROKEN:
            return event
        if not isinstance(chunk, dict) or "error" in chunk:
            return event
        if self._id is not None:
            chunk["id"] = self._id
        if self._created is not None:
            chunk["created"] = self._created
        choices = chunk.get("choices") or []
        if self._role and choices:
            chunk["choices"] = [choice for choice in choices if _say_no_role(choice)]
            if not chunk["choices"]:
                return b""
        return encode_event(chunk)


def _say_no_role(choice: dict[str, Any]) -> bool:
    """Take the role out; whether anything else is left."""
    delta = choice.get("delta")
    if not delta or delta.pop("role", None) is None:
        return True
    return bool(any(delta.values()) or choice.get("finish_reason"))
