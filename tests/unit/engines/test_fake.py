"""What people test against: the fake engine's stop strings and its refusals."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aviary.config.spec import FakeEngine
from aviary.core.errors import InvalidRequest
from aviary.core.ports import EngineRequest
from aviary.engines.fake import FakeTextEngine, scripted_text, until_stop, words_of

CHAT = "/v1/chat/completions"


async def ask(**fields: Any) -> bytes:
    engine = FakeTextEngine(FakeEngine(kind="fake", tokens=8))
    await engine.start(lambda *_: None)
    body = {"messages": [{"role": "user", "content": "Hi"}], **fields}
    response = await engine.generate(EngineRequest(CHAT, body))
    try:
        return b"".join([piece async for piece in response.body])
    finally:
        await response.body.aclose()


@pytest.mark.parametrize("n", [2, 8])
async def test_one_answer_only(n: int) -> None:
    with pytest.raises(InvalidRequest, match="one answer") as caught:
        await ask(n=n)
    assert caught.value.param == "n"
    assert json.loads(await ask(n=1))["choices"]


@pytest.mark.parametrize("at", [0, 1, 5])
@pytest.mark.parametrize("many", [True, False])
async def test_stop(at: int, many: bool) -> None:
    tokens = scripted_text({"messages": [{"role": "user", "content": "Hi"}]}, 8)
    full = "".join(tokens)
    stop = tokens[at][1:]
    expected = full[: full.index(stop)]
    count = next(k for k in range(9) if stop in "".join(tokens[:k]))
    fields = {"stop": ["no such text", stop] if many else stop}
    answer = json.loads(await ask(**fields))
    assert answer["choices"][0]["message"]["content"] == expected
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == count
    events = [json.loads(e[6:]) for e in (await ask(**fields, stream=True)).split(b"\n\n")[:-2]]
    deltas = [c["delta"].get("content", "") for event in events for c in event["choices"]]
    assert "".join(deltas) == expected
    assert events[-1]["usage"]["completion_tokens"] == count


@pytest.mark.parametrize(
    ("stop", "shown", "stopped"),
    [
        ("bc", ["a", "", ""], True),
        ("c d", ["a", "b", "", ""], True),
        (["d", "b"], ["a", ""], True),
        (["", "x"], ["a", "b", "c", " d"], False),
        (None, ["a", "b", "c", " d"], False),
        ("a", [""], True),
    ],
)
def test_until_stop(stop: Any, shown: list[str], stopped: bool) -> None:
    assert until_stop(["a", "b", "c", " d"], stop) == (shown, stopped)


@given(st.text(min_size=1))
def test_words_are_the_text(text: str) -> None:
    assert "".join(words_of(text)) == text


async def test_it_says_what_it_is_told() -> None:
    engine = FakeTextEngine(FakeEngine(kind="fake", says="<b>one</b>\n\n two  three \n"))
    await engine.start(lambda *_: None)
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    for most, said, finish in ((None, "<b>one</b>\n\n two  three \n", "stop"), (2, None, "length")):
        asked = body if most is None else {**body, "max_tokens": most}
        response = await engine.generate(EngineRequest(CHAT, asked))
        answer = json.loads(b"".join([piece async for piece in response.body]))["choices"][0]
        assert answer["message"]["content"] == (said or "<b>one</b>\n\n two")
        assert answer["finish_reason"] == finish
