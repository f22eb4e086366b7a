"""Battles, votes and the leaderboard, against a whole Aviary with fake models."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from running import Running

from aviary.engines.fake import scripted_text

SPECS = {
    "quick": "engine: {kind: fake, tokens: 20, slots: 32}\ntags: [small]",
    "paced": (
        "engine: {kind: fake, tokens: 10, slots: 32, time_to_first_token: 200ms, gap: 50ms}\n"
        "price: {usd_per_million_input_tokens: 1, usd_per_million_output_tokens: 2}"
    ),
    "slow": "engine: {kind: fake, tokens: 500, slots: 32, time_to_first_token: 2s, gap: 100ms}",
    "broken": "engine: {kind: fake, fail_start: It fails as told.}\nlimits: {wait: 1s}",
}


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("specs")
    for name, text in SPECS.items():
        (folder / f"{name}.yaml").write_text(f"id: {name}\n{text}\n")
    with Running(tmp_path_factory.mktemp("h"), str(folder), "--workers", "2") as running:
        yield running


def asked(*models: str, **fields: Any) -> dict[str, Any]:
    return {"models": [{"model": model} for model in models], "prompt": "hi", **fields}


def events_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(part[6:]) for part in text.split("\n\n") if part.startswith("data: ")]


def fight(client: httpx2.Client, *models: str, **fields: Any) -> list[dict[str, Any]]:
    answer = client.post("/api/battles", json=asked(*models, **fields))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    return events_of(answer.text)


def of(events: list[dict[str, Any]], column: int, kind: str) -> list[dict[str, Any]]:
    return [e for e in events if e.get("column") == column and e["kind"] == kind]


def text_of(events: list[dict[str, Any]], column: int) -> str:
    return "".join(event["text"] for event in of(events, column, "text"))


def expected(tokens: int, *messages: dict[str, str]) -> str:
    said = messages or ({"role": "user", "content": "hi"},)
    return "".join(scripted_text({"messages": list(said)}, tokens))


def vote(client: httpx2.Client, battle: str, verdict: str, **fields: Any) -> httpx2.Response:
    body = {"battle": battle, "session": "me", "verdict": verdict, **fields}
    return client.post("/api/votes", json=body)


def test_columns_stream_side_by_side_by_clocks_of_their_own(arena: Running) -> None:
    with arena.client() as client:
        events = fight(client, "paced", "quick", system="Be brief.")
        first, *_, last = events
        assert first["kind"] == "battle"
        assert first["columns"] == 2
        assert last == {"kind": "stored", "stored": True}
        system = {"role": "system", "content": "Be brief."}
        user = {"role": "user", "content": "hi"}
        assert text_of(events, 0) == expected(10, system, user)
        assert text_of(events, 1) == expected(20, system, user)
        assert [of(events, n, "start")[0]["model"] for n in (0, 1)] == ["paced", "quick"]
        (paced,), (quick,) = of(events, 0, "end"), of(events, 1, "end")
        assert events.index(quick) < events.index(of(events, 0, "text")[0])
        assert 195 < paced["ttft_ms"] < 400
        assert 200 + 9 * 50 - 10 < paced["latency_ms"] < 1500
        assert paced["completion_tokens"] == 10
        assert paced["cost_usd"] == pytest.approx((paced["prompt_tokens"] + 20) / 1e6)
        assert quick["ttft_ms"] < 150
        assert quick["cost_usd"] is None
        times = [event["at_ms"] for event in events if "at_ms" in event]
        assert times == sorted(times)
        stored = client.get(f"/api/battles/{first['battle']}").json()
    assert [column["model"] for column in stored["columns"]] == ["paced", "quick"]
    assert [column["text"] for column in stored["columns"]] == [
        text_of(events, 0),
        text_of(events, 1),
    ]
    assert stored["columns"][0]["ttft_ms"] == pytest.approx(paced["ttft_ms"])
    assert (stored["system"], stored["messages"]) == ("Be brief.", [user])
    assert stored["votes"] == {"best": 0, "tie": 0, "all_bad": 0}


def test_its_requests_are_ordinary_ones_in_the_log(arena: Running) -> None:
    with arena.client() as client:
        (battle,) = [e["battle"] for e in fight(client, "paced", "quick") if e["kind"] == "battle"]
    log = sqlite3.connect(arena.home / "requests.db")
    query = "SELECT id, model, status, completion_tokens FROM request_log WHERE id LIKE ?"
    deadline = time.monotonic() + 10
    while len(rows := log.execute(query, (f"{battle}%",)).fetchall()) < 2:
        assert time.monotonic() < deadline, rows
        time.sleep(0.05)
    log.close()
    assert sorted(rows) == [
        (f"{battle}:0", "paced", 200, 10),
        (f"{battle}:1", "quick", 200, 20),
    ]


def test_a_failing_column_fails_alone_and_is_never_voted_on(arena: Running) -> None:
    with arena.client() as client:
        deadline = time.monotonic() + 20
        while arena.model("broken")["state"] != "failed":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        events = fight(client, "nobody", "quick", "broken", "paced")
        assert [of(events, n, "error")[0]["error"]["code"] for n in (0, 2)] == [
            "model_not_found",
            "model_not_ready",
        ]
        assert of(events, 2, "waiting")[0]["state"] == "failed"
        assert text_of(events, 1) == expected(20)
        assert text_of(events, 3) == expected(10)
        assert not of(events, 0, "end")
        battle = events[0]["battle"]
        for column in (0, 2):
            answer = vote(client, battle, "best", column=column)
            assert answer.status_code == 400, answer.text
            assert "did not fail" in answer.json()["error"]["message"]
        alone = fight(client, "quick", "nobody")[0]["battle"]
        assert vote(client, alone, "best", column=0).status_code == 400


def test_parameters_are_a_columns_own(arena: Running) -> None:
    models = [{"model": "quick", "parameters": {"max_tokens": 3}}, {"model": "quick"}]
    with arena.client() as client:
        events = fight(client, models=models)
    assert [of(events, n, "end")[0]["completion_tokens"] for n in (0, 1)] == [3, 20]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"models": [], "prompt": "x"},
        asked(*["quick"] * 7),
        {"models": [{"model": "quick"}]},
        {"models": [{"model": "quick"}], "prompt": "x", "messages": [{"role": "user"}]},
        {"models": [{"model": "quick", "parameters": {"stream": False}}], "prompt": "x"},
        {"models": [{"model": ""}], "prompt": "x"},
        asked("quick", session="s" * 65),
        asked("quick", surprise=1),
    ],
)
def test_what_is_no_battle_is_refused(arena: Running, body: dict[str, Any]) -> None:
    with arena.client() as client:
        answer = client.post("/api/battles", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
        assert client.get("/api/battles").status_code == 405
        assert client.post("/internal/battles", json={}).status_code == 404


def test_a_blind_battle_names_nobody_before_the_vote(arena: Running) -> None:
    orders = set()
    with arena.client() as client:
        for turn in range(12):
            body = asked("quick", "paced", blind=True, session=f"s{turn}")
            raw = client.post("/api/battles", json=body).text
            assert "quick" not in raw
            assert "paced" not in raw
            battle = events_of(raw)[0]["battle"]
            hidden = client.get(f"/api/battles/{battle}", params={"session": f"s{turn}"}).json()
            assert [(c["model"], c["parameters"]) for c in hidden["columns"]] == [(None, None)] * 2
            told = vote(client, battle, "tie", session=f"s{turn}").json()
            orders.add(tuple(column["model"] for column in told["columns"]))
            stranger = client.get(f"/api/battles/{battle}", params={"session": "other"}).json()
            assert stranger["columns"][0]["model"] is None
            if len(orders) == 2:
                break
    assert orders == {("quick", "paced"), ("paced", "quick")}


async def test_when_the_client_leaves_all_columns_end(arena: Running) -> None:
    async with arena.async_client() as client:
        body = asked("slow", "slow", "slow")
        async with client.stream("POST", "/api/battles", json=body) as stream:
            async for line in stream.aiter_lines():
                if '"text"' in line:
                    break
        began = time.monotonic()
        while (await client.get("/api/models/slow")).json()["running"]:
            assert time.monotonic() - began < 5
            await asyncio.sleep(0.05)
    assert time.monotonic() - began < 2


def test_hostile_texts_stay_texts(arena: Running) -> None:
    hostile = "<script>alert(1)</script>\0\u202e\u05e9 'x'; DROP TABLE votes; --" + "y" * 100_000
    with arena.client() as client:
        battle = fight(client, "quick", "paced", prompt=hostile)[0]["battle"]
        cast = vote(client, battle, "best", column=0, reason=hostile[:1000])
        assert cast.status_code == 200, cast.text
        stored = client.get(f"/api/battles/{battle}")
        assert stored.headers["content-type"] == "application/json"
        assert stored.json()["messages"] == [{"role": "user", "content": hostile}]
        assert cast.json()["vote"]["reason"] == hostile[:1000].replace("\0", "\ufffd")
        assert client.get("/api/battles/none").status_code == 404
        assert vote(client, "none", "tie").status_code == 400
        assert vote(client, battle, "best", column=0, reason="z" * 2001).status_code == 400


def test_votes_change_the_leaderboard(arena: Running) -> None:
    with arena.client() as client:
        before = client.get("/api/leaderboard", params={"task": "sums"}).json()
        assert before["votes"] == 0
        assert {row["model"] for row in before["rows"]} == set(SPECS)
        assert all(row["rating"] is None for row in before["rows"])
        for turn in range(8):
            battle = fight(client, "quick", "paced", task="sums")[0]["battle"]
            assert vote(client, battle, "all_bad", session=f"s{turn}").status_code == 200
            last = vote(client, battle, "best", session=f"s{turn}", column=1)
            assert last.json()["votes"] == {"best": 1, "tie": 0, "all_bad": 0}
        time.sleep(1.2)  # the log is written in batches
        after = client.get("/api/leaderboard", params={"task": "sums", "since": "1h"}).json()
        assert after["votes"] == 8
        first, second = after["rows"][:2]
        assert [(r["model"], r["votes"], r["win_rate"]) for r in (first, second)] == [
            ("paced", 8, 1.0),
            ("quick", 8, 0.0),
        ]
        assert first["low"] < first["rating"] < first["high"]
        assert first["rating"] + second["rating"] == pytest.approx(2000)
        assert 195 < first["ttft_p50_ms"] < 400
        assert 15 < first["tokens_per_s"] < 21
        assert first["mean_answer_tokens"] == 10
        assert first["cost_per_answer_usd"] > 0
        assert second["cost_per_answer_usd"] is None
        assert abs(first["last_seen"] - time.time()) < 60
        tagged = client.get("/api/leaderboard", params={"task": "sums", "tag": "small"}).json()
        assert [row["model"] for row in tagged["rows"]] == ["quick"]
        assert tagged["rows"][0]["rating"] == second["rating"]
        sheet = client.get("/api/leaderboard", params={"task": "sums", "format": "csv"})
        assert sheet.headers["content-type"].startswith("text/csv")
        table = list(csv.DictReader(io.StringIO(sheet.text)))
        assert [row["model"] for row in table[:2]] == ["paced", "quick"]
        assert float(table[0]["rating"]) == pytest.approx(first["rating"])
        command = [sys.executable, "-m", "aviary", "leaderboard", "--csv", "--task", "sums"]
        environment = {**os.environ, "AVIARY_URL": arena.url}
        printed = subprocess.run(command, capture_output=True, check=True, env=environment)
        assert printed.stdout == sheet.content
        assert client.get("/api/leaderboard", params={"since": "soon"}).status_code == 400


def test_choose_for_me(arena: Running) -> None:
    def choose(how: str, **fields: Any) -> dict[str, Any]:
        return client.post("/api/choose", json={"how": how, **fields}).json()

    with arena.client() as client:
        for _ in range(3):
            battle = fight(client, "quick", "paced")[0]["battle"]
        vote(client, battle, "best", column=1, session="chooser")
        time.sleep(1.2)
        assert choose("fastest")["model"] == "quick"
        assert choose("fastest", among=["paced"])["model"] == "paced"
        assert choose("cheapest")["model"] == "paced"  # the only one with a price
        assert choose("best")["model"] == "paced"
        assert choose("random")["model"] in ("quick", "paced", "slow")
        assert choose("best", among=["slow"])["error"]["code"] == "invalid_request"
        assert choose("random", among=["broken"])["error"]["code"] == "invalid_request"
        assert choose("random", among=["nobody"])["error"]["code"] == "model_not_found"
        assert choose("prettiest")["error"]["code"] == "invalid_request"


def test_a_session_cannot_ask_without_end(arena: Running) -> None:
    with arena.client() as client:
        battle = fight(client, "quick", "paced")[0]["battle"]
        codes = [vote(client, battle, "tie", session="bot").status_code for _ in range(40)]
        assert codes[:30] == [200] * 30
        refused = vote(client, battle, "tie", session="bot")
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert vote(client, battle, "tie", session="person").status_code == 200


def test_kill_9_after_a_confirmed_vote_and_a_waking_model(tmp_path: Path) -> None:
    folder = tmp_path / "specs"
    folder.mkdir()
    fake = "engine: {kind: fake, tokens: 4, slots: 4, start: 1s}\n"
    fake += "scaling: {idle: {after: 1s, then: zero}}"
    for name in ("a", "b"):
        (folder / f"{name}.yaml").write_text(f"id: {name}\n{fake}\n")
    battle = ""
    with Running(tmp_path / "h", str(folder)) as first, first.client() as client:
        deadline = time.monotonic() + 30
        while {first.model(name)["state"] for name in ("a", "b")} != {"sleeping"}:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        events = fight(client, "a", "b")
        states = [event["state"] for event in of(events, 0, "waiting")]
        assert states[0] == "sleeping"
        assert "starting" in states
        assert of(events, 0, "end")[0]["ttft_ms"] > 1000
        assert text_of(events, 0) == expected(4)
        battle = events[0]["battle"]
        assert vote(client, battle, "best", column=1).status_code == 200
        first.kill()
    with Running(tmp_path / "h", str(folder)) as second, second.client() as client:
        stored = client.get(f"/api/battles/{battle}", params={"session": "me"}).json()
        assert stored["vote"]["column"] == 1


def test_keys_users_may_compare_and_vote(tmp_path: Path) -> None:
    spec = tmp_path / "quick.yaml"
    spec.write_text("id: quick\nengine: {kind: fake, tokens: 4, slots: 8}\n")
    with Running(tmp_path / "h", str(spec)) as aviary, aviary.client() as client:
        aviary.wait_for("quick", 1)
        admin = client.post("/api/keys", json={"name": "a", "role": "admin"}).json()
        mine = {"authorization": f"Bearer {admin['secret']}"}
        made = client.post("/api/keys", json={"name": "u"}, headers=mine).json()
        user = {"x-api-key": made["secret"]}
        answer = client.post("/api/battles", json=asked("quick", "quick"), headers=user)
        events = events_of(answer.text)
        assert text_of(events, 0) == text_of(events, 1) == expected(4)
        body = {"battle": events[0]["battle"], "session": "s", "verdict": "tie"}
        assert client.post("/api/votes", json=body, headers=user).status_code == 200
        assert made["secret"] not in aviary.errors.read_text()
        state = sqlite3.connect(tmp_path / "h" / "state.db")
        assert state.execute("SELECT key FROM battles").fetchall() == [(made["id"],)]
        assert state.execute("SELECT key FROM votes").fetchall() == [(made["id"],)]
        state.close()


def test_a_replica_killed_while_its_column_streams(tmp_path: Path) -> None:
    spec = tmp_path / "m.yaml"
    fake = "engine: {kind: fake, tokens: 40, slots: 8, gap: 50ms}\nscaling: {min_replicas: 2}"
    spec.write_text(f"id: m\n{fake}\n")
    with Running(tmp_path / "h", str(spec)) as aviary, aviary.client() as client:
        replicas = aviary.wait_for("m", 2)
        lines = ""
        with client.stream("POST", "/api/battles", json=asked("m", "m", "m", "m")) as stream:
            for piece in stream.iter_text():
                if '"text"' in piece and not lines:
                    os.kill(replicas[0]["pid"], signal.SIGKILL)
                lines += piece
        events = events_of(lines)
        assert [text_of(events, n) for n in range(4)] == [expected(40)] * 4
        assert not [event for event in events if event["kind"] == "error"]
