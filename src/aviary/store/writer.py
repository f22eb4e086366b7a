"""Takes request records from the hot path and writes them in the background."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from aviary.core.ports import RequestRecord

_logger = logging.getLogger(__name__)

QUEUE_RECORDS: Final = 50_000
BATCH_RECORDS: Final = 500
INTERVAL_S: Final = 0.25


class ClosableLog(Protocol):
    """What the writer needs of a request log."""

    def append(self, records: Sequence[RequestRecord]) -> None:
        """Store a batch; raises `StoreError`."""

    def close(self) -> None:
        """Let go of the database."""


class LogWriter:
    """A bounded queue and a thread that empties it into a request log.

    `put` never blocks and never raises. What cannot be stored (the queue is full, the disk is full,
    the database stays locked or cannot be opened) is dropped and counted; the writer goes on and
    recovers by itself.

    Args:
        open_log: Opens the log; called in the thread, again until it succeeds, so that neither a
            slow import nor a database that is away holds up a gateway. The writer closes the log.
        queue_records: How many records may wait.
        batch_records: Most records a transaction holds.
        interval_s: Longest time in seconds a record waits while all is well.
        retry_s: Pause in seconds after a failure.
        warn_every_s: Least time in seconds between two warnings in the log.
    """

    def __init__(
        self,
        open_log: Callable[[], ClosableLog],
        *,
        queue_records: int = QUEUE_RECORDS,
        batch_records: int = BATCH_RECORDS,
        interval_s: float = INTERVAL_S,
        retry_s: float = 1.0,
        warn_every_s: float = 60.0,
    ) -> None:
        self._open_log = open_log
        self._queue: deque[RequestRecord] = deque()
        self._queue_records = queue_records
        self._batch_records = batch_records
        self._interval_s = interval_s
        self._retry_s = retry_s
        self._warn_every_s = warn_every_s
        self._refused = 0  # counted by put
        self._lost = 0  # counted by the thread
        self._discarded = 0  # counted by close
        self._written = 0
        self._failing = False
        self._warned_at = float("-inf")
        self._closing = threading.Event()
        self._deadline = float("inf")
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)
        self._thread.start()

    def put(self, record: RequestRecord) -> None:
        """Queue a record, or drop it when the queue is full; about a microsecond.

        From any thread, though with several at once the bound and the count are not exact.
        """
        queue = self._queue
        if len(queue) < self._queue_records:
            queue.append(record)
        else:
            self._refused += 1

    @property
    def dropped(self) -> int:
        """How many records were not stored, so far."""
        return self._refused + self._lost + self._discarded

    @property
    def written(self) -> int:
        """How many records were stored, so far."""
        return self._written

    @property
    def queued(self) -> int:
        """How many records wait."""
        return len(self._queue)

    def close(self, deadline_s: float = 5.0) -> None:
        """Store what waits, at most for `deadline_s` seconds; may be called twice.

        What remains then is dropped and counted; so is what `put` gets afterwards.
        """
        self._deadline = time.monotonic() + deadline_s
        self._closing.set()
        self._thread.join(deadline_s)
        self._queue_records = 0  # from here on put refuses
        remaining = self._take(len(self._queue))
        self._discarded += len(remaining)
        if remaining or self._thread.is_alive():
            _logger.warning(
                "request log: closed with %d records unwritten, %d dropped in all",
                len(remaining),
                self.dropped,
            )

    def _run(self) -> None:
        log = self._opened()
        if log is None:
            return
        try:
            while not self._closing.wait(self._retry_s if self._failing else self._interval_s):
                self._drain(log)
            while self._queue and time.monotonic() < self._deadline:
                self._write_batch(log)
        finally:
            log.close()

    def _opened(self) -> ClosableLog | None:
        """Open the log, however often it takes; `None` when closing comes first."""
        while True:
            try:
                return self._open_log()
            except Exception as error:  # nothing may end the thread
                self._failed(error)
            if self._closing.wait(self._retry_s):
                return None

    def _drain(self, log: ClosableLog) -> None:
        """Write until the queue is empty or a write fails; then the rest waits for better times."""
        while self._queue and not self._closing.is_set():
            if not self._write_batch(log):
                return

    def _write_batch(self, log: ClosableLog) -> bool:
        batch = self._take(self._batch_records)
        try:
            log.append(batch)
        except Exception as error:  # nothing may end the thread
            # Not tried again: whether a failed commit was stored is not always known.
            self._lost += len(batch)
            self._failed(error)
            return False
        self._written += len(batch)
        if self._failing:
            self._failing = False
            _logger.warning("request log: writing again, %d records dropped in all", self.dropped)
        return True

    def _take(self, records: int) -> list[RequestRecord]:
        """Remove up to so many records from the queue's front."""
        batch: list[RequestRecord] = []
        try:
            while len(batch) < records:
                batch.append(self._queue.popleft())
        except IndexError:
            pass  # close has taken the rest
        return batch

    def _failed(self, error: Exception) -> None:
        self._failing = True
        now = time.monotonic()
        if now - self._warned_at >= self._warn_every_s:
            self._warned_at = now
            _logger.warning(
                "request log: cannot write, %d records dropped so far, %d wait: %s",
                self.dropped,
                len(self._queue),
                error,
            )
