"""The control process' side of the Ray driver: start it, ask it, end it and all that came of it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import os
import secrets
import shutil
import socket
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import msgspec
import psutil

from aviary.core.errors import AviaryError, StartFailed
from aviary.process.child import Child
from aviary.process.environment import inherited

SOCKET_FD_ENV = "AVIARY_RAY_DRIVER_FD"
REPLY_LIMIT_BYTES = 64 * 1024 * 1024
ASK_S = 15.0
START_S = 60.0
LEAVE_S = 9.0
CLEAR_S = 0.5
LONGEST_SOCKET = "session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
"""What Ray puts into its folder."""
SOCKET_PATH_LIMIT_BYTES = 107


class RayLost(AviaryError):
    """The driver ended, did not answer, or Ray refused; what Ray said is in the message."""

    code = "ray_lost"
    who = "ray"


class Session:
    """One connection to one Ray, through a driver process of its own.

    Args:
        folder: For the files of a Ray started here; made by `start`, removed by `stop`.
        address: The cluster to join; `None` starts one.
        outlast: Whether applications stay in a joined cluster when the control process is killed.
        on_line: Called with what the driver prints.
    """

    def __init__(
        self,
        *,
        folder: Path,
        address: str | None,
        on_line: Callable[[str], None],
        outlast: bool = False,
    ) -> None:
        self._address = address
        self._outlast = outlast
        self._on_line = on_line
        self._folder = folder
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._child: Child | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self.lost = asyncio.Event()
        self.logs = ""
        self.node = ""

    async def start(self) -> None:
        """Start the driver and with it Ray, or join one.

        Raises:
            StartFailed: the folder cannot be made.
            RayLost: Ray did not start.
        """
        try:
            await self._start()
        except BaseException:
            self.lost.set()  # whatever the cause: it is of no use any more
            raise

    async def _start(self) -> None:
        if self._address is None:
            self._make_folder()
        ours, theirs = socket.socketpair()
        environment = {**inherited(), SOCKET_FD_ENV: str(theirs.fileno()), "PYTHONUNBUFFERED": "1"}
        environment.pop("PROMETHEUS_MULTIPROC_DIR", None)
        if self._address is None:
            # A Ray of our own answers to nobody else; nothing of it is kept in the home folder.
            environment.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
            environment.pop("RAY_ADDRESS", None)
        try:
            with theirs:
                self._child = await Child.spawn(
                    [sys.executable, "-m", "aviary.backends.ray_driver"],
                    env=environment,
                    on_line=self._on_line,
                    pass_fds=[theirs.fileno()],
                )
            reader, self._writer = await asyncio.open_connection(sock=ours, limit=REPLY_LIMIT_BYTES)
        except BaseException:
            ours.close()
            raise
        self._reading = asyncio.create_task(self._read(reader))
        if self._address is None:
            place = await self.ask("start", START_S, temp_folder=str(self._folder))
        else:
            place = await self.ask("join", START_S, address=self._address, outlast=self._outlast)
        self.logs, self.node = place["logs"], place["node"]

    def _make_folder(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        try:
            self._folder.mkdir(mode=0o700)
        except OSError as error:
            raise StartFailed(f"Cannot make {self._folder} for Ray: {error.strerror}.") from error

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                reply = msgspec.json.decode(line)
                waiting = self._waiting.pop(reply["id"], None)
                if waiting is None or waiting.done():
                    continue
                if "error" in reply:
                    waiting.set_exception(RayLost(f"Ray says: {reply['error']}"))
                else:
                    waiting.set_result(reply["result"])
        except (OSError, ValueError, msgspec.DecodeError) as error:
            self._on_line(f"the driver's answer cannot be read: {error}")
        finally:
            self.lost.set()
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(RayLost("The Ray driver has ended."))
            self._waiting.clear()

    async def ask(self, what: str, timeout_s: float = ASK_S, **given: Any) -> Any:
        """Have the driver do something.

        Raises:
            RayLost: it could not.
        """
        if self._writer is None or self.lost.is_set():
            raise RayLost("The Ray driver has ended.")
        number = next(self._numbers)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        request = {"id": number, "do": what, "with": given}
        self._writer.write(msgspec.json.encode(request) + b"\n")
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            raise RayLost(f"Ray did not {what} within {timeout_s:g} s.") from None
        finally:
            self._waiting.pop(number, None)

    async def clear(self, owner: str, within_s: float, but: Collection[str] = ()) -> None:
        """Delete the owner's applications from the cluster, and wait a while until they are gone.

        Args:
            owner: Part of their names.
            within_s: How long to wait; with 0 this returns once Ray was told.
            but: Names of those that stay.

        Raises:
            RayLost: Ray could not be told.
        """
        deadline = asyncio.get_running_loop().time() + within_s
        while True:
            names = [name for name in await self.ask("look", owner=owner) if name not in but]
            if not names:
                return
            await self.ask("delete", names=names)
            if asyncio.get_running_loop().time() >= deadline:
                return
            await asyncio.sleep(CLEAR_S)

    async def stop(self) -> None:
        """End the driver, every process it left, and the session's files. May be called twice."""
        if self._writer is not None:
            self._writer.write(b'{"do": "leave"}\n')
            self._writer.close()
        if self._child is not None:
            left = await asyncio.to_thread(_members, self._child.pid)
            if not self.logs:
                self._child.kill()  # Ray has not started: nothing to leave in good order
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LEAVE_S):
                    await self._child.wait()
            if self._child.returncode is None:
                self._child.kill()
                await self._child.wait()
            left |= await asyncio.to_thread(_members, self._child.pid)
            await asyncio.to_thread(_end, left)
        if self._reading is not None:
            await asyncio.wait([self._reading])
        if self._address is None:
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)


def owner_of(home: Path) -> str:
    """Marks what belongs to the Aviary with this home; there runs one at a time."""
    return hashlib.sha256(f"{os.uname().nodename}:{home}".encode()).hexdigest()[:8]


def short_folder(runtime: Path, owner: str) -> Path:
    """Where Ray's files can be: in the runtime folder, unless sockets there had too long a path.

    The other place is the owner's alone, so that the next start finds what a killed one left.
    """
    inside = runtime / "ray"
    if len(os.fsencode(inside / LONGEST_SOCKET)) <= SOCKET_PATH_LIMIT_BYTES:
        return inside
    return Path("/tmp") / f"aviary-ray-{owner}"  # noqa: S108


def _members(session: int) -> set[psutil.Process]:
    """The processes of a Unix session: workers have groups of their own, but never leave it."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getsid(process.pid) == session and process.pid != session:
                found.add(process)
    return found


def _end(processes: set[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()  # checks that the pid is still the same process
    psutil.wait_procs(list(processes), timeout=2.0)
