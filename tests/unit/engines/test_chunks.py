import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from aviary.engines.chunks import ChunkFolder
from aviary.engines.llamacpp_events import EventFilter
from aviary.wire.sse import DONE, encode_event, split_events

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"


def test_folding_a_chat() -> None:
    folder = ChunkFolder(chat=True)
    top = {"id": "c", "created": 1, "model": "m", "object": "chat.completion.chunk"}
    deltas: list[tuple[dict[str, Any], str | None]] = [
        ({"role": "assistant", "content": None}, None),
        ({"reasoning_content": "hm"}, None),
        ({"content": "Hel"}, None),
        ({"content": "lo"}, None),
        ({}, "stop"),
    ]
    for delta, reason in deltas:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        folder.add({**top, "choices": [choice], "usage": None})
    folder.add({**top, "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}})
    message = {"role": "assistant", "content": "Hello", "reasoning_content": "hm"}
    assert folder.answer() == {
        **top,
        "object": "chat.completion",
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
        "choices": [{"index": 0, "finish_reason": "stop", "logprobs": None, "message": message}],
    }


def test_folding_tool_calls() -> None:
    folder = ChunkFolder(chat=True)
    calls = [
        {"index": 0, "id": "a", "type": "function", "function": {"name": "add", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"x":'}},
        {"index": 1, "id": "b", "type": "function", "function": {"name": "sub", "arguments": "{}"}},
        {"index": 0, "function": {"arguments": " 1}"}},
    ]
    for call in calls:
        folder.add({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]})
    folder.add({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    message = folder.answer()["choices"][0]["message"]
    assert message["content"] is None
    assert [call["id"] for call in message["tool_calls"]] == ["a", "b"]
    assert message["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"x": 1}'}
    assert message["tool_calls"][0]["type"] == "function"


@given(st.lists(st.tuples(st.integers(0, 2), st.text(min_size=1, max_size=3)), max_size=12))
def test_folding_any_interleaving(pieces: list[tuple[int, str]]) -> None:
    folder = ChunkFolder(chat=False)
    for index, text in pieces:
        logprobs = {"tokens": [text], "text_offset": [0]}
        folder.add({"choices": [{"index": index, "text": text, "logprobs": logprobs}]})
    choices = folder.answer()["choices"]
    assert [choice["index"] for choice in choices] == sorted({index for index, _ in pieces})
    for choice in choices:
        parts = [text for index, text in pieces if index == choice["index"]]
        assert choice["text"] == "".join(parts)
        assert choice["logprobs"]["tokens"] == parts


def chunk(index: int, text: str, **more: Any) -> bytes:
    return encode_event({"id": "c", "choices": [{"index": index, "text": text}], **more})


def usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion}


def test_nothing_is_touched_of_a_plain_stream() -> None:
    events = EventFilter(COMPLETION, {"prompt": "a"}, keep_progress=False)
    first, last = chunk(0, "a"), encode_event({"choices": [], "usage": usage(3, 4)}) + DONE
    assert events.feed(b"") == b""
    assert events.feed(first) == first
    assert events.feed(last) == last
    assert (events.prompt_tokens, events.completion_tokens) == (3, 4)


def test_progress_is_left_out_but_not_text_that_looks_like_it() -> None:
    progress = chunk(0, "", prompt_progress={"total": 9, "processed": 1})
    liar = chunk(0, 'the "prompt_progress":{ and "usage":{"prompt_tokens": 9} of it')
    events = EventFilter(COMPLETION, {}, keep_progress=False)
    assert events.feed(progress + liar + progress) == liar
    assert events.prompt_tokens == 0
    assert EventFilter(COMPLETION, {}, keep_progress=True).feed(progress) == progress


def test_usages_of_several_answers_are_added_up() -> None:
    body = {"prompt": ["a", "b"], "n": 2}
    events = EventFilter(COMPLETION, body, keep_progress=False)
    out = b""
    for index, (prompt, completion) in enumerate([(5, 1), (5, 2), (7, 3), (7, 4)]):
        out += events.feed(chunk(index, "x", usage=usage(prompt, completion)))
    out += events.feed(DONE)
    *texts, total, done = split_events(out)
    assert done == DONE
    assert len(texts) == 4
    assert not any(b"usage" in event for event in texts)
    assert json.loads(total[6:])["usage"] == {**usage(12, 10), "total_tokens": 22}
    assert json.loads(total[6:])["choices"] == []


def test_token_ids_are_one_prompt() -> None:
    events = EventFilter(COMPLETION, {"prompt": [1, 2, 3]}, keep_progress=False)
    last = chunk(0, "", usage=usage(3, 4))
    assert events.feed(last + DONE) == last + DONE


def test_what_is_generated_counts_as_it_comes() -> None:
    events = EventFilter(COMPLETION, {}, keep_progress=False)
    for number in range(1, 4):
        events.feed(encode_event({"choices": [{"text": "a\n\nb"}]}))
        assert events.generated == number
    usage = {"prompt_tokens": 1, "completion_tokens": 9, "total_tokens": 10}
    events.feed(encode_event({"choices": [], "usage": usage}))
    assert events.generated == 9
