import asyncio
import errno
from collections.abc import Callable

import pytest

from aviary.process.child import Backoff, Child, keep_running


class Ended(Child):
    """A child that has ended already."""

    def __init__(self) -> None: ...

    async def wait(self) -> int:
        return 3


async def _run(spawn_errors: int, on_exit: Callable[[int | None, float], None]) -> None:
    tries = 0

    async def spawn() -> Child:
        nonlocal tries
        tries += 1
        if tries <= spawn_errors:
            raise OSError(errno.EMFILE, "too many open files")
        return Ended()

    await keep_running(
        spawn, backoff=Backoff(0.01, 0.02), on_start=lambda child: None, on_exit=on_exit
    )


async def test_what_cannot_be_started_is_tried_again() -> None:
    exits: list[tuple[int | None, float]] = []
    running = asyncio.create_task(_run(2, lambda *exit_: exits.append(exit_)))
    async with asyncio.timeout(5):
        while len(exits) < 3:
            await asyncio.sleep(0.005)
    assert exits[:3] == [(None, 0.0), (None, 0.01), (3, 0.02)]
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_an_error_while_clearing_up_ends_nothing() -> None:
    exits = 0

    def on_exit(code: int | None, delay_s: float) -> None:
        nonlocal exits
        exits += 1
        raise RuntimeError("metrics folder is gone")

    running = asyncio.create_task(_run(1, on_exit))
    async with asyncio.timeout(5):
        while exits < 3:
            await asyncio.sleep(0.005)
    assert not running.done()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
