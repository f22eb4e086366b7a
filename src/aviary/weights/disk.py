"""The disk: its errors in words, free space, and files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aviary.core.errors import WeightsError
from aviary.weights.meter import Meter, format_bytes

CHUNK = 1 << 20
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_NO_FOLDER = frozenset({errno.ENOTDIR, errno.EEXIST})


class DiskError(WeightsError):
    """This machine's disk is at fault, so another address cannot help."""


class DiskFull(DiskError):
    """There is not enough room for the file."""


@contextlib.contextmanager
def disk_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn every `OSError` inside into a `DiskError` that says what to do.

    Args:
        path: The file or folder at work.
        doing: What was going on, for example `writing`.

    Raises:
        DiskError: in place of the `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise explain(error, path, doing) from error


def explain(error: OSError, path: Path, doing: str) -> DiskError:
    """The `DiskError` for an `OSError`."""
    where = error.filename if isinstance(error.filename, str) else str(path)
    cause = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _FULL:
        return disk_full(path, f"{doing} {where}: {cause}")
    if error.errno in _DENIED:
        return DiskError(
            f"No permission: {doing} {where}: {cause}.",
            hint="Let this user read and write there, or set AVIARY_CACHE to another folder.",
        )
    if error.errno in _NO_FOLDER:
        return DiskError(
            f"{doing} {where}: {cause}; a folder is needed.",
            hint="Move the file that is in the way, or set AVIARY_CACHE to another folder.",
        )
    return DiskError(f"{doing} {where}: {cause}.")


def disk_full(path: Path, detail: str) -> DiskFull:
    """The error for a disk without room, naming the disk's folder and what is free."""
    free = free_bytes(path)
    left = "" if free is None else f" ({format_bytes(free)} free)"
    return DiskFull(
        f"The disk is full: {detail}{left}.",
        hint="Free some space, or set AVIARY_CACHE to a folder on a larger disk.",
    )


def free_bytes(path: Path) -> int | None:
    """Bytes free for this user on the disk of the path, or of its nearest parent that exists."""
    for folder in (path, *path.parents):
        with contextlib.suppress(OSError):
            return shutil.disk_usage(folder).free
    return None


def require_space(path: Path, needed: int, name: str) -> None:
    """Refuse at once what cannot fit.

    Raises:
        DiskFull: when `needed` more bytes do not fit on the disk of `path`.
    """
    free = free_bytes(path)
    if free is not None and needed > free:
        raise disk_full(path, f"{name} needs {format_bytes(needed)} more in {path.parent}")


def size_of(path: Path) -> int:
    """The file's size, 0 when there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def copy_stream(reader: Any, writer: Any, meter: Meter, hasher: Any = None) -> int:
    """Copy all bytes from one binary stream to another; returns how many."""
    done = 0
    while chunk := reader.read(CHUNK):
        writer.write(chunk)
        if hasher is not None:
            hasher.update(chunk)
        done += len(chunk)
        meter.add(len(chunk))
    return done


def sync(path: Path) -> None:
    """Have the file's or folder's content on the disk before anything else happens."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write a small JSON file that is there whole or not at all."""
    with disk_errors(path, "writing"):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(data, file)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)  # noqa: PTH101
            os.replace(temporary, path)  # noqa: PTH105
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108
            raise


def read_json(path: Path) -> dict[str, Any] | None:
    """What `write_json` wrote; `None` when it is not there or not readable."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None
