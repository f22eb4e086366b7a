"""Gateways that joined an Aviary from elsewhere: `aviary up --control` and `aviary gateway`."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import psycopg
import pytest
from joined import Joined, free_port
from postgres import postgres
from running import Running, chat, streamed_text


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """A PostgreSQL server out of a wheel; not below pytest's folder, see `test_store`."""
    with postgres() as url:
        yield url


def spec(name: str, **fields: Any) -> dict[str, Any]:
    return {"id": name, "engine": {"kind": "fake", "tokens": 8, "slots": 8}, **fields}


def ask(client: httpx2.Client, model: str, **fields: Any) -> httpx2.Response:
    return client.post("/v1/chat/completions", json=chat(model, "hello", **fields))


def logged(database: str, model: str) -> int:
    with psycopg.connect(database) as connection:
        query = "select count(*) from request_log where model = %s and status = 200"
        row = connection.execute(query, [model]).fetchone()
    return int(row[0]) if row else 0


def test_a_gateway_elsewhere_serves_what_the_control_process_serves(
    database: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(json.dumps(spec("a")))
    join = f"127.0.0.1:{free_port()}"
    home = tmp_path / "h"
    options = (str(file), "--control", join)
    with contextlib.ExitStack() as stack:
        up = Running(home, *options, AVIARY_DATABASE_URL=database)
        with up:
            token = home / "cluster.token"
            assert token.stat().st_mode & 0o777 == 0o600
            kept = token.read_text()
            assert len(kept.strip()) >= 32
            remote = stack.enter_context(
                Joined(
                    tmp_path / "g",
                    join,
                    *("--token-file", str(token), "--workers", "1"),
                    AVIARY_DATABASE_URL=database,
                ).ready()
            )
            here, there = stack.enter_context(up.client()), stack.enter_context(remote.client())
            for client in (here, there):
                for _ in range(5):
                    assert ask(client, "a").status_code == 200

            # What it forwards, and how soon it knows of a change.
            applied = there.post("/api/apply", json={"specs": [spec("b")]})
            assert applied.status_code == 202, applied.text
            up.wait_for("b", 1)
            began = time.monotonic()
            assert ask(there, "b").status_code == 200
            assert time.monotonic() - began < 1

            # What it reports: a request that waits there wakes its model.
            resting = spec("z", scaling={"min_replicas": 0})
            assert here.post("/api/apply", json={"specs": [resting]}).status_code == 202
            deadline = time.monotonic() + 1
            while (answer := ask(there, "z", stream=True)).status_code == 404:
                assert time.monotonic() < deadline
            assert answer.status_code == 200, answer.text
            assert streamed_text(answer.text)[0]

            deadline = time.monotonic() + 10
            while logged(database, "a") < 10 and time.monotonic() < deadline:
                time.sleep(0.1)
            assert logged(database, "a") == 10

            processes = up.processes()
            up.kill()
            _, left = psutil.wait_procs(processes, timeout=10)
            assert left == []
            # The worker is there without it, and says what it can.
            assert there.get("/healthz").status_code == 200
            assert there.get("/v1/models").status_code == 200
            assert there.get("/api/status").status_code == 503
            # One that starts now knows what the others know.
            (worker,) = remote.workers()
            worker.kill()
            there = stack.enter_context(remote.client())
            models = there.get("/v1/models").json()["data"]
            assert {model["id"] for model in models} == {"a", "b", "z"}
        workers = [process.pid for process in remote.workers()]
        with Running(home, "--control", join, AVIARY_DATABASE_URL=database) as again:
            assert token.read_text() == kept
            again.wait_for("a", 1)
            deadline = time.monotonic() + 1
            while there.get("/api/status").status_code != 200:
                assert time.monotonic() < deadline
            for _ in range(5):
                assert ask(there, "a").status_code == 200
        assert [process.pid for process in remote.workers()] == workers


def test_a_wrong_token_is_told_at_once(database: str, tmp_path: Path) -> None:
    join = f"127.0.0.1:{free_port()}"
    file = tmp_path / "a.yaml"
    file.write_text(json.dumps(spec("a")))
    with Running(
        tmp_path / "h",
        *(str(file), "--control", join),
        AVIARY_DATABASE_URL=database,
        AVIARY_CLUSTER_TOKEN="t" * 40,
    ):
        assert not (tmp_path / "h" / "cluster.token").exists()
        for path in ("/internal/snapshots", "/api/status"):
            assert httpx2.get(f"http://{join}{path}", trust_env=False).status_code == 401
        with Joined(
            tmp_path / "g", join, AVIARY_DATABASE_URL=database, AVIARY_CLUSTER_TOKEN="wrong"
        ) as remote:
            assert "does not know this token" in remote.error()


def test_sqlite_is_refused_with_the_command_to_run(tmp_path: Path) -> None:
    with Joined(tmp_path / "g", "127.0.0.1:9", AVIARY_CLUSTER_TOKEN="t" * 40) as remote:
        error = remote.error()
    assert "PostgreSQL" in error
    assert "AVIARY_DATABASE_URL=postgresql://USER:PASSWORD@HOST/NAME aviary gateway --join" in error


def test_beyond_loopback_a_gateway_needs_an_admin_key(database: str, tmp_path: Path) -> None:
    with Joined(
        tmp_path / "g",
        "127.0.0.1:9",
        *("--host", "0.0.0.0"),
        AVIARY_DATABASE_URL=database,
        AVIARY_CLUSTER_TOKEN="t" * 40,
    ) as remote:
        assert "without an admin key is refused" in remote.error()


def test_revoking_the_last_key_shuts_a_gateway_that_strangers_can_reach(
    database: str, tmp_path: Path
) -> None:
    join = f"127.0.0.1:{free_port()}"
    file = tmp_path / "a.yaml"
    file.write_text(json.dumps(spec("a")))
    environment = {"AVIARY_DATABASE_URL": database, "AVIARY_CLUSTER_TOKEN": "t" * 40}
    with Running(tmp_path / "h", *(str(file), "--control", join), **environment) as up:
        with up.client() as here:
            made = here.post("/api/keys", json={"name": "boss", "role": "admin"}).json()
        with (
            Joined(tmp_path / "g", join, *("--host", "0.0.0.0"), **environment).ready() as remote,
            remote.client() as there,
            up.client() as here,
        ):
            assert ask(there, "a").status_code == 401
            there.headers["authorization"] = here.headers["authorization"] = (
                f"Bearer {made['secret']}"
            )
            assert ask(there, "a").status_code == 200
            assert there.delete(f"/api/keys/{made['id']}").status_code == 200
            deadline = time.monotonic() + 1
            while ask(there, "a").status_code != 401:
                assert time.monotonic() < deadline
            del here.headers["authorization"], there.headers["authorization"]
            assert ask(here, "a").status_code == 200  # on loopback there is nobody to keep out
            assert ask(there, "a").status_code == 401
            assert there.get("/api/status").status_code == 401
