"""SmolLM2 at rest: how long a request waits for it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import psutil
import pytest
import yaml
from running import Running, chat

pytestmark = pytest.mark.e2e

MODELS = Path(__file__).parents[2] / "models"
LIMIT_S = {"sleep": 2.0, "zero": 4.0}


def first_token_s(running: Running, model: str) -> float:
    """Seconds from the request to the first content; the answer must be complete."""
    body = chat(model, "Why do birds sing?", stream=True, max_tokens=8)
    began, first = time.monotonic(), None
    with running.client() as client, client.stream("POST", "/v1/chat/completions", json=body) as r:
        assert r.status_code == 200, r.read()
        last = ""
        for line in r.iter_lines():
            if not line.startswith("data: "):
                continue
            last = line[6:]
            if last == "[DONE]":
                break
            chunk = json.loads(last)
            if first is None and chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
                first = time.monotonic() - began
    assert last == "[DONE]"
    assert first is not None
    return first


def test_memory_is_measured(tmp_path: Path) -> None:
    """What nobody declared is known once a model has run, and counts from then on."""
    spec = yaml.safe_load((MODELS / "smollm2-135m-instruct.yaml").read_text())
    folder = tmp_path / "specs"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(spec | {"id": name}))
    with Running(tmp_path / "h1", str(folder / "a.yaml")) as running:
        [replica] = running.wait_for("a", 1)
        one_gb = psutil.Process(replica["pid"]).memory_info().rss / 1e9
    budget_gb = f"{2.6 * one_gb:.3f}"
    with Running(tmp_path / "h", str(folder), AVIARY_MEMORY_GB=budget_gb) as running:

        def ready() -> int:
            return sum(running.model(name)["state"] == "ready" for name in ("a", "b", "c"))

        deadline = time.monotonic() + 30
        while ready() > 2:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        for name in ("a", "b", "c"):
            assert first_token_s(running, name) < 20
            assert ready() <= 2


@pytest.mark.parametrize("how", ["sleep", "zero"])
def test_a_request_wakes_a_real_model(how: str, tmp_path: Path) -> None:
    spec = yaml.safe_load((MODELS / "smollm2-135m-instruct.yaml").read_text())
    spec |= {"id": "small", "scaling": {"idle": {"after": "1s", "then": how}}}
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(spec))
    with Running(tmp_path / "h", str(path)) as running:
        took: list[float] = []
        for _ in range(3):
            deadline = time.monotonic() + 30
            while True:
                model = running.model("small")
                states = {replica["state"] for replica in model["replicas"]}
                if model["state"] == "sleeping" and states <= {"sleeping"}:
                    break
                assert time.monotonic() < deadline, model
                time.sleep(0.1)
            took.append(first_token_s(running, "small"))
        print(f"{how}: first token after {', '.join(f'{s:.2f}' for s in took)} s")
        # The best of three: what the machine can, not what else it had to do.
        assert min(took) <= LIMIT_S[how], took
