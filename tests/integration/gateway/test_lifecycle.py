"""Start, stop, kill: nothing is lost that need not be, and nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import psutil
import pytest
from running import Running, chat, streamed_text

from aviary.engines.fake import scripted_text


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[..., Running]:
    """Makes Running objects whose state is this test's own."""

    def make(specs: dict[str, str], *arguments: str, **environment: str) -> Running:
        folder = tmp_path / "specs"
        folder.mkdir(exist_ok=True)
        for name, text in specs.items():
            (folder / f"{name}.yaml").write_text(f"id: {name}\n{text}\n")
        return Running(tmp_path / "h", str(folder), *arguments, **environment)

    return make


FAKE = "engine: {kind: fake, tokens: 8, slots: 8}"
SLOW = "engine: {kind: fake, tokens: 60, slots: 16, gap: 30ms}"


def _expected(text: str, tokens: int) -> str:
    body = {"messages": [{"role": "user", "content": text}]}
    return "".join(scripted_text(body, tokens))


def _port_is_free(url: str) -> bool:
    port = int(url.rpartition(":")[2])
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _gone(processes: list[psutil.Process], most_s: float) -> list[psutil.Process]:
    deadline = time.monotonic() + most_s
    while True:
        left = [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_ends_all_within_five_seconds(
    fresh: Callable[..., Running], number: int
) -> None:
    with fresh({"a": FAKE, "slow": SLOW}) as running:
        processes = running.processes()
        assert len(processes) == 5
        with running.client() as client:
            # An answer in progress must not hold it up.
            request = client.build_request(
                "POST", "/v1/chat/completions", json=chat("slow", "x", stream=True)
            )
            answer = client.send(request, stream=True)
            took_s = running.stop(10, number)
            answer.close()
        assert running.process.returncode == 0
        assert took_s < 5
        assert not _gone(processes, 0.5)
        assert _port_is_free(running.url)
        assert not list(running.runtime.glob("aviary-run-*"))
        assert "Traceback" not in running.errors.read_text()


def test_kill_9_of_the_control_process_leaves_nothing(fresh: Callable[..., Running]) -> None:
    with fresh({"a": FAKE, "slow": SLOW}) as running:
        children = running.processes()[1:]
        assert len(children) == 4
        running.kill()
        assert not _gone(children, 5)
        assert _port_is_free(running.url)
        left = list(running.runtime.glob("aviary-run-*"))
        assert len(left) == 1
        # The next start takes over the state and sweeps away what the killed one left.
        with fresh({"a": FAKE}, AVIARY_RUNTIME=str(running.runtime)) as again:
            with again.client() as client:
                assert client.post("/v1/chat/completions", json=chat("a", "x")).status_code == 200
            assert not left[0].exists()


def test_kill_9_of_a_replica_with_another_one_is_not_noticed(fresh: Callable[..., Running]) -> None:
    with fresh({"pair": f"{FAKE}\nscaling: {{min_replicas: 2}}"}) as running:
        with running.client() as client:
            for _ in range(5):
                victim = running.wait_for("pair", 2)[0]
                os.kill(victim["pid"], signal.SIGKILL)
                for number in range(20):
                    text = f"{number}"
                    answer = client.post("/v1/chat/completions", json=chat("pair", text))
                    assert answer.status_code == 200, answer.text
                    got = answer.json()["choices"][0]["message"]["content"]
                    assert got == _expected(text, 8)
        restarts = [r["restarts"] for r in running.wait_for("pair", 2)]
        assert sum(restarts) == 5


def test_kill_9_of_the_only_replica_makes_the_request_wait(fresh: Callable[..., Running]) -> None:
    with fresh({"a": FAKE}) as running, running.client() as client:
        first = running.wait_for("a", 1)[0]
        os.kill(first["pid"], signal.SIGKILL)
        answer = client.post("/v1/chat/completions", json=chat("a", "x"))
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-aviary-replica"] != first["id"]


def test_a_replica_that_dies_before_its_first_byte_costs_nobody_anything(
    fresh: Callable[..., Running],
) -> None:
    waiting = "engine: {kind: fake, tokens: 4, slots: 8, time_to_first_token: 1500ms}"
    with fresh({"w": f"{waiting}\nscaling: {{min_replicas: 2}}"}) as running:
        replicas = {r["id"]: r["pid"] for r in running.wait_for("w", 2)}
        answers: list[httpx2.Response] = []

        def ask() -> None:
            with running.client() as client:
                answers.append(client.post("/v1/chat/completions", json=chat("w", "x")))

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        time.sleep(0.7)
        os.kill(next(iter(replicas.values())), signal.SIGKILL)
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [200] * 6


def test_a_request_that_kills_replicas_is_not_tried_for_ever(fresh: Callable[..., Running]) -> None:
    # The readiness generation is the first request of each process; the second one kills it.
    deadly = "engine: {kind: fake, tokens: 4, faults: [{kind: crash, at_token: 0, every: 2}]}"
    with fresh({"d": f"{deadly}\nscaling: {{min_replicas: 3}}"}) as running:
        with running.client() as client:
            answer = client.post("/v1/chat/completions", json=chat("d", "x"))
        assert answer.status_code == 502
        assert answer.json()["error"]["code"] == "replica_crashed"


def test_a_stream_that_breaks_ends_with_an_error_event(fresh: Callable[..., Running]) -> None:
    specs = {"slow": f"{SLOW}\ncontinue_streams: false"}
    with fresh(specs) as running, running.client() as client:
        pid = running.wait_for("slow", 1)[0]["pid"]
        body = chat("slow", "x", stream=True)
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = answer.iter_lines()
            for _ in range(6):
                next(lines)
            os.kill(pid, signal.SIGKILL)
            rest = [line for line in lines if line]
        assert "[DONE]" not in rest[-1]
        assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "replica_crashed"


async def test_kill_9_of_a_gateway_worker_touches_no_other(fresh: Callable[..., Running]) -> None:
    with fresh({"slow": SLOW}, "--workers", "2") as running:
        async with running.async_client() as client:

            async def ask(number: int) -> str:
                body = chat("slow", f"{number}", stream=True)
                try:
                    answer = await client.post("/v1/chat/completions", json=body)
                except httpx2.HTTPError:
                    return "cut"
                text, _ = streamed_text(answer.text)
                return "good" if text == _expected(f"{number}", 60) else f"wrong: {text}"

            asking = [asyncio.create_task(ask(number)) for number in range(16)]
            await asyncio.sleep(0.8)
            victim, other = running.gateways()
            held = [c for c in victim.net_connections("tcp") if c.laddr.port == _port(running)]
            cut = sum(c.status == psutil.CONN_ESTABLISHED for c in held)
            victim.kill()
            results = await asyncio.gather(*asking)
            assert results.count("good") == 16 - cut
            assert results.count("cut") == cut
            deadline = time.monotonic() + 10
            while len(running.gateways()) < 2:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            assert other.is_running()
            again = await asyncio.gather(*(ask(number) for number in range(8)))
            assert again == ["good"] * 8


def _port(running: Running) -> int:
    return int(running.url.rpartition(":")[2])


def test_run_update_stop_by_the_command_line(fresh: Callable[..., Running], tmp_path: Path) -> None:
    spec = tmp_path / "new.yaml"

    def aviary(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "AVIARY_URL": running.url}
        return subprocess.run(
            [sys.executable, "-m", "aviary", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    with fresh({"a": FAKE}) as running:
        spec.write_text(f"id: new\n{FAKE}\n")
        added = aviary("run", str(spec), "--json")
        assert added.returncode == 0, added.stderr
        with running.client() as client:
            assert client.post("/v1/chat/completions", json=chat("new", "x")).status_code == 200
            old = running.wait_for("new", 1)[0]["id"]
            assert "unchanged" in aviary("run", str(spec), "--json").stdout
            assert running.wait_for("new", 1)[0]["id"] == old
            # An update rolls: no request fails while the new version replaces the old one.
            spec.write_text("id: new\nengine: {kind: fake, tokens: 3, slots: 8}\n")
            failures: list[str] = []
            stop = threading.Event()

            def load() -> None:
                with running.client() as other:
                    while not stop.is_set():
                        answer = other.post("/v1/chat/completions", json=chat("new", "x"))
                        if answer.status_code != 200:
                            failures.append(answer.text)

            thread = threading.Thread(target=load)
            thread.start()
            updated = aviary("run", str(spec), "--json")
            assert updated.returncode == 0, updated.stderr
            new = running.wait_for("new", 1)[0]["id"]
            stop.set()
            thread.join()
            assert new != old
            assert not failures
            text = client.post("/v1/chat/completions", json=chat("new", "x")).json()
            assert text["usage"]["completion_tokens"] == 3
            assert aviary("stop", "new").returncode == 0
            gone = client.post("/v1/chat/completions", json=chat("new", "x"))
            assert gone.status_code == 404
            assert aviary("stop", "new").returncode == 1
        status = json.loads(aviary("status", "--json").stdout)
        assert status["workers"] == 2
        shown = aviary("models")
        assert "a" in shown.stdout.split()
        logs = aviary("logs", "a")
        assert "ready" in logs.stdout
        answered = aviary("query", "-m", "a", "x", "--json")
        assert json.loads(answered.stdout)[0]["text"] == _expected("x", 8)


def test_keys(fresh: Callable[..., Running]) -> None:
    def keys(*arguments: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "aviary", "keys", *arguments],
            env={**os.environ, "AVIARY_HOME": str(running.home)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    with fresh({"a": FAKE}) as running, running.client() as client:
        assert client.post("/v1/chat/completions", json=chat("a", "x")).status_code == 200
        created = json.loads(keys("create", "boss", "--role", "admin", "--json"))
        admin = {"authorization": f"Bearer {created['secret']}"}
        body = chat("a", "x")
        deadline = time.monotonic() + 2
        while client.post("/v1/chat/completions", json=body).status_code == 200:
            assert time.monotonic() < deadline, "the first key must close the door"
            time.sleep(0.05)
        refused = client.post("/v1/chat/completions", json=body)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert client.get("/v1/models").status_code == 401
        assert client.get("/api/status").status_code == 401
        assert client.get("/metrics").status_code == 401
        assert client.get("/healthz").status_code == 200
        assert client.get("/metrics", headers=admin).status_code == 200
        made = client.post("/api/keys", json={"name": "app"}, headers=admin)
        assert made.status_code == 201, made.text
        new = made.json()
        user = {"x-api-key": new["secret"]}
        assert client.post("/v1/chat/completions", json=body, headers=user).status_code == 200
        assert client.get("/api/models", headers=user).status_code == 200
        assert client.get("/metrics", headers=user).status_code == 403
        forbidden = client.post("/api/models", json={}, headers=user)
        assert forbidden.status_code == 403
        assert client.get("/api/keys", headers=user).status_code == 403
        forged = {**user, "x-aviary-role": "admin"}
        assert client.get("/api/keys", headers=forged).status_code == 403
        for path in ("/internal/snapshots", "/api/../internal/snapshots", "/docs/../api/keys"):
            hidden = client.get(path, headers=user)
            assert hidden.status_code in (403, 404), f"{path}: {hidden.text[:200]}"
        assert client.get("/docs/swagger-ui-bundle.js").status_code == 200
        assert client.post("/docs", content=b"x").status_code in (405, 413)
        assert client.get("/api/models/a", headers=user).json()["spec"] is None
        assert client.get("/api/models/a", headers=admin).json()["spec"]["id"] == "a"
        assert client.get("/readyz").json()["ready"] == 1
        listed = client.get("/api/keys", headers=admin)
        assert {key["name"] for key in listed.json()["keys"]} == {"boss", "app"}
        assert new["secret"] not in listed.text
        client.delete(f"/api/keys/{new['id']}", headers=admin)
        deadline = time.monotonic() + 3  # a second, and what a busy machine adds
        while client.post("/v1/chat/completions", json=body, headers=user).status_code == 200:
            assert time.monotonic() < deadline, "a revoked key is still good"
        everything = "".join(
            path.read_text(errors="replace") for path in (running.home / "logs").iterdir()
        )
        assert new["secret"] not in everything + running.errors.read_text()


def _up(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "aviary", "up", *arguments],
        env={**os.environ, "AVIARY_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_what_cannot_start_says_why(fresh: Callable[..., Running], tmp_path: Path) -> None:
    spec = tmp_path / "a.yaml"
    spec.write_text(f"id: a\n{FAKE}\n")
    beyond = _up(tmp_path / "other", str(spec), "--port", "0", "--host", "0.0.0.0")
    assert beyond.returncode == 1
    assert "aviary keys create" in beyond.stderr
    wrong = _up(tmp_path / "other", str(tmp_path / "none.yaml"), "--port", "0")
    assert wrong.returncode == 1
    assert "none.yaml" in wrong.stderr
    spec.write_text("id: a\nengine: {kind: vllm}\nsource: {uri: 'hf:a/b/c'}\n")
    later = _up(tmp_path / "other", str(spec), "--port", "0")
    assert later.returncode == 1
    assert "vllm" in later.stderr
    spec.write_text(f"id: a\n{FAKE}\n")
    with fresh({"a": FAKE}) as running:
        twice = _up(running.home, str(spec), "--port", "0")
        assert twice.returncode == 1
        assert "AVIARY_HOME" in twice.stderr
        taken = _up(tmp_path / "other", str(spec), "--port", str(_port(running)))
        assert taken.returncode == 1
        assert "--port" in taken.stderr
    for failed in (beyond, wrong, later, twice, taken):
        assert "Traceback" not in failed.stderr


def test_a_key_made_before_the_start_is_needed_from_the_first_request_on(tmp_path: Path) -> None:
    home = tmp_path / "h"
    made = subprocess.run(
        [sys.executable, "-m", "aviary", "keys", "create", "boss", "--role", "admin", "--json"],
        env={**os.environ, "AVIARY_HOME": str(home)},
        capture_output=True,
        check=True,
    )
    spec = tmp_path / "a.yaml"
    spec.write_text(f"id: a\n{FAKE}\n")
    key = json.loads(made.stdout)
    with Running(home, str(spec), "--host", "127.0.0.2") as running, running.client() as client:
        assert client.get("/v1/models").status_code == 401
        good = client.get("/v1/models", headers={"authorization": f"Bearer {key['secret']}"})
        assert good.status_code == 200
