"""A real model's replica is killed in the middle of an answer."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml
from running import Running

from aviary.config.loader import catalog_dir

pytestmark = pytest.mark.e2e

MODEL = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def aviary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    fields = yaml.safe_load((catalog_dir() / f"{MODEL}.yaml").read_text())
    fields["scaling"] = {"min_replicas": 2}
    path = tmp_path_factory.mktemp("specs") / "model.yaml"
    path.write_text(yaml.safe_dump(fields))
    home: Path = tmp_path_factory.mktemp("h")
    with Running(home, str(path), "--workers", "1", start_s=600) as running:
        running.wait_for(MODEL, 2, 120)
        yield running


@pytest.mark.parametrize("kill_at", [None, 3, 12, 29])
@pytest.mark.parametrize("chat", [True, False])
def test_the_text_is_that_of_an_answer_that_was_not_cut(
    aviary: Running, kill_at: int | None, chat: bool
) -> None:
    asked: dict[str, Any] = {
        "model": MODEL,
        "max_tokens": 48,
        "temperature": 0,
        "stream_options": {"include_usage": True},
    }
    pids = {replica["id"]: replica["pid"] for replica in aviary.wait_for(MODEL, 2, 60)}
    before = continued(aviary)
    text = "Tell me about birds that swim."
    if chat:
        asked["messages"] = [{"role": "user", "content": text}]
    else:
        asked["prompt"] = text
    with openai.OpenAI(base_url=f"{aviary.url}/v1", api_key="none", max_retries=0) as client:
        create = (client.chat.completions if chat else client.completions).with_raw_response.create
        answers = []
        for at in (None, kill_at):
            raw = create(**asked, stream=True)
            chunks = []
            for chunk in raw.parse():
                chunks.append(chunk)
                if len(chunks) == at:
                    os.kill(pids[raw.headers["x-aviary-replica"]], signal.SIGKILL)
            answers.append(chunks)
    assert continued(aviary) - before == (kill_at is not None)
    uncut, cut = answers
    assert words(cut, chat) == words(uncut, chat)
    assert reasons(cut) == reasons(uncut) == ["length"]
    assert len({chunk.id for chunk in cut}) == 1
    assert {chunk.object for chunk in cut} == {chunk.object for chunk in uncut}
    usage, wanted = cut[-1].usage, uncut[-1].usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (wanted.prompt_tokens, 48)


def continued(aviary: Running) -> float:
    """How many streams went on at another replica."""
    with aviary.client() as client:
        lines = client.get("/metrics").text.splitlines()
    found = [line for line in lines if line.startswith("aviary_streams_continued_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in found)


def words(chunks: list[Any], chat: bool) -> str:
    choices = [choice for chunk in chunks for choice in chunk.choices]
    return "".join((c.delta.content if chat else c.text) or "" for c in choices)


def reasons(chunks: list[Any]) -> list[str]:
    found = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
    return [reason for reason in found if reason]
