"""What sleeping models cost: memory of each, and the CPU time of an Aviary that has nothing to do.

CPU is what the processes used, not what the machine was busy with.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from running import Running, chat

MODELS = Path(__file__).parents[3] / "models"
SPEC = MODELS / "smollm2-135m-instruct.yaml"
COUNT = 12
NAMES = [f"sleeper-{number}" for number in range(COUNT)]
MOST_MB = 70
MOST_CORES = 0.1
REST_S = 10.0
IDLE = "scaling: {idle: {after: 1s, then: sleep}}\n"


@pytest.fixture(scope="module")
def aviary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Twelve models over real weights, and two gateway workers."""
    home = tmp_path_factory.mktemp("home")
    specs = tmp_path_factory.mktemp("specs")
    text = SPEC.read_text()
    assert "scaling:" not in text
    for name in NAMES:
        spec = text.replace("id: smollm2-135m-instruct", f"id: {name}") + IDLE
        (specs / f"{name}.yaml").write_text(spec)
    with Running(home, str(specs), "--workers", "2", start_s=240) as running:
        yield running


def asleep(aviary: Running, name: str, within_s: float = 120.0) -> dict[str, Any]:
    """The one replica of the model, once its engine has freed what it can."""
    deadline = time.monotonic() + within_s
    while True:
        model = aviary.model(name)
        if [(r["state"], r["detail"]) for r in model["replicas"]] == [("sleeping", "asleep")]:
            return model["replicas"][0]
        assert time.monotonic() < deadline, model
        time.sleep(0.1)


def memory_mb(pid: int) -> float:
    """Its share of memory: what several processes share counts to each in part."""
    info = psutil.Process(pid).memory_full_info()
    return float(getattr(info, "pss", info.uss)) / 1e6


def cpu_s(processes: list[psutil.Process]) -> float:
    """CPU time that they have used so far."""
    return sum(p.cpu_times().user + p.cpu_times().system for p in processes)


def answer_of(aviary: Running, name: str) -> None:
    """A short answer, whether the model is awake or not."""
    with aviary.client() as client:
        body = chat(name, "Hi", max_tokens=2)
        answer = client.post("/v1/chat/completions", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    assert json.loads(answer.text)["usage"]["completion_tokens"] == 2


@pytest.mark.timeout(400)
def test_twelve_models_answer_at_once(aviary: Running) -> None:
    with ThreadPoolExecutor(COUNT) as threads:
        for asked in [threads.submit(answer_of, aviary, name) for name in NAMES]:
            asked.result()


@pytest.mark.timeout(400)
def test_sleeping_models_cost_nearly_nothing(aviary: Running) -> None:
    replicas = {name: asleep(aviary, name) for name in NAMES}
    used_mb = {name: memory_mb(replica["pid"]) for name, replica in replicas.items()}
    assert max(used_mb.values()) <= MOST_MB, used_mb

    processes = aviary.processes()
    assert len(processes) >= COUNT + 3  # control process and two workers
    time.sleep(2.0)  # what was asked of it just now is done
    before = cpu_s(processes)
    began = time.monotonic()
    time.sleep(REST_S)
    cores = (cpu_s(processes) - before) / (time.monotonic() - began)
    assert aviary.processes() == processes
    assert cores <= MOST_CORES

    name = NAMES[0]
    answer_of(aviary, name)
    assert memory_mb(replicas[name]["pid"]) > 2 * MOST_MB  # it had slept indeed
    again = asleep(aviary, name)
    assert again["pid"] == replicas[name]["pid"]
    assert memory_mb(again["pid"]) <= MOST_MB
