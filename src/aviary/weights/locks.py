"""Locks between processes, with a word to whoever waits."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from aviary.weights.disk import disk_errors

_TELL_EVERY_S = 0.5


@contextlib.contextmanager
def held(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock file; the operating system frees it when the process dies.

    Args:
        path: The lock file; made when it is not there.
        waiting: Called twice a second for as long as another process or thread holds it.

    Raises:
        DiskError: when the lock file cannot be made.
    """
    with disk_errors(path, "locking"):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(path), is_singleton=False, thread_local=False)
        while True:
            try:
                lock.acquire(timeout=_TELL_EVERY_S)
            except Timeout:
                waiting()
            else:
                break
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def held_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock file if nobody else does; yields whether it is held. Never raises."""
    lock = FileLock(str(path), is_singleton=False, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
