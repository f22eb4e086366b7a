"""People without a key: what they may do where keys are needed, and that nothing else opens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import Running

SPEC = "id: quick\nengine: {kind: fake, tokens: 4, slots: 32}\n"


class Guarded:
    """An Aviary with keys."""

    def __init__(self, running: Running) -> None:
        self.running = running
        with running.client() as client:
            made = client.post("/api/keys", json={"name": "a", "role": "admin"}).json()
            self.admin = {"authorization": f"Bearer {made['secret']}"}
            made = client.post("/api/keys", json={"name": "u"}, headers=self.admin).json()
            self.user = {"authorization": f"Bearer {made['secret']}"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    spec = tmp_path_factory.mktemp("specs") / "quick.yaml"
    spec.write_text(SPEC)
    with Running(tmp_path_factory.mktemp("h"), str(spec), "--workers", "2") as running:
        running.wait_for("quick", 1)
        with running.client() as client:
            me = client.get("/api/me").json()
            assert me == {"role": "admin", "keys": False, "visitors": True}
        yield Guarded(running)


def battle(*models: str, **fields: Any) -> dict[str, Any]:
    return {"models": [{"model": model} for model in models], "prompt": "hi", **fields}


def events_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(part[6:]) for part in text.split("\n\n") if part.startswith("data: ")]


def test_who_asks(guarded: Guarded) -> None:
    with guarded.running.client() as client:
        for headers, role in [({}, "visitor"), (guarded.user, "user"), (guarded.admin, "admin")]:
            me = client.get("/api/me", headers=headers).json()
            assert me == {"role": role, "keys": True, "visitors": True}
        for wrong in ({"authorization": "Bearer sk-aviary-no"}, {"x-api-key": "no"}):
            assert client.get("/api/me", headers=wrong).status_code == 401
            answer = client.post("/api/battles", json=battle("quick", session="v"), headers=wrong)
            assert answer.status_code == 401


def test_visitors_compare_and_vote(guarded: Guarded) -> None:
    with guarded.running.client() as client:
        refused = client.post("/api/battles", json=battle("quick"))
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "session")
        answer = client.post("/api/battles", json=battle("quick", "quick", session="v"))
        events = events_of(answer.text)
        assert events[-1] == {"kind": "stored", "stored": True}
        assert len([event for event in events if event["kind"] == "end"]) == 2
        identity = events[0]["battle"]
        again = {"columns": [1], "session": "v"}
        retried = client.post(f"/api/battles/{identity}/retry", json=again)
        assert events_of(retried.text)[-1] == {"kind": "stored", "stored": True}
        stop = client.post(f"/api/battles/{identity}/columns/0/stop", json={"session": "v"})
        assert stop.status_code == 202
        cast = {"battle": identity, "session": "v", "verdict": "tie"}
        assert client.post("/api/votes", json=cast).status_code == 200
        assert client.get(f"/api/battles/{identity}").status_code == 200
        assert client.get("/api/leaderboard").json()["votes"] >= 1
        assert client.get("/api/models").json()["models"][0]["id"] == "quick"
        assert client.get("/api/models/quick").json()["spec"] is None
        assert client.post("/api/choose", json={"how": "random"}).json()["model"] == "quick"
        with client.stream("GET", "/api/models/quick/events") as stream:
            assert stream.status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/status"),
        ("GET", "/api/events"),
        ("GET", "/api/keys"),
        ("GET", "/api/logs?model=quick"),
        ("GET", "/api/votes/abuse"),
        ("GET", "/api/nothing"),
        ("POST", "/api/keys"),
        ("POST", "/api/models"),
        ("POST", "/api/apply"),
        ("DELETE", "/api/models/quick"),
        ("POST", "/api/models/quick/sleep"),
        ("GET", "/v1/models"),
        ("POST", "/v1/chat/completions"),
        ("GET", "/metrics"),
    ],
)
def test_visitors_may_do_nothing_else(guarded: Guarded, method: str, path: str) -> None:
    with guarded.running.client() as client:
        body = {"model": "quick", "messages": [{"role": "user", "content": "hi"}]}
        answer = client.request(method, path, json=body if method == "POST" else None)
        assert answer.status_code == 401, answer.text
        assert answer.headers["www-authenticate"] == "Bearer"


def test_users_do_not_see_who_votes(guarded: Guarded) -> None:
    with guarded.running.client() as client:
        assert client.get("/api/votes/abuse", headers=guarded.user).status_code == 403
        found = client.get("/api/votes/abuse", headers=guarded.admin).json()
        assert (found["counted_a_day"], found["addresses"]) == (50, [])


def test_without_visitors_a_key_is_needed(tmp_path: Path) -> None:
    spec = tmp_path / "quick.yaml"
    spec.write_text(SPEC)
    with Running(tmp_path / "h", str(spec), AVIARY_VISITORS="false") as running:
        guarded = Guarded(running)
        with running.client() as client:
            for path in ("/api/me", "/api/models", "/api/leaderboard"):
                assert client.get(path).status_code == 401
            asked = battle("quick", session="v")
            assert client.post("/api/battles", json=asked).status_code == 401
            me = client.get("/api/me", headers=guarded.user).json()
            assert me == {"role": "user", "keys": True, "visitors": False}
            assert client.get("/").status_code == 200
