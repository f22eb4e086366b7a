"""The starter catalog as a user meets it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import Running, chat, streamed_text

from aviary.config.loader import catalog_dir, load_specs
from aviary.config.settings import Settings
from aviary.weights.cache import WeightCache

pytestmark = pytest.mark.e2e

MODELS = ["smollm2-135m-instruct", "smollm2-135m-brief", "gemma-3-270m"]

# llama.cpp called directly, one request at a time, in a process of its own.
DIRECT = """
import json, sys
import xllamacpp
job = json.load(sys.stdin)
params = xllamacpp.CommonParams()
params.model.path = job["path"]
params.n_ctx, params.n_parallel = job["context"], 1
params.n_batch = params.n_ubatch = 128
params.verbosity = 0
params.cache_ram_mib = 0
params.n_gpu_layers = 0
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
server = xllamacpp.Server(params)
texts = []
for body in job["bodies"]:
    answers = []
    server.handle_chat_completions(body, answers.append)
    texts.append(answers[-1]["choices"][0]["message"]["content"])
json.dump(texts, sys.stdout)
"""


def test_all_are_ready(catalog: Running) -> None:
    states = {model["id"]: model["state"] for model in catalog.started["models"]}
    assert states == dict.fromkeys(MODELS, "ready")


async def test_24_streams_over_three_models_at_once(catalog: Running) -> None:
    async with catalog.async_client() as client:

        async def ask(number: int) -> str:
            model = MODELS[number % 3]
            body = chat(model, f"Tell me about the number {number}.", stream=True, max_tokens=32)
            answer = await client.post("/v1/chat/completions", json=body, timeout=120)
            assert answer.status_code == 200, answer.text
            text, chunks = streamed_text(answer.text)
            assert chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length")
            return text

        texts = await asyncio.gather(*(ask(number) for number in range(24)))
    # A base model may end at once; nearly all must have said something.
    assert sum(bool(text) for text in texts) >= 20


def test_text_equals_llama_cpp_called_directly(catalog: Running) -> None:
    spec = next(s for s in load_specs([catalog_dir()]) if s.id == MODELS[0])
    assert spec.source is not None
    path = WeightCache(Settings().weights_dir).locate(spec.source)
    assert path is not None
    prompts = ["Why do birds sing?", "Write a haiku.", "2 + 2 =", "Äußerst größe, 日本語?"]
    fields = {"max_tokens": 32, "temperature": 0, "seed": 1}
    bodies = [{"messages": [{"role": "user", "content": p}], **fields} for p in prompts]
    job = {"path": str(path), "context": 2048, "bodies": bodies}
    direct = subprocess.run(
        [sys.executable, "-c", DIRECT],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    wanted = json.loads(direct.stdout[direct.stdout.index("[") :])
    with catalog.client() as client:
        got = []
        for prompt in prompts:
            body = chat(MODELS[0], prompt, stream=True, **fields)
            got.append(streamed_text(client.post("/v1/chat/completions", json=body).text)[0])
    assert got == wanted


async def test_a_client_that_leaves_during_a_long_prompt_frees_its_slot(catalog: Running) -> None:
    """Also while another stream runs: llama.cpp itself would then not notice for seconds."""
    async with catalog.async_client() as client:
        other = asyncio.create_task(
            client.post(
                "/v1/chat/completions",
                json=chat("smollm2-135m-brief", "Tell a long story.", max_tokens=100, stream=True),
            )
        )
        await asyncio.sleep(0.3)
        long = chat("smollm2-135m-brief", "word " * 1700, stream=True, max_tokens=5)
        leaving = asyncio.create_task(client.post("/v1/chat/completions", json=long))
        await asyncio.sleep(1.0)
        leaving.cancel()
        left = time.monotonic()
        while True:
            listed = (await client.get("/api/models/smollm2-135m-brief")).json()
            if listed["running"] <= 1:
                break
            await asyncio.sleep(0.05)
        assert time.monotonic() - left < 1.0
        # The slot is really free: both slots of the model serve again.
        began = time.monotonic()
        answer = await client.post(
            "/v1/chat/completions", json=chat("smollm2-135m-brief", "Hi", max_tokens=1)
        )
        assert answer.status_code == 200
        assert time.monotonic() - began < 2.5
        assert (await other).status_code == 200


def test_the_command_line_asks_real_models(catalog: Running, tmp_path: Path) -> None:
    results = tmp_path / "answers.json"
    asked = subprocess.run(
        [
            *(sys.executable, "-m", "aviary", "query", "-m", MODELS[0], "-m", MODELS[2]),
            *("--prompt", "Why do birds sing?", "--prompt", "What is rain?"),
            *("--max-tokens", "12", "-o", str(results)),
        ],
        env={**os.environ, "AVIARY_URL": catalog.url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr
    answers = json.loads(results.read_text())
    assert len(answers) == 4
    assert all(answer["text"] and answer["time_to_first_token_ms"] > 0 for answer in answers)
