"""The parent's side: spawn a child that cannot be left behind, hear it, end it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
import structlog

from aviary.process.lifeline import REPORT_FD_ENV

log = structlog.get_logger()

LINE_LIMIT_BYTES = 64 * 1024
EVENT_LIMIT_BYTES = 1024 * 1024
MOST_DOUBLINGS = 32

OnLine = Callable[[str], None]
OnEvent = Callable[[dict[str, Any]], None]


class Child:
    """A child process in a process group of its own.

    Its standard input is the life line (see `aviary.process.lifeline`); what it prints goes to
    `on_line` line by line, what it reports to `on_event`.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        life_line: io.FileIO,
        readers: list[asyncio.Task[None]],
    ) -> None:
        self._process = process
        self._life_line = life_line
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
        # Pipes of our own: asyncio's wait() would wait for the end of its pipes, too, and what a
        # dead child leaves running holds those open.
        life_read, life_write = _pipe()
        out_read, out_write = _pipe()
        report_read, report_write = _pipe() if on_event is not None else (None, None)
        ours = [pipe for pipe in (life_write, out_read, report_read) if pipe is not None]
        theirs = [pipe for pipe in (life_read, out_write, report_write) if pipe is not None]
        environment = dict(env)
        fds = list(pass_fds)
        if report_write is not None:
            environment[REPORT_FD_ENV] = str(report_write.fileno())
            fds.append(report_write.fileno())
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=life_read,
                stdout=out_write,
                stderr=asyncio.subprocess.STDOUT,
                env=environment,
                pass_fds=fds,
                start_new_session=True,
            )
        except BaseException:
            for pipe in ours:
                pipe.close()
            raise
        finally:
            for pipe in theirs:
                pipe.close()
        readers = [asyncio.create_task(_read_lines(out_read, on_line))]
        if report_read is not None and on_event is not None:
            readers.append(asyncio.create_task(_read_events(report_read, on_event)))
        return cls(process, life_write, readers)

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
        if self._life_line.closed:  # cleared up before: the group's id may be another's by now
            return code
        self._kill_group(signal.SIGKILL)
        _, pending = await asyncio.wait(self._readers, timeout=1.0)
        for reader in pending:
            reader.cancel()
        self._life_line.close()
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
        if not self._life_line.closed:
            self._kill_group(signal.SIGKILL)

    def _kill_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def _pipe() -> tuple[io.FileIO, io.FileIO]:
    read, write = os.pipe()
    return io.FileIO(read, "rb"), io.FileIO(write, "wb")


async def _lines_of(pipe: io.FileIO, limit_bytes: int) -> AsyncGenerator[bytes, None]:
    """The lines that come out of a pipe; of one longer than the limit only its end."""
    reader = asyncio.StreamReader(limit=limit_bytes)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    try:
        while True:
            try:
                line = await reader.readline()
            except ValueError:
                continue
            if not line:
                return
            yield line
    finally:
        transport.close()


async def _read_lines(pipe: io.FileIO, on_line: OnLine) -> None:
    async with contextlib.aclosing(_lines_of(pipe, LINE_LIMIT_BYTES)) as lines:
        async for line in lines:
            on_line(line.decode(errors="replace").rstrip())


async def _read_events(pipe: io.FileIO, on_event: OnEvent) -> None:
    async with contextlib.aclosing(_lines_of(pipe, EVENT_LIMIT_BYTES)) as lines:
        async for line in lines:
            try:
                event = msgspec.json.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue  # half a report: its sender was killed in the middle
            if isinstance(event, dict):
                on_event(event)


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
        doublings = min(MOST_DOUBLINGS, self.failures - 2)
        return min(self._most_s, self._first_s * 2.0**doublings)


async def keep_running(
    spawn: Callable[[], Awaitable[Child]],
    *,
    backoff: Backoff,
    on_start: Callable[[Child], None],
    on_exit: Callable[[int | None, float], None],
) -> None:
    """Run a child and replace it whenever it ends, until cancelled; then the caller stops it.

    One that cannot be started (no memory, no file descriptors) is tried again, like one that ended.

    Args:
        spawn: Starts one child.
        backoff: When to try again.
        on_start: Called with each new child.
        on_exit: Called with exit status (`None`: it could not be started) and the seconds until
            the next try. What it raises is logged.
    """
    loop = asyncio.get_running_loop()
    while True:
        started = loop.time()
        code: int | None = None
        try:
            child = await spawn()
        except OSError as error:
            log.warning("cannot start a process", cause=str(error))
        else:
            on_start(child)
            code = await child.wait()
        delay_s = backoff.next_delay_s(loop.time() - started)
        try:
            on_exit(code, delay_s)
        except Exception:
            log.exception("clearing up after a process failed")
        await asyncio.sleep(delay_s)
