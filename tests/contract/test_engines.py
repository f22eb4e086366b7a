"""What every available engine promises, and what llama.cpp promises besides."""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import psutil
import pytest
import pytest_asyncio

from aviary.config.loader import load_spec
from aviary.config.places import FixedPlaces
from aviary.config.settings import Settings
from aviary.config.spec import Chat, ModelSpec, PromptFormat, Source
from aviary.core.errors import Crashed, InvalidRequest, PromptTooLong, StartFailed, WeightsError
from aviary.core.ports import Engine, EngineRequest, EngineResponse
from aviary.engines.registry import AVAILABLE, create_engine
from aviary.process.memory import give_back_memory
from aviary.weights.cache import WeightCache

MODELS = Path(__file__).parents[2] / "models"
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
SESSION = pytest.mark.asyncio(loop_scope="module")
pytestmark = [SESSION, pytest.mark.timeout(170)]

FAKE = ModelSpec.model_validate(
    {
        "id": "fake",
        "engine": {"kind": "fake", "slots": 4, "context_length": 600, "gap": "2ms", "tokens": 200},
    }
)


@dataclass
class Bench:
    """A started engine and what it said while it started."""

    engine: Engine
    spec: ModelSpec
    progress: list[tuple[str, float | None]] = field(default_factory=list)

    @property
    def kind(self) -> str:
        return self.spec.engine.kind

    async def open(self, path: str = CHAT, **body: Any) -> EngineResponse:
        if path == CHAT and "messages" not in body:
            body["messages"] = [{"role": "user", "content": "Name three birds."}]
        elif path == COMPLETION and "prompt" not in body:
            body["prompt"] = "Once upon a time"
        body = {"temperature": 0, "seed": 1, "max_tokens": 24, "model": self.spec.id} | body
        return await self.engine.generate(EngineRequest(path, body, "test"))

    async def raw(self, path: str = CHAT, **body: Any) -> bytes:
        response = await self.open(path, **body)
        try:
            assert response.status == 200
            return b"".join([piece async for piece in response.body])
        finally:
            await response.body.aclose()

    async def answer(self, path: str = CHAT, **body: Any) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(await self.raw(path, **body))
        return answer

    async def chunks(self, path: str = CHAT, **body: Any) -> list[dict[str, Any]]:
        raw = await self.raw(path, stream=True, **body)
        *events, done, end = raw.split(b"\n\n")
        assert (done, end) == (b"data: [DONE]", b"")
        return [json.loads(event.removeprefix(b"data: ")) for event in events]

    async def until(self, running: int, within_s: float = 1.0) -> float:
        began = monotonic()
        while self.engine.stats().running != running:
            assert monotonic() - began < within_s, self.engine.stats()
            await asyncio.sleep(0.01)
        return monotonic() - began


def text_of(chunks: list[dict[str, Any]], index: int = 0) -> str:
    choices = [c for chunk in chunks for c in chunk["choices"] if c["index"] == index]
    parts = [c["text"] if "text" in c else c["delta"].get("content") for c in choices]
    return "".join(part or "" for part in parts)


def usages(chunks: list[dict[str, Any]]) -> list[dict[str, int]]:
    return [chunk["usage"] for chunk in chunks if chunk.get("usage")]


def places(folder: Path) -> FixedPlaces:
    return FixedPlaces(Settings().weights_dir, folder)


@contextlib.asynccontextmanager
async def started(spec: ModelSpec, folder: Path) -> AsyncIterator[Bench]:
    bench = Bench(create_engine(spec, places(folder)), spec)
    await bench.engine.start(lambda text, fraction: bench.progress.append((text, fraction)))
    try:
        yield bench
    finally:
        await bench.engine.stop()


@pytest.fixture(scope="module")
def llama_spec() -> ModelSpec:
    spec = load_spec(MODELS / "smollm2-135m-instruct.yaml")
    return spec.model_copy(
        update={"engine": spec.engine.model_copy(update={"slots": 3, "context_length": 1024})}
    )


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for sockets."""
    return tmp_path_factory.mktemp("run")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def llama(llama_spec: ModelSpec, short: Path) -> AsyncIterator[Bench]:
    async with started(llama_spec, short) as bench:
        yield bench


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fake(short: Path) -> AsyncIterator[Bench]:
    async with started(FAKE, short) as bench:
        yield bench


@pytest.fixture(params=sorted(AVAILABLE))
def bench(request: pytest.FixtureRequest) -> Bench:
    names = {"llamacpp": "llama", "fake": "fake"}
    found: Bench = request.getfixturevalue(names[request.param])
    return found


# every engine


async def test_start_tells_its_progress(bench: Bench) -> None:
    assert bench.progress
    for text, fraction in bench.progress:
        assert text
        assert fraction is None or 0 <= fraction <= 1


async def test_healthy_and_idle(bench: Bench) -> None:
    await bench.engine.healthy()
    assert bench.engine.stats().running == 0


@pytest.mark.parametrize("path", [CHAT, COMPLETION])
async def test_streamed_and_whole_answers_agree(bench: Bench, path: str) -> None:
    whole = await bench.answer(path)
    chunks = await bench.chunks(path)
    choice = whole["choices"][0]
    text = choice["message"]["content"] if path == CHAT else choice["text"]
    assert text
    assert text_of(chunks) == text
    kind = "chat.completion" if path == CHAT else "text_completion"
    assert whole["object"] == kind
    assert {chunk["object"] for chunk in chunks} == {kind + ".chunk" * (path == CHAT)}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["model"] for chunk in chunks} == {whole["model"]} == {bench.spec.id}
    reasons = [c["finish_reason"] for chunk in chunks for c in chunk["choices"]]
    assert [reason for reason in reasons if reason] == [choice["finish_reason"]] == ["length"]
    if path == CHAT:
        assert choice["message"]["role"] == "assistant"
        assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert not any("prompt_progress" in chunk for chunk in chunks)


@pytest.mark.parametrize("path", [CHAT, COMPLETION])
async def test_usage(bench: Bench, path: str) -> None:
    before = bench.engine.stats()
    whole = (await bench.answer(path, max_tokens=7))["usage"]
    chunks = await bench.chunks(path, max_tokens=7)
    [streamed] = usages(chunks)
    for usage in (whole, streamed):
        assert usage["completion_tokens"] == 7
        assert usage["prompt_tokens"] > 0
        assert usage["total_tokens"] == usage["prompt_tokens"] + 7
    assert whole["prompt_tokens"] == streamed["prompt_tokens"]
    assert chunks[-1]["usage"] == streamed
    after = bench.engine.stats()
    assert after.completion_tokens - before.completion_tokens == 14
    assert after.prompt_tokens - before.prompt_tokens == 2 * whole["prompt_tokens"]


async def test_max_tokens_one(bench: Bench) -> None:
    answer = await bench.answer(max_tokens=1)
    assert answer["usage"]["completion_tokens"] == 1
    assert answer["choices"][0]["finish_reason"] == "length"


async def test_prompts_too_long_are_named_in_numbers(bench: Bench) -> None:
    context = bench.spec.engine.context_length
    for path, prompt in ((CHAT, "messages"), (COMPLETION, "prompt")):
        long = "bird " * (2 * context)
        value = [{"role": "user", "content": long}] if path == CHAT else long
        for stream in (True, False):
            with pytest.raises(PromptTooLong) as caught:
                await bench.raw(path, stream=stream, **{prompt: value})
            numbers = [int(word) for word in str(caught.value).split() if word.isdigit()]
            assert context in numbers
            assert any(number >= 2 * context for number in numbers)
    assert bench.engine.stats().running == 0


async def test_closing_a_stream_frees_it(bench: Bench) -> None:
    response = await bench.open(stream=True, max_tokens=190)
    async for _ in response.body:
        break
    assert bench.engine.stats().running == 1
    await response.body.aclose()
    await response.body.aclose()
    await bench.until(0)


async def test_closing_what_was_never_read_frees_it(bench: Bench) -> None:
    for stream in (True, False):
        response = await bench.open(stream=stream, max_tokens=190)
        assert bench.engine.stats().running == 1
        await response.body.aclose()
        await bench.until(0)


async def test_cancelling_the_reader_frees_it(bench: Bench) -> None:
    for stream in (True, False):
        work = asyncio.create_task(bench.raw(stream=stream, max_tokens=190))
        await bench.until(1)
        await asyncio.sleep(0.05)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        await bench.until(0)


async def test_many_at_once(bench: Bench) -> None:
    prompts = [f"Say the number {number}." for number in range(6)]
    alone = [await bench.answer(COMPLETION, prompt=p, max_tokens=4) for p in prompts[:2]]
    together = await asyncio.gather(
        *(bench.answer(COMPLETION, prompt=p, max_tokens=4) for p in prompts)
    )
    for one, other in zip(alone, together, strict=False):
        assert one["usage"]["prompt_tokens"] == other["usage"]["prompt_tokens"]
    assert all(a["usage"]["completion_tokens"] == 4 for a in together)
    assert bench.engine.stats().running == 0


@pytest.mark.parametrize("kind", sorted(AVAILABLE))
async def test_life(kind: str, llama_spec: ModelSpec, short: Path) -> None:
    spec = llama_spec if kind == "llamacpp" else FAKE
    engine = create_engine(spec, places(short))
    bench = Bench(engine, spec)
    for _ in range(2):
        with pytest.raises(Crashed):
            await bench.answer()
        with pytest.raises(Crashed):
            await engine.healthy()
        await engine.stop()
    before = set(short.iterdir())
    await engine.start(lambda *_: None)
    assert (await bench.answer(max_tokens=2))["usage"]["completion_tokens"] == 2
    await engine.stop()
    await engine.stop()
    with pytest.raises(Crashed):
        await bench.answer()
    with pytest.raises(Crashed):
        await engine.healthy()
    assert set(short.iterdir()) == before  # nothing is left behind


@pytest.mark.parametrize("kind", sorted(AVAILABLE))
async def test_sleep_and_wake(kind: str, llama_spec: ModelSpec, short: Path) -> None:
    spec = llama_spec if kind == "llamacpp" else FAKE
    before = set(short.iterdir())
    async with started(spec, short) as bench:
        first = await bench.answer(max_tokens=8)
        for _ in range(2):
            await bench.engine.sleep()
            with pytest.raises(Crashed):
                await bench.answer()
            with pytest.raises(Crashed):
                await bench.engine.healthy()
            await bench.engine.sleep()  # may be asked twice
            bench.progress.clear()
            await bench.engine.wake(lambda *told: bench.progress.append(told))
            assert bench.progress
            again = await bench.answer(max_tokens=8)
            assert again["choices"] == first["choices"]
            await bench.engine.healthy()
        counted = bench.engine.stats()
        assert counted.completion_tokens == 24  # sleep forgets no figures
        assert counted.running == 0
        await bench.engine.sleep()
    assert set(short.iterdir()) == before  # stopped while it slept: nothing is left behind


@pytest.mark.parametrize("kind", sorted(AVAILABLE))
async def test_stopping_in_the_middle_of_a_wake(
    kind: str, llama_spec: ModelSpec, short: Path
) -> None:
    spec = llama_spec if kind == "llamacpp" else FAKE
    before = set(short.iterdir())
    async with started(spec, short) as bench:
        await bench.engine.sleep()
        waking = asyncio.create_task(bench.engine.wake(lambda *_: None))
        await asyncio.sleep(0.05)
        waking.cancel()
        await asyncio.wait([waking])
        await bench.engine.stop()
        with pytest.raises(Crashed):
            await bench.answer()
        await bench.engine.wake(lambda *_: None)
        assert (await bench.answer(max_tokens=2))["usage"]["completion_tokens"] == 2
    assert set(short.iterdir()) == before


async def test_stopping_ends_a_running_generation(llama_spec: ModelSpec, short: Path) -> None:
    async with started(llama_spec, short) as bench:
        work = asyncio.create_task(bench.raw(max_tokens=900, ignore_eos=True))
        await bench.until(1)
        await asyncio.sleep(0.1)
        async with asyncio.timeout(10):
            await bench.engine.stop()
            with pytest.raises(Crashed):
                await work


# llama.cpp


async def test_stop_strings(llama: Bench) -> None:
    full = (await llama.answer())["choices"][0]["message"]["content"]
    stop = full[8:11]
    answer = (await llama.answer(stop=[stop]))["choices"][0]
    assert answer["message"]["content"] == full[: full.index(stop)]
    assert answer["finish_reason"] == "stop"
    assert text_of(await llama.chunks(stop=[stop])) == full[: full.index(stop)]


async def test_several_choices(llama: Bench) -> None:
    fields: dict[str, Any] = {"n": 2, "max_tokens": 6, "temperature": 1.0}
    whole = await llama.answer(**fields)
    assert [choice["index"] for choice in whole["choices"]] == [0, 1]
    assert whole["usage"]["completion_tokens"] == 12
    single = (await llama.answer(max_tokens=1))["usage"]["prompt_tokens"]
    assert whole["usage"]["prompt_tokens"] == single  # n answers share one prompt
    chunks = await llama.chunks(**fields)
    assert {c["index"] for chunk in chunks for c in chunk["choices"]} == {0, 1}
    [usage] = usages(chunks)
    assert usage == {
        "prompt_tokens": single,
        "completion_tokens": 12,
        "total_tokens": single + 12,
    }


async def test_several_prompts(llama: Bench) -> None:
    prompts = ["The sky is", "One two three"]
    alone = [await llama.answer(COMPLETION, prompt=p, max_tokens=5) for p in prompts]
    both = await llama.answer(COMPLETION, prompt=prompts, max_tokens=5)
    assert [c["text"] for c in both["choices"]] == [a["choices"][0]["text"] for a in alone]
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert both["usage"][name] == sum(answer["usage"][name] for answer in alone)
    chunks = await llama.chunks(COMPLETION, prompt=prompts, max_tokens=5)
    assert usages(chunks) == [{k: both["usage"][k] for k in usages(chunks)[0]}]
    assert [text_of(chunks, index) for index in (0, 1)] == [c["text"] for c in both["choices"]]


async def test_token_ids_as_prompt(llama: Bench) -> None:
    answer = await llama.answer(COMPLETION, prompt=[504, 3270, 314], max_tokens=3)
    assert answer["usage"]["prompt_tokens"] == 3
    assert len(answer["choices"]) == 1


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "legs": {"enum": [2, 4]}},
    "required": ["name", "legs"],
    "additionalProperties": False,
}


async def test_json_schema(llama: Bench) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "animal", "schema": SCHEMA}}
    answer = await llama.answer(response_format=form, max_tokens=80)
    animal = json.loads(answer["choices"][0]["message"]["content"])
    assert set(animal) == {"name", "legs"}
    assert animal["legs"] in (2, 4)
    streamed = text_of(await llama.chunks(response_format=form, max_tokens=80))
    assert json.loads(streamed) == animal


async def test_grammar(llama: Bench) -> None:
    answer = await llama.answer(COMPLETION, grammar='root ::= "yes" | "no"')
    assert answer["choices"][0]["text"] in ("yes", "no")


async def test_logprobs_of_chats(llama: Bench) -> None:
    answer = await llama.answer(logprobs=True, top_logprobs=2, max_tokens=3)
    content = answer["choices"][0]["logprobs"]["content"]
    assert len(content) == 3
    assert (
        "".join(token["token"] for token in content) == answer["choices"][0]["message"]["content"]
    )
    for token in content:
        assert token["logprob"] <= 0
        assert len(token["top_logprobs"]) == 2


@pytest.mark.parametrize("stream", [True, False])
async def test_logprobs_of_completions_are_lists(llama: Bench, stream: bool) -> None:
    fields: dict[str, Any] = {"prompt": "The sky is", "logprobs": 2, "max_tokens": 4}
    if stream:
        chunks = await llama.chunks(COMPLETION, **fields)
        text = text_of(chunks)
        parts = [c["logprobs"] for chunk in chunks for c in chunk["choices"] if c.get("logprobs")]
        logprobs = {key: [x for part in parts for x in part[key]] for key in parts[0]}
    else:
        choice = (await llama.answer(COMPLETION, **fields))["choices"][0]
        text, logprobs = choice["text"], choice["logprobs"]
    assert set(logprobs) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
    assert "".join(logprobs["tokens"]) == text
    assert len(logprobs["token_logprobs"]) == 4
    assert all(value <= 0 for value in logprobs["token_logprobs"])
    assert all(len(top) == 2 for top in logprobs["top_logprobs"])
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        assert text[offset : offset + len(token)] == token


async def test_logit_bias(llama: Bench) -> None:
    plain = await llama.answer(COMPLETION, prompt="The sky is", max_tokens=1, logprobs=1)
    word = plain["choices"][0]["text"]
    biased = await llama.answer(
        COMPLETION, prompt="The sky is", max_tokens=1, logit_bias={word: -100}
    )
    assert biased["choices"][0]["text"] != word


IMAGE = {"type": "image_url", "image_url": {"url": "x"}}


@pytest.mark.parametrize(
    "fields",
    [
        {"grammar": "root ::= ((("},
        {"response_format": {"type": "nonsense"}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "bird"}}}},
        {"temperature": "hot"},
        {"top_k": [1]},
        {"messages": [{"role": "user", "content": [IMAGE]}]},
        {"tools": "hammer"},
        {"top_logprobs": 2},
    ],
)  # fmt: skip
async def test_bad_parameters(llama: Bench, fields: dict[str, Any]) -> None:
    for stream in (True, False):
        with pytest.raises(InvalidRequest):
            await llama.raw(stream=stream, max_tokens=4, **fields)
    assert llama.engine.stats().running == 0
    await llama.engine.healthy()


async def test_embeddings_are_refused(llama: Bench) -> None:
    with pytest.raises(InvalidRequest, match="no embeddings"):
        await llama.engine.generate(EngineRequest("/v1/embeddings", {"input": "a"}))


@pytest.mark.parametrize("field", ["n_predict", "n_cmpl"])
async def test_other_names_of_limited_fields_do_not_pass_the_limits(
    llama: Bench, field: str
) -> None:
    """Admission and the spec's hard limits act on `n` and `max_tokens`."""
    answer = await llama.answer(COMPLETION, max_tokens=3, ignore_eos=True, **{field: 7})
    assert len(answer["choices"]) == 1
    assert answer["usage"]["completion_tokens"] == 3


LONG = " ".join(f"bird{number}" for number in range(240))  # about 880 tokens, seven batches


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def soon_s(llama: Bench) -> float:
    """A second, and some batches of this machine: llama.cpp looks up between two of them."""
    began = monotonic()
    await llama.answer(COMPLETION, prompt=LONG, max_tokens=1)
    return 1.0 + 4 * (monotonic() - began) / 7


@pytest.mark.parametrize("stream", [True, False])
async def test_a_long_prompt_gives_signs_of_life(llama: Bench, stream: bool) -> None:
    response = await llama.open(COMPLETION, prompt=f"{stream} {LONG}", max_tokens=3, stream=stream)
    pieces = [piece async for piece in response.body]
    await response.body.aclose()
    first = next(index for index, piece in enumerate(pieces) if piece)
    assert first >= 3  # empty pieces, about one a batch
    assert b"prompt_progress" not in b"".join(pieces)


async def use_slots(bench: Bench, count: int, within_s: float) -> None:
    """So many slots can be used at once, soon: nothing abandoned holds them."""
    async with asyncio.timeout(within_s):
        await asyncio.gather(
            *(bench.answer(COMPLETION, prompt="a", max_tokens=1) for _ in range(count))
        )


async def test_cancelled_prompts_free_their_slots(llama: Bench, soon_s: float) -> None:
    """llama.cpp notices that we left when it next writes: between two batches of the prompt."""
    works = [
        asyncio.create_task(llama.raw(COMPLETION, prompt=f"{number} {LONG}", max_tokens=90))
        for number in range(llama.spec.engine.slots)
    ]
    await llama.until(llama.spec.engine.slots, 3)
    await asyncio.sleep(0.05)
    for work in works:
        work.cancel()
    await asyncio.wait(works)
    await llama.until(0)
    await use_slots(llama, llama.spec.engine.slots, soon_s)


async def test_cancelled_while_another_streams(llama: Bench, soon_s: float) -> None:
    slots = llama.spec.engine.slots
    stays = await llama.open(COMPLETION, stream=True, max_tokens=700, ignore_eos=True)
    reader = stays.body.__aiter__()
    await anext(reader)
    leavers = [
        asyncio.create_task(llama.raw(COMPLETION, prompt=f"{n} {LONG}", max_tokens=90, stream=n))
        for n in range(slots - 1)
    ]
    await llama.until(slots, 3)
    await asyncio.sleep(0.1)
    for work in leavers:
        work.cancel()
    await asyncio.wait(leavers)
    await llama.until(1)
    await use_slots(llama, slots - 1, soon_s)
    assert b"[DONE]" not in await anext(reader)  # the one that stayed goes on
    await stays.body.aclose()
    await llama.until(0)
    await use_slots(llama, llama.spec.engine.slots, soon_s)


DIRECT = """
import json, sys, xllamacpp
path, threads, context, slots, batch, requests = json.loads(sys.argv[1])
params = xllamacpp.CommonParams()
params.model.path = path
params.verbosity = 0
params.n_parallel = slots
params.n_ctx = slots * context
params.n_batch = params.n_ubatch = batch
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
params.n_gpu_layers = 0
params.warmup = False
server = xllamacpp.Server(params)
texts = []
for body in requests:
    got = []
    server.handle_chat_completions(body, lambda data: got.append(data) or False)
    answer = got[-1] if isinstance(got[-1], dict) else json.loads(got[-1])
    texts.append(answer["choices"][0]["message"]["content"])
print("TEXTS" + json.dumps(texts))
"""


async def test_text_is_llama_cpps_own(llama: Bench, llama_spec: ModelSpec) -> None:
    source = llama_spec.source
    assert source is not None
    path = WeightCache(Settings().weights_dir).ensure(source, lambda *_: None)
    base: dict[str, Any] = {"temperature": 0, "seed": 1, "max_tokens": 24, "cache_prompt": False}
    questions = ["Name three birds.", "What is 2 + 2?", "Écris « bonjour » 🐦"]
    bodies = [{**base, "messages": [{"role": "user", "content": q}]} for q in questions]
    engine = llama_spec.engine
    plan = [str(path), 2, engine.context_length, engine.slots, 128, bodies]
    result = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", DIRECT, json.dumps(plan)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={**os.environ},
    )
    direct = json.loads(result.stdout.split("TEXTS")[1])
    ours = [(await llama.answer(**body))["choices"][0]["message"]["content"] for body in bodies]
    assert ours == direct
    assert all(direct)


async def test_what_is_no_gguf_file(tmp_path: Path, llama_spec: ModelSpec) -> None:
    for content, words in ((b"<html>not found", "is not a GGUF file"), (b"GGUF" + b"\0" * 99, "")):
        file = tmp_path / "x.gguf"
        file.write_bytes(content)
        spec = llama_spec.model_copy(update={"source": Source(uri=file.as_uri())})
        engine = create_engine(spec, FixedPlaces(tmp_path / "weights", tmp_path))
        with pytest.raises(StartFailed, match=words or "could not load"):
            await engine.start(lambda *_: None)
        assert not list(tmp_path.glob("aviary-*"))
        await engine.stop()


async def test_the_specs_template_is_used(llama_spec: ModelSpec, short: Path) -> None:
    """The format of the Gemma spec, on weights that are here: the prompt is its text."""
    gemma = load_spec(MODELS / "gemma-3-270m.yaml", check_source=False)
    spec = llama_spec.model_copy(update={"chat": gemma.chat})
    async with started(spec, short) as bench:
        messages = [
            {"role": "system", "content": "Facts."},
            {"role": "user", "content": "What is {{ 1 + 1 }}?"},
        ]
        text = "Facts.\n\nQuestion: What is {{ 1 + 1 }}?\nAnswer:"
        chat = await bench.answer(messages=messages, max_tokens=12)
        completion = await bench.answer(COMPLETION, prompt=text, max_tokens=12)
        assert chat["usage"]["prompt_tokens"] == completion["usage"]["prompt_tokens"]
        content = chat["choices"][0]["message"]["content"]
        assert content.strip() == completion["choices"][0]["text"].strip()


async def test_a_prompt_format_may_hold_any_character(llama_spec: ModelSpec, short: Path) -> None:
    nasty = "{{ {% '\"\\ \\n\t«é🐦» %} }}\n"
    form = PromptFormat(user=nasty + "{content}" + nasty, trailing=nasty)
    spec = llama_spec.model_copy(update={"chat": Chat(prompt_format=form)})
    async with started(spec, short) as bench:
        chat = await bench.answer(messages=[{"role": "user", "content": nasty}], max_tokens=1)
        text = nasty * 4
        completion = await bench.answer(COMPLETION, prompt=text, max_tokens=1)
        assert chat["usage"]["prompt_tokens"] == completion["usage"]["prompt_tokens"]


async def test_an_answer_is_continued(llama: Bench) -> None:
    question = {"role": "user", "content": "Name three birds."}
    full = (await llama.answer(messages=[question]))["choices"][0]["message"]["content"]
    begun = {"role": "assistant", "content": full[:10]}
    rest = (await llama.answer(messages=[question, begun]))["choices"][0]["message"]["content"]
    assert rest


async def test_sleep_gives_the_memory_back(llama_spec: ModelSpec, short: Path) -> None:
    async with started(llama_spec, short) as bench:
        await bench.answer(max_tokens=4)
        loaded = psutil.Process().memory_info().rss
        threads = psutil.Process().num_threads()
        await bench.engine.sleep()
        give_back_memory()
        freed = loaded - psutil.Process().memory_info().rss
        source = llama_spec.source
        assert source is not None
        weights = WeightCache(Settings().weights_dir).ensure(source, lambda *_: None)
        assert freed > weights.stat().st_size  # weights and KV cache
        assert psutil.Process().num_threads() < threads - llama_spec.engine.slots


async def test_a_wake_reads_known_weights_without_asking_the_cache(
    llama_spec: ModelSpec, short: Path, tmp_path: Path
) -> None:
    """A file of one's own with a checksum, and a cache that remembers nothing."""
    source = llama_spec.source
    assert source is not None
    known = WeightCache(Settings().weights_dir).ensure(source, lambda *_: None)
    file = tmp_path / "mine.gguf"
    file.write_bytes(known.read_bytes())
    own = Source(uri=file.as_uri(), sha256=source.sha256)
    cache = tmp_path / "weights"
    engine = create_engine(llama_spec.model_copy(update={"source": own}), FixedPlaces(cache, short))
    told: list[str] = []

    async def wake() -> list[str]:
        await engine.sleep()
        shutil.rmtree(cache)
        told.clear()
        await engine.wake(lambda text, _: told.append(text))
        return told

    try:
        await engine.start(lambda text, _: told.append(text))
        assert any("checking" in text for text in told)
        assert await wake() == ["loading the weights"]
        os.utime(file)  # somebody has touched it: is it still the same?
        cache.mkdir()
        assert any("checking" in text for text in await wake())
        await engine.sleep()
        file.write_bytes(b"GGUF but other bytes")
        with pytest.raises(WeightsError, match="checksum"):
            await engine.wake(lambda *_: None)
        file.unlink()
        with pytest.raises(WeightsError):
            await engine.wake(lambda *_: None)
    finally:
        await engine.stop()


async def test_a_wake_is_quick(llama_spec: ModelSpec, short: Path) -> None:
    async with started(llama_spec, short) as bench:
        await bench.engine.sleep()
        began = monotonic()
        await bench.engine.wake(lambda *_: None)
        await bench.answer(max_tokens=1)
        assert monotonic() - began < 2.0
