"""What is kept of a stream, and how two halves become one."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aviary.config.spec import FakeEngine
from aviary.core.ports import Continuation, EngineRequest
from aviary.engines.fake import FakeTextEngine
from aviary.gateway.continuation import KEPT_BYTES, Delivered, Joint, obstacle
from aviary.replica.prepare import split_continuation
from aviary.wire.sse import DONE, EventSplitter, encode_event, split_events

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"


def chunk(text: str | None = None, number: int = 1, **fields: Any) -> bytes:
    choice = {"index": 0, "delta": {} if text is None else {"content": text}} | fields
    return encode_event({"id": f"id{number}", "created": number, "choices": [choice]})


def role(number: int = 1) -> bytes:
    return chunk(number=number, delta={"role": "assistant", "content": ""})


def read(*events: bytes) -> Delivered:
    delivered = Delivered()
    for event in events:
        delivered.keep(event)
    delivered.read()
    return delivered


def essence(events: bytes) -> list[Any]:
    return [event if event == DONE else json.loads(event[5:]) for event in split_events(events)]


# what was delivered


@given(st.lists(st.text(max_size=6), max_size=40), st.data())
def test_pieces_are_kept_as_they_came(pieces: list[str], data: st.DataObject) -> None:
    events = [role(), *(chunk(piece) for piece in pieces)]
    delivered = Delivered()
    while events:  # several events come at once, and are read at any time
        count = data.draw(st.integers(1, len(events)))
        delivered.keep(b"".join(events[:count]))
        events = events[count:]
        if data.draw(st.booleans()):
            delivered.read()
    delivered.read()
    assert delivered.continuation() == Continuation(tuple(filter(None, pieces)))
    assert (delivered.id, delivered.created, delivered.role) == ("id1", 1, True)
    assert delivered.nothing == (not any(pieces))
    assert delivered.beyond == ""


def test_long_answers_are_folded_to_their_text() -> None:
    delivered = Delivered()
    event = chunk("heron ", logprobs={"content": [{"token": "heron", "x": "y" * 300}]})
    most = 0
    for _ in range(2000):
        delivered.keep(event)
        most = max(most, sum(map(len, delivered._kept)))
    assert len(event) * 2000 > 8 * KEPT_BYTES
    assert most <= KEPT_BYTES
    delivered.read()
    assert delivered.continuation().text == "heron " * 2000
    assert len(delivered.continuation().pieces) == 2000


def test_text_completions_and_finish_reasons() -> None:
    event = encode_event({"id": "a", "choices": [{"index": 0, "text": "x"}]})
    last = encode_event({"choices": [{"index": 0, "text": "", "finish_reason": "length"}]})
    delivered = read(event, b": \n\n", last, DONE)
    assert delivered.continuation() == Continuation(("x",), "length")
    assert not delivered.nothing


@pytest.mark.parametrize(
    ("event", "beyond"),
    [
        (chunk(delta={"tool_calls": [{"index": 0}]}), "tool calls"),
        (chunk(delta={"function_call": {"name": "f"}}), "tool calls"),
        (chunk(delta={"reasoning_content": "hm"}), "reasoning"),
        (chunk(delta={"refusal": "no"}), "more than text"),
        (chunk("b", index=1), "several answers"),
        (b"data: {nonsense\n\n", "an event that cannot be read"),
    ],
)
def test_what_is_more_than_text(event: bytes, beyond: str) -> None:
    delivered = read(role(), event, chunk("a"))
    assert delivered.beyond == beyond
    assert not delivered.nothing


# what can be taken up


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ""),
        ({"n": 1, "tools": [], "functions": None, "logprobs": True, "stop": ["x"]}, ""),
        ({"tools": [{}], "tool_choice": "none"}, ""),
        ({"response_format": {"type": "text"}}, ""),
        ({"prompt": [1, 2, 3]}, ""),
        ({"prompt": ["one"]}, ""),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}, 5]}, ""),
        ({"n": 2}, "n > 1"),
        ({"best_of": 3}, "n > 1"),
        ({"prompt": ["one", "two"]}, "several prompts"),
        ({"prompt": [[1], [2]]}, "several prompts"),
        ({"tools": [{}]}, "tools"),
        ({"functions": [{}]}, "functions"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
        ({"json_schema": {"type": "object"}}, "json_schema"),
        ({"grammar": "root ::= x"}, "grammar"),
        ({"echo": True}, "echo"),
        ({"suffix": "x"}, "suffix"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages that are more than text",
        ),
    ],
)
def test_obstacles(fields: dict[str, Any], expected: str) -> None:
    assert obstacle(json.dumps({"model": "m", **fields}).encode()) == expected


@given(st.dictionaries(st.sampled_from(
    ["n", "prompt", "tools", "functions", "messages", "response_format", "best_of", "echo"]),
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(),
                 lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))))  # fmt: skip
def test_any_body_has_obstacles_or_none(body: dict[str, Any]) -> None:
    assert isinstance(obstacle(msgspec.json.encode(body)), str)


# one stream


def test_id_time_and_role_are_said_once() -> None:
    joint = Joint(read(role(1), chunk("a", 1)))
    rest = role(2) + chunk("b", 2) + chunk(number=2, finish_reason="stop")
    usage = encode_event({"id": "id2", "created": 2, "choices": [], "usage": {"x": 1}})
    assert essence(joint.rewrite(rest + usage + b": \n\n" + DONE)[:-18]) == essence(
        chunk("b", 1)
        + chunk(number=1, finish_reason="stop")
        + encode_event({"id": "id1", "created": 1, "choices": [], "usage": {"x": 1}})
    )


def test_a_role_that_was_not_said_is_said() -> None:
    rest = role(2) + chunk("b", 2)
    assert essence(Joint(Delivered()).rewrite(rest)) == essence(rest)
    first = chunk(number=2, delta={"role": "assistant", "content": "b"})
    assert essence(Joint(read(role(1))).rewrite(first)) == essence(chunk("b", 1))


@pytest.mark.parametrize(
    "event",
    [DONE, b": \n\n", b'data: {"error":{"code":"x"}}\n\n', b"data: {no\n\n", b"data: 5\n\n"],
)
def test_what_is_no_chunk_passes(event: bytes) -> None:
    assert Joint(read(role())).rewrite(event) == event


# the way to a replica


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))), st.binary())
def test_the_continuation_arrives_with_the_clients_body(pieces: list[str], body: bytes) -> None:
    sent = Continuation(tuple(pieces), "stop")
    seam = msgspec.json.encode(sent)
    assert split_continuation(b"%d" % len(seam), seam + body) == (sent, body)
    assert split_continuation(None, body) == (None, body)
    assert split_continuation(b"0", body) == (None, body)


# cut anywhere, any number of times


@settings(deadline=None, max_examples=60)
@given(
    path=st.sampled_from([CHAT, COMPLETION]),
    tokens=st.integers(0, 30),
    most=st.none() | st.integers(1, 35),
    stop=st.lists(st.sampled_from(["r w", "n", "er s", " gannet", "twite", "l d"]), max_size=2),
    cuts=st.lists(st.integers(0, 2500), max_size=3),
    text=st.text(max_size=3),
)
async def test_the_halves_make_the_uncut_answer(
    path: str, tokens: int, most: int | None, stop: list[str], cuts: list[int], text: str
) -> None:
    """The bytes of the fake engine's stream are cut; what was whole is kept, the rest asked for."""
    engine = FakeTextEngine(FakeEngine(kind="fake", tokens=tokens, context_length=9999))
    await engine.start(lambda *_: None)
    body: dict[str, Any] = {"stream": True, "stop": stop, "max_tokens": most, "prompt": text}
    if path == CHAT:
        body["messages"] = [{"role": "user", "content": text}]

    async def ask(given_: Continuation | None) -> bytes:
        answer = await engine.generate(EngineRequest(path, body, "", given_))
        return b"".join([piece async for piece in answer.body])

    uncut = await ask(None)
    delivered, joint, client = Delivered(), None, b""
    for cut in [*cuts, None]:
        delivered.read()
        anew = delivered.nothing
        stream = await ask(None if anew else delivered.continuation())
        joint = Joint(delivered)
        whole = EventSplitter().feed(stream if cut is None else stream[:cut])
        events = joint.rewrite(whole)
        delivered.keep(events)
        client += events
        if client.endswith(DONE):
            break
    got, want = essence(client), essence(uncut)
    created = {event["created"] for event in got if isinstance(event, dict)}
    ids = {event["id"] for event in got if isinstance(event, dict)}
    assert len(created) == len(ids) == 1
    usages = [event for event in got if isinstance(event, dict) and event.get("usage")]
    for event in (*got, *want):
        if isinstance(event, dict):
            event["id"] = event["created"] = None
    if len(usages) == 1:
        assert got == want
    else:  # cut between usage and end: the gateway asks for nothing more then
        assert [event for event in got if event not in usages][:-1] == want[:-2]
