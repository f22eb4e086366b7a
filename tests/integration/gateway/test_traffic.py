"""`/api/traffic` of a whole Aviary with fake models under some load."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from running import Running

SPECS = {
    "quick": (
        "engine: {kind: fake, tokens: 20, slots: 32, time_to_first_token: 100ms}\n"
        "price: {usd_per_million_input_tokens: 1, usd_per_million_output_tokens: 2}"
    ),
    "other": "engine: {kind: fake, tokens: 5, slots: 32}",
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("specs")
    for name, text in SPECS.items():
        (folder / f"{name}.yaml").write_text(f"id: {name}\n{text}\n")
    with Running(tmp_path_factory.mktemp("h"), str(folder), "--workers", "2") as running:
        yield running


def ask(client: httpx2.Client, model: str) -> int:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": True}
    return client.post("/v1/chat/completions", json=body).status_code


def traffic(client: httpx2.Client, shown: str, **query: str) -> dict[str, Any]:
    answer = client.get("/api/traffic", params={"range": shown, **query})
    assert answer.status_code == 200, answer.text
    return answer.json()


def wait_for(client: httpx2.Client, requests: int, shown: str = "5m") -> dict[str, Any]:
    deadline = time.monotonic() + 10
    while True:
        found = traffic(client, shown)
        if found["totals"]["requests"] >= requests or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def test_load_is_seen_within_seconds_at_every_zoom(running: Running) -> None:
    with running.client() as client:
        began = time.time()
        with ThreadPoolExecutor(8) as pool:
            asked = ["quick"] * 40 + ["other"] * 20 + ["nobody"] * 5
            statuses = list(pool.map(lambda model: ask(client, model), asked))
        assert sorted(set(statuses)) == [200, 404]
        found = wait_for(client, 65)
        assert time.time() - began < 10
        totals = found["totals"]
        assert (totals["requests"], totals["errors"], totals["users"]) == (65, 5, 1)
        assert totals["completion_tokens"] == 40 * 20 + 20 * 5
        assert totals["cost_usd"] > 40 * 20 * 2e-6
        by_model = {model["model"]: model for model in found["models"]}
        assert {name: model["requests"] for name, model in by_model.items()} == {
            "quick": 40,
            "other": 20,
            "(unknown)": 5,
        }
        assert by_model["quick"]["ttft_p50_ms"] >= 99
        assert by_model["quick"]["latency_p50_ms"] >= by_model["quick"]["ttft_p50_ms"] * 0.98
        assert sum(part["count"] for part in found["completion_lengths"]) == 60
        in_16_to_32 = [p["count"] for p in found["completion_lengths"] if p["from"] == 17]
        assert in_16_to_32 == [40]
        for shown in ("5m", "1h", "24h", "7d", "30d"):
            view = traffic(client, shown)
            assert view["range"] == shown
            assert view["totals"]["requests"] == 65
            assert len(view["points"]) <= 400
            assert view["points"][-1]["t"] + view["step_s"] == view["to"]
            assert view["points"][0]["t"] == view["from"]
            assert sum(point["requests"] for point in view["points"]) == 65
            assert 8 <= max(point["peak_rps"] for point in view["points"]) <= 65
            assert view["pending"] == 0
        assert traffic(client, "1h", model="other")["totals"]["requests"] == 20
    # All of it is rolled up soon, and the log itself is needed no more.
    deadline = time.monotonic() + 10
    with sqlite3.connect(running.home / "requests.db") as database:
        while True:
            (rolled,) = database.execute("SELECT seq FROM traffic_cursor").fetchone()
            (newest,) = database.execute("SELECT max(seq) FROM request_log").fetchone()
            if rolled == newest or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        assert rolled == newest == 65
        # The address itself is not kept, and nothing from which it could be told.
        clients = {row[0] for row in database.execute("SELECT client FROM request_log")}
        (client_hash,) = clients
        assert re.fullmatch("[0-9a-f]{16}", client_hash)
    database.close()


def test_replicas_and_why(running: Running) -> None:
    with running.client() as client:
        held = {entry["model"]: entry["points"] for entry in traffic(client, "1h")["replicas"]}
        assert set(held) == {"quick", "other"}
        first, *changes = held["quick"]
        assert (first["ready"], first["desired"], first["reason"]) == (0, 0, "")
        assert changes[0]["starting"] == 1
        assert (changes[-1]["ready"], changes[-1]["desired"]) == (1, 1)
        assert "ready" in changes[-1]["reason"]
        assert all(change["reason"] for change in changes)
        client.delete("/api/models/other").raise_for_status()
        deadline = time.monotonic() + 10
        while True:
            (entry,) = traffic(client, "1h", model="other")["replicas"]
            if entry["points"][-1]["desired"] == 0 or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        assert entry["points"][-1] | {"t": 0} == {
            "t": 0,
            "ready": 0,
            "starting": 0,
            "sleeping": 0,
            "desired": 0,
            "reason": "stopped",
        }


def test_a_range_that_there_is_not(running: Running) -> None:
    with running.client() as client:
        answer = client.get("/api/traffic", params={"range": "2y"})
        assert 400 <= answer.status_code < 500
        assert "range" in answer.text
