"""A running `aviary up --backend ray`, and Ray clusters of somebody else's, for tests."""

from __future__ import annotations

import contextlib
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


class Up:
    """A running `aviary up --backend ray`."""

    def __init__(self, specs, *options, env=None, folder=None):
        self.folder = folder or Path(tempfile.mkdtemp(prefix="av-", dir="/tmp"))
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
                error = (self.folder / "stderr").read_text()
                shutil.rmtree(self.folder, ignore_errors=True)
                raise AssertionError(error)
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


class Cluster:
    """A Ray cluster on this machine: each node has a loopback address and a Unix session.

    Args:
        head: Address of the first node. Of several nodes none may have 127.0.0.1: Ray takes that
            for the machine's outer address then.

    Attributes:
        address: What `--address` takes.
        env: What its members have in their environment.
    """

    def __init__(self, head="127.0.0.1"):
        self.folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        self.nodes = {}
        with socket.create_server((head, 0)) as free:
            port = free.getsockname()[1]
        self.address = f"{head}:{port}"
        self.env = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        if head == "127.0.0.1":
            self.env["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"

    def __enter__(self):
        try:
            head, _, port = self.address.rpartition(":")
            options = ["--head", f"--port={port}", "--include-dashboard=false"]
            self.add(head, *options, f"--temp-dir={self.folder}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for address in reversed(list(self.nodes)):
            self.kill(address)
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, address, *options):
        """Start a node with an address of 127.0.0.0/8 of its own; returns when it runs."""
        program = "import sys; from ray.scripts.scripts import main; sys.exit(main())"
        options = options or (f"--address={self.address}",)
        command = ["start", *options, f"--node-ip-address={address}", "--num-cpus=1", "--block"]
        log = self.folder / f"{address}.log"
        with log.open("wb") as output:
            node = self.nodes[address] = subprocess.Popen(
                [sys.executable, "-c", program, *command, "--object-store-memory=80000000"],
                env={**os.environ, **self.env},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while b"Ray runtime started" not in log.read_bytes():
            assert node.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)

    def kill(self, address):
        """kill -9 of all processes of a node at once."""
        node = self.nodes.pop(address)
        members = [p for p in psutil.process_iter() if is_in_session(p, node.pid)]
        for process in members:
            with contextlib.suppress(psutil.Error):
                process.kill()
        node.wait()


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
