"""The child's side: notice that the parent is gone, and report to it.

The parent holds the write end of a pipe that is the child's standard input, and never writes to
it. When the parent dies, in whatever way, the kernel closes that end and the child reads end of
file. This works on every system, at once, and needs no polling.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

REPORT_FD_ENV = "AVIARY_REPORT_FD"


def watch_parent(grace_s: float = 3.0, leave: Callable[[], None] | None = None) -> None:
    """End this process when its parent is gone.

    A daemon thread waits for end of file on standard input; then it asks the process to end
    (SIGTERM to its group, or `leave`) and, when it has not within `grace_s` seconds, ends it.
    """
    # A child of ours leads a group of its own; its children must go, too.
    leads = leave is None and os.getpgid(0) == os.getpid()

    def wait() -> None:
        try:
            while os.read(0, 4096):
                pass
        except OSError:
            pass
        if leave is not None:
            leave()
        elif leads:
            os.killpg(0, signal.SIGTERM)
        else:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace_s)
        if leads:
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=wait, name="parent-watch", daemon=True).start()


class Reporter:
    """Sends small JSON events to the parent; does nothing without one."""

    def __init__(self) -> None:
        fd = os.environ.pop(REPORT_FD_ENV, None)
        self._fd = int(fd) if fd is not None else None
        if self._fd is not None:
            os.set_inheritable(self._fd, False)
        self._lock = threading.Lock()

    def send(self, **event: Any) -> None:
        """Send one event; lost when the parent is gone, since this process then ends too."""
        if self._fd is None:
            return
        line = msgspec.json.encode(event) + b"\n"
        with self._lock:
            try:
                while line:
                    line = line[os.write(self._fd, line) :]
            except OSError:
                self._fd = None
