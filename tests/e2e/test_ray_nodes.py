"""Aviary on a Ray cluster of several nodes: replicas on each, nodes that die and that come."""

import contextlib
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("ray")

import psutil
from joined import Joined, free_port
from postgres import postgres
from raying import Cluster, Up, look
from running import streamed_text

pytestmark = [pytest.mark.ray, pytest.mark.e2e, pytest.mark.timeout(400)]

FIRST, SECOND, THIRD = "127.0.0.2", "127.0.0.3", "127.0.0.4"
SPECS = {"spread": "{kind: fake, tokens: 40, gap: 50ms, slots: 32}\nscaling: {min_replicas: 2}"}


@pytest.fixture(scope="module")
def database():
    """A PostgreSQL server out of a wheel."""
    with postgres() as url:
        yield url


@pytest.fixture(scope="module")
def cluster():
    """Two nodes."""
    with Cluster(FIRST) as running:
        running.add(SECOND)
        yield running


class Traffic:
    """Streams one after the other in several threads until told to stop; every one is kept."""

    def __init__(self, ask, threads=4):
        self._ask = ask
        self._stop = threading.Event()
        self.answers = []
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self):
        while not self._stop.is_set():
            try:
                answer = self._ask()
                self.answers.append((answer.status_code, answer.text))
            except Exception as error:
                self.answers.append((0, repr(error)))

    def check(self, text):
        assert len(self.answers) > 8
        wrong = [answer for answer in self.answers if answer[0] != 200]
        assert wrong == []
        for _, body in self.answers:
            assert streamed_text(body)[0] == text


def test_with_sqlite_several_nodes_are_refused(cluster):
    with pytest.raises(AssertionError, match="PostgreSQL") as refused:
        Up(SPECS, "--address", cluster.address, env=cluster.env)
    command = f"aviary up --backend ray --address {cluster.address}"
    assert f"AVIARY_DATABASE_URL=postgresql://USER:PASSWORD@HOST/NAME {command}" in str(
        refused.value
    )


def test_a_node_dies_and_another_comes(cluster, database):
    env = {**cluster.env, "AVIARY_DATABASE_URL": database}
    up = Up(SPECS, "--address", cluster.address, env=env)
    try:
        views = up.until("spread", both_ready)
        assert {view["node"] for view in views} == {FIRST, SECOND}
        complete = streamed_text(up.ask("spread", stream=True).text)[0]
        with Traffic(lambda: up.ask("spread", stream=True)) as traffic:
            time.sleep(3)
            cluster.kill(SECOND)
            began = time.monotonic()
            up.until("spread", lambda views: SECOND not in {v["node"] for v in views}, 120)
            up.until("spread", both_ready, 120)
            back_s = time.monotonic() - began
            time.sleep(2)
        traffic.check(complete)
        print(
            f"{len(traffic.answers)} streams; replicas back after {back_s:.1f} s", file=sys.stderr
        )
        cluster.add(THIRD)
        with Traffic(lambda: up.ask("spread", stream=True)) as traffic:
            # Who is replaced now has two nodes to choose from. Ray spreads as well as it can: it
            # may take more than one.
            for _ in range(5):
                victim = next(v for v in up.replicas("spread") if v["node"] == FIRST)
                known = {view["id"] for view in up.replicas("spread")}
                psutil.Process(victim["pid"]).kill()
                up.until("spread", lambda v, known=known: replaced(v, known), 90)
                if THIRD in {view["node"] for view in up.replicas("spread")}:
                    break
            else:
                raise AssertionError("the new node is not used")
        traffic.check(complete)
    finally:
        up.clear()


def replaced(views, known):
    """Both are ready, and one of them is new."""
    return both_ready(views) and not {view["id"] for view in views} <= known


def both_ready(views):
    return [view["state"] for view in views] == ["ready"] * 2


def test_gateways_elsewhere_outlive_the_control_process(cluster, database):
    join = f"127.0.0.1:{free_port()}"
    env = {**cluster.env, "AVIARY_DATABASE_URL": database, "AVIARY_CLUSTER_TOKEN": "t" * 40}
    options = ("--address", cluster.address, "--control", join)
    home = Path(tempfile.mkdtemp(prefix="avg-", dir="/tmp"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        up = Up(SPECS, *options, env=env)
        stack.callback(up.clear)
        before = {view["pid"] for view in up.until("spread", both_ready)}
        remote = stack.enter_context(Joined(home, join, **env).ready())
        client = stack.enter_context(remote.client())
        body = {"model": "spread", "stream": True, "messages": [{"role": "user", "content": "x"}]}
        complete = streamed_text(client.post("/v1/chat/completions", json=body).text)[0]
        with Traffic(lambda: client.post("/v1/chat/completions", json=body)) as traffic:
            time.sleep(1)
            up.end(signal.SIGKILL)
            time.sleep(3)
            assert client.get("/api/status").status_code == 503
            again = Up({}, *options, env=env, folder=up.folder)
            stack.callback(again.clear)
            again.until("spread", both_ready)
            time.sleep(2)
        traffic.check(complete)
        assert {view["pid"] for view in again.replicas("spread")} == before
        assert client.get("/api/status").status_code == 200
        assert again.end(signal.SIGINT) < 15
        assert look(cluster.address, cluster.env, 0)["apps"] == []
