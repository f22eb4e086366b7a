"""What an instance takes of the machine: its home, its listening socket, its runtime folder."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import filelock

from aviary.core.errors import StartFailed

PREFIX = "aviary-run-"
SOCKET_PATH_LIMIT_BYTES = 100


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
    listener.set_inheritable(True)
    with listener:
        yield listener


def url_of(host: str, port: int) -> str:
    """Where people reach what listens there."""
    shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # noqa: S104
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


@contextlib.contextmanager
def runtime_folder(parent: Path) -> Iterator[Path]:
    """A private folder for sockets and metric files; those of dead instances are swept away."""
    parent.mkdir(parents=True, exist_ok=True)
    for old in parent.glob(f"{PREFIX}*"):
        lock = filelock.FileLock(old / "lock")
        with contextlib.suppress(OSError, filelock.Timeout):
            lock.acquire(timeout=0)
            shutil.rmtree(old, ignore_errors=True)
            lock.release()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    if len(str(folder / "aviary-xxxxxxxx" / "engine.sock").encode()) > SOCKET_PATH_LIMIT_BYTES:
        folder.rmdir()
        raise StartFailed(
            f"The path {parent} is too long for Unix sockets.",
            hint="Set AVIARY_RUNTIME to a short one such as /tmp.",
        )
    lock = filelock.FileLock(folder / "lock")
    lock.acquire()
    try:
        yield folder
    finally:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)
