"""What the Explorer does with models: watches them live, scales, rests and edits them."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from running import Running, chat, streamed_text

from aviary.config.loader import parse_spec

UNORDERED = "id: a\nengine: {kind: fake}\nscaling:\n  min_replicas: 3\n  max_replicas: 2\n"
SECRET = "https://me:pw@weights.invalid/a.bin?token=s3cret"


def spec(name: str, **fields: Any) -> dict[str, Any]:
    engine = {"kind": "fake", "tokens": 8, "slots": 8, **fields.pop("engine", {})}
    return {"id": name, "engine": engine, **fields}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("specs")
    paced = {"tokens": 400, "gap": "10ms"}
    for one in (
        spec("a"),
        spec("slow", engine=paced),
        spec("away", source={"uri": SECRET}),
        spec("broken", engine={"fail_start": "The card is on fire."}),
    ):
        (folder / f"{one['id']}.yaml").write_text(json.dumps(one))
    with Running(tmp_path_factory.mktemp("h"), str(folder)) as running:
        running.wait_for("a", 1)
        running.wait_for("slow", 1)
        yield running


@pytest.fixture
def client(running: Running) -> Iterator[httpx2.Client]:
    with running.client() as client:
        yield client


@contextlib.contextmanager
def watching(running: Running, **options: Any) -> Iterator[queue.Queue[dict[str, Any]]]:
    """The states of the live stream as they come, each with the moment it came at."""
    states: queue.Queue[dict[str, Any]] = queue.Queue()
    stop = threading.Event()

    def read() -> None:
        with running.client(**options) as client, client.stream("GET", "/api/live") as answer:
            assert answer.status_code == 200
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    states.put({**json.loads(line[6:]), "at_s": time.monotonic()})
                if stop.is_set():
                    return

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield states
    finally:
        stop.set()
        reader.join()


def seen(
    states: queue.Queue[dict[str, Any]],
    model: str,
    wanted: Callable[[dict[str, Any]], bool],
    most_s: float = 15,
) -> dict[str, Any]:
    """The model as it was in the first state of the kind that is wanted."""
    deadline = time.monotonic() + most_s
    while True:
        state = states.get(timeout=max(0.01, deadline - time.monotonic()))
        found = next(one for one in state["models"] if one["id"] == model)
        if wanted(found):
            return found


def until(client: httpx2.Client, model: str, wanted: str, most_s: float = 15) -> None:
    deadline = time.monotonic() + most_s
    while (now := client.get(f"/api/models/{model}").json())["state"] != wanted:
        assert time.monotonic() < deadline, now
        time.sleep(0.05)


def events(client: httpx2.Client, model: str) -> list[dict[str, Any]]:
    found = client.get("/api/events", params={"model": model, "limit": 500}).json()["events"]
    return [event for event in found if not event["replica"]]


def preview(client: httpx2.Client, text: str) -> dict[str, Any]:
    answer = client.post("/api/specs/preview", json={"text": text})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_killed_replica_comes_back_before_ones_eyes(running: Running) -> None:
    with watching(running) as states:
        first = seen(states, "a", lambda model: model["state"] == "ready", 2)
        [before] = first["replicas"]
        assert before["memory_bytes"] > 1e6
        assert first["memory_bytes"] == before["memory_bytes"]
        os.kill(before["pid"], signal.SIGKILL)
        gone = seen(states, "a", lambda m: all(r["state"] != "ready" for r in m["replicas"]))
        assert gone["state"] in ("starting", "failed")
        back = seen(states, "a", lambda m: any(r["state"] == "ready" for r in m["replicas"]))
        assert before["id"] not in [r["id"] for r in back["replicas"] if r["state"] == "ready"]


def test_load_and_speed_are_shown_while_it_generates(running: Running) -> None:
    body = chat("slow", "x", stream=True)

    def ask() -> None:
        with running.client() as client:
            client.post("/v1/chat/completions", json=body)

    with watching(running) as states:
        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        busy = seen(states, "slow", lambda m: m["running"] == 2 and (m["tokens_per_s"] or 0) > 20)
        assert busy["tokens_per_s"] < 250
        assert busy["replicas"][0]["running"] == 2
        assert busy["replicas"][0]["tokens_per_s"] == busy["tokens_per_s"]
        for thread in threads:
            thread.join()
        idle = seen(states, "slow", lambda m: m["running"] == 0 and m["tokens_per_s"] == 0, 20)
        assert idle["totals"]["requests"] >= 2


def test_states_come_now_and_then_and_not_too_often(running: Running) -> None:
    with watching(running) as states, running.client() as client:
        times = [states.get(timeout=5)["at_s"] for _ in range(3)]
        assert max(b - a for a, b in itertools.pairwise(times)) < 3
        while not states.empty():
            states.get()
        began = time.monotonic()
        for number in range(20):
            body = spec("a", description=f"number {number}")
            assert client.post("/api/models", json=body).status_code == 202
        last = seen(states, "a", lambda model: model["description"] == "number 19", 3)
        assert last["state"] == "ready"
        assert states.qsize() <= (time.monotonic() - began) * 4 + 1


def test_scaling_restarts_nothing(running: Running, client: httpx2.Client) -> None:
    [one] = running.wait_for("a", 1)
    answer = client.post("/api/models/a/scale", json={"replicas": 2})
    assert (answer.status_code, answer.json()["action"]) == (202, "changed")
    two = running.wait_for("a", 2)
    assert one["id"] in [replica["id"] for replica in two]
    shown = client.get("/api/models/a").json()
    assert shown["spec"]["scaling"]["min_replicas"] == 2
    assert parse_spec(shown["text"], "text").scaling.min_replicas == 2
    again = client.post("/api/models/a/scale", json={"replicas": 2})
    assert again.json()["action"] == "unchanged"
    assert client.post("/api/models/a/scale", json={"replicas": 1}).status_code == 202
    [left] = running.wait_for("a", 1)
    assert (left["id"], left["pid"]) in [(r["id"], r["pid"]) for r in two]
    assert client.get("/api/models/a").json()["spec"]["scaling"]["max_replicas"] == 1
    assert events(client, "a")[-1]["changed_by"] == "no key"
    assert client.post("/api/models/none/scale", json={"replicas": 1}).status_code == 404
    assert client.post("/api/models/a/scale", json={"replicas": -1}).status_code == 400


def test_scaled_to_nothing_and_back(running: Running, client: httpx2.Client) -> None:
    assert client.post("/api/models/a/scale", json={"replicas": 0}).status_code == 202
    until(client, "a", "sleeping")
    deadline = time.monotonic() + 10
    while client.get("/api/models/a").json()["replicas"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert client.post("/api/models/a/scale", json={"replicas": 1}).status_code == 202
    running.wait_for("a", 1)


def test_sleep_lasts_until_somebody_asks(running: Running, client: httpx2.Client) -> None:
    [replica] = running.wait_for("a", 1)
    answer = client.post("/api/models/a/sleep")
    assert (answer.status_code, answer.json()) == (202, {"model": "a", "action": "sleeps"})
    until(client, "a", "sleeping")
    time.sleep(1)
    model = client.get("/api/models/a").json()
    assert model["state"] == "sleeping"
    assert [r["state"] for r in model["replicas"]] == ["sleeping"]
    assert client.post("/api/models/a/sleep").json()["action"] == "unchanged"
    assert client.post("/api/models/a/wake").json()["action"] == "wakes"
    assert running.wait_for("a", 1)[0]["id"] == replica["id"]
    assert client.post("/api/models/a/wake").json()["action"] == "unchanged"
    client.post("/api/models/a/sleep")
    until(client, "a", "sleeping")
    answer = client.post("/v1/chat/completions", json=chat("a", "x"))
    assert answer.status_code == 200
    until(client, "a", "ready")
    deadline = time.monotonic() + 10
    while (told := events(client, "a"))[-1]["kind"] != "woke":
        assert time.monotonic() < deadline, told
        time.sleep(0.05)
    lately = [(e["kind"], e["changed_by"]) for e in told if e["kind"] != "woke"][-4:]
    by = "no key"
    assert lately == [("rests", by), ("wakes", by), ("rests", by), ("wakes", "aviary")]


def test_a_busy_model_sleeps_when_its_answers_have_ended(
    running: Running, client: httpx2.Client
) -> None:
    answers: list[httpx2.Response] = []

    def ask() -> None:
        with running.client() as other:
            body = chat("slow", "x", stream=True, max_tokens=200)
            answers.append(other.post("/v1/chat/completions", json=body))

    thread = threading.Thread(target=ask)
    thread.start()
    deadline = time.monotonic() + 5
    while not client.get("/api/models/slow").json()["running"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert client.post("/api/models/slow/sleep").json()["action"] == "sleeps"
    shown = client.get("/api/models/slow").json()
    assert (shown["state"], shown["running"]) == ("ready", 1)
    assert "goes to sleep" in shown["detail"]
    thread.join()
    [answer] = answers
    assert streamed_text(answer.text)[0]
    until(client, "slow", "sleeping")
    client.post("/api/models/slow/wake")
    running.wait_for("slow", 1)


def test_preview_says_what_would_change(client: httpx2.Client) -> None:
    text = client.get("/api/models/a").json()["text"]
    same = preview(client, text)
    assert (same["model"], same["errors"]) == ("a", [])
    assert [change["action"] for change in same["changes"]] == ["unchanged"]
    changed = preview(client, text.replace("tokens: 8", "tokens: 9") + "price: {usd_per_hour: 2}\n")
    [change] = changed["changes"]
    assert (change["action"], change["restarts"]) == ("changed", True)
    assert {(f["field"], f["before"], f["after"]) for f in change["fields"]} == {
        ("engine.tokens", 8, 9),
        ("price.usd_per_hour", None, 2.0),
    }
    assert changed["spec"]["engine"]["tokens"] == 9
    new = preview(client, '{"id": "new", "engine": {"kind": "fake"}}')
    assert [(c["model"], c["action"]) for c in new["changes"]] == [("new", "added")]
    assert client.get("/api/models/new").status_code == 404
    assert client.get("/api/models/a").json()["text"] == text


@pytest.mark.parametrize(
    ("text", "line", "column", "field", "words"),
    [
        ("id: a\nengine:\n  kind: fake\n  slotz: 3\n", 4, 3, "engine.slotz", "slots"),
        ("id: a\nengine:\n  kind: fake\n  slots: many\n", 4, 10, "engine.slots", "number"),
        ("id: a\nengine: {kind: fake\n", 3, 1, None, "flow mapping"),
        (UNORDERED, 3, 1, "scaling", "larger than"),
        ("", None, None, None, "is empty"),
        ("id: v\nengine: {kind: vllm}\nsource: {uri: 'hf:a/b/c'}\n", None, None, None, "not avail"),
    ],
)
def test_preview_says_where_it_is_wrong(
    client: httpx2.Client,
    text: str,
    line: int | None,
    column: int | None,
    field: str | None,
    words: str,
) -> None:
    found = preview(client, text)
    assert (found["spec"], found["changes"]) == (None, [])
    [error] = found["errors"]
    assert words in error["message"]
    assert (error["line"], error["column"]) == (line, column)
    assert error["field"] == field
    refused = client.post("/api/specs/apply", json={"text": text})
    assert refused.status_code in (422, 501)


def test_hidden_addresses_survive_editing(running: Running, client: httpx2.Client) -> None:
    shown = client.get("/api/models/away").json()
    assert "https://…@weights.invalid/a.bin?…" in shown["text"]
    for secret in ("s3cret", "pw"):
        assert secret not in json.dumps(shown)
    same = preview(client, shown["text"])
    assert [change["action"] for change in same["changes"]] == ["unchanged"]
    edited = shown["text"] + "description: edited\n"
    [change] = preview(client, edited)["changes"]
    assert [field["field"] for field in change["fields"]] == ["description"]
    assert client.post("/api/specs/apply", json={"text": edited}).json()["action"] == "changed"
    after = client.get("/api/models/away").json()
    assert after["description"] == "edited"
    assert after["spec_hash"] == shown["spec_hash"]  # of the whole address
    # Under another host or another id the mark stands for nothing.
    for wrong in (
        edited.replace("weights.invalid", "evil.invalid"),
        edited.replace("id: away", "id: copy"),
    ):
        [error] = preview(client, wrong)["errors"]
        assert (error["field"], error["line"] is not None) == ("source.uri", True)
        assert "Write the whole address" in error["message"]
        refused = client.post("/api/specs/apply", json={"text": wrong})
        assert refused.status_code == 422
        assert "source.uri" in refused.text
    other = edited.replace("?…", "?token=0ther").replace("…@", "")
    [change] = preview(client, other)["changes"]
    assert (change["restarts"], [f["field"] for f in change["fields"]]) == (True, ["source.uri"])
    assert "0ther" not in json.dumps(change)


def test_drafts(client: httpx2.Client) -> None:
    uri = "hf:org/repo/My Model.Q4_K_M.gguf"
    answer = client.post("/api/specs/draft", json={"source": uri})
    assert answer.status_code == 200, answer.text
    text = answer.json()["text"]
    assert text == f"id: my-model.q4_k_m\nsource:\n  uri: {uri}\nengine:\n  kind: llamacpp\n"
    assert preview(client, text)["changes"][0]["action"] == "added"
    for wrong in ("/models/a.gguf", "s3://a/b.gguf", "hf:a/b", "file:a.gguf", "nope:x", ""):
        answer = client.post("/api/specs/draft", json={"source": wrong})
        assert answer.status_code == 400, (wrong, answer.text)


def test_the_schema(client: httpx2.Client) -> None:
    schema = client.get("/api/schema").json()
    assert schema["title"] == "Aviary model spec"
    assert "engine" in schema["properties"]


def test_who_may_do_what(tmp_path: Path) -> None:
    folder = tmp_path / "specs"
    folder.mkdir()
    broken = spec("broken", engine={"fail_start": "The card is on fire."})
    (folder / "a.yaml").write_text(json.dumps(spec("a")))
    (folder / "broken.yaml").write_text(json.dumps(broken))
    with Running(tmp_path / "h", str(folder)) as running:
        with running.client() as client:
            admin = client.post("/api/keys", json={"name": "x", "role": "admin"}).json()
        admins = {"authorization": f"Bearer {admin['secret']}"}
        with running.client(headers=admins) as client:
            deadline = time.monotonic() + 5
            while (
                user := client.post("/api/keys", json={"name": "y", "role": "user"})
            ).status_code != 201:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        users = {"authorization": f"Bearer {user.json()['secret']}"}
        with watching(running, headers=users) as open_states:
            shown = seen(open_states, "broken", lambda model: model["state"] == "failed")
            assert "fire" not in json.dumps(shown)
        with watching(running, headers=admins) as states:
            shown = seen(states, "broken", lambda m: "fire" in json.dumps(m))
        with running.client(headers=users) as client:
            assert client.get("/api/models/a").json()["text"] is None
            assert client.get("/api/schema").status_code == 200
            for path, body in (
                ("models/a/scale", {"replicas": 1}),
                ("models/a/sleep", None),
                ("models/a/wake", None),
                ("specs/preview", {"text": "id: a"}),
                ("specs/apply", {"text": "id: a"}),
                ("specs/draft", {"source": "hf:a/b/c"}),
            ):
                assert client.post(f"/api/{path}", json=body).status_code == 403
        with running.client(headers=admins) as client:
            assert "kind: fake" in client.get("/api/models/a").json()["text"]
            assert client.post("/api/models/a/sleep").status_code == 202
            until(client, "a", "sleeping")
            deadline = time.monotonic() + 5
            while (last := events(client, "a")[-1])["kind"] != "rests":
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert last["changed_by"] == admin["id"]
