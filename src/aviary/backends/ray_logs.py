"""Log lines of Ray replicas on this machine, read from the files that Ray writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from aviary.backends.logbook import Logbook

PIECE_BYTES = 256 * 1024
MARKS = (b":job_id:", b":actor_name:", b":task_name:")
"""Lines that Ray writes for its own log reader."""


class LogReader:
    """Follows the growing files of replicas. Blocking: call in a thread."""

    def __init__(self) -> None:
        self._files: dict[str, list[Path]] = {}
        self._at: dict[Path, int] = {}
        self._rest: dict[Path, bytes] = {}

    def read(self, logs: Path, node: str, replica: Mapping[str, Any]) -> list[str]:
        """The lines a replica's process wrote since the last call.

        Args:
            logs: Ray's log folder on this machine.
            node: Ray's id of this machine; files of other nodes cannot be read from here.
            replica: The replica, as the driver describes it.
        """
        key = replica["id"]
        if not replica["pid"] or not replica["worker"]:
            return []
        if replica["node"] != node:
            if key in self._files:
                return []
            self._files[key] = []
            return [f"runs on node {replica['address']}; its log is there: {replica['log']}"]
        if not self._files.get(key):
            self._files[key] = _files_of(logs, replica)
        lines: list[str] = []
        for file in self._files[key]:
            try:
                lines.extend(self._read_file(file))
            except OSError:  # gone, or not there yet
                continue
        return lines

    def forget_all_but(self, replicas: Collection[str]) -> None:
        """Drop what is known of replicas that are gone.

        Args:
            replicas: Ids of those that are there.
        """
        for key in [key for key in self._files if key not in replicas]:
            for file in self._files.pop(key):
                self._at.pop(file, None)
                self._rest.pop(file, None)

    def _read_file(self, file: Path) -> list[str]:
        at = self._at.get(file, 0)
        size = file.stat().st_size
        if size < at:  # rotated
            at = 0
            self._rest.pop(file, None)
        if size == at:
            return []
        with file.open("rb") as opened:
            opened.seek(at)
            data = opened.read(PIECE_BYTES)
        self._at[file] = at + len(data)
        *whole, rest = (self._rest.get(file, b"") + data).split(b"\n")
        self._rest[file] = rest[-PIECE_BYTES:]
        return [line.decode(errors="replace").rstrip() for line in whole if _is_text(line)]


def _is_text(line: bytes) -> bool:
    return bool(line.strip()) and not line.startswith(MARKS)


def _files_of(logs: Path, replica: Mapping[str, Any]) -> list[Path]:
    """Where a replica's process writes what it prints; Serve's warnings are among it."""
    return sorted(logs.glob(f"worker-{replica['worker']}-*-{replica['pid']}.*"))


class Books:
    """The logs of all models, filled from the files of their replicas.

    Args:
        folder: Where they are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._books: dict[str, Logbook] = {}
        self._reader = LogReader()

    def open(self, name: str) -> Logbook:
        """A model's log, made when there is none."""
        book = self._books.get(name)
        if book is None:
            book = self._books[name] = Logbook(self._folder, name)
        return book

    def drop(self, name: str) -> None:
        """Close a model's log; its file stays."""
        book = self._books.pop(name, None)
        if book is not None:
            book.close()

    def close(self) -> None:
        """Close all."""
        for name in list(self._books):
            self.drop(name)

    async def read(
        self, logs: str, node: str, there: Sequence[tuple[str, Mapping[str, Any]]]
    ) -> None:
        """Take what replicas wrote since the last call.

        Args:
            logs: Ray's log folder on this machine.
            node: Ray's id of this machine.
            there: Models with their replicas, as the driver describes them.
        """
        self._reader.forget_all_but({replica["id"] for _, replica in there})
        for model, replica in there:
            lines = await asyncio.to_thread(self._reader.read, Path(logs), node, replica)
            book = self._books.get(model)
            if book is None:
                continue  # removed in the meantime
            for line in lines:
                book.add(replica["id"], line)

    def last(self, model: str, lines: int) -> list[str]:
        """The last lines of a model's log."""
        book = self._books.get(model)
        return book.feed.last(lines) if book is not None else []

    async def follow(self, model: str, lines: int) -> AsyncGenerator[str, None]:
        """The last lines of a model's log, then each new one."""
        book = self._books.get(model)
        if book is None:
            return
        async for line in book.feed.follow(lines):
            yield line
