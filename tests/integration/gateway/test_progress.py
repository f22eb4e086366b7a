"""Battles while they run: stop and retry over two workers, and what a kill -9 leaves."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from running import Running

SPECS = {
    "quick": "engine: {kind: fake, tokens: 5, slots: 64}",
    "slow": "engine: {kind: fake, tokens: 2000, slots: 2, gap: 50ms}\nlimits: {queue: 0}",
}
VOTES = int(os.environ.get("AVIARY_TEST_KILLS", "10"))
"""So many votes are each followed by a kill -9."""
VOTES_A_START = 5
"""All but the last one by that of the gateway workers, the last one by that of everything."""


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("specs")
    for name, text in SPECS.items():
        (folder / f"{name}.yaml").write_text(f"id: {name}\n{text}\n")
    return folder


@pytest.fixture(scope="module")
def aviary(specs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(tmp_path_factory.mktemp("h"), str(specs), "--workers", "2") as running:
        for name in SPECS:
            running.wait_for(name, 1)
        deadline = time.monotonic() + 20
        while len(running.gateways()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield running


def asked(*models: str, **fields: Any) -> dict[str, Any]:
    return {
        "models": [{"model": model} for model in models],
        "prompt": "hi",
        "session": "me",
        **fields,
    }


class Stream:
    """A battle's events as they come."""

    def __init__(self, response: httpx2.Response) -> None:
        self._lines = response.iter_lines()
        self.seen: list[dict[str, Any]] = []

    def until(self, kind: str, column: int | None = None) -> dict[str, Any]:
        for event in self.seen:
            if event["kind"] == kind and column in (None, event.get("column")):
                return event
        for line in self._lines:
            if line.startswith("data: "):
                event = json.loads(line[6:])
                self.seen.append(event)
                if event["kind"] == kind and column in (None, event.get("column")):
                    return event
        raise AssertionError(f"no {kind} of {column}: {self.seen[-3:]}")


def events(answer: httpx2.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    return [json.loads(part[6:]) for part in answer.text.split("\n\n") if part[:6] == "data: "]


def test_a_stop_finds_its_column_in_whichever_worker(aviary: Running) -> None:
    for turn in range(8):  # each with a new connection, so by either worker
        with (
            aviary.client() as one,
            one.stream("POST", "/api/battles", json=asked("slow", "quick", "slow")) as response,
        ):
            stream = Stream(response)
            battle = stream.until("battle")["battle"]
            stream.until("text", 0)
            stream.until("end", 1)
            shown = one.get(f"/api/battles/{battle}").json()  # while it runs
            assert [column["error"] for column in shown["columns"]] == [
                "unfinished",
                "",
                "unfinished",
            ]
            for column in (0, 2):
                with aviary.client() as other:
                    path = f"/api/battles/{battle}/columns/{column}/stop"
                    began = time.monotonic()
                    assert other.post(path, json={"session": "me"}).status_code == 202
                    end = stream.until("end", column)
                    assert time.monotonic() - began < 2, turn
                    assert end["finish_reason"] == "stopped"
            assert stream.until("stored")["stored"]
        with aviary.client() as client:
            shown = client.get(f"/api/battles/{battle}").json()
            assert [column["finish_reason"] for column in shown["columns"]] == [
                "stopped",
                "stop",
                "stopped",
            ]
            told = "".join(
                e["text"] for e in stream.seen if e["kind"] == "text" and not e["column"]
            )
            assert shown["columns"][0]["text"] == told
            vote = {"battle": battle, "session": "me", "verdict": "best", "column": 0}
            assert client.post("/api/votes", json=vote).status_code == 200


def test_retry_of_a_blind_column(aviary: Running) -> None:
    with aviary.client() as client:
        raw = client.post("/api/battles", json=asked("quick", "nobody", blind=True))
        (failed,) = [e["column"] for e in events(raw) if e["kind"] == "error"]
        battle = events(raw)[0]["battle"]
        path = f"/api/battles/{battle}/retry"
        body = {"columns": [1 - failed], "session": "me"}
        again = client.post(path, json=body)
        assert "quick" not in again.text
        assert {e["column"] for e in events(again) if "column" in e} == {1 - failed}
        assert events(again)[-1] == {"kind": "stored", "stored": True}
        assert client.post(path, json={**body, "session": "you"}).status_code == 403
        both = events(client.post("/api/battles", json=asked("quick", "quick")))[0]["battle"]
        vote = {"battle": both, "session": "you", "verdict": "tie"}
        assert client.post("/api/votes", json=vote).status_code == 200
        late = client.post(f"/api/battles/{both}/retry", json={**body, "columns": [0]})
        assert (late.status_code, late.json()["error"]["code"]) == (409, "already_voted")


def test_kill_9_of_the_worker_loses_no_column_that_has_ended(aviary: Running) -> None:
    with (
        aviary.client() as client,
        client.stream("POST", "/api/battles", json=asked("quick", "slow", "quick")) as response,
    ):
        stream = Stream(response)
        battle = stream.until("battle")["battle"]
        stream.until("text", 1)
        ended = {e["column"] for e in stream.seen if e["kind"] == "end"}
        for column in {0, 2} - ended:
            stream.until("end", column)
        for worker in aviary.gateways():
            os.kill(worker.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while True:
        try:
            with aviary.client() as client:
                shown = client.get(f"/api/battles/{battle}").json()
                break
        except httpx2.HTTPError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert [column["error"] for column in shown["columns"]] == ["", "unfinished", ""]
    with aviary.client() as client:
        vote = {"battle": battle, "session": "me", "verdict": "best", "column": 2}
        assert client.post("/api/votes", json=vote).status_code == 200


def test_hostile_content_is_kept_as_it_is(aviary: Running) -> None:
    hostile = [
        "<script>alert(1)</script><img src=x onerror=alert(1)>",
        "\u202e\u05e9\u05dc\u05d5\u05dd\u2066 \u0000 \U0001f426",
        "]]>\"'`${alert(1)}{{7*7}}\r\n\r\ndata: {}\n\n",
        "y" * 500_000,
    ]
    turns = [{"role": "user", "content": text} for text in hostile]
    models = [{"model": "quick", "messages": turns}, {"model": "quick"}]
    with aviary.client() as client:
        body = asked(models=models, prompt=hostile[0], system=hostile[1].replace("\0", ""))
        battle = events(client.post("/api/battles", json=body))[0]["battle"]
        answer = client.get(f"/api/battles/{battle}")
        assert answer.headers["content-type"] == "application/json"
        stored = answer.json()
        assert [column["messages"] for column in stored["columns"]] == [turns, []]
        assert stored["messages"] == [{"role": "user", "content": hostile[0]}]
        assert stored["system"] == body["system"]


class Patient:
    """A client that asks again until a gateway worker is back."""

    def __init__(self, aviary: Running) -> None:
        self.client = aviary.client()

    def __enter__(self) -> Patient:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def get(self, path: str) -> httpx2.Response:
        return self._ask("GET", path)

    def post(self, path: str, json: Any) -> httpx2.Response:
        return self._ask("POST", path, json=json)

    def _ask(self, method: str, path: str, **fields: Any) -> httpx2.Response:
        deadline = time.monotonic() + 60
        while True:
            try:
                return self.client.request(method, path, **fields)
            except httpx2.HTTPError:
                assert time.monotonic() < deadline
                time.sleep(0.05)


def kill_all(running: Running) -> None:
    """kill -9 of the control process, all workers and replicas."""
    processes = running.processes()
    for process in processes:
        process.send_signal(signal.SIGKILL)
    running.process.wait(10)
    if running.process.stdout is not None:
        running.process.stdout.close()
    psutil.wait_procs(processes, timeout=10)


@pytest.mark.timeout(120 + 15 * VOTES)
def test_kill_9_right_after_votes_were_confirmed(specs: Path, tmp_path: Path) -> None:
    cast: list[tuple[str, int]] = []
    quick = str(specs / "quick.yaml")
    while len(cast) < VOTES:
        with Running(tmp_path / "h", quick, "--workers", "2") as running:
            running.wait_for("quick", 1)
            for turn in range(VOTES_A_START):
                with Patient(running) as client:
                    answer = client.post("/api/battles", json=asked("quick", "quick"))
                    battle = events(answer)[0]["battle"]
                    vote = {
                        "battle": battle,
                        "session": "me",
                        "verdict": "best",
                        "column": turn % 2,
                    }
                    voted = client.client.post("/api/votes", json=vote)
                    if turn < VOTES_A_START - 1:
                        for worker in running.gateways():
                            os.kill(worker.pid, signal.SIGKILL)
                    else:
                        kill_all(running)
                assert voted.status_code == 200
                cast.append((battle, turn % 2))
    with Running(tmp_path / "h", quick, "--workers", "1") as running, running.client() as client:
        for battle, column in cast:
            shown = client.get(f"/api/battles/{battle}", params={"session": "me"}).json()
            assert shown["vote"]["column"] == column
        assert client.get("/api/leaderboard").json()["votes"] == len(cast)
