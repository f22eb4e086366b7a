"""A gateway that joined an Aviary, for tests: the real command in a process of its own."""

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
from pathlib import Path

import httpx2
import psutil


class Joined:
    """`aviary gateway --join` in a process of its own, with a home of its own."""

    def __init__(self, home: Path, join: str, *arguments: str, **environment: str) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self._runtime = Path(tempfile.mkdtemp(prefix="avg-", dir="/tmp"))
        self._errors = home / "stderr.txt"
        command = ["gateway", "--join", join, "--port", "0", "--json", *arguments]
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "aviary", *command],
                stdout=subprocess.PIPE,
                stderr=errors,
                env={
                    **os.environ,
                    "AVIARY_HOME": str(home),
                    "AVIARY_RUNTIME": str(self._runtime),
                    **environment,
                },
                start_new_session=True,
            )

    def ready(self) -> Joined:
        """Wait until it serves."""
        output = self.process.stdout
        assert output is not None
        text = b""
        while line := output.readline():
            text += line
            with contextlib.suppress(json.JSONDecodeError):
                self.url = json.loads(text)["url"]
                return self
        raise AssertionError(self.error())

    def error(self) -> str:
        """What it said when it ended by itself."""
        assert self.process.wait(60) == 1
        return self._errors.read_text()

    def client(self) -> httpx2.Client:
        """An HTTP client of it."""
        return httpx2.Client(base_url=self.url, timeout=60, trust_env=False)

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def __enter__(self) -> Joined:
        return self

    def __exit__(self, *_: object) -> None:
        mine: list[psutil.Process] = []
        if self.process.poll() is None:
            mine = self.workers()
            self.process.send_signal(signal.SIGINT)
            assert self.process.wait(15) == 0
        left = psutil.wait_procs(mine, timeout=5)[1]
        for process in left:
            process.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()
        kept = list(self._runtime.iterdir())
        shutil.rmtree(self._runtime, ignore_errors=True)
        assert not left, f"left behind: {left}"
        assert kept == []


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
