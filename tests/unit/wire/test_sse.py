import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aviary.wire.sse import (
    DONE,
    EventSplitter,
    any_content,
    encode_event,
    has_content,
    payload,
    split_events,
    usage_of_answer,
    usage_of_event,
)

TEXTS = st.text(max_size=20)
EVENTS = st.lists(
    st.one_of(
        TEXTS.map(lambda text: encode_event({"choices": [{"delta": {"content": text}}]})),
        st.just(DONE),
        st.just(b": a comment\n\n"),
        st.just(b"event: ping\ndata: 1\ndata: 2\n\n"),
    ),
    max_size=8,
)


def feed_all(stream: bytes, cuts: list[int]) -> tuple[list[bytes], bytes]:
    """Events from a stream cut at those places, and what was left."""
    splitter = EventSplitter()
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    events: list[bytes] = []
    for begin, end in itertools.pairwise(places):
        whole = splitter.feed(stream[begin:end])
        assert whole == b"" or whole.endswith(b"\n\n")
        events += split_events(whole)
    return events, splitter.rest()


@given(EVENTS, st.lists(st.integers(0, 400)), st.booleans(), st.binary(max_size=12))
def test_any_cutting_gives_the_same_events(
    events: list[bytes], cuts: list[int], crlf: bool, tail: bytes
) -> None:
    tail = b"data: " + tail.replace(b"\n", b"").replace(b"\r", b"") if tail else b""
    stream = b"".join(events) + tail
    if crlf:
        stream = stream.replace(b"\n", b"\r\n")
    assert feed_all(stream, cuts) == (events, tail)


@given(EVENTS)
def test_byte_by_byte(events: list[bytes]) -> None:
    stream = b"".join(events).replace(b"\n", b"\r\n")
    assert feed_all(stream, list(range(len(stream)))) == (events, b"")


def test_nothing_is_handed_on_before_its_end() -> None:
    splitter = EventSplitter()
    assert splitter.feed(b"data: 1\n\ndata: 2") == b"data: 1\n\n"
    assert splitter.feed(b"\n") == b""
    assert splitter.feed(b"\n") == b"data: 2\n\n"
    assert splitter.rest() == b""
    assert splitter.feed(b"data: half") == b""
    assert splitter.rest() == b"data: half"
    assert splitter.rest() == b""


def test_payload() -> None:
    assert payload(b"data: {}\n\n") == b"{}"
    assert payload(b"data:{}\n\n") == b"{}"
    assert payload(b"event: x\ndata: a\ndata: b\n\n") == b"a\nb"
    assert payload(b": comment\n\n") == b""
    assert payload(DONE) == b"[DONE]"


def chunk(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


LLAMA_ROLE = chunk(
    choices=[{"finish_reason": None, "index": 0, "delta": {"role": "assistant", "content": None}}],
    created=1764,
    id="chatcmpl-x",
    model="m",
    system_fingerprint="b1-x",
    object="chat.completion.chunk",
)
VLLM_ROLE = chunk(
    id="chatcmpl-1",
    object="chat.completion.chunk",
    created=1,
    model="m",
    choices=[
        {
            "index": 0,
            "delta": {"role": "assistant", "content": "", "reasoning_content": None},
            "logprobs": None,
            "finish_reason": None,
        }
    ],
    usage=None,
)
OPENAI_ROLE = chunk(
    choices=[
        {
            "index": 0,
            "delta": {
                "role": "assistant",
                "content": "",
                "refusal": None,
                "function_call": None,
                "tool_calls": None,
            },
            "finish_reason": None,
        }
    ],
    usage=None,
)
FINISH = chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
USAGE = {"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 16}
USAGE_ONLY = chunk(
    choices=[], usage={**USAGE, "prompt_tokens_details": {"cached_tokens": 0}}, timings={"n": 1}
)
PROGRESS = chunk(
    choices=[{"finish_reason": None, "index": 0, "delta": {"role": "assistant", "content": None}}],
    prompt_progress={"total": 10, "cache": 0, "processed": 5, "time_ms": 1},
)


@pytest.mark.parametrize(
    "event",
    [
        LLAMA_ROLE,
        VLLM_ROLE,
        OPENAI_ROLE,
        FINISH,
        USAGE_ONLY,
        PROGRESS,
        DONE,
        b": keep-alive\n\n",
        chunk(choices=[]),
        chunk(choices=None),
        chunk(choices=[{"index": 0, "text": "", "finish_reason": "length"}]),
        chunk(choices=[{"index": 0, "delta": {"tool_calls": []}}]),
        chunk(error={"message": "content"}),
        b"data: not json\n\n",
        b"data: [1]\n\n",
    ],
)
def test_events_without_content(event: bytes) -> None:
    assert not has_content(event)


@pytest.mark.parametrize(
    "delta",
    [
        {"content": " "},
        {"role": "assistant", "content": "Hi"},
        {"content": None, "reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"refusal": "no"},
        {"function_call": {"name": "f", "arguments": ""}},
        {"tool_calls": [{"index": 0, "id": "1", "function": {"name": "f", "arguments": ""}}]},
    ],
)
def test_events_with_content(delta: dict[str, Any]) -> None:
    assert has_content(chunk(choices=[{"index": 0, "delta": delta}], usage=None))


def test_content_of_a_completion_and_of_a_later_choice() -> None:
    assert has_content(chunk(choices=[{"index": 0, "text": "a", "logprobs": None}]))
    assert has_content(chunk(choices=[{"text": ""}, {"index": 1, "text": "b"}]))


def test_usage_of_events() -> None:
    usage, only = usage_of_event(USAGE_ONLY)
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, only) == (7, 9, True)
    usage, only = usage_of_event(
        chunk(choices=[{"index": 0, "delta": {"content": "a"}}], usage=USAGE)
    )
    assert usage is not None
    assert not only  # it carries text too: must never be left out
    odd = chunk(choices=[{"delta": {"content": [{"type": "text"}]}}], usage=USAGE)
    assert usage_of_event(odd)[0] == usage  # contents of another shape do not matter here
    for event in (VLLM_ROLE, FINISH, DONE, b"data: {\n\n", b": x\n\n", chunk(usage=None)):
        assert usage_of_event(event) == (None, False)


def test_usage_of_answers() -> None:
    usage = usage_of_answer(json.dumps({"choices": [{"message": {}}], "usage": USAGE}).encode())
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (7, 9)
    embeddings = usage_of_answer(b'{"data": [], "usage": {"prompt_tokens": 3, "total_tokens": 3}}')
    assert embeddings is not None
    assert (embeddings.prompt_tokens, embeddings.completion_tokens) == (3, 0)
    for body in (b'{"usage": null}', b"{}", b"", b"[]", b"not json", b'{"usage": 3}'):
        assert usage_of_answer(body) is None


@pytest.mark.parametrize(
    "data",
    [
        b'{"choices": ' + b"[" * 100_000,
        b'{"usage": ' + b'{"a": ' * 100_000,
        b'{"x": ' + b"[" * 100_000,
    ],
    ids=["deep choices", "deep usage", "deep"],
)
def test_endless_nesting_is_no_content_and_no_usage(data: bytes) -> None:
    event = b"data: " + data + b"\n\n"
    assert not has_content(event)
    assert not any_content(event)
    assert usage_of_event(event) == (None, False)
    assert usage_of_answer(data) is None


def test_text_that_is_not_utf8() -> None:
    event = (
        b'data: {"choices": [{"delta": {"content": "\xff"}}], "usage": {"prompt_tokens": 1}}\n\n'
    )
    assert not has_content(event)
    assert usage_of_event(event)[0] is not None  # no need to read the text
    for data in (
        b'{"usage": {"prompt_tokens": "\xff"}}',
        b'{"choices": "\xff"}',
        b"\xff",
        b'"\xff"',
    ):
        assert usage_of_event(b"data: " + data) == (None, False)
        assert usage_of_answer(data) is None
        assert not has_content(b"data: " + data)


def test_counts_are_never_negative() -> None:
    body = b'{"usage": {"prompt_tokens": -5, "completion_tokens": -1}, "choices": []}'
    for usage in (usage_of_answer(body), usage_of_event(b"data: " + body + b"\n\n")[0]):
        assert usage is not None
        assert (usage.prompt_tokens, usage.completion_tokens) == (0, 0)
