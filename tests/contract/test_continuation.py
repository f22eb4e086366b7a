"""Every engine goes on with an answer that another one began: nothing is lost, nothing doubled."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from aviary.config.loader import load_spec
from aviary.config.places import FixedPlaces
from aviary.config.settings import Settings
from aviary.config.spec import ModelSpec
from aviary.core.ports import Continuation, Engine, EngineRequest
from aviary.engines.registry import AVAILABLE, create_engine

MODELS = Path(__file__).parents[2] / "models"
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(170)]

QUESTIONS = (
    "Name three birds.",
    "Write python code that prints squares:\n",
    "用中文说你好并介绍你自己",  # answered in symbols of several tokens each
)


@dataclass
class Said:
    """A streamed answer."""

    pieces: list[str]
    finish: list[str]
    usages: list[dict[str, int]]
    chunks: list[dict[str, Any]]

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@dataclass
class Bench:
    """A started engine."""

    engine: Engine
    spec: ModelSpec

    async def ask(self, path: str, body: dict[str, Any], given: Continuation | None = None) -> Said:
        asked = {"temperature": 0, "model": self.spec.id, "stream": True} | body
        response = await self.engine.generate(EngineRequest(path, asked, "test", given))
        try:
            raw = b"".join([piece async for piece in response.body])
        finally:
            await response.body.aclose()
        *events, done, end = raw.split(b"\n\n")
        assert (done, end) == (b"data: [DONE]", b"")
        said = Said([], [], [], [json.loads(event.removeprefix(b"data: ")) for event in events])
        for chunk in said.chunks:
            for choice in chunk["choices"]:
                piece = choice["delta"].get("content") if path == CHAT else choice["text"]
                if piece:
                    said.pieces.append(piece)
                if choice["finish_reason"]:
                    said.finish.append(choice["finish_reason"])
            if chunk.get("usage"):
                said.usages.append(chunk["usage"])
        return said


def question(path: str, text: str, **fields: Any) -> dict[str, Any]:
    if path == CHAT:
        return {"messages": [{"role": "user", "content": text}], **fields}
    return {"prompt": text, **fields}


def essence(usage: dict[str, int]) -> tuple[int, int, int]:
    return usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=sorted(AVAILABLE))
async def bench(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Bench]:
    spec = load_spec(MODELS / "smollm2-135m-instruct.yaml")
    if request.param == "fake":
        spec = ModelSpec.model_validate(
            {"id": "fake", "engine": {"kind": "fake", "tokens": 20, "context_length": 2048}}
        )
    else:
        assert spec.engine.kind == request.param
    places = FixedPlaces(Settings().weights_dir, tmp_path_factory.mktemp("run"))
    engine = create_engine(spec, places)
    await engine.start(lambda *_: None)
    try:
        yield Bench(engine, spec)
    finally:
        await engine.stop()


@pytest.mark.parametrize("path", [CHAT, COMPLETION])
@pytest.mark.parametrize("text", QUESTIONS)
async def test_the_rest_after_every_cut(bench: Bench, path: str, text: str) -> None:
    body = question(path, text, max_tokens=28)
    whole = await bench.ask(path, body)
    assert len(whole.pieces) > 3
    for cut in range(1, len(whole.pieces) + 1):
        given = Continuation(tuple(whole.pieces[:cut]))
        rest = await bench.ask(path, body, given)
        assert given.text + rest.text == whole.text, cut
        assert rest.finish == whole.finish
        assert [essence(usage) for usage in rest.usages] == [essence(whole.usages[0])]
        kinds = {chunk["object"] for chunk in whole.chunks}
        assert {chunk["object"] for chunk in rest.chunks} == kinds
        assert not any(c.get("delta", {}).get("role") for k in rest.chunks for c in k["choices"])


@pytest.mark.parametrize("path", [CHAT, COMPLETION])
async def test_a_stop_string_across_the_seam(bench: Bench, path: str) -> None:
    """Its beginning was held back by the first engine, and comes anew."""
    free = await bench.ask(path, question(path, QUESTIONS[0], max_tokens=28))
    full = free.text
    held_back = 0
    for begin in range(len(full) // 3, len(full) // 3 + 8):
        for size in (2, 7):
            stop = full[begin : begin + size]
            body = question(path, QUESTIONS[0], max_tokens=28, stop=["never said", stop])
            whole = await bench.ask(path, body)
            assert whole.text == full[: full.index(stop)]
            assert whole.finish == ["stop"]
            # Up to here the pieces are whole tokens; the last may be what came before the stop.
            tokens = [a for a, b in zip(whole.pieces, free.pieces, strict=False) if a == b]
            held_back += len(tokens) < len(whole.pieces)
            for cut in {1, len(tokens) - 1, len(tokens)} - {0, -1}:
                given = Continuation(tuple(tokens[:cut]))
                rest = await bench.ask(path, body, given)
                assert given.text + rest.text == whole.text
                assert rest.finish == ["stop"]
                assert essence(rest.usages[0]) == essence(whole.usages[0])
    assert held_back


@pytest.mark.parametrize("path", [CHAT, COMPLETION])
async def test_only_the_end_is_missing(bench: Bench, path: str) -> None:
    for most in (5, 200):
        body = question(path, QUESTIONS[0], max_tokens=most)
        whole = await bench.ask(path, body)
        given = Continuation(tuple(whole.pieces), whole.finish[0])
        rest = await bench.ask(path, body, given)
        assert rest.text == ""
        assert rest.finish == []
        assert [essence(usage) for usage in rest.usages] == [essence(whole.usages[0])]


async def test_a_full_context_ends_by_length(bench: Bench) -> None:
    word = " bird"
    given = Continuation(tuple([word] * bench.spec.engine.context_length))
    rest = await bench.ask(COMPLETION, question(COMPLETION, QUESTIONS[0]), given)
    assert rest.text == ""
    assert rest.finish in (["length"], ["stop"])
    assert rest.usages[0]["completion_tokens"] > 0


async def test_what_was_not_streamed_stays_as_it_was(bench: Bench) -> None:
    answer = await bench.engine.generate(
        EngineRequest(CHAT, question(CHAT, QUESTIONS[0], max_tokens=3, model="m"), "test")
    )
    whole = json.loads(b"".join([piece async for piece in answer.body]))
    await answer.body.aclose()
    assert whole["usage"]["completion_tokens"] == 3
