"""Models as cattle: applied, rolled back, rested, woken, restored; over real processes."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from running import Running, chat, streamed_text

from aviary.engines.fake import scripted_text


def spec(name: str, **fields: Any) -> dict[str, Any]:
    engine = {"kind": "fake", "tokens": 8, "slots": 8, **fields.pop("engine", {})}
    return {"id": name, "engine": engine, **fields}


def expected(text: str, tokens: int) -> str:
    return "".join(scripted_text({"messages": [{"role": "user", "content": text}]}, tokens))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "h"


@pytest.fixture
def start(tmp_path: Path, home: Path) -> Callable[..., Running]:
    """Makes an Aviary of this test's home; specs given are those of its command line."""

    def make(*specs: dict[str, Any], **environment: str) -> Running:
        folder = tmp_path / "specs"
        folder.mkdir(exist_ok=True)
        for one in specs:
            (folder / f"{one['id']}.yaml").write_text(json.dumps(one))
        return Running(home, *([str(folder)] if specs else []), **environment)

    return make


def apply(client: httpx2.Client, *specs: dict[str, Any], **options: Any) -> dict[str, Any]:
    answer = client.post("/api/apply", json={"specs": list(specs), **options})
    assert answer.status_code == 202, answer.text
    return answer.json()


def settled(client: httpx2.Client, applied: dict[str, Any], most_s: float = 30) -> dict[str, Any]:
    """What became of each model of an apply, once that is known."""
    deadline = time.monotonic() + most_s
    while True:
        answer = client.get(f"/api/apply/{applied['id']}").json()
        if answer["done"]:
            return {model["model"]: model for model in answer["models"]}
        assert time.monotonic() < deadline, answer
        time.sleep(0.05)


def state(client: httpx2.Client, model: str) -> str:
    return client.get(f"/api/models/{model}").json()["state"]


def until(client: httpx2.Client, model: str, wanted: str, most_s: float = 15) -> None:
    deadline = time.monotonic() + most_s
    while (now := state(client, model)) != wanted:
        assert time.monotonic() < deadline, f"{model} is {now}, not {wanted}"
        time.sleep(0.05)


def kinds(client: httpx2.Client, model: str) -> list[str]:
    events = client.get("/api/events", params={"model": model, "limit": 500}).json()["events"]
    return [event["kind"] for event in events if not event["replica"]]


@contextmanager
def load(running: Running, models: list[str], threads: int = 4) -> Iterator[list[str]]:
    """Streams without end from models taken at random; yields what went wrong."""
    failures: list[str] = []
    stop = threading.Event()

    def work(number: int) -> None:
        draw = random.Random(number)
        with running.client() as client:
            while not stop.is_set():
                model = draw.choice(models)
                body = chat(model, f"{number}", stream=True, max_tokens=6)
                answer = client.post("/v1/chat/completions", json=body)
                if answer.status_code != 200:
                    failures.append(f"{model}: {answer.status_code} {answer.text}")
                elif streamed_text(answer.text)[0] != expected(f"{number}", 6):
                    failures.append(f"{model}: {answer.text}")

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield failures
    finally:
        stop.set()
        for worker in workers:
            worker.join()


def test_apply_changes_only_what_changed(start: Callable[..., Running]) -> None:
    with start(spec("a"), spec("b")) as running, running.client() as client:
        before = {name: running.wait_for(name, 1)[0]["id"] for name in "ab"}
        wish = [spec("b", engine={"tokens": 5}), spec("c")]
        dry = apply(client, *wish, prune=True, dry_run=True)
        assert {c["model"]: c["action"] for c in dry["changes"]} == {
            "b": "changed",
            "c": "added",
            "a": "pruned",
        }
        assert running.wait_for("b", 1)[0]["id"] == before["b"]
        applied = apply(client, *wish)
        assert {c["model"]: c["action"] for c in applied["changes"]}["a"] == "kept"
        outcome = settled(client, applied)
        assert {name: model["state"] for name, model in outcome.items()} == {
            "b": "ready",
            "c": "ready",
        }
        assert running.wait_for("a", 1)[0]["id"] == before["a"]
        assert running.wait_for("b", 1)[0]["id"] != before["b"]
        again = apply(client, *wish)
        assert {c["action"] for c in again["changes"]} == {"unchanged", "kept"}
        # Replica counts and prices restart nothing.
        stays = running.wait_for("c", 1)[0]["id"]
        more = spec("c", scaling={"min_replicas": 2}, price={"usd_per_hour": 1})
        assert settled(client, apply(client, more))["c"]["state"] == "ready"
        assert stays in {replica["id"] for replica in running.wait_for("c", 2)}
        pruned = settled(client, apply(client, more, prune=True))
        assert {name for name, model in pruned.items() if model["state"] == "removed"} == {"a", "b"}
        assert client.post("/v1/chat/completions", json=chat("a", "x")).status_code == 404


def test_what_cannot_start_is_taken_back_with_its_last_words(start: Callable[..., Running]) -> None:
    with start(spec("a")) as running, running.client() as client:
        old = running.wait_for("a", 1)[0]["id"]
        broken = {"fail_start": "The card is on fire."}
        with load(running, ["a"], threads=2) as failures:
            applied = apply(client, spec("a", engine=broken), spec("n", engine=broken))
            outcome = settled(client, applied)
        assert not failures
        for name in "an":
            assert outcome[name]["state"] == "rolled_back"
            assert "The card is on fire." in outcome[name]["detail"]
            assert any("The card is on fire." in line for line in outcome[name]["log"])
        assert running.wait_for("a", 1)[0]["id"] == old  # it was never touched
        assert client.get("/api/models/n").status_code == 404
        assert client.get("/api/models/a").json()["spec"]["engine"]["fail_start"] is None
        assert kinds(client, "a")[-1] == "rolled back"
        # Without rollback it stays, and says that it fails.
        kept = settled(client, apply(client, spec("n", engine=broken), rollback=False))
        assert kept["n"]["state"] == "failed"
        until(client, "n", "failed")


def test_a_crash_loop_is_shown_and_disturbs_nobody(start: Callable[..., Running]) -> None:
    crash = {"faults": [{"kind": "crash", "at_token": 1}]}
    with start(spec("good"), spec("bad", engine=crash)) as running, running.client() as client:
        with load(running, ["good"], threads=2) as failures:
            for _ in range(4):
                until(client, "bad", "ready", 30)
                answer = client.post("/v1/chat/completions", json=chat("bad", "x"))
                assert answer.status_code >= 500
            deadline = time.monotonic() + 20
            while "crash loop" not in (shown := client.get("/api/models/bad").json())["detail"]:
                assert time.monotonic() < deadline, shown
                client.post("/v1/chat/completions", json=chat("bad", "x"))
            assert "SIGKILL" in shown["detail"]
        assert not failures


def test_100_applies_under_load(start: Callable[..., Running]) -> None:
    names = ["m0", "m1", "m2", "m3", "m4", "m5"]
    wish = {name: spec(name) for name in names}
    draw = random.Random(7)
    with (
        start(*wish.values()) as running,
        running.client() as client,
        load(running, names, threads=3) as failures,
    ):
        for number in range(100):
            for name in draw.sample(names, draw.randint(0, 2)):
                change = draw.random()
                if change < 0.2:  # a new version of what its replicas depend on
                    engine = {"tokens": 8 + number}
                    wish[name] = spec(name, engine=engine)
                elif change < 0.5:
                    wish[name] = {**wish[name], "scaling": {"min_replicas": draw.randint(1, 2)}}
                else:
                    wish[name] = {**wish[name], "description": f"number {number}"}
            apply(client, *wish.values(), prune=True)
        settled(client, apply(client, *wish.values()), 60)
        for name in names:
            ready = running.wait_for(name, wish[name].get("scaling", {}).get("min_replicas", 1), 60)
            shown = client.get(f"/api/models/{name}").json()
            assert shown["spec"]["engine"]["tokens"] == wish[name]["engine"]["tokens"]
            assert shown["description"] == wish[name].get("description", "")
            assert {replica["spec_hash"] for replica in ready} == {shown["spec_hash"]}
    assert not failures, failures[:5]


def test_sleep_and_wake(start: Callable[..., Running]) -> None:
    idle = {"idle": {"after": "1s", "then": "sleep"}}
    one = spec("a", engine={"start": "500ms"}, scaling=idle)
    with start(one) as running, running.client() as client:
        until(client, "a", "sleeping")
        replica = client.get("/api/models/a").json()["replicas"][0]["id"]
        began = time.monotonic()
        answer = client.post("/v1/chat/completions", json=chat("a", "x", stream=True))
        assert streamed_text(answer.text)[0] == expected("x", 8)
        assert time.monotonic() - began < 5
        model = client.get("/api/models/a").json()
        assert [r["id"] for r in model["replicas"]] == [replica]  # the same process
        until(client, "a", "sleeping")
        assert 0.4 < client.get("/api/models/a").json()["wake_s"] < 5
        assert kinds(client, "a")[-4:] == ["rests", "wakes", "woke", "rests"]


async def test_a_thousand_requests_wake_one_replica(start: Callable[..., Running]) -> None:
    idle = {"idle": {"after": "1s", "then": "zero"}}
    limits = {"queue": 1000, "wait": "60s"}
    one = spec("a", engine={"slots": 64, "start": "300ms"}, scaling=idle, limits=limits)
    with start(one) as running, running.client() as client:
        until(client, "a", "sleeping")
        deadline = time.monotonic() + 10
        while client.get("/api/models/a").json()["replicas"]:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        async with running.async_client() as many:
            asked = [many.post("/v1/chat/completions", json=chat("a", "x")) for _ in range(1000)]
            answers = await asyncio.gather(*asked)
        assert {answer.status_code for answer in answers} == {200}
        events = client.get("/api/events", params={"model": "a", "limit": 500}).json()["events"]
        assert [e["kind"] for e in events].count("wakes") == 1
        started = {e["replica"] for e in events if e["kind"] == "starting"}
        assert len(started) == 2  # the first one, and the one that was woken


def test_more_models_than_memory(start: Callable[..., Running]) -> None:
    """Of four models of 1 GB two fit; all answer, the least recently used makes room."""
    names = ["m0", "m1", "m2", "m3"]
    specs = [spec(name, resources={"memory_gb": 1}) for name in names]
    with start(*specs, AVIARY_MEMORY_GB="2.2") as running, running.client() as client:
        for _ in range(2):
            for name in names:
                answer = client.post("/v1/chat/completions", json=chat(name, "x"))
                assert answer.status_code == 200, answer.text
        awake = [name for name in names if state(client, name) == "ready"]
        assert len(awake) <= 2
        assert "m3" in awake
        rests = [
            event["detail"]
            for event in client.get("/api/events", params={"limit": 500}).json()["events"]
            if event["kind"] == "rests"
        ]
        assert any("its memory is needed by" in detail for detail in rests)


def test_all_comes_back_after_kill_9_of_everything(start: Callable[..., Running]) -> None:
    running = start(spec("a"), spec("b"))
    with running, running.client() as client:
        settled(client, apply(client, spec("a", engine={"tokens": 3}), spec("c")))
        client.delete("/api/models/b")
        assert client.post("/v1/chat/completions", json=chat("a", "x")).status_code == 200
        time.sleep(1)  # the log is written behind the answers
        requests = client.get("/api/status").json()["requests"]["total"]
        events = client.get("/api/events", params={"limit": 500}).json()["events"]
        everything = running.processes()
        for process in everything:
            process.kill()
        psutil.wait_procs(everything, timeout=10)
    with start() as again, again.client() as client:
        models = client.get("/api/models").json()["models"]
        assert [model["id"] for model in models] == ["a", "c"]
        running_again = client.get("/api/models/a").json()
        assert running_again["spec"]["engine"]["tokens"] == 3
        assert client.get("/api/status").json()["requests"]["total"] == requests
        after = client.get("/api/events", params={"limit": 500}).json()["events"]
        # Told as they came to be known, a moment later than they happened; remembered by time.
        told = sorted((e["time"], e["model"], e["kind"], e["replica"]) for e in events if e["seq"])
        again_told = [(e["time"], e["model"], e["kind"], e["replica"]) for e in after]
        assert sorted(again_told[: len(told)]) == told
        answer = client.post("/v1/chat/completions", json=chat("c", "x"))
        assert answer.json()["choices"][0]["message"]["content"] == expected("x", 8)
    # Emptied on purpose, it stays empty: no starter catalog comes back.
    with start() as last, last.client() as client:
        apply(client, prune=True)
    with start() as empty, empty.client() as client:
        assert client.get("/api/models").json()["models"] == []
