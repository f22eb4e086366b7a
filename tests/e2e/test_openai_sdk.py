"""The official openai package, unmodified, against real models."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from running import Running

pytestmark = pytest.mark.e2e

MODEL = "smollm2-135m-instruct"
BIRDS = [{"role": "user", "content": "Name one bird."}]


@pytest.fixture
def client(catalog: Running) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{catalog.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


def test_models_list(client: OpenAI) -> None:
    names = {model.id for model in client.models.list()}
    assert names == {"smollm2-135m-instruct", "smollm2-135m-brief", "gemma-3-270m"}
    assert client.models.retrieve(MODEL).owned_by == "aviary"


def test_chat(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=BIRDS, max_tokens=16, temperature=0
    )
    assert answer.model == MODEL
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert 1 <= answer.usage.completion_tokens <= 16
    assert answer.usage.prompt_tokens > 10


@pytest.mark.parametrize("model", ["smollm2-135m-instruct", "smollm2-135m-brief", "gemma-3-270m"])
def test_a_stream_says_the_same_as_one_answer(client: OpenAI, model: str) -> None:
    asked = {"model": model, "messages": BIRDS, "max_tokens": 24, "temperature": 0, "seed": 7}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.model for chunk in chunks} == {model}
    assert all(chunk.usage is None for chunk in chunks)
    assert not any(hasattr(chunk, "prompt_progress") for chunk in chunks)


def test_usage_in_a_stream(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=BIRDS,
            max_tokens=8,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[-1].choices == []
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 1 <= usage.completion_tokens <= 8


async def test_async_many_at_once(catalog: Running) -> None:
    async with AsyncOpenAI(base_url=f"{catalog.url}/v1", api_key="none", timeout=120) as client:

        async def ask(number: int) -> str:
            stream = await client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": f"Count from {number}."}],
                max_tokens=16,
                temperature=0,
                stream=True,
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        texts = await asyncio.gather(*(ask(number) for number in range(8)))
    assert all(texts)


def test_completions(client: OpenAI) -> None:
    asked = {"model": "gemma-3-270m", "prompt": "The capital of France is", "temperature": 0}
    answer = client.completions.create(**asked, max_tokens=8)
    assert answer.choices[0].text
    assert answer.usage is not None
    assert answer.usage.prompt_tokens >= 5
    chunks = list(client.completions.create(**asked, max_tokens=8, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == answer.choices[0].text


def test_completion_logprobs(client: OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="Once upon a", max_tokens=4, logprobs=2, temperature=0
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert "".join(logprobs.tokens or []) == answer.choices[0].text
    assert all(value <= 0 for value in logprobs.token_logprobs or [1])
    assert [len(top) for top in logprobs.top_logprobs or []] == [2] * len(logprobs.tokens or [])


def test_json_schema(client: OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"bird": {"type": "string", "maxLength": 12}, "legs": {"type": "integer"}},
        "required": ["bird", "legs"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "A bird and how many legs it has, as JSON."}],
        max_tokens=80,
        temperature=0,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "bird", "schema": schema, "strict": True},
        },
    )
    data = json.loads(answer.choices[0].message.content or "")
    assert set(data) == {"bird", "legs"}
    assert isinstance(data["legs"], int)


def test_stop(client: OpenAI) -> None:
    asked = {"model": MODEL, "prompt": "one two three four", "temperature": 0, "max_tokens": 24}
    free = client.completions.create(**asked).choices[0].text
    word = next(word for word in free.split()[2:] if word.isalpha())
    stopped = client.completions.create(**asked, stop=[f" {word}"]).choices[0]
    assert f" {word}" not in stopped.text
    assert free.startswith(stopped.text)
    assert stopped.finish_reason == "stop"


def test_seed(client: OpenAI) -> None:
    def ask(seed: int) -> str:
        answer = client.chat.completions.create(
            model=MODEL, messages=BIRDS, max_tokens=16, temperature=1.5, seed=seed
        )
        return answer.choices[0].message.content or ""

    assert ask(1) == ask(1)
    assert len({ask(seed) for seed in range(5)}) > 1


def test_logprobs(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=BIRDS, max_tokens=4, logprobs=True, top_logprobs=3, temperature=0
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    tokens = logprobs.content or []
    assert 1 <= len(tokens) <= 4
    assert all(len(token.top_logprobs) == 3 and token.logprob <= 0 for token in tokens)
    assert "".join(token.token for token in tokens).startswith(
        (answer.choices[0].message.content or "")[:3]
    )


def test_several_answers(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=BIRDS, n=2, max_tokens=6, temperature=1.2
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 6, "both answers count"


def test_the_specs_system_prompt_is_used(client: OpenAI, catalog: Running) -> None:
    def prompt_tokens(model: str) -> int:
        answer = client.chat.completions.create(model=model, messages=BIRDS, max_tokens=1)
        assert answer.usage is not None
        return answer.usage.prompt_tokens

    brief = catalog.model("smollm2-135m-brief")["spec"]["chat"]["system"]
    assert brief
    assert prompt_tokens("smollm2-135m-brief") != prompt_tokens(MODEL)


def test_cancelling_frees_the_slot(client: OpenAI) -> None:
    # Four slots: more streams than that, each left after its first token.
    for _ in range(6):
        stream = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Write a very long story."}],
            max_tokens=256,
            stream=True,
        )
        next(iter(stream))
        stream.close()
    began = time.monotonic()
    client.chat.completions.create(model=MODEL, messages=BIRDS, max_tokens=1)
    assert time.monotonic() - began < 1.5


def test_errors_are_the_right_classes(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-9", messages=BIRDS)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as empty:
        client.chat.completions.create(model=MODEL, messages=[])
    assert empty.value.param == "messages"
    long = [{"role": "user", "content": "word " * 4000}]
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as too_long:
            client.chat.completions.create(model=MODEL, messages=long, stream=stream)
        assert too_long.value.code == "context_length_exceeded"
        assert "2048" in str(too_long.value)
        assert "40" in str(too_long.value)  # 4,000 words and a few tokens
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(
            model=MODEL,
            messages=[
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
            ],
        )
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(
            model=MODEL, messages=BIRDS, extra_body={"grammar": "root ::= (("}
        )
    with pytest.raises(openai.BadRequestError) as none:
        client.embeddings.create(model=MODEL, input="x")
    assert "embeddings" in str(none.value)
