"""The parent's side: spawn a child that cannot be left behind, hear it, end it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from aviary.process.lifeline import REPORT_FD_ENV

LINE_LIMIT_BYTES = 64 * 1024

OnLine = Callable[[str], None]
OnEvent = Callable[[dict[str, Any]], None]


class Child:
    """A child process in a process group of its own.

    Its standard input is the life line (see `aviary.process.lifeline`); what it prints goes to
    `on_line` line by line, what it reports to `on_event`.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, readers: list[asyncio.Task[None]]
    ) -> None:
        self._process = process
        self._readers = readers

    @classmethod
    async def spawn(
        cls,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        on_line: OnLine,
        on_event: OnEvent | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Child:
        """Start a child.

        Raises:
            OSError: when the program cannot be started.
        """
        report_read = report_write = -1
        environment = dict(env)
        fds = list(pass_fds)
        if on_event is not None:
            report_read, report_write = os.pipe()
            environment[REPORT_FD_ENV] = str(report_write)
            fds.append(report_write)
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=environment,
                pass_fds=fds,
                start_new_session=True,
                limit=LINE_LIMIT_BYTES,
            )
        except BaseException:
            if report_read >= 0:
                os.close(report_read)
            raise
        finally:
            if report_write >= 0:
                os.close(report_write)
        readers = [asyncio.create_task(_read_lines(process.stdout, on_line))]
        if on_event is not None:
            readers.append(asyncio.create_task(_read_events(report_read, on_event)))
        return cls(process, readers)

    @property
    def pid(self) -> int:
        """Process id; also the id of the process group."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status (negative: the signal that ended it); `None` while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait until the process has ended and all it printed has been read; then clear up.

        Whatever the child left in its process group is killed.
        """
        code = await self._process.wait()
        self._kill_group(signal.SIGKILL)
        _, pending = await asyncio.wait(self._readers, timeout=1.0)
        for reader in pending:
            reader.cancel()
        if self._process.stdin is not None:
            self._process.stdin.close()
        return code

    async def stop(self, grace_s: float) -> int:
        """Ask the process to end; kill its group when it has not within `grace_s` seconds."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(grace_s):
                    await self._process.wait()
            except TimeoutError:
                self._kill_group(signal.SIGKILL)
        return await self.wait()

    def kill(self) -> None:
        """Kill the whole process group at once."""
        self._kill_group(signal.SIGKILL)

    def _kill_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


async def _read_lines(stream: asyncio.StreamReader | None, on_line: OnLine) -> None:
    while stream is not None:
        try:
            line = await stream.readline()
        except ValueError:  # a line longer than the limit: its beginning is dropped
            continue
        if not line:
            return
        on_line(line.decode(errors="replace").rstrip())


async def _read_events(fd: int, on_event: OnEvent) -> None:
    reader = asyncio.StreamReader(limit=1024 * 1024)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", buffering=0)
    )
    try:
        while line := await reader.readline():
            event = msgspec.json.decode(line)
            if isinstance(event, dict):
                on_event(event)
    finally:
        transport.close()


class Backoff:
    """How long to wait before the next restart: none at first, then doubling, then bounded.

    A process that lived for `healthy_s` seconds starts the series anew.
    """

    def __init__(self, first_s: float = 0.5, most_s: float = 30.0, healthy_s: float = 30.0) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._healthy_s = healthy_s
        self.failures = 0

    def next_delay_s(self, lived_s: float) -> float:
        """Seconds to wait, given how long the process that just ended had lived."""
        if lived_s >= self._healthy_s:
            self.failures = 0
        self.failures += 1
        if self.failures == 1:
            return 0.0
        return min(self._most_s, self._first_s * 2.0 ** (self.failures - 2))


async def keep_running(
    spawn: Callable[[], Awaitable[Child]],
    *,
    backoff: Backoff,
    on_start: Callable[[Child], None],
    on_exit: Callable[[int, float], None],
) -> None:
    """Run a child and replace it whenever it ends, until cancelled; then the caller stops it.

    Args:
        spawn: Starts one child.
        backoff: When to try again.
        on_start: Called with each new child.
        on_exit: Called with exit status and the seconds until the next try.
    """
    loop = asyncio.get_running_loop()
    while True:
        started = loop.time()
        child = await spawn()
        on_start(child)
        code = await child.wait()
        delay_s = backoff.next_delay_s(loop.time() - started)
        on_exit(code, delay_s)
        await asyncio.sleep(delay_s)
