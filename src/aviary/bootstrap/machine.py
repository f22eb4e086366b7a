"""What an instance takes of the machine: its home, its listening socket, its runtime folder."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import filelock

from aviary.core.errors import StartFailed

PREFIX = "aviary-run-"
SOCKET_PATH_LIMIT_BYTES = 100
NEW_PREFIX = "aviary-new-"
"""As long as `PREFIX`: of a folder that is not locked yet."""
NEW_S = 60.0
"""A folder that is still new after this time belongs to nobody."""
MOST_FILES = 2**20


@contextlib.contextmanager
def only_one(home: Path) -> Iterator[None]:
    """One Aviary a home: two would write one state."""
    lock = filelock.FileLock(home / "instance.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise StartFailed(
            f"An Aviary runs already with its state in {home}.",
            hint="Stop it, or set AVIARY_HOME to another folder.",
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def listen(host: str, port: int) -> Iterator[socket.socket]:
    """The gateway's listening socket; workers inherit it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=4096)
    except OSError as error:
        raise StartFailed(
            f"Cannot listen on {host}:{port}: {error.strerror or error}.",
            hint="Choose another with --port; 0 takes a free one.",
        ) from error
    with listener:
        yield listener


def memory_total_bytes() -> int:
    """The machine's memory, or what its container may use, if that is less."""
    import psutil

    total: int = psutil.virtual_memory().total
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            total = min(total, int(Path(limit).read_text()))
    return total


def url_of(host: str, port: int) -> str:
    """Where people reach what listens there."""
    shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # noqa: S104
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def raise_file_limit() -> None:
    """Allow this process and its children as many open files as the system lets them have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _sweep(parent: Path) -> None:
    """Remove what dead instances of this user left; a living one holds the lock of its folder."""
    for old in parent.glob(f"{PREFIX}*"):
        if _age_s(old) is None:
            continue
        lock = filelock.FileLock(old / "lock")
        with contextlib.suppress(OSError, filelock.Timeout):
            lock.acquire(timeout=0)
            shutil.rmtree(old, ignore_errors=True)
            lock.release()
    for old in parent.glob(f"{NEW_PREFIX}*"):
        age_s = _age_s(old)
        if age_s is not None and age_s > NEW_S:
            shutil.rmtree(old, ignore_errors=True)


def _age_s(folder: Path) -> float | None:
    """Seconds since its last change; `None` when it is no folder of this user."""
    try:
        about = folder.lstat()
    except OSError:
        return None
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid():
        return None
    return time.time() - about.st_mtime


@contextlib.contextmanager
def runtime_folder(parent: Path) -> Iterator[Path]:
    """A private folder for sockets and metric files; those of dead instances are swept away."""
    parent.mkdir(parents=True, exist_ok=True)
    _sweep(parent)
    folder = Path(tempfile.mkdtemp(prefix=NEW_PREFIX, dir=parent))
    if len(str(folder / "aviary-xxxxxxxx" / "engine.sock").encode()) > SOCKET_PATH_LIMIT_BYTES:
        folder.rmdir()
        raise StartFailed(
            f"The path {parent} is too long for Unix sockets.",
            hint="Set AVIARY_RUNTIME to a short one such as /tmp.",
        )
    lock = filelock.FileLock(folder / "lock")
    lock.acquire()
    # Only now others may look whether it is still in use: no start can sweep away another's folder.
    folder = folder.rename(parent / folder.name.replace(NEW_PREFIX, PREFIX, 1))
    try:
        yield folder
    finally:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)
