"""A running Aviary for tests: the real command in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2
import psutil


class Running:
    """`aviary up` with its state in a folder of the test's.

    Used as a context manager; at the end it is stopped, and nothing of it may be left.
    """

    def __init__(
        self, home: Path, *arguments: str, start_s: float = 60, **environment: str
    ) -> None:
        self.home = home
        # Short, since paths of Unix sockets must be.
        self.runtime = Path(tempfile.mkdtemp(prefix="avt-", dir="/tmp"))
        self._start_s = start_s
        self._environment = {
            **os.environ,
            "AVIARY_HOME": str(home),
            "AVIARY_RUNTIME": str(self.runtime),
            "AVIARY_LOG_FORMAT": "json",
            **environment,
        }
        self._arguments = arguments
        self.process: subprocess.Popen[bytes]
        self.started: dict[str, Any] = {}
        self.url = ""
        self.errors = home / "stderr.txt"

    def __enter__(self) -> Running:
        self.home.mkdir(parents=True, exist_ok=True)
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "aviary", "up", "--port", "0", "--json", *self._arguments],
                stdout=subprocess.PIPE,
                stderr=errors,
                env=self._environment,
                start_new_session=True,
            )
        try:
            self.started = self._read_start()
        except BaseException:
            self.kill()
            raise
        self.url = self.started["url"]
        return self

    def _read_start(self) -> dict[str, Any]:
        output = self.process.stdout
        assert output is not None
        deadline = time.monotonic() + self._start_s
        text = b""
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while time.monotonic() < deadline:
                if not selector.select(timeout=0.2):
                    continue
                piece = os.read(output.fileno(), 65536)
                text += piece
                if not piece:
                    break
                with contextlib.suppress(json.JSONDecodeError):
                    return json.loads(text)
        raise AssertionError(f"aviary up did not start: {text!r} {self.errors.read_text()}")

    def __exit__(self, *_: object) -> None:
        processes = self.processes()
        self.stop(30)
        left = psutil.wait_procs(processes, timeout=5)[1]
        for process in left:
            process.kill()
        shutil.rmtree(self.runtime, ignore_errors=True)
        assert not left, f"left behind: {left}"

    def stop(self, most_s: float, number: int = signal.SIGINT) -> float:
        """Ask it to stop; returns the seconds it took."""
        began = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(most_s)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return time.monotonic() - began

    def kill(self) -> None:
        """kill -9 of the control process alone."""
        self.process.kill()
        self.process.wait(10)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def processes(self) -> list[psutil.Process]:
        """The control process and all below it."""
        if self.process.poll() is not None:
            return []
        control = psutil.Process(self.process.pid)
        return [control, *control.children(recursive=True)]

    def gateways(self) -> list[psutil.Process]:
        """The gateway workers."""
        return [p for p in self.processes() if p.cmdline()[:1] == ["aviary gateway"]]

    def client(self, **options: Any) -> httpx2.Client:
        """An HTTP client of it."""
        return httpx2.Client(base_url=self.url, timeout=60, trust_env=False, **options)

    def async_client(self, **options: Any) -> httpx2.AsyncClient:
        """Likewise, asynchronous."""
        limits = httpx2.Limits(max_connections=1000)
        return httpx2.AsyncClient(
            base_url=self.url, timeout=60, trust_env=False, limits=limits, **options
        )

    def model(self, name: str) -> dict[str, Any]:
        """What `/api/models/NAME` says."""
        with self.client() as client:
            answer = client.get(f"/api/models/{name}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def wait_for(self, name: str, replicas: int, most_s: float = 30) -> list[dict[str, Any]]:
        """Wait until so many replicas of the model are ready; returns them."""
        deadline = time.monotonic() + most_s
        while True:
            model = self.model(name)
            ready = [r for r in model["replicas"] if r["state"] == "ready"]
            if len(ready) == replicas and len(model["replicas"]) == replicas:
                return ready
            assert time.monotonic() < deadline, model
            time.sleep(0.05)


def chat(model: str, text: str, **fields: Any) -> dict[str, Any]:
    """A chat request's body."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


def streamed_text(body: str) -> tuple[str, list[dict[str, Any]]]:
    """The text of a streamed chat answer, and its chunks; it must be complete."""
    events = [line[6:] for line in body.split("\n\n") if line.startswith("data: ")]
    assert events, body
    assert events[-1] == "[DONE]", body
    chunks = [json.loads(event) for event in events[:-1]]
    return "".join(
        choice.get("delta", {}).get("content") or choice.get("text") or ""
        for chunk in chunks
        for choice in chunk["choices"]
    ), chunks
