import contextlib
import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aviary.config.spec import ModelSpec
from aviary.core.errors import InvalidRequest, PromptTooLong
from aviary.core.ports import Continuation
from aviary.replica.prepare import (
    ROUTES,
    continuation_bytes,
    decode_body,
    prepare,
    split_continuation,
    weight,
)

CHAT, COMPLETION, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"


def spec_of(**fields: Any) -> ModelSpec:
    engine = {"kind": "fake", "slots": 4, "context_length": 100}
    return ModelSpec.model_validate({"id": "m", "engine": engine, **fields})


FULL = spec_of(
    chat={"system": "Be kind.", "stop": ["END", "\n\n"]},
    generation={"temperature": 0.5, "top_p": 0.9, "seed": 7, "max_tokens": 20},
    limits={"max_output_tokens": 40},
)
PLAIN = spec_of()
USER = {"role": "user", "content": "Hi"}

LEAF = st.none() | st.booleans() | st.integers(-5, 200) | st.floats(allow_nan=False)
JSON = st.recursive(
    LEAF | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
MESSAGE = st.one_of(
    st.just(USER),
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool"]) | JSON},
        optional={"content": st.text(max_size=4) | JSON, "tool_calls": JSON},
    ),
    JSON,
)
KNOWN = {
    "model": JSON,
    "messages": st.lists(MESSAGE, max_size=3) | JSON,
    "prompt": st.text(max_size=5) | st.lists(st.integers(0, 9) | JSON, max_size=3) | JSON,
    "input": JSON,
    "n": st.integers(-1, 6) | JSON,
    "max_tokens": st.integers(-1, 120) | JSON,
    "max_completion_tokens": st.integers(-1, 120) | JSON,
    "stop": st.lists(st.text(max_size=3), max_size=3) | JSON,
    "stream": st.booleans() | JSON,
    "logprobs": st.booleans() | JSON,
    "top_logprobs": st.integers(-2, 30) | JSON,
    "n_probs": st.integers(-2, 30) | JSON,
    "temperature": JSON,
    "seed": JSON,
    "x_unknown": JSON,
}
BODY = st.fixed_dictionaries({}, optional=KNOWN)


@settings(max_examples=600)
@given(BODY, st.sampled_from(sorted(ROUTES)), st.sampled_from([FULL, PLAIN]))
def test_any_body_is_refused_or_obeys_the_limits(
    given_body: dict[str, Any], path: str, spec: ModelSpec
) -> None:
    before = copy.deepcopy(given_body)
    refusal: InvalidRequest | None = None
    try:
        body = prepare(spec, path, given_body)
    except InvalidRequest as error:
        refusal = error
    assert given_body == before  # the caller's object is not touched
    if refusal is not None:
        assert refusal.status == 400
        assert refusal.param
        assert len(str(refusal)) < 1000
        return
    json.dumps(body)
    assert body["model"] == "m"
    assert "max_completion_tokens" not in body or path == EMBEDDINGS
    if path == EMBEDDINGS:
        kept = {k: v for k, v in given_body.items() if k != "n" or v is not None}
        assert body == {**kept, "model": "m"}
        assert 1 <= body.get("n", 1) <= 4
        return
    assert 1 <= body.get("n", 1) <= 4
    assert 1 <= weight(body) <= 4
    for name in ("top_logprobs", "n_probs", *(["logprobs"] if path == COMPLETION else [])):
        assert body.get(name) is None or 0 <= body[name] <= 20
    most = spec.limits.max_output_tokens
    if most is not None:
        assert 1 <= body["max_tokens"] <= most
    if "max_tokens" in body:
        assert type(body["max_tokens"]) is int
        assert 1 <= body["max_tokens"] < spec.engine.context_length
    assert type(body.get("stream")) in (bool, type(None))
    stop = body.get("stop", [])
    assert all(isinstance(text, str) and text for text in stop)
    assert set(spec.chat.stop) <= set(stop)
    changed = {"model", "messages", "n", "max_tokens", "max_completion_tokens", "stop"}
    defaults = spec.generation.model_dump(exclude_none=True)
    for name, value in given_body.items():
        if name in changed:
            continue
        assert body[name] == (defaults.get(name) if value is None else value)
    assert set(body) <= set(given_body) | set(defaults) | changed
    if path == CHAT:
        assert body["messages"][-len(given_body["messages"]) :] == given_body["messages"]


def test_unknown_fields_pass_untouched() -> None:
    extra = {"logit_bias": {"5": -100}, "tools": [{"type": "function"}], "dry_multiplier": 0.5}
    body = prepare(PLAIN, CHAT, {"model": "x", "messages": [USER], **extra})
    assert body == {"model": "m", "messages": [USER], **extra}


def test_defaults_are_used_only_where_nothing_is_said() -> None:
    body = prepare(FULL, CHAT, {"messages": [USER], "temperature": 0, "top_p": None})
    assert (body["temperature"], body["top_p"], body["seed"]) == (0, 0.9, 7)
    assert body["max_tokens"] == 20


@pytest.mark.parametrize(
    ("asked", "max_tokens"),
    [
        ({}, 20),
        ({"max_tokens": None}, 20),
        ({"max_tokens": 5}, 5),
        ({"max_tokens": 40}, 40),
        ({"max_completion_tokens": 6}, 6),
        ({"max_completion_tokens": 6, "max_tokens": 5}, 6),
        ({"max_completion_tokens": None, "max_tokens": 5}, 5),
    ],
)
def test_max_tokens(asked: dict[str, Any], max_tokens: int) -> None:
    body = prepare(FULL, CHAT, {"messages": [USER], **asked})
    assert body["max_tokens"] == max_tokens
    assert "max_completion_tokens" not in body


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("value", [0, -1, 41, 1.5, "5", True, [5], 99])
def test_wrong_max_tokens(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest):
        prepare(FULL, CHAT, {"messages": [USER], name: value})


def test_output_that_cannot_fit_the_context() -> None:
    with pytest.raises(PromptTooLong, match=r"is 100; the context of model m is 100 tokens"):
        prepare(PLAIN, CHAT, {"messages": [USER], "max_tokens": 100})
    assert prepare(PLAIN, CHAT, {"messages": [USER], "max_tokens": 99})["max_tokens"] == 99


def test_the_hard_limit_is_the_default_when_there_is_no_other() -> None:
    spec = spec_of(limits={"max_output_tokens": 30})
    assert prepare(spec, CHAT, {"messages": [USER]})["max_tokens"] == 30
    assert "max_tokens" not in prepare(PLAIN, CHAT, {"messages": [USER]})


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (None, ["END", "\n\n"]),
        ("X", ["X", "END", "\n\n"]),
        (["X", "END"], ["X", "END", "\n\n"]),
        ([], ["END", "\n\n"]),
    ],
)
def test_stop_is_the_union(stop: Any, expected: list[str]) -> None:
    assert prepare(FULL, CHAT, {"messages": [USER], "stop": stop})["stop"] == expected
    plain = prepare(PLAIN, CHAT, {"messages": [USER], "stop": stop}).get("stop")
    assert plain == ([text for text in expected if text in (stop or ())] or None)


@pytest.mark.parametrize("stop", [1, {"a": 1}, [""], "", [None], ["a", 1], True])
def test_wrong_stop(stop: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        prepare(FULL, CHAT, {"messages": [USER], "stop": stop})
    assert caught.value.param == "stop"


def test_the_specs_system_message_is_used_once() -> None:
    system = {"role": "system", "content": "Be kind."}
    assert prepare(FULL, CHAT, {"messages": [USER]})["messages"] == [system, USER]
    for role in ("system", "developer"):
        own = [{"role": role, "content": "Be terse."}, USER]
        assert prepare(FULL, CHAT, {"messages": own})["messages"] == own
        late = [USER, {"role": role, "content": "Be terse."}]
        assert prepare(FULL, CHAT, {"messages": late})["messages"] == late
    assert prepare(PLAIN, CHAT, {"messages": [USER]})["messages"] == [USER]


@pytest.mark.parametrize("n", [0, -1, 5, 1.0, "2", True, [1]])
def test_wrong_n(n: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        prepare(PLAIN, CHAT, {"messages": [USER], "n": n})
    assert caught.value.param == "n"


@pytest.mark.parametrize("n", [0, -5, 5, "abc", True])
def test_wrong_n_of_embeddings(n: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        prepare(PLAIN, EMBEDDINGS, {"input": "x", "n": n})
    assert caught.value.param == "n"


@pytest.mark.parametrize("body", [{"prompt": ["a"] * 5}, {"prompt": ["a", "b", "c"], "n": 2}])
def test_more_prompts_than_slots(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="at most 4 at once") as caught:
        prepare(PLAIN, COMPLETION, body)
    assert caught.value.param == "prompt"
    prepare(PLAIN, COMPLETION, {"prompt": ["a", "b"], "n": 2})
    prepare(PLAIN, COMPLETION, {"prompt": [1, 2, 3, 4, 5, 6]})


@pytest.mark.parametrize(
    ("path", "name"),
    [(CHAT, "top_logprobs"), (CHAT, "n_probs"), (COMPLETION, "top_logprobs"),
     (COMPLETION, "n_probs"), (COMPLETION, "logprobs")],
)  # fmt: skip
def test_log_probabilities_are_bounded(path: str, name: str) -> None:
    base = {"messages": [USER], "prompt": "a"}
    values: tuple[Any, ...] = (-1, 21, 10**30, 5.0, "5", True, [1], {})
    for wrong in values:
        with pytest.raises(InvalidRequest) as caught:
            prepare(PLAIN, path, {**base, name: wrong})
        assert caught.value.param == name
    for good in (0, 20, None):
        assert prepare(PLAIN, path, {**base, name: good})[name] == good


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, 1),
        ({"n": 3}, 3),
        ({"prompt": "a b"}, 1),
        ({"prompt": ["a", "b"], "n": 2}, 4),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": [[1], [2]]}, 2),
        ({"prompt": ["a"]}, 1),
    ],
)
def test_weight(body: dict[str, Any], expected: int) -> None:
    assert weight(body) == expected


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        (None, "messages"),
        ("Hi", "messages"),
        ([], "messages"),
        (["Hi"], "messages[0]"),
        ([USER, {"content": "Hi"}], "messages[1].role"),
        ([{"role": "robot", "content": "Hi"}], "messages[0].role"),
        ([{"role": ["user"], "content": "Hi"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
    ],
)
def test_wrong_messages(messages: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        prepare(PLAIN, CHAT, {"messages": messages})
    assert caught.value.param == param


def test_messages_of_tools() -> None:
    messages = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "4"}]},
    ]
    assert prepare(PLAIN, CHAT, {"messages": messages})["messages"] == messages


def test_refusals_do_not_repeat_what_was_sent_at_length() -> None:
    long = "x" * 100_000
    for field in ({"stream": long}, {"messages": [{"role": long, "content": "a"}]}):
        with pytest.raises(InvalidRequest) as caught:
            prepare(PLAIN, CHAT, {"messages": [USER], **field})
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("given_input", [None, "", []])
def test_embeddings_need_input(given_input: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        prepare(PLAIN, EMBEDDINGS, {"input": given_input})
    assert caught.value.param == "input"


@given(st.binary(max_size=30) | JSON.map(lambda value: json.dumps(value).encode()))
def test_decoding_never_raises_another_error(raw: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        assert isinstance(decode_body(raw), dict)


@pytest.mark.parametrize(
    "raw",
    [b"", b" \n", b"[]", b"1", b"{", b'{"a": 1e999}', b'{"a": NaN}', b'"\xff"', b'{"\xff": 1}',
     b'{"a":' + b"[" * 100_000],
)  # fmt: skip
def test_wrong_bodies(raw: bytes) -> None:
    with pytest.raises(InvalidRequest):
        decode_body(raw)


@pytest.mark.parametrize(
    ("header", "raw"),
    [(b"x", b"{}"), (b"-1", b"{}"), (b"5", b"{}{}{"), (b"2", b"[]{}"), (b"15", b'{"pieces": [5]}')],
)
def test_continuations_that_cannot_be_read(header: bytes, raw: bytes) -> None:
    with pytest.raises(InvalidRequest):
        split_continuation(header, raw)


def test_a_continuation_stands_before_the_body() -> None:
    raw = b'{"pieces":["a","b"],"finish":null}'
    given_, body = split_continuation(b"%d" % len(raw), raw + b"{}")
    assert given_ == Continuation(("a", "b"))
    assert given_.text == "ab"
    assert body == b"{}"
    assert continuation_bytes(None) == continuation_bytes(b"0") == 0
