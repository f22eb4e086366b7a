"""Child processes of a benchmark: free ports, logs, and an end to all of them, by their ids."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

import psutil

REPOSITORY = Path(__file__).resolve().parents[1]
CACHE = REPOSITORY / ".aviary" / "bench"
"""Git-ignored: environments of peers, weights, logs of the last run."""


class Unavailable(Exception):
    """A contender cannot take part; the message says why and is shown in the table."""


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Child:
    """A process in a session of its own, its output in a log file."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        port: int = 0,
    ) -> None:
        self.port = port
        logs = CACHE / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        self.log = logs / f"{name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id of the tree's root."""
        return self.process.pid

    def running(self) -> bool:
        """Whether the root of the tree still runs."""
        return self.process.poll() is None

    def last_words(self, lines: int = 3) -> str:
        """The end of its log, on one line."""
        text = self.log.read_text(errors="replace").strip().splitlines()[-lines:]
        return " / ".join(line.strip() for line in text if line.strip())[:400]

    def stop(self, patience_s: float = 5.0) -> None:
        """End the process and all its children: ask, wait, then kill."""
        tree: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.process.pid)
            tree = [*root.children(recursive=True), root]
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        _, left = psutil.wait_procs(tree, timeout=patience_s)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=patience_s)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(patience_s)


def wait_until_listening(child: Child, port: int, patience_s: float) -> None:
    """Return once `port` accepts; raise `Unavailable` if `child` dies or takes too long."""
    deadline_s = time.monotonic() + patience_s
    while time.monotonic() < deadline_s:
        if not child.running():
            raise Unavailable(f"ended at start: {child.last_words() or 'no output'}")
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
            return
        time.sleep(0.05)
    raise Unavailable(f"not listening after {patience_s:.0f} s: {child.last_words()}")


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that `finally` blocks end the children."""

    def stop(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
