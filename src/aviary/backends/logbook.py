"""The last log lines of each model, in memory and in files that cannot grow without bound."""

from __future__ import annotations

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

from aviary.fleet.events import Feed

FILE_BYTES = 4 * 1024 * 1024
LINES = 2000


class _QuietHandler(RotatingFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Lose the line: there is nowhere left to say so."""


class Logbook:
    """One model's log: a feed of lines, copied to `<folder>/<model>.log`.

    A full disk loses lines in the file, never a replica: the feed goes on.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.feed: Feed[str] = Feed(LINES)
        folder.mkdir(parents=True, exist_ok=True)
        self._file = _QuietHandler(
            folder / f"{name}.log",
            maxBytes=FILE_BYTES,
            backupCount=1,
            encoding="utf-8",
            errors="replace",
            delay=True,
        )
        self._file.setFormatter(logging.Formatter("%(message)s"))

    def add(self, replica: str, line: str) -> None:
        """Append a line that a replica printed."""
        text = f"[{replica.rpartition('/')[2]}] {line}"
        self.feed.add(text)
        self._file.handle(logging.makeLogRecord({"msg": text}))

    def close(self) -> None:
        """Close the file."""
        self._file.close()
