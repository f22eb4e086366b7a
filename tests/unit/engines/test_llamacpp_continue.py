"""How llama.cpp is asked for the rest of an answer."""

import json
from typing import Any

import pytest

from aviary.core.ports import Continuation, EngineRequest
from aviary.engines.llamacpp_continue import CHAT, COMPLETION, SEEDS, find_seam
from aviary.wire.sse import DONE, encode_event, split_events


class Letters:
    """A tokeniser whose tokens are letters; like some, it may put a space before each text."""

    def __init__(self, *, spaces: bool = False) -> None:
        self.spaces = spaces
        self.asked: list[str] = []

    async def ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(path)
        if path == "/apply-template":
            return {"prompt": f"<{body['messages'][0]['content']}>"}
        if path == "/tokenize":
            content = body["content"]
            texts = [content] if isinstance(content, str) else content
            if self.spaces and not body["add_special"]:
                texts = [f" {text}" for text in texts]
            return {"tokens": [ord(letter) for text in texts for letter in text]}
        assert path == "/detokenize"
        return {"content": "".join(map(chr, body["tokens"]))}


def chat(**fields: Any) -> EngineRequest:
    body = {"messages": [{"role": "user", "content": "q"}], "stream": True, **fields}
    return EngineRequest(CHAT, body)


GIVEN = Continuation(("a", "bc"))


@pytest.mark.parametrize("spaces", [False, True])
async def test_prompt_and_text_go_as_numbers(spaces: bool) -> None:
    request = chat(max_tokens=10, seed=SEEDS - 1, temperature=1, tools=[], top_logprobs=None)
    seam = await find_seam(Letters(spaces=spaces).ask, request, GIVEN, 100)
    assert seam.body == {
        "stream": True,
        "prompt": [ord(letter) for letter in "<q>abc"],
        "max_tokens": 7,
        "seed": 2,  # three tokens on
        "temperature": 1,
    }
    assert (seam.prompt_tokens, seam.given_tokens, seam.finish) == (3, 3, "")
    assert request.body["max_tokens"] == 10


@pytest.mark.parametrize("prompt", ["q?", ["q?"], [113, 63], [[113, 63]]])
async def test_every_form_of_one_prompt(prompt: Any) -> None:
    request = EngineRequest(COMPLETION, {"prompt": prompt, "logprobs": 2})
    seam = await find_seam(Letters().ask, request, GIVEN, 100)
    assert seam.body == {"prompt": [ord(letter) for letter in "q?abc"], "logprobs": 2}
    assert (seam.prompt_tokens, seam.given_chars) == (2, 3)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"logprobs": True}, 20),
        ({"logprobs": True, "top_logprobs": 3}, 3),
        ({"logprobs": False}, None),
    ],
)
async def test_log_probabilities_of_a_chat(fields: dict[str, Any], expected: int | None) -> None:
    seam = await find_seam(Letters().ask, chat(**fields), GIVEN, 100)
    assert seam.body.get("n_probs") == expected
    assert "logprobs" not in seam.body


@pytest.mark.parametrize(("most", "context"), [(3, 100), (2, 100), (10, 6), (None, 5)])
async def test_nothing_is_left_to_generate(most: int | None, context: int) -> None:
    fields = {} if most is None else {"max_tokens": most}
    seam = await find_seam(Letters().ask, chat(model="m", **fields), GIVEN, context)
    assert seam.finish == "length"
    last, usage, done = split_events(seam.end())
    assert json.loads(last[5:])["choices"] == [{"index": 0, "delta": {}, "finish_reason": "length"}]
    assert json.loads(usage[5:])["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 3,
        "total_tokens": 6,
    }
    assert done == DONE


async def test_only_usage_is_wanted() -> None:
    seam = await find_seam(Letters().ask, chat(), Continuation(("a", "bc"), "stop"), 100)
    usage, done = split_events(seam.end())
    assert json.loads(usage[5:])["choices"] == []
    assert json.loads(usage[5:])["usage"]["completion_tokens"] == 4  # with the one that ended it
    assert done == DONE


def events(**choice: Any) -> bytes:
    top = {"id": "x", "object": "text_completion"}
    first = {"index": 0, "text": "d", "finish_reason": None, **choice}
    last = {"index": 0, "text": "", "finish_reason": "stop", "logprobs": None}
    usage = {"completion_tokens": 2, "prompt_tokens": 6, "total_tokens": 8}
    return (
        encode_event({**top, "choices": [first]})
        + encode_event({**top, "choices": [last], "usage": usage, "timings": {"x": 1}})
        + DONE
    )


async def test_the_rest_of_a_chat() -> None:
    seam = await find_seam(Letters().ask, chat(), GIVEN, 100)
    *chunks, done = split_events(seam.rewrite(events(logprobs={"content": [5]})))
    assert done == DONE
    text, last, usage = (json.loads(chunk[5:]) for chunk in chunks)
    assert text["object"] == "chat.completion.chunk"
    assert text["choices"] == [
        {
            "index": 0,
            "delta": {"content": "d"},
            "finish_reason": None,
            "logprobs": {"content": [5]},
        }
    ]
    assert last["choices"] == [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    assert "usage" not in last
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    assert usage["timings"] == {"x": 1}


async def test_the_rest_of_a_completion() -> None:
    request = EngineRequest(COMPLETION, {"prompt": "q"})
    seam = await find_seam(Letters().ask, request, GIVEN, 100)
    logprobs = {"tokens": ["d"], "text_offset": [0]}
    text, last, done = split_events(seam.rewrite(events(logprobs=logprobs)))
    assert json.loads(text[5:])["choices"][0]["logprobs"]["text_offset"] == [3]
    assert json.loads(last[5:])["usage"]["completion_tokens"] == 5
    assert done == DONE


async def test_errors_pass() -> None:
    error = b'data: {"error":{"code":500}}\n\n'
    for request in (chat(), EngineRequest(COMPLETION, {"prompt": "q"})):
        seam = await find_seam(Letters().ask, request, GIVEN, 100)
        assert seam.rewrite(error) == error
