"""The Ray driver: a child process of the control process that speaks to Ray on its behalf.

Ray's driver library takes over signals, logging and environment, and ends its process when its
node dies. So it lives in a process of its own, with a life line: when the control process ends, in
whatever way, the driver leaves Ray, and a Ray that it started ends with it.

Protocol: JSON lines on an inherited socket. A request is `{"id", "do", "with"}`, its answer
`{"id", "result"}` or `{"id", "error"}`; `{"do": "leave"}` ends the driver. Requests run at the same
time, so that looking is never held up by deploying.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import psutil
import setproctitle

from aviary.backends import ray_serve
from aviary.backends.ray_session import SOCKET_FD_ENV
from aviary.process.lifeline import watch_parent

LEAVE_S = 8.0
THREADS = 4


class _Driver:
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._joined = False
        self._outlast = False
        self._owner = ""
        self._ending = threading.Lock()

    def answer(self, request: Mapping[str, Any]) -> None:
        try:
            result = self._do(request["do"], request["with"])
            reply = {"id": request["id"], "result": result}
        except Exception as error:
            reply = {"id": request["id"], "error": f"{type(error).__name__}: {error}"}
        data = msgspec.json.encode(reply, enc_hook=str) + b"\n"
        with self._lock:
            self._connection.sendall(data)

    def _do(self, what: str, given: Mapping[str, Any]) -> Any:
        match what:
            case "start":
                return ray_serve.start_local(given["temp_folder"])
            case "join":
                self._joined, self._outlast = True, given["outlast"]
                return ray_serve.join(given["address"])
            case "deploy":
                return ray_serve.deploy(given["apps"], joined=self._joined)
            case "scale":
                return ray_serve.scale(given["name"], given["replicas"])
            case "delete":
                return ray_serve.delete(given["names"])
            case "pause":
                return ray_serve.pause(given["name"], given["until"])
            case "look":
                self._owner = given["owner"]
                return ray_serve.look(given["owner"])
            case "nodes":
                return ray_serve.nodes()
            case _:
                raise ValueError(f"unknown request {what!r}")

    def end_at_once(self) -> None:
        """Called when the control process is gone: clear up what it can no more.

        A Ray started here ends with this process, but its agents and workers may take a minute to
        notice. A joined cluster stays; our models leave it, unless gateways elsewhere use them.
        """
        self._ending.acquire()  # never released: the process ends
        with contextlib.suppress(Exception):
            leave = self._joined and self._owner and not self._outlast
            if leave and (names := list(ray_serve.look(self._owner))):
                ray_serve.delete(names)
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                process.kill()
        os._exit(1)


def main() -> None:
    """Serve requests until told to leave, or until the control process is gone."""
    connection = socket.socket(fileno=int(os.environ.pop(SOCKET_FD_ENV)))
    os.set_inheritable(connection.fileno(), False)
    setproctitle.setproctitle("aviary ray driver")
    driver = _Driver(connection)
    watch_parent(grace_s=0.5, leave=driver.end_at_once)
    threads = ThreadPoolExecutor(THREADS)
    for line in connection.makefile("rb"):
        request = msgspec.json.decode(line)
        if request["do"] == "leave":
            break
        if request["do"] in ("start", "join"):
            # In the main thread: Ray's processes die with the thread that started them.
            ray_serve.prepare_environment(local=request["do"] == "start")
            driver.answer(request)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        else:
            threads.submit(driver.answer, request)
    else:
        driver.end_at_once()
    threading.Timer(LEAVE_S, os._exit, (1,)).start()
    ray_serve.leave()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
