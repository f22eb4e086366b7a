import asyncio
import contextlib
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from time import monotonic
from typing import Any

import psutil
import pytest

from aviary.process.child import LINE_LIMIT_BYTES, Backoff, Child, keep_running


class Heard:
    """A child and all that it said."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.events: list[dict[str, Any]] = []
        self.child: Child

    async def line(self, wanted: str = "ready") -> None:
        await until(lambda: wanted in self.lines)


async def until(done: Callable[[], bool], within_s: float = 5.0) -> float:
    began = monotonic()
    while not done():
        assert monotonic() - began < within_s, "it did not happen in time"
        await asyncio.sleep(0.01)
    return monotonic() - began


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


Run = Callable[[str], Awaitable[Heard]]


@pytest.fixture
async def run() -> AsyncIterator[Run]:
    started: list[Heard] = []

    async def run(code: str, *, events: bool = True, env: dict[str, str] | None = None) -> Heard:
        heard = Heard()
        heard.child = await Child.spawn(
            [sys.executable, "-u", "-c", textwrap.dedent(code)],
            env={**os.environ, **(env or {})},
            on_line=heard.lines.append,
            on_event=heard.events.append if events else None,
        )
        started.append(heard)
        return heard

    yield run
    for heard in started:
        heard.child.kill()
        await heard.child.wait()


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("pass", 0),
        ("raise SystemExit(7)", 7),
        ("import os; os.kill(os.getpid(), 9)", -9),
        ("import os; os.kill(os.getpid(), 15)", -15),
    ],
)
async def test_exit_status(run: Run, code: str, status: int) -> None:
    heard = await run(code)
    assert heard.child.returncode is None
    assert await heard.child.wait() == status == heard.child.returncode
    assert await heard.child.wait() == status
    assert await heard.child.stop(1) == status


async def test_a_program_that_is_not_there() -> None:
    with pytest.raises(OSError):
        await Child.spawn(["/no/such/thing"], env={}, on_line=print, on_event=print)
    before = psutil.Process().num_fds()
    for _ in range(5):
        with pytest.raises(OSError):
            await Child.spawn(["/no/such/thing"], env={}, on_line=print, on_event=print)
    assert psutil.Process().num_fds() <= before + 1


async def test_lines_of_both_outputs(run: Run) -> None:
    heard = await run(
        """
        import os, sys
        print("one")
        print("two", file=sys.stderr)
        os.write(1, b"\\xff\\xfe caf\\xc3\\xa9\\r\\n")
        os.write(1, b"no end")
        """
    )
    await heard.child.wait()
    assert heard.lines == ["one", "two", "\ufffd\ufffd café", "no end"]


async def test_very_long_lines_cost_little_and_stop_nothing(run: Run) -> None:
    heard = await run(
        """
        import sys
        sys.stdout.write("x" * 50_000_000 + "\\n")
        print("after")
        """
    )
    async with asyncio.timeout(20):
        await heard.child.wait()
    assert heard.lines[-1] == "after"
    assert sum(map(len, heard.lines)) < 4 * LINE_LIMIT_BYTES


async def test_all_output_is_read_before_the_end(run: Run) -> None:
    heard = await run("for number in range(20000): print(number)")
    await heard.child.wait()
    assert heard.lines == [str(number) for number in range(20000)]


REPORT = "from aviary.process.lifeline import Reporter; reporter = Reporter()\n"


async def test_events(run: Run) -> None:
    heard = await run(
        REPORT + "for n in range(3): reporter.send(event='state', n=n, text='é' * 50000 * n)"
    )
    await heard.child.wait()
    assert [event["n"] for event in heard.events] == [0, 1, 2]
    assert heard.events[2]["text"] == "é" * 100_000


async def test_without_a_listener_reports_go_nowhere(run: Run) -> None:
    heard = await run(REPORT + "reporter.send(event='x')\nprint('ready')", events=False)  # type: ignore[call-arg]
    assert await heard.child.wait() == 0
    assert heard.lines == ["ready"]


async def test_broken_reports_are_skipped(run: Run) -> None:
    """A child that is killed in the middle of a report leaves half a line."""
    heard = await run(
        """
        import os
        fd = int(os.environ["AVIARY_REPORT_FD"])
        os.write(fd, b'not json\\n[1]\\n\\n{"event": "good"}\\n')
        os.write(fd, b"x" * 3_000_000 + b"\\n")
        os.write(fd, b'{"event": "late"}\\n{"event": "ha')
        """
    )
    assert await heard.child.wait() == 0
    assert heard.events == [{"event": "good"}, {"event": "late"}]
    for reader in heard.child._readers:
        assert reader.exception() is None


async def test_a_grandchild_does_not_get_the_report_pipe(run: Run) -> None:
    """Else the pipe would stay open for as long as it lives."""
    heard = await run(
        REPORT
        + """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdin=subprocess.DEVNULL,
                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
                 close_fds=False)
reporter.send(event="done")
"""
    )
    began = monotonic()
    await heard.child.wait()
    assert monotonic() - began < 5
    assert heard.events == [{"event": "done"}]
    for process in psutil.process_iter(["cmdline", "ppid"]):
        command = process.info["cmdline"] or []  # a zombie has none
        if command[-1:] == ["import time; time.sleep(60)"]:
            process.kill()


async def test_stop_asks_first(run: Run) -> None:
    heard = await run(
        """
        import signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: (print("bye"), sys.exit(5)))
        print("ready")
        time.sleep(60)
        """
    )
    await heard.line()
    assert await heard.child.stop(10) == 5
    assert heard.lines == ["ready", "bye"]


DEAF_FAMILY = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
grandchild = subprocess.Popen([sys.executable, "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"])
print(grandchild.pid)
print("ready")
time.sleep(60)
"""


async def test_stop_kills_the_whole_group_in_the_end(run: Run) -> None:
    heard = await run(DEAF_FAMILY)
    await heard.line()
    grandchild = int(heard.lines[0])
    assert alive(grandchild)
    began = monotonic()
    assert await heard.child.stop(0.3) == -signal.SIGKILL
    assert 0.3 <= monotonic() - began < 3
    await until(lambda: not alive(grandchild), 1)


async def test_a_child_that_ends_takes_its_children_along(run: Run) -> None:
    heard = await run(DEAF_FAMILY.replace("time.sleep(60)\n", "time.sleep(0.1)\n"))
    assert await heard.child.wait() == 0
    await until(lambda: not alive(int(heard.lines[0])), 1)


async def test_kill(run: Run) -> None:
    heard = await run(DEAF_FAMILY)
    await heard.line()
    heard.child.kill()
    assert await heard.child.wait() == -signal.SIGKILL
    await until(lambda: not alive(int(heard.lines[0])), 1)
    heard.child.kill()  # nobody there any more: nothing happens


LIFE = "from aviary.process.lifeline import watch_parent; watch_parent()\n"


@pytest.mark.parametrize("grandchild", ["plain", "life line"])
async def test_nothing_outlives_a_killed_parent(run: Run, grandchild: str) -> None:
    """Parent, child, grandchild; the parent gets no chance to clear up."""
    inner = LIFE if grandchild == "life line" else ""
    child = (
        LIFE
        + f"""
import asyncio, os, sys, subprocess, time
code = {inner!r} + "import time; time.sleep(60)"
if {grandchild == "plain"}:
    pid = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.DEVNULL).pid
    print(os.getpid(), pid, flush=True)
    time.sleep(60)
from aviary.process.child import Child
async def main():
    child = await Child.spawn([sys.executable, "-c", code], env=dict(os.environ), on_line=print)
    await asyncio.sleep(0.5)
    print(os.getpid(), child.pid, flush=True)
    await child.wait()
asyncio.run(main())
"""
    )
    heard = await run(
        f"""
        import asyncio, os, sys
        from aviary.process.child import Child
        async def main():
            child = await Child.spawn([sys.executable, "-c", {child!r}], env=dict(os.environ),
                                      on_line=print)
            await child.wait()
        asyncio.run(main())
        """
    )
    await until(lambda: bool(heard.lines), 10)
    pids = [int(pid) for pid in heard.lines[0].split()]
    assert all(alive(pid) for pid in pids)
    os.kill(heard.child.pid, signal.SIGKILL)
    with contextlib.suppress(AssertionError):
        await until(lambda: not any(alive(pid) for pid in pids), 2)
    left = [pid for pid in pids if alive(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


async def test_a_child_deaf_to_sigterm_goes_with_its_parent_too(run: Run) -> None:
    child = (
        "import os, signal, time\n"
        "from aviary.process.lifeline import watch_parent\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "watch_parent(grace_s=0.3)\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(60)\n"
    )
    heard = await run(
        f"""
        import asyncio, os, sys
        from aviary.process.child import Child
        async def main():
            child = await Child.spawn([sys.executable, "-c", {child!r}], env=dict(os.environ),
                                      on_line=print)
            await child.wait()
        asyncio.run(main())
        """
    )
    await until(lambda: bool(heard.lines), 10)
    pid = int(heard.lines[0])
    os.kill(heard.child.pid, signal.SIGKILL)
    await until(lambda: not alive(pid), 2)


async def test_keep_running_replaces_what_died(run: Run) -> None:
    children: list[Child] = []
    exits: list[tuple[int, float]] = []

    async def spawn() -> Child:
        return (await run("import time; print('ready'); time.sleep(60)")).child

    keeper = asyncio.create_task(
        keep_running(
            spawn,
            backoff=Backoff(0.2, 1, healthy_s=100),
            on_start=children.append,
            on_exit=lambda code, delay_s: exits.append((code, delay_s)),
        )
    )
    for count in (1, 2, 3):
        await until(lambda count=count: len(children) == count)
        if count < 3:
            os.kill(children[-1].pid, signal.SIGKILL)
    assert exits == [(-9, 0.0), (-9, 0.2)]
    assert [alive(child.pid) for child in children] == [False, False, True]
    keeper.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeper
    assert alive(children[-1].pid)  # stopping it is the caller's
